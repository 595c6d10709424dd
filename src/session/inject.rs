//! The prelude: what we say before the client's words, and the answers that prove it.
//!
//! ```text
//!  P/B/E  BEGIN ISOLATION LEVEL READ COMMITTED
//!  P/B/E  RESET name                                         one for each setting that is not this client's
//!  P      select pg_catalog.set_config($1,$2,false)
//!  B/E    name, value                                        one for each setting, the identity last
//!  P/B/E  COMMIT
//!  the client's first unit                                   in the same write; no Sync of ours anywhere
//! ```
//!
//! If any of it fails, the server skips everything up to the next Sync, so the client's unit does not run. Because the
//! values are committed in a transaction of their own, nothing the client does later brings back those before.
//!
//! # Promises
//! - The prelude is one piece, written at once, and leaves an answer owed for each of its messages.
//! - Values are bound, never spliced into SQL, but under `form = "literal"`; there they are quoted.
//! - Everything is schema-qualified: a `search_path` left behind shadows nothing.
//!
//! # Refuses
//! To be sent anywhere but at a proven `Z(I)`: inside a block its COMMIT would commit somebody's half-done work.

use bytes::{BufMut, BytesMut};

use crate::session::mutation::{self, Mutation};
use crate::session::parameters::Values;
use crate::session::pipeline::{Answer, Origin, Owed, Pipeline, Step};
use crate::session::settings::Form;
use crate::wire::write;

/// What a prelude says.
pub struct Prelude<'a> {
    /// The identity variable and its value; the empty value is nobody.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// How the identity is written.
    pub form: Form,
    /// The settings the server has.
    pub applied: &'a Values,
    /// The settings the client wants.
    pub wanted: &'a Values,
    /// Whether what sequences last gave is forgotten first.
    pub discards_sequences: bool,
}

impl Prelude<'_> {
    /// Whether there is anything to say.
    pub fn is_needed(&self) -> bool {
        self.identity.is_some() || self.discards_sequences || !self.applied.is_same(self.wanted)
    }

    /// Says it.
    pub fn write(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline) {
        let is_transaction = !mutation::is_on(Mutation::NoCommit);
        if is_transaction {
            statement(outbox, pipeline, Step::Begin, b"BEGIN ISOLATION LEVEL READ COMMITTED");
        }
        if self.discards_sequences {
            statement(outbox, pipeline, Step::Discard, b"DISCARD SEQUENCES");
        }
        if !self.applied.is_same(self.wanted) {
            for name in self.applied.to_reset(self.wanted) {
                statement(outbox, pipeline, Step::Reset, &reset(name));
            }
        }
        self.write_settings(outbox, pipeline);
        if is_transaction {
            statement(outbox, pipeline, Step::Commit, b"COMMIT");
        }
    }

    fn write_settings(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline) {
        let literal = self.form == Form::Literal;
        let bound = self.identity.filter(|_| !literal);
        let mut settings = self.applied.to_set(self.wanted).chain(bound).peekable();
        if settings.peek().is_some() {
            write::parse(outbox, b"", b"select pg_catalog.set_config($1,$2,false)", &[]);
            pipeline.push(Owed::client(Answer::Parse).by(Origin::Prelude(Step::Set)));
        }
        for (name, value) in settings {
            write::bind_text(outbox, b"", b"", &[Some(name), Some(value)]);
            write::execute(outbox, b"", 0);
            pipeline.push(Owed::client(Answer::Bind).by(Origin::Prelude(Step::Set)));
            pipeline.push(Owed::client(Answer::Execute).by(Origin::Prelude(Step::Set)));
        }
        if let Some((name, value)) = self.identity.filter(|_| literal) {
            statement(outbox, pipeline, Step::Assign, &assign(name, value));
        }
    }
}

/// Parse, Bind and Execute of a text without parameters.
fn statement(outbox: &mut BytesMut, pipeline: &mut Pipeline, step: Step, sql: &[u8]) {
    write::parse(outbox, b"", sql, &[]);
    write::bind_text(outbox, b"", b"", &[]);
    write::execute(outbox, b"", 0);
    for answer in [Answer::Parse, Answer::Bind, Answer::Execute] {
        pipeline.push(Owed::client(answer).by(Origin::Prelude(step)));
    }
}

/// `RESET name`, each part quoted.
fn reset(name: &[u8]) -> Vec<u8> {
    let mut sql = b"RESET ".to_vec();
    put_name(&mut sql, name);
    sql
}

/// `SET name = 'value'`. An identity is printable ASCII; quotes and backslashes are doubled by an escape string.
fn assign(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sql = b"SET ".to_vec();
    put_name(&mut sql, name);
    sql.put_slice(b" = E'");
    for &byte in value {
        if byte == b'\'' || byte == b'\\' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
    sql
}

fn put_name(sql: &mut Vec<u8>, name: &[u8]) {
    for (index, part) in name.split(|byte| *byte == b'.').enumerate() {
        if index > 0 {
            sql.push(b'.');
        }
        sql.push(b'"');
        for &byte in part {
            if byte == b'"' {
                sql.push(byte);
            }
            sql.push(byte);
        }
        sql.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(entries: &[(&str, &str)]) -> Values {
        entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    fn texts(prelude: &Prelude<'_>) -> (Vec<String>, String) {
        let (mut outbox, mut pipeline) = (BytesMut::new(), Pipeline::default());
        prelude.write(&mut outbox, &mut pipeline);
        let mut said = Vec::new();
        let mut at = 0;
        while let Some(header) = crate::wire::Header::read(&outbox[at..]).unwrap() {
            let body = header.body(&outbox[at..]).unwrap();
            let text = String::from_utf8_lossy(body).replace('\0', " ");
            said.push(format!("{} {}", char::from(header.tag), text.trim()));
            at += header.len;
        }
        (said, format!("{pipeline:?}"))
    }

    #[test]
    fn an_identity_is_begun_set_and_committed() {
        let (applied, wanted) = (Values::default(), Values::default());
        let prelude = Prelude {
            identity: Some((b"app.current_user_id", b"a")),
            form: Form::Bound,
            applied: &applied,
            wanted: &wanted,
            discards_sequences: false,
        };

        let (said, owed) = texts(&prelude);

        let said: Vec<_> = said.iter().filter(|line| line.starts_with('P')).collect();
        assert_eq!(
            said,
            [
                "P BEGIN ISOLATION LEVEL READ COMMITTED",
                "P select pg_catalog.set_config($1,$2,false)",
                "P COMMIT"
            ]
        );
        assert_eq!(owed, "owed: 1! 2! C! 1! 2! C! 1! 2! C!");
    }

    #[test]
    fn a_literal_cannot_end_its_quotes() {
        assert_eq!(assign(b"app.u", b"a'b\\c"), b"SET \"app\".\"u\" = E'a''b\\\\c'");
    }

    #[test]
    fn only_the_difference_is_said() {
        let (applied, wanted) = (values(&[("a", "1"), ("b", "2")]), values(&[("b", "2"), ("c.d", "3")]));
        let prelude = Prelude {
            identity: None,
            form: Form::Bound,
            applied: &applied,
            wanted: &wanted,
            discards_sequences: false,
        };

        let (said, _) = texts(&prelude);

        assert!(prelude.is_needed());
        assert!(said.contains(&"P RESET \"a\"".to_owned()));
        assert_eq!(said.iter().filter(|line| line.starts_with('B')).count(), 4);
        assert!(!Prelude { applied: &wanted, ..prelude }.is_needed());
    }
}
