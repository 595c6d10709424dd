//! A logged-in backend connection, and what we know of it.
//!
//! # Promises
//! - Closing one says Terminate, so that PostgreSQL does not log a lost connection.
//!
//! # Refuses
//! To know whose it is: a [`crate::pool::Lease`] does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use crate::names::{ClientId, ServerId, ServerKey};
use crate::net::Peer;
use crate::pool::dial::Address;
use crate::pool::flow::Flow;
use crate::pool::life::Life;
use crate::pool::places::Place;
use crate::session::{Exchange, ServerState};
use crate::wire::Header;
use crate::wire::backend;
use crate::wire::buffer;
use crate::wire::frame::HEADER;
use crate::wire::frame::backend as tag;
use crate::wire::write;

/// What it takes to cancel on one server, and whether somebody is doing so.
#[derive(Debug)]
pub struct CancelTarget {
    /// Which server.
    pub server: ServerId,
    /// Where it is.
    pub address: Address,
    /// Its key; not every server gives one.
    pub key: Option<ServerKey>,
    /// What the server is doing.
    pub life: Life,
    /// Requests on their way.
    in_flight: AtomicUsize,
    arrived: Notify,
    /// Whether a request was said and never seen to arrive: it may come at any time.
    has_stray: AtomicBool,
}

impl CancelTarget {
    /// A target nobody aims at.
    pub fn new(server: ServerId, address: Address, key: Option<ServerKey>) -> Self {
        Self {
            server,
            address,
            key,
            life: Life::default(),
            in_flight: AtomicUsize::new(0),
            arrived: Notify::new(),
            has_stray: AtomicBool::new(false),
        }
    }

    /// A request is to set out. It is not under way any more when the guard is dropped.
    pub fn aim(self: &Arc<Self>) -> Aim {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Aim { target: self.clone(), is_loose: false }
    }

    /// Whether a request got lost: it may still fall on whoever has the server then.
    pub fn has_stray(&self) -> bool {
        self.has_stray.load(Ordering::Acquire)
    }

    /// Whether a request is on its way.
    pub fn is_aimed_at(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Waits until no request is on its way.
    ///
    /// Cancel safe.
    pub async fn at_peace(&self) {
        loop {
            let arrived = self.arrived.notified();
            if !self.is_aimed_at() {
                return;
            }
            arrived.await;
        }
    }
}

/// A cancel request on its way.
#[derive(Debug)]
pub struct Aim {
    target: Arc<CancelTarget>,
    /// Whether it has been said, and not been seen to arrive.
    is_loose: bool,
}

impl Aim {
    /// What it is aimed at.
    pub fn target(&self) -> &CancelTarget {
        &self.target
    }

    /// It is about to be said: from here on it may arrive at any time.
    pub fn set_out(&mut self) {
        self.is_loose = true;
    }

    /// The server has taken it.
    pub fn arrive(&mut self) {
        self.is_loose = false;
    }
}

impl Drop for Aim {
    fn drop(&mut self) {
        if self.is_loose {
            self.target.has_stray.store(true, Ordering::Release);
        }
        self.target.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.target.arrived.notify_waiters();
    }
}

/// A logged-in backend connection.
pub struct Server {
    /// The connection.
    pub peer: Peer,
    /// What is known of its session.
    pub state: ServerState,
    /// The conversation it is in, kept for its buffers.
    pub exchange: Exchange,
    /// How much its turn moves at a time.
    pub flow: Flow,
    /// What it takes to cancel here.
    pub cancel: Arc<CancelTarget>,
    /// When it was logged in.
    pub born: Instant,
    /// When it is too old.
    pub expires: Option<Instant>,
    /// When it was last given back.
    pub idle_since: Instant,
    /// The client it was lent to last, if that may come back for it.
    pub awaited: Option<ClientId>,
    /// How often it has been lent.
    pub uses: u64,
    /// Bytes received and sent that have been counted.
    pub counted: (u64, u64),
    /// The pool's generation when it was made; RECONNECT makes a new one.
    pub generation: u64,
    /// Its places under the caps that span pools.
    pub permits: Vec<Place>,
    /// The variables of the identity it was made for: others would keep the values of whoever was injected last.
    pub identity_variables: Arc<[String]>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cancel.life.end();
    }
}

/// What an idle server turned out to have done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vitality {
    /// As far as the reactor has seen, it is fine.
    Alive,
    /// It has closed, or said something it should not.
    Dead,
}

impl Server {
    /// Which server.
    pub fn id(&self) -> ServerId {
        self.state.id
    }

    /// Whether it has closed, or said that it will: without a system call if nothing has come, and without reading.
    pub fn has_gone(&self) -> bool {
        let stream = self.peer.stream();
        if !stream.has_news() {
            return false;
        }
        match stream.peek() {
            Ok(first) => first.is_none_or(|first| first == tag::ERROR),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Looks at what has come while it was idle, without a system call if nothing has.
    pub fn look(&mut self) -> Vitality {
        let mut cx = Context::from_waker(Waker::noop());
        while self.peer.stream().has_news() {
            match self.peer.poll_fill(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Vitality::Dead,
            }
        }
        self.read_idle_words()
    }

    /// Between transactions a server may only report parameters, notices and notifications.
    fn read_idle_words(&mut self) -> Vitality {
        let inbox = &mut self.peer.buffers.inbox;
        loop {
            let Ok(header) = Header::read(inbox) else { return Vitality::Dead };
            let Some(header) = header else { break };
            let Some(body) = inbox.get(HEADER..header.len) else { break };
            match header.tag {
                tag::PARAMETER_STATUS => {
                    let Ok((name, value)) = backend::parameter_status(body) else { return Vitality::Dead };
                    self.state.on_report(name, value);
                }
                tag::NOTICE | tag::NOTIFICATION => {}
                _ => return Vitality::Dead,
            }
            buffer::discard(inbox, header.len);
        }
        if inbox.is_empty() { Vitality::Alive } else { Vitality::Dead }
    }

    /// Says Terminate as far as the socket takes it at once, and closes.
    pub fn close(mut self) {
        write::terminate(&mut self.peer.buffers.outbox);
        let _ = self.peer.poll_drain(&mut Context::from_waker(Waker::noop()));
    }
}
