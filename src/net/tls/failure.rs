//! What can be wrong with files and handshakes, in words that name what did not match.
//!
//! # Promises
//! - Nothing of a key is shown.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::CertificateError;

/// Why files make no configuration.
#[derive(Debug)]
pub enum FileError {
    /// A certificate that cannot be read, or cannot be a CA's.
    BadCertificate(PathBuf),
    /// A key of a kind that is not known.
    BadKey(PathBuf),
    /// The key belongs to another certificate.
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
    },
    /// A file without any certificate.
    NoCertificate(PathBuf),
    /// A file without a key, or with one that is encrypted.
    NoKey(PathBuf),
    /// This machine believes no CA.
    NoSystemRoots,
    /// rustls cannot be configured so.
    Unfit(rustls::Error),
    /// The system's own words.
    Unreadable(PathBuf, io::Error),
}

impl FileError {
    /// The file that is to blame, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::BadCertificate(path)
            | Self::BadKey(path)
            | Self::Mismatch { key: path, .. }
            | Self::NoCertificate(path)
            | Self::NoKey(path)
            | Self::Unreadable(path, _) => Some(path),
            Self::NoSystemRoots | Self::Unfit(_) => None,
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCertificate(path) => {
                write!(f, "{} holds a certificate that cannot be used", path.display())
            }
            Self::BadKey(path) => write!(f, "{} holds a key of a kind that cannot be used", path.display()),
            Self::Mismatch { certificate, key } => {
                write!(f, "the key in {} is not that of {}", key.display(), certificate.display())
            }
            Self::NoCertificate(path) => write!(f, "{} holds no certificate in PEM", path.display()),
            Self::NoKey(path) => {
                write!(f, "{} holds no private key in PEM, or only an encrypted one", path.display())
            }
            Self::NoSystemRoots => f.write_str("this machine has no bundle of CA certificates"),
            Self::Unfit(error) => write!(f, "TLS cannot be configured so: {error}"),
            Self::Unreadable(path, error) => write!(f, "{} cannot be read: {error}", path.display()),
        }
    }
}

impl std::error::Error for FileError {}

/// Why there is no encrypted connection.
#[derive(Clone, Debug)]
pub enum HandshakeError {
    /// The server's name is neither a host name nor an address.
    BadHostName(Box<str>),
    /// The peer went away in the middle.
    Broken(Arc<io::Error>),
    /// There are no certificates to begin with.
    Files(Arc<FileError>),
    /// TLS without being asked, and not for PostgreSQL's protocol.
    NoAlpn,
    /// TLS runs over TCP only.
    NotTcp,
    /// What TLS itself found wrong.
    Refused(Arc<rustls::Error>),
}

impl HandshakeError {
    /// What an encrypted stream's error means.
    pub fn from_io(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(refused) => Self::Refused(Arc::new(refused.clone())),
            None => Self::Broken(Arc::new(error)),
        }
    }

    /// Whether another try could end otherwise.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadHostName(name) => write!(f, "{name:?} is neither a host name nor an IP address"),
            Self::Broken(error) => write!(f, "connection lost in the TLS handshake: {error}"),
            Self::Files(error) => error.fmt(f),
            Self::NoAlpn => f.write_str("direct TLS connection without the ALPN protocol \"postgresql\""),
            Self::NotTcp => f.write_str("TLS runs over TCP only"),
            Self::Refused(error) => f.write_str(&in_words(error)),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// What rustls says, in a sentence where its own is a name.
fn in_words(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the peer's certificate is not signed by a CA that is believed here".into()
        }
        Tls::InvalidCertificate(CertificateError::BadSignature) => {
            "the peer's certificate is not signed by the CA it names".into()
        }
        Tls::InvalidCertificate(CertificateError::Other(other)) => {
            format!("the peer's certificate cannot be used: {other}")
        }
        Tls::InvalidCertificate(error) => format!("the peer's {}", certificate_error(error)),
        Tls::InvalidMessage(_) => format!("the peer agreed to TLS and then spoke something else ({error})"),
        Tls::NoCertificatesPresented => "the peer showed no certificate".into(),
        Tls::AlertReceived(alert) => format!("the peer ended the TLS handshake: {alert:?}"),
        error => error.to_string(),
    }
}

fn certificate_error(error: &CertificateError) -> String {
    let said = error.to_string();
    if said.starts_with("certificate") { said } else { format!("certificate is refused: {said}") }
}
