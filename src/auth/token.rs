//! The token that says to a server who the user is, so that nothing but the key can make another.
//!
//! ```text
//!  1.key.process.sequence.first.expires.identity.mac      identity and mac hexadecimal; mac = HMAC-SHA256(SHA-256(key), all before)
//! ```
//!
//! `ident.login` of `deploy/sql/identity.sql` checks it. The key is called by a hash of itself, so that several may be
//! in use while one takes the place of another.
//!
//! # Promises
//! - A token is good for one server process, one transaction after those before it, and a minute.
//! - The key is not kept, only a hash of it; neither prints.
//!
//! # Refuses
//! To know the time: it is given.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha2::Digest;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The least a key may have, in bytes.
pub const LEAST_KEY: usize = 32;

/// How long a token is good for, in seconds: the clocks of pooler and server may differ by as much.
const LIFETIME: u64 = 60;

/// What signs tokens.
#[derive(Clone)]
pub struct LoginKey(Arc<Inner>);

struct Inner {
    name: String,
    secret: Zeroizing<[u8; 32]>,
    mac: Hmac<Sha256>,
}

/// What a token is about.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Who; empty is nobody.
    pub identity: &'a [u8],
    /// Whether nobody has logged in on the server before.
    pub is_first: bool,
    /// The time, in seconds since 1970.
    pub now: u64,
    /// The server's process.
    pub process: u32,
    /// More than that of every token before it.
    pub sequence: u64,
}

impl LoginKey {
    /// The key that a text stands for; `None` if it is shorter than [`LEAST_KEY`].
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.len() < LEAST_KEY {
            return None;
        }
        let secret = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(text)));
        let name = Sha256::new().chain_update(b"pgusher key ").chain_update(secret.as_slice()).finalize();
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_slice()).ok()?;
        let mut hex = Vec::new();
        put_hex(&mut hex, name.get(..8)?);
        Some(Self(Arc::new(Inner { name: String::from_utf8(hex).ok()?, secret, mac })))
    }

    /// What tokens and `ident.keys` call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What a database makes its own of the key from, hexadecimal. Every call is a place to review.
    pub fn secret(&self) -> Zeroizing<String> {
        let mut hex = Zeroizing::new(Vec::new());
        put_hex(&mut hex, self.0.secret.as_slice());
        Zeroizing::new(String::from_utf8_lossy(&hex).into_owned())
    }

    /// Writes the token.
    pub fn sign(&self, login: Login<'_>, out: &mut Vec<u8>) {
        out.clear();
        let Login { identity, is_first, now, process, sequence } = login;
        let (first, expires) = (u8::from(is_first), now.saturating_add(LIFETIME));
        // Writing to a Vec does not fail.
        let _ = write!(out, "1.{}.{process}.{sequence}.{first}.{expires}.", self.0.name);
        put_hex(out, identity);
        let mac = self.0.mac.clone().chain_update(&out).finalize().into_bytes();
        out.push(b'.');
        put_hex(out, &mac);
    }
}

fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or_default();
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}

impl PartialEq for LoginKey {
    /// The name tells keys apart, and is public.
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for LoginKey {}

impl fmt::Debug for LoginKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginKey({}, …)", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn token(login: Login<'_>) -> String {
        let mut out = b"what was there before".to_vec();
        LoginKey::new(KEY).unwrap().sign(login, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Made by another implementation: Python's hmac.
    #[test]
    fn a_token_is_what_others_make_of_the_same() {
        let login = Login { identity: b"bob", is_first: true, now: 1_000_000_000, process: 42, sequence: 7 };

        assert_eq!(
            token(login),
            "1.6d4faef85fc0ab8c.42.7.1.1000000060.626f62.18b9e8ca42fc4eb53956a074d95173e741278f60d5416ba1e8b2cf60c4353314"
        );
    }

    #[test]
    fn whatever_differs_the_signature_differs() {
        let login = Login { identity: b"bob", is_first: true, now: 1, process: 42, sequence: 7 };
        let others = [
            Login { identity: b"bobby", ..login },
            Login { is_first: false, ..login },
            Login { now: 2, ..login },
            Login { process: 43, ..login },
            Login { sequence: 8, ..login },
        ];

        let mac = |token: String| token.rsplit_once('.').unwrap().1.to_owned();
        assert!(others.into_iter().all(|other| mac(token(other)) != mac(token(login))));
    }

    #[test]
    fn a_key_is_long_and_does_not_print() {
        assert!(LoginKey::new(&KEY[1..]).is_none());
        let key = LoginKey::new(KEY).unwrap();
        assert_eq!(format!("{key:?}"), "LoginKey(6d4faef85fc0ab8c, …)");
        assert_ne!(key, LoginKey::new(b"another key, of thirty-two bytes!").unwrap());
    }
}
