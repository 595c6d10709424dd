//! A value as it was written, whatever it was written in.
//!
//! TOML says what a value is; a variable or a flag is only text. The kinds of field ask this type for what they
//! need, and do not see the difference.
//!
//! # Promises
//! - Nothing is converted by guessing: quoted text is no number, and a number no text.
//! - Passwords that were taken out of a URL are never shown.
//!
//! # Refuses
//! To know which key a value is for; so a text may be a secret, and only its field knows whether to show it.

use crate::auth::Secret;
use crate::config::url::Url;

/// What was written, as far as its notation says what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// A list.
    List(Vec<Value>),
    /// A kind of TOML value that no key has, by name.
    Other(&'static str),
    /// A password taken out of a URL.
    Secret(Secret),
    /// Names and values, in order.
    Table(Vec<(String, Value)>),
    /// Text in quotes.
    Text(String),
    /// A URL already read.
    Url(Box<Url>),
    /// Text from a variable or a flag: what it is depends on the key.
    Word(String),
}

impl Value {
    /// Text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) if !text.contains('\0') => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Word(word) => word.parse().ok(),
            _ => None,
        }
    }

    /// Texts: a list, or one alone; from a variable or a flag separated by commas.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Self::List(values) => values.iter().map(Self::text).collect(),
            Self::Word(word) if word.contains('\0') => None,
            Self::Word(word) => {
                Some(word.split(',').map(str::trim).filter(|item| !item.is_empty()).collect())
            }
            value => Some(value.text().filter(|text| !text.is_empty()).into_iter().collect()),
        }
    }

    /// The value as TOML would have it, for a problem.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(number) => number.to_string(),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(Self::shown).collect();
                format!("[{}]", values.join(", "))
            }
            Self::Other(kind) => format!("({kind})"),
            Self::Secret(_) | Self::Url(_) => HIDDEN.into(),
            Self::Table(_) => "{…}".into(),
            Self::Text(text) | Self::Word(text) => quoted(text),
        }
    }

    /// Whether this is a list, or text that may be one.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Word(_))
    }
}

/// Text in double quotes.
pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// What stands for a secret.
pub(super) const HIDDEN: &str = "…";
