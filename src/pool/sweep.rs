//! What happens to servers that nobody asks for: ages, idleness, the minimum.
//!
//! # Promises
//! - A pool that has a minimum is brought back to it, and never swept below it for idleness.
//! - Servers that went away while they were idle are noticed, so that the minimum is there when it is needed.
//! - The minimum of one pool does not push servers of another out from under a cap.
//! - A pool without clients and servers is forgotten.
//!
//! # Refuses
//! To touch a server that is lent.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::{Closing, Kept, Pool, Pools};

/// How often pools are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// How long a pool without clients and servers is remembered.
const FORGET: Duration = Duration::from_secs(60);

impl Pools {
    /// Sweeps for ever.
    ///
    /// Cancel safe.
    pub async fn sweep(self: Arc<Self>) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            let now = Instant::now();
            for pool in self.all() {
                pool.sweep(now);
                pool.note_exhaustion(&pool.settings(), now);
                pool.replenish();
            }
            self.forget(now);
        }
    }

    fn forget(&self, now: Instant) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, pool| !pool.is_forgotten(now));
    }
}

impl Pool {
    /// Closes idle servers that are too old, or idle for too long beyond the minimum.
    fn sweep(&self, now: Instant) {
        let settings = self.settings();
        self.sweep_kept(&self.kept, settings.min, settings.idle_timeout, now);
        self.sweep_kept(&self.reserve, 0, settings.idle_timeout, now);
    }

    fn sweep_kept(&self, kept: &Kept, min: usize, idle_timeout: Option<Duration>, now: Instant) {
        let mut spare = kept.count().0.saturating_sub(min);
        kept.close_idle(|server| {
            let gone = || server.has_gone().then_some(Closing::Gone);
            if let Some(reason) = self.manager().fault(server, now).or_else(gone) {
                spare = spare.saturating_sub(1);
                return Some(reason);
            }
            let is_idle = idle_timeout.is_some_and(|limit| now.duration_since(server.idle_since) >= limit);
            if is_idle && spare > 0 {
                spare -= 1;
                return Some(Closing::Idle);
            }
            None
        });
    }

    /// Opens what the minimum lacks, in a task of its own.
    fn replenish(self: &Arc<Self>) {
        let settings = self.settings();
        let lacks = self.kept.count().0 < settings.min.min(settings.size);
        let is_wanted = !self.manager().borrows_credentials() || self.baseline().is_some();
        let is_retired = self.is_retired.load(std::sync::atomic::Ordering::Relaxed);
        if !lacks
            || !is_wanted
            || is_retired
            || !self.manager().has_room()
            || self.warming.swap(true, std::sync::atomic::Ordering::Relaxed)
        {
            return;
        }
        let pool = self.clone();
        self.spawn(async move {
            pool.warm().await;
            pool.warming.store(false, std::sync::atomic::Ordering::Relaxed);
        });
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let is_unused = self.clients.load(std::sync::atomic::Ordering::Relaxed) == 0 && self.servers().0 == 0;
        let last_used = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        let is_retired = self.is_retired.load(std::sync::atomic::Ordering::Relaxed);
        is_unused && (is_retired || self.settings().min == 0) && now.duration_since(last_used) > FORGET
    }

    /// Since when its server has been idle that has been so longest.
    pub(super) fn longest_idle(&self) -> Option<Instant> {
        let mut longest = None;
        self.kept.close_idle(|server| {
            longest = Some(longest.map_or(server.idle_since, |since: Instant| since.min(server.idle_since)));
            None
        });
        longest
    }

    /// Closes the server that has been idle since then.
    pub(super) fn close_idle_since(&self, since: Instant) {
        self.kept.close_idle(|server| (server.idle_since == since).then_some(Closing::WantedElsewhere));
    }
}
