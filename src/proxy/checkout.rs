//! Waiting for a server: a queue, a deadline, a client that leaves, a cancel that finds it waiting.
//!
//! # Promises
//! - A server at once costs no timer and no look at the client.
//! - What the client says while it waits is kept, up to a bound; when it hangs up, it stops waiting.
//! - A server that has been idle for long has answered before it is lent.
//! - A cancel counts until the moment a server is lent: what it was meant for is not executed.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::time::timeout;

use crate::names::ClientId;
use crate::net::Peer;
use crate::pool::{CheckoutError, Lease, Pool};
use crate::proxy::cancel::{ClientHandle, Order};
use crate::proxy::relay::relay_abandoned;
use crate::session::{ClientState, Outcome};

/// Bytes a waiting client may say before it is not read any further.
const PATIENCE: usize = 64 << 10;

/// Why there is no server.
#[derive(Debug)]
pub(super) enum NoLease {
    /// Its own cancel request found the client waiting.
    Cancelled,
    /// The pool says why.
    Checkout(CheckoutError),
    /// The client hung up.
    ClientGone,
    /// It was told to die.
    Ordered,
    /// The client's rules are not those the server was made for: one of them is older than the configuration.
    Outdated,
}

/// A server for this client.
///
/// Cancel safe.
///
/// # Errors
/// See [`NoLease`].
pub(super) async fn checkout(
    pool: &Arc<Pool>,
    client: &mut Peer,
    handle: &ClientHandle,
    state: &mut ClientState,
) -> Result<Lease, NoLease> {
    loop {
        let mut lease = wait(pool, client, handle, state.returns_as()).await?;
        if !lease.suits(&state.rules) {
            return Err(NoLease::Outdated);
        }
        let is_late = handle.has(&lease.cancel);
        if !is_late && !lease.state.is_doubtful {
            return Ok(lease);
        }
        let answer = Box::pin(check(pool, &mut lease, state)).await;
        if is_late || handle.was_cancelled() {
            handle.has_nothing();
            if let Some(Outcome::Settled(clean)) = answer {
                lease.release(clean, Instant::now());
            }
            return Err(NoLease::Cancelled);
        }
        if answer.is_some() {
            return Ok(lease);
        }
        // It is dropped, and with it its connection; the next one is asked for.
    }
}

async fn wait(
    pool: &Arc<Pool>,
    client: &mut Peer,
    handle: &ClientHandle,
    id: Option<ClientId>,
) -> Result<Lease, NoLease> {
    let mut get = match pool.checkout_now(id) {
        Ok(lease) => return Ok(lease),
        Err(waiting) => waiting,
    };
    // Not kept in a variable: every idle client would have room for it.
    if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(get.as_mut().poll(cx))).await {
        return result.map_err(NoLease::Checkout);
    }
    handle.waits();
    poll_fn(|cx| {
        handle.is_served_by(cx.waker()); // in a login nobody has said so yet
        // Looked at first: often it is a cancel, of another client, that frees the server.
        if handle.is_ordered(Order::StopWaiting) {
            return Poll::Ready(Err(NoLease::Cancelled));
        }
        if let Poll::Ready(result) = get.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(NoLease::Checkout));
        }
        if handle.is_ordered(Order::Die) {
            return Poll::Ready(Err(NoLease::Ordered));
        }
        let _ = client.poll_drain(cx);
        while client.buffers.inbox.len() < PATIENCE {
            match client.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false) | Err(_)) => return Poll::Ready(Err(NoLease::ClientGone)),
            }
        }
        Poll::Pending
    })
    .await
}

/// What a server answers to a Sync, if it does: one that has been idle for long, or is not wanted any more.
async fn check(pool: &Pool, lease: &mut Lease, state: &mut ClientState) -> Option<Outcome> {
    let server = &mut **lease;
    server.exchange.begin_check(&mut server.peer.buffers.outbox);
    server.state.is_doubtful = false;
    match timeout(pool.settings().connect_timeout, relay_abandoned(state, server)).await {
        Ok(Ok(outcome @ (Outcome::Settled(_) | Outcome::Held))) => Some(outcome),
        _ => None,
    }
}
