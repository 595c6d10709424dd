//! A server reached: dialled, and encrypted as its settings say.
//!
//! What each `sslmode` means for a server is decided here, and is libpq's meaning, but that a handshake which failed is never a
//! reason to go on in plain:
//!
//! ```text
//! disable                  plain
//! allow                    plain; in TLS if the server refuses that (28000, as pg_hba.conf's hostssl does)
//! prefer                   TLS if the server has it, else plain; plain if the server refuses TLS (28000, hostnossl)
//! require and stronger     TLS, or no connection
//! ```
//!
//! # Promises
//! - Nothing that came before the handshake is taken as if it had come inside it (CVE-2021-23222): one byte is read, and a
//!   server that has said more is left.
//! - A cancel request goes where the session is, and is encrypted if the session is.
//! - Unix sockets are never encrypted, as in libpq.
//!
//! # Refuses
//! To log in, to try again, to time out.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::Stream;
use crate::net::connect::{self, Tuning};
use crate::net::tls::{Connector, Negotiation, SslMode};
use crate::pool::error::ConnectError;
use crate::pool::settings::Host;
use crate::wire::write;

/// Where one server was reached, and how: a cancel request must go the same way.
#[derive(Clone, Debug)]
pub enum Address {
    /// An address, not a name: another host may answer to the name by now.
    Tcp(SocketAddr),
    /// The same, in TLS, with the name that was verified.
    Tls(SocketAddr, Arc<Connector>, Arc<str>),
    /// The directory and port of a unix socket.
    Unix(PathBuf, u16),
}

/// A server, before anything was said to it.
pub(super) struct Reached {
    pub(super) stream: Stream,
    pub(super) address: Address,
    /// What SCRAM is bound to.
    pub(super) end_point: Option<Box<[u8]>>,
}

/// Whether to encrypt, this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    /// As the mode says at first.
    First,
    /// The other way: the server has refused the first.
    Second,
}

impl Attempt {
    /// Whether the server is asked for TLS, and whether there is no going on without.
    fn wants(self, mode: SslMode) -> (bool, bool) {
        match (mode, self) {
            (SslMode::Disable, _) | (SslMode::Allow, Self::First) | (SslMode::Prefer, Self::Second) => {
                (false, false)
            }
            (SslMode::Prefer, Self::First) => (true, false),
            (SslMode::Allow, Self::Second)
            | (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => (true, true),
        }
    }
}

/// Whether a server that refused a connection as it was (encrypted or not) may be tried the other way.
pub(super) fn has_second(mode: SslMode, was_encrypted: bool, sqlstate: &str) -> bool {
    let is_possible = match mode {
        SslMode::Allow => !was_encrypted,
        SslMode::Prefer => was_encrypted,
        _ => false,
    };
    is_possible && sqlstate == "28000"
}

/// One address of a host, with the name it was looked up by.
pub(super) enum Place<'a> {
    /// Over TCP.
    Tcp(SocketAddr, &'a str),
    /// The directory and port of a unix socket.
    Unix(&'a Path, u16),
}

/// Everywhere a host is, now.
pub(super) async fn places(host: &Host) -> io::Result<Vec<Place<'_>>> {
    Ok(match host {
        Host::Tcp { host, port } => {
            let addresses = connect::resolve(host, *port).await?;
            addresses.into_iter().map(|address| Place::Tcp(address, host)).collect()
        }
        Host::Unix { directory, port } => vec![Place::Unix(directory, *port)],
    })
}

/// Dials, and encrypts.
pub(super) async fn reach(
    place: &Place<'_>,
    connector: &Arc<Connector>,
    attempt: Attempt,
    tuning: Tuning,
) -> Result<Reached, ConnectError> {
    let (address, name) = match *place {
        Place::Tcp(address, name) => (address, name),
        Place::Unix(directory, port) => {
            let stream = connect::unix(directory, port).await.map_err(ConnectError::Unreachable)?;
            let address = Address::Unix(directory.to_owned(), port);
            return Ok(Reached { stream, address, end_point: None });
        }
    };
    let stream = connect::tcp(address, tuning).await.map_err(ConnectError::Unreachable)?;
    let mode = connector.settings().sslmode;
    let (asks, insists) = attempt.wants(mode);
    if !asks {
        return Ok(Reached { stream, address: Address::Tcp(address), end_point: None });
    }
    match encrypt(stream, connector, name).await? {
        Encrypted::Declined(_) if insists => Err(ConnectError::NoEncryption(mode)),
        Encrypted::Declined(stream) => {
            Ok(Reached { stream, address: Address::Tcp(address), end_point: None })
        }
        Encrypted::Done(stream, end_point) => {
            let address = Address::Tls(address, connector.clone(), name.into());
            Ok(Reached { stream, address, end_point })
        }
    }
}

impl Address {
    /// Another connection to the same server, as private as the first, for a cancel request.
    ///
    /// # Errors
    /// Why there is none; never one that is less private.
    pub async fn reach_again(&self) -> Result<Stream, ConnectError> {
        match self {
            Self::Tcp(address) => again(*address).await,
            Self::Tls(address, connector, name) => {
                match encrypt(again(*address).await?, connector, name).await? {
                    Encrypted::Declined(_) => Err(ConnectError::NoEncryption(SslMode::Require)),
                    Encrypted::Done(stream, _) => Ok(stream),
                }
            }
            Self::Unix(directory, port) => {
                connect::unix(directory, *port).await.map_err(ConnectError::Unreachable)
            }
        }
    }

    /// Whether it is reached in TLS.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(..))
    }
}

async fn again(address: SocketAddr) -> Result<Stream, ConnectError> {
    connect::tcp(address, Tuning::default()).await.map_err(ConnectError::Unreachable)
}

/// What came of the wish to encrypt.
enum Encrypted {
    /// The server has no TLS, and waits for a startup packet.
    Declined(Stream),
    Done(Stream, Option<Box<[u8]>>),
}

async fn encrypt(mut stream: Stream, connector: &Connector, name: &str) -> Result<Encrypted, ConnectError> {
    if connector.settings().sslnegotiation == Negotiation::Postgres {
        match ask(&mut stream).await.map_err(ConnectError::lost)? {
            b'S' if stream.peek().is_err() => {}
            b'N' => return Ok(Encrypted::Declined(stream)),
            // An ErrorResponse here is not believed: anybody could have said it (CVE-2024-10977).
            _ => return Err(ConnectError::NotAnAnswer),
        }
    }
    let connected = connector.connect(stream, name).await.map_err(ConnectError::Tls)?;
    Ok(Encrypted::Done(connected.stream, connected.end_point))
}

/// Says SSLRequest; the one byte that answers it.
async fn ask(stream: &mut Stream) -> io::Result<u8> {
    let mut request = BytesMut::new();
    write::ssl_request(&mut request);
    stream.write_all(&request).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    Ok(answer[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_asks_and_insists_as_libpq_does() {
        use Attempt::{First, Second};
        for (mode, attempt, wants) in [
            (SslMode::Disable, First, (false, false)),
            (SslMode::Allow, First, (false, false)),
            (SslMode::Allow, Second, (true, true)),
            (SslMode::Prefer, First, (true, false)),
            (SslMode::Prefer, Second, (false, false)),
            (SslMode::Require, First, (true, true)),
            (SslMode::Require, Second, (true, true)),
            (SslMode::VerifyCa, First, (true, true)),
            (SslMode::VerifyFull, Second, (true, true)),
        ] {
            assert_eq!(attempt.wants(mode), wants, "{mode:?} {attempt:?}");
        }
    }

    #[test]
    fn only_a_refusal_by_rule_is_a_reason_to_try_the_other_way() {
        assert!(has_second(SslMode::Allow, false, "28000"));
        assert!(has_second(SslMode::Prefer, true, "28000"));
        for (mode, was_encrypted, sqlstate) in [
            (SslMode::Allow, true, "28000"),
            (SslMode::Prefer, false, "28000"),
            (SslMode::Prefer, true, "28P01"),
            (SslMode::Disable, false, "28000"),
            (SslMode::Require, true, "28000"),
        ] {
            assert!(!has_second(mode, was_encrypted, sqlstate), "{mode:?} {was_encrypted} {sqlstate}");
        }
    }
}
