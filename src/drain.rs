//! Shutdown as phases with deadlines.
//!
//! ```text
//! Running ─ first signal ─► Draining ─ drain_grace ─► Leaving ─ all have left, or drain_timeout ─► Closing ─► Gone
//!                           not ready, serving          no newcomers; 57P01 between transactions
//! ```
//!
//! # Promises
//! - Every task that serves a client is counted, so that the process can wait for the last of them.
//!
//! # Refuses
//! To know what a client is: whoever drains is told when nobody is left.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The count of those still here, and whether they have been asked to leave.
#[derive(Clone, Default)]
pub struct Drain(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_draining: AtomicBool,
    is_leaving: AtomicBool,
    here: AtomicUsize,
    left: Notify,
}

impl Drain {
    /// Runs a task that is waited for until it drops its guard.
    ///
    /// The task keeps the guard itself because a future around it would be twice its size: once as it was given, once as it
    /// is awaited.
    pub fn track<F>(&self, task: impl FnOnce(Present) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.here.fetch_add(1, Ordering::AcqRel);
        drop(tokio::spawn(task(Present(self.0.clone()))));
    }

    /// Begins to drain: we are not ready any more, and serve as ever.
    pub fn begin(&self) {
        self.0.is_draining.store(true, Ordering::Release);
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        self.0.is_draining.load(Ordering::Acquire)
    }

    /// The grace is over: everybody is to leave.
    pub fn dismiss(&self) {
        self.0.is_leaving.store(true, Ordering::Release);
    }

    /// Whether everybody is to leave.
    pub fn is_leaving(&self) -> bool {
        self.0.is_leaving.load(Ordering::Acquire)
    }

    /// Waits until nobody is here.
    ///
    /// Cancel safe.
    pub async fn emptied(&self) {
        loop {
            let left = self.0.left.notified();
            if self.0.here.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }
}

/// Counts one down when dropped, also by a panic.
pub struct Present(Arc<Inner>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_waiters();
    }
}
