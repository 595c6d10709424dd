//! Whether a server's certificate is believed, by libpq's modes.
//!
//! # Promises
//! - What is asked for is verified whole: signatures up to a CA, dates, purpose; and the name under `verify-full`.
//! - The handshake's own signature is verified in every mode: whoever shows a certificate has its key.
//!
//! # Refuses
//! To look at a CN: a server is named by its subject alternative names, addresses included.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::net::tls::Certificate;

/// What has to be true of a server's certificate.
#[derive(Debug)]
pub(super) enum Trust {
    /// Nothing (`require` without `sslrootcert`).
    Anyone,
    /// It is signed by one of these, or is one of these; and, if `names`, it names the host.
    Chain { roots: RootCertStore, certificates: Vec<CertificateDer<'static>>, names: bool },
}

/// rustls's question, answered by our settings.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { trust, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Chain { roots, certificates, names } = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if certificates.contains(end_entity) {
            // A certificate that signed itself is both CA and server; webpki takes no CA for a server.
            verify_dates(end_entity, now)?;
        } else {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        }
        if *names {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn verify_dates(certificate: &CertificateDer<'_>, time: UnixTime) -> Result<(), Error> {
    let certificate =
        Certificate::read(certificate).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let seconds = |at: std::time::SystemTime| {
        UnixTime::since_unix_epoch(at.duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO))
    };
    let (not_before, not_after) = (seconds(certificate.not_before()), seconds(certificate.not_after()));
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}
