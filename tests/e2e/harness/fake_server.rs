//! A server that follows a test's script instead of the protocol.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::raw::{Io, take_frame};
use super::{Frame, PATIENCE, answer, say};

/// Listens on a port of its own and gives every connection to the script. Ends when dropped.
pub struct FakeServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl FakeServer {
    /// `script` serves each connection, from its first byte; when it returns the connection is closed.
    pub async fn start<Script, Served>(script: Script) -> Self
    where
        Script: Fn(FakeClient) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        Self::start_on("127.0.0.1:0", script).await
    }

    /// The same, on another address.
    pub async fn start_on<Script, Served>(address: &str, script: Script) -> Self
    where
        Script: Fn(FakeClient) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                tokio::spawn(script(FakeClient {
                    stream: Stream::Tcp(stream),
                    inbox: BytesMut::new(),
                    number,
                    is_extended: false,
                    hears_checks: false,
                }));
            }
        });
        Self { address, connections, accepting }
    }

    /// Lets everyone in and answers every simple query with the same bytes.
    pub async fn answering(bytes: Bytes) -> Self {
        Self::start(move |mut client| {
            let bytes = bytes.clone();
            async move {
                if client.let_in().await.is_none() {
                    return;
                }
                while let Some(frame) = client.read().await {
                    match frame.tag {
                        b'Q' => client.send([bytes.clone()]).await,
                        b'S' => client.send([answer::ready(b'I')]).await,
                        b'X' => return,
                        _ => {}
                    }
                }
            }
        })
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The other end, as the script sees it. Reads give `None` once the peer is gone.
pub struct FakeClient {
    stream: Stream,
    inbox: BytesMut,
    /// How many connections came before.
    pub number: usize,
    /// Whether extended messages have come since the last Sync.
    is_extended: bool,
    hears_checks: bool,
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Gone,
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Gone => panic!("the connection was lost in a handshake"),
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Self::Gone => Ok(()),
        }
    }

    async fn read_buf(&mut self, inbox: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(inbox).await,
            Self::Tls(stream) => stream.read_buf(inbox).await,
            Self::Gone => Ok(0),
        }
    }
}

/// The untagged packet a connection begins with.
#[derive(Debug)]
pub enum Greeting {
    /// CancelRequest: the key.
    Cancel(Bytes),
    /// SSLRequest or GSSENCRequest: the code.
    Encrypt(i32),
    /// StartupMessage: its version and parameters.
    Startup(i32, BTreeMap<String, String>),
}

impl FakeClient {
    /// The next untagged packet.
    pub async fn greeting(&mut self) -> Option<Greeting> {
        while self.inbox.len() < 4 || self.inbox.len() < self.announced() {
            self.fill().await?;
        }
        let length = self.announced();
        let packet = self.inbox.split_to(length).freeze();
        let code = i32::from_be_bytes(packet[4..8].try_into().ok()?);
        Some(match code {
            80_877_102 => Greeting::Cancel(packet.slice(8..)),
            80_877_103 | 80_877_104 => Greeting::Encrypt(code),
            version => {
                let strings: Vec<_> =
                    packet[8..].split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
                let pairs = strings.chunks_exact(2).filter(|pair| !pair[0].is_empty());
                Greeting::Startup(
                    version,
                    pairs.map(|pair| (pair[0].to_string(), pair[1].to_string())).collect(),
                )
            }
        })
    }

    /// Agrees to TLS, and shakes hands; the error of the handshake.
    pub async fn encrypt(
        &mut self,
        config: &Arc<ServerConfig>,
    ) -> std::io::Result<&rustls::ServerConnection> {
        self.send([Bytes::from_static(b"S")]).await;
        self.encrypt_directly(config).await
    }

    /// Shakes hands with a client that begins with that.
    pub async fn encrypt_directly(
        &mut self,
        config: &Arc<ServerConfig>,
    ) -> std::io::Result<&rustls::ServerConnection> {
        let Stream::Tcp(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            panic!("in TLS already")
        };
        let stream = TlsAcceptor::from(config.clone()).accept(stream).await?;
        self.stream = Stream::Tls(Box::new(TlsStream::Server(stream)));
        let Stream::Tls(stream) = &self.stream else { unreachable!("just made") };
        let TlsStream::Server(stream) = &**stream else { unreachable!("just made") };
        Ok(stream.get_ref().1)
    }

    /// The connection itself, for whoever passes it on; nothing may have come that was not read.
    pub fn into_io(self) -> Box<dyn Io> {
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
        match self.stream {
            Stream::Tcp(stream) => Box::new(stream),
            Stream::Tls(stream) => stream,
            Stream::Gone => panic!("the connection was lost in a handshake"),
        }
    }

    /// Whether the peer is spoken to in TLS.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Refuses encryption, then waits for the StartupMessage; `None` if the connection was for a cancel.
    pub async fn startup(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            match self.greeting().await? {
                Greeting::Cancel(_) => return None,
                Greeting::Encrypt(_) => self.send([Bytes::from_static(b"N")]).await,
                Greeting::Startup(_, parameters) => return Some(parameters),
            }
        }
    }

    /// A login without a password, ending with [`answer::welcome`].
    pub async fn let_in(&mut self) -> Option<BTreeMap<String, String>> {
        let parameters = self.startup().await?;
        self.send([answer::welcome()]).await;
        Some(parameters)
    }

    /// From now on a Sync by itself is the script's to answer, too: with it the pooler asks a server that it doubts.
    pub fn hear_checks(&mut self) {
        self.hears_checks = true;
    }

    /// The next frame.
    pub async fn read(&mut self) -> Option<Frame> {
        loop {
            let Some(frame) = take_frame(&mut self.inbox) else {
                self.fill().await?;
                continue;
            };
            if !frame.is(b'S') {
                self.is_extended |= b"PBDECH".contains(&frame.tag);
                return Some(frame);
            }
            if std::mem::take(&mut self.is_extended) || self.hears_checks {
                return Some(frame);
            }
            self.send([answer::ready(b'I')]).await;
        }
    }

    /// The frames up to and including the first of a kind.
    pub async fn read_until(&mut self, tag: u8) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.read().await?);
            if frames.last().is_some_and(|frame| frame.is(tag)) {
                return Some(frames);
            }
        }
    }

    /// Says all of it in one write. A peer that is gone does not matter here.
    pub async fn send(&mut self, messages: impl IntoIterator<Item = Bytes>) {
        let _ = self.stream.write_all(&say::join(messages)).await;
    }

    /// Says the bytes in two segments, cut at an offset.
    pub async fn send_cut(&mut self, bytes: &[u8], at: usize) {
        for piece in [&bytes[..at], &bytes[at..]] {
            let _ = self.stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
    }

    /// Closes with RST.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream.tcp())
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("SO_LINGER");
    }

    /// Waits for any bytes, and drops them.
    pub async fn read_some(&mut self) {
        let _ = self.fill().await;
        self.inbox.clear();
    }

    /// Waits until the peer closes, whatever it says.
    pub async fn until_gone(&mut self) {
        while self.fill().await.is_some() {
            self.inbox.clear();
        }
    }

    fn announced(&self) -> usize {
        let length = self.inbox[..4].try_into().map(u32::from_be_bytes).unwrap_or_default();
        usize::try_from(length).expect("64 bits").max(8)
    }

    async fn fill(&mut self) -> Option<()> {
        let read = timeout(PATIENCE * 3, self.stream.read_buf(&mut self.inbox)).await.ok()?;
        matches!(read, Ok(1..)).then_some(())
    }
}
