//! What a login needs to know of a certificate: the names in it, when it ends, what SCRAM is bound to.
//!
//! # Promises
//! - A name with a control character is no name (a NUL in a CN has fooled others).
//! - The binding is RFC 5929's `tls-server-end-point`; a certificate whose signature has no hash of its own (Ed25519) has none.
//!
//! # Refuses
//! To verify: what comes here has been verified, or nobody relies on it.

use std::fmt;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use sha2::Digest;
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::names::CertificateName;

/// A certificate, read.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    parsed: Box<x509_cert::Certificate>,
}

impl Certificate {
    /// Reads DER.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let parsed = Box::new(x509_cert::Certificate::from_der(der).ok()?);
        Some(Self { der: der.clone().into_owned(), parsed })
    }

    /// The names of one kind, in order.
    pub fn names(&self, kind: CertificateName) -> Vec<String> {
        let names = match kind {
            CertificateName::CommonName => self.common_names(),
            CertificateName::Dns | CertificateName::Email | CertificateName::Uri => self.alternatives(kind),
        };
        names.into_iter().filter(|name| !name.is_empty() && !name.contains(char::is_control)).collect()
    }

    /// The first second at which it is not valid any more.
    pub fn not_after(&self) -> SystemTime {
        self.parsed.tbs_certificate.validity.not_after.to_system_time()
    }

    /// Since when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.parsed.tbs_certificate.validity.not_before.to_system_time()
    }

    /// What SCRAM is bound to (RFC 5929, section 4.1): the certificate, hashed as its signature does, but never weaker than
    /// by SHA-256.
    pub fn end_point(&self) -> Option<Box<[u8]>> {
        let der: &[u8] = &self.der;
        Some(match signature_hash(&self.parsed.signature_algorithm)? {
            Hash::Sha224 => sha2::Sha224::digest(der).as_slice().into(),
            Hash::Sha256 => sha2::Sha256::digest(der).as_slice().into(),
            Hash::Sha384 => sha2::Sha384::digest(der).as_slice().into(),
            Hash::Sha512 => sha2::Sha512::digest(der).as_slice().into(),
        })
    }

    fn common_names(&self) -> Vec<String> {
        let parts = self.parsed.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
        let named = parts.filter(|part| part.oid == COMMON_NAME);
        named.filter_map(|part| String::from_utf8(part.value.value().to_vec()).ok()).collect()
    }

    fn alternatives(&self, kind: CertificateName) -> Vec<String> {
        let Ok(Some((_, SubjectAltName(names)))) = self.parsed.tbs_certificate.get() else {
            return Vec::new();
        };
        let named = |name: &GeneralName| match (kind, name) {
            (CertificateName::Dns, GeneralName::DnsName(name))
            | (CertificateName::Email, GeneralName::Rfc822Name(name))
            | (CertificateName::Uri, GeneralName::UniformResourceIdentifier(name)) => Some(name.to_string()),
            _ => None,
        };
        names.iter().filter_map(named).collect()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.parsed.tbs_certificate.subject)
    }
}

enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// As PostgreSQL's `be_tls_get_certificate_hash`: MD5 and SHA-1 become SHA-256.
fn signature_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    Some(match algorithm.oid.to_string().as_str() {
        // md5, sha1, sha256 with RSA; ecdsa with SHA1, SHA256
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Hash::Sha256,
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Hash::Sha256,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Hash::Sha224,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Hash::Sha384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Hash::Sha512,
        "1.2.840.113549.1.1.10" => pss_hash(algorithm.parameters.as_ref()?.value()),
        _ => return None,
    })
}

/// The hash in `RSASSA-PSS-params`: `[0] { SEQUENCE { OID …` where it is not SHA-1, the default (RFC 4055).
fn pss_hash(parameters: &[u8]) -> Hash {
    let is_sha2 = parameters.starts_with(&[0xa0]) && parameters.get(4..6) == Some(&[0x06, 0x09]);
    match parameters.get(6..15).filter(|oid| is_sha2 && oid.starts_with(SHA2)).and_then(<[u8]>::last) {
        Some(2) => Hash::Sha384,
        Some(3) => Hash::Sha512,
        Some(4) => Hash::Sha224,
        _ => Hash::Sha256,
    }
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// `2.16.840.1.101.3.4.2`, under which SHA-2 has its numbers.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

#[cfg(test)]
mod tests {
    use super::*;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    fn certificate(params: &CertificateParams, key: &KeyPair) -> Certificate {
        Certificate::read(params.self_signed(key).unwrap().der()).unwrap()
    }

    #[test]
    fn names_are_those_of_one_kind() {
        let mut params = CertificateParams::new(vec!["a.internal".into(), "b.internal".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Ann, of shop");
        params.subject_alt_names.push(SanType::URI("spiffe://a/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("a@b.c".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = certificate(&params, &KeyPair::generate().unwrap());

        assert_eq!(certificate.names(CertificateName::CommonName), ["Ann, of shop"]);
        assert_eq!(certificate.names(CertificateName::Dns), ["a.internal", "b.internal"]);
        assert_eq!(certificate.names(CertificateName::Email), ["a@b.c"]);
        assert_eq!(certificate.names(CertificateName::Uri), ["spiffe://a/b"]);
    }

    #[test]
    fn a_name_with_a_control_character_is_none() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "admin\0.evil");
        let certificate = certificate(&params, &KeyPair::generate().unwrap());

        assert!(certificate.names(CertificateName::CommonName).is_empty());
        assert!(certificate.names(CertificateName::Uri).is_empty());
    }

    #[test]
    fn what_is_bound_to_is_hashed_as_the_signature_is() {
        let params = CertificateParams::new(Vec::new()).unwrap();
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let certificate = certificate(&params, &KeyPair::generate_for(algorithm).unwrap());

            assert_eq!(certificate.end_point().map(|hash| hash.len()), length, "{algorithm:?}");
        }
    }

    #[test]
    fn the_hash_of_a_pss_signature_is_in_its_parameters() {
        let with = |hash: u8| {
            let oid = [&[0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09], SHA2, &[hash, 0x05, 0x00]].concat();
            pss_hash(&oid)
        };

        assert!(matches!(with(1), Hash::Sha256));
        assert!(matches!(with(2), Hash::Sha384));
        assert!(matches!(with(3), Hash::Sha512));
        assert!(matches!(with(4), Hash::Sha224));
        assert!(matches!(pss_hash(&[]), Hash::Sha256));
        assert!(matches!(pss_hash(&[0xa0]), Hash::Sha256));
    }

    #[test]
    fn dates_are_read() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2055, 2, 3));
        let certificate = certificate(&params, &KeyPair::generate().unwrap());
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();

        assert_eq!(seconds(certificate.not_before()), 978_307_200);
        assert_eq!(seconds(certificate.not_after()), 2_685_225_600);
    }

    #[test]
    fn nonsense_is_no_certificate() {
        for bytes in [&b""[..], b"\x30\x03\x02\x01\x00", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            assert!(Certificate::read(&CertificateDer::from(bytes)).is_none());
        }
    }
}
