//! Passwords as they are sent without SCRAM: in the clear, or hashed with MD5.
//!
//! Both are old and both are still found; what they need is a few lines, kept apart from SCRAM so that they can
//! be deleted on the day PostgreSQL does (MD5 is deprecated since PostgreSQL 18).
//!
//! # Promises
//! - [`Md5Hash`] is what PostgreSQL stores, `md5` + hex(md5(password ‖ user)), and [`Md5Hash::answer`] what it
//!   expects, `md5` + hex(md5(hex ‖ salt)) (PostgreSQL docs, "Message Flow", AuthenticationMD5Password).
//! - Hashes compare in constant time, are wiped when dropped and do not print.
//!
//! # Refuses
//! To decide whether a method this weak may be used: the operator does.

use std::fmt;

use md5::Digest;
use md5::Md5;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::auth::NoRandomness;

/// The salt of one AuthenticationMD5Password.
pub type Md5Salt = [u8; 4];

/// A salt for one client.
pub fn random_md5_salt() -> Result<Md5Salt, NoRandomness> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(|_| NoRandomness)?;
    Ok(salt)
}

/// The stored form of an MD5 password: 32 lower-case hexadecimal digits. It is as good as the password itself
/// to anyone who has it.
#[derive(Clone)]
pub struct Md5Hash(Zeroizing<[u8; 32]>);

impl Md5Hash {
    const PREFIX: &[u8] = b"md5";

    /// The hash of a password; `user` is the salt.
    pub fn derive(password: &[u8], user: &[u8]) -> Self {
        Self(hex_md5(&[password, user]))
    }

    /// Reads `md5` and 32 digits; `None` if it is anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; 32] = text.strip_prefix(Self::PREFIX)?.try_into().ok()?;
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            .then(|| Self(Zeroizing::new(*digits)))
    }

    /// What a client that knows the password says to `salt`, without the terminator.
    pub fn answer(&self, salt: Md5Salt) -> Zeroizing<Vec<u8>> {
        let digits = hex_md5(&[self.0.as_slice(), &salt]);
        Zeroizing::new([Self::PREFIX, digits.as_slice()].concat())
    }

    /// Whether `answer` is what [`answer`](Self::answer) says.
    #[must_use]
    pub fn accepts(&self, salt: Md5Salt, answer: &[u8]) -> bool {
        self.answer(salt).as_slice().ct_eq(answer).into()
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for Md5Hash {}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(…)")
    }
}

fn hex_md5(parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }

    let mut digits = Zeroizing::new([0; 32]);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash.finalize()) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = if nibble < 10 { b'0' | nibble } else { b'a'.wrapping_add(nibble.wrapping_sub(10)) };
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_postgresql_stores() {
        // SELECT 'md5' || md5('pencil' || 'ann')
        let stored = Md5Hash::parse(b"md528754acffc5400623f44a44d30b50393");

        assert_eq!(stored, Some(Md5Hash::derive(b"pencil", b"ann")));
    }

    #[test]
    fn an_answer_is_good_for_its_salt_only() {
        let hash = Md5Hash::derive(b"pencil", b"ann");
        let answer = hash.answer(*b"salt");

        assert!(hash.accepts(*b"salt", &answer));
        assert!(!hash.accepts(*b"tlas", &answer));
        assert!(!hash.accepts(*b"salt", b""));
        assert!(!Md5Hash::derive(b"pencil", b"bob").accepts(*b"salt", &answer));
    }
}
