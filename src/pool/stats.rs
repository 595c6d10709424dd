//! What the clients of a pool have done, counted: the console's SHOW STATS and the metrics read the same numbers.
//!
//! # Promises
//! - Counting is a few relaxed additions once a turn; reading them stops nobody. What is read together need not be of the
//!   same moment.
//! - A number only grows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts of one pool, since it was made. Times are in microseconds, as PgBouncer's.
#[derive(Default, Debug)]
pub struct Stats {
    /// Servers lent to clients.
    pub assignments: AtomicU64,
    /// Transactions.
    pub transactions: AtomicU64,
    /// Queries: units of a client's that a server has answered.
    pub queries: AtomicU64,
    /// Bytes from clients.
    pub received: AtomicU64,
    /// Bytes to clients.
    pub sent: AtomicU64,
    /// Bytes from servers.
    pub server_received: AtomicU64,
    /// Bytes to servers.
    pub server_sent: AtomicU64,
    /// Time servers were lent for.
    pub transaction_time: AtomicU64,
    /// The same without the time that clients thought inside a transaction.
    pub query_time: AtomicU64,
    /// Clients that had to wait for a server.
    pub waits: AtomicU64,
    /// Time they waited, also those that got none.
    pub wait_time: AtomicU64,
    /// Parse messages of clients for named statements.
    pub client_parses: AtomicU64,
    /// Parse messages to servers for these.
    pub server_parses: AtomicU64,
    /// Bind messages of clients for named statements.
    pub binds: AtomicU64,
    /// Uses of named statements that the server had.
    pub prepared_hits: AtomicU64,
    /// Statements closed on a server to make room for others.
    pub prepared_evictions: AtomicU64,
}

/// What happened in one turn.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Units answered.
    pub queries: u64,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// How long the server was lent.
    pub whole: Duration,
    /// Of this, how long the client thought.
    pub thought: Duration,
    /// Parse messages of the client.
    pub client_parses: u32,
    /// Parse messages to the server.
    pub server_parses: u32,
    /// Bind messages.
    pub binds: u32,
    /// Named statements that the server had.
    pub prepared_hits: u32,
    /// Statements closed to make room for others.
    pub prepared_evictions: u32,
}

impl Stats {
    /// A turn has ended.
    pub fn add(&self, tally: Tally) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let add = |count: &AtomicU64, more: u64| {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        };
        add(&self.assignments, 1);
        add(&self.transactions, 1);
        add(&self.queries, tally.queries);
        add(&self.received, tally.received);
        add(&self.sent, tally.sent);
        add(&self.transaction_time, micros(tally.whole));
        add(&self.query_time, micros(tally.whole.saturating_sub(tally.thought)));
        add(&self.client_parses, u64::from(tally.client_parses));
        add(&self.server_parses, u64::from(tally.server_parses));
        add(&self.binds, u64::from(tally.binds));
        add(&self.prepared_hits, u64::from(tally.prepared_hits));
        add(&self.prepared_evictions, u64::from(tally.prepared_evictions));
    }

    /// Bytes moved outside of a turn.
    pub fn add_bytes(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Bytes moved between a server and us.
    pub(super) fn add_server_bytes(&self, received: u64, sent: u64) {
        self.server_received.fetch_add(received, Ordering::Relaxed);
        self.server_sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// A client waits, until the guard is dropped.
    pub(super) fn wait(&self, since: Instant) -> Waiting<'_> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        Waiting { stats: self, since }
    }
}

/// Counts the time of a wait, however it ends.
pub(super) struct Waiting<'a> {
    stats: &'a Stats,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.wait_time.fetch_add(waited, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_thinking_is_no_query_time() {
        let stats = Stats::default();

        stats.add(Tally {
            queries: 2,
            whole: Duration::from_micros(70),
            thought: Duration::from_micros(30),
            ..Tally::default()
        });

        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!((read(&stats.transaction_time), read(&stats.query_time)), (70, 40));
        assert_eq!((read(&stats.queries), read(&stats.transactions), read(&stats.assignments)), (2, 1, 1));
    }

    #[test]
    fn a_wait_is_counted_however_it_ends() {
        let stats = Stats::default();

        drop(stats.wait(Instant::now() - Duration::from_millis(5)));

        assert_eq!(stats.waits.load(Ordering::Relaxed), 1);
        assert!(stats.wait_time.load(Ordering::Relaxed) >= 5_000);
    }
}
