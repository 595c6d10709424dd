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
use crate::pool::pressure::Closing;
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
    /// Whether its client keeps it between its transactions.
    is_pinned: bool,
    /// What is said of it when it ends without a witness.
    closing: Closing,
}

impl Lease {
    pub(super) fn new((object, place): Granted, pool: Arc<Pool>) -> Self {
        let pressure = pool.pressure();
        pressure.lent.up();
        pool.manager().crowd().up();
        if object.uses > 0 {
            pressure.reuses.increment();
        }
        Self { object: Some(object), place: Some(place), pool, is_pinned: false, closing: Closing::Unclean }
    }

    /// Its client keeps it although its transaction is over, or uses it again.
    pub fn pin(&mut self, is_pinned: bool) {
        let (pinned, crowd) = (&self.pool.pressure().pinned, self.pool.manager().crowd());
        match (self.is_pinned, is_pinned) {
            (false, true) => {
                pinned.up();
                crowd.down();
            }
            (true, false) => {
                pinned.down();
                crowd.up();
            }
            (false, false) | (true, true) => {}
        }
        self.is_pinned = is_pinned;
    }

    /// The server is not there any more.
    pub fn lose(mut self) {
        self.closing = Closing::Gone;
    }

    /// Closes it, because it had what nobody believed it had.
    pub fn distrust(mut self) {
        self.closing = Closing::Canary;
    }

    /// Counts what the server has said and heard since this was last done: its client may keep it for long.
    pub fn count_traffic(&mut self) {
        let Some(server) = self.object.as_deref_mut() else { return };
        let (received, sent) = server.peer.traffic();
        let (before_received, before_sent) = std::mem::replace(&mut server.counted, (received, sent));
        let (received, sent) = (received.saturating_sub(before_received), sent.saturating_sub(before_sent));
        if received | sent > 0 {
            self.pool.stats().add_server_bytes(received, sent);
        }
    }

    /// It is lent no more.
    fn end(&mut self) -> Option<Granted> {
        self.count_traffic();
        let granted = (self.object.take()?, self.place.take()?);
        self.pin(false);
        self.pool.pressure().lent.down();
        self.pool.manager().crowd().down();
        Some(granted)
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

    /// Gives the server back `now`. A witness for another server is no witness: then it is closed.
    pub fn release(mut self, clean: Clean, now: Instant) {
        let Some((mut object, place)) = self.end() else { return };
        if clean.server() != object.id() {
            return destroy((object, place), &self.pool, Closing::Unclean);
        }
        object.uses += 1;
        object.idle_since = now;
        object.cancel.life.rest(now, object.state.statements.len());
        object.peer.give_up();
        if object.cancel.is_aimed_at() {
            let target = object.cancel.clone();
            let pool = self.pool.clone();
            pool.pressure().cancelling.up();
            self.pool.spawn(async move {
                target.at_peace().await;
                pool.pressure().cancelling.down();
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
        if let Some(granted) = self.end() {
            destroy(granted, &self.pool, self.closing);
        }
    }
}

/// To whoever needs it most: the pool, a client that waits for a cap, or nobody.
fn give_back((mut object, place): Granted, pool: &Pool) {
    let (manager, now) = (pool.manager(), object.idle_since);
    if std::mem::take(&mut object.state.has_refused_write) {
        manager.on_refused_write(&object, now);
    }
    let surplus = || place.is_owed().then_some(Closing::Surplus);
    if let Some(reason) = manager.fault(&object, now).or_else(surplus) {
        return destroy((object, place), pool, reason);
    }
    match manager.destiny(pool.waiting(), now) {
        Destiny::Close => destroy((object, place), pool, Closing::WantedElsewhere),
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

fn destroy((object, place): Granted, pool: &Pool, reason: Closing) {
    pool.pressure().closes.count(reason);
    Object::take(object).close();
    drop(place);
    pool.on_freed();
}
