//! Alive, started, ready.
//!
//! # Promises
//! - Started is said once and then for ever: a probe that is asked again must not restart a pod for what happened since.
//! - Ready does not depend on the database: while it is away, clients wait here, and a pod taken out of service helps nobody.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::proxy::Proxy;

/// An answer to a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No, and why.
    Bad(String),
    /// Yes.
    Good(&'static str),
}

impl State {
    pub(super) fn is_good(&self) -> bool {
        matches!(self, Self::Good(_))
    }
}

/// What has been answered before.
#[derive(Debug, Default)]
pub(super) struct Health {
    has_started: AtomicBool,
}

impl Health {
    /// Whether it accepts clients, and goes on doing so.
    pub(super) fn readiness(&self, proxy: &Proxy) -> State {
        if proxy.drain.is_draining() {
            return State::Bad("draining: no new clients\n".into());
        }
        State::Good("ready\n")
    }

    /// Whether every pool that has a minimum and can log in by itself has reached it once.
    ///
    /// It serves, so its configuration is loaded and its addresses are bound.
    pub(super) fn start(&self, proxy: &Proxy) -> State {
        if self.has_started.load(Ordering::Relaxed) {
            return State::Good("started\n");
        }
        let lacking = lacking(proxy);
        if lacking.is_empty() {
            self.has_started.store(true, Ordering::Relaxed);
            return State::Good("started\n");
        }
        State::Bad(format!("starting: {}\n", lacking.join(", ")))
    }
}

/// The pools that are not warm yet.
fn lacking(proxy: &Proxy) -> Vec<String> {
    let of_seat = |seat: crate::proxy::Seat| {
        let pool = proxy.pools.find(&seat.key);
        let (there, has_logged_in) =
            pool.map_or((0, false), |pool| (pool.servers().0, pool.baseline().is_some()));
        let min = seat.recipe.settings.min;
        let login = if has_logged_in { "" } else { ", none has logged in yet" };
        (there < min).then(|| format!("pool {} has {there} of {min} servers{login}", seat.key))
    };
    proxy.edition().catalog.to_warm().filter_map(of_seat).collect()
}
