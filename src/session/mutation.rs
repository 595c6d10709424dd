//! Rules that can be switched off, to see that the tests notice.
//!
//! Only with the feature `mutations`, which `make test` turns on: the simulation switches rules off in its own thread, the storm
//! by the variable `MUTATION` of the program under test. Without the feature [`is_on`] is a constant, and the rules are not conditional
//! on anything; with it nothing is optimised, so that no such program is ever taken for one that serves somebody.

/// A rule of the exchange that the storm must miss, and but for [`NoSegment`](Self::NoSegment) the simulation, which has no commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// A server is not cleaned before another client's words.
    NoClean,
    /// The prelude is no transaction of its own: what the client rolls back takes the identity with it.
    NoCommit,
    /// What comes behind the first unit does not wait for the prelude.
    NoHoldBack,
    /// What a client left behind without its Sync is given a Sync of ours, which commits it.
    NoSegment,
    /// A server is given back inside a transaction block.
    NoStatus,
}

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("rules can be switched off in the builds of tests alone: leave out the feature `mutations`");

/// Whether a rule is switched off.
#[cfg(not(feature = "mutations"))]
#[inline]
pub const fn is_on(_: Mutation) -> bool {
    false
}

#[cfg(feature = "mutations")]
pub use switch::{is_on, named, switch_off};

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use crate::session::mutation::Mutation;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Whether a rule is switched off on this thread.
    pub fn is_on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }

    /// The rule of this name.
    pub fn named(name: &str) -> Option<Mutation> {
        match name {
            "no_clean" => Some(Mutation::NoClean),
            "no_commit" => Some(Mutation::NoCommit),
            "no_hold_back" => Some(Mutation::NoHoldBack),
            "no_segment" => Some(Mutation::NoSegment),
            "no_status" => Some(Mutation::NoStatus),
            _ => None,
        }
    }

    /// Switches one rule off on this thread, or none.
    pub fn switch_off(mutation: Option<Mutation>) {
        ON.set(mutation);
    }
}
