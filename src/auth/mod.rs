//! Is this client who it says? And: proving who we are.
//!
//! Four methods on either side of the pooler, certificates on the clients', and what links the sides: a client that proves
//! itself by SCRAM, or sends its password, leaves us what a server of the same user will accept from us, so that no password need be
//! stored here.
//!
//! # Promises
//! - Pure but for the randomness of nonces and salts: no clock, no I/O; every machine is fed and asked.
//! - A stranger is treated as a user with the wrong password: same messages, same cost.
//! - No secret prints, none outlives its owner, none is compared with an early exit.
//!
//! # Refuses
//! To frame messages (that is `wire`), to know whose turn it is (that is `session`), to fetch secrets.

pub mod ident;
pub mod password;
pub mod rules;
pub mod scram;
pub mod secret;
pub mod shadow;
pub mod token;
pub mod userlist;

use std::fmt;
use std::str::FromStr;

pub use password::Md5Hash;
pub use scram::ChannelBinding;
pub use scram::ScramError;
pub use scram::ScramKeys;
pub use scram::ScramVerifier;
pub use secret::BadVerifier;
pub use secret::Fingerprint;
pub use secret::Fingerprints;
pub use secret::Salts;
pub use secret::Secret;
pub use secret::Verifier;
pub use token::Login;
pub use token::LoginKey;

/// How a client must prove itself (PostgreSQL docs, "Authentication Methods").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// A TLS certificate of the client's own that names the user.
    Cert,
    /// A salted hash, sniffable and replayable in part. A SCRAM verifier makes it SCRAM, as in PostgreSQL.
    Md5,
    /// The password in the clear; only sane inside TLS.
    Password,
    /// SCRAM-SHA-256, and with channel binding where TLS allows.
    #[default]
    ScramSha256,
    /// Nothing: whoever can connect is who they say.
    Trust,
}

impl Method {
    /// The spellings [`FromStr`] takes and [`Display`](fmt::Display) gives, for messages that list them.
    pub const NAMES: [&str; 5] = ["cert", "md5", "password", "scram-sha-256", "trust"];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cert => "cert",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::ScramSha256 => "scram-sha-256",
            Self::Trust => "trust",
        })
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        match name {
            "cert" => Ok(Self::Cert),
            "md5" => Ok(Self::Md5),
            "password" => Ok(Self::Password),
            "scram-sha-256" => Ok(Self::ScramSha256),
            "trust" => Ok(Self::Trust),
            _ => Err(UnknownMethod),
        }
    }
}

/// Not one of [`Method::NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownMethod;

impl fmt::Display for UnknownMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an authentication method; one of {}", Method::NAMES.join(", "))
    }
}

impl std::error::Error for UnknownMethod {}

/// What we log in to a server with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Keys a client's proof left us; they fit only a server with the verifier the client was checked against.
    Keys(ScramKeys),
    /// The stored MD5 hash: good for a server that asks for md5.
    Md5(Md5Hash),
    /// The password: good for whatever a server asks.
    Password(Secret),
}

/// The operating system gave no random bytes; nothing can be authenticated without them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("could not generate random bytes")
    }
}

impl std::error::Error for NoRandomness {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_spelt_as_they_are_read() {
        for name in Method::NAMES {
            assert_eq!(name.parse::<Method>().map(|method| method.to_string()), Ok(name.into()));
        }
        assert_eq!("SCRAM".parse::<Method>(), Err(UnknownMethod));
        assert_eq!(Method::default(), Method::ScramSha256);
    }
}
