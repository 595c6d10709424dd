//! Clients encrypted.
//!
//! # Promises
//! - What a handshake is bound to is the certificate that was shown in it, whatever the files have become since.
//! - A client that begins TLS unasked must name PostgreSQL's protocol (ALPN), or a browser's request could be made to look
//!   like a login (ALPACA).
//!
//! # Refuses
//! To decide who must be encrypted: `proxy` knows what a client asks for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::ring::Ticketer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::net::Stream;
use crate::net::tls::failure::{FileError, HandshakeError};
use crate::net::tls::files::{self, Expiry, ReadFile, Watched};
use crate::net::tls::settings::ClientSettings;
use crate::net::tls::{ALPN, Certificate, provider};

/// Longest that a client whose first bytes were wrong is told so.
const ALERT: Duration = Duration::from_secs(1);

/// Encrypts clients.
#[derive(Debug)]
pub struct Acceptor {
    settings: ClientSettings,
    identity: Watched<Identity>,
}

/// What is shown to clients, and what is asked of them.
struct Identity {
    config: Arc<ServerConfig>,
    end_point: Option<Box<[u8]>>,
    expires: Vec<Expiry>,
}

/// A client, encrypted.
#[derive(Debug)]
pub struct Accepted {
    /// The connection, ready for what is said inside.
    pub stream: Stream,
    /// What SCRAM is bound to: the hash of the certificate that was shown.
    pub end_point: Option<Box<[u8]>>,
    /// The client's own certificate, verified.
    pub certificate: Option<Certificate>,
    /// Whether the session is one of an earlier connection.
    pub is_resumed: bool,
}

impl Acceptor {
    /// Reads the files of the settings; what is wrong with them is in the log, and is the error of each handshake.
    pub fn new(settings: &ClientSettings) -> Self {
        let named = [&settings.cert_file, &settings.key_file, &settings.ca_file];
        let files: Vec<PathBuf> = named.into_iter().flatten().cloned().collect();
        let making = settings.clone();
        let identity = Watched::new(files, move || make(&making, &|path| std::fs::read(path)));
        Self { settings: settings.clone(), identity }
    }

    /// What it goes by.
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Whether files make a configuration.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(settings: &ClientSettings, read: &ReadFile) -> Result<(), FileError> {
        make(settings, read).map(drop)
    }

    /// Reads the files again. Open connections are left alone.
    ///
    /// # Errors
    /// What is wrong with them; then all stays as it was.
    pub fn reload(&self) -> Result<(), Arc<FileError>> {
        self.identity.reload()
    }

    /// When the certificates end, by file.
    pub fn expiries(&self) -> Vec<(PathBuf, SystemTime)> {
        self.identity.current().map(|identity| identity.expires.clone()).unwrap_or_default()
    }

    /// Shakes hands. `hello` is what has come of the client's first words already: all of it is inside TLS.
    ///
    /// Not cancel safe: the connection is lost.
    ///
    /// # Errors
    /// Why there is no encryption; the client has been told by an alert, and is gone.
    pub async fn accept(&self, stream: Stream, hello: &[u8]) -> Result<Accepted, HandshakeError> {
        let Stream::Tcp(tcp) = stream else { return Err(HandshakeError::NotTcp) };
        let identity = self.identity.current().map_err(HandshakeError::Files)?;
        let mut taken = Ok(());
        let handshake = TlsAcceptor::from(identity.config.clone())
            .accept_with(tcp, |session| taken = take_in(session, hello));
        if let Err(error) = taken {
            // The alert is on its way out; the client's answer to it is to close.
            let _ = timeout(ALERT, handshake).await;
            return Err(HandshakeError::from_io(error));
        }
        let stream = handshake.await.map_err(HandshakeError::from_io)?;
        let (_, session) = stream.get_ref();
        if !hello.is_empty() && session.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::NoAlpn);
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first).and_then(Certificate::read);
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let stream = Stream::Tls(Box::new(TlsStream::<TcpStream>::Server(stream)));
        Ok(Accepted { stream, end_point: identity.end_point.clone(), certificate, is_resumed })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Gives a session the bytes that were read before it was there.
fn take_in(session: &mut ServerConnection, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        if session.read_tls(&mut bytes)? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
    Ok(())
}

fn make(settings: &ClientSettings, read: &ReadFile) -> Result<Identity, FileError> {
    let provider = provider();
    let (certificate, key) = match (&settings.cert_file, &settings.key_file) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(path), None) => return Err(FileError::NoKey(path.clone())),
        (None, _) => return Err(FileError::NoCertificate(PathBuf::from("tls.client.cert_file"))),
    };
    let pair = files::pair(certificate, key, &provider, read)?;
    let end_point =
        pair.cert.first().and_then(Certificate::read).and_then(|certificate| certificate.end_point());
    let mut expires: Vec<_> = files::expiry(certificate, &pair.cert).into_iter().collect();

    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(settings.min_version.and_later())
        .map_err(FileError::Unfit)?;
    let builder = match &settings.ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let (roots, certificates) = files::roots(path, read)?;
            expires.extend(files::expiry(path, &certificates));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if settings.wants_certificate() { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|_| FileError::BadCertificate(path.clone()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Keys of its own for each configuration: a ticket does not outlive the certificates it was issued under.
    config.ticketer = Ticketer::new().map_err(FileError::Unfit)?;
    Ok(Identity { config: Arc::new(config), end_point, expires })
}
