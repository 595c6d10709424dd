//! How hard a pool is pressed: who has servers, who waits, since when, and what became of both.
//!
//! # Promises
//! - A checkout that finds a server costs a few relaxed atomics; the lock is for those who wait, who have the time.
//! - `exhausted` grows while somebody waits and every server is busy, and not while servers are being opened or cannot be.
//!
//! # Refuses
//! To decide anything: nothing here changes who gets a server.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::session::hold::Pin;
use crate::session::tally::{ERROR_CLASSES, IDENTITY_REFUSALS};
use crate::telemetry::instruments::{Counter, Latency, Level, Tally, words};

words! {
    /// How asking for a server ended.
    pub enum Outcome {
        /// With a server.
        Served = "served",
        /// The deadline passed.
        TimedOut = "timed_out",
        /// No server could be made.
        Failed = "failed",
        /// Who asked is gone, or asks no more.
        Abandoned = "abandoned",
    }
}

words! {
    /// Why there is no server, said at once.
    pub enum Rejection {
        /// As many wait as may.
        QueueFull = "queue_full",
        /// A server that will not let us in, however often we ask.
        Connect = "connect",
        /// The pool is closed.
        Closed = "closed",
    }
}

words! {
    /// How connecting to a server ended.
    pub enum Connected {
        /// Logged in.
        Ok = "ok",
        /// No host has what `target_session_attrs` wants.
        NotWanted = "not_wanted",
        /// The server said no.
        Refused = "refused",
        /// It took longer than `pool.connect_timeout`.
        TimedOut = "timed_out",
        /// Nobody listens there.
        Unreachable = "unreachable",
        /// It broke, or there is nothing to log in with.
        Failed = "failed",
    }
}

words! {
    /// What became of the words that come before a client's.
    pub enum Injected {
        /// They were committed.
        Ok = "ok",
        /// They were cut short by a cancel request of the client's.
        Cancelled = "cancelled",
        /// They failed; nothing of the client's ran.
        Failed = "failed",
    }
}

words! {
    /// Why a server was closed.
    pub enum Closing {
        /// It had what nobody believed it had (`pool.canary`).
        Canary = "canary",
        /// `pool.lifetime`.
        Lifetime = "lifetime",
        /// `pool.max_uses`.
        MaxUses = "max_uses",
        /// It is not what `target_session_attrs` wants any more.
        NotWanted = "not_wanted",
        /// Servers of its time are not wanted any more.
        Reconnect = "reconnect",
        /// There are more than there may be since a reload.
        Surplus = "surplus",
        /// A cancel request got lost on its way there, and may still come.
        StrayCancel = "stray_cancel",
        /// `pool.idle_timeout`.
        Idle = "idle_timeout",
        /// Its place was needed under a `max_servers`.
        WantedElsewhere = "wanted_elsewhere",
        /// It went away by itself.
        Gone = "gone",
        /// Its client left it in a state from which it could not be led back.
        Unclean = "unclean",
    }
}

/// What is measured of one pool.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Servers that are lent.
    pub lent: Level,
    /// Clients that wait.
    pub waiting: Level,
    /// Of the servers lent, those kept by a client between its transactions.
    pub pinned: Level,
    /// Servers given back that a cancel request is on its way to.
    pub cancelling: Level,
    /// Servers lent that had been lent before.
    pub reuses: Counter,
    /// Of these, those lent to the client they had last, so that they need no clean.
    pub affinity_hits: Counter,
    /// How long a server was asked for.
    pub wait: Tally<Outcome, Latency>,
    /// Clients that were told at once that there is none.
    pub rejections: Tally<Rejection>,
    /// How long transactions had servers.
    pub transaction: Latency,
    /// How long queries took; within one transaction the mean of them.
    pub query: Latency,
    /// What came of connecting.
    pub connects: Tally<Connected>,
    /// How long it took where it succeeded.
    pub connect: Latency,
    /// Transactions for which the identity was said.
    pub injections: Tally<Injected>,
    /// Statements refused for the sake of the identity.
    pub refusals: [Counter; IDENTITY_REFUSALS.len()],
    /// Servers that a client began to keep, by why.
    pub pins: [Counter; Pin::ALL.len()],
    /// State that was refused, and made all the same, by what it was.
    pub slips: [Counter; Pin::ALL.len()],
    /// Servers cleaned after a client.
    pub cleans: Counter,
    /// Errors servers have said to clients.
    pub errors: [Counter; ERROR_CLASSES.len()],
    /// Servers closed.
    pub closes: Tally<Closing>,
    queue: Mutex<Queue>,
}

/// Those who wait, and since when there was nothing for them.
#[derive(Debug, Default)]
struct Queue {
    /// In the order of coming, so that the first has waited longest; those who have left before the first are gaps.
    arrivals: VecDeque<Option<Instant>>,
    /// The number of the first.
    first: u64,
    exhausted_since: Option<Instant>,
    /// Without the time since `exhausted_since`.
    exhausted: Duration,
}

impl Pressure {
    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody begins to wait, until the guard is dropped.
    pub(super) fn wait(&self, since: Instant) -> Waiting<'_> {
        self.waiting.up();
        let mut queue = self.queue();
        let number = queue.first + queue.arrivals.len() as u64;
        queue.arrivals.push_back(Some(since));
        Waiting { pressure: self, number, since, outcome: Outcome::Abandoned }
    }

    /// How long the one has waited that has waited longest.
    pub fn oldest_wait(&self, now: Instant) -> Duration {
        let queue = self.queue();
        let oldest = queue.arrivals.front().copied().flatten();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Time with every server busy and somebody waiting.
    pub fn exhausted(&self, now: Instant) -> Duration {
        let queue = self.queue();
        let current = queue.exhausted_since.map(|since| now.saturating_duration_since(since));
        queue.exhausted + current.unwrap_or_default()
    }

    /// Whether every server is busy now; that it matters is for the queue to say.
    pub(super) fn note(&self, is_busy: bool, now: Instant) {
        self.queue().note(is_busy, now);
    }

    /// A client keeps its server for this reason from now on.
    pub fn pinned_by(&self, pin: Pin) {
        if let Some(count) = self.pins.get(pin as usize) {
            count.increment();
        }
    }

    /// A client made what is refused here, by words that did not show it.
    pub fn slipped(&self, pin: Pin) {
        if let Some(count) = self.slips.get(pin as usize) {
            count.increment();
        }
    }

    /// Somebody has looked at the peaks.
    pub fn looked_at(&self) {
        self.lent.looked_at();
        self.waiting.looked_at();
    }
}

impl Queue {
    fn note(&mut self, is_busy: bool, now: Instant) {
        let is_exhausted = is_busy && !self.arrivals.is_empty();
        match (self.exhausted_since, is_exhausted) {
            (None, true) => self.exhausted_since = Some(now),
            (Some(since), false) => {
                self.exhausted += now.saturating_duration_since(since);
                self.exhausted_since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// While others wait it is as it was: whatever this one got, they have not got.
    fn leave(&mut self, number: u64, now: Instant) {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(arrival) = at.and_then(|at| self.arrivals.get_mut(at)) {
            *arrival = None;
        }
        while let Some(None) = self.arrivals.front() {
            self.arrivals.pop_front();
            self.first += 1;
        }
        self.note(self.exhausted_since.is_some(), now);
    }
}

/// A place among those who wait.
pub(super) struct Waiting<'a> {
    pressure: &'a Pressure,
    number: u64,
    since: Instant,
    /// How it ended; that of one who simply goes is [`Outcome::Abandoned`].
    pub(super) outcome: Outcome,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.pressure.waiting.down();
        self.pressure.queue().leave(self.number, now);
        self.pressure.wait.of(self.outcome).observe(now.saturating_duration_since(self.since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_exhausted_while_somebody_waits_and_everything_is_busy() {
        let pressure = Pressure::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);

        pressure.note(true, at(0)); // nobody waits
        let waiting = pressure.wait(Instant::now());
        pressure.note(false, at(10)); // a server is on its way
        pressure.note(true, at(20));
        let meanwhile = pressure.exhausted(at(23));
        pressure.note(true, at(25));
        pressure.note(false, at(27));
        pressure.note(true, at(30));
        pressure.queue().leave(0, at(31));
        drop(waiting);

        assert_eq!(meanwhile, Duration::from_secs(3));
        assert_eq!(pressure.exhausted(at(99)), Duration::from_secs(8));
    }

    #[test]
    fn the_oldest_wait_is_that_of_the_first_who_is_still_there() {
        let pressure = Pressure::default();
        let first = pressure.wait(Instant::now());
        let second = pressure.wait(Instant::now());
        let later = second.since + Duration::from_secs(1);

        let both = pressure.oldest_wait(later);
        drop(first);
        let one = pressure.oldest_wait(later);
        drop(second);

        assert!(both >= one);
        assert_eq!(one, Duration::from_secs(1));
        assert_eq!(pressure.oldest_wait(later), Duration::ZERO);
        assert_eq!(pressure.wait.of(Outcome::Abandoned).read().count(), 2);
    }
}
