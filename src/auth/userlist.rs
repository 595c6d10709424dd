//! PgBouncer's `userlist.txt`: one `"user" "secret"` a line.
//!
//! Operators bring this file along, so it is read as PgBouncer reads it (`load_auth_file` in its loader.c): names and
//! secrets in double quotes, `""` for a quote inside, `;` before a comment, anything after the secret ignored.
//!
//! # Promises
//! - All broken lines are named at once, and none of their text is repeated: it may hold a secret.
//! - A broken line never swallows the next one: quotes close on the line they open.
//!
//! # Refuses
//! To open files, to judge whether a secret is a password or a verifier.

use std::collections::BTreeMap;
use std::fmt;

use crate::auth::{BadVerifier, Secret, Verifier};

/// A line that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub cause: Cause,
}

/// Every way a line can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A secret that begins as a verifier and is none.
    BadVerifier,
    /// The same user is on an earlier line, this one.
    Duplicate(usize),
    /// The name is `""`.
    EmptyName,
    /// Something other than a double quote where the name should begin.
    NoName,
    /// Nothing in double quotes after the name.
    NoSecret,
    /// A secret that is not UTF-8.
    NotText,
    /// A NUL, which no name and no password of PostgreSQL can have.
    Nul,
    /// A quote that is not closed on its line.
    Unclosed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadVerifier => "the secret begins as a SCRAM verifier and is none",
            Self::Duplicate(line) => return write!(f, "the same user is on line {line}"),
            Self::EmptyName => "the user's name is empty",
            Self::NoName => "expected \"user\" \"secret\", both in double quotes",
            Self::NoSecret => "expected a secret in double quotes after the user",
            Self::NotText => "the secret is not UTF-8",
            Self::Nul => "a NUL byte",
            Self::Unclosed => "a double quote is not closed on this line (a quote inside is written \"\")",
        })
    }
}

/// The users of a file, in its order, and their secrets: plaintext, `md5…` or `SCRAM-SHA-256$…`.
///
/// # Errors
/// Every line that cannot be used.
pub fn parse(bytes: &[u8]) -> Result<Vec<(Vec<u8>, Secret)>, Vec<Broken>> {
    let mut users = Vec::new();
    let mut broken = Vec::new();
    let mut seen = BTreeMap::new();
    for (number, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        match line(text) {
            Ok(Some((name, secret))) => match seen.insert(name.clone(), number) {
                Some(earlier) => broken.push(Broken { line: number, cause: Cause::Duplicate(earlier) }),
                None => users.push((name, secret)),
            },
            Ok(None) => {}
            Err(cause) => broken.push(Broken { line: number, cause }),
        }
    }
    if broken.is_empty() { Ok(users) } else { Err(broken) }
}

/// The user of one line; `None` for a blank or a comment.
fn line(text: &[u8]) -> Result<Option<(Vec<u8>, Secret)>, Cause> {
    let text = text.trim_ascii_start();
    if matches!(text.first(), None | Some(b';' | b'#')) {
        return Ok(None);
    }
    let (name, rest) = quoted(text, Cause::NoName)?;
    let (secret, _) = quoted(rest.trim_ascii_start(), Cause::NoSecret)?;
    if name.is_empty() {
        return Err(Cause::EmptyName);
    }
    if name.contains(&0) || secret.contains(&0) {
        return Err(Cause::Nul);
    }
    let secret = String::from_utf8(secret).map_err(|_| Cause::NotText)?;
    let secret = Secret::from(secret);
    // An empty secret is PgBouncer's way to list a user that cannot log in.
    match Verifier::from_secret(&secret) {
        Err(BadVerifier::MalformedScram) => Err(Cause::BadVerifier),
        Ok(_) | Err(BadVerifier::Empty) => Ok(Some((name, secret))),
    }
}

/// What stands in quotes at the front, and what follows it.
fn quoted(text: &[u8], absent: Cause) -> Result<(Vec<u8>, &[u8]), Cause> {
    let mut rest = text.strip_prefix(b"\"").ok_or(absent)?;
    let mut found = Vec::new();
    loop {
        let end = rest.iter().position(|byte| *byte == b'"').ok_or(Cause::Unclosed)?;
        found.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix(b"\"") else {
            return Ok((found, rest));
        };
        found.push(b'"');
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let users = parse(file.as_bytes()).unwrap();
        users.iter().map(|(name, secret)| (text(name), text(secret.expose()))).collect()
    }

    #[test]
    fn users_are_read_as_pgbouncer_reads_them() {
        let users = read(
            "; comment\n# comment\n\n\"app\" \"pa ss\"\r\n  \"a\"\"b\"\t\"c\"\"\"\n\"m\"\"d\" \"md5x\" ignored \"too\"\n\"e\"\"\" \"\"",
        );

        assert_eq!(users[0], ("app".into(), "pa ss".into()));
        assert_eq!(users[1], ("a\"b".into(), "c\"".into()));
        assert_eq!(users[2], ("m\"d".into(), "md5x".into()));
        assert_eq!(users[3], ("e\"".into(), String::new()));
    }

    #[test]
    fn every_broken_line_is_named() {
        let broken = parse(b"app secret\n\"app\"\n\"app\" \"x\n\"\" \"x\"\n\"b\" \"1\"\n\"b\" \"2\"\n\"c\" \"\xff\"\n\"d\0\" \"x\"\n\"e\" \"SCRAM-SHA-256$x\"");

        let broken: Vec<_> =
            broken.unwrap_err().into_iter().map(|broken| (broken.line, broken.cause)).collect();
        assert_eq!(
            broken,
            [
                (1, Cause::NoName),
                (2, Cause::NoSecret),
                (3, Cause::Unclosed),
                (4, Cause::EmptyName),
                (6, Cause::Duplicate(5)),
                (7, Cause::NotText),
                (8, Cause::Nul),
                (9, Cause::BadVerifier),
            ]
        );
    }
}
