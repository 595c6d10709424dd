//! Every way bytes can be wrong.
//!
//! # Refuses
//! To say what happens next: a [`Malformed`] frame is a violation, and `session` decides what becomes of its sender.

use std::fmt;

/// Why bytes are not a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The body ends before its fields do, or goes on after them.
    Body {
        /// The frame's tag.
        tag: u8,
    },
    /// A length no frame can have.
    Length {
        /// The frame's tag.
        tag: u8,
        /// The length it states.
        len: usize,
    },
    /// A frame that must be read whole is larger than allowed.
    TooLong {
        /// The frame's tag.
        tag: u8,
        /// The length it states.
        len: usize,
        /// The most that is read.
        limit: usize,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Body { tag } => write!(f, "malformed body of message {:?}", char::from(tag)),
            Self::Length { tag, len } => write!(f, "invalid length {len} of message {:?}", char::from(tag)),
            Self::TooLong { tag, len, limit } => {
                write!(f, "message {:?} of {len} bytes is longer than the {limit} allowed", char::from(tag))
            }
        }
    }
}

impl std::error::Error for Malformed {}
