//! Keys, as they are written down: a JWK set, one JWK, a PEM public key, or a secret.
//!
//! # Promises
//! - Each key has exactly one algorithm: Ed25519 is EdDSA, P-256 is ES256, RSA is RS256, a secret is HS256.
//! - A set in which no key can be used is an error; keys of other kinds in it are left out.
//!
//! # Refuses
//! Secrets that are published, secrets shorter than what HS256 produces, RSA keys of less than 2048 bits.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use spki::der::Document;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use crate::auth::Secret;

/// The shortest secret, in bytes (RFC 7518, section 3.2: as long as the hash).
const SHORTEST_SECRET: usize = 32;

/// The shortest modulus of an RSA key, in bytes (RFC 7518, section 3.3).
const SHORTEST_MODULUS: usize = 256;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Why there are no keys in a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// It is neither JSON of keys nor PEM.
    Format,
    /// None of its keys can be used.
    NoneUsable,
    /// A secret that is too short.
    ShortSecret,
    /// A key of a kind that is not supported.
    Unsupported,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Format => "expected a JWK set, a JWK, or a public key as PEM (BEGIN PUBLIC KEY)",
            Self::NoneUsable => {
                "none of its keys can be used; supported are Ed25519 (EdDSA), P-256 (ES256), RSA from 2048 bits (RS256) and secrets (HS256)"
            }
            Self::ShortSecret => "a secret for HS256 has at least 32 bytes",
            Self::Unsupported => "supported are Ed25519, P-256 and RSA keys from 2048 bits",
        })
    }
}

impl std::error::Error for KeyError {}

/// Who may read the text that keys are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secrecy {
    /// It is ours: a secret may be in it.
    Private,
    /// It was fetched: what is in it is no secret.
    Published,
}

/// A key, and the one algorithm it is for.
pub(super) struct Key {
    kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys there are.
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads keys from a text.
    ///
    /// # Errors
    /// There is no key in it that can be used.
    pub fn read(text: &[u8], secrecy: Secrecy) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(text).map_err(|_| KeyError::Format)?.trim();
        if text.starts_with("-----BEGIN") {
            return Ok(Self(vec![of_pem(text)?]));
        }
        let jwks = match serde_json::from_str::<JwkSet>(text) {
            Ok(set) => set.keys,
            Err(_) => vec![serde_json::from_str::<Jwk>(text).map_err(|_| KeyError::Format)?],
        };
        let keys: Vec<_> = jwks.iter().filter_map(|jwk| of_jwk(jwk, secrecy)).collect();
        if keys.is_empty() { Err(KeyError::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// The secret of HS256.
    ///
    /// # Errors
    /// It is too short.
    pub fn of_secret(secret: &Secret) -> Result<Self, KeyError> {
        let secret = secret.expose();
        if secret.len() < SHORTEST_SECRET {
            return Err(KeyError::ShortSecret);
        }
        let key = DecodingKey::from_secret(secret);
        Ok(Self(vec![Key { kid: None, algorithm: Algorithm::HS256, key }]))
    }

    /// The keys that a token with this header may have been signed by.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({})", self.0.len())
    }
}

/// A JWK that can verify with one of our algorithms.
fn of_jwk(jwk: &Jwk, secrecy: Secrecy) -> Option<Key> {
    let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(it)
            if it.curve == EllipticCurve::P256
                && [&it.x, &it.y]
                    .into_iter()
                    .all(|part| decoded(part).is_some_and(|part| part.len() == 32)) =>
        {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(it)
            if it.curve == EllipticCurve::Ed25519 && decoded(&it.x).is_some_and(|key| key.len() == 32) =>
        {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::RSA(it) if decoded(&it.n).is_some_and(|n| n.len() >= SHORTEST_MODULUS) => {
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        AlgorithmParameters::OctetKey(it)
            if secrecy == Secrecy::Private
                && decoded(&it.value).is_some_and(|secret| secret.len() >= SHORTEST_SECRET) =>
        {
            (Algorithm::HS256, KeyAlgorithm::HS256)
        }
        _ => return None,
    };
    let common = &jwk.common;
    let is_for_signatures = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    let may_verify =
        common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let is_for_this = common.key_algorithm.is_none_or(|it| it == name);
    if !(is_for_signatures && may_verify && is_for_this) {
        return None;
    }
    Some(Key { kid: common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(jwk).ok()? })
}

/// A public key as PEM.
fn of_pem(text: &str) -> Result<Key, KeyError> {
    let (label, document) = Document::from_pem(text).map_err(|_| KeyError::Format)?;
    if label != "PUBLIC KEY" {
        return Err(KeyError::Format);
    }
    let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).map_err(|_| KeyError::Format)?;
    let key = info.subject_public_key.as_bytes().ok_or(KeyError::Format)?;
    let curve = info.algorithm.parameters_oid().ok();
    let (algorithm, key) = match info.algorithm.oid {
        ED25519 if key.len() == 32 => (Algorithm::EdDSA, DecodingKey::from_ed_der(key)),
        EC if curve == Some(P256) && key.len() == 65 => (Algorithm::ES256, DecodingKey::from_ec_der(key)),
        RSA if key.len() > SHORTEST_MODULUS => (Algorithm::RS256, DecodingKey::from_rsa_der(key)),
        _ => return Err(KeyError::Unsupported),
    };
    Ok(Key { kid: None, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str =
        r#"{"kty":"OKP","crv":"Ed25519","kid":"e","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const SECRET: &str = r#"{"kty":"oct","kid":"s","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    fn algorithms(text: &str, secrecy: Secrecy) -> Result<Vec<Algorithm>, KeyError> {
        Ok(KeySet::read(text.as_bytes(), secrecy)?.0.iter().map(|key| key.algorithm).collect())
    }

    #[test]
    fn keys_are_read_in_every_form_and_have_one_algorithm() {
        let set = format!(r#"{{"keys":[{ED},{SECRET},{{"kty":"unheard of"}}]}}"#);

        assert_eq!(algorithms(&set, Secrecy::Private), Ok(vec![Algorithm::EdDSA, Algorithm::HS256]));
        assert_eq!(algorithms(ED, Secrecy::Private), Ok(vec![Algorithm::EdDSA]));
        assert_eq!(algorithms(PEM, Secrecy::Private), Ok(vec![Algorithm::EdDSA]));
    }

    #[test]
    fn a_published_secret_is_none() {
        let set = format!(r#"{{"keys":[{ED},{SECRET}]}}"#);

        assert_eq!(algorithms(&set, Secrecy::Published), Ok(vec![Algorithm::EdDSA]));
        assert_eq!(algorithms(SECRET, Secrecy::Published), Err(KeyError::NoneUsable));
    }

    #[test]
    fn what_is_too_weak_or_for_something_else_is_not_used() {
        for key in [
            r#"{"kty":"oct","k":"AAAA"}"#,
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
            r#"{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}"#,
            &ED.replace('{', r#"{"use":"enc","#),
            &ED.replace('{', r#"{"alg":"ES256","#),
            &ED.replace('{', r#"{"key_ops":["sign"],"#),
        ] {
            assert_eq!(algorithms(key, Secrecy::Private), Err(KeyError::NoneUsable), "{key}");
        }
        for text in ["", "[]", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "hunter2"] {
            assert_eq!(algorithms(text, Secrecy::Private), Err(KeyError::Format), "{text}");
        }
        assert_eq!(KeySet::of_secret(&Secret::from("short")).err(), Some(KeyError::ShortSecret));
    }

    #[test]
    fn a_name_selects_a_key() {
        let set =
            KeySet::read(format!(r#"{{"keys":[{ED},{SECRET}]}}"#).as_bytes(), Secrecy::Private).unwrap();

        assert_eq!(set.candidates(Some("e")).count(), 1);
        assert_eq!(set.candidates(Some("x")).count(), 0);
        assert_eq!(set.candidates(None).count(), 2);
        // One without a name is meant by any.
        assert_eq!(KeySet::read(PEM.as_bytes(), Secrecy::Private).unwrap().candidates(Some("x")).count(), 1);
    }
}
