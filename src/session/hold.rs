//! Why a server cannot go home although its transaction is over.
//!
//! LISTEN, advisory locks, temporary tables and their like live in one server process and cannot follow a client.
//! While a client has any, it keeps its server: it is *pinned*. What is held is not guessed from SQL but asked of the
//! server (see [`crate::session::inspect`]).

use std::fmt;

/// One kind of state that pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Pin {
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A cursor WITH HOLD.
    HoldCursor,
    /// LISTEN.
    Listen,
    /// A statement made by SQL's PREPARE, or named statements while the pooler keeps none.
    Prepare,
    /// `SET ROLE` or `SET SESSION AUTHORIZATION`.
    Role,
    /// A plain SET under `set = "pin"`.
    Setting,
    /// A temporary table, view, sequence, function or type.
    Temporary,
}

impl Pin {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 7] = [
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::Listen,
        Self::Prepare,
        Self::Role,
        Self::Setting,
        Self::Temporary,
    ];

    /// The word used in logs, metrics and the inspection query.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldCursor => "hold_cursor",
            Self::Listen => "listen",
            Self::Prepare => "prepare",
            Self::Role => "role",
            Self::Setting => "setting",
            Self::Temporary => "temporary",
        }
    }
}

/// The reasons one client keeps its server.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u8);

impl Pins {
    /// As a number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From the number.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Adds a reason.
    pub fn insert(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u8;
    }

    /// Whether this reason is among them.
    pub fn contains(self, pin: Pin) -> bool {
        self.0 & (1 << pin as u8) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The reasons, in order.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.contains(*pin))
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pin) in self.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { "," } else { "" }, pin.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pins({self})")
    }
}
