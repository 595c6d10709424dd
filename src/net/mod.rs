//! Sockets. Nothing here knows PostgreSQL: whether to encrypt, what to say and when to stop is [`crate::session`]'s.
//!
//! # Refuses
//! To await in the middle of a message: what has been read is in a buffer, never in a future.

pub mod connect;
pub mod listen;
pub mod peer;
mod settings;
pub mod stream;
pub mod tls;

pub use peer::Peer;
pub use settings::Settings;
pub use stream::Stream;
