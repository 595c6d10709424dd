//! What a statement means with the parameters it is bound to.
//!
//! `SELECT set_config($1, $2, false)` says who the user is if that is what is bound to it, and sets something else if not. Text and
//! parameters come in two messages, so what a text leaves open is decided here, at its Bind.
//!
//! # Promises
//! - A statement whose parameters name a variable of the identity is a claim that is understood, or it is [`Meaning::Unclear`];
//!   never something else.
//!
//! # Refuses
//! To read parameters of statements that could not set anything.

use crate::session::settings::{IdentitySettings, Subject};
use crate::session::sql::{Call, Command, Hints, Reading, Value};
use crate::wire::frame::HEADER;
use crate::wire::frontend::{self, Given};
use crate::wire::{Header, Malformed};

/// The longest Bind that is read whole for its meaning.
pub const MOST: usize = 1 << 16;

/// The OID of `set_config` (PostgreSQL's `pg_proc.dat`), for who calls functions by number.
const SET_CONFIG: u32 = 2078;

/// What a bound statement does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// It states the identity, or takes it back: with what was bound put in.
    Claim(Command),
    /// It states the identity for the transaction it is in.
    Local,
    /// What its text says, and nothing of the identity.
    Plain,
    /// It sets this two-part setting for the session.
    Sets(Vec<u8>),
    /// It names a variable of the identity in a way that cannot be followed.
    Unclear,
}

/// The part of a message that is read for its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// More of it must come.
    More,
    /// It is too long to be read.
    TooLong,
    /// It is all there.
    Whole,
}

impl Extent {
    /// How much there is of a message of which `body` has come.
    pub fn of(header: Header, body: &[u8]) -> Self {
        match header.len {
            len if len == body.len().saturating_add(HEADER) => Self::Whole,
            len if len > MOST => Self::TooLong,
            _ => Self::More,
        }
    }
}

/// What `reading` does with the parameters in `given`, which is what follows the names of a Bind.
///
/// # Errors
/// It is not what follows the names of a Bind.
pub fn meaning(
    reading: &Reading,
    given: &[u8],
    tag: u8,
    identity: &IdentitySettings,
) -> Result<Meaning, Malformed> {
    let given = Given::read(given).ok_or(Malformed::Body { tag })?;
    Ok(match &reading.command {
        Some(Command::SelectIdentity(subject, Value::Parameter(number))) => {
            claim(*subject, &Value::Parameter(*number), given)
        }
        Some(Command::SelectBound(call)) => of_call(call, given, identity),
        _ if reading.hints.has(Hints::COMPUTES) && mentions(given, identity) => Meaning::Unclear,
        _ if reading.hints.has(Hints::COMPUTES_LOCAL) && mentions(given, identity) => Meaning::Local,
        _ => Meaning::Plain,
    })
}

/// What a FunctionCall does; `None` until enough of it has come.
pub fn of_function(header: Header, body: &[u8], identity: &IdentitySettings) -> Option<Meaning> {
    let Some((SET_CONFIG, given)) = frontend::function(body) else { return Some(Meaning::Plain) };
    let call = Call { variable: Err(1), value: Value::Parameter(2), is_local: Some(3) };
    match Extent::of(header, body) {
        Extent::More => None,
        Extent::TooLong => Some(Meaning::Unclear),
        // The server says what is wrong with a body that is none.
        Extent::Whole => {
            Some(Given::read(given).map_or(Meaning::Plain, |given| of_call(&call, given, identity)))
        }
    }
}

fn of_call(call: &Call, given: Given<'_>, identity: &IdentitySettings) -> Meaning {
    let subject = match call.variable {
        Ok(subject) => subject,
        Err(number) => {
            // Without a name the server says what is wrong.
            let Some(Some(name)) = given.value(number) else { return Meaning::Plain };
            match identity.subject(name) {
                Some(subject) => subject,
                None if name.contains(&b'.') => return Meaning::Sets(name.to_ascii_lowercase()),
                None => return Meaning::Plain,
            }
        }
    };
    match call.is_local.map_or(Some(false), |number| truth(given, number)) {
        Some(false) => claim(subject, &call.value, given),
        Some(true) => Meaning::Local,
        None => Meaning::Unclear,
    }
}

/// A claim with its value; NULL takes it back, as `set_config` of NULL is a RESET.
fn claim(subject: Subject, value: &Value, given: Given<'_>) -> Meaning {
    let value = match value {
        Value::Literal(text) => text.clone(),
        Value::Parameter(number) => match given.value(*number) {
            Some(value) => value.unwrap_or_default().to_vec(),
            None => return Meaning::Unclear,
        },
    };
    Meaning::Claim(Command::SelectIdentity(subject, Value::Literal(value)))
}

/// The truth of a boolean parameter, as PostgreSQL's `bool_in` reads it; NULL is `false` to `set_config`.
fn truth(given: Given<'_>, number: u16) -> Option<bool> {
    let Some(value) = given.value(number)? else { return Some(false) };
    if given.is_binary(number) {
        return match value {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        };
    }
    match value.trim_ascii().to_ascii_lowercase().as_slice() {
        b"t" | b"tr" | b"tru" | b"true" | b"y" | b"ye" | b"yes" | b"on" | b"1" => Some(true),
        b"f" | b"fa" | b"fal" | b"fals" | b"false" | b"n" | b"no" | b"of" | b"off" | b"0" => Some(false),
        _ => None,
    }
}

/// Whether a variable of the identity is among the values.
fn mentions(given: Given<'_>, identity: &IdentitySettings) -> bool {
    given.iter().flatten().any(|value| identity.subject(value).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::Nth;
    use crate::session::sql;

    fn given(formats: &[u16], values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = (formats.len() as u16).to_be_bytes().to_vec();
        formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
        body.extend((values.len() as u16).to_be_bytes());
        for value in values {
            body.extend(value.map_or(-1, |value| value.len() as i32).to_be_bytes());
            body.extend(value.unwrap_or_default());
        }
        body.extend([0, 0]);
        body
    }

    fn meaning_of(text: &str, values: &[Option<&str>]) -> Meaning {
        let identity = IdentitySettings::default();
        let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
        let reading = sql::read(text.as_bytes(), &identity);
        meaning(&reading, &given(&[], &values), b'B', &identity).unwrap()
    }

    fn claims(value: &[u8]) -> Meaning {
        Meaning::Claim(Command::SelectIdentity(Subject::Variable(Nth::MAIN), Value::Literal(value.into())))
    }

    const V: Option<&str> = Some("App.Current_User_Id");

    #[test]
    fn a_bound_variable_is_a_claim_if_it_is_the_identitys() {
        let text = "select pg_catalog.set_config($1::text, $2, $3::bool)";

        for no in ["f", "FALSE", " off ", "no", "0"] {
            assert_eq!(meaning_of(text, &[V, Some("x"), Some(no)]), claims(b"x"), "{no}");
        }
        assert_eq!(meaning_of(text, &[V, None, None]), claims(b""));
        for yes in ["t", "true", "on", "Y", "1"] {
            assert_eq!(meaning_of(text, &[V, Some("x"), Some(yes)]), Meaning::Local, "{yes}");
        }
        assert_eq!(meaning_of(text, &[V, Some("x"), Some("maybe")]), Meaning::Unclear);
        assert_eq!(meaning_of(text, &[V, Some("x")]), Meaning::Unclear);
        assert_eq!(meaning_of(text, &[Some("work_mem"), Some("x"), Some("f")]), Meaning::Plain);
        assert_eq!(
            meaning_of(text, &[Some("My.Var"), Some("x"), Some("f")]),
            Meaning::Sets(b"my.var".into())
        );
        assert_eq!(meaning_of(text, &[None, Some("x"), Some("f")]), Meaning::Plain);
    }

    #[test]
    fn each_part_may_be_bound_or_written() {
        assert_eq!(meaning_of("select set_config($1, 'x', false)", &[V]), claims(b"x"));
        assert_eq!(meaning_of("select set_config($2, $1, false);", &[Some("x"), V]), claims(b"x"));
        let written = "select \"set_config\"('app.current_user_id', $1, $2)";
        assert_eq!(meaning_of(written, &[Some("x"), Some("f")]), claims(b"x"));
        assert_eq!(meaning_of(written, &[Some("x"), Some("t")]), Meaning::Local);
    }

    #[test]
    fn a_boolean_may_be_binary() {
        let identity = IdentitySettings::default();
        let reading = sql::read(b"select set_config($1, $2, $3)", &identity);
        let meaning = |truth: &[u8]| {
            let values = [Some(&b"app.current_user_id"[..]), Some(b"x"), Some(truth)];
            meaning(&reading, &given(&[0, 0, 1], &values), b'B', &identity).unwrap()
        };

        assert_eq!(
            [meaning(&[0]), meaning(&[1]), meaning(b"f")],
            [claims(b"x"), Meaning::Local, Meaning::Unclear]
        );
    }

    #[test]
    fn a_variable_bound_to_what_cannot_be_followed_is_unclear() {
        for text in [
            "select set_config($1, $2, false), 1",
            "select set_config(lower($1), $2, false)",
            "select set_config(n, $2, false) from (values ($1)) v(n)",
            "select (select set_config($1, $2, false))",
            "with x as (select set_config($1, $2, false)) select * from x",
            "select set_config(setting_name => $1, new_value => $2, is_local => false)",
            "select set_config($1, $2, not true)",
            "insert into t select set_config($1, $2, 'f')",
        ] {
            assert_eq!(meaning_of(text, &[V, Some("x")]), Meaning::Unclear, "{text}");
            assert_eq!(meaning_of(text, &[Some("work_mem"), Some("x")]), Meaning::Plain, "{text}");
        }
        assert_eq!(meaning_of("select set_config($1, $2, true), 1", &[V, Some("x")]), Meaning::Plain);
        assert_eq!(meaning_of("insert into audit values ($1)", &[V]), Meaning::Plain);
    }

    #[test]
    fn a_variable_bound_for_the_transaction_is_seen_where_tokens_say_who_the_user_is() {
        let mut identity = IdentitySettings::default();
        identity.token.key = Some("a key".into());
        let meaning = |text: &str, variable: Option<&str>| {
            let reading = sql::read(text.as_bytes(), &identity);
            meaning(&reading, &given(&[], &[variable.map(str::as_bytes), Some(b"x")]), b'B', &identity)
                .unwrap()
        };

        for text in [
            "select set_config($1, $2, true)",
            "select pg_catalog.set_config($1::text, $2, TRUE), 1",
            "select set_config(lower($1), $2, is_local => true)",
            "select set_config(n, $2, true) from (values ($1)) v(n)",
        ] {
            assert_eq!(meaning(text, V), Meaning::Local, "{text}");
            assert_eq!(meaning(text, Some("work_mem")), Meaning::Plain, "{text}");
        }
    }

    #[test]
    fn a_message_is_waited_for_as_long_as_it_may_be_read() {
        let header = |len| Header { tag: b'B', len };

        assert_eq!(Extent::of(header(HEADER + 3), b"abc"), Extent::Whole);
        assert_eq!(Extent::of(header(HEADER + 4), b"abc"), Extent::More);
        assert_eq!(Extent::of(header(MOST + 1), b"abc"), Extent::TooLong);
    }
}
