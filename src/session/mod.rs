//! The conversation: who may say what now, and what it means for the pool.
//!
//! This room is pure: bytes and facts go in, bytes and decisions come out. It has no clock, no socket and no log, so that
//! every path of it can be tested on plain bytes.
//!
//! ```text
//!  opening ──► client ──► idle ──┬─► answered here
//!  (its way in)                  └─► exchange ◄── server ◄── login
//!                                      │ inject · inspect        (our way into PostgreSQL)
//!                                      └─► Clean | Held | Lost
//! ```
//!
//! # Order of calls
//! [`idle::answer`] until it says `NeedServer`; [`Exchange::begin`] on a leased server; [`Exchange::advance`] after every
//! change of a buffer until it gives an [`Outcome`]; [`Exchange::abandon`] when the client is gone.

pub mod bound;
pub mod claim;
pub mod client;
pub mod exchange;
pub mod hold;
pub mod idle;
pub mod inject;
pub mod inspect;
pub mod login;
pub mod mutation;
pub mod opening;
pub mod parameters;
pub mod pipeline;
pub mod prepared;
pub mod question;
pub mod role;
pub mod server;
mod settings;
pub mod sql;
pub mod tally;
pub mod tier;
pub mod transaction;
pub mod violation;

pub use claim::{Grant, Identities, Identity};
pub use client::{Adoption, ClientState, MustLogInAnew};
pub use exchange::{Clean, Exchange, Outcome};
pub use parameters::{Parameters, Values};
pub use role::Role;
pub use server::{ServerState, is_belated};
pub use settings::{
    CleanPolicy, Form, IdentitySettings, Missing, Mode, Nth, Pattern, Rules, Scope, SetPolicy, StatePolicy,
    Subject, TokenSettings, Variable,
};
pub use violation::{Refusal, Report, TokenFault, Violation};
