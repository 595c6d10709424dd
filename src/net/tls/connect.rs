//! Servers encrypted.
//!
//! # Promises
//! - One configuration, with one store of sessions to resume, for all connections with the same settings.
//! - The host that was dialled is the name that is verified and said (SNI), if it is a name.
//!
//! # Refuses
//! To ask the server whether it has TLS: the pool does (`pool/dial.rs`).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::net::Stream;
use crate::net::stream::Remote;
use crate::net::tls::failure::{FileError, HandshakeError};
use crate::net::tls::files::{self, Expiry, ReadFile, Watched};
use crate::net::tls::settings::{Negotiation, RootCertificates, ServerSettings, SslMode};
use crate::net::tls::verify::{Trust, Verifier};
use crate::net::tls::{ALPN, Certificate, Handshake, provider};
use crate::telemetry::instruments::Tally;

/// Encrypts servers, by one set of settings.
#[derive(Debug)]
pub struct Connector {
    settings: ServerSettings,
    made: Watched<Made>,
    handshakes: Arc<Tally<Handshake>>,
}

struct Made {
    config: Arc<ClientConfig>,
    expires: Vec<Expiry>,
}

/// A server, encrypted.
#[derive(Debug)]
pub struct Connected {
    /// The connection, ready for what is said inside.
    pub stream: Stream,
    /// What SCRAM is bound to: the hash of the certificate the server showed.
    pub end_point: Option<Box<[u8]>>,
    /// Whether it was resumed, without certificates being shown.
    pub is_resumed: bool,
}

impl Connector {
    /// Reads the files of the settings; what is wrong with them is in the log, and is the error of each handshake.
    pub fn new(settings: ServerSettings, handshakes: Arc<Tally<Handshake>>) -> Self {
        let mut files: Vec<PathBuf> =
            [&settings.sslcert, &settings.sslkey].into_iter().flatten().cloned().collect();
        if let Some(RootCertificates::File(path)) = settings.root_certificates() {
            files.push(path);
        }
        let making = settings.clone();
        let made = Watched::new(files, move || make(&making, &|path| std::fs::read(path)));
        Self { settings, made, handshakes }
    }

    /// What it goes by.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// Whether files make a configuration.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(settings: &ServerSettings, read: &ReadFile) -> Result<(), FileError> {
        make(settings, read).map(drop)
    }

    /// Shakes hands with the server that was dialled as `host`.
    ///
    /// Not cancel safe: the connection is lost.
    ///
    /// # Errors
    /// Why there is no encryption; the server has been told by an alert.
    pub async fn connect(&self, stream: Stream, host: &str) -> Result<Connected, HandshakeError> {
        let connected = self.shake_hands(stream, host).await;
        let is_resumed = connected.as_ref().map(|connected| connected.is_resumed);
        self.handshakes.count(is_resumed.map_or(Handshake::Failed, Handshake::done));
        connected
    }

    async fn shake_hands(&self, stream: Stream, host: &str) -> Result<Connected, HandshakeError> {
        let made = self.made.current().map_err(HandshakeError::Files)?;
        let name = self.name(&stream, host)?;
        let Stream::Tcp(tcp) = stream else { return Err(HandshakeError::NotTcp) };
        let handshake = TlsConnector::from(made.config.clone()).connect(name, tcp);
        let stream = handshake.await.map_err(HandshakeError::from_io)?;
        let (_, session) = stream.get_ref();
        if self.settings.sslnegotiation == Negotiation::Direct && session.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::NoAlpn);
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first).and_then(Certificate::read);
        let end_point = certificate.and_then(|certificate| certificate.end_point());
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let stream = Stream::Tls(Box::new(TlsStream::<TcpStream>::Client(stream)));
        Ok(Connected { stream, end_point, is_resumed })
    }

    /// The name to verify. One that TLS cannot say is only wanted where it is verified: else the address will do.
    fn name(&self, stream: &Stream, host: &str) -> Result<ServerName<'static>, HandshakeError> {
        match (ServerName::try_from(host.to_owned()), stream.remote()) {
            (Ok(name), _) => Ok(name),
            (Err(_), Ok(Remote::Tcp(address))) if self.settings.sslmode < SslMode::VerifyFull => {
                Ok(IpAddr::into(address.ip()))
            }
            (Err(_), _) => Err(HandshakeError::BadHostName(host.into())),
        }
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The connectors of the process, one for each set of settings.
#[derive(Debug, Default)]
pub struct Connectors {
    known: Mutex<HashMap<ServerSettings, Arc<Connector>>>,
    handshakes: Arc<Tally<Handshake>>,
}

impl Connectors {
    /// The connector for these settings.
    pub fn find(&self, settings: &ServerSettings) -> Arc<Connector> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Connector::new(settings.clone(), self.handshakes.clone()));
        known.entry(settings.clone()).or_insert_with(make).clone()
    }

    /// How the handshakes of all of them ended.
    pub fn handshakes(&self) -> &Tally<Handshake> {
        &self.handshakes
    }

    /// Reads the files of all of them again. Open connections are left alone.
    ///
    /// # Errors
    /// What is wrong with the files; whoever names them keeps what was there.
    pub fn reload(&self) -> Result<(), Vec<Arc<FileError>>> {
        let failures: Vec<_> =
            self.all().iter().filter_map(|connector| connector.made.reload().err()).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// When the certificates end, by file.
    pub fn expiries(&self) -> Vec<(PathBuf, SystemTime)> {
        let made = self.all().into_iter().filter_map(|connector| connector.made.current().ok());
        let mut expiries: Vec<_> = made.flat_map(|made| made.expires.clone()).collect();
        expiries.sort();
        expiries.dedup();
        expiries
    }

    fn all(&self) -> Vec<Arc<Connector>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn make(settings: &ServerSettings, read: &ReadFile) -> Result<Made, FileError> {
    let provider = provider();
    let mut expires = Vec::new();
    let names = settings.sslmode >= SslMode::VerifyFull;
    let trust = match settings.root_certificates() {
        // `sslrootcert` makes `require` verify, as in libpq.
        Some(RootCertificates::File(path)) => {
            let (roots, certificates) = files::roots(&path, read)?;
            expires.extend(files::expiry(&path, &certificates));
            Trust::Chain { roots, certificates, names }
        }
        Some(RootCertificates::System) => {
            Trust::Chain { roots: files::system_roots()?, certificates: Vec::new(), names }
        }
        None => Trust::Anyone,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(settings.ssl_min_protocol_version.and_later())
        .map_err(FileError::Unfit)?
        .dangerous()
        .with_custom_certificate_verifier(Verifier::new(trust, &provider));
    let mut config = match (&settings.sslcert, &settings.sslkey) {
        (Some(certificate), Some(key)) => {
            let pair = files::pair(certificate, key, &provider, read)?;
            expires.extend(files::expiry(certificate, &pair.cert));
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        (Some(path), None) => return Err(FileError::NoKey(path.clone())),
        (None, Some(path)) => return Err(FileError::NoCertificate(path.clone())),
        (None, None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Made { config: Arc::new(config), expires })
}
