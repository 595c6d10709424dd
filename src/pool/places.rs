//! A number of places that can change while they are taken.
//!
//! deadpool's own bound cannot shrink without losing count, and tokio's semaphore forgets only what is free. So what was
//! taken away and is still in use is *owed*, and paid by whoever leaves next.
//!
//! # Promises
//! - Places are given in the order in which they were asked for.
//! - Nobody is let in while more are taken than there are; nobody is thrown out for it either.
//!
//! # Invariants
//! `free + taken == most + owed`; whenever `owed > 0`, `free == 0`, but for the moment of a change.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// More than anyone will ask for.
const ENDLESS: usize = Semaphore::MAX_PERMITS >> 1;

/// Places, so many as configuration says now.
#[derive(Debug)]
pub struct Places {
    free: Semaphore,
    owed: AtomicUsize,
    taken: AtomicUsize,
    most: Mutex<usize>,
}

/// One place, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Place(Arc<Places>);

impl Places {
    /// So many places; `None` is no bound.
    pub fn new(most: Option<usize>) -> Arc<Self> {
        let most = most.unwrap_or(ENDLESS).min(ENDLESS);
        Arc::new(Self {
            free: Semaphore::new(most),
            owed: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            most: Mutex::new(most),
        })
    }

    /// So many from now on. Those beyond it go as they are left.
    pub fn resize(&self, most: Option<usize>) {
        let most = most.unwrap_or(ENDLESS).min(ENDLESS);
        let mut known = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        if most >= *known {
            let more = most - *known;
            let paid = (0..more).take_while(|_| self.pay()).count();
            self.free.add_permits(more - paid);
        } else {
            let less = *known - most;
            let forgotten = self.free.forget_permits(less);
            self.owed.fetch_add(less - forgotten, Ordering::AcqRel);
        }
        *known = most;
    }

    /// A place, if one is free.
    pub fn take_now(self: &Arc<Self>) -> Option<Place> {
        self.free.try_acquire().ok()?.forget();
        Some(self.taken())
    }

    /// A place, once one is free.
    ///
    /// Cancel safe: the place in the queue is given up.
    pub async fn take(self: &Arc<Self>) -> Option<Place> {
        self.free.acquire().await.ok()?.forget();
        Some(self.taken())
    }

    /// A place for somebody who is there already.
    pub fn take_anyway(self: &Arc<Self>) -> Place {
        self.take_now().unwrap_or_else(|| {
            self.owed.fetch_add(1, Ordering::AcqRel);
            self.taken()
        })
    }

    fn taken(self: &Arc<Self>) -> Place {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }

    /// Whether somebody must leave before anyone may come.
    pub fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Acquire) > 0
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// How many are taken.
    pub fn in_use(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// How many there are; `None` is no bound.
    pub fn most(&self) -> Option<usize> {
        let most = *self.most.lock().unwrap_or_else(PoisonError::into_inner);
        (most < ENDLESS).then_some(most)
    }

    /// Pays for one place, if any is owed.
    fn pay(&self) -> bool {
        let pay = |owed: usize| owed.checked_sub(1);
        self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, pay).is_ok()
    }
}

impl Place {
    /// Whether it is one of these.
    pub fn is_of(&self, places: &Arc<Places>) -> bool {
        Arc::ptr_eq(&self.0, places)
    }

    /// Whether it goes away when it is left.
    pub fn is_owed(&self) -> bool {
        self.0.is_owed()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        if !self.0.pay() {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_while_in_use_is_paid_by_those_who_leave() {
        let places = Places::new(Some(3));
        let taken: Vec<_> = (0..3).filter_map(|_| places.take_now()).collect();

        places.resize(Some(1));

        assert!(places.is_owed() && places.take_now().is_none());
        drop(taken);
        assert_eq!((places.free(), places.in_use(), places.is_owed()), (1, 0, false));
    }

    #[test]
    fn shrinking_and_growing_again_loses_and_gains_nothing() {
        let places = Places::new(Some(10));
        let held: Vec<_> = (0..4).filter_map(|_| places.take_now()).collect();

        for most in [2, 10, 1, 7, 0, 10] {
            places.resize(Some(most));
        }

        assert_eq!((places.free(), places.most()), (6, Some(10)));
        drop(held);
        assert_eq!(places.free(), 10);
    }

    #[test]
    fn one_who_is_there_already_is_counted_beyond_the_bound() {
        let places = Places::new(Some(1));
        let (_first, second) = (places.take_anyway(), places.take_anyway());
        assert_eq!((places.in_use(), places.is_owed()), (2, true));

        drop(second);

        assert!(!places.is_owed() && places.take_now().is_none());
    }

    #[test]
    fn without_a_bound_there_is_always_room() {
        let places = Places::new(None);
        places.resize(Some(1));
        let _one = places.take_now();
        places.resize(None);

        assert!(places.take_now().is_some());
        assert_eq!(places.most(), None);
    }

    #[tokio::test]
    async fn one_who_waits_is_let_in_by_growth() {
        let places = Places::new(Some(0));
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take().await.is_some() }
        });
        tokio::task::yield_now().await;

        places.resize(Some(1));

        assert!(waiting.await.unwrap());
    }
}
