//! Waiting for a server: a queue, a deadline, a client that leaves, a cancel that finds it waiting.
//!
//! # Promises
//! - A server at once costs no timer and no look at the client.
//! - What the client says while it waits is kept, up to a bound; when it hangs up, it stops waiting.
//! - A server that has been idle for long has answered before it is lent.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::timeout;

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
        let mut lease = wait(pool, client, handle).await?;
        handle.has(&lease.cancel);
        if !lease.state.is_doubtful {
            return Ok(lease);
        }
        if Box::pin(proves_alive(pool, &mut lease, state)).await {
            return Ok(lease);
        }
        // It is dropped, and with it its connection; the next one is asked for.
    }
}

async fn wait(pool: &Arc<Pool>, client: &mut Peer, handle: &ClientHandle) -> Result<Lease, NoLease> {
    let mut get = pin!(pool.checkout());
    let at_once = poll_fn(|cx| Poll::Ready(get.as_mut().poll(cx))).await;
    if let Poll::Ready(result) = at_once {
        return result.map_err(NoLease::Checkout);
    }
    handle.waits();
    poll_fn(|cx| {
        if let Poll::Ready(result) = get.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(NoLease::Checkout));
        }
        if handle.is_ordered(Order::StopWaiting) {
            return Poll::Ready(Err(NoLease::Cancelled));
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

/// Whether a server that has been idle for long answers a Sync.
async fn proves_alive(pool: &Pool, lease: &mut Lease, state: &mut ClientState) -> bool {
    let server = &mut **lease;
    server.exchange.begin_check(&mut server.peer.buffers.outbox);
    server.state.is_doubtful = false;
    let answer = timeout(pool.settings().connect_timeout, relay_abandoned(state, server)).await;
    matches!(answer, Ok(Ok(Outcome::Settled(_) | Outcome::Held)))
}
