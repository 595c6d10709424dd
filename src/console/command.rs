//! What is meant by a text.
//!
//! # Promises
//! - Keywords have no case; names may be quoted as in SQL; a semicolon at the end is none.
//! - What drivers say by themselves is known, and does nothing.

use crate::names::Database;

/// What somebody wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// Nothing.
    Empty,
    /// What drivers say: answered with this tag; whether a transaction block begins or ends.
    Chatter(&'static str, Option<bool>),
    /// A constant, by its column.
    Constant(&'static str, String),
    Disable(Database),
    Enable(Database),
    Kill(Option<Database>),
    KillClient(u64),
    /// A database must be named.
    Nameless,
    Pause(Option<Database>),
    Reconnect(Option<Database>),
    Reload,
    Resume(Option<Database>),
    Set(String, String),
    Show(String),
    /// What PgBouncer hands its successor.
    ShowFds,
    /// Whether clients may finish.
    Shutdown(Ending),
    /// Sockets held still for that.
    Suspend,
    Unknown(String),
    WaitClose(Option<Database>),
}

/// How SHUTDOWN ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    AtOnce,
    Drained,
}

impl Command {
    /// Whether it changes nothing.
    pub(super) fn is_harmless(&self) -> bool {
        matches!(
            self,
            Self::Empty | Self::Chatter(..) | Self::Constant(..) | Self::Show(_) | Self::Unknown(_)
        )
    }
}

/// Settings of a session that drivers set: here they have no effect.
const SESSION: &[&str] = &[
    "application_name",
    "bytea_output",
    "characteristics",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "time",
    "timezone",
    "transaction",
];

/// What such settings are, for drivers that ask.
const VALUES: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "on"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("timezone", "GMT"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// The statements of a Query, in order.
pub(super) fn statements(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut quote, mut from) = (None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ';') => {
                statements.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    statements.push(&text[from..]);
    let meant: Vec<_> = statements.into_iter().filter(|statement| !bare(statement).is_empty()).collect();
    if meant.is_empty() { vec![""] } else { meant }
}

/// Without comments and space around it.
fn bare(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let rest = match text {
            _ if text.starts_with("--") => text.split_once('\n').map_or("", |(_, rest)| rest),
            _ if text.starts_with("/*") => text.split_once("*/").map_or("", |(_, rest)| rest),
            _ => return text,
        };
        text = rest.trim();
    }
}

/// A word, with or without quotes around it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Word {
    text: String,
    is_quoted: bool,
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let mut word = Word { text: String::new(), is_quoted: false };
        match c {
            _ if c.is_whitespace() => continue,
            '=' | ',' | '(' | ')' => word.text.push(c),
            '"' | '\'' => {
                word.is_quoted = true;
                while let Some(next) = rest.next() {
                    if next == c && rest.next_if_eq(&c).is_none() {
                        break;
                    }
                    word.text.push(next);
                }
            }
            _ => {
                word.text.push(c);
                while let Some(next) =
                    rest.next_if(|next| !next.is_whitespace() && !"=,();\"'".contains(*next))
                {
                    word.text.push(next);
                }
            }
        }
        words.push(word);
    }
    words
}

/// What is meant by one statement.
pub(super) fn parse(text: &str) -> Command {
    let text = bare(text);
    let said = words(text);
    let lower: Vec<String> = said.iter().map(|word| word.text.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let unknown = || Command::Unknown(text.to_owned());
    let name = || said.get(1).map(|word| Database::from(word.text.as_str()));
    if said.len() > 2 && NAMED.contains(&lower[0]) {
        return unknown();
    }
    match lower.as_slice() {
        [] => Command::Empty,
        ["show", rest @ ..] => show(rest).unwrap_or_else(unknown),
        ["select", rest @ ..] => select(rest, &said[1..]).unwrap_or_else(unknown),
        ["set", rest @ ..] => set(rest, &said[1..]).unwrap_or_else(unknown),
        ["pause", ..] => Command::Pause(name()),
        ["resume", ..] => Command::Resume(name()),
        ["reconnect", ..] => Command::Reconnect(name()),
        ["wait_close", ..] => Command::WaitClose(name()),
        ["kill", ..] => Command::Kill(name()),
        ["disable", ..] => name().map_or(Command::Nameless, Command::Disable),
        ["enable", ..] => name().map_or(Command::Nameless, Command::Enable),
        ["kill_client", id] => {
            id.trim_start_matches('c').parse().map_or_else(|_| unknown(), Command::KillClient)
        }
        ["reload"] => Command::Reload,
        ["suspend"] => Command::Suspend,
        ["shutdown"] => Command::Shutdown(Ending::AtOnce),
        ["shutdown", "wait_for_clients" | "wait_for_servers"] => Command::Shutdown(Ending::Drained),
        ["begin", ..] => Command::Chatter("BEGIN", Some(true)),
        ["start", "transaction", ..] => Command::Chatter("START TRANSACTION", Some(true)),
        ["commit" | "end", ..] => Command::Chatter("COMMIT", Some(false)),
        ["rollback" | "abort", ..] => Command::Chatter("ROLLBACK", Some(false)),
        ["discard", "all"] => Command::Chatter("DISCARD ALL", None),
        ["deallocate", "all"] => Command::Chatter("DEALLOCATE ALL", None),
        ["deallocate", ..] => Command::Chatter("DEALLOCATE", None),
        ["reset", ..] => Command::Chatter("RESET", None),
        ["unlisten", ..] => Command::Chatter("UNLISTEN", None),
        ["close", "all"] => Command::Chatter("CLOSE CURSOR ALL", None),
        _ => unknown(),
    }
}

/// Commands with at most one name.
const NAMED: &[&str] = &["pause", "resume", "reconnect", "wait_close", "kill", "disable", "enable"];

fn show(rest: &[&str]) -> Option<Command> {
    let what = match rest {
        ["transaction", "isolation", "level"] => "transaction_isolation",
        ["time", "zone"] => "timezone",
        ["fds"] => return Some(Command::ShowFds),
        [what] => what,
        _ => return None,
    };
    Some(match VALUES.iter().find(|(name, _)| *name == what) {
        Some((name, value)) => Command::Constant(name, (*value).to_owned()),
        None => Command::Show(what.to_owned()),
    })
}

/// `SELECT x` is `SHOW x`; constants are asked for by drivers and connection checks.
fn select(rest: &[&str], said: &[Word]) -> Option<Command> {
    let name = |text: &str| text.trim_start_matches("pg_catalog.").to_owned();
    match (rest, said) {
        ([one], [word]) if word.is_quoted || one.parse::<i64>().is_ok() => {
            Some(Command::Constant("?column?", word.text.clone()))
        }
        ([what], _) => show(&[what]),
        ([call, "(", ")"], _) => match name(call).as_str() {
            "version" => Some(Command::Constant("version", String::new())),
            "current_schema" => Some(Command::Constant("current_schema", "public".to_owned())),
            "current_database" => Some(Command::Constant("current_database", "pgusher".to_owned())),
            _ => None,
        },
        _ => None,
    }
}

fn set(rest: &[&str], said: &[Word]) -> Option<Command> {
    let skipped = usize::from(matches!(rest.first(), Some(&("session" | "local"))) && rest.len() > 2);
    let (rest, said) = (&rest[skipped..], &said[skipped..]);
    let key = rest.first()?;
    if SESSION.contains(key) {
        return Some(Command::Chatter("SET", None));
    }
    match rest.get(1)? {
        &"=" | &"to" if said.len() > 2 => {
            let value: Vec<_> = said[2..].iter().map(|word| word.text.as_str()).collect();
            Some(Command::Set((*key).to_owned(), value.join("")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_have_no_case_and_names_may_be_quoted() {
        let shop = || Some(Database::from("Sh\"op x"));

        assert_eq!(parse(" Pause \"Sh\"\"op x\" "), Command::Pause(shop()));
        assert_eq!(parse("RESUME"), Command::Resume(None));
        assert_eq!(parse("show POOLS"), Command::Show("pools".into()));
        assert_eq!(parse("/* hi */ select Stats"), Command::Show("stats".into()));
        assert_eq!(parse("kill_client 7"), Command::KillClient(7));
        assert_eq!(parse("disable"), Command::Nameless);
    }

    #[test]
    fn what_drivers_say_is_known() {
        for text in [
            "SET extra_float_digits = 3",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "set client_encoding to 'UTF8'",
            "SET time zone 'UTC'",
        ] {
            assert_eq!(parse(text), Command::Chatter("SET", None), "{text}");
        }
        assert_eq!(parse("BEGIN ISOLATION LEVEL SERIALIZABLE"), Command::Chatter("BEGIN", Some(true)));
        assert_eq!(parse("SELECT 1"), Command::Constant("?column?", "1".into()));
        assert_eq!(
            parse("show transaction isolation level"),
            Command::Constant("transaction_isolation", "read committed".into())
        );
        assert_eq!(parse("select pg_catalog.version()"), Command::Constant("version", String::new()));
    }

    #[test]
    fn our_own_keys_are_set() {
        let set = |key: &str, value: &str| Command::Set(key.into(), value.into());

        assert_eq!(parse("SET pool.size = 7"), set("pool.size", "7"));
        assert_eq!(parse("set query_wait_timeout to '5s'"), set("query_wait_timeout", "5s"));
    }

    #[test]
    fn what_nobody_knows_is_unknown() {
        for text in ["frobnicate", "pause a b", "select * from pg_class", "kill_client x", "set", "show"] {
            assert_eq!(parse(text), Command::Unknown(text.into()));
        }
    }

    #[test]
    fn a_query_may_have_several_statements() {
        assert_eq!(statements("pause; resume;"), ["pause", " resume"]);
        assert_eq!(statements("pause \"a;b\""), ["pause \"a;b\""]);
        assert_eq!(statements(" ; "), [""]);
    }
}
