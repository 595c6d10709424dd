//! Whether a turn moves so much that it may be let gather.
//!
//! # Promises
//! - A turn is a flow only once it has moved [`BULK`] without having found less than [`STEP`] in between: an answer of a few
//!   kilobytes is not one, nor is whoever waits for what comes in drops.
//! - What is counted in the [`Crowd`] is taken back when the turn ends, however that is.
//!
//! # Refuses
//! To put anything off: what is done about flows is the [`Crowd`]'s to say.

use std::sync::Arc;

use crate::pool::Crowd;

/// With less than this at a time it is no flow; PostgreSQL sends results in pieces of 8 kB.
const STEP: u64 = 4 << 10;

/// With so much of it in a row it is one.
const BULK: u64 = 256 << 10;

/// How much the turns of one server move at a time.
#[derive(Debug)]
pub struct Flow {
    crowd: Arc<Crowd>,
    /// Bytes in a row.
    run: u64,
    is_flowing: bool,
}

impl Flow {
    /// Of a server that has moved nothing.
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        Self { crowd, run: 0, is_flowing: false }
    }

    /// The turn waits for more, having found so many bytes since it last did.
    pub fn on_wait(&mut self, came: u64) {
        self.run = if came < STEP { 0 } else { self.run.saturating_add(came) };
        self.turn_to(self.run >= BULK);
    }

    /// The turn is over.
    pub(super) fn end(&mut self) {
        self.run = 0;
        self.turn_to(false);
    }

    fn turn_to(&mut self, is_flowing: bool) {
        if self.is_flowing != is_flowing {
            self.is_flowing = is_flowing;
            self.crowd.flow(is_flowing);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}
