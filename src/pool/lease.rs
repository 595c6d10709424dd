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
use crate::pool::manager::Manager;
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
        if !self.pool.manager().is_good(&object, object.idle_since) {
            return destroy(object, &self.pool);
        }
        if object.cancel.is_aimed_at() {
            let target = object.cancel.clone();
            let pool = self.pool.clone();
            self.pool.spawn(async move {
                target.at_peace().await;
                if target.has_stray() {
                    return destroy(object, &pool);
                }
                drop(object);
                pool.on_freed();
            });
            return;
        }
        drop(object);
        self.pool.on_freed();
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

fn destroy(object: Object<Manager>, pool: &Pool) {
    Object::take(object).close();
    pool.on_freed();
}
