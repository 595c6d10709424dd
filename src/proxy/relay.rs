//! Moving bytes until the server can be given back.
//!
//! The hot path. One task for each client, one `poll_fn`, four polls: nothing that matters lives only in a future.
//!
//! # Rules
//! - No allocation in steady state, no `String`, no lock, no timer for each message, no log above `trace!`.
//! - A full outbox stops the opposite inbox from being filled; the drains are never stopped. Both sides can therefore
//!   block on us without our blocking on either.
//! - The server is told before it is heard, and given back before the client has read its answer.
//!
//! # Why it is fast
//! A transaction is two reads and two writes, and nine tenths of its CPU are the kernel's price for them and for waking up. No
//! call is made beside those four; what is left is kept small:
//! - A read that did not fill its buffer was the last one until the reactor sees more: no read finds nothing.
//! - What comes and is small goes over the stack into a buffer of its size; what comes and is large changes hands.
//! - The prelude and the client's first words are one write.
//! - A server changes hands before its last client has been answered, and wakes the one client whose turn it is.
//! - Most texts are told from their bytes to need no reading, most tables of parameters from their address to be equal.
//! - The clock is read when a turn begins and when it ends; what counts is a relaxed addition.
//! - In a crowd one waking serves several: before it sleeps the only worker lets news gather for a moment (`pool/crowd.rs`).
//! - Amid nothing but large results and copies it does so for longer, and rows move as one piece without a look at any.
//!
//! Cancel safe: the state is in the peers and in the exchange.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::Peer;
use crate::pool::{Doing, Life, Server};
use crate::proxy::cancel::{ClientHandle, Order};
use crate::session::violation::Violation;
use crate::session::{ClientState, Exchange, Outcome, Rules, ServerState};
use crate::token::has_passed;
use crate::wire::Buffers;

/// Bytes a client may say before it is heard, while its first unit is on its way or its server is being cleaned.
const HELD: usize = 256 << 10;

/// Why the relay stopped without an outcome.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client is gone.
    Client,
    /// Something took too long.
    Late(Lateness),
    /// It was told to die.
    Ordered,
    /// The server is gone.
    Server(io::Error),
    /// Somebody broke the protocol.
    Violation(Violation),
}

/// What took too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lateness {
    /// The client, inside a transaction.
    IdleInTransaction,
    /// The server, with a query.
    Query,
    /// Both, with a transaction.
    Transaction,
}

/// Tokens say until when they are good: a turn that makes one is told the time.
pub(super) fn tell_time(client: &ClientState, server: &mut ServerState) {
    if client.rules.identity.signing().is_some() {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        server.tier.now = since.map_or(0, |since| since.as_secs());
    }
}

/// Moves bytes between a client and its server until the exchange has come to something.
///
/// # Errors
/// See [`Ended`].
///
/// Not an `async fn`: that would hold each of its arguments twice, in the task of every client.
pub(super) fn relay(
    client: &mut Peer,
    state: &mut ClientState,
    server: &mut Server,
    handle: &ClientHandle,
    watch: &mut Watch,
) -> impl Future<Output = Result<Outcome, Ended>> {
    poll_fn(move |cx| {
        let before = received(client, server);
        loop {
            // Whoever has said something will be asked again; the client, once the server has nothing to say.
            let mut has_more = client.has_room() && fill(&mut server.peer, cx).map_err(Ended::Server)?;
            let is_heard = server.exchange.is_listening() || client.buffers.inbox.len() < HELD;
            if !has_more && is_heard && server.peer.has_room() {
                has_more = fill(client, cx).map_err(|_| Ended::Client)?;
            }
            if state.claim.until().is_some_and(has_passed) {
                server.exchange.end_soon();
            }
            let (ours, theirs) = (&mut client.buffers, &mut server.peer.buffers);
            let outcome =
                server.exchange.advance(state, ours, &mut server.state, theirs).map_err(Ended::Violation)?;
            let is_blocked = !client.has_room() || !server.peer.has_room() || !server.exchange.is_busy();
            let mut has_drained = server.peer.poll_drain(cx).map_err(Ended::Server)?;
            if let Some(outcome) = outcome {
                return Poll::Ready(Ok(outcome));
            }
            has_drained |= client.poll_drain(cx).map_err(|_| Ended::Client)?;
            // What has gone makes room to read, or lets what owes nothing come to its end.
            let goes_on = has_more || has_drained && is_blocked;
            if !goes_on {
                server.flow.on_wait(passed_on(client, server, before));
                return watch.poll(cx, &state.rules, &server.exchange, handle, &server.cancel.life).map(Err);
            }
        }
    })
}

/// Reads once; whether anything came.
fn fill(peer: &mut Peer, cx: &mut Context<'_>) -> io::Result<bool> {
    match peer.poll_fill(cx)? {
        Poll::Pending => Ok(false),
        Poll::Ready(true) => Ok(true),
        Poll::Ready(false) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Bytes received from both so far.
fn received(client: &Peer, server: &Server) -> u64 {
    client.received() + server.peer.received()
}

/// Bytes that have come since there were so many, and gone to somebody who takes them as fast.
fn passed_on(client: &Peer, server: &Server, before: u64) -> u64 {
    let is_waited_for = server.exchange.is_busy() && !client.has_unsent() && !server.peer.has_unsent();
    if is_waited_for { received(client, server) - before } else { 0 }
}

/// The same without a client: what the server says to it goes nowhere.
///
/// # Errors
/// The server is gone, or broke the protocol.
pub(super) async fn relay_abandoned(state: &mut ClientState, server: &mut Server) -> Result<Outcome, Ended> {
    let mut nobody = Buffers::default();
    poll_fn(|cx| {
        loop {
            let mut moved = fill(&mut server.peer, cx).map_err(Ended::Server)?;
            let theirs = &mut server.peer.buffers;
            let outcome = server
                .exchange
                .advance(state, &mut nobody, &mut server.state, theirs)
                .map_err(Ended::Violation)?;
            nobody.outbox.clear();
            moved |= server.peer.poll_drain(cx).map_err(Ended::Server)?;
            if let Some(outcome) = outcome {
                return Poll::Ready(Ok(outcome));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// What a turn is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The client.
    Client,
    /// The server, with the query after so many.
    Server(u64),
}

/// The deadlines of one turn. Without any configured it costs one comparison. It is in the task of every client: what the
/// rules say stays there.
pub(super) struct Watch {
    began: Instant,
    /// What is being waited for, and since when.
    step: (Step, Instant),
    /// The query that is being cancelled, and until when it may say so.
    granted: Option<(Step, Instant)>,
    /// Since when the client thinks inside its transaction, and how long it has done so before.
    thinking: Option<Instant>,
    thought: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    /// Deadlines for a turn that begins `now`.
    pub(super) fn new(rules: &Rules, now: Instant) -> Self {
        let limits = [rules.query_timeout, rules.transaction_timeout, rules.idle_transaction_timeout];
        let is_armed = limits.iter().any(Option::is_some);
        let timer = is_armed.then(|| Box::pin(sleep_until(now)));
        let (step, thought) = ((Step::Client, now), Duration::ZERO);
        Self { began: now, step, granted: None, thinking: None, thought, timer }
    }

    /// The query is being cancelled: the server has so long to say so. Whether this is the first time for this query.
    pub(super) fn grant(&mut self, grace: Duration) -> bool {
        let is_first = self.granted.is_none_or(|(step, _)| step != self.step.0);
        self.granted = Some((self.step.0, Instant::now() + grace));
        is_first
    }

    /// How long the turn has taken until `now`, and how much of it the client has thought.
    pub(super) fn times(&self, now: Instant) -> (Duration, Duration) {
        let until_now = |since: Instant| now.saturating_duration_since(since);
        (until_now(self.began), self.thought + self.thinking.map_or(Duration::ZERO, until_now))
    }

    fn note(&mut self, exchange: &Exchange, life: &Life) {
        match (exchange.is_idle_in_transaction(), self.thinking) {
            (true, None) => {
                let now = Instant::now();
                self.thinking = Some(now);
                life.turn_to(Doing::IdleInTransaction, now.into_std());
            }
            (false, Some(since)) => {
                let now = Instant::now();
                self.thought += now.duration_since(since);
                self.thinking = None;
                life.turn_to(Doing::Active, now.into_std());
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        rules: &Rules,
        exchange: &Exchange,
        handle: &ClientHandle,
        life: &Life,
    ) -> Poll<Ended> {
        self.note(exchange, life);
        if handle.is_ordered(Order::Die) {
            return Poll::Ready(Ended::Ordered);
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        let step = if exchange.is_busy() { Step::Server(exchange.answered()) } else { Step::Client };
        if step != self.step.0 {
            self.step = (step, Instant::now());
        }
        let since = self.step.1;
        let granted = self.granted.filter(|(granted, _)| *granted == step);
        let step = match step {
            Step::Client if exchange.is_idle_in_transaction() => {
                rules.idle_transaction_timeout.map(|limit| (since + limit, Lateness::IdleInTransaction))
            }
            Step::Client => None,
            Step::Server(_) => {
                let deadline = granted.map(|(_, deadline)| deadline);
                let deadline = deadline.or_else(|| rules.query_timeout.map(|limit| since + limit));
                deadline.map(|deadline| (deadline, Lateness::Query))
            }
        };
        let whole = rules.transaction_timeout.map(|limit| (self.began + limit, Lateness::Transaction));
        let Some((deadline, lateness)) = step.into_iter().chain(whole).min_by_key(|(deadline, _)| *deadline)
        else {
            return Poll::Pending;
        };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| Ended::Late(lateness))
    }
}
