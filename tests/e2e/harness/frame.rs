//! One message of the protocol as bytes, and the notation it is printed in.
//!
//! `1` ParseComplete, `2` BindComplete, `D` DataRow, `C(SELECT 1)` CommandComplete, `Z(I)` ReadyForQuery,
//! `E(57014)` ErrorResponse, and so on: the type byte, with what matters in parentheses.

use std::fmt;

use bytes::Bytes;

/// A type byte and what follows the length.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// Everything after the length.
    pub body: Bytes,
}

impl Frame {
    pub fn is(&self, tag: u8) -> bool {
        self.tag == tag
    }

    /// The frame as it was on the wire.
    pub fn encode(&self) -> Bytes {
        super::say::frame(self.tag, &self.body)
    }

    /// A field of an ErrorResponse or NoticeResponse, by its letter.
    pub fn field(&self, letter: u8) -> Option<String> {
        assert!(matches!(self.tag, b'E' | b'N'), "{self} has no fields");
        self.body
            .split(|&byte| byte == 0)
            .find(|field| field.first() == Some(&letter))
            .map(|field| text(&field[1..]))
    }

    /// `C` of an error; empty if it has none.
    pub fn sqlstate(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }

    /// `M` of an error or notice.
    pub fn message(&self) -> String {
        self.field(b'M').unwrap_or_default()
    }

    /// `V` of an error or notice: ERROR, FATAL, WARNING …
    pub fn severity(&self) -> String {
        self.field(b'V').or_else(|| self.field(b'S')).unwrap_or_default()
    }

    /// The zero-terminated strings of the body, for CommandComplete, ParameterStatus and the like.
    pub fn strings(&self) -> Vec<String> {
        self.body.split(|&byte| byte == 0).map(text).collect()
    }

    /// The `n`th zero-terminated string.
    fn string(&self, n: usize) -> String {
        self.strings().into_iter().nth(n).unwrap_or_default()
    }

    /// The values of a DataRow.
    pub fn values(&self) -> Vec<Option<Bytes>> {
        assert!(self.is(b'D'), "{self} is no row");
        let count = i16::from_be_bytes([self.body[0], self.body[1]]);
        let mut at = 2;
        (0..count)
            .map(|_| {
                let length = self.int(at);
                at += 4;
                let length = usize::try_from(length).ok()?; // -1 is NULL
                at += length;
                Some(self.body.slice(at - length..at))
            })
            .collect()
    }

    /// The values of a DataRow as text; NULL is `None`.
    pub fn row(&self) -> Vec<Option<String>> {
        self.values().into_iter().map(|value| value.map(|bytes| text(&bytes))).collect()
    }

    /// The big-endian integer at an offset of the body.
    pub fn int(&self, at: usize) -> i32 {
        i32::from_be_bytes(self.body[at..at + 4].try_into().unwrap())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' => write!(f, "E({})", self.sqlstate()),
            b'N' => write!(f, "N({} {})", self.severity(), self.sqlstate()),
            b'Z' => write!(f, "Z({})", char::from(*self.body.first().unwrap_or(&b'?'))),
            b'C' => write!(f, "C({})", self.string(0)),
            b'S' => write!(f, "S({}={})", self.string(0), self.string(1)),
            b'R' => write!(f, "R({})", self.int(0)),
            b'A' => {
                write!(f, "A({})", text(self.body[4..].split(|&byte| byte == 0).next().unwrap_or_default()))
            }
            _ => write!(f, "{tag}"),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 120;
        let more = if self.body.len() > SHOWN { "…" } else { "" };
        write!(f, "{self} {}{more}", self.body.slice(..self.body.len().min(SHOWN)).escape_ascii())
    }
}

/// All of them on one line.
pub fn notation(frames: &[Frame]) -> String {
    frames.iter().map(Frame::to_string).collect::<Vec<_>>().join(" ")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
