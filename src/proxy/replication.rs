//! Replication connections: one client, one server, byte for byte.
//!
//! Streaming replication and logical decoding keep state in their server process from the first message to the last;
//! there is nothing to pool. The server is dialled for this client alone and closed with it.
//!
//! # Promises
//! - The client is authenticated as any other, and can be cancelled as any other.
//!
//! # Refuses
//! To inject or to inspect: the walsender's own commands are not SQL.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::net::Peer;
use crate::pool::CheckoutError;
use crate::proxy::Proxy;
use crate::proxy::cancel::Order;
use crate::proxy::entrance::Pilgrim;
use crate::proxy::farewell::Denied;
use crate::session::opening;
use crate::wire::startup::Replication;

/// Serves a replication client until either side is gone.
pub(super) async fn serve(proxy: &Arc<Proxy>, pilgrim: Pilgrim) {
    let Pilgrim { mut peer, request, seat, credential, entry } = pilgrim;
    let pool = proxy.pools.pool(&seat.key, || seat.recipe);
    if let Some(credential) = credential {
        pool.learn(credential);
    }
    let kind: &[u8] = if request.replication == Replication::Logical { b"database" } else { b"true" };
    let mut parameters = request.parameters.clone();
    parameters.push((b"replication"[..].into(), kind.into()));
    let mut server = match pool.open_dedicated(parameters).await {
        Ok(server) => server,
        Err(error) => {
            Denied::Checkout(CheckoutError::Connect(Arc::new(error)))
                .write("FATAL", &mut peer.buffers.outbox);
            return peer.close().await;
        }
    };
    entry.handle.has(&server.cancel);
    tracing::info!(client = %entry.handle.id, user = %request.user, server = %server.id(), "replication connected");
    opening::welcome(&mut peer.buffers.outbox, server.state.reported.iter(), &entry.handle.key);
    let ended = poll_fn(|cx| {
        entry.handle.is_served_by(cx.waker());
        if entry.handle.is_ordered(Order::Die) || entry.handle.is_ordered(Order::Leave) {
            return Poll::Ready(Ok(()));
        }
        loop {
            let moved = pass(&mut peer, &mut server.peer, cx)? | pass(&mut server.peer, &mut peer, cx)?;
            if !moved {
                return Poll::<io::Result<()>>::Pending;
            }
        }
    })
    .await;
    tracing::info!(client = %entry.handle.id, reason = ?ended.err().map(|error| error.kind()), "replication disconnected");
    server.close();
    peer.close().await;
}

/// Moves what has come from one peer to the other.
fn pass(from: &mut Peer, to: &mut Peer, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut moved = false;
    if to.buffers.outbox.is_empty() {
        match from.poll_fill(cx)? {
            Poll::Pending => {}
            Poll::Ready(true) => moved = true,
            Poll::Ready(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        mem::swap(&mut from.buffers.inbox, &mut to.buffers.outbox);
    }
    Ok(to.poll_drain(cx)? || moved)
}
