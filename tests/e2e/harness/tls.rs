//! Certificates of the tests' own, and the client's side of TLS.
//!
//! Key pairs are ECDSA on P-256, which cost nothing to make. What is to be wrong with a certificate, its test says.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pgusher::net::tls::Certificate;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::{TlsConnector, TlsStream};

/// Signs certificates.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Issued {
    fn write(certificate: &rcgen::Certificate, key: &KeyPair, directory: &Path, name: &str) -> Self {
        let issued = Self {
            certificate: directory.join(format!("{name}.crt")),
            key: directory.join(format!("{name}.key")),
        };
        fs::write(&issued.certificate, certificate.pem()).expect("a file");
        fs::write(&issued.key, key.serialize_pem()).expect("a file");
        issued
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let pem = fs::read(&self.certificate).expect("a certificate");
        CertificateDer::pem_slice_iter(&pem).map(|der| der.expect("PEM")).collect()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(&fs::read(&self.key).expect("a key")).expect("PEM")
    }

    /// Puts these in the place of others, each file in one step.
    pub fn replace(&self, others: &Self) {
        for (from, to) in [(&self.key, &others.key), (&self.certificate, &others.certificate)] {
            let beside = to.with_extension("new");
            fs::copy(from, &beside).expect("a copy");
            fs::rename(&beside, to).expect("a new name");
        }
    }

    /// As a server that shows this, to all comers.
    pub fn server_config(&self) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let mut config = builder.with_single_cert(self.chain(), self.private_key()).expect("a pair");
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        config
    }
}

/// What a certificate says.
pub struct Wanted(CertificateParams);

impl Wanted {
    /// A certificate with a common name and no alternative ones.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        Self(params)
    }

    /// What a server on the loopback needs.
    pub fn loopback() -> Self {
        Self::named("localhost").dns("localhost").ip("127.0.0.1").ip("::1")
    }

    pub fn dns(self, name: &str) -> Self {
        self.also(SanType::DnsName(name.try_into().expect("a DNS name")))
    }

    pub fn ip(self, address: &str) -> Self {
        self.also(SanType::IpAddress(address.parse().expect("an address")))
    }

    pub fn uri(self, uri: &str) -> Self {
        self.also(SanType::URI(uri.try_into().expect("a URI")))
    }

    pub fn email(self, address: &str) -> Self {
        self.also(SanType::Rfc822Name(address.try_into().expect("an address")))
    }

    pub fn expired(mut self) -> Self {
        (self.0.not_before, self.0.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 2, 2));
        self
    }

    pub fn not_yet_valid(mut self) -> Self {
        (self.0.not_before, self.0.not_after) = (date_time_ymd(2201, 1, 1), date_time_ymd(2202, 2, 2));
        self
    }

    /// A certificate that is its own CA, as `openssl req -x509` makes them.
    pub fn signed_by_itself(mut self, directory: &Path, name: &str) -> Issued {
        self.0.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = self.0.self_signed(&key).expect("a certificate");
        Issued::write(&certificate, &key, directory, name)
    }

    fn also(mut self, name: SanType) -> Self {
        self.0.subject_alt_names.push(name);
        self
    }
}

impl Ca {
    /// One that nobody believes yet.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The one that `tests/postgres.sh` has made.
    pub fn read(directory: &Path) -> Self {
        let read =
            |name: &str| fs::read_to_string(directory.join(name)).expect("made with the first template");
        let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
        Self { issuer: Issuer::new(Self::params("tests of pgusher"), key), pem: read("ca.crt") }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = Wanted::named(name).0;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// Issues what is wanted, as `<name>.crt` and `<name>.key`.
    pub fn issue(&self, wanted: Wanted, directory: &Path, name: &str) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let certificate = wanted.0.signed_by(&key, &self.issuer).expect("a certificate");
        Issued::write(&certificate, &key, directory, name)
    }

    /// Its own certificate, in a file.
    pub fn file(&self, directory: &Path) -> PathBuf {
        let path = directory.join("ca.crt");
        fs::write(&path, &self.pem).expect("a file");
        path
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A client that believes this CA and verifies the name.
    pub fn client(&self) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a CA");
        Tls { roots: Some(Arc::new(roots)), ..Tls::anyone() }
    }
}

/// How a client encrypts.
#[derive(Clone, Debug)]
pub struct Tls {
    roots: Option<Arc<RootCertStore>>,
    owner: Option<Issued>,
    versions: Vec<&'static SupportedProtocolVersion>,
    /// The ALPN protocols it names.
    pub alpn: Vec<Vec<u8>>,
    /// Whether it begins without asking.
    pub is_direct: bool,
    /// Kept, so that sessions are resumed by whoever has a clone.
    config: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// Believes anybody.
    pub fn anyone() -> Self {
        Self {
            roots: None,
            owner: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: vec![b"postgresql".to_vec()],
            is_direct: false,
            config: None,
        }
    }

    /// Shows a certificate.
    pub fn owning(mut self, issued: &Issued) -> Self {
        self.owner = Some(issued.clone());
        self
    }

    /// Speaks one version only.
    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn direct(mut self) -> Self {
        self.is_direct = true;
        self
    }

    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// One that remembers its sessions.
    pub fn remembering(mut self) -> Self {
        self.config = Some(self.config());
        self
    }

    fn config(&self) -> Arc<ClientConfig> {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&self.versions).expect("versions");
        let builder = match &self.roots {
            Some(roots) => builder.with_root_certificates(roots.clone()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)),
        };
        let mut config = match &self.owner {
            Some(owner) => builder.with_client_auth_cert(owner.chain(), owner.private_key()).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        Arc::new(config)
    }

    /// Shakes hands on a connection where that has been agreed on.
    pub async fn connect(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(self.config()).connect(name, stream).await.map(TlsStream::Client)
    }
}

/// For tokio-postgres, which asks for TLS unless its URL says otherwise.
impl<S: Socket> MakeTlsConnect<S> for Tls {
    type Error = std::io::Error;
    type Stream = Encrypted<S>;
    type TlsConnect = Named;

    fn make_tls_connect(&mut self, host: &str) -> std::io::Result<Named> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Named(self.clone(), name))
    }
}

/// With the name that the other side must have.
pub struct Named(Tls, ServerName<'static>);

impl<S: Socket> TlsConnect<S> for Named {
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Encrypted<S>>> + Send>>;
    type Stream = Encrypted<S>;

    fn connect(self, stream: S) -> Self::Future {
        let Self(tls, name) = self;
        let connecting = TlsConnector::from(tls.config()).connect(name, stream);
        Box::pin(async { Ok(Encrypted(connecting.await?)) })
    }
}

/// What tokio-postgres encrypts.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// A connection of tokio-postgres in TLS.
pub struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: Socket> tokio_postgres::tls::TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let shown = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let hash = shown.and_then(Certificate::read).and_then(|certificate| certificate.end_point());
        hash.map_or_else(ChannelBinding::none, |hash| ChannelBinding::tls_server_end_point(hash.into()))
    }
}

impl<S: Socket> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: Socket> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &default_provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
