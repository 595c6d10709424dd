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

use crate::names::ClientId;
use crate::pool::Pool;
use crate::pool::granted::Granted;
use crate::pool::manager::Destiny;
use crate::pool::pressure::Closing;
use crate::pool::server::Server;
use crate::session::{Clean, Rules};

/// A server on loan.
pub struct Lease {
    /// Present until the lease ends.
    granted: Option<Granted>,
    pool: Arc<Pool>,
    /// Whether its client keeps it between its transactions.
    is_pinned: bool,
    /// What is said of it when it ends without a witness.
    closing: Closing,
}

impl Lease {
    /// Lent to this client; `None` is one that need not have it again.
    pub(super) fn new(mut granted: Granted, pool: Arc<Pool>, client: Option<ClientId>) -> Self {
        let pressure = pool.pressure();
        pressure.lent.up();
        pool.manager().crowd().up();
        if let Some(server) = granted.server_mut() {
            if server.uses > 0 {
                pressure.reuses.increment();
            }
            if client.is_some() && server.state.guest == client {
                pressure.affinity_hits.increment();
            }
            server.awaited = client;
        }
        Self { granted: Some(granted), pool, is_pinned: false, closing: Closing::Unclean }
    }

    /// Its client keeps it although its transaction is over, or uses it again.
    pub fn pin(&mut self, is_pinned: bool) {
        let (pinned, crowd) = (&self.pool.pressure().pinned, self.pool.manager().crowd());
        match (self.is_pinned, is_pinned) {
            (false, true) => {
                pinned.up();
                crowd.down();
                if let Some(server) = self.granted.as_mut().and_then(Granted::server_mut) {
                    server.flow.end();
                }
            }
            (true, false) => {
                pinned.down();
                crowd.up();
            }
            (false, false) | (true, true) => {}
        }
        self.is_pinned = is_pinned;
    }

    /// Its client does not come back for it.
    pub fn await_nobody(&mut self) {
        self.awaited = None;
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
        let Some(server) = self.granted.as_mut().and_then(Granted::server_mut) else { return };
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
        let mut granted = self.granted.take()?;
        if let Some(server) = granted.server_mut() {
            server.flow.end();
        }
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
        let Some(mut granted) = self.end() else { return };
        let Some(server) = granted.server_mut().filter(|server| clean.server() == server.id()) else {
            return destroy(granted, &self.pool, Closing::Unclean);
        };
        server.uses += 1;
        server.idle_since = now;
        server.cancel.life.rest(now, server.state.statements.len());
        server.peer.give_up();
        if server.cancel.is_aimed_at() {
            let target = server.cancel.clone();
            let pool = self.pool.clone();
            pool.pressure().cancelling.up();
            self.pool.spawn(async move {
                target.at_peace().await;
                pool.pressure().cancelling.down();
                give_back(granted, &pool);
            });
            return;
        }
        give_back(granted, &self.pool);
    }
}

impl Deref for Lease {
    type Target = Server;

    #[expect(clippy::expect_used, reason = "it is taken only by release and drop, which end the lease")]
    fn deref(&self) -> &Server {
        self.granted.as_ref().and_then(Granted::server).expect("a lease holds its server until it ends")
    }
}

impl DerefMut for Lease {
    #[expect(clippy::expect_used, reason = "it is taken only by release and drop, which end the lease")]
    fn deref_mut(&mut self) -> &mut Server {
        self.granted.as_mut().and_then(Granted::server_mut).expect("a lease holds its server until it ends")
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
fn give_back(mut granted: Granted, pool: &Pool) {
    let manager = pool.manager();
    let is_owed = granted.place().is_owed();
    let Some(server) = granted.server_mut() else { return };
    let now = server.idle_since;
    if std::mem::take(&mut server.state.has_refused_write) {
        manager.on_refused_write(server, now);
    }
    let surplus = || is_owed.then_some(Closing::Surplus);
    if let Some(reason) = manager.fault(server, now).or_else(surplus) {
        return destroy(granted, pool, reason);
    }
    match manager.destiny(pool.waiting(), now) {
        Destiny::Close => destroy(granted, pool, Closing::WantedElsewhere),
        Destiny::HandOver(heir) => {
            if let Some(Err(server)) = granted.part().map(|server| heir.send(server)) {
                server.close(); // it stopped waiting this very moment
            }
            pool.on_freed();
        }
        Destiny::Keep => {
            drop(granted);
            pool.on_freed();
        }
    }
}

fn destroy(granted: Granted, pool: &Pool, reason: Closing) {
    pool.pressure().closes.count(reason);
    granted.close();
    pool.on_freed();
}
