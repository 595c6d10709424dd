//! Views of what clients say: names and texts, borrowed from the bytes they came in.
//!
//! Text stays bytes: a query in LATIN1 is not UTF-8, and a pooler that decodes and encodes it corrupts it.
//!
//! # Promises
//! - A view never allocates and never reads past its body.
//! - Bind is split after its two names, so that its values may stream.
//!
//! # Refuses
//! To interpret values, types or SQL.

use memchr::memchr;

use crate::wire::Malformed;
use crate::wire::frame::frontend::{BIND, CLOSE, DESCRIBE, EXECUTE, PARSE, QUERY};

/// `text` up to its terminator, and what follows it.
#[inline]
fn cstr(bytes: &[u8], tag: u8) -> Result<(&[u8], &[u8]), Malformed> {
    let end = memchr(0, bytes).ok_or(Malformed::Body { tag })?;
    let (text, rest) = bytes.split_at_checked(end).ok_or(Malformed::Body { tag })?;
    Ok((text, rest.get(1..).unwrap_or_default()))
}

/// A statement or a portal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// A portal, by name.
    Portal(&'a [u8]),
    /// A prepared statement, by name.
    Statement(&'a [u8]),
}

/// Parse: a name, and everything after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parse<'a> {
    /// The statement's name; empty is the unnamed one.
    pub name: &'a [u8],
    /// The text.
    pub text: &'a [u8],
    /// Text with its terminator, count and types of parameters: what makes two statements equal.
    pub definition: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads a whole body.
    ///
    /// # Errors
    /// A body that is not a Parse.
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let (name, definition) = cstr(body, PARSE)?;
        let (text, types) = cstr(definition, PARSE)?;
        let (count, oids) = types.split_first_chunk::<2>().ok_or(Malformed::Body { tag: PARSE })?;
        if usize::from(u16::from_be_bytes(*count)).checked_mul(4) != Some(oids.len()) {
            return Err(Malformed::Body { tag: PARSE });
        }
        Ok(Self { name, text, definition })
    }
}

/// The two names a Bind begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bind<'a> {
    /// The portal to make.
    pub portal: &'a [u8],
    /// The statement to make it of.
    pub statement: &'a [u8],
    /// Bytes of both names with their terminators.
    pub names: usize,
}

impl<'a> Bind<'a> {
    /// Reads the front of a body, which may be incomplete; `None` if the names have not come yet.
    pub fn read(front: &'a [u8]) -> Option<Self> {
        let (portal, rest) = cstr(front, BIND).ok()?;
        let (statement, _) = cstr(rest, BIND).ok()?;
        let names = portal.len().saturating_add(statement.len()).saturating_add(2);
        Some(Self { portal, statement, names })
    }
}

/// The parameters of a Bind, or the arguments of a FunctionCall.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    formats: &'a [u8],
    values: &'a [u8],
    count: u16,
}

impl<'a> Given<'a> {
    /// Reads what follows the names of a whole Bind, or the function of a whole FunctionCall.
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let (count, rest) = body.split_first_chunk::<2>()?;
        let (formats, rest) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*count)).checked_mul(2)?)?;
        let (count, values) = rest.split_first_chunk::<2>()?;
        let given = Self { formats, values, count: u16::from_be_bytes(*count) };
        (given.iter().count() == usize::from(given.count)).then_some(given)
    }

    /// The values in order; NULL is `None`. It ends early where the body does.
    pub fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut rest = self.values;
        (0..self.count).map_while(move |_| {
            let (len, after) = rest.split_first_chunk::<4>()?;
            let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
                rest = after;
                return Some(None);
            };
            let (value, after) = after.split_at_checked(len)?;
            rest = after;
            Some(Some(value))
        })
    }

    /// The value of this number, from 1; `None` if there are not so many.
    pub fn value(self, number: u16) -> Option<Option<&'a [u8]>> {
        self.iter().nth(usize::from(number).checked_sub(1)?)
    }

    /// Whether the value of this number is in binary format.
    pub fn is_binary(self, number: u16) -> bool {
        // None is text for all, one is for all, else each has its own.
        let at =
            if self.formats.len() == 2 { 0 } else { usize::from(number).saturating_sub(1).saturating_mul(2) };
        self.formats.get(at..).is_some_and(|format| format.starts_with(&[0, 1]))
    }
}

/// The function of a FunctionCall, and what follows it.
pub fn function(body: &[u8]) -> Option<(u32, &[u8])> {
    let (function, rest) = body.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*function), rest))
}

/// The target of a Describe or a Close.
///
/// # Errors
/// A body that is neither.
pub fn target(tag: u8, body: &[u8]) -> Result<Target<'_>, Malformed> {
    debug_assert!(tag == DESCRIBE || tag == CLOSE);
    let (kind, rest) = body.split_first().ok_or(Malformed::Body { tag })?;
    let (name, after) = cstr(rest, tag)?;
    match (kind, after) {
        (b'P', []) => Ok(Target::Portal(name)),
        (b'S', []) => Ok(Target::Statement(name)),
        _ => Err(Malformed::Body { tag }),
    }
}

/// The portal of an Execute.
///
/// # Errors
/// A body that is not an Execute.
pub fn execute(body: &[u8]) -> Result<&[u8], Malformed> {
    let (portal, rest) = cstr(body, EXECUTE)?;
    if rest.len() != 4 {
        return Err(Malformed::Body { tag: EXECUTE });
    }
    Ok(portal)
}

/// The most rows an Execute wants; `None` is all.
///
/// # Errors
/// A body that is not an Execute.
pub fn row_limit(body: &[u8]) -> Result<Option<usize>, Malformed> {
    let (_, rest) = cstr(body, EXECUTE)?;
    let limit = <[u8; 4]>::try_from(rest).map_err(|_| Malformed::Body { tag: EXECUTE })?;
    // "Zero denotes no limit"; PostgreSQL takes a negative number as that too.
    Ok(usize::try_from(i32::from_be_bytes(limit)).ok().filter(|limit| *limit > 0))
}

/// The text of a whole Query.
///
/// # Errors
/// A body without its terminator, or with more after it.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    match cstr(body, QUERY)? {
        (text, []) => Ok(text),
        _ => Err(Malformed::Body { tag: QUERY }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parse_is_its_name_and_its_definition() {
        let parse = Parse::read(b"s1\0select $1\0\0\x01\0\0\0\x17").unwrap();

        assert_eq!(parse.name, b"s1");
        assert_eq!(parse.text, b"select $1");
        assert_eq!(parse.definition, b"select $1\0\0\x01\0\0\0\x17");
    }

    #[test]
    fn a_parse_with_a_wrong_count_of_types_is_refused() {
        assert!(Parse::read(b"s1\0select $1\0\0\x02\0\0\0\x17").is_err());
        assert!(Parse::read(b"s1\0select").is_err());
        assert!(Parse::read(b"").is_err());
    }

    #[test]
    fn a_bind_is_read_as_soon_as_its_names_are_there() {
        assert_eq!(Bind::read(b"p\0s"), None);
        assert_eq!(Bind::read(b"p\0s\0\0"), Some(Bind { portal: b"p", statement: b"s", names: 4 }));
    }

    #[test]
    fn values_are_read_with_their_formats() {
        let given = Given::read(b"\0\0\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0\0\0").unwrap();

        assert_eq!(given.iter().collect::<Vec<_>>(), [Some(&b"a"[..]), None, Some(b"")]);
        assert_eq!((given.value(1), given.value(2)), (Some(Some(&b"a"[..])), Some(None)));
        assert_eq!((given.value(0), given.value(4)), (None, None));
        assert!(!given.is_binary(1) && !given.is_binary(0));
        let one_for_all = Given::read(b"\0\x01\0\x01\0\0").unwrap();
        assert!(one_for_all.is_binary(1) && one_for_all.is_binary(7));
        let each = Given::read(b"\0\x02\0\0\0\x01\0\0").unwrap();
        assert!(!each.is_binary(1) && each.is_binary(2) && !each.is_binary(3));
    }

    #[test]
    fn values_that_are_cut_short_are_none() {
        let whole = b"\0\x01\0\0\0\x01\0\0\0\x02ab";
        for end in 0..whole.len() {
            assert!(Given::read(whole.get(..end).unwrap()).is_none(), "{end}");
        }
        assert!(Given::read(whole).is_some());
    }

    #[test]
    fn a_target_is_a_statement_or_a_portal() {
        assert_eq!(target(DESCRIBE, b"Sx\0"), Ok(Target::Statement(b"x")));
        assert_eq!(target(CLOSE, b"P\0"), Ok(Target::Portal(b"")));
        assert!(target(CLOSE, b"X\0").is_err());
        assert!(target(CLOSE, b"Sx\0y").is_err());
    }
}
