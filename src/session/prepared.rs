//! Prepared statements: the client's names, the server's names, and moving between servers.
//!
//! A client prepares `s1` on one server and executes it on another. So a name is the client's own, the text behind it is
//! shared by all who sent the same, and each server knows the text under a name of ours, which is never reused.
//!
//! SQL's EXECUTE, DEALLOCATE and PREPARE use the server's names too, so ours cannot be guessed: a client that could name
//! another's statement could run it, drop it, or put its own in its place.
//!
//! # Promises
//! - Two statements are one only if text and parameter types are equal, byte for byte; never by a hash alone.
//! - What a client may hold is bounded in number and in bytes.
//! - A server holds at most as many statements as configured; the least recently used one goes first.
//!
//! # Refuses
//! To send anything: [`crate::session::exchange`] does.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::session::sql::Reading;

/// A text with its parameter types, shared by all clients that sent it.
pub struct Statement {
    /// Its number: never reused, never 0.
    pub number: u64,
    name: ServerName,
    /// What a Parse carries after the name: text, terminator, types.
    pub definition: Box<[u8]>,
    /// Whether a server has accepted it, and none has refused it since.
    is_proven: AtomicBool,
}

impl Statement {
    /// A statement no server has seen yet. `chance` makes its name there, and is told to nobody.
    pub fn new(number: u64, chance: u64, definition: &[u8]) -> Self {
        let name = ServerName::new(chance);
        Self { number, name, definition: definition.into(), is_proven: AtomicBool::new(false) }
    }

    /// Whether a server has accepted it, and none has refused it since: a Parse of it needs no server.
    pub fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    fn prove(&self, is_proven: bool) {
        self.is_proven.store(is_proven, Ordering::Relaxed);
    }

    /// The name servers know it by.
    pub fn server_name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// The text alone.
    pub fn text(&self) -> &[u8] {
        text(&self.definition)
    }

    /// Bytes it stands for in the limits.
    pub fn bytes(&self) -> usize {
        self.definition.len()
    }
}

/// The text of a definition.
pub fn text(definition: &[u8]) -> &[u8] {
    definition.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Statement({})", self.number)
    }
}

/// `pgusher_` and 64 bits of chance in as few letters as they take: every Bind carries it.
#[derive(Clone, Copy)]
pub struct ServerName {
    bytes: [u8; ServerName::MOST],
    len: u8,
}

impl ServerName {
    const PREFIX: &[u8] = b"pgusher_";
    const DIGITS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    /// The prefix, and 64 bits to the base of 62.
    const MOST: usize = Self::PREFIX.len() + 11;

    /// The name that this number makes.
    pub fn new(chance: u64) -> Self {
        let (mut bytes, mut len, mut left) = ([0u8; Self::MOST], 0u8, chance);
        for (to, from) in bytes.iter_mut().zip(Self::PREFIX) {
            *to = *from;
        }
        for to in bytes.iter_mut().skip(Self::PREFIX.len()) {
            *to = Self::DIGITS.get((left % 62) as usize).copied().unwrap_or_default();
            len += 1;
            left /= 62;
            if left == 0 {
                break;
            }
        }
        Self { bytes, len: Self::PREFIX.len() as u8 + len }
    }

    /// Whether `name`, as PostgreSQL folds it, is kept for us.
    pub fn is_like(name: &[u8]) -> bool {
        name.starts_with(Self::PREFIX)
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Where equal texts become one statement.
pub trait Interner: Send + Sync {
    /// The statement of this definition: the same for the same bytes as long as anyone holds it.
    fn intern(&self, definition: &[u8]) -> Arc<Statement>;

    /// Whether this definition is known and [proven](Statement::is_proven).
    fn is_proven(&self, definition: &[u8]) -> bool;
}

/// A name a client has given to a statement.
#[derive(Clone, Debug)]
pub struct Named {
    /// The statement.
    pub statement: Arc<Statement>,
    /// What its text might do, and whether it is a command of ours.
    pub reading: Arc<Reading>,
}

/// One client's names.
#[derive(Default, Debug)]
pub struct ClientStatements {
    names: HashMap<Box<[u8]>, Named>,
    bytes: usize,
}

impl ClientStatements {
    /// The statement called `name`.
    pub fn named(&self, name: &[u8]) -> Option<&Named> {
        self.names.get(name)
    }

    /// Whether one more of `bytes` would stay within both limits.
    pub fn has_room(&self, bytes: usize, most: usize, most_bytes: usize) -> bool {
        self.names.len() < most && self.bytes.saturating_add(bytes) <= most_bytes
    }

    /// Gives `name` to a statement.
    pub fn insert(&mut self, name: &[u8], named: Named) {
        self.bytes = self.bytes.saturating_add(named.statement.bytes());
        if let Some(old) = self.names.insert(name.into(), named) {
            self.bytes = self.bytes.saturating_sub(old.statement.bytes());
        }
    }

    /// Takes `name` away.
    pub fn remove(&mut self, name: &[u8]) -> Option<Named> {
        let named = self.names.remove(name)?;
        self.bytes = self.bytes.saturating_sub(named.statement.bytes());
        Some(named)
    }

    /// Sees each name's statement, and may replace it.
    pub fn for_each(&mut self, mut see: impl FnMut(&mut Named)) {
        self.names.values_mut().for_each(&mut see);
    }

    /// Takes all names away.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// What a server knows of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing.
    No,
    /// It has it, but can no longer execute it: DDL has changed its result.
    Stale,
    /// It has it.
    Yes,
}

/// When a statement was last used, and whether it still can be.
#[derive(Clone, Debug)]
struct Use {
    at: u64,
    known: Known,
    /// When the server was told it, in the count of who told it; `None` once it has accepted.
    told: Option<u64>,
    statement: Arc<Statement>,
}

/// What one server has prepared, by number.
#[derive(Default, Debug)]
pub struct ServerStatements {
    used: HashMap<u64, Use>,
    clock: u64,
}

impl ServerStatements {
    /// Whether the server has it; if so it has just been used.
    pub fn touch(&mut self, number: u64) -> Known {
        self.clock += 1;
        let clock = self.clock;
        self.used.get_mut(&number).map_or(Known::No, |used| {
            used.at = clock;
            used.known
        })
    }

    /// The server is being told it, in this epoch of the conversation.
    pub fn tell(&mut self, statement: Arc<Statement>, epoch: u64) {
        self.insert(statement, Some(epoch));
    }

    /// The server has it still: it was not closed after all.
    pub fn keep(&mut self, statement: Arc<Statement>) {
        self.insert(statement, None);
    }

    fn insert(&mut self, statement: Arc<Statement>, told: Option<u64>) {
        self.clock += 1;
        let used = Use { at: self.clock, known: Known::Yes, told, statement };
        self.used.insert(used.statement.number, used);
    }

    /// Whether the server was told it before `epoch` and has not answered.
    pub fn is_in_doubt(&self, number: u64, epoch: u64) -> bool {
        self.used.get(&number).and_then(|used| used.told).is_some_and(|told| told < epoch)
    }

    /// The server has accepted it.
    pub fn on_accepted(&mut self, number: u64) {
        if let Some(used) = self.used.get_mut(&number) {
            used.told = None;
            used.statement.prove(true);
        }
    }

    /// The server has refused it.
    pub fn on_refused(&mut self, number: u64) {
        if let Some(used) = self.used.remove(&number) {
            used.statement.prove(false);
        }
    }

    /// The server has it under a plan it cannot use any more.
    pub fn mark_stale(&mut self, number: u64) {
        if let Some(used) = self.used.get_mut(&number) {
            used.known = Known::Stale;
        }
    }

    /// The server does not have it after all.
    pub fn remove(&mut self, number: u64) {
        self.used.remove(&number);
    }

    /// Whether another must go before this one may come, while it is not known yet what is there.
    pub fn is_room_in_doubt(&self, number: u64, limit: usize, epoch: u64) -> bool {
        number != 0
            && self.used.len() >= limit
            && !self.used.contains_key(&number)
            && self.used.keys().any(|used| self.is_in_doubt(*used, epoch))
    }

    /// The statement to close so that at most `limit` - 1 are left; call until `None`.
    pub fn evict(&mut self, limit: usize) -> Option<Arc<Statement>> {
        if self.used.len() < limit {
            return None;
        }
        let (&number, _) = self.used.iter().min_by_key(|(_, used)| used.at)?;
        self.used.remove(&number).map(|used| used.statement)
    }

    /// The server has none any more.
    pub fn clear(&mut self) {
        self.used.clear();
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(number: u64) -> Named {
        Named {
            statement: Arc::new(Statement::new(number, number, b"select 1\0\0\0")),
            reading: Arc::default(),
        }
    }

    #[test]
    fn the_least_recently_used_statement_is_evicted() {
        let mut server = ServerStatements::default();
        for number in [1, 2, 3] {
            server.keep(statement(number).statement);
        }
        assert_eq!(server.touch(1), Known::Yes);

        assert_eq!(server.evict(3).map(|evicted| evicted.number), Some(2));
        assert!(server.evict(3).is_none());

        assert_eq!(server.touch(2), Known::No);
    }

    #[test]
    fn a_clients_bytes_are_counted_both_ways() {
        let mut client = ClientStatements::default();
        client.insert(b"a", statement(1));
        assert!(!client.has_room(1, 1, 100));
        assert!(!client.has_room(90, 10, 100));
        client.remove(b"a");

        assert!(client.has_room(90, 10, 100));
    }

    #[test]
    fn a_server_name_holds_the_largest_number() {
        assert_eq!(ServerName::new(u64::MAX).as_bytes(), b"pgusher_fyha61AhGYl");
        assert_eq!(ServerName::new(62).as_bytes(), b"pgusher_01");
        assert_eq!(ServerName::new(0).as_bytes(), b"pgusher_0");
    }

    #[test]
    fn a_name_is_like_ours_if_it_begins_like_ours() {
        assert!(ServerName::is_like(ServerName::new(u64::MAX).as_bytes()));
        assert!(ServerName::is_like(b"pgusher_of a client"));
        assert!(!ServerName::is_like(b"pgusher"));
        assert!(!ServerName::is_like(b"PGUSHER_1"));
    }
}
