//! What happened in the last whole minute (PgBouncer's `stats_period`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a period is.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// How many numbers SHOW STATS has of each kind.
pub(super) const COUNTS: usize = 11;

/// The numbers of one database, in the order of SHOW STATS.
pub(super) type Sums = [u64; COUNTS];

/// Which of them is a time, and which counts what the time was spent on.
const TIMES: [(usize, usize); 2] = [(5, 1), (6, 2)];

/// The numbers of the last period.
#[derive(Default)]
pub(super) struct Averages(Mutex<State>);

#[derive(Default)]
struct State {
    last: Option<(Instant, BTreeMap<String, Sums>)>,
    averages: BTreeMap<String, Sums>,
}

impl Averages {
    /// A period is over; this is what has been counted so far.
    pub(super) fn take(&self, sums: BTreeMap<String, Sums>) {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, before)) = state.last.take() {
            let period = now.duration_since(since);
            let nothing = [0; COUNTS];
            let average = |(name, sums): (&String, &Sums)| {
                (name.clone(), averages(before.get(name).unwrap_or(&nothing), sums, period))
            };
            state.averages = sums.iter().map(average).collect();
        }
        state.last = Some((now, sums));
    }

    /// The averages of a database.
    pub(super) fn of(&self, database: &str) -> Sums {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.averages.get(database).copied().unwrap_or_default()
    }
}

/// Per second; transaction and query times per transaction and query.
fn averages(before: &Sums, now: &Sums, period: Duration) -> Sums {
    let grown: Vec<u64> = before.iter().zip(now).map(|(before, now)| now.saturating_sub(*before)).collect();
    let micros = u64::try_from(period.as_micros()).unwrap_or(u64::MAX).max(1);
    let mut averages = [0; COUNTS];
    for (at, average) in averages.iter_mut().enumerate() {
        let per = TIMES.iter().find(|(time, _)| *time == at).map(|(_, count)| grown[*count].max(1));
        *average = match per {
            Some(count) => grown[at] / count,
            None => grown[at].saturating_mul(1_000_000) / micros,
        };
    }
    averages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_per_second_and_times_per_transaction() {
        let now = [20, 40, 60, 0, 0, 4_000, 3_000, 500, 0, 0, 0];

        let averages = averages(&[0; COUNTS], &now, Duration::from_secs(10));

        assert_eq!(averages, [2, 4, 6, 0, 0, 100, 50, 50, 0, 0, 0]);
    }
}
