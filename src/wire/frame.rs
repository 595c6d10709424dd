//! The five bytes every frame begins with.
//!
//! A frame is a tag, a length and a body; a *message* is what it means, and that depends on who says it: `D` is
//! Describe from a frontend and DataRow from a backend. So the tags come in two lists, by direction.
//!
//! # Promises
//! - A header is read without allocating, and a length that cannot be is refused before anything is done with it.
//!
//! # Refuses
//! To read a body, or to know which tags are legal now.
//!
//! Source: PostgreSQL docs, "Message Formats".

use crate::wire::Malformed;

/// Bytes of a tag and a length.
pub const HEADER: usize = 5;

/// The largest frame there can be: PostgreSQL refuses messages beyond 1 GB (`PQ_LARGE_MESSAGE_LIMIT`).
pub const MAX_FRAME: usize = 0x3fff_ffff;

/// What frontends say.
pub mod frontend {
    /// Bind.
    pub const BIND: u8 = b'B';
    /// Close.
    pub const CLOSE: u8 = b'C';
    /// CopyData.
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone.
    pub const COPY_DONE: u8 = b'c';
    /// CopyFail.
    pub const COPY_FAIL: u8 = b'f';
    /// Describe.
    pub const DESCRIBE: u8 = b'D';
    /// Execute.
    pub const EXECUTE: u8 = b'E';
    /// Flush.
    pub const FLUSH: u8 = b'H';
    /// FunctionCall.
    pub const FUNCTION_CALL: u8 = b'F';
    /// Parse.
    pub const PARSE: u8 = b'P';
    /// PasswordMessage, SASLInitialResponse, SASLResponse.
    pub const PASSWORD: u8 = b'p';
    /// Query.
    pub const QUERY: u8 = b'Q';
    /// Sync.
    pub const SYNC: u8 = b'S';
    /// Terminate.
    pub const TERMINATE: u8 = b'X';
}

/// What backends say.
pub mod backend {
    /// Any of the Authentication messages.
    pub const AUTHENTICATION: u8 = b'R';
    /// BackendKeyData.
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// BindComplete.
    pub const BIND_COMPLETE: u8 = b'2';
    /// CloseComplete.
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// CommandComplete.
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// CopyBothResponse.
    pub const COPY_BOTH: u8 = b'W';
    /// CopyData.
    pub const COPY_DATA: u8 = b'd';
    /// CopyDone.
    pub const COPY_DONE: u8 = b'c';
    /// CopyInResponse.
    pub const COPY_IN: u8 = b'G';
    /// CopyOutResponse.
    pub const COPY_OUT: u8 = b'H';
    /// DataRow.
    pub const DATA_ROW: u8 = b'D';
    /// EmptyQueryResponse.
    pub const EMPTY_QUERY: u8 = b'I';
    /// ErrorResponse.
    pub const ERROR: u8 = b'E';
    /// FunctionCallResponse.
    pub const FUNCTION_CALL: u8 = b'V';
    /// NegotiateProtocolVersion.
    pub const NEGOTIATE: u8 = b'v';
    /// NoData.
    pub const NO_DATA: u8 = b'n';
    /// NoticeResponse.
    pub const NOTICE: u8 = b'N';
    /// NotificationResponse.
    pub const NOTIFICATION: u8 = b'A';
    /// ParameterDescription.
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// ParameterStatus.
    pub const PARAMETER_STATUS: u8 = b'S';
    /// ParseComplete.
    pub const PARSE_COMPLETE: u8 = b'1';
    /// PortalSuspended.
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// ReadyForQuery.
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// RowDescription.
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// A frame's tag and its whole length, header included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The tag.
    pub tag: u8,
    /// Bytes of the whole frame; at least [`HEADER`], at most [`MAX_FRAME`] + 1.
    pub len: usize,
}

impl Header {
    /// The header `buf` begins with, or `None` if five bytes have not come yet.
    ///
    /// # Errors
    /// A length below 4 or above [`MAX_FRAME`].
    #[inline]
    pub fn read(buf: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MAX_FRAME).contains(&len) {
            return Err(Malformed::Length { tag, len });
        }
        Ok(Some(Self { tag, len: len.saturating_add(1) }))
    }

    /// The body of this frame, `None` if it is not all in `buf`, which begins with the frame.
    #[inline]
    pub fn body<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        buf.get(HEADER..self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_five_bytes_and_no_fewer() {
        assert_eq!(Header::read(b"Q\0\0\0"), Ok(None));
        assert_eq!(Header::read(b"Q\0\0\0\x05x"), Ok(Some(Header { tag: b'Q', len: 6 })));
    }

    #[test]
    fn an_impossible_length_is_refused_from_the_header_alone() {
        assert_eq!(Header::read(b"Q\0\0\0\x03"), Err(Malformed::Length { tag: b'Q', len: 3 }));
        assert_eq!(
            Header::read(b"Q\x7f\xff\xff\xff"),
            Err(Malformed::Length { tag: b'Q', len: 0x7fff_ffff })
        );
    }
}
