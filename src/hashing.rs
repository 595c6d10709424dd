//! Keys from passwords: slow by design, so away from the threads that serve queries, a few at a time, and once.
//!
//! A room of its own because both ways need it: clients that prove themselves to us, and our logins to servers. What is
//! cheap stays where it is needed: an MD5 hash takes less than the way to another thread.
//!
//! # Promises
//! - Nobody's query waits for a derivation: it happens on a thread for blocking work, and at most half of the processors do
//!   that at once (one, where there is one).
//! - First come, first served; whoever goes away while waiting costs nothing more.
//! - The same password, salt and count are derived once, however many ask at the same time, and remembered while they are
//!   asked for again within [`REMEMBERED`], if there is room: right or wrong, known user or stranger makes no difference.
//! - What is remembered is found by a keyed hash: no password is kept here.
//!
//! # Refuses
//! To judge a password; to bound the iterations: whoever reads a count from the network does
//! ([`MAX_ITERATIONS`](crate::auth::scram::MAX_ITERATIONS)).

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::auth::{Fingerprint, Fingerprints, ScramKeys, Secret};

/// How long keys are remembered that nobody asks for.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// Most keys remembered.
const MOST: u64 = 4_096;

/// The most threads that derive at once, whatever the number of processors: blocking work has others to do too.
const MOST_AT_ONCE: usize = 2;

/// Derives keys.
#[derive(Debug)]
pub struct Hashing {
    known: Cache<Fingerprint, ScramKeys>,
    /// `None`: there were no random bytes for their key, and nothing is remembered.
    fingerprints: Option<Fingerprints>,
    turns: Arc<Semaphore>,
}

impl Default for Hashing {
    fn default() -> Self {
        Self::new()
    }
}

impl Hashing {
    /// Nothing is known yet.
    pub fn new() -> Self {
        let at_once = available_parallelism().map_or(1, usize::from) / 2;
        Self {
            known: Cache::builder().max_capacity(MOST).time_to_idle(REMEMBERED).build(),
            fingerprints: Fingerprints::random().ok(),
            turns: Arc::new(Semaphore::new(at_once.clamp(1, MOST_AT_ONCE))),
        }
    }

    /// The keys of a password; `None` if the process is ending.
    ///
    /// Cancel safe: somebody else who waits for the same keys derives them.
    pub async fn keys(&self, password: &Secret, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let fingerprint = self.fingerprints.as_ref().map(|known| known.of(password, salt, iterations));
        let derived = self.derive(fingerprint, password.clone(), salt.into(), iterations);
        match fingerprint {
            Some(fingerprint) => self.known.optionally_get_with(fingerprint, derived).await,
            None => derived.await,
        }
    }

    /// The turn ends with the work, not with the future that waits for it.
    async fn derive(
        &self,
        fingerprint: Option<Fingerprint>,
        password: Secret,
        salt: Box<[u8]>,
        iterations: u32,
    ) -> Option<ScramKeys> {
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        // Somebody may have had them derived and gone away.
        if let Some(fingerprint) = &fingerprint
            && let Some(keys) = self.known.get(fingerprint).await
        {
            return Some(keys);
        }
        let began = Instant::now();
        let known = self.known.clone();
        let derived = tokio::spawn(async move {
            let keys = spawn_blocking(move || {
                let keys = ScramKeys::derive(password.expose(), &salt, iterations);
                drop(turn);
                keys
            });
            let keys = keys.await.ok()?;
            tracing::debug!(iterations, took = ?began.elapsed(), "keys derived");
            if let Some(fingerprint) = fingerprint {
                known.insert(fingerprint, keys.clone()).await;
            }
            Some(keys)
        });
        derived.await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_password_is_derived_once_for_all_who_ask() {
        let hashing = Arc::new(Hashing::new());
        let asked = (0..100).map(|_| {
            let hashing = hashing.clone();
            tokio::spawn(async move { hashing.keys(&Secret::from("pencil"), b"salt", 4096).await.unwrap() })
        });

        let began = Instant::now();
        for keys in asked.collect::<Vec<_>>() {
            assert_eq!(
                keys.await.unwrap().client_key(),
                ScramKeys::derive(b"pencil", b"salt", 4096).client_key()
            );
        }

        hashing.known.run_pending_tasks().await;
        assert_eq!(hashing.known.entry_count(), 1, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn another_password_salt_or_count_is_another_key() {
        let hashing = Hashing::new();
        let mut all = Vec::new();
        for (password, salt, count) in
            [("pencil", "salt", 2), ("pencils", "alt", 2), ("pencil", "tlas", 2), ("pencil", "salt", 3)]
        {
            all.push(
                *hashing.keys(&Secret::from(password), salt.as_bytes(), count).await.unwrap().client_key(),
            );
        }

        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4);
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_turn_to_the_next() {
        let hashing = Hashing::new();
        for number in 0..20_u32 {
            let password = Secret::from(number.to_string().as_str());
            let asked = hashing.keys(&password, b"salt", 50_000);
            assert!(tokio::time::timeout(Duration::from_micros(50), asked).await.is_err());
        }

        let keys =
            tokio::time::timeout(Duration::from_secs(20), hashing.keys(&Secret::from("x"), b"y", 1)).await;

        assert!(keys.unwrap().is_some());
    }
}
