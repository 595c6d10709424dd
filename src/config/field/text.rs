//! Texts, lists of them, and what is written as text: rules, maps, keys and secrets.
//!
//! The promises are those of [`Field`].

use crate::auth::ident::Mapping;
use crate::auth::rules;
use crate::auth::rules::{BadRule, Rule};
use crate::auth::token::LEAST_KEY;
use crate::auth::{LoginKey, Secret};
use crate::config::field::{Field, list};
use crate::config::problem::did_you_mean;
use crate::config::value::{HIDDEN, Value, quoted};
use crate::telemetry::log;
use crate::token::{KeySet, Secrecy};

pub(super) struct Text<'a>(pub(super) &'a mut Option<String>);

impl Field for Text<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a text in quotes, without NUL")?;
        *self.0 = Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }
}

pub(super) struct Question<'a>(pub(super) &'a mut String);

impl Field for Question<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let sql = value.text().filter(|text| text.contains("$1"));
        *self.0 = sql.ok_or("expected SQL in quotes, with $1 for the user's name")?.to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}

pub(super) struct Rules<'a>(pub(super) &'a mut Vec<Rule>);

impl Field for Rules<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let lines = lines(value).ok_or(
            "expected a list of lines as in pg_hba.conf, such as [\"host all all 10.0.0.0/8 scram-sha-256\"]",
        )?;
        let (mut read, mut wrong) = (Vec::new(), Vec::new());
        for (number, line) in (1..).zip(lines) {
            match Rule::parse(line) {
                Ok(rule) => read.push(rule),
                Err(bad) => wrong.push(format!("rule {number}{}", of_rule(line, bad))),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

/// What is wrong with a rule, as the end of a sentence: the word, what is expected, what was probably meant.
fn of_rule(line: &str, BadRule { field, cause }: BadRule) -> String {
    let word = field.and_then(|field| rules::field(line, field));
    let near = match (&word, cause) {
        (Some(word), rules::Cause::UnknownKind) => did_you_mean(word, Rule::KINDS),
        (Some(word), rules::Cause::UnknownMethod) => did_you_mean(word, Rule::METHODS),
        _ => String::new(),
    };
    let at = word.map(|word| format!(", {word:?}")).unwrap_or_default();
    format!("{at}: {cause}{near}")
}

pub(super) struct Maps<'a>(pub(super) &'a mut Vec<Mapping>);

impl Field for Maps<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = lines(value).and_then(|lines| lines.into_iter().map(Mapping::parse).collect());
        *self.0 = read.ok_or("expected a list of lines as in pg_ident.conf, map, system user and database user, such as [\"local root app\"]; at most one * in the system user, \\1 in the database user for what it stands for")?;
        Ok(())
    }

    fn show(&self) -> String {
        // Only ever shown as a default, which is none.
        "[]".into()
    }
}

/// The lines of a list; in a variable they are separated by semicolons, for they have commas.
fn lines(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Word(_) => {
            Some(value.text()?.split(';').map(str::trim).filter(|line| !line.is_empty()).collect())
        }
        Value::List(_) => value.texts(),
        _ => None,
    }
}

pub(super) struct Names<'a>(pub(super) &'a mut Vec<String>);

impl Field for Names<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let names =
            value.texts().filter(|names| value.is_list() && names.iter().all(|name| !name.is_empty()));
        *self.0 = names
            .ok_or("expected a list of names, such as [\"a\", \"b\"]")?
            .into_iter()
            .map(Into::into)
            .collect();
        Ok(())
    }

    fn show(&self) -> String {
        list(self.0)
    }
}

/// What a program is told may hold a secret.
pub(super) struct Words<'a>(pub(super) &'a mut Vec<String>);

impl Field for Words<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let words = match value {
            Value::Word(text) => Some(text.split_whitespace().collect()),
            Value::List(_) => value.texts(),
            _ => None,
        };
        let words = words.filter(|words| words.first() != Some(&"") && !words.concat().contains('\0'));
        let words = words.ok_or(
            "expected a program and its arguments, such as [\"vault\", \"read\", \"-field=password\", \"secret/db\"]; \
             no shell reads them",
        )?;
        *self.0 = words.into_iter().map(Into::into).collect();
        Ok(())
    }

    fn show(&self) -> String {
        if self.0.is_empty() { "[]".into() } else { quoted(HIDDEN) }
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

pub(super) struct Hidden<'a>(pub(super) &'a mut Option<Secret>);

impl Field for Hidden<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = match value {
            Value::Secret(secret) => Some(secret.clone()),
            value => {
                let text = value.text().ok_or("expected a password in quotes, without NUL")?;
                (!text.is_empty()).then(|| Secret::from(text))
            }
        };
        Ok(())
    }

    fn show(&self) -> String {
        quoted(if self.0.is_some() { HIDDEN } else { "" })
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

pub(super) struct Signing<'a>(pub(super) &'a mut Option<LoginKey>);

impl Field for Signing<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mut secret = None;
        Hidden(&mut secret).read(value)?;
        *self.0 = secret.map(|secret| signing_key(&secret)).transpose()?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(if self.0.is_some() { HIDDEN } else { "" })
    }

    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

/// The key that a text stands for.
pub(in crate::config) fn signing_key(secret: &Secret) -> Result<LoginKey, String> {
    LoginKey::new(secret.expose()).ok_or_else(|| {
        format!("expected at least {LEAST_KEY} characters, such as `openssl rand -hex 32` gives")
    })
}

pub(super) struct PublicKey<'a>(pub(super) &'a mut Option<String>);

impl Field for PublicKey<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let text = value.text().ok_or("expected a JWK or a public key as PEM, in quotes")?;
        if !text.is_empty() {
            KeySet::read(text.as_bytes(), Secrecy::Private).map_err(|error| error.to_string())?;
        }
        *self.0 = Some(text.to_owned()).filter(|text| !text.is_empty());
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0.as_deref().unwrap_or_default())
    }

    /// It may be a secret all the same.
    fn redact(&self, _value: &Value) -> String {
        HIDDEN.into()
    }
}

pub(super) struct Level<'a>(pub(super) &'a mut String);

impl Field for Level<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected error, warn, info, debug, trace or off, or filters such as \"info,pgusher::pool=debug\"";
        let text = value.text().filter(|text| !text.trim().is_empty()).ok_or(expected)?;
        log::check_level(text).map_err(|error| format!("{expected} ({error})"))?;
        *self.0 = text.to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}
