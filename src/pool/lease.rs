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
use crate::pool::manager::{Destiny, Manager};
use crate::pool::server::Server;
use crate::session::Clean;

/// A server on loan.
pub struct Lease {
    /// Present until the lease ends.
    object: Option<Object<Manager>>,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(object: Object<Manager>, pool: Arc<Pool>) -> Self {
        Self { object: Some(object), pool }
    }

    /// The pool it comes from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Gives the server back. A witness for another server is no witness: then it is closed.
    pub fn release(mut self, clean: Clean) {
        let Some(mut object) = self.object.take() else { return };
        if clean.server() != object.id() {
            return destroy(object, &self.pool);
        }
        object.uses += 1;
        object.idle_since = Instant::now();
        object.peer.give_up();
        if object.cancel.is_aimed_at() {
            let target = object.cancel.clone();
            let pool = self.pool.clone();
            self.pool.spawn(async move {
                target.at_peace().await;
                give_back(object, &pool);
            });
            return;
        }
        give_back(object, &self.pool);
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
        if let Some(object) = self.object.take() {
            destroy(object, &self.pool);
        }
    }
}

/// To whoever needs it most: the pool, a client that waits for a cap, or nobody.
fn give_back(mut object: Object<Manager>, pool: &Pool) {
    let (manager, now) = (pool.manager(), object.idle_since);
    if !manager.is_good(&object, now) {
        return destroy(object, pool);
    }
    match manager.destiny(pool.waiting(), now) {
        Destiny::Close => destroy(object, pool),
        Destiny::HandOver(heir) => {
            object.is_handed_over = true;
            let mut server = Object::take(object);
            server.is_handed_over = false;
            if let Err(server) = heir.send(server) {
                server.close(); // it stopped waiting this very moment
            }
            pool.on_freed();
        }
        Destiny::Keep => {
            drop(object);
            pool.on_freed();
        }
    }
}

fn destroy(object: Object<Manager>, pool: &Pool) {
    Object::take(object).close();
    pool.on_freed();
}
