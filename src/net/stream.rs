//! One type for every kind of connection, polled.
//!
//! # Promises
//! - [`Stream::poll_readable`] costs no system call: it asks what the reactor already knows.
//!
//! # Refuses
//! To buffer: that is [`crate::net::Peer`]'s.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// Who is at the other end, as far as the socket knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// An address.
    Tcp(SocketAddr),
    /// Somebody on this machine.
    Unix,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Stream {
    /// Sets what every connection of ours has: no delay for small packets, and probes for a peer that is gone.
    ///
    /// # Errors
    /// The system's, for an option it refuses.
    pub fn tune(&self, keepalive: Option<Duration>, user_timeout: Option<Duration>) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if let Some(idle) = keepalive {
            let probe = Duration::from_secs(10);
            socket.set_tcp_keepalive(
                &TcpKeepalive::new().with_time(idle).with_interval(probe).with_retries(3),
            )?;
        }
        if user_timeout.is_some() {
            socket.set_tcp_user_timeout(user_timeout)?;
        }
        Ok(())
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The system's, if the connection is gone already.
    pub fn remote(&self) -> io::Result<Remote> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(Remote::Tcp),
            Self::Unix(_) => Ok(Remote::Unix),
        }
    }

    /// The first byte that has come and was not read; it stays where it is. `None`: the peer has closed.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has come.
    pub fn peek(&self) -> io::Result<Option<u8>> {
        let descriptor = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        let mut first = [0; 1];
        let (count, _) = recv(descriptor, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok((count > 0).then_some(first[0]))
    }

    /// Whether there may be something to read, by what the reactor has seen.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
