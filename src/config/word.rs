//! The words an operator chooses from, and what each means.
//!
//! # Promises
//! - The words of a choice are all the values its type has, the default first.
//! - `true` and `false` are the words `on` and `off`.
//!
//! # Refuses
//! Synonyms, and any other case than lower.

use crate::admin::Compat;
use crate::auth::Method;
use crate::config::value::{Value, quoted};
use crate::names::CertificateName;
use crate::net::tls::{Negotiation, SslMode, TlsVersion};
use crate::pool::TargetSessionAttrs;
use crate::session::login::BindingPolicy;
use crate::session::{CleanPolicy, Form, Missing, Mode, Pattern, Scope, SetPolicy, StatePolicy};
use crate::telemetry::log;

/// A word out of a few.
pub(super) trait Choice: Clone + PartialEq + 'static {
    /// The words, and what each means.
    const WORDS: &[(&str, Self)];
}

/// The meaning of a word; `true` and `false` are the words `on` and `off`.
pub(super) fn chosen<C: Choice>(value: &Value) -> Option<C> {
    let word = match value {
        Value::Bool(true) => "on",
        Value::Bool(false) => "off",
        value => match value.text()? {
            "true" => "on",
            "false" => "off",
            text => text,
        },
    };
    C::WORDS.iter().find(|(name, _)| *name == word).map(|(_, meaning)| meaning.clone())
}

/// The word for a meaning.
pub(super) fn word<C: Choice>(meaning: &C) -> &'static str {
    C::WORDS.iter().find(|(_, other)| other == meaning).map_or("", |(name, _)| name)
}

/// All the words: `"a", "b" or "c"`.
pub(super) fn alternatives<C: Choice>(more: &[&str]) -> String {
    let words: Vec<_> =
        C::WORDS.iter().map(|(name, _)| *name).chain(more.iter().copied()).map(quoted).collect();
    match words.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => words.concat(),
    }
}

impl Choice for bool {
    const WORDS: &[(&str, Self)] = &[("on", true), ("off", false)];
}

impl Choice for BindingPolicy {
    const WORDS: &[(&str, Self)] =
        &[("prefer", Self::Prefer), ("disable", Self::Disable), ("require", Self::Require)];
}

impl Choice for CertificateName {
    const WORDS: &[(&str, Self)] = &[
        ("cn", Self::CommonName),
        ("san-dns", Self::Dns),
        ("san-email", Self::Email),
        ("san-uri", Self::Uri),
    ];
}

impl Choice for Compat {
    const WORDS: &[(&str, Self)] = &[("off", Self::Off), ("pgbouncer", Self::PgBouncer)];
}

impl Choice for Form {
    const WORDS: &[(&str, Self)] =
        &[("bound", Self::Bound), ("literal", Self::Literal), ("login", Self::Login)];
}

impl Choice for Method {
    const WORDS: &[(&str, Self)] = &[
        ("scram-sha-256", Self::ScramSha256),
        ("md5", Self::Md5),
        ("password", Self::Password),
        ("trust", Self::Trust),
        ("cert", Self::Cert),
    ];
}

impl Choice for Missing {
    const WORDS: &[(&str, Self)] = &[("empty", Self::Empty), ("deny", Self::Deny)];
}

impl Choice for Mode {
    const WORDS: &[(&str, Self)] =
        &[("transaction", Self::Transaction), ("session", Self::Session), ("statement", Self::Statement)];
}

impl Choice for Negotiation {
    const WORDS: &[(&str, Self)] = &[("postgres", Self::Postgres), ("direct", Self::Direct)];
}

impl Choice for Pattern {
    const WORDS: &[(&str, Self)] = &[("uuid", Self::Uuid), ("integer", Self::Integer), ("any", Self::Any)];
}

impl Choice for Scope {
    const WORDS: &[(&str, Self)] = &[("session", Self::Session), ("transaction", Self::Transaction)];
}

impl Choice for SetPolicy {
    const WORDS: &[(&str, Self)] = &[("track", Self::Track), ("pin", Self::Pin), ("refuse", Self::Refuse)];
}

/// Weakest first: each side has a default of its own.
impl Choice for SslMode {
    const WORDS: &[(&str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Choice for CleanPolicy {
    const WORDS: &[(&str, Self)] = &[("always", Self::Always), ("when-needed", Self::WhenNeeded)];
}

impl Choice for StatePolicy {
    const WORDS: &[(&str, Self)] = &[("pin", Self::Pin), ("refuse", Self::Refuse)];
}

impl Choice for TlsVersion {
    const WORDS: &[(&str, Self)] = &[("TLSv1.2", Self::V12), ("TLSv1.3", Self::V13)];
}

impl Choice for TargetSessionAttrs {
    const WORDS: &[(&str, Self)] = &[
        ("any", Self::Any),
        ("read-write", Self::ReadWrite),
        ("read-only", Self::ReadOnly),
        ("primary", Self::Primary),
        ("standby", Self::Standby),
        ("prefer-standby", Self::PreferStandby),
    ];
}

impl Choice for log::Format {
    const WORDS: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<C: Choice + Default + std::fmt::Debug>() {
        assert_eq!(C::WORDS[0].1, C::default());
        for (name, meaning) in C::WORDS {
            assert_eq!(chosen::<C>(&Value::Text((*name).into())), Some(meaning.clone()));
            assert_eq!(word(meaning), *name);
        }
        assert_eq!(chosen::<C>(&Value::Text("nonsense".into())), None);
    }

    #[test]
    fn the_default_comes_first_and_every_word_is_understood() {
        check::<BindingPolicy>();
        check::<CertificateName>();
        check::<CleanPolicy>();
        check::<Compat>();
        check::<Form>();
        check::<Method>();
        check::<Missing>();
        check::<Mode>();
        check::<Negotiation>();
        check::<Pattern>();
        check::<Scope>();
        check::<SetPolicy>();
        check::<StatePolicy>();
        check::<TlsVersion>();
        check::<TargetSessionAttrs>();
        check::<log::Format>();
    }

    #[test]
    fn a_method_is_written_as_it_is_shown() {
        for (name, method) in Method::WORDS {
            assert_eq!(method.to_string(), *name);
        }
    }

    #[test]
    fn a_target_is_written_as_it_is_shown() {
        for (name, target) in TargetSessionAttrs::WORDS {
            assert_eq!(target.word(), *name);
        }
    }

    #[test]
    fn a_switch_takes_booleans_and_words() {
        for (value, meaning) in [
            (Value::Bool(true), Some(true)),
            (Value::Word("false".into()), Some(false)),
            (Value::Text("on".into()), Some(true)),
            (Value::Text("yes".into()), None),
            (Value::Integer(1), None),
        ] {
            assert_eq!(chosen::<bool>(&value), meaning, "{value:?}");
        }
    }

    #[test]
    fn alternatives_read_as_a_sentence() {
        assert_eq!(alternatives::<bool>(&[]), "\"on\" or \"off\"");
        assert_eq!(alternatives::<bool>(&["inherit"]), "\"on\", \"off\" or \"inherit\"");
    }
}
