//! What has come and has not been judged, what has been judged and has not gone.
//!
//! Each connection has two buffers, and bytes only ever move from one connection's inbox to the other's outbox.
//! When the whole of an inbox is to go and the outbox is empty, the two change places: a megabyte
//! costs as much as a byte.
//!
//! # Promises
//! - A forwarded byte is copied once at most, and not at all when it came with nothing else.
//! - An empty buffer can be given up, so that an idle connection holds none.
//!
//! # Refuses
//! To do I/O, to know a frame.

use std::mem;

use bytes::{Buf, BytesMut};

/// Below this an exchange of buffers is not worth its bookkeeping: the bytes are copied.
const SWAP: usize = 1024;

/// The two buffers of one connection.
#[derive(Debug, Default)]
pub struct Buffers {
    /// What has come and has not been judged.
    pub inbox: BytesMut,
    /// What has been judged and has not gone.
    pub outbox: BytesMut,
}

impl Buffers {
    /// Gives up the memory of both if both are empty.
    pub fn give_up(&mut self) {
        if self.inbox.is_empty() && self.outbox.is_empty() {
            *self = Self::default();
        }
    }
}

/// Moves the first `run` bytes of `inbox` to the end of `outbox`.
#[inline]
pub fn forward(inbox: &mut BytesMut, run: usize, outbox: &mut BytesMut) {
    if run == 0 {
        return;
    }
    let tail = inbox.len().saturating_sub(run);
    if tail == 0 && outbox.capacity() == 0 {
        mem::swap(inbox, outbox);
        return;
    }
    if run >= SWAP && outbox.is_empty() && tail <= run / 4 {
        mem::swap(inbox, outbox);
        inbox.clear();
        inbox.extend_from_slice(outbox.get(run..).unwrap_or_default());
        outbox.truncate(run);
        return;
    }
    let run = run.min(inbox.len());
    outbox.extend_from_slice(inbox.get(..run).unwrap_or_default());
    discard(inbox, run);
}

/// Drops the first `count` bytes of `inbox`.
#[inline]
pub fn discard(inbox: &mut BytesMut, count: usize) {
    if count >= inbox.len() {
        inbox.clear();
    } else {
        inbox.advance(count);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    #[test]
    fn forwarding_keeps_every_byte_in_order_whatever_the_sizes() {
        for (len, run, waiting) in
            [(10, 4, 0), (5000, 5000, 0), (5000, 4990, 0), (5000, 2000, 0), (5000, 5000, 7)]
        {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let (mut inbox, mut outbox) = (BytesMut::from(&bytes[..]), BytesMut::from(&vec![9; waiting][..]));

            forward(&mut inbox, run, &mut outbox);

            assert_eq!(&outbox[waiting..], &bytes[..run]);
            assert_eq!(&inbox[..], &bytes[run..]);
        }
    }
}
