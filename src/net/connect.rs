//! Dialling.
//!
//! # Promises
//! - A name is looked up for every connection: nothing is remembered.
//!
//! # Refuses
//! To choose among addresses, to time out or to try again: its caller has a deadline over the whole login.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::net::Stream;

/// What connections are tuned with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tuning {
    /// Idle time before probes.
    pub keepalive: Option<Duration>,
    /// How long unacknowledged data may stay so.
    pub user_timeout: Option<Duration>,
}

/// What a name stands for now; an address stands for itself.
///
/// Cancel safe.
///
/// # Errors
/// The system's; there is at least one address otherwise.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
}

/// Connects over TCP.
///
/// Cancel safe: the connection is dropped.
///
/// # Errors
/// The system's.
pub async fn tcp(address: SocketAddr, tuning: Tuning) -> io::Result<Stream> {
    let stream = Stream::Tcp(TcpStream::connect(address).await?);
    stream.tune(tuning)?;
    Ok(stream)
}

/// Connects to PostgreSQL's unix socket in `directory`.
///
/// Cancel safe: the connection is dropped.
///
/// # Errors
/// The system's.
pub async fn unix(directory: &Path, port: u16) -> io::Result<Stream> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    Ok(Stream::Unix(UnixStream::connect(path).await?))
}
