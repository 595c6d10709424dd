//! Names with a value each: settings of a server, maps of users, variables and claims.
//!
//! The promises are those of [`Field`].

use crate::config::field::amount::OneOf;
use crate::config::field::{Field, OFF};
use crate::config::options;
use crate::config::value::{Value, quoted};
use crate::config::word::word;
use crate::session::{self, Pattern};

pub(super) struct Settings<'a>(pub(super) &'a mut Vec<(String, String)>);

impl Field for Settings<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = match value {
            Value::Table(entries) => {
                entries.iter().map(|(name, value)| Some((name.clone(), scalar(value)?))).collect()
            }
            Value::Word(text) => options::settings(text),
            _ => None,
        };
        let read: Vec<(String, String)> =
            read.ok_or("expected { name = \"value\", … } (in a variable: `-c name=value -c name=value`)")?;
        if let Some((name, _)) = read.iter().find(|(name, _)| !options::is_setting(name)) {
            return Err(format!("{name:?} is not the name of a setting a server can be started with"));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> = self.0.iter().map(|(name, value)| (name.clone(), quoted(value))).collect();
        table(&entries)
    }
}

pub(super) struct UserMap<'a>(pub(super) &'a mut Vec<(String, String)>);

impl Field for UserMap<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = match value {
            Value::Table(entries) => mapped(entries),
            Value::Word(text) => {
                let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                pairs.map(|pair| pair.rsplit_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()))).collect()
            }
            _ => None,
        };
        let read = read.filter(|map| map.iter().all(|(name, user)| !name.is_empty() && !user.is_empty()));
        *self.0 = read.ok_or(
            "expected { \"name\" = \"user\", \"name\" = [\"user\", \"user\"], … } (in a variable: `name=user,name=user`)",
        )?;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> =
            self.0.iter().map(|(name, user)| format!("{} = {}", quoted(name), quoted(user))).collect();
        if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
    }
}

/// Each name with each of its users.
fn mapped(entries: &[(String, Value)]) -> Option<Vec<(String, String)>> {
    let mut map = Vec::new();
    for (name, users) in entries {
        let users = users.texts().filter(|users| !users.is_empty())?;
        map.extend(users.into_iter().map(|user| (name.clone(), user.to_owned())));
    }
    Some(map)
}

/// The value of a server's setting: text, a number or on and off.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(if *value { "on" } else { OFF }.into()),
        Value::Integer(number) => Some(number.to_string()),
        value => value.text().map(Into::into),
    }
}

pub(super) struct Variable<'a>(pub(super) &'a mut String);

impl Field for Variable<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let is_custom = |name: &&str| name.contains('.') && options::is_variable(name);
        *self.0 = value
            .text()
            .filter(is_custom)
            .ok_or("expected the name of a custom variable: two or more parts of letters, digits, _ and $, joined by dots")?
            .to_owned();
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }
}

pub(super) struct Variables<'a>(pub(super) &'a mut Vec<session::Variable>);

impl Field for Variables<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected { \"app.tenant_id\" = \"uuid\", … } (in a variable: `app.tenant_id=uuid,…`): names of custom variables, each with a pattern";
        let mut read: Vec<session::Variable> = Vec::new();
        for (name, pattern) in pairs(value).ok_or(expected)? {
            let mut variable = session::Variable { name: String::new(), pattern: Pattern::default() };
            Variable(&mut variable.name).read(&Value::Text(name))?;
            OneOf(&mut variable.pattern).read(&pattern)?;
            if read.iter().any(|other| other.name.eq_ignore_ascii_case(&variable.name)) {
                return Err(format!("{} is there twice; names of variables have no case", variable.name));
            }
            read.push(variable);
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        let entries: Vec<_> = self.0.iter().map(|it| (quoted(&it.name), quoted(word(&it.pattern)))).collect();
        table(&entries)
    }
}

pub(super) struct Claims<'a>(pub(super) &'a mut Vec<(String, String)>);

impl Field for Claims<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let expected = "expected { sub = \"app.current_user_id\", … } (in a variable: `sub=app.current_user_id,…`): claims of a token, each with the variable it gives its value";
        let mut read: Vec<(String, String)> = Vec::new();
        for (claim, target) in pairs(value).ok_or(expected)? {
            let mut variable = String::new();
            Variable(&mut variable).read(&target)?;
            if claim.is_empty() {
                return Err(expected.into());
            }
            if read.iter().any(|(_, other)| other.eq_ignore_ascii_case(&variable)) {
                return Err(format!("two claims give {variable} its value"));
            }
            read.push((claim, variable));
        }
        *self.0 = read;
        Ok(())
    }

    fn show(&self) -> String {
        table(&self.0.iter().map(|(claim, variable)| (claim.clone(), quoted(variable))).collect::<Vec<_>>())
    }
}

/// Names with what stands behind each: a table, or in a variable `name=value,…`.
fn pairs(value: &Value) -> Option<Vec<(String, Value)>> {
    let pair = |text: &str| {
        let (name, value) = text.split_once('=')?;
        Some((name.trim().to_owned(), Value::Word(value.trim().to_owned())))
    };
    match value {
        Value::Table(entries) => Some(entries.clone()),
        Value::Word(_) => value.texts()?.into_iter().map(pair).collect(),
        _ => None,
    }
}

/// Names and values as an inline table.
fn table(entries: &[(String, String)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    if entries.is_empty() { "{}".into() } else { format!("{{ {} }}", entries.join(", ")) }
}
