//! A server off the shelf, with what entitles to it.
//!
//! ```text
//!  place ─► ticket ─► server        asked for in this order, and given back in the other:
//!  server ─► ticket ─► place        whoever gets the place finds a ticket, and whoever gets a ticket a server
//! ```
//!
//! # Promises
//! - Dropping it gives all three back, so that whoever stops waiting at the last moment loses no server.
//! - A server that leaves takes its ticket with it: deadpool counts as many as there are.
//!
//! # Refuses
//! To judge the server: one that was lent comes back by way of a [`Lease`](crate::pool::Lease).

use deadpool::managed::Object;

use crate::pool::manager::Maker;
use crate::pool::places::Place;
use crate::pool::server::Server;

/// A server off the shelf.
pub(super) struct Granted {
    /// Until it leaves.
    server: Option<Box<Server>>,
    /// As long as there is a server for it.
    ticket: Option<Object<Maker>>,
    place: Place,
}

impl Granted {
    /// A server taken for this ticket, by who has the place.
    pub(super) fn new(server: Box<Server>, ticket: Object<Maker>, place: Place) -> Self {
        Self { server: Some(server), ticket: Some(ticket), place }
    }

    /// The server, until it leaves.
    pub(super) fn server(&self) -> Option<&Server> {
        self.server.as_deref()
    }

    /// The server, until it leaves.
    pub(super) fn server_mut(&mut self) -> Option<&mut Server> {
        self.server.as_deref_mut()
    }

    /// Its place in the pool.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The server leaves the pool; its place is free.
    pub(super) fn part(mut self) -> Option<Box<Server>> {
        self.leave()
    }

    /// The server is closed, and then its place is free.
    pub(super) fn close(mut self) {
        self.leave().into_iter().for_each(|server| server.close());
    }

    fn leave(&mut self) -> Option<Box<Server>> {
        drop(self.ticket.take().map(Object::take));
        self.server.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let (Some(server), Some(ticket)) = (self.server.take(), &self.ticket) else { return };
        if let Some(servers) = Object::pool(ticket) {
            servers.manager().shelve(server);
        }
        // The ticket is given back next, and then the place.
    }
}
