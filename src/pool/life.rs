//! What a server is doing, as others see it: the console, and whoever asks why a client waits.
//!
//! # Promises
//! - It is written by whoever has the server, with a few relaxed stores a turn; reading it stops nobody.
//!
//! # Refuses
//! To decide anything: whether a server may be lent is known from facts of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::names::ClientId;
use crate::session::hold::Pins;

/// What a server is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Doing {
    /// It works for its client.
    Active,
    /// It waits for somebody to want it.
    Idle,
    /// Its client is in a transaction and says nothing.
    IdleInTransaction,
    /// Its client keeps it between its transactions.
    Pinned,
    /// Its client has left; it is led back.
    Recovering,
}

impl Doing {
    const ALL: [Self; 5] =
        [Self::Active, Self::Idle, Self::IdleInTransaction, Self::Pinned, Self::Recovering];

    /// PostgreSQL's word for it, where it has one.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            Self::Pinned => "pinned",
            Self::Recovering => "recovering",
        }
    }
}

/// What a server is doing, for whom, since when.
#[derive(Debug)]
pub struct Life {
    born: Instant,
    born_at: SystemTime,
    /// Microseconds after its birth.
    since: AtomicU64,
    lent_since: AtomicU64,
    doing: AtomicU8,
    /// 0: nobody.
    client: AtomicU64,
    pins: AtomicU8,
    statements: AtomicUsize,
    generation: AtomicU64,
    is_over: AtomicBool,
}

/// The same, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glimpse {
    /// What it is doing.
    pub doing: Doing,
    /// For how long.
    pub for_: Duration,
    /// Whose it is.
    pub client: Option<ClientId>,
    /// For how long it has been.
    pub lent_for: Duration,
    /// Why its client keeps it.
    pub pins: Pins,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            born_at: SystemTime::now(),
            since: AtomicU64::new(0),
            lent_since: AtomicU64::new(0),
            doing: AtomicU8::new(Doing::Idle as u8),
            client: AtomicU64::new(0),
            pins: AtomicU8::new(0),
            statements: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }
}

impl Life {
    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or(u64::MAX)
    }

    /// It does something else from now on.
    pub fn turn_to(&self, doing: Doing, now: Instant) {
        self.doing.store(doing as u8, Ordering::Relaxed);
        self.since.store(self.micros(now), Ordering::Relaxed);
    }

    /// A client has it, and speaks.
    pub fn lend(&self, client: ClientId, now: Instant) {
        if self.client.swap(client.0, Ordering::Relaxed) != client.0 {
            self.lent_since.store(self.micros(now), Ordering::Relaxed);
        }
        self.turn_to(Doing::Active, now);
    }

    /// Its client keeps it, and why.
    pub fn pin(&self, pins: Pins, now: Instant) {
        self.pins.store(pins.bits(), Ordering::Relaxed);
        self.turn_to(Doing::Pinned, now);
    }

    /// It is nobody's.
    pub fn rest(&self, now: Instant, statements: usize) {
        self.client.store(0, Ordering::Relaxed);
        self.pins.store(0, Ordering::Relaxed);
        self.statements.store(statements, Ordering::Relaxed);
        self.turn_to(Doing::Idle, now);
    }

    /// It is closed.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether it is closed.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// The generation of its pool that it is of.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(super) fn is_of(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// When it was logged in.
    pub fn born_at(&self) -> SystemTime {
        self.born_at
    }

    /// Statements it had when it was last given back.
    pub fn statements(&self) -> usize {
        self.statements.load(Ordering::Relaxed)
    }

    /// What it is doing now.
    pub fn glimpse(&self, now: Instant) -> Glimpse {
        let micros = self.micros(now);
        let since = |at: &AtomicU64| Duration::from_micros(micros.saturating_sub(at.load(Ordering::Relaxed)));
        let client = self.client.load(Ordering::Relaxed);
        let doing = Doing::ALL.into_iter().find(|doing| *doing as u8 == self.doing.load(Ordering::Relaxed));
        Glimpse {
            doing: doing.unwrap_or(Doing::Idle),
            for_: since(&self.since),
            client: (client != 0).then_some(ClientId(client)),
            lent_for: since(&self.lent_since),
            pins: Pins::from_bits(self.pins.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Display for Glimpse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1}s", self.doing.word(), self.for_.as_secs_f64())?;
        if let Some(client) = self.client {
            write!(f, ", held by {client} for {:.1}s", self.lent_for.as_secs_f64())?;
        }
        if !self.pins.is_empty() {
            write!(f, ", pinned by {}", self.pins)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::hold::Pin;

    #[test]
    fn it_says_who_has_it_since_when_and_why() {
        let life = Life::default();
        let at = |seconds| life.born + Duration::from_secs(seconds);
        let mut pins = Pins::default();
        pins.insert(Pin::Listen);

        life.lend(ClientId(7), at(1));
        life.turn_to(Doing::IdleInTransaction, at(3));
        let thinking = life.glimpse(at(5)).to_string();
        life.pin(pins, at(6));
        life.lend(ClientId(7), at(7));
        let again = life.glimpse(at(8)).to_string();
        life.rest(at(9), 2);

        assert_eq!(thinking, "idle in transaction for 2.0s, held by c7 for 4.0s");
        assert_eq!(again, "active for 1.0s, held by c7 for 7.0s, pinned by listen");
        assert_eq!((life.glimpse(at(9)).to_string().as_str(), life.statements()), ("idle for 0.0s", 2));
    }
}
