//! The four algorithms, by `ring`, as jsonwebtoken wants them.
//!
//! jsonwebtoken leaves the choice of cryptography open. `ring` is what TLS uses here: one implementation to trust, and none
//! of the others is built.
//!
//! # Promises
//! - Only EdDSA, ES256, RS256 and HS256 can verify anything; HS256 compares in constant time.
//!
//! # Refuses
//! To sign.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac as mac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};

/// What jsonwebtoken is given.
const PROVIDER: &CryptoProvider = &CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Sees to it that jsonwebtoken verifies with this; once for the process, and again does nothing.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(new_error(ErrorKind::InvalidAlgorithm));
    }
    let public = |by: &'static dyn VerificationAlgorithm| -> Result<Proof> {
        Ok(Proof::Public(UnparsedPublicKey::new(by, key.try_get_as_bytes()?.to_vec())))
    };
    let proof = match (algorithm, key.kind()) {
        (Algorithm::EdDSA, _) => public(&ED25519)?,
        (Algorithm::ES256, _) => public(&ECDSA_P256_SHA256_FIXED)?,
        (Algorithm::HS256, _) => Proof::Secret(mac::Key::new(mac::HMAC_SHA256, key.try_get_as_bytes()?)),
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Proof::Rsa(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(_)) => public(&RSA_PKCS1_2048_8192_SHA256)?,
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    Ok(Box::new(Verifier { algorithm: *algorithm, proof }))
}

/// What a signature is held against.
enum Proof {
    Public(UnparsedPublicKey<Vec<u8>>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Secret(mac::Key),
}

struct Verifier {
    algorithm: Algorithm,
    proof: Proof,
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let verified = match &self.proof {
            Proof::Public(key) => key.verify(message, signature),
            Proof::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Proof::Secret(key) => mac::verify(key, message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
