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
    /// Bytes in a row; from [`BULK`] on it is a flow, and counted.
    run: u64,
}

impl Flow {
    /// Of a server that has moved nothing.
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        Self { crowd, run: 0 }
    }

    /// The turn waits for more, having found so many bytes since it last did.
    pub fn on_wait(&mut self, came: u64) {
        self.turn_to(if came < STEP { 0 } else { self.run.saturating_add(came) });
    }

    /// The turn is over.
    pub(super) fn end(&mut self) {
        self.turn_to(0);
    }

    fn turn_to(&mut self, run: u64) {
        let was_flowing = std::mem::replace(&mut self.run, run) >= BULK;
        let is_flowing = run >= BULK;
        if was_flowing != is_flowing {
            self.crowd.flow(is_flowing);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_much_in_a_row_and_is_taken_back_at_its_end() {
        let crowd = Arc::new(Crowd::default());
        let mut flow = Flow::new(crowd.clone());
        let after = |flow: &mut Flow, came: &[u64]| {
            came.iter().for_each(|bytes| flow.on_wait(*bytes));
            crowd.flowing()
        };

        assert_eq!(after(&mut flow, &[BULK - STEP, STEP - 1, STEP]), 0, "there was little in between");
        assert_eq!(after(&mut flow, &[BULK - STEP]), 1);
        assert_eq!(after(&mut flow, &[STEP, STEP]), 1, "it is counted once");
        assert_eq!(after(&mut flow, &[1]), 0);
        assert_eq!(after(&mut flow, &[BULK]), 1);
        flow.end();
        assert_eq!(crowd.flowing(), 0);
        assert_eq!(after(&mut flow, &[BULK]), 1);
        drop(flow);
        assert_eq!(crowd.flowing(), 0);
    }
}
