//! A bound on servers over several pools.
//!
//! deadpool bounds each pool. `max_servers` of a database, of a user or of everything spans pools, and then a server idle in
//! one of them keeps the clients of another waiting. A cap knows whose servers count, so that room can be made.
//!
//! # Promises
//! - Places are given in the order in which they were asked for, whichever pool asks.
//! - While somebody waits for a place no server stays idle: that of another pool is closed, that of the same pool is handed
//!   over.
//! - A pool that is never idle gives up a server every [`HUNGER`] while another waits.
//!
//! # Refuses
//! To close a server that is lent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::names::PoolKey;
use crate::pool::Pool;
use crate::pool::places::{Place, Places};
use crate::pool::server::Server;

/// How long those who wait let pools go on that are never idle.
const HUNGER: Duration = Duration::from_secs(1);

/// A bound on servers over several pools.
pub struct Cap {
    places: Arc<Places>,
    /// Those whose servers count.
    pools: Mutex<Vec<Weak<Pool>>>,
    /// Clients waiting for a place.
    waiting: AtomicUsize,
    /// When the first of those who wait came, or a server was last given up for them.
    fed: Mutex<Instant>,
}

impl Cap {
    /// A cap of `most` servers.
    pub fn new(most: usize) -> Self {
        Self {
            places: Places::new(Some(most)),
            pools: Mutex::default(),
            waiting: AtomicUsize::new(0),
            fed: Mutex::new(Instant::now()),
        }
    }

    /// So many servers from now on; those beyond it are closed as they are given back.
    pub fn resize(&self, most: Option<usize>) {
        self.places.resize(most);
    }

    /// The servers of this pool count.
    pub(super) fn add(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &Weak<Pool>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool));
        pools.retain(|known| known.strong_count() > 0 && !is_same(known));
        pools.push(Arc::downgrade(pool));
    }

    /// Whether there are more servers than there may be.
    pub(super) fn is_exceeded(&self) -> bool {
        self.places.is_owed()
    }

    /// Most servers; `None` is no bound.
    pub(super) fn most(&self) -> Option<usize> {
        self.places.most()
    }

    /// Whether a place is free.
    pub(super) fn has_room(&self) -> bool {
        self.places.free() > 0
    }

    /// A place, if one is free.
    pub(super) fn place_now(&self) -> Option<Place> {
        self.places.take_now()
    }

    /// A place, made by closing an idle server of another pool if there is none.
    ///
    /// Cancel safe: a place in the queue is given up.
    pub(super) async fn place(&self, pool: &PoolKey) -> Option<Place> {
        if let Some(place) = self.place_now() {
            return Some(place);
        }
        if self.waiting.load(Ordering::Relaxed) == 0 {
            *self.fed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        let _waiting = Counted::up(&self.waiting);
        self.evict_idle(pool);
        self.places.take().await
    }

    /// Whether clients of other pools wait, when `own` of its own do.
    pub(super) fn is_wanted(&self, own: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) > own
    }

    /// Whether they have waited so long that a busy pool must give up a server; once in each [`HUNGER`].
    pub(super) fn is_overdue(&self, own: usize, now: Instant) -> bool {
        if !self.is_wanted(own) {
            return false;
        }
        let mut fed = self.fed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_overdue = now.saturating_duration_since(*fed) >= HUNGER;
        if is_overdue {
            *fed = now;
        }
        is_overdue
    }

    /// Closes the server that has been idle longest in another pool.
    fn evict_idle(&self, other_than: &PoolKey) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let others = pools.iter().filter_map(Weak::upgrade).filter(|pool| pool.key() != other_than);
        let longest =
            others.filter_map(|pool| Some((pool.longest_idle()?, pool))).min_by_key(|(since, _)| *since);
        if let Some((since, pool)) = longest {
            pool.close_idle_since(since);
        }
    }
}

/// The clients of one pool that wait for a cap. A server of theirs that is given back has a place already.
#[derive(Default)]
pub(super) struct Heirs {
    queue: Mutex<VecDeque<oneshot::Sender<Box<Server>>>>,
    waiting: AtomicUsize,
}

impl Heirs {
    /// A server of the same pool, handed over.
    ///
    /// Cancel safe, but for a server handed over in that moment: it is closed.
    pub(super) async fn inherit(&self) -> Option<Box<Server>> {
        let _waiting = Counted::up(&self.waiting);
        let (heir, server) = oneshot::channel();
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(heir);
        server.await.ok()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The one that has waited longest.
    pub(super) fn next(&self) -> Option<oneshot::Sender<Box<Server>>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let heir = queue.pop_front()?;
            if !heir.is_closed() {
                return Some(heir);
            }
        }
    }
}

/// Counts one up, and down again when dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn up(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PoolKey {
        PoolKey { database: "d".into(), user: "u".into() }
    }

    #[tokio::test]
    async fn those_who_wait_are_counted_while_they_do() {
        let cap = Cap::new(1);
        let place = cap.place_now();
        let key = key();
        let mut waiting = Box::pin(cap.place(&key));

        let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await;

        assert!(pending.is_pending());
        assert_eq!((cap.is_wanted(0), cap.is_wanted(1), cap.has_room()), (true, false, false));
        drop(place);
        assert!(waiting.await.is_some());
        assert!(!cap.is_wanted(0));
    }

    #[tokio::test]
    async fn hunger_is_stilled_once_at_a_time() {
        let cap = Cap::new(0);
        let key = key();
        let mut waiting = Box::pin(cap.place(&key));
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await;
        let now = Instant::now();

        assert!(!cap.is_overdue(0, now));
        assert!(!cap.is_overdue(1, now + HUNGER * 2));
        assert!(cap.is_overdue(0, now + HUNGER * 2));
        assert!(!cap.is_overdue(0, now + HUNGER * 2));
        assert!(cap.is_overdue(0, now + HUNGER * 4));
    }

    #[test]
    fn an_heir_that_has_left_inherits_nothing() {
        let heirs = Heirs::default();
        let (gone, _) = oneshot::channel();
        let (here, _server) = oneshot::channel();
        heirs.queue.lock().unwrap().extend([gone, here]);

        assert!(heirs.next().is_some());
        assert!(heirs.next().is_none());
    }
}
