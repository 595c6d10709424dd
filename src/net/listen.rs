//! Listening.
//!
//! # Promises
//! - A listener that has run out of descriptors waits and tries again; it never spins and never ends.
//! - A stale socket file is replaced; one that somebody still listens on is not.
//! - A TCP connection comes tuned: it has what its listener had when the kernel took it in, which costs no system call.
//! - Whether one more is waiting is asked before it is accepted. An accept that finds nothing is dear: the kernel makes the new
//!   socket and its file before it looks, and takes them down again (3.3 us against 0.2 us for the question).
//!
//! # Refuses
//! To serve: an accepted stream is handed over at once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UnixListener};

use crate::net::Stream;
use crate::net::connect::Tuning;
use crate::net::stream::{Remote, tune};

/// The first pause after a failed accept; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where clients come in.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    /// Whether somebody is waiting, as far as we know: the listener once more, for tokio's own forgets it only when an accept
    /// has found nothing.
    news: AsyncFd<OwnedFd>,
    pause: Duration,
    /// What connections inherit.
    tuned: Option<Tuning>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    /// With the file, removed at the end.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on an address; its connections are tuned so.
    ///
    /// # Errors
    /// The system's: the address is in use, or not ours.
    pub fn tcp(address: SocketAddr, backlog: u32, tuning: Tuning) -> io::Result<Self> {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        tune(&SockRef::from(&socket), tuning)?; // before the first can come
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let listener = TcpListener::from_std(socket.into())?;
        let news = news_of(&listener)?;
        Ok(Self { kind: Kind::Tcp(listener), news, pause: FIRST_PAUSE, tuned: Some(tuning) })
    }

    /// Listens on `.s.PGSQL.<port>` in `directory`.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::AddrInUse`] if another process listens there.
    pub fn unix(directory: &Path, port: u16, mode: u32) -> io::Result<Self> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        if path.exists() {
            if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(&path)?;
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        let news = news_of(&listener)?;
        Ok(Self { kind: Kind::Unix(listener, path), news, pause: FIRST_PAUSE, tuned: None })
    }

    /// Where it listens, for the log.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "tcp".into(), |address| address.to_string())
            }
            Kind::Unix(_, path) => path.display().to_string(),
        }
    }

    /// Has connections tuned so from now on: Linux copies the options of the listener (`inet_csk_clone_lock`). What is in the
    /// kernel's queue already keeps what it has, as what was accepted before does.
    ///
    /// # Errors
    /// The system's, for an option it refuses.
    pub fn tune(&mut self, tuning: Tuning) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(listener) if !self.is_tuned(tuning) => {
                self.tuned = Some(tuning);
                tune(&SockRef::from(listener), tuning)
            }
            Kind::Tcp(_) | Kind::Unix(..) => Ok(()),
        }
    }

    /// Whether what it accepts is tuned so.
    pub fn is_tuned(&self, tuning: Tuning) -> bool {
        self.tuned == Some(tuning)
    }

    /// The next client, and where it comes from. The text is why one could not be accepted; the pause after it has been kept.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// What the system said; the caller tells and calls again.
    pub async fn accept(&mut self) -> io::Result<(Stream, Remote)> {
        let mut news = self.news.readable().await?;
        let accepted = match &self.kind {
            Kind::Tcp(listener) => {
                listener.accept().await.map(|(stream, remote)| (Stream::Tcp(stream), Remote::Tcp(remote)))
            }
            Kind::Unix(listener, _) => {
                listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), Remote::Unix))
            }
        };
        match accepted {
            Ok(accepted) => {
                if !is_awaited(news.get_inner()) {
                    // Whoever comes now is news again.
                    news.clear_ready();
                }
                self.pause = FIRST_PAUSE;
                Ok(accepted)
            }
            // The client gave up before we came to it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(error),
            Err(error) => {
                tokio::time::sleep(self.pause).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                Err(error)
            }
        }
    }
}

/// What tells when somebody comes.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that may lie about their descriptor: this one owns it"
)]
fn news_of(listener: &impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(listener.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

/// Whether somebody waits to be accepted. If the kernel does not say, the accept will.
fn is_awaited(listener: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Unix(_, path) = &self.kind {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.1")).unwrap());

        assert!(Listener::unix(directory.path(), 1, 0o700).is_ok());
    }

    #[tokio::test]
    async fn a_connection_is_tuned_as_its_listener_is() {
        let tuning = |keepalive: Option<u64>, user_timeout: Option<u64>| Tuning {
            keepalive: keepalive.map(Duration::from_secs),
            user_timeout: user_timeout.map(Duration::from_secs),
        };
        let first = tuning(Some(76), Some(8));
        let mut listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)), 16, first).unwrap();
        let address = listener.name();
        for wanted in [first, tuning(Some(77), Some(9)), tuning(Some(78), None), tuning(None, Some(9))] {
            listener.tune(wanted).unwrap();
            let client = std::net::TcpStream::connect(&address).unwrap();

            let (stream, remote) = listener.accept().await.unwrap();

            let Stream::Tcp(stream) = stream else { unreachable!("it came by TCP") };
            let socket = SockRef::from(&stream);
            assert_eq!(remote, Remote::Tcp(client.local_addr().unwrap()));
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.keepalive().unwrap(), wanted.keepalive.is_some());
            if let Some(idle) = wanted.keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
            }
            assert_eq!(socket.tcp_user_timeout().unwrap(), wanted.user_timeout);
        }
    }

    #[tokio::test]
    async fn all_who_come_are_accepted_at_once_or_one_by_one() {
        let tuning = Tuning { keepalive: None, user_timeout: None };
        let mut listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0)), 16, tuning).unwrap();
        let address = listener.name();
        for crowd in [1, 1, 3, 1, 2] {
            let clients: Vec<_> =
                (0..crowd).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();

            let mut seen = Vec::new();
            for _ in &clients {
                seen.push(timeout(Duration::from_secs(10), listener.accept()).await.unwrap().unwrap().1);
            }

            let came: Vec<_> = clients.iter().map(|it| Remote::Tcp(it.local_addr().unwrap())).collect();
            assert_eq!(seen, came);
        }
    }

    #[tokio::test]
    async fn a_socket_that_somebody_listens_on_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let _first = Listener::unix(directory.path(), 1, 0o700).unwrap();

        let second = Listener::unix(directory.path(), 1, 0o700);

        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
