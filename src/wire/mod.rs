//! The format: bytes to frames and back. It knows the form of messages, not the conversation.
//!
//! This room reads hostile bytes, so it may not index, nor compute without checking.
//!
//! # Refuses
//! Sockets, clocks, logs; and any opinion on whether a message is legal now (that is [`crate::session`]).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod backend;
pub mod buffer;
pub mod control;
pub mod frame;
pub mod frontend;
mod malformed;
pub mod startup;
pub mod write;

pub use buffer::Buffers;
pub use frame::Header;
pub use malformed::Malformed;
