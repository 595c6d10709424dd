//! Whether so much is going on that news is let gather for a moment.
//!
//! Going to sleep and being woken is a quarter of what a transaction costs, and with one CPU for us and others for PostgreSQL
//! it is paid for nearly every event: what wakes us comes alone. A pause of a few dozen microseconds before we go to
//! sleep lets several come, which are then served by one waking; those whom we answer are woken together as well.
//! So it is with results and copies of megabytes: PostgreSQL sends them in pieces of 8 kB, of which each would wake us, and we
//! their reader.
//!
//! # Promises
//! - With fewer than [`CROWD`] servers at work nothing is put off, nor when events come slowly: one client, or a few, wait for
//!   nobody's company.
//! - Nothing is put off for longer than [`PAUSE`]; for [`FLOW`] only while every server at work is amid a
//!   [`Flow`](crate::pool::Flow), and no turn has begun for a while.
//!
//! # Refuses
//! To sleep: that is for whoever runs the threads.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So many servers at work are a crowd.
const CROWD: usize = 8;

/// How long news is let gather.
const PAUSE: Duration = Duration::from_micros(40);

/// Events are dense if we had nothing to do so short a time ago, not counting the pause then. Where they come further apart
/// hardly two come in one pause, and it is only one more time to go to sleep.
const DENSE: Duration = Duration::from_micros(100);

/// The same of what flows: some of PostgreSQL's pieces, which may be 100 us apart.
const FLOW: Duration = Duration::from_micros(200);
const FLOW_DENSE: Duration = Duration::from_micros(400);

/// If we had nothing to do so often since a turn began, nobody asks one thing after the other.
const CALM: u32 = 8;

/// How much is going on, over all pools.
#[derive(Debug)]
pub struct Crowd {
    /// Servers that are lent, without those that are kept by a client that says nothing.
    at_work: AtomicUsize,
    /// Those of them that are amid a flow; <= `at_work`.
    flowing: AtomicUsize,
    /// How often we had nothing to do since a turn began.
    calm: AtomicU32,
    born: Instant,
    /// Until when there was last nothing to do, in microseconds after its birth.
    idle_until: AtomicU64,
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            at_work: AtomicUsize::new(0),
            flowing: AtomicUsize::new(0),
            calm: AtomicU32::new(0),
            born: Instant::now(),
            idle_until: AtomicU64::new(0),
        }
    }
}

impl Crowd {
    /// One more is at work.
    pub(super) fn up(&self) {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        self.calm.store(0, Ordering::Relaxed);
    }

    /// One less.
    pub(super) fn down(&self) {
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// One of those at work is amid a flow, or is so no more.
    pub(super) fn flow(&self, is_flowing: bool) {
        if is_flowing {
            self.flowing.fetch_add(1, Ordering::Relaxed);
        } else {
            self.flowing.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many of them are amid a flow.
    #[cfg(test)]
    pub(super) fn flowing(&self) -> usize {
        self.flowing.load(Ordering::Relaxed)
    }

    /// There is nothing to do `now`: how long news is to be let gather before we sleep, if at all.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let (pause, dense) = self.gathering()?;
        let now = now.saturating_duration_since(self.born);
        let since = now.saturating_sub(Duration::from_micros(self.idle_until.load(Ordering::Relaxed)));
        let pause = (since < dense).then_some(pause);
        let until = (now + pause.unwrap_or_default()).as_micros();
        self.idle_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        pause
    }

    /// For how long anything is to be let gather, and how soon it must come.
    fn gathering(&self) -> Option<(Duration, Duration)> {
        let calm = self.calm.fetch_add(1, Ordering::Relaxed);
        let (at_work, flowing) = (self.at_work.load(Ordering::Relaxed), self.flowing.load(Ordering::Relaxed));
        if flowing > 0 && flowing == at_work && calm >= CALM {
            return Some((FLOW, FLOW_DENSE));
        }
        (at_work >= CROWD).then_some((PAUSE, DENSE))
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

    #[test]
    fn what_flows_gathers_until_somebody_asks_for_something_else() {
        let crowd = Crowd::default();
        let at = |micros| crowd.born + Duration::from_micros(micros);
        let calm = |from: u64| (from..).step_by(10).map(|now| crowd.pause(at(now))).take(CALM as usize);
        crowd.up();
        crowd.flow(true);

        let first: Vec<_> = calm(0).collect();
        let alone = crowd.pause(at(100));
        crowd.up();
        let asked: Vec<_> = calm(400).collect();
        let waited_for = crowd.pause(at(500));
        crowd.down();
        let answered = crowd.pause(at(510));

        assert!(first.iter().chain(&asked).all(Option::is_none));
        assert_eq!([alone, waited_for, answered], [Some(FLOW), None, Some(FLOW)]);
    }
}
