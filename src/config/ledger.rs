//! What was written, by key, the strongest source winning.
//!
//! The file, the environment and the flags all write here, in this order; what they have in common ends here.
//!
//! # Promises
//! - One value for each place: the one written last. Its source is kept, to blame.
//!
//! # Refuses
//! To read a value: only the key's field knows what it means.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::keys::Section;
use crate::config::problem::Source;
use crate::config::value::Value;

/// A key in its section.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) struct Place {
    /// The section.
    pub(super) section: Section,
    /// Which database or user; empty in the other sections.
    pub(super) name: String,
    /// The key, of the table.
    pub(super) key: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", table(self.section, &self.name), self.key)
    }
}

/// The header of a section, as it would be written.
pub(super) fn table(section: Section, name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match (section.is_named(), !name.is_empty() && name.chars().all(is_bare)) {
        (false, _) => section.to_string(),
        (true, true) => format!("{section}.{name}"),
        (true, false) => format!("{section}.{name:?}"),
    }
}

/// Everything that was written.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    entries: BTreeMap<Place, (Value, Source)>,
    names: BTreeMap<(Section, String), Source>,
}

impl Ledger {
    /// Notes a value, over any weaker one.
    pub(super) fn write(&mut self, place: Place, value: Value, source: Source) {
        self.declare(place.section, &place.name, source.clone());
        self.entries.insert(place, (value, source));
    }

    /// Notes that there is such a database or user, even if nothing is written about it.
    pub(super) fn declare(&mut self, section: Section, name: &str, source: Source) {
        if section.is_named() {
            self.names.entry((section, name.to_owned())).or_insert(source);
        }
    }

    /// Forgets what was written there.
    pub(super) fn erase(&mut self, section: Section, name: &str, key: &'static str) {
        self.entries.remove(&Place { section, name: name.to_owned(), key });
    }

    /// Where that was written, if it was.
    pub(super) fn source(&self, section: Section, name: &str, key: &'static str) -> Option<&Source> {
        self.entries.get(&Place { section, name: name.to_owned(), key }).map(|(_, source)| source)
    }

    /// Where the first word about this database or user is.
    pub(super) fn declaration(&self, section: Section, name: &str) -> Source {
        self.names.get(&(section, name.to_owned())).cloned().unwrap_or(Source::Nowhere)
    }

    /// The databases or users there are.
    pub(super) fn names(&self, section: Section) -> impl Iterator<Item = &str> {
        self.names.keys().filter(move |(of, _)| *of == section).map(|(_, name)| name.as_str())
    }

    /// What was written in one table.
    pub(super) fn table(
        &self,
        section: Section,
        name: &str,
    ) -> impl Iterator<Item = (&Place, &Value, &Source)> {
        let entries =
            self.entries.iter().filter(move |(place, _)| place.section == section && place.name == name);
        entries.map(|(place, (value, source))| (place, value, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_wins_and_keeps_its_source() {
        let place = Place { section: Section::Databases, name: "*".into(), key: "host" };
        let mut ledger = Ledger::default();

        ledger.write(place.clone(), Value::Text("a".into()), Source::File("f".into(), 3));
        ledger.write(place.clone(), Value::Word("b".into()), Source::Flag("--x"));

        let found: Vec<_> = ledger.table(Section::Databases, "*").collect();
        assert_eq!(found, [(&place, &Value::Word("b".into()), &Source::Flag("--x"))]);
        assert_eq!(ledger.declaration(Section::Databases, "*"), Source::File("f".into(), 3));
        assert_eq!(place.to_string(), "databases.\"*\".host");
    }
}
