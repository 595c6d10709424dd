//! The configuration file: TOML, walked against the table of keys.
//!
//! Deserialising into a struct would stop at the first mistake. The table is walked instead, and nothing is judged
//! but the shape: which section, which key, which kind of notation.
//!
//! # Promises
//! - Every value that has a key is in the ledger, with its line; everything else is a problem, all of them named.
//! - The text of the file is never repeated in a problem: what has no key may be a misspelt password.
//!
//! # Refuses
//! To open files, to judge values.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::config::keys::Section;
use crate::config::ledger::{Ledger, Place, table};
use crate::config::problem::{Problem, Source, did_you_mean};
use crate::config::value::Value;

/// Reads the text of the file into the ledger; says whether it was TOML.
pub(super) fn read(path: &Path, text: &str, ledger: &mut Ledger, problems: &mut Vec<Problem>) -> bool {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut walk = Walk { path, text, ledger, problems };
    for error in &errors {
        let source = walk.at(error.span().map_or(0, |span| span.start));
        walk.problems.push(Problem::new(source, "", error.message()));
    }
    // What is recovered from broken TOML is a guess, and would be blamed for what was not written.
    if errors.is_empty() {
        walk.document(document.get_ref());
    }
    errors.is_empty()
}

/// One pass over the file.
struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    ledger: &'a mut Ledger,
    problems: &'a mut Vec<Problem>,
}

/// A key of TOML, and what it says.
type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

impl Walk<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for entry in in_order(document) {
            self.table("", entry);
        }
    }

    /// A section, or what comes before the dot in the names of several.
    fn table(&mut self, before: &str, (key, value): Entry<'_, '_>) {
        let word = format!("{before}{}", key.get_ref());
        let section = Section::ALL.into_iter().find(|section| section.word() == word);
        let group = format!("{word}.");
        match (section, value.get_ref()) {
            (Some(section), DeValue::Table(entries)) if section.is_named() => self.named(section, entries),
            (Some(section), DeValue::Table(entries)) => self.section(section, "", entries),
            (Some(section), _) => {
                self.refuse(key, section.word(), format!("expected a section, [{section}]"))
            }
            (None, DeValue::Table(entries))
                if Section::ALL.iter().any(|section| section.word().starts_with(&group)) =>
            {
                in_order(entries).into_iter().for_each(|entry| self.table(&group, entry));
            }
            (None, _) => {
                let near = did_you_mean(&word, Section::ALL.map(Section::word));
                self.refuse(key, &word, format!("unknown section{near}"));
            }
        }
    }

    fn named(&mut self, section: Section, entries: &DeTable<'_>) {
        for (name, value) in in_order(entries) {
            let header = table(section, name.get_ref());
            match value.get_ref() {
                _ if name.get_ref().is_empty() || name.get_ref().contains('\0') => {
                    self.refuse(name, &header, "a name is neither empty nor has a NUL".into());
                }
                DeValue::Table(entries) => {
                    self.ledger.declare(section, name.get_ref(), self.at(name.span().start));
                    self.section(section, name.get_ref(), entries);
                }
                _ => self.refuse(name, &header, format!("expected a section, [{section}.NAME]")),
            }
        }
    }

    fn section(&mut self, section: Section, name: &str, entries: &DeTable<'_>) {
        for (key, value) in in_order(entries) {
            let Some(known) = section.key(key.get_ref()) else {
                let place = format!("{}.{}", table(section, name), key.get_ref());
                self.refuse(key, &place, unknown_key(section, key.get_ref()));
                continue;
            };
            let place = Place { section, name: name.to_owned(), key: known };
            self.ledger.write(place, converted(value.get_ref()), self.at(key.span().start));
        }
    }

    fn refuse(&mut self, key: &Spanned<DeString<'_>>, place: &str, reason: String) {
        self.problems.push(Problem::new(self.at(key.span().start), place, reason));
    }

    /// The line of a byte.
    fn at(&self, offset: usize) -> Source {
        let before = self.text.as_bytes().iter().take(offset);
        Source::File(self.path.to_owned(), 1 + before.filter(|byte| **byte == b'\n').count())
    }
}

/// What to say of a key that its section does not have.
fn unknown_key(section: Section, key: &str) -> String {
    let near = did_you_mean(key, section.keys());
    let elsewhere: Vec<_> =
        Section::ALL.into_iter().filter(|other| other.key(key).is_some()).map(table_of).collect();
    if elsewhere.is_empty() || !near.is_empty() {
        return format!("unknown key{near}");
    }
    format!("unknown key; it belongs in {}", elsewhere.join(" or "))
}

/// The header of a section, in brackets.
fn table_of(section: Section) -> String {
    if section.is_named() { format!("[{section}.NAME]") } else { format!("[{section}]") }
}

/// A TOML value, without its spans.
fn converted(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Array(items) => Value::List(items.iter().map(|item| converted(item.get_ref())).collect()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => Value::Other("date"),
        DeValue::Float(_) => Value::Other("number with a fraction"),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("number too large"),
        },
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Table(entries) => {
            let entry = |(key, value): Entry<'_, '_>| (key.get_ref().to_string(), converted(value.get_ref()));
            Value::Table(in_order(entries).into_iter().map(entry).collect())
        }
    }
}

/// The entries of a table as they are written, which is not how they are kept.
fn in_order<'a, 'i>(entries: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(usize, String, String)> {
        let mut problems = Vec::new();
        read(Path::new("f"), text, &mut Ledger::default(), &mut problems);
        let line = |source: Source| if let Source::File(_, line) = source { line } else { 0 };
        problems.into_iter().map(|problem| (line(problem.source), problem.key, problem.reason)).collect()
    }

    #[test]
    fn values_are_noted_with_their_lines() {
        let mut ledger = Ledger::default();
        let mut problems = Vec::new();

        let text = "[pool]\nsize = 1_0\n\n[databases.\"*\"]\nsettings = { z = \"1\", a = 2 }\n[users.a]\n";
        read(Path::new("f"), text, &mut ledger, &mut problems);

        assert_eq!(problems, []);
        assert_eq!(ledger.source(Section::Pool, "", "size"), Some(&Source::File("f".into(), 2)));
        let written: Vec<_> =
            ledger.table(Section::Databases, "*").map(|(_, value, _)| value.clone()).collect();
        let settings = vec![("z".into(), Value::Text("1".into())), ("a".into(), Value::Integer(2))];
        assert_eq!(written, [Value::Table(settings)]);
        assert_eq!(ledger.names(Section::Users).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn everything_of_unknown_shape_is_named_at_once() {
        let found = problems(
            "listen = 3\n[pol]\n[pool]\nszie = 1\nauth = 2\nzzz = 3\n[databases]\na = 1\n\"\" = {}\n[databases.\"b c\"]\nhots = 1\n",
        );

        assert_eq!(
            found
                .iter()
                .map(|(line, key, reason)| (*line, key.as_str(), reason.as_str()))
                .collect::<Vec<_>>(),
            [
                (1, "listen", "expected a section, [listen]"),
                (2, "pol", "unknown section; did you mean pool?"),
                (4, "pool.szie", "unknown key; did you mean size?"),
                (5, "pool.auth", "unknown key; it belongs in [listen]"),
                (6, "pool.zzz", "unknown key"),
                (8, "databases.a", "expected a section, [databases.NAME]"),
                (9, "databases.\"\"", "a name is neither empty nor has a NUL"),
                (11, "databases.\"b c\".hots", "unknown key; did you mean host?"),
            ]
        );
    }

    #[test]
    fn every_error_of_syntax_is_named_without_the_text() {
        let found = problems(
            "[users.a]\npassword = hunter2\n[pool]\nsize = \n[pool]\n[users.b]\npassword = \"hunter2\n",
        );

        assert!(found.len() >= 3, "{found:?}");
        assert_eq!((found[0].0, found[1].0), (2, 4));
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }

    #[test]
    fn two_databases_of_one_name_are_an_error() {
        let found = problems("[databases.a]\nhost = \"x\"\n[databases.a]\nhost = \"y\"\n");

        assert_eq!(found[0].0, 3);
        assert!(found[0].2.contains("duplicate"), "{found:?}");
    }
}
