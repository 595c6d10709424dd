//! What proves who one is, and what is stored to check it.
//!
//! A password must not reach a log, outlive its use in memory, or be compared in a time that tells how much of
//! it was right. Types that cannot do these things are cheaper than a review of every line that could.
//!
//! # Promises
//! - `Debug` of anything here prints no secret; memory is wiped when it is dropped; `==` takes constant time
//!   (in the length, which is not hidden).
//! - A [`Verifier`] is read as PostgreSQL reads `pg_authid.rolpassword` (`get_password_type`, `crypt.c`).
//! - For one [`Salts`], the SCRAM salt of a stranger and of a user with a plaintext secret are made the same way:
//!   asking twice, or comparing, tells nobody which of the two a name is.
//!
//! # Refuses
//! To know how a secret is fetched, and to speak any protocol.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::auth::NoRandomness;
use crate::auth::password::Md5Hash;
use crate::auth::scram::DEFAULT_ITERATIONS;
use crate::auth::scram::ScramKeys;
use crate::auth::scram::ScramVerifier;
use crate::auth::scram::hmac_sha256;

/// Bytes nobody may see: a password, or the text of a verifier.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes themselves. Every call is a place to review.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing to it; PostgreSQL accepts no empty password.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.into_bytes()))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a client's proof is checked against.
#[derive(Clone, Debug)]
pub enum Verifier {
    /// `md5` and the hash of password and user name: enough to check md5 and cleartext, and to log in with md5.
    Md5(Md5Hash),
    /// The password itself: enough for everything.
    Plaintext(Arc<Plaintext>),
    /// `SCRAM-SHA-256$…`: enough to check SCRAM and cleartext, and to log in nowhere.
    Scram(ScramVerifier),
}

/// A password in the clear, and the SCRAM verifier made of it when it is first needed.
pub struct Plaintext {
    password: Secret,
    scram: OnceLock<ScramVerifier>,
}

impl Plaintext {
    /// The password.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// Whether there is a SCRAM verifier already.
    pub fn is_prepared(&self) -> bool {
        self.scram.get().is_some()
    }

    /// Makes the SCRAM verifier of keys that were derived from this password, where that blocks nobody.
    pub fn prepare(&self, keys: &ScramKeys) {
        self.scram.get_or_init(|| ScramVerifier::of_keys(keys));
    }

    /// The SCRAM verifier for `user`; derived here and now (a few thousand hashes) if it is not prepared.
    pub fn scram(&self, salts: &Salts, user: &[u8]) -> &ScramVerifier {
        self.scram.get_or_init(|| {
            ScramVerifier::derive(self.password.expose(), &salts.salt_for(user), DEFAULT_ITERATIONS)
        })
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(…)")
    }
}

impl Verifier {
    /// Reads the text of a secret. What merely resembles an MD5 hash is a password, as PostgreSQL has it; what
    /// begins as a SCRAM verifier and is none is refused, because nobody has such a password.
    pub fn from_secret(secret: &Secret) -> Result<Self, BadVerifier> {
        if secret.is_empty() {
            return Err(BadVerifier::Empty);
        }
        if secret.expose().starts_with(ScramVerifier::PREFIX) {
            return ScramVerifier::parse(secret.expose()).map(Self::Scram).ok_or(BadVerifier::MalformedScram);
        }
        if let Some(hash) = Md5Hash::parse(secret.expose()) {
            return Ok(Self::Md5(hash));
        }
        Ok(Self::Plaintext(Arc::new(Plaintext { password: secret.clone(), scram: OnceLock::new() })))
    }

    /// Checks a password sent in the clear, whatever is stored; `keys` are the password's, for the salt and count of
    /// a SCRAM verifier.
    #[must_use]
    pub fn accepts(&self, password: &Secret, keys: &ScramKeys, user: &[u8]) -> bool {
        match self {
            Self::Md5(hash) => *hash == Md5Hash::derive(password.expose(), user),
            Self::Plaintext(plain) => plain.password == *password,
            Self::Scram(verifier) => verifier.accepts_keys(keys),
        }
    }
}

/// Why the text of a secret is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadVerifier {
    /// There is nothing; PostgreSQL accepts no empty password.
    Empty,
    /// It begins with `SCRAM-SHA-256$` and does not go on as such, or asks for too many iterations.
    MalformedScram,
}

impl fmt::Display for BadVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the secret is empty",
            Self::MalformedScram => {
                "the secret is not of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
            }
        })
    }
}

impl std::error::Error for BadVerifier {}

/// Where the salts of those come from who have none stored: strangers, and users with a plaintext secret.
/// PostgreSQL does the same with `mock_authentication_nonce` (`scram_mock_salt`, `auth-scram.c`).
#[derive(Clone)]
pub struct Salts(Zeroizing<[u8; 32]>);

impl Salts {
    /// New ones; made once in the life of a process, or strangers are told apart by their changing salts.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| NoRandomness)?;
        Ok(Self(key))
    }

    /// Salts that are the same wherever `key` is: for several poolers behind one address, and for tests.
    pub fn from_key(key: [u8; 32]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// The salt of `user`, 16 bytes as PostgreSQL's own.
    pub fn salt_for(&self, user: &[u8]) -> [u8; 16] {
        let mut salt = [0; 16];
        for (to, from) in salt.iter_mut().zip(hmac_sha256(&self.0, &[b"salt", user]).iter()) {
            *to = *from;
        }
        salt
    }

    /// A verifier for somebody who does not exist. No password fits it, because its keys are no password's.
    pub fn stranger(&self, user: &[u8]) -> ScramVerifier {
        ScramVerifier::from_parts(
            &self.salt_for(user),
            DEFAULT_ITERATIONS,
            hmac_sha256(&self.0, &[b"stored", user]),
            hmac_sha256(&self.0, &[b"server", user]),
        )
    }
}

/// Names for what was derived from passwords, that tell nothing about them without the key.
pub struct Fingerprints(Zeroizing<[u8; 32]>);

/// One such name.
pub type Fingerprint = [u8; 32];

impl Fingerprints {
    /// With a key that nobody knows.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| NoRandomness)?;
        Ok(Self(key))
    }

    /// The name of what a password becomes with this salt and count.
    pub fn of(&self, password: &Secret, salt: &[u8], iterations: u32) -> Fingerprint {
        // Lengths first: nothing of the password is taken for the salt.
        let (length, iterations) = ((salt.len() as u64).to_be_bytes(), iterations.to_be_bytes());
        *hmac_sha256(&self.0, &[&length, &iterations, salt, password.expose()])
    }
}

impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprints(…)")
    }
}

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verifier(text: &str) -> Result<Verifier, BadVerifier> {
        Verifier::from_secret(&Secret::from(text))
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::from("hunter2");
        let printed = format!("{secret:?} {:?} {:?}", verifier("hunter2"), Salts::from_key([7; 32]));

        assert!(!printed.contains("hunter2"));
        assert!(!printed.contains('7'));
    }

    #[test]
    fn secrets_are_read_as_postgresql_reads_them() {
        let md5 = "md5a3556571e93b0d20722ba62be61e8c2d";
        let scram = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                     WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

        assert!(matches!(verifier(md5), Ok(Verifier::Md5(_))));
        assert!(matches!(verifier("md5 is broken"), Ok(Verifier::Plaintext(_))));
        assert!(matches!(verifier(&md5.to_uppercase()), Ok(Verifier::Plaintext(_))));
        assert!(matches!(verifier(scram), Ok(Verifier::Scram(_))));
        assert_eq!(verifier("SCRAM-SHA-256$4096:").err(), Some(BadVerifier::MalformedScram));
        assert_eq!(verifier("").err(), Some(BadVerifier::Empty));
    }

    #[test]
    fn a_password_in_the_clear_is_checked_against_any_verifier() {
        let scram = ScramVerifier::derive(b"pencil", b"salt", 10);
        let md5 = Verifier::Md5(Md5Hash::derive(b"pencil", b"ann"));
        let all = [verifier("pencil").unwrap(), md5, Verifier::Scram(scram)];

        for verifier in all {
            let accepts = |password: &str| {
                let keys = ScramKeys::derive(password.as_bytes(), b"salt", 10);
                verifier.accepts(&Secret::from(password), &keys, b"ann")
            };
            assert!(accepts("pencil"));
            assert!(!accepts("pencils"));
        }
    }

    #[test]
    fn a_stranger_is_salted_like_a_user_with_a_plaintext_secret() {
        let salts = Salts::random().unwrap();
        let Ok(Verifier::Plaintext(plain)) = verifier("pencil") else { panic!("not a plaintext") };

        assert_eq!(plain.scram(&salts, b"ann").salt(), salts.stranger(b"ann").salt());
        assert_eq!(plain.scram(&salts, b"ann").iterations(), salts.stranger(b"ann").iterations());
        assert_ne!(salts.stranger(b"ann").salt(), salts.stranger(b"bob").salt());
    }
}
