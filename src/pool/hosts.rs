//! In which order hosts are tried: what is known of those that did not answer.
//!
//! A host that is gone answers nothing for as long as `connect_timeout`, and with several hosts that is time lost on every new
//! connection. So it is remembered, for all pools, and tried after the others until a pause is over that grows.
//!
//! # Promises
//! - Every host is in the order: one that is down is tried last, not left out. It may be the only one that is back.
//! - The host that was right last is tried first.
//!
//! # Refuses
//! To dial, to know roles.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::settings::Host;

/// The first pause of a host that did not answer; it doubles, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// The hosts that did not answer.
#[derive(Debug, Default)]
pub struct Hosts(Mutex<HashMap<Host, Down>>);

/// A host that did not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Down {
    pause: Duration,
    until: Instant,
}

impl Hosts {
    /// The order in which these are tried, by index, beginning with `first`.
    pub(super) fn order(&self, hosts: &[Host], first: usize, now: Instant) -> Vec<usize> {
        let count = hosts.len();
        let round = (0..count).map(|offset| (first + offset) % count);
        let (up, down): (Vec<_>, Vec<_>) =
            round.partition(|index| !hosts.get(*index).is_some_and(|host| self.is_down(host, now)));
        [up, down].concat()
    }

    /// Whether it did not answer a moment ago.
    pub(super) fn is_down(&self, host: &Host, now: Instant) -> bool {
        self.with(|hosts| hosts.get(host).is_some_and(|down| now < down.until))
    }

    /// It has answered.
    pub(super) fn on_answer(&self, host: &Host) {
        if self.with(|hosts| hosts.remove(host)).is_some() {
            tracing::info!(%host, "host answers again");
        }
    }

    /// It did not answer.
    pub(super) fn on_silence(&self, host: &Host, now: Instant) {
        let is_news = self.with(|hosts| {
            let before = hosts.get(host).copied();
            // Connections that were opened together fail together: that is one failure.
            if before.is_none_or(|down| down.until <= now) {
                let pause = before.map_or(FIRST, |down| (down.pause * 2).min(LONGEST));
                hosts.insert(host.clone(), Down { pause, until: now + pause });
            }
            before.is_none()
        });
        if is_news {
            tracing::warn!(%host, "host does not answer: others are tried before it");
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Host, Down>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> [Host; 3] {
        ["a", "b", "c"].map(|host| Host::Tcp { host: host.into(), port: 5432 })
    }

    #[test]
    fn the_one_that_was_right_is_first_and_those_down_are_last() {
        let (known, hosts, now) = (Hosts::default(), hosts(), Instant::now());

        assert_eq!(known.order(&hosts, 1, now), [1, 2, 0]);
        known.on_silence(&hosts[1], now);
        assert_eq!(known.order(&hosts, 1, now), [2, 0, 1]);
        known.on_silence(&hosts[2], now);
        assert_eq!(known.order(&hosts, 1, now), [0, 1, 2]);
        known.on_answer(&hosts[1]);
        assert_eq!(known.order(&hosts, 1, now), [1, 0, 2]);
    }

    #[test]
    fn the_pause_grows_with_each_silence_and_ends_with_an_answer() {
        let (known, [host, ..], start) = (Hosts::default(), hosts(), Instant::now());
        let mut now = start;
        let mut pauses = Vec::new();

        for _ in 0..7 {
            known.on_silence(&host, now);
            known.on_silence(&host, now); // of the same moment
            let began = now;
            while known.is_down(&host, now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - began).as_secs());
        }

        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        known.on_answer(&host);
        known.on_silence(&host, now);
        assert!(!known.is_down(&host, now + FIRST));
    }
}
