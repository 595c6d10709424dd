//! The kinds of value a key can have: how each is read, and how each is shown.
//!
//! A row of the key table says only "this key is that field, a duration". What that means is here, once per kind,
//! reading and showing side by side so that they stay each other's mirror.
//!
//! # Promises
//! - [`Field::read`] sets the field or leaves it as it was; its error says what is accepted.
//! - [`Field::show`] writes the field as TOML that [`Field::read`] takes back to the same value.
//! - A value that is or may hold a secret is never returned by [`Field::redact`].
//!
//! # Refuses
//! To know keys, sections, or what one value means for another.

mod amount;
mod place;
mod table;
mod text;

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::ident::Mapping;
use crate::auth::rules::Rule;
use crate::auth::{LoginKey, Secret};
use crate::config::field::amount::{
    Count, CountOr, OneOf, OneOfOr, Permissions, Size, Span, SpanOr, Workers,
};
use crate::config::field::place::{Addresses, Hosts, KeysUrl, Listener, PathOr, UrlOr};
use crate::config::field::table::{Claims, Settings, UserMap, Variable, Variables};
use crate::config::field::text::{
    Hidden, Level, Maps, Names, PublicKey, Question, Rules, Signing, Text, Words,
};
use crate::config::url::{HostText, Url};
use crate::config::value::{Value, quoted};
use crate::config::word::Choice;
use crate::session;

pub(super) use crate::config::field::text::signing_key;

const INHERIT: &str = "inherit";
const OFF: &str = "off";

/// One field of the settings, seen as what the operator may write there.
pub(super) trait Field {
    /// Sets the field; the error says what is accepted.
    fn read(&mut self, value: &Value) -> Result<(), String>;

    /// The field as TOML.
    fn show(&self) -> String;

    /// A value meant for this field, as it may be shown to anybody.
    fn redact(&self, value: &Value) -> String {
        value.shown()
    }
}

/// A field, borrowed with what is known about it.
pub(super) type Slot<'a> = Box<dyn Field + 'a>;

/// Numbers that fields have.
pub(super) trait Number: Copy + Display + PartialOrd + TryFrom<i128> {}

impl<N: Copy + Display + PartialOrd + TryFrom<i128>> Number for N {}

/// A whole number in a range.
pub(super) fn count<N: Number>(at: &mut N, range: RangeInclusive<N>) -> Slot<'_> {
    Box::new(Count { at, range })
}

/// A whole number of at least 1, or `unlimited`.
pub(super) fn limit<N: Number + 'static>(at: &mut Option<N>, most: N) -> Slot<'_> {
    Box::new(CountOr { at, least: 1, most, absent: "unlimited" })
}

/// A whole number of at least `least`, or `inherit`: what holds without the key.
pub(super) fn inherited_count(at: &mut Option<usize>, least: i128, most: usize) -> Slot<'_> {
    Box::new(CountOr { at, least, most, absent: INHERIT })
}

/// One of so many, or `off`.
pub(super) fn one_in(at: &mut Option<u64>) -> Slot<'_> {
    Box::new(CountOr { at, least: 1, most: 1_000_000_000, absent: OFF })
}

/// A number of threads, or `auto`.
pub(super) fn workers(at: &mut usize) -> Slot<'_> {
    Box::new(Workers(at))
}

/// One of the words of `C`.
pub(super) fn choice<C: Choice>(at: &mut C) -> Slot<'_> {
    Box::new(OneOf(at))
}

/// One of the words of `C`, or `inherit`.
pub(super) fn inherited_choice<C: Choice>(at: &mut Option<C>) -> Slot<'_> {
    Box::new(OneOfOr { at, absent: INHERIT })
}

/// One of the words of `C`, or `off`.
pub(super) fn choice_or_off<C: Choice>(at: &mut Option<C>) -> Slot<'_> {
    Box::new(OneOfOr { at, absent: OFF })
}

/// `on` or `off`.
pub(super) fn switch(at: &mut bool) -> Slot<'_> {
    Box::new(OneOf(at))
}

/// A duration that takes some time.
pub(super) fn duration(at: &mut Duration) -> Slot<'_> {
    Box::new(Span { at, least: Duration::from_nanos(1) })
}

/// A duration that may be 0: at once.
pub(super) fn delay(at: &mut Duration) -> Slot<'_> {
    Box::new(Span { at, least: Duration::ZERO })
}

/// A duration, or `off`; 0 is off too.
pub(super) fn period(at: &mut Option<Duration>) -> Slot<'_> {
    Box::new(SpanOr { at, is_zero_off: true })
}

/// A duration, or `off`; 0 is at once.
pub(super) fn period_or_at_once(at: &mut Option<Duration>) -> Slot<'_> {
    Box::new(SpanOr { at, is_zero_off: false })
}

/// A number of bytes, at least so many.
pub(super) fn size(at: &mut usize, least: usize) -> Slot<'_> {
    Box::new(Size { at, least })
}

/// Text that may be absent; `""` is absent.
pub(super) fn text(at: &mut Option<String>) -> Slot<'_> {
    Box::new(Text(at))
}

/// SQL with one parameter.
pub(super) fn question(at: &mut String) -> Slot<'_> {
    Box::new(Question(at))
}

/// Lines of `pg_hba.conf`.
pub(super) fn rules(at: &mut Vec<Rule>) -> Slot<'_> {
    Box::new(Rules(at))
}

/// Lines of `pg_ident.conf`.
pub(super) fn maps(at: &mut Vec<Mapping>) -> Slot<'_> {
    Box::new(Maps(at))
}

/// A list of names.
pub(super) fn names(at: &mut Vec<String>) -> Slot<'_> {
    Box::new(Names(at))
}

/// A program and what it is told, without a shell; nothing is none.
pub(super) fn command(at: &mut Vec<String>) -> Slot<'_> {
    Box::new(Words(at))
}

/// A path that may be absent; `""` is absent.
pub(super) fn path(at: &mut Option<PathBuf>) -> Slot<'_> {
    Box::new(PathOr(at))
}

/// Permissions, in octal.
pub(super) fn permissions(at: &mut u32) -> Slot<'_> {
    Box::new(Permissions(at))
}

/// Where to listen.
pub(super) fn addresses(at: &mut Vec<SocketAddr>) -> Slot<'_> {
    Box::new(Addresses(at))
}

/// Where to listen, or `off`.
pub(super) fn listener(at: &mut Option<SocketAddr>, port: u16) -> Slot<'_> {
    Box::new(Listener { at, port })
}

/// Where servers are.
pub(super) fn hosts(at: &mut Vec<HostText>) -> Slot<'_> {
    Box::new(Hosts(at))
}

/// Where servers are, and how to log in, in one line.
pub(super) fn url(at: &mut Option<Url>) -> Slot<'_> {
    Box::new(UrlOr(at))
}

/// A password or a verifier; `""` is none.
pub(super) fn secret(at: &mut Option<Secret>) -> Slot<'_> {
    Box::new(Hidden(at))
}

/// A key that signs tokens; `""` is none.
pub(super) fn login_key(at: &mut Option<LoginKey>) -> Slot<'_> {
    Box::new(Signing(at))
}

/// Server settings by name.
pub(super) fn settings_table(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(Settings(at))
}

/// Names, and the users each may be.
pub(super) fn user_map(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(UserMap(at))
}

/// The name of a custom variable of PostgreSQL.
pub(super) fn variable(at: &mut String) -> Slot<'_> {
    Box::new(Variable(at))
}

/// Names of custom variables of PostgreSQL, and which values each may have.
pub(super) fn variables(at: &mut Vec<session::Variable>) -> Slot<'_> {
    Box::new(Variables(at))
}

/// Claims of a token, and which variable each gives its value.
pub(super) fn claims(at: &mut Vec<(String, String)>) -> Slot<'_> {
    Box::new(Claims(at))
}

/// Where a JWK set is fetched from; `""` is nowhere.
pub(super) fn keys_url(at: &mut Option<String>) -> Slot<'_> {
    Box::new(KeysUrl(at))
}

/// A public key, as a JWK or PEM; `""` is none.
pub(super) fn public_key(at: &mut Option<String>) -> Slot<'_> {
    Box::new(PublicKey(at))
}

/// A log level or filters.
pub(super) fn level(at: &mut String) -> Slot<'_> {
    Box::new(Level(at))
}

/// A list of quoted texts.
fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::HIDDEN;

    fn texts(items: &[&str]) -> Value {
        Value::List(items.iter().map(|item| Value::Text((*item).into())).collect())
    }

    fn word(text: &str) -> Value {
        Value::Word(text.into())
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn a_refused_value_leaves_the_field_as_it_was() {
        let mut number = 7_usize;
        for value in
            [Value::Integer(0), Value::Integer(10), Value::Integer(-1), text("5"), word("x"), word("1e3")]
        {
            assert_eq!(
                count(&mut number, 1..=9).read(&value),
                Err("expected a whole number from 1 to 9".into())
            );
        }
        assert_eq!(number, 7);
        assert_eq!(count(&mut number, 1..=9).read(&word("9")), Ok(()));
        assert_eq!(number, 9);
    }

    #[test]
    fn numbers_too_large_for_the_field_are_refused() {
        let mut uses = None;
        let huge = Value::Integer(i128::from(u64::MAX) + 1);
        assert!(limit(&mut uses, u64::MAX).read(&huge).is_err());
        assert!(limit(&mut uses, u64::MAX).read(&Value::Integer(0)).is_err());
        assert_eq!(limit(&mut uses, u64::MAX).read(&word("18446744073709551615")), Ok(()));
        assert_eq!(uses, Some(u64::MAX));
        assert_eq!(limit(&mut uses, u64::MAX).read(&text("unlimited")), Ok(()));
        assert_eq!(uses, None);
    }

    #[test]
    fn zero_means_what_its_kind_of_duration_says() {
        let (mut some, mut off, mut at_once) = (Duration::from_secs(1), Some(Duration::ZERO), None);

        assert!(duration(&mut some).read(&text("0")).is_err());
        assert_eq!(delay(&mut some).read(&Value::Integer(0)), Ok(()));
        assert_eq!(period(&mut off).read(&text("0s")), Ok(()));
        assert_eq!(period_or_at_once(&mut at_once).read(&word("0")), Ok(()));

        assert_eq!((some, off, at_once), (Duration::ZERO, None, Some(Duration::ZERO)));
        assert_eq!(period_or_at_once(&mut at_once).read(&text("off")), Ok(()));
        assert_eq!(at_once, None);
        assert!(period(&mut off).read(&Value::Integer(5)).is_err());
    }

    #[test]
    fn addresses_are_addresses_with_or_without_a_port() {
        for (value, expected) in [
            (text("127.0.0.1:1"), vec!["127.0.0.1:1"]),
            (text("127.0.0.1"), vec!["127.0.0.1:6432"]),
            (text("::1"), vec!["[::1]:6432"]),
            (text("localhost:1"), vec!["127.0.0.1:1"]),
            (text("*"), vec!["0.0.0.0:6432"]),
            (texts(&["*:1", "[::]:2"]), vec!["0.0.0.0:1", "[::]:2"]),
            (word("127.0.0.1:1, [::1]:2"), vec!["127.0.0.1:1", "[::1]:2"]),
        ] {
            let mut found = Vec::new();
            assert_eq!(addresses(&mut found).read(&value), Ok(()), "{value:?}");
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        }
        for value in
            [text(""), text("db:1"), text("1.2.3.4:99999"), texts(&[]), texts(&["*", "x"]), Value::Integer(1)]
        {
            assert!(addresses(&mut Vec::new()).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_listener_can_be_switched_off() {
        for (value, expected) in [
            (text("127.0.0.1:1"), Some("127.0.0.1:1")),
            (text("*"), Some("0.0.0.0:9930")),
            (text("off"), None),
            (text(""), None),
            (Value::Bool(false), None),
        ] {
            let mut found = Some(SocketAddr::from(([1, 2, 3, 4], 5)));
            assert_eq!(listener(&mut found, 9930).read(&value), Ok(()), "{value:?}");
            assert_eq!(found.map(|address| address.to_string()).as_deref(), expected);
        }
        for value in [text("here"), texts(&["*"]), Value::Integer(9930), Value::Bool(true)] {
            assert!(listener(&mut None, 9930).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn permissions_are_octal_in_quotes() {
        let mut mode = 0;
        assert_eq!(permissions(&mut mode).read(&text("0770")), Ok(()));
        assert_eq!(mode, 0o770);
        for value in [text("999"), text("1777"), text("+7"), text("-7"), Value::Integer(0o770), text("")] {
            assert!(permissions(&mut mode).read(&value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_variable_has_two_parts_or_more() {
        let mut name = String::new();
        for good in ["app.current_user_id", "a.b.c", "_a._b$1"] {
            assert_eq!(variable(&mut name).read(&text(good)), Ok(()), "{good}");
        }
        for bad in ["user", "app.", ".a", "app.1a", "app.a b", "app.a;b", "app.\u{e4}", "", "app.a'b"] {
            assert!(variable(&mut name).read(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn further_variables_have_names_and_patterns() {
        let entries = |entries: &[(&str, &str)]| {
            Value::Table(entries.iter().map(|(name, value)| ((*name).into(), text(value))).collect())
        };
        let mut found = Vec::new();
        for value in
            [entries(&[("app.tenant", "any"), ("app.n", "integer")]), word("app.tenant=any, app.n = integer")]
        {
            assert_eq!(variables(&mut found).read(&value), Ok(()));
            assert_eq!(variables(&mut found).show(), r#"{ "app.tenant" = "any", "app.n" = "integer" }"#);
        }
        for value in [
            entries(&[("tenant", "any")]),
            entries(&[("app.tenant", "number")]),
            entries(&[("app.tenant", "any"), ("App.Tenant", "uuid")]),
            word("app.tenant"),
            text("app.tenant=any"),
        ] {
            assert!(variables(&mut found).read(&value).is_err(), "{value:?}");
        }
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn secrets_are_never_shown() {
        let (mut password, mut place) = (Some(Secret::from("hunter2")), None);

        assert!(!secret(&mut password).show().contains("hunter2"));
        assert_eq!(secret(&mut password).redact(&text("hunter2")), HIDDEN);
        assert_eq!(url(&mut place).redact(&text("postgres://u:hunter2@h")), "\"postgres://…@h\"");
        assert_eq!(url(&mut place).redact(&Value::Integer(4242)), HIDDEN);
    }
}
