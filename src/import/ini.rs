//! PgBouncer's dialect of ini.
//!
//! # Promises
//! - Lines are read as `parse_ini_file` of libusual's cfparser.c reads them: comments only at the beginning of a line,
//!   values to its end, names in quotes if they are not of letters, digits and `_.-*`.
//! - `%include` is followed, to the same depth, relative to the working directory.
//! - After something that cannot be understood, reading goes on with the next line, so that all of it is said at once.
//!
//! # Refuses
//! To know sections and keys; to repeat a line that it did not understand, which may hold a password.

use std::io;
use std::path::Path;

use crate::import::remark::{Kind, Remarks, Spot};

/// One `key = value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Where it is written.
    pub(super) spot: Spot,
    /// The section it is in; empty before the first.
    pub(super) section: String,
    /// The key, or the name of a database, user or peer.
    pub(super) key: String,
    /// The value.
    pub(super) value: String,
}

/// What is written, in order.
#[derive(Default)]
pub(super) struct Contents {
    /// Every `key = value`.
    pub(super) entries: Vec<Entry>,
    /// Every `[section]`, also an empty one.
    pub(super) sections: Vec<(Spot, String)>,
}

/// Reads a file and what it includes.
pub(super) fn read(
    path: &Path,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
    remarks: &mut Remarks,
) -> Contents {
    let mut reader = Reader {
        read_file,
        remarks,
        section: String::new(),
        contents: Contents::default(),
        is_too_deep: false,
    };
    reader.file(path, 0, &Spot { file: path.to_owned(), line: 0 });
    reader.contents
}

struct Reader<'a> {
    read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    remarks: &'a mut Remarks,
    /// A section goes on in an included file, and after it.
    section: String,
    contents: Contents,
    /// Files that include each other twice would be read a thousand times: the first that is too deep is the last.
    is_too_deep: bool,
}

/// What a line is.
#[derive(PartialEq, Eq, Debug)]
enum Line<'a> {
    Entry(String, &'a str),
    Include(&'a str),
    Nothing,
    Section(&'a str),
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize, named_at: &Spot) {
        let bytes = match (self.read_file)(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let reason = format!("{} cannot be read: {error}", path.display());
                return self.remarks.add(Kind::Error, named_at, "", reason);
            }
        };
        for (number, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
            let spot = Spot { file: path.to_owned(), line: number };
            let line = std::str::from_utf8(bytes).map_err(|_| "the line is not UTF-8").and_then(line);
            match line {
                Ok(Line::Entry(key, value)) if value.contains('\0') || key.contains('\0') => {
                    self.remarks.add(Kind::Error, &spot, "", "the line holds a NUL");
                }
                Ok(Line::Entry(key, value)) => self.entry(spot, key, value),
                Ok(Line::Include(_)) if self.is_too_deep => {}
                Ok(Line::Include(_)) if depth >= MOST_INCLUDES => {
                    self.is_too_deep = true;
                    self.remarks.add(Kind::Error, &spot, "%include", "files include each other too deeply");
                }
                Ok(Line::Include(name)) => self.file(Path::new(name), depth + 1, &spot),
                Ok(Line::Nothing) => {}
                Ok(Line::Section(name)) => {
                    name.clone_into(&mut self.section);
                    self.contents.sections.push((spot, name.to_owned()));
                }
                Err(reason) => self.remarks.add(Kind::Error, &spot, "", reason),
            }
        }
    }

    fn entry(&mut self, spot: Spot, key: String, value: &str) {
        if self.section.is_empty() {
            return self.remarks.add(Kind::Error, &spot, key, "it stands before the first [section]");
        }
        self.contents.entries.push(Entry {
            spot,
            section: self.section.clone(),
            key,
            value: value.to_owned(),
        });
    }
}

/// What one line says.
fn line(text: &str) -> Result<Line<'_>, &'static str> {
    let text = text.trim_matches(is_space);
    if let Some(name) = text.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
        return Ok(Line::Include(name.trim_start_matches([' ', '\t'])));
    }
    match text.chars().next() {
        None | Some('#' | ';') => Ok(Line::Nothing),
        Some('[') => section(text),
        Some(_) => entry(text),
    }
}

/// `[name]`. PgBouncer would read on behind it; nobody writes anything there but a comment.
fn section(text: &str) -> Result<Line<'_>, &'static str> {
    let inside = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, rest) = inside.ok_or("a section is not closed with `]`")?;
    let rest = rest.trim_start_matches(is_space);
    if !(rest.is_empty() || rest.starts_with(['#', ';'])) {
        return Err("something follows the `]` of a section");
    }
    Ok(Line::Section(name))
}

fn entry(text: &str) -> Result<Line<'_>, &'static str> {
    let (key, rest) = name(text)?;
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=').ok_or(EXPECTED)?;
    Ok(Line::Entry(key, value.trim_start_matches([' ', '\t'])))
}

/// A key, and what is behind it. cfparser.c quotes with `'`, PgBouncer's documentation with `"` and `""` inside.
fn name(text: &str) -> Result<(String, &str), &'static str> {
    if let Some(rest) = text.strip_prefix('\'') {
        let (name, rest) = rest.split_once('\'').ok_or(UNCLOSED)?;
        return if name.is_empty() { Err(EXPECTED) } else { Ok((name.to_owned(), rest)) };
    }
    if let Some(rest) = text.strip_prefix('"') {
        return double_quoted(rest);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
    let (name, rest) = text.split_at(text.find(|c| !is_plain(c)).unwrap_or(text.len()));
    if name.is_empty() { Err(EXPECTED) } else { Ok((name.to_owned(), rest)) }
}

fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or(UNCLOSED)?;
        name += before;
        rest = after;
        match after.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None if name.is_empty() => return Err(EXPECTED),
            None => return Ok((name, rest)),
        }
    }
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    c == '\u{b}' || c.is_ascii_whitespace()
}

const EXPECTED: &str = "expected `key = value`, `[section]`, `%include file` or a comment";
const MOST_INCLUDES: usize = 10;
const UNCLOSED: &str = "a quote is not closed";

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut remarks = Remarks::default();
        let read_file = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let entries = read(Path::new("a.ini"), &read_file, &mut remarks).entries;
        let entries = entries.iter().map(|entry| format!("{}/{}={}", entry.section, entry.key, entry.value));
        let remarks = remarks.iter().map(|remark| format!("{}: {}", remark.spot, remark.reason));
        (entries.collect(), remarks.collect())
    }

    #[test]
    fn lines_are_read_as_pgbouncer_reads_them() {
        for (text, expected) in [
            ("", Ok(Line::Nothing)),
            ("  ; a = b", Ok(Line::Nothing)),
            ("# a = b", Ok(Line::Nothing)),
            ("[databases]", Ok(Line::Section("databases"))),
            ("\t[pgbouncer]  ; comment", Ok(Line::Section("pgbouncer"))),
            ("[pgbouncer] a = b", Err("something follows the `]` of a section")),
            ("[pgbouncer", Err("a section is not closed with `]`")),
            ("%include /etc/a b.ini\r", Ok(Line::Include("/etc/a b.ini"))),
            ("%included", Err(EXPECTED)),
            ("a=b", Ok(Line::Entry("a".into(), "b"))),
            ("  a.b-c_* \t=\t b ; c # d  \r", Ok(Line::Entry("a.b-c_*".into(), "b ; c # d"))),
            ("a =", Ok(Line::Entry("a".into(), ""))),
            ("* = host=h", Ok(Line::Entry("*".into(), "host=h"))),
            ("'my db' = host=h", Ok(Line::Entry("my db".into(), "host=h"))),
            ("\"my \"\"db\"\"\" = x", Ok(Line::Entry("my \"db\"".into(), "x"))),
            ("'' = x", Err(EXPECTED)),
            ("\"\" = x", Err(EXPECTED)),
            ("'a = x", Err(UNCLOSED)),
            ("\"a\"\" = x", Err(UNCLOSED)),
            ("é = x", Err(EXPECTED)),
            ("a b = x", Err(EXPECTED)),
            ("a", Err(EXPECTED)),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn an_included_file_goes_on_in_the_section_and_may_change_it() {
        let (entries, remarks) = entries(&[
            ("a.ini", "[databases]\nx = 1\n%include b.ini\ny = 2\n"),
            ("b.ini", "z = 3\n[pgbouncer]\nw = 4\n"),
        ]);

        assert_eq!(entries, ["databases/x=1", "databases/z=3", "pgbouncer/w=4", "pgbouncer/y=2"]);
        assert_eq!(remarks, [""; 0]);
    }

    #[test]
    fn a_file_that_includes_itself_is_an_error_and_ends() {
        let (_, remarks) = entries(&[("a.ini", "%include a.ini\n")]);

        assert_eq!(remarks, ["a.ini:1: files include each other too deeply"]);
    }

    #[test]
    fn everything_that_cannot_be_understood_is_said_at_once() {
        let (entries, remarks) =
            entries(&[("a.ini", "a = 1\n[pgbouncer]\nnonsense\n%include gone.ini\nb = 2\nc = \0\n")]);

        assert_eq!(entries, ["pgbouncer/b=2"]);
        assert_eq!(
            remarks,
            [
                "a.ini:1: it stands before the first [section]",
                "a.ini:3: expected `key = value`, `[section]`, `%include file` or a comment",
                "a.ini:4: gone.ini cannot be read: entity not found",
                "a.ini:6: the line holds a NUL",
            ]
        );
    }
}
