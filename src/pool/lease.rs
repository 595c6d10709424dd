//! A server on loan.
//!
//! Giving a server to the wrong client at the wrong moment is the one bug a pooler must not have. So returning is possible
//! only with a [`Clean`], and everything else, panic and cancellation included, destroys the connection.
//!
//! # Promises
//! - `release` is the only way back to the pool, and it cannot be called without the witness.
//! - Dropping a lease closes the server and frees its place in the pool before `drop` returns.
//! - A server with a cancel request in flight is not lent again until the request has been delivered:
//!   a late cancel must not fall on the next client.
//!
//! # Refuses
//! To send anything but Terminate: a lease does not know PostgreSQL. Cleaning is an exchange like any other.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use deadpool::managed::Object;

use crate::pool::Pool;
use crate::pool::manager::{Destiny, Maker};
use crate::pool::places::Place;
use crate::pool::server::Server;
use crate::session::{Clean, Rules};

/// A server, and its place in the pool. In this order: whoever gets the place finds the server.
pub(super) type Granted = (Object<Maker>, Place);

/// A server on loan.
pub struct Lease {
    /// Present until the lease ends.
    object: Option<Object<Maker>>,
    /// Its place in the pool, left after the object is back.
    place: Option<Place>,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new((object, place): Granted, pool: Arc<Pool>) -> Self {
        Self { object: Some(object), place: Some(place), pool }
    }

    /// The pool it comes from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether the server was made for clients under these rules: what was injected under other variables is there still.
    pub fn suits(&self, rules: &Rules) -> bool {
        let (made_for, said) = (&self.identity_variables, rules.identity.said());
        said.clone().count() == made_for.len()
            && said.clone().all(|name| made_for.iter().any(|it| it.eq_ignore_ascii_case(name)))
    }

    /// Gives the server back. A witness for another server is no witness: then it is closed.
    pub fn release(mut self, clean: Clean) {
        let (Some(mut object), Some(place)) = (self.object.take(), self.place.take()) else { return };
        if clean.server() != object.id() {
            return destroy((object, place), &self.pool);
        }
        object.uses += 1;
        object.idle_since = Instant::now();
        object.peer.give_up();
        if object.cancel.is_aimed_at() {
            let target = object.cancel.clone();
            let pool = self.pool.clone();
            self.pool.spawn(async move {
                target.at_peace().await;
                give_back((object, place), &pool);
            });
            return;
        }
        give_back((object, place), &self.pool);
    }
}

impl Deref for Lease {
    type Target = Server;

    #[expect(
        clippy::expect_used,
        reason = "the object is taken only by release and drop, which end the lease"
    )]
    fn deref(&self) -> &Server {
        self.object.as_deref().expect("a lease holds its server until it ends")
    }
}

impl DerefMut for Lease {
    #[expect(
        clippy::expect_used,
        reason = "the object is taken only by release and drop, which end the lease"
    )]
    fn deref_mut(&mut self) -> &mut Server {
        self.object.as_deref_mut().expect("a lease holds its server until it ends")
    }
}

impl Drop for Lease {
    /// No witness: the connection dies, its place is freed.
    fn drop(&mut self) {
        if let (Some(object), Some(place)) = (self.object.take(), self.place.take()) {
            destroy((object, place), &self.pool);
        }
    }
}

/// To whoever needs it most: the pool, a client that waits for a cap, or nobody.
fn give_back((mut object, place): Granted, pool: &Pool) {
    let (manager, now) = (pool.manager(), object.idle_since);
    if place.is_owed() || !manager.is_good(&object, now) {
        return destroy((object, place), pool);
    }
    match manager.destiny(pool.waiting(), now) {
        Destiny::Close => destroy((object, place), pool),
        Destiny::HandOver(heir) => {
            object.is_handed_over = true;
            let mut server = Object::take(object);
            drop(place);
            server.is_handed_over = false;
            if let Err(server) = heir.send(server) {
                server.close(); // it stopped waiting this very moment
            }
            pool.on_freed();
        }
        Destiny::Keep => {
            drop((object, place));
            pool.on_freed();
        }
    }
}

fn destroy((object, place): Granted, pool: &Pool) {
    Object::take(object).close();
    drop(place);
    pool.on_freed();
}
