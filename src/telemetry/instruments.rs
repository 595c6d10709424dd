//! What counts: counters, tallies by word, peaks, latencies.
//!
//! A recorder of the crate `metrics` keeps every observation of a histogram until it is asked, and every series it has ever seen.
//! A sidecar has neither the memory nor the patience, so the instruments are ours and are read when somebody looks; names, units and
//! the text are those crates' ([`crate::telemetry::page`]).
//!
//! # Promises
//! - To count is one relaxed atomic operation, to observe a latency two; nothing is allocated, locked or looked up.
//! - An instrument is a field of what it measures: it is made with it and gone with it.
//!
//! # Refuses
//! To know a clock, a name or a label.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds to each its own.
    pub fn add_each(counters: &[Self], counts: &[u16]) {
        for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
            counter.add(u64::from(*count));
        }
    }
}

/// The values that a label may have: a closed set.
pub trait Word: Copy + 'static {
    /// All of them, as they are written.
    const WORDS: &'static [&'static str];

    /// Which of them this is.
    fn index(self) -> usize;
}

/// Makes an enum of words: each variant with its spelling and its meaning.
macro_rules! words {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($(#[$meaning:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $visibility enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $crate::telemetry::instruments::Word for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use words;

/// One of something for each word.
#[derive(Debug)]
pub struct Tally<W, T = Counter> {
    each: Box<[T]>,
    words: PhantomData<fn(W)>,
}

impl<W: Word, T: Default> Default for Tally<W, T> {
    fn default() -> Self {
        Self { each: W::WORDS.iter().map(|_| T::default()).collect(), words: PhantomData }
    }
}

impl<W: Word, T> Tally<W, T> {
    /// That of this word.
    ///
    /// There is one for each word, so it is always there; the first stands in for what cannot be.
    pub fn of(&self, word: W) -> &T {
        self.each.get(word.index()).unwrap_or(&self.each[0])
    }

    /// All of them, in the order of the words.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.each.iter()
    }
}

impl<W: Word> Tally<W> {
    /// One more of this word.
    pub fn count(&self, word: W) {
        self.of(word).increment();
    }

    /// How many of each by now, in the order of the words.
    pub fn values(&self) -> Vec<u64> {
        self.each().map(Counter::value).collect()
    }
}

/// How many there are now, and how many there were at most.
///
/// A gauge that is looked at every 15 s misses the burst of one second that exhausted a pool. So the highest since the look before the
/// last is kept: with two scrapers who look in turn, each still hears of everything that happened since its own last look.
#[derive(Debug, Default)]
pub struct Level {
    now: AtomicUsize,
    /// At least `now`.
    highest: AtomicUsize,
    highest_before: AtomicUsize,
}

impl Level {
    /// One more.
    pub fn up(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        if now > self.highest.load(Ordering::Relaxed) {
            self.highest.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// One less.
    pub fn down(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are now.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The most there were since the look before the last.
    pub fn peak(&self) -> usize {
        let highest = self.highest.load(Ordering::Relaxed);
        highest.max(self.highest_before.load(Ordering::Relaxed)).max(self.now())
    }

    /// Somebody has looked. One that comes up in this very moment is in `now`, and so in the next peak.
    pub fn looked_at(&self) {
        let highest = self.highest.swap(self.now(), Ordering::Relaxed);
        self.highest_before.store(highest, Ordering::Relaxed);
    }
}

/// The upper ends of the buckets: from 100 us, what a server next door takes, to 60 s, what nobody waits for.
pub const BUCKETS: [Duration; 18] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// How long something took, each time it happened.
#[derive(Debug, Default)]
pub struct Latency {
    /// By bucket, each without those below it; the last is for what took longer.
    counts: [AtomicU64; BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Latency {
    /// It took so long.
    pub fn observe(&self, took: Duration) {
        self.observe_many(took, 1);
    }

    /// So many took so long, each.
    pub fn observe_many(&self, took: Duration, count: u64) {
        let bucket = BUCKETS.partition_point(|end| *end < took);
        if let Some(bucket) = self.counts.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count);
        if nanoseconds > 0 {
            self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }

    /// What has been observed by now.
    pub fn read(&self) -> Distribution {
        Distribution {
            counts: std::array::from_fn(|index| {
                self.counts.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        }
    }
}

/// What a [`Latency`] had observed when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Distribution {
    /// By bucket, each without those below it.
    counts: [u64; BUCKETS.len() + 1],
    /// Of all.
    pub sum: Duration,
}

impl Distribution {
    /// How often it happened.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The end of each bucket, and how often it took at most so long.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut below = 0;
        BUCKETS.iter().zip(self.counts).map(move |(end, count)| {
            below += count;
            (*end, below)
        })
    }
}

impl std::ops::AddAssign<&Self> for Distribution {
    fn add_assign(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        /// For these tests.
        enum Colour {
            /// Like blood.
            Red = "red",
            /// Like grass.
            Green = "green",
        }
    }

    #[test]
    fn a_latency_falls_into_the_bucket_that_ends_at_or_above_it() {
        let latency = Latency::default();
        for micros in [0, 100, 101, 60_000_000, 60_000_001] {
            latency.observe(Duration::from_micros(micros));
        }

        let read = latency.read();

        let cumulative: Vec<_> = read.cumulative().map(|(_, count)| count).collect();
        assert_eq!((cumulative[0], cumulative[1], cumulative[17], read.count()), (2, 3, 4, 5));
        assert_eq!(read.sum, Duration::from_micros(120_000_202));
    }

    #[test]
    fn a_tally_counts_each_word_apart() {
        let tally = Tally::<Colour>::default();

        tally.count(Colour::Green);
        tally.count(Colour::Green);

        assert_eq!(tally.values(), [0, 2]);
        assert_eq!(Colour::WORDS[Colour::Red.index()], "red");
    }

    #[test]
    fn a_burst_between_two_looks_is_seen_by_two_who_look_in_turn() {
        let level = Level::default();
        (0..5).for_each(|_| {
            level.up();
        });
        (0..4).for_each(|_| level.down());

        let one = level.peak();
        level.looked_at();
        let other = level.peak();
        level.looked_at();
        let later = level.peak();

        assert_eq!((one, other, later, level.now()), (5, 5, 1, 1));
    }
}
