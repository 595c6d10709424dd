//! A stream and its buffers.
//!
//! # Promises
//! - [`poll_fill`](Peer::poll_fill) and [`poll_drain`](Peer::poll_drain) may be given up at any time: what was read is in
//!   the inbox, what was not written is in the outbox.
//! - A read that filled its buffer makes the next one larger; one that did not makes it small again. An idle peer that has
//!   [given up](Peer::give_up) its buffers has none until something comes, and then one of the size of what came.
//! - A peer whose outbox is full asks, by [`has_room`](Peer::has_room), that nothing more be read for it.
//!
//! # Refuses
//! To look at what it carries.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::Stream;
use crate::wire::Buffers;

/// What a quiet connection reads at once.
const SMALL: usize = 8 << 10;

/// What a busy one reads at once.
const LARGE: usize = 256 << 10;

/// An outbox with more than this takes no more.
const FULL: usize = 256 << 10;

/// A stream and its buffers.
#[derive(Debug)]
pub struct Peer {
    stream: Stream,
    /// What has come and what is to go.
    pub buffers: Buffers,
    /// How much the next read asks for; between [`SMALL`] and [`LARGE`].
    ask: usize,
    /// Bytes read and written since the beginning.
    received: u64,
    sent: u64,
}

impl Peer {
    /// A peer that has said nothing yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffers: Buffers::default(), ask: SMALL, received: 0, sent: 0 }
    }

    /// The connection.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes received and sent so far.
    pub fn traffic(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// Whether more may be put into the outbox.
    pub fn has_room(&self) -> bool {
        self.buffers.outbox.len() < FULL
    }

    /// Gives up empty buffers.
    pub fn give_up(&mut self) {
        self.buffers.give_up();
    }

    /// Reads once. Ready with `false` at the end of what the peer has to say.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let room = self.buffers.inbox.capacity() - self.buffers.inbox.len();
        let (room, count) = if self.ask == SMALL && room < SMALL / 2 {
            (SMALL, ready!(self.poll_fill_small(cx))?)
        } else {
            ready!(self.poll_fill_large(cx))?
        };
        self.ask = if count == room { (self.ask * 4).min(LARGE) } else { SMALL.max(self.ask / 4) };
        self.received += count as u64;
        Poll::Ready(Ok(count > 0))
    }

    /// By way of the stack: most of what comes is a few dozen bytes, and a buffer for more would be asked for and given
    /// back with every turn.
    fn poll_fill_small(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; SMALL];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.buffers.inbox.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Into the inbox itself: how much there was room for, and how much came.
    fn poll_fill_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(usize, usize)>> {
        let inbox = &mut self.buffers.inbox;
        if inbox.capacity() - inbox.len() < self.ask / 2 {
            // No buffer is made before there is something to put into it.
            ready!(self.stream.poll_readable(cx))?;
            inbox.reserve(self.ask);
        }
        let room = inbox.capacity() - inbox.len();
        let count = ready!(pin!(self.stream.read_buf(inbox)).poll(cx))?;
        Poll::Ready(Ok((room, count)))
    }

    /// Gives back the connection, and what has come and was not taken.
    pub fn into_parts(self) -> (Stream, Buffers) {
        (self.stream, self.buffers)
    }

    /// Whether something that was said has not been sent.
    pub fn has_unsent(&self) -> bool {
        !self.buffers.outbox.is_empty() || self.stream.holds_back()
    }

    /// Writes as much as the socket takes; whether that was anything. Pending is not said: [`has_unsent`](Self::has_unsent) is.
    ///
    /// # Errors
    /// The system's: the peer is gone.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        if self.stream.holds_back() && Pin::new(&mut self.stream).poll_flush(cx)?.is_pending() {
            return Ok(false);
        }
        while !self.buffers.outbox.is_empty() {
            let Poll::Ready(count) = Pin::new(&mut self.stream).poll_write(cx, &self.buffers.outbox)? else {
                break;
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.sent += count as u64;
            moved = true;
            if count == self.buffers.outbox.len() {
                self.buffers.outbox.clear();
            } else {
                self.buffers.outbox.advance(count);
            }
        }
        Ok(moved)
    }

    /// Writes all that is to be said.
    ///
    /// Cancel safe: what is not written stays in the outbox, or encrypted with the stream.
    ///
    /// # Errors
    /// The system's: the peer is gone.
    pub async fn drain(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            self.poll_drain(cx)?;
            if self.has_unsent() { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    /// Reads once; `false` at the end of what the peer has to say.
    ///
    /// Cancel safe: what was read is in the inbox.
    ///
    /// # Errors
    /// The system's: the peer is gone.
    pub async fn fill(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Whether [`close`](Self::close) has anything to say.
    pub fn has_last_words(&self) -> bool {
        self.has_unsent() || self.stream.is_encrypted()
    }

    /// Writes what is left, and closes. Only TLS has something to say about that; a plain connection that is dropped
    /// is closed, and shutting it down first would be one more system call to the same end.
    pub async fn close(mut self) {
        let _ = self.drain().await;
        if self.stream.is_encrypted() {
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await;
        }
    }
}
