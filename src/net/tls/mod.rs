//! TLS: which certificates are shown, which are believed, and what a handshake found out.
//!
//! The crypto is *ring*'s: it builds with Rust and a C compiler alone (aws-lc wants more on some machines), and nothing is
//! installed for the whole process: each configuration carries its provider.
//!
//! ```text
//!  files ──► Watched<ServerConfig> ──► Acceptor   clients encrypted: [tls.client]
//!     └────► Watched<ClientConfig> ──► Connector  servers encrypted: [tls.server], one for all connections of an upstream
//! ```
//!
//! # Promises
//! - One configuration serves every connection until a file of it changes; the next handshake sees the new one, and those
//!   that are open live on.
//! - A new certificate whose key does not belong to it, or a file that cannot be used, changes nothing and is an error in the log.
//! - Both sides resume sessions.
//!
//! # Refuses
//! To fall back to plain; to say who may do without: that is asked for, by name, in the settings.

mod accept;
pub mod certificate;
mod connect;
mod failure;
mod files;
mod settings;
mod verify;

pub use accept::{Accepted, Acceptor};
pub use certificate::Certificate;
pub use connect::{Connected, Connector, Connectors};
pub use failure::{FileError, HandshakeError};
pub use settings::{ClientSettings, Negotiation, RootCertificates, ServerSettings, SslMode, TlsVersion};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::telemetry::instruments::words;

words! {
    /// How a handshake ended.
    pub enum Handshake {
        /// Encrypted, after certificates were shown.
        Full = "full",
        /// Encrypted, as once before.
        Resumed = "resumed",
        /// Not encrypted; the connection is lost.
        Failed = "failed",
    }
}

impl Handshake {
    /// One that succeeded.
    pub fn done(is_resumed: bool) -> Self {
        if is_resumed { Self::Resumed } else { Self::Full }
    }
}

/// The ALPN name of PostgreSQL's protocol (PostgreSQL docs, "SSL Session Encryption").
const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
