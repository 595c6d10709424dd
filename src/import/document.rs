//! TOML, written.
//!
//! # Promises
//! - Any text is quoted so that it reads back as itself; keys in the order they were set, tables in the order they began.
//! - An empty table is written too: a database of which nothing is known but its name is still one.
//!
//! # Refuses
//! To know which keys there are.

use std::fmt::{self, Write as _};

/// A value that our configuration has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Item {
    /// A number.
    Number(i64),
    /// Texts in brackets.
    Texts(Vec<String>),
    /// Names and texts in braces.
    Pairs(Vec<(String, String)>),
    /// Text in quotes.
    Text(String),
}

impl From<i64> for Item {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Item {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Item {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A list of one is written as that one.
impl From<Vec<String>> for Item {
    fn from(mut texts: Vec<String>) -> Self {
        match texts.len() {
            1 => texts.pop().map_or(Self::Texts(Vec::new()), Self::Text),
            _ => Self::Texts(texts),
        }
    }
}

/// One `[header]` and what is under it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Table {
    header: String,
    lines: Vec<(&'static str, Item, &'static str)>,
}

impl Table {
    /// `[name]`.
    pub(super) fn section(name: &str) -> Self {
        Self { header: name.into(), lines: Vec::new() }
    }

    /// `[section.name]`.
    pub(super) fn named(section: &str, name: &str) -> Self {
        Self::section(&format!("{section}.{}", key(name)))
    }

    /// Whether nothing is set.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// `key = item`.
    pub(super) fn set(&mut self, key: &'static str, item: impl Into<Item>) {
        self.set_because(key, item, "");
    }

    /// `key = item  # why`.
    pub(super) fn set_because(&mut self, key: &'static str, item: impl Into<Item>, why: &'static str) {
        self.lines.push((key, item.into(), why));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[{}]", self.header)?;
        for (key, item, why) in &self.lines {
            match *why {
                "" => writeln!(f, "{key} = {item}")?,
                why => writeln!(f, "{key} = {item}  # {why}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Pairs(pairs) => {
                let pairs: Vec<_> =
                    pairs.iter().map(|(name, value)| format!("{} = {}", key(name), quoted(value))).collect();
                write!(f, "{{ {} }}", pairs.join(", "))
            }
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Texts(texts) => {
                let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

/// A key, in quotes if it must be.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quoted(name) }
}

/// A basic string: TOML 1.0, "String".
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_is_written_in_order() {
        let mut table = Table::named("databases", "my db");
        table.set("host", vec!["a".to_owned()]);
        table.set("port", 5433);
        table.set_because("size", 20, "why");
        table.set("settings", Item::Pairs(vec![("a.b".into(), "1".into())]));

        assert_eq!(
            table.to_string(),
            "[databases.\"my db\"]\nhost = \"a\"\nport = 5433\nsize = 20  # why\nsettings = { \"a.b\" = \"1\" }\n"
        );
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_itself(name in any::<String>(), value in any::<String>()) {
            let mut table = Table::named("databases", &name);
            table.set("user", value.clone());

            let text = table.to_string();
            let read = toml::de::DeTable::parse(&text).unwrap().into_inner();
            let databases = read.get("databases").unwrap().get_ref().as_table().unwrap();
            let database = databases.get(name.as_str()).unwrap().get_ref().as_table().unwrap();

            prop_assert_eq!(database.get("user").unwrap().get_ref().as_str(), Some(value.as_str()));
        }
    }
}
