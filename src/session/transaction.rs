//! The transaction status indicator and what it allows.
//!
//! Source: PostgreSQL docs, "ReadyForQuery".

/// What the last ReadyForQuery said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Status {
    /// `E`: in a failed transaction block; everything is refused until it ends.
    Failed,
    /// `I`: not in a transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    Open,
}

impl Status {
    /// From the byte of a ReadyForQuery, already checked by [`crate::wire::backend::ready_for_query`].
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            b'T' => Self::Open,
            b'E' => Self::Failed,
            _ => Self::Idle,
        }
    }

    /// The byte of a ReadyForQuery.
    pub fn byte(self) -> u8 {
        match self {
            Self::Failed => b'E',
            Self::Idle => b'I',
            Self::Open => b'T',
        }
    }
}
