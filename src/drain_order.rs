//! `pgusher drain`: tells the pgusher of this configuration to drain, and waits for its end.
//!
//! For a `preStop` hook or a script, where there is no shell and no `kill`: the same as SIGTERM, said over the port of the metrics.
//!
//! # Promises
//! - With `--wait` it ends when the other has, or after what its drain may take and `SPARE`.
//!
//! # Refuses
//! To end anything itself.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::config::Config;

/// Longest an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How often it is looked whether the other is still there.
const ROUND: Duration = Duration::from_millis(50);

/// What it may take beyond its own limits.
const SPARE: Duration = Duration::from_secs(5);

/// Why it could not be told, or did not end.
#[derive(Debug)]
pub enum OrderError {
    /// Nothing listens there, or it says nothing.
    NotThere(SocketAddr, io::Error),
    /// There is no port to say it to.
    NoPort,
    /// It answered something else.
    Refused(SocketAddr, String),
    /// It is still there.
    StillThere(Duration),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => {
                f.write_str("metrics.listen is off, and orders are given there; send SIGTERM instead")
            }
            Self::NotThere(address, error) => {
                write!(f, "no pgusher answers on {address} (metrics.listen): {error}")
            }
            Self::Refused(address, said) => write!(f, "{address} does not drain: {said}"),
            Self::StillThere(limit) => write!(f, "it has not ended within {limit:?}"),
        }
    }
}

impl std::error::Error for OrderError {}

/// Says it, and waits if that is wanted.
///
/// # Errors
/// See [`OrderError`].
pub fn run(config: &Config, waits: bool) -> Result<(), OrderError> {
    let address = reachable(config.metrics.listen.ok_or(OrderError::NoPort)?);
    let said = say(address).map_err(|error| OrderError::NotThere(address, error))?;
    let first = said.lines().next().unwrap_or_default();
    if !first.contains(" 202 ") {
        return Err(OrderError::Refused(address, first.to_owned()));
    }
    if !waits {
        return Ok(());
    }
    let limit = config.proxy.drain_grace + config.proxy.drain_timeout + SPARE;
    let deadline = Instant::now() + limit;
    while TcpStream::connect_timeout(&address, ANSWER).is_ok() {
        if Instant::now() > deadline {
            return Err(OrderError::StillThere(limit));
        }
        sleep(ROUND);
    }
    Ok(())
}

/// Where the other is reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn say(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut said = Vec::new();
    stream.take(1 << 10).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_is_reached_on_the_loopback() {
        for (listen, reached) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("127.0.0.2:1", "127.0.0.2:1")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
