//! One type for every kind of connection, polled.
//!
//! # Promises
//! - [`Stream::poll_readable`] and [`Stream::has_news`] cost no system call: they ask what the reactor already knows.
//! - A connection that is not encrypted is no larger for the possibility.
//! - What TLS has to say by itself is said while something is read for, not only when there is something to write.
//!
//! # Refuses
//! To buffer: that is [`crate::net::Peer`]'s.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::net::connect::Tuning;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// TLS over TCP, past the handshake.
    Tls(Box<TlsStream<TcpStream>>),
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
    pub fn tune(&self, tuning: Tuning) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |stream| tune(&SockRef::from(stream), tuning))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The system's, if the connection is gone already.
    pub fn remote(&self) -> io::Result<Remote> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map(Remote::Tcp),
            Self::Tls(stream) => stream.get_ref().0.peer_addr().map(Remote::Tcp),
            Self::Unix(_) => Ok(Remote::Unix),
        }
    }

    /// The address of ours that the other end reached; `None` if that is no address.
    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// The number of the system's user at the other end of a unix socket, as the kernel knows it (`SO_PEERCRED`).
    pub fn peer_user(&self) -> Option<u32> {
        match self {
            Self::Unix(stream) => stream.peer_cred().ok().map(|credentials| credentials.uid()),
            _ => None,
        }
    }

    /// Whether what is said on it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Whether bytes that were taken are still to be sent: encrypted, and kept because the socket was full.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Unix(_) => None,
        }
    }

    /// The first byte that has come and was not read; it stays where it is. `None`: the peer has closed. Inside TLS only
    /// the latter can be seen.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if nothing has come.
    pub fn peek(&self) -> io::Result<Option<u8>> {
        let descriptor = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) if has_closed(stream.get_ref().0) => return Ok(None),
            Self::Tls(_) => return Err(io::ErrorKind::WouldBlock.into()),
            Self::Unix(stream) => stream.as_fd(),
        };
        let mut first = [0; 1];
        let (count, _) = recv(descriptor, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok((count > 0).then_some(first[0]))
    }

    /// Whether there may be something to read, by what the reactor has seen by now; nobody is woken when there is.
    pub fn has_news(&self) -> bool {
        let seen = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())),
            Self::Tls(stream) => match stream.get_ref() {
                (tcp, session) if session.wants_read() => tcp.try_io(Interest::READABLE, || Ok(())),
                _ => Ok(()),
            },
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())),
        };
        seen.is_ok()
    }

    /// Whether there may be something to read, by what the reactor has seen.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => match stream.get_ref() {
                // Otherwise something is decrypted and not yet read.
                (tcp, session) if session.wants_read() => tcp.poll_read_ready(cx),
                _ => Poll::Ready(Ok(())),
            },
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

/// Tunes a connection, or all that come of a listener.
pub(super) fn tune(socket: &SockRef<'_>, tuning: Tuning) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    match tuning.keepalive {
        Some(idle) => {
            let probe = Duration::from_secs(10);
            let probes = TcpKeepalive::new().with_time(idle).with_interval(probe).with_retries(3);
            socket.set_tcp_keepalive(&probes)?;
        }
        None => socket.set_keepalive(false)?,
    }
    socket.set_tcp_user_timeout(tuning.user_timeout)
}

/// Whether the peer will say no more, as far as the reactor has seen, whatever is still to be read.
fn has_closed(tcp: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(pin!(tcp.ready(Interest::READABLE)).poll(&mut cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => {
                let read = Pin::new(&mut **stream).poll_read(cx, buf);
                // What has come may be answered by TLS itself: that a second handshake is refused, or another key.
                if read.is_pending() && stream.get_ref().1.wants_write() {
                    let _unless_full = Pin::new(&mut **stream).poll_flush(cx)?;
                }
                read
            }
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
