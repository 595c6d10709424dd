//! Session settings: what a client wants, what a server has, and the difference.
//!
//! Two tables that look alike and are not. [`Parameters`] are values a server *reports* (ParameterStatus): facts, in the
//! server's own spelling. [`Values`] are settings a client *asked for*, at startup or by SET: wishes, to be sent along
//! with its first words on each server that has others.
//!
//! # Promises
//! - Both are cheap to share and to compare: equal tables are usually the same allocation, and those of clients and servers
//!   that meet [come to be](Parameters::unite).
//! - Names compare as PostgreSQL compares them, without regard to ASCII case.
//!
//! # Refuses
//! To judge values: the server does.

use std::sync::Arc;

type Entry = (Box<[u8]>, Box<[u8]>);

/// A sorted table of names and values, shared until it is changed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
struct Table(Arc<Vec<Entry>>);

impl Table {
    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        let wanted = || name.iter().map(u8::to_ascii_lowercase);
        self.0.binary_search_by(|(known, _)| known.iter().map(u8::to_ascii_lowercase).cmp(wanted()))
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self.position(name).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Whether this changed anything.
    fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        if self.get(name) == Some(value) {
            return false;
        }
        let place = self.position(name);
        let entries = Arc::make_mut(&mut self.0);
        match place {
            Ok(at) => {
                if let Some(entry) = entries.get_mut(at) {
                    entry.1 = value.into();
                }
            }
            Err(at) => entries.insert(at, (name.into(), value.into())),
        }
        true
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }

    /// Of two equal tables the same one always stays, so that tables that meet in whatever order all come to share one.
    fn unite(&mut self, other: &mut Self) -> bool {
        if Arc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        if self != other {
            return false;
        }
        if Arc::as_ptr(&self.0) < Arc::as_ptr(&other.0) {
            other.0 = self.0.clone();
        } else {
            self.0 = other.0.clone();
        }
        true
    }
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
        pub struct $name(Table);

        impl $name {
            /// The value under `name`.
            pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
                self.0.get(name)
            }

            /// Puts `value` under `name`; whether that changed anything.
            pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
                self.0.set(name, value)
            }

            /// Names and values, sorted by name.
            pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
                self.0.iter()
            }

            /// Whether both hold the same, decided at once when they are the same allocation.
            pub fn is_same(&self, other: &Self) -> bool {
                self.0.is_same(&other.0)
            }

            /// The same; and if so, both are in one allocation from now on.
            pub fn unite(&mut self, other: &mut Self) -> bool {
                self.0.unite(&mut other.0)
            }

            /// Whether there is nothing in it.
            pub fn is_empty(&self) -> bool {
                self.0.0.is_empty()
            }
        }

        impl<'a> FromIterator<(&'a [u8], &'a [u8])> for $name {
            fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(entries: I) -> Self {
                let mut table = Self::default();
                for (name, value) in entries {
                    table.set(name, value);
                }
                table
            }
        }
    };
}

table!(
    /// What a server has reported, or a client has been told.
    Parameters
);
table!(
    /// What a client asked for, or what is set on a server in a client's name.
    Values
);

impl Values {
    /// The names set here that `wanted` has no wish for: they go back to their defaults.
    pub fn to_reset<'a>(&'a self, wanted: &'a Self) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(|(name, _)| wanted.value(name).is_none()).map(|(name, _)| name)
    }

    /// These, and of `base` what they have no wish for.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let mut all = base.clone();
        for (name, value) in self.iter() {
            all.set(name, value);
        }
        all
    }

    /// These without what is the same in `base`.
    #[must_use]
    pub fn beyond(&self, base: &Self) -> Self {
        self.iter().filter(|(name, value)| base.value(name) != Some(*value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(entries: &[(&str, &str)]) -> Values {
        entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    #[test]
    fn a_name_is_found_whatever_its_case() {
        let values = values(&[("TimeZone", "UTC"), ("datestyle", "ISO")]);

        assert_eq!(values.value(b"timezone"), Some(&b"UTC"[..]));
        assert_eq!(values.value(b"DateStyle"), Some(&b"ISO"[..]));
        assert_eq!(values.value(b"work_mem"), None);
    }

    #[test]
    fn what_nobody_wants_is_reset() {
        let (has, wanted) = (values(&[("a", "1"), ("b", "2")]), values(&[("B", "3"), ("c", "4")]));

        assert_eq!(has.to_reset(&wanted).collect::<Vec<_>>(), [b"a"]);
    }

    #[test]
    fn a_wish_wins_over_the_base_and_what_is_the_base_s_is_no_wish() {
        let (base, wanted) = (values(&[("a", "1"), ("b", "2")]), values(&[("B", "3"), ("c", "4")]));

        let all = wanted.over(&base);

        assert!(all.is_same(&values(&[("a", "1"), ("b", "3"), ("c", "4")])));
        assert!(all.beyond(&base).is_same(&values(&[("b", "3"), ("c", "4")])));
    }

    #[test]
    fn equal_tables_that_meet_come_to_share_one_allocation() {
        let mut tables = [(); 4].map(|()| values(&[("a", "1")]));
        let mut other = values(&[("a", "2")]);

        for (one, another) in [(0, 1), (2, 3), (1, 3), (0, 2), (1, 2), (0, 3)] {
            let mut met = tables[another].clone();
            assert!(tables[one].unite(&mut met));
            tables[another] = met;
        }

        let addresses = tables.each_ref().map(|table| Arc::as_ptr(&table.0.0));
        assert!(addresses.iter().all(|address| *address == addresses[0]));
        assert!(!tables[0].unite(&mut other));
    }

    #[test]
    fn a_change_does_not_reach_those_who_share_the_table() {
        let before = values(&[("a", "1")]);
        let mut after = before.clone();

        assert!(after.set(b"a", b"2"));
        assert!(!after.set(b"a", b"2"));

        assert_eq!(before.value(b"a"), Some(&b"1"[..]));
        assert!(!after.is_same(&before));
    }
}
