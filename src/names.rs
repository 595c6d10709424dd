//! Who is who.
//!
//! Two strings that can be swapped will be. Every name and number that travels between rooms has a type here,
//! so that a user is never passed for a database, nor a client's cancel key for a server's.
//!
//! # Promises
//! - Names are bytes as they came: PostgreSQL does not promise UTF-8 before `client_encoding` is known.
//! - `Display` is safe to log: control characters are escaped, so that a stranger cannot forge a line.
//! - Keys compare in time that does not depend on where they differ.
//!
//! # Refuses
//! To know what a name means: that it exists, that it may log in, that it has a pool.

use std::fmt;
use std::sync::Arc;

/// Makes a cheap-to-clone name of bytes.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<[u8]>);

        impl $name {
            /// The name as it came over the wire, without its terminator.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.into())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.as_bytes().into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", Printable(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.to_string())
            }
        }
    };
}

/// Which of the names in a certificate is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CertificateName {
    /// The common name (CN) of its subject.
    #[default]
    CommonName,
    /// A DNS name among its subject alternative names.
    Dns,
    /// An e-mail address among them.
    Email,
    /// A URI among them, as SPIFFE's.
    Uri,
}

name!(
    /// The role a client logs in as.
    User
);
name!(
    /// The database a client asks for; not always the one it is given (`dbname` may say another).
    Database
);

/// Bytes from a stranger, made safe for one line of a log: control characters and bytes beyond ASCII are escaped.
#[derive(Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    fmt::Write::write_char(f, c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Whose servers: one pool is kept for each pair.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PoolKey {
    /// The database as the client named it.
    pub database: Database,
    /// The role the servers are logged in as.
    pub user: User,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.user)
    }
}

/// A client, for as long as this process lives; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A server connection, for as long as this process lives; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServerId(pub u64);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

/// The longest secret of a cancel key, in bytes (PostgreSQL docs, BackendKeyData: "up to 256 bytes").
pub const MAX_CANCEL_SECRET: usize = 256;

/// What BackendKeyData carries: a process ID and a secret of 4 bytes (protocol 3.0) to 256 (3.2).
#[derive(Clone)]
struct CancelKey {
    process_id: u32,
    secret: Box<[u8]>,
}

macro_rules! cancel_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(CancelKey);

        impl $name {
            /// A key of these two parts.
            pub fn new(process_id: u32, secret: &[u8]) -> Self {
                Self(CancelKey { process_id, secret: secret.into() })
            }

            /// The process ID: for a server PostgreSQL's, for a client the number we gave it.
            pub fn process_id(&self) -> u32 {
                self.0.process_id
            }

            /// The secret, 4 to 256 bytes.
            pub fn secret(&self) -> &[u8] {
                &self.0.secret
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}, …)", stringify!($name), self.0.process_id)
            }
        }
    };
}

cancel_key!(
    /// The key we minted for a client; it means something to us alone.
    ClientKey
);
cancel_key!(
    /// The key PostgreSQL gave us for a server; it never leaves this process but to that server.
    ServerKey
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        let user = User::from(&b"a\nlevel=error \xff\x1b[0m"[..]);

        assert_eq!(user.to_string(), "a\\nlevel=error \\xff\\u{1b}[0m");
    }

    #[test]
    fn a_cancel_key_does_not_print_its_secret() {
        assert_eq!(format!("{:?}", ServerKey::new(7, b"secret")), "ServerKey(7, …)");
    }
}
