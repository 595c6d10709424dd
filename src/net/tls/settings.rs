//! What the operator decides about encryption.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::path::{Path, PathBuf};

use rustls::SupportedProtocolVersion;

/// How much encryption is asked for, in libpq's words. What each means depends on the side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Clients: if they ask for it. Servers: if they refuse a connection without it.
    Allow,
    /// Clients: if they ask for it. Servers: if they have it.
    Prefer,
    /// Always.
    Require,
    /// Always, and the peer's certificate is signed by a CA that is believed.
    VerifyCa,
    /// Always, and the certificate names the peer: the host that was dialled, the user that logs in.
    VerifyFull,
}

/// The oldest version of the protocol that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}

impl TlsVersion {
    pub(super) fn and_later(self) -> &'static [&'static SupportedProtocolVersion] {
        const V12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        const V13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        match self {
            Self::V12 => V12,
            Self::V13 => V13,
        }
    }
}

/// `[tls.client]`: how clients are encrypted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientSettings {
    /// Who is encrypted, and whether by a certificate of their own.
    pub mode: SslMode,
    /// Our certificate, and those between it and its CA.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The CAs that sign clients' certificates; a client that has none is not asked twice unless `mode` verifies.
    pub ca_file: Option<PathBuf>,
    /// The oldest version.
    pub min_version: TlsVersion,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            mode: SslMode::Disable,
            cert_file: None,
            key_file: None,
            ca_file: None,
            min_version: TlsVersion::default(),
        }
    }
}

impl ClientSettings {
    /// Whether a client over TCP must be encrypted.
    pub fn is_required(&self) -> bool {
        self.mode >= SslMode::Require
    }

    /// Whether a client over TCP must show a certificate.
    pub fn wants_certificate(&self) -> bool {
        self.mode >= SslMode::VerifyCa
    }
}

/// How a server is told that TLS follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Negotiation {
    /// By SSLRequest, and its answer is awaited.
    #[default]
    Postgres,
    /// Not at all: the handshake comes first (PostgreSQL 17 and later).
    Direct,
}

/// Which CAs a server's certificate must be signed by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RootCertificates {
    /// Those of a file.
    File(PathBuf),
    /// Those that this machine believes.
    System,
}

/// `[tls.server]`, as it holds for one database: how servers are encrypted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ServerSettings {
    /// Whether, and what is verified.
    pub sslmode: SslMode,
    /// The CAs: a file, or `system`.
    pub sslrootcert: Option<PathBuf>,
    /// Our certificate, for servers that ask for one.
    pub sslcert: Option<PathBuf>,
    /// Its key.
    pub sslkey: Option<PathBuf>,
    /// Who speaks first.
    pub sslnegotiation: Negotiation,
    /// The oldest version.
    pub ssl_min_protocol_version: TlsVersion,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            sslmode: SslMode::Prefer,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            sslnegotiation: Negotiation::default(),
            ssl_min_protocol_version: TlsVersion::default(),
        }
    }
}

impl ServerSettings {
    /// The CAs, if any are named.
    pub fn root_certificates(&self) -> Option<RootCertificates> {
        let path = self.sslrootcert.as_ref()?;
        Some(if path == Path::new("system") {
            RootCertificates::System
        } else {
            RootCertificates::File(path.clone())
        })
    }
}
