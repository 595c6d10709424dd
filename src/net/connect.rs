//! Dialling.
//!
//! # Promises
//! - Every address a name stands for is tried, in order.
//!
//! # Refuses
//! To time out or to try again: its caller has a deadline over the whole login.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::net::Stream;

/// What outgoing connections are tuned with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tuning {
    /// Idle time before probes.
    pub keepalive: Option<Duration>,
    /// How long unacknowledged data may stay so.
    pub user_timeout: Option<Duration>,
}

/// Connects over TCP.
///
/// Cancel safe: the connection is dropped.
///
/// # Errors
/// The system's, of the last address tried.
pub async fn tcp(host: &str, port: u16, tuning: Tuning) -> io::Result<Stream> {
    let stream = Stream::Tcp(TcpStream::connect((host, port)).await?);
    stream.tune(tuning.keepalive, tuning.user_timeout)?;
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
