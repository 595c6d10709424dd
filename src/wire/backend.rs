//! Views of what servers say, of the few messages the pooler must understand.
//!
//! # Promises
//! - A view never allocates and never reads past its body.
//! - An SQLSTATE is looked for, not relied on: an ErrorResponse may lack one (CVE-2026-6666).
//!
//! # Refuses
//! To decode rows, but for the text columns of the pooler's own queries.

use memchr::memchr;

use crate::wire::Malformed;
use crate::wire::frame::backend::{COMMAND_COMPLETE, DATA_ROW, PARAMETER_STATUS, READY_FOR_QUERY};

/// Bytes of an ErrorResponse's body that are looked at: severity and SQLSTATE are its first fields.
pub const ERROR_FRONT: usize = 96;

/// The transaction status of a ReadyForQuery.
///
/// # Errors
/// A body that is not one of `I`, `T`, `E`.
pub fn ready_for_query(body: &[u8]) -> Result<u8, Malformed> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(Malformed::Body { tag: READY_FOR_QUERY }),
    }
}

/// The tag of a CommandComplete, without its terminator.
///
/// # Errors
/// A body without its terminator.
pub fn command_complete(body: &[u8]) -> Result<&[u8], Malformed> {
    body.strip_suffix(b"\0").ok_or(Malformed::Body { tag: COMMAND_COMPLETE })
}

/// Name and value of a ParameterStatus.
///
/// # Errors
/// A body that is not two strings.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let wrong = Malformed::Body { tag: PARAMETER_STATUS };
    let end = memchr(0, body).ok_or(wrong)?;
    let (name, rest) = body.split_at_checked(end).ok_or(wrong)?;
    let value = rest.get(1..).and_then(|rest| rest.strip_suffix(b"\0")).ok_or(wrong)?;
    Ok((name, value))
}

/// What of an error decides what happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorFront {
    /// Whether the connection ends with it.
    pub is_fatal: bool,
    /// Its code, if it has one.
    pub sqlstate: Option<[u8; 5]>,
}

/// Severity and code from the front of an ErrorResponse's body, which may be cut after [`ERROR_FRONT`] bytes.
pub fn error_front(mut body: &[u8]) -> ErrorFront {
    let mut front = ErrorFront { is_fatal: false, sqlstate: None };
    while let Some((&field, rest)) = body.split_first() {
        let Some(end) = memchr(0, rest) else { break };
        let (value, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        match field {
            0 => break,
            b'C' => front.sqlstate = value.try_into().ok(),
            // 'V' is never translated (PostgreSQL 9.6 and later); 'S' may be.
            b'V' => front.is_fatal = value == b"FATAL" || value == b"PANIC",
            b'S' => front.is_fatal |= value == b"FATAL" || value == b"PANIC",
            _ => {}
        }
        body = after.get(1..).unwrap_or_default();
    }
    front
}

/// The columns of a DataRow.
pub struct Columns<'a> {
    left: u16,
    rest: &'a [u8],
}

/// Reads a DataRow's columns, for the pooler's own queries.
///
/// # Errors
/// A body too short for its count.
pub fn data_row(body: &[u8]) -> Result<Columns<'_>, Malformed> {
    let (count, rest) = body.split_first_chunk::<2>().ok_or(Malformed::Body { tag: DATA_ROW })?;
    Ok(Columns { left: u16::from_be_bytes(*count), rest })
}

impl<'a> Iterator for Columns<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.rest.split_first_chunk::<4>()?;
        let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
            self.rest = rest;
            return Some(None);
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_code_is_still_an_error() {
        assert_eq!(error_front(b"SERROR\0Mno code\0\0"), ErrorFront { is_fatal: false, sqlstate: None });
        assert_eq!(
            error_front(b"SFATAL\0VFATAL\0C57P01\0Mbye"),
            ErrorFront { is_fatal: true, sqlstate: Some(*b"57P01") }
        );
        assert_eq!(error_front(b""), ErrorFront { is_fatal: false, sqlstate: None });
    }

    #[test]
    fn a_row_is_read_column_by_column() {
        let row: Vec<_> = data_row(b"\0\x02\0\0\0\x01x\xff\xff\xff\xff").unwrap().collect();

        assert_eq!(row, [Some(&b"x"[..]), None]);
    }

    #[test]
    fn a_row_that_lies_about_a_length_ends() {
        assert_eq!(data_row(b"\0\x01\0\0\0\x09x").unwrap().count(), 0);
    }

    #[test]
    fn a_parameter_is_two_strings() {
        assert_eq!(parameter_status(b"TimeZone\0UTC\0"), Ok((&b"TimeZone"[..], &b"UTC"[..])));
        assert!(parameter_status(b"TimeZone").is_err());
    }
}
