//! Whether so much is going on that news is let gather for a moment.
//!
//! Going to sleep and being woken is a quarter of what a transaction costs, and with one CPU for us and others for PostgreSQL
//! it is paid for nearly every event: what wakes us comes alone. A pause of a few dozen microseconds before we go to
//! sleep lets several come, which are then served by one waking; those whom we answer are woken together as well.
//!
//! # Promises
//! - With fewer than [`CROWD`] servers at work nothing is put off, nor when events come slowly: one client, or a few, wait for
//!   nobody's company.
//! - Nothing is put off for longer than [`PAUSE`].
//!
//! # Refuses
//! To sleep: that is for whoever runs the threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So many servers at work are a crowd.
const CROWD: usize = 8;

/// How long news is let gather.
const PAUSE: Duration = Duration::from_micros(40);

/// Events are dense if we had nothing to do so short a time ago, not counting the pause then. Where they come further apart
/// hardly two come in one pause, and it is only one more time to go to sleep.
const DENSE: Duration = Duration::from_micros(100);

/// How much is going on, over all pools.
#[derive(Debug)]
pub struct Crowd {
    /// Servers that are lent, without those that are kept by a client that says nothing.
    at_work: AtomicUsize,
    born: Instant,
    /// Until when there was last nothing to do, in microseconds after its birth.
    idle_until: AtomicU64,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { at_work: AtomicUsize::new(0), born: Instant::now(), idle_until: AtomicU64::new(0) }
    }
}

impl Crowd {
    /// One more is at work.
    pub(super) fn up(&self) {
        self.at_work.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub(super) fn down(&self) {
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// There is nothing to do `now`: how long news is to be let gather before we sleep, if at all.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        if self.at_work.load(Ordering::Relaxed) < CROWD {
            return None;
        }
        let now = now.saturating_duration_since(self.born);
        let since = now.saturating_sub(Duration::from_micros(self.idle_until.load(Ordering::Relaxed)));
        let pause = (since < DENSE).then_some(PAUSE);
        let until = (now + pause.unwrap_or_default()).as_micros();
        self.idle_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_gathers_only_where_there_is_a_crowd_and_much_to_do() {
        let crowd = Crowd::default();
        let at = |micros| crowd.born + Duration::from_micros(micros);

        (1..CROWD).for_each(|_| crowd.up());
        let few = [crowd.pause(at(1_000)), crowd.pause(at(1_010))];
        crowd.up();
        let many =
            [crowd.pause(at(2_000)), crowd.pause(at(2_090)), crowd.pause(at(2_220)), crowd.pause(at(2_370))];
        crowd.down();

        assert_eq!(few, [None, None]);
        assert_eq!(many, [None, Some(PAUSE), Some(PAUSE), None]);
        assert_eq!(crowd.pause(at(2_380)), None);
    }
}
