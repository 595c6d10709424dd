//! The prelude: what we say before the client's words, and the answers that prove it.
//!
//! ```text
//!  P/B/E  DISCARD ALL                                        if another client's words ran here and there are no plans to keep
//!  C      nothing                                            if nothing else follows
//!  P/B/E  BEGIN ISOLATION LEVEL READ COMMITTED
//!  P/B/E  SET SESSION AUTHORIZATION DEFAULT, RESET ALL, …    if another client's words ran here and there are plans to keep
//!  P/B/E  RESET name                                         one for each setting that is not this client's
//!  P      select pg_catalog.set_config($1,$2,false)
//!  B/E    name, value                                        one for each setting, the identity's variables last
//!  P/B/E  select ident.login($1),pg_catalog.set_config($2,$3,false)      token, variable, value: only with `form = "login"`
//!  P/B/E  COMMIT
//!  the client's first unit                                   in the same write; no Sync of ours anywhere
//! ```
//!
//! If any of it fails, the server skips everything up to the next Sync, so the client's unit does not run. Because the
//! values are committed in a transaction of their own, nothing the client does later brings back those before.
//!
//! What a client leaves where no text shows it (a function in a plain SELECT can set a role, a variable, LISTEN, …) is cleaned
//! before another client's words, not after its own: that takes no round trip and no system call. DISCARD ALL is one
//! statement and the cheaper, but takes the plans; the list of its parts keeps them.
//!
//! With `trusted_sql` the server prepares BEGIN, `set_config` and COMMIT once, by names of ours, and each later prelude binds them:
//! less to parse. SQL may DEALLOCATE such a name and PREPARE something else in its place, so the promise then holds only
//! against mistakes, not against hostile SQL.
//!
//! # Promises
//! - The prelude is one piece, written at once, and leaves an answer owed for each of its messages.
//! - Values are bound, never spliced into SQL, but under `form = "literal"`; there they are quoted.
//! - Everything is schema-qualified: a `search_path` left behind shadows nothing.
//!
//! # Refuses
//! To be sent anywhere but at a proven `Z(I)`: inside a block its COMMIT would commit somebody's half-done work.

use bytes::{BufMut, BytesMut};

use crate::session::claim::Claim;
use crate::session::mutation::{self, Mutation};
use crate::session::parameters::Values;
use crate::session::pipeline::{Answer, Origin, Owed, Pipeline, Step};
use crate::session::settings::{Form, IdentitySettings, Nth};
use crate::wire::write;

/// How a server is cleaned before the client's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cleaning {
    /// With everything, its plans too.
    All,
    /// With everything but its plans.
    KeepingPlans,
    /// Not at all.
    #[default]
    None,
}

/// DISCARD ALL in parts, without the plans.
const KEEPING_PLANS: [(Step, &[u8]); 7] = [
    (Step::Assign, b"SET SESSION AUTHORIZATION DEFAULT"), // the role goes back, too
    (Step::Reset, b"RESET ALL"),
    (Step::Close, b"CLOSE ALL"),
    (Step::Unlisten, b"UNLISTEN *"),
    (Step::Set, b"SELECT pg_catalog.pg_advisory_unlock_all()"),
    (Step::Discard, b"DISCARD SEQUENCES"),
    (Step::DiscardTemporary, b"DISCARD TEMP"),
];

/// Room for a prelude and the words behind it, as they usually are: so that it is asked for once.
const USUAL: usize = 1_000;

/// What a prelude says.
pub struct Prelude<'a> {
    /// Which variables say who the user is, and how they are written.
    pub identity: &'a IdentitySettings,
    /// What the client has claimed.
    pub claim: &'a Claim,
    /// The token that says who the user is, with `form = "login"`.
    pub token: Option<&'a [u8]>,
    /// How many statements of the prelude the server has by [name](Self::named).
    pub prepared: usize,
    /// The settings the server has.
    pub applied: &'a Values,
    /// The settings the client wants.
    pub wanted: &'a Values,
    /// How the server is cleaned first; then it has no settings.
    pub cleaning: Cleaning,
    /// Whether what sequences last gave is forgotten first.
    pub discards_sequences: bool,
}

impl Prelude<'_> {
    /// Whether there is anything to say.
    pub fn is_needed(&self) -> bool {
        self.cleaning != Cleaning::None || self.has_settings()
    }

    /// Whether there is anything to say in a transaction.
    fn has_settings(&self) -> bool {
        self.identity.said().next().is_some()
            || match self.cleaning {
                Cleaning::All => !self.wanted.is_empty(),
                Cleaning::KeepingPlans => true,
                Cleaning::None => self.discards_sequences || !self.applied.is_same(self.wanted),
            }
    }

    /// The settings that the server does not have.
    fn to_set(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let is_as_it_was = self.cleaning == Cleaning::None;
        let has = move |name| if is_as_it_was { self.applied.value(name) } else { None };
        self.wanted.iter().filter(move |(name, value)| has(name) != Some(*value))
    }

    /// How many statements of it the server keeps by name: those that every prelude of these settings says.
    pub fn named(&self) -> usize {
        match (self.identity.trusted_sql && self.identity.said().next().is_some(), self.identity.form) {
            (false, _) => 0,
            (true, Form::Literal | Form::Login) => 2,
            (true, Form::Bound) => 3,
        }
    }

    /// Says it.
    pub fn write(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline) {
        outbox.reserve(USUAL);
        if self.cleaning == Cleaning::All {
            // It is its own transaction, and cannot be in another.
            statement(outbox, pipeline, Step::DiscardAll, b"DISCARD ALL");
            if !self.has_settings() {
                // A statement_timeout left behind may run out where DISCARD ALL looks for no interrupts: PostgreSQL then
                // fails the next message it reads, which must not be the client's.
                write::close(outbox, b'S', b"");
                pipeline.push(Owed::client(Answer::Close).by(Origin::Prelude(Step::DiscardAll)));
                return;
            }
        }
        let is_transaction = !mutation::is_on(Mutation::NoCommit);
        if is_transaction {
            self.statement(outbox, pipeline, Step::Begin, b"BEGIN ISOLATION LEVEL READ COMMITTED");
        }
        if self.cleaning == Cleaning::KeepingPlans {
            KEEPING_PLANS.iter().for_each(|(step, sql)| statement(outbox, pipeline, *step, sql));
        }
        let is_as_it_was = self.cleaning == Cleaning::None;
        if is_as_it_was && self.discards_sequences {
            statement(outbox, pipeline, Step::Discard, b"DISCARD SEQUENCES");
        }
        if is_as_it_was && !self.applied.is_same(self.wanted) {
            for name in self.applied.to_reset(self.wanted) {
                statement(outbox, pipeline, Step::Reset, &reset(name));
            }
        }
        self.write_settings(outbox, pipeline);
        if is_transaction {
            self.statement(outbox, pipeline, Step::Commit, b"COMMIT");
        }
    }

    fn write_settings(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline) {
        let literal = self.identity.form == Form::Literal;
        let bound = self.identities().skip(usize::from(self.token.is_some())).filter(|_| !literal);
        let mut settings = self.to_set().chain(bound).peekable();
        let name = if self.identity.form == Form::Bound { self.name(Step::Set) } else { b"" };
        if settings.peek().is_some() {
            self.parse(outbox, pipeline, Step::Set, name, b"select pg_catalog.set_config($1,$2,false)");
        }
        for (variable, value) in settings {
            write::bind_text(outbox, b"", name, &[Some(variable), Some(value)]);
            write::execute(outbox, b"", 0);
            pipeline.push(Owed::client(Answer::Bind).by(Origin::Prelude(Step::Set)));
            pipeline.push(Owed::client(Answer::Execute).by(Origin::Prelude(Step::Set)));
        }
        for (variable, value) in self.identities().filter(|_| literal) {
            statement(outbox, pipeline, Step::Assign, &assign(variable, value));
        }
        if let (Some(token), Some((variable, value))) = (self.token, self.identities().next()) {
            write::parse(outbox, b"", b"select ident.login($1),pg_catalog.set_config($2,$3,false)", &[]);
            write::bind_text(outbox, b"", b"", &[Some(token), Some(variable), Some(value)]);
            write::execute(outbox, b"", 0);
            for answer in [Answer::Parse, Answer::Bind, Answer::Execute] {
                pipeline.push(Owed::client(answer).by(Origin::Prelude(Step::Set)));
            }
        }
    }

    /// The variables and their values; the empty value is nobody.
    fn identities(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let stated = self.identity.stated().enumerate().map(|(at, (name, _))| {
            (name.as_bytes(), self.claim.value(Nth(at)).map_or(&b""[..], |identity| identity.as_bytes()))
        });
        stated.chain(self.identity.others.iter().map(|name| (name.as_bytes(), &b""[..])))
    }

    /// What the server calls a statement of the prelude; it has no name where SQL is not trusted.
    fn name(&self, step: Step) -> &'static [u8] {
        match step {
            _ if self.named() == 0 => b"",
            Step::Begin => b"pgusher_begin",
            Step::Commit => b"pgusher_commit",
            Step::Set => b"pgusher_set",
            _ => b"",
        }
    }

    /// A statement without parameters, by its name if it has one.
    fn statement(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline, step: Step, sql: &[u8]) {
        let name = self.name(step);
        if name.is_empty() {
            return statement(outbox, pipeline, step, sql);
        }
        self.parse(outbox, pipeline, step, name, sql);
        write::bind_text(outbox, b"", name, &[]);
        write::execute(outbox, b"", 0);
        for answer in [Answer::Bind, Answer::Execute] {
            pipeline.push(Owed::client(answer).by(Origin::Prelude(step)));
        }
    }

    /// Parse, unless the server has it by name. What else may have the name is closed first.
    fn parse(&self, outbox: &mut BytesMut, pipeline: &mut Pipeline, step: Step, name: &[u8], sql: &[u8]) {
        if !name.is_empty() && self.prepared >= self.named() {
            return;
        }
        if !name.is_empty() {
            write::close(outbox, b'S', name);
            pipeline.push(Owed::client(Answer::Close).by(Origin::Prelude(step)));
        }
        write::parse(outbox, name, sql, &[]);
        pipeline.push(Owed::client(Answer::Parse).by(Origin::Prelude(step)));
    }
}

/// Parse, Bind and Execute of a text without parameters.
fn statement(outbox: &mut BytesMut, pipeline: &mut Pipeline, step: Step, sql: &[u8]) {
    write::parse(outbox, b"", sql, &[]);
    write::run_unnamed(outbox);
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
    use crate::session::claim::Identity;
    use crate::session::settings::{Pattern, Variable};

    fn values(entries: &[(&str, &str)]) -> Values {
        entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    /// What a prelude says, and what is owed for it.
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

    /// A prelude that says who the user is, and nothing else.
    fn said(identity: &IdentitySettings, prepared: usize) -> (Vec<String>, String) {
        let claim = Claim::at_startup(Identity::new(b"a", &Pattern::Any).into());
        let nothing = Values::default();
        texts(&Prelude {
            identity,
            claim: &claim,
            token: (identity.form == Form::Login).then_some(&b"a token"[..]),
            prepared,
            applied: &nothing,
            wanted: &nothing,
            cleaning: Cleaning::None,
            discards_sequences: false,
        })
    }

    fn parses(said: &[String]) -> Vec<&str> {
        said.iter().filter_map(|line| line.strip_prefix("P ")).collect()
    }

    #[test]
    fn an_identity_is_begun_set_and_committed() {
        let (said, owed) = said(&IdentitySettings::default(), 0);

        assert_eq!(
            parses(&said),
            ["BEGIN ISOLATION LEVEL READ COMMITTED", "select pg_catalog.set_config($1,$2,false)", "COMMIT"]
        );
        assert_eq!(owed, "owed: 1! 2! C! 1! 2! C! 1! 2! C!");
    }

    #[test]
    fn every_variable_is_said_in_the_same_transaction() {
        let further = Variable { name: "app.tenant_id".into(), pattern: Pattern::Any };
        let identity = IdentitySettings {
            variables: vec![further],
            others: vec!["app.other".into()],
            ..IdentitySettings::default()
        };

        let (said, owed) = said(&identity, 0);

        assert_eq!(owed, "owed: 1! 2! C! 1! 2! C! 2! C! 2! C! 1! 2! C!");
        let named = |name: &str| said.iter().filter(|line| line.contains(name)).count();
        assert_eq!(["app.current_user_id", "app.tenant_id", "app.other"].map(named), [1, 1, 1]);
    }

    #[test]
    fn what_others_may_have_left_is_emptied_even_without_an_identity() {
        let off = IdentitySettings { enabled: false, ..IdentitySettings::default() };
        let shared = IdentitySettings { others: vec!["app.other".into()], ..off.clone() };

        assert!(said(&off, 0).0.iter().all(|line| !line.contains("app.")));
        assert!(said(&shared, 0).0.iter().any(|line| line.contains("app.other")));
    }

    #[test]
    fn a_trusted_prelude_is_prepared_once_and_named() {
        let identity = IdentitySettings { trusted_sql: true, ..IdentitySettings::default() };

        let (first, owed) = said(&identity, 0);
        assert_eq!(owed, "owed: 3! 1! 2! C! 3! 1! 2! C! 3! 1! 2! C!");
        assert_eq!(
            parses(&first),
            [
                "pgusher_begin BEGIN ISOLATION LEVEL READ COMMITTED",
                "pgusher_set select pg_catalog.set_config($1,$2,false)",
                "pgusher_commit COMMIT"
            ]
        );
        let (later, owed) = said(&identity, 3);

        assert_eq!(owed, "owed: 2! C! 2! C! 2! C!");
        assert!(parses(&later).is_empty());
    }

    #[test]
    fn a_token_takes_the_place_of_the_main_variable_which_is_said_with_it() {
        let further = Variable { name: "app.tenant_id".into(), pattern: Pattern::Any };
        let identity =
            IdentitySettings { form: Form::Login, variables: vec![further], ..IdentitySettings::default() };

        let (said, owed) = said(&identity, 0);

        assert_eq!(owed, "owed: 1! 2! C! 1! 2! C! 1! 2! C! 1! 2! C!");
        let named = |name: &str| said.iter().filter(|line| line.contains(name)).count();
        assert_eq!(["app.current_user_id", "app.tenant_id", "a token"].map(named), [1, 1, 1]);
        assert!(parses(&said).contains(&"select ident.login($1),pg_catalog.set_config($2,$3,false)"));
    }

    #[test]
    fn a_literal_cannot_end_its_quotes() {
        assert_eq!(assign(b"app.u", b"a'b\\c"), b"SET \"app\".\"u\" = E'a''b\\\\c'");
    }

    #[test]
    fn only_the_difference_is_said() {
        let (applied, wanted) = (values(&[("a", "1"), ("b", "2")]), values(&[("b", "2"), ("c.d", "3")]));
        let off = IdentitySettings { enabled: false, ..IdentitySettings::default() };
        let claim = Claim::default();
        let prelude = Prelude {
            identity: &off,
            claim: &claim,
            token: None,
            prepared: 0,
            applied: &applied,
            wanted: &wanted,
            cleaning: Cleaning::None,
            discards_sequences: false,
        };

        let (said, _) = texts(&prelude);

        assert!(prelude.is_needed());
        assert!(said.contains(&"P RESET \"a\"".to_owned()));
        assert_eq!(said.iter().filter(|line| line.starts_with('B')).count(), 4);
        assert!(!Prelude { applied: &wanted, ..prelude }.is_needed());
    }
}
