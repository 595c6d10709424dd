//! Which outside name may be which user: maps in the words of `pg_ident.conf`.
//!
//! Whoever is known from outside (to the operating system by a socket, to a certificate authority by a certificate) has a name
//! there, which need not be the name of a role here.
//!
//! # Promises
//! - Without a map the names must be the same, to the letter.
//! - A map permits what one of its lines says, and nothing else; a map without lines permits nobody.
//!
//! # Refuses
//! Regular expressions: `*` in the outside name stands for any part of it, once, and `\1` in the user for that part.
//!
//! PostgreSQL docs, "User Name Maps".

/// One line of a map: `map-name system-username database-username`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    map: Box<str>,
    system: Box<str>,
    user: Box<str>,
}

impl Mapping {
    /// Reads one line; `None` if it is not three names, or has what is not supported.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (map, system, user) = (words.next()?, words.next()?, words.next()?);
        let is_odd = words.next().is_some()
            || system.starts_with('/')
            || user.starts_with(['/', '+'])
            || system.matches('*').count() > 1
            || (user.contains(PART) && !system.contains('*'));
        (!is_odd).then(|| Self { map: map.into(), system: system.into(), user: user.into() })
    }

    /// The map it is a line of.
    pub fn map(&self) -> &str {
        &self.map
    }

    fn permits(&self, outside: &str, user: &[u8]) -> bool {
        let Some(part) = self.part(outside) else { return false };
        if &*self.user == "all" {
            return true;
        }
        self.user.replace(PART, part).as_bytes() == user
    }

    /// What `*` stands for if this line is about `outside`; nothing if it has none.
    fn part<'o>(&self, outside: &'o str) -> Option<&'o str> {
        match self.system.split_once('*') {
            None => (outside == &*self.system).then_some(""),
            Some((front, back)) => {
                // What it stands for is not empty: nobody is mapped to a part of a pattern.
                outside.strip_prefix(front)?.strip_suffix(back).filter(|part| !part.is_empty())
            }
        }
    }
}

/// Whether somebody known outside by any of these names may be `user`.
pub fn permits(mappings: &[Mapping], map: Option<&str>, outside: &[String], user: &[u8]) -> bool {
    outside.iter().any(|outside| match map {
        None => outside.as_bytes() == user,
        Some(map) => {
            let mut lines = mappings.iter().filter(|mapping| &*mapping.map == map);
            lines.any(|mapping| mapping.permits(outside, user))
        }
    })
}

/// What stands for the part that `*` stood for.
const PART: &str = r"\1";

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(lines: &[&str], map: Option<&str>, outside: &str, user: &str) -> bool {
        let mappings: Vec<_> = lines.iter().map(|line| Mapping::parse(line).unwrap()).collect();
        permits(&mappings, map, &[outside.to_owned()], user.as_bytes())
    }

    #[test]
    fn without_a_map_the_names_are_the_same() {
        assert!(permitted(&[], None, "ann", "ann"));
        assert!(!permitted(&["m ann bob"], None, "ann", "bob"));
        assert!(!permitted(&[], None, "Ann", "ann"));
    }

    #[test]
    fn a_map_permits_what_its_lines_say() {
        let lines = [
            "m root postgres",
            "m root app # also",
            r"m spiffe://shop/* \1",
            "m boss all",
            "other x y",
            r"n *@shop.example u_\1",
        ];
        for (map, outside, user, expected) in [
            ("m", "root", "postgres", true),
            ("m", "root", "app", true),
            ("m", "root", "root", false),
            ("m", "spiffe://shop/app", "app", true),
            ("m", "spiffe://shop/app", "ann", false),
            ("m", "spiffe://shop/", "", false),
            ("m", "boss", "anybody", true),
            ("m", "x", "y", false),
            ("n", "ann@shop.example", "u_ann", true),
            ("n", "ann@shop.example.evil", "u_ann", false),
            ("none", "root", "root", false),
        ] {
            assert_eq!(permitted(&lines, Some(map), outside, user), expected, "{map} {outside} {user}");
        }
    }

    #[test]
    fn what_is_not_three_names_is_refused() {
        for line in [
            "",
            "m",
            "m a",
            "m a b c",
            "# m a b",
            r"m /^(.*)$ \1",
            "m a +admins",
            "m * *",
            r"m a \1",
            "m a*b*c d",
        ] {
            let is_good = line == "m * *";
            assert_eq!(Mapping::parse(line).is_some(), is_good, "{line}");
        }
    }
}
