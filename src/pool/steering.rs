//! Pools held still, renewed and closed to newcomers, as the operator says.
//!
//! ```text
//! PAUSE: the gate is shut, idle servers close ─► each lent one closes when it is given back ─► none is left ─► RESUME
//! ```
//!
//! A paused pool opens no server. So whoever asks waits, in the order of asking, and its deadline with it.
//!
//! # Promises
//! - Nothing that runs is cut short, and nothing that waits is refused.
//! - What was said of a database holds for its pools yet to come, and through a reload.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::names::Database;
use crate::pool::{Pool, Pools};

/// How often it is looked whether the last server has gone.
const ROUND: Duration = Duration::from_millis(5);

/// Whether servers may be opened.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_shut: AtomicBool,
    opened: Notify,
}

impl Gate {
    pub(super) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }

    fn set(&self, is_shut: bool) {
        self.is_shut.store(is_shut, Ordering::Release);
        if !is_shut {
            self.opened.notify_waiters();
        }
    }

    /// Waits until it is open.
    ///
    /// Cancel safe.
    pub(super) async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_shut() {
                return;
            }
            opened.await;
        }
    }
}

/// What the operator has said.
#[derive(Debug, Default)]
pub(super) struct Steering {
    is_paused: bool,
    paused: HashSet<Database>,
    disabled: HashSet<Database>,
}

impl Steering {
    fn is_paused(&self, database: &Database) -> bool {
        self.is_paused || self.paused.contains(database)
    }
}

impl Pools {
    fn steering(&self) -> std::sync::MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pools of one database, or all.
    pub fn of(&self, database: Option<&Database>) -> Vec<Arc<Pool>> {
        let is_meant = |pool: &Arc<Pool>| database.is_none_or(|database| pool.key().database == *database);
        self.all().into_iter().filter(is_meant).collect()
    }

    /// Pauses one database or all. Whether it was not paused before.
    pub fn pause(&self, database: Option<&Database>) -> bool {
        let is_new = {
            let mut steering = self.steering();
            match database {
                None => !std::mem::replace(&mut steering.is_paused, true),
                Some(database) => steering.paused.insert(database.clone()),
            }
        };
        self.of(database).iter().for_each(|pool| self.steer(pool));
        is_new
    }

    /// Ends the pause of one database or of all. Whether there was one.
    pub fn resume(&self, database: Option<&Database>) -> bool {
        let was_paused = {
            let mut steering = self.steering();
            match database {
                None => std::mem::replace(&mut steering.is_paused, false),
                Some(database) => steering.paused.remove(database),
            }
        };
        self.of(database).iter().for_each(|pool| self.steer(pool));
        was_paused
    }

    /// Has a pool do what was said of its database.
    pub(super) fn steer(&self, pool: &Arc<Pool>) {
        let is_shut = self.steering().is_paused(&pool.key().database);
        let gate = pool.manager().gate();
        if is_shut && !gate.is_shut() {
            gate.set(true);
            pool.renew();
        }
        gate.set(is_shut);
    }

    /// Waits until paused pools have no servers, or until they are paused no more.
    ///
    /// Cancel safe.
    pub async fn at_rest(&self, database: Option<&Database>) {
        let is_busy = |pool: &Arc<Pool>| pool.manager().gate().is_shut() && pool.servers().0 > 0;
        while self.of(database).iter().any(is_busy) {
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Waits until every server that is not to be lent again has been closed.
    ///
    /// Cancel safe.
    pub async fn without_old(&self, database: Option<&Database>) {
        while self.of(database).iter().any(|pool| pool.has_old()) {
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Whether all databases are paused.
    pub fn are_paused(&self) -> bool {
        self.steering().is_paused
    }

    /// Whether this database is paused, alone or with all.
    pub fn is_paused(&self, database: &Database) -> bool {
        self.steering().is_paused(database)
    }

    /// Lets nobody in any more, or again.
    pub fn disable(&self, database: &Database, is_disabled: bool) {
        let mut steering = self.steering();
        if is_disabled {
            steering.disabled.insert(database.clone());
        } else {
            steering.disabled.remove(database);
        }
    }

    /// Whether nobody is let in.
    pub fn is_disabled(&self, database: &Database) -> bool {
        self.steering().disabled.contains(database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_paused_alone_or_with_all() {
        let (a, b) = (Database::from("a"), Database::from("b"));
        let mut steering = Steering::default();

        steering.paused.insert(a.clone());
        assert!(steering.is_paused(&a) && !steering.is_paused(&b));
        steering.is_paused = true;

        assert!(steering.is_paused(&b));
    }

    #[tokio::test]
    async fn a_shut_gate_lets_nobody_pass_until_it_is_opened() {
        let gate = Arc::new(Gate::default());
        gate.set(true);
        let passing = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        tokio::task::yield_now().await;
        assert!(!passing.is_finished());

        gate.set(false);

        passing.await.unwrap();
    }
}
