//! A client that says exactly the bytes it is told to, and keeps every frame it hears.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pgusher::net::tls::Certificate;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::tls::Tls;
use super::{Frame, PATIENCE, notation, say, secrets};

/// Where a server or pooler listens.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Where to log in, and as whom.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: Address,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Further startup parameters, in order.
    pub parameters: Vec<(String, String)>,
    /// 3.0 unless said otherwise.
    pub protocol: i32,
    /// Whether in TLS.
    pub tls: Option<Tls>,
}

impl Target {
    /// The role's password is its name, as in every cluster of the harness.
    pub fn new(address: Address, user: &str, database: &str) -> Self {
        Self {
            address,
            user: user.into(),
            password: user.into(),
            database: database.into(),
            parameters: Vec::new(),
            protocol: 3 << 16,
            tls: None,
        }
    }

    /// In TLS.
    pub fn in_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    pub fn user(mut self, user: &str, password: &str) -> Self {
        (self.user, self.password) = (user.into(), password.into());
        self
    }

    pub fn database(mut self, database: &str) -> Self {
        self.database = database.into();
        self
    }

    /// A further startup parameter.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    pub fn protocol(mut self, major: i32, minor: i32) -> Self {
        self.protocol = major << 16 | minor;
        self
    }

    /// The StartupMessage that asks for this.
    pub fn startup(&self) -> Bytes {
        let mut parameters = vec![("user", self.user.as_str()), ("database", self.database.as_str())];
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        say::startup_of(self.protocol, &parameters)
    }

    /// As drivers take it.
    pub fn url(&self) -> String {
        let Self { user, password, database, .. } = self;
        match &self.address {
            Address::Tcp(address) => {
                format!("postgres://{user}:{password}@{address}/{database}?sslmode=disable")
            }
            Address::Unix(socket) => {
                let (directory, port) = split_socket(socket);
                format!("host={directory} port={port} user={user} password={password} dbname={database}")
            }
        }
    }
}

/// The directory and port of a socket's path, `/dir/.s.PGSQL.5432`.
pub fn split_socket(socket: &Path) -> (String, String) {
    let directory = socket.parent().expect("a directory").display().to_string();
    (directory, socket.extension().expect("a port").to_string_lossy().into_owned())
}

/// Any other byte stream: TLS, a duplex pair.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    Other(Box<dyn Io>),
}

/// One connection.
pub struct Raw {
    stream: Stream,
    inbox: BytesMut,
    address: Option<Address>,
    tls: Option<Tls>,
    /// Every frame heard, the login included.
    pub heard: Vec<Frame>,
    /// The last value of each ParameterStatus.
    pub parameters: BTreeMap<String, String>,
    /// The body of BackendKeyData: what a cancel request repeats.
    pub key: Option<Bytes>,
}

impl Raw {
    /// Connects and says nothing.
    pub async fn connect(address: &Address) -> Self {
        let stream = match address {
            Address::Tcp(socket) => {
                Stream::Tcp(dial(*socket).await.unwrap_or_else(|e| panic!("{socket}: {e}")))
            }
            Address::Unix(path) => Stream::Unix(
                UnixStream::connect(path).await.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            ),
        };
        Self { address: Some(address.clone()), ..Self::of(stream) }
    }

    /// Speaks over a stream that exists already.
    pub fn over(stream: impl Io + 'static) -> Self {
        Self::of(Stream::Other(Box::new(stream)))
    }

    fn of(stream: Stream) -> Self {
        Self {
            stream,
            inbox: BytesMut::new(),
            address: None,
            tls: None,
            heard: Vec::new(),
            parameters: BTreeMap::new(),
            key: None,
        }
    }

    /// Connects, and encrypts if the target says so; the error of the handshake.
    pub async fn reach(target: &Target) -> io::Result<Self> {
        let mut raw = Self::connect(&target.address).await;
        let Some(tls) = &target.tls else { return Ok(raw) };
        if !tls.is_direct {
            raw.send([say::ssl_request()]).await;
            let answer = raw.read_byte().await;
            if answer != Some(b'S') {
                return Err(io::Error::other(format!("{answer:?} in answer to SSLRequest")));
            }
        }
        raw.encrypt(tls).await
    }

    /// Shakes hands now.
    pub async fn encrypt(self, tls: &Tls) -> io::Result<Self> {
        let Stream::Tcp(stream) = self.stream else { panic!("TLS is over TCP") };
        assert!(self.inbox.is_empty(), "said before the handshake: {:?}", self.inbox);
        let stream = timeout(PATIENCE, tls.connect(stream)).await.expect("a handshake in time")?;
        let secured = Self::of(Stream::Tls(Box::new(stream)));
        Ok(Self { address: self.address, tls: Some(tls.clone()), ..secured })
    }

    /// What the handshake came to.
    pub fn session(&self) -> &rustls::CommonState {
        let Stream::Tls(stream) = &self.stream else { panic!("not in TLS") };
        stream.get_ref().1
    }

    /// Logs in and fails the test if it is not let in.
    pub async fn login(target: &Target) -> Self {
        let mut raw = Self::reach(target).await.unwrap_or_else(|error| panic!("{target:?}: {error}"));
        if let Err(refusal) = raw.try_login(target).await {
            panic!("{target:?}: {refusal:?}");
        }
        raw
    }

    /// Logs in; the ErrorResponse if refused.
    pub async fn try_login(&mut self, target: &Target) -> Result<(), Frame> {
        self.send([target.startup()]).await;
        self.authenticate(&target.user, &target.password).await?;
        match self.read_until_ready().await.into_iter().find(|frame| frame.is(b'E')) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Answers whatever is asked after the startup message, up to AuthenticationOk.
    pub async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Frame> {
        secrets::note(password);
        let mut scram: Option<ScramSha256> = None;
        loop {
            let frame = self.read().await;
            match frame.tag {
                b'E' => return Err(frame),
                b'R' => {}
                b'N' | b'v' => continue,
                _ => panic!("{frame:?} before AuthenticationOk"),
            }
            match frame.int(0) {
                0 => return Ok(()),
                3 => self.send([say::password(password)]).await,
                5 => {
                    let salt = frame.body[4..8].try_into().unwrap();
                    self.send([say::password(&md5_hash(user.as_bytes(), password.as_bytes(), salt))]).await;
                }
                10 => {
                    let (mechanism, binding) = self.binding(&frame.body[4..]);
                    let started = ScramSha256::new(password.as_bytes(), binding);
                    self.send([say::sasl_initial_response(mechanism, started.message())]).await;
                    scram = Some(started);
                }
                11 => {
                    let scram = scram.as_mut().expect("SASL to have begun");
                    scram.update(&frame.body[4..]).expect("a server that follows SCRAM");
                    self.send([say::sasl_response(scram.message())]).await;
                }
                12 => scram
                    .as_mut()
                    .expect("SASL to have begun")
                    .finish(&frame.body[4..])
                    .expect("a server that knows the password"),
                method => panic!("the server asks for authentication {method}"),
            }
        }
    }

    /// What SCRAM is to be bound to, if it is offered.
    fn binding(&self, offered: &[u8]) -> (&'static str, ChannelBinding) {
        let offers_plus = offered.split(|byte| *byte == 0).any(|name| name == b"SCRAM-SHA-256-PLUS");
        let Stream::Tls(stream) = &self.stream else {
            return ("SCRAM-SHA-256", ChannelBinding::unsupported());
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let end_point = shown.and_then(Certificate::read).and_then(|certificate| certificate.end_point());
        match end_point {
            Some(hash) if offers_plus => {
                ("SCRAM-SHA-256-PLUS", ChannelBinding::tls_server_end_point(hash.to_vec()))
            }
            Some(_) => ("SCRAM-SHA-256", ChannelBinding::unrequested()),
            None => ("SCRAM-SHA-256", ChannelBinding::unsupported()),
        }
    }

    /// Says all of it in one write.
    pub async fn send(&mut self, messages: impl IntoIterator<Item = Bytes>) {
        let bytes = say::join(messages);
        self.try_send(&bytes).await.unwrap_or_else(|error| panic!("sending {} bytes: {error}", bytes.len()));
    }

    /// Says bytes, where being refused is of interest.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = async {
            match &mut self.stream {
                Stream::Tcp(stream) => stream.write_all(bytes).await,
                Stream::Tls(stream) => match stream.write_all(bytes).await {
                    Ok(()) => stream.flush().await,
                    error => error,
                },
                Stream::Unix(stream) => stream.write_all(bytes).await,
                Stream::Other(stream) => stream.write_all(bytes).await,
            }
        };
        timeout(PATIENCE, sent).await.unwrap_or_else(|_| panic!("nobody reads our {} bytes", bytes.len()))
    }

    /// Says each byte in a segment of its own.
    pub async fn send_in_bytes(&mut self, messages: impl IntoIterator<Item = Bytes>) {
        for byte in say::join(messages) {
            self.try_send(&[byte]).await.expect("a peer that listens");
            tokio::task::yield_now().await;
        }
    }

    /// The next frame; `None` when the peer has closed, orderly or not.
    pub async fn try_read(&mut self) -> Option<Frame> {
        self.try_read_within(PATIENCE).await.unwrap_or_else(|| {
            panic!("no answer within {PATIENCE:?}; heard so far: {}", notation(&self.heard))
        })
    }

    /// As [`try_read`](Self::try_read); the outer `None` when nothing came in time.
    pub async fn try_read_within(&mut self, patience: Duration) -> Option<Option<Frame>> {
        let frame = timeout(patience, self.next_frame()).await.ok()?;
        if let Some(frame) = &frame {
            self.note(frame);
        }
        Some(frame)
    }

    /// The next frame, which must come.
    pub async fn read(&mut self) -> Frame {
        match self.try_read().await {
            Some(frame) => frame,
            None => panic!("closed by the peer; heard so far: {}", notation(&self.heard)),
        }
    }

    /// The frames up to and including ReadyForQuery, or up to the peer's close.
    pub async fn read_until_ready(&mut self) -> Vec<Frame> {
        self.read_until(b'Z').await
    }

    /// The frames up to and including the first of a kind, or up to the peer's close.
    pub async fn read_until(&mut self, tag: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.try_read().await {
            let last = frame.is(tag);
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }

    /// The frames up to the `count`th ReadyForQuery.
    pub async fn read_until_ready_times(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        for _ in 0..count {
            frames.extend(self.read_until_ready().await);
        }
        frames
    }

    /// A simple query and its whole answer.
    pub async fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.send([say::query(sql)]).await;
        self.read_until_ready().await
    }

    /// Says it all at once, in one write, and hears the answer up to ReadyForQuery, in notation.
    pub async fn ask(&mut self, messages: impl IntoIterator<Item = Bytes>) -> String {
        self.send(messages).await;
        notation(&self.read_until_ready().await)
    }

    /// The rows of a simple query that must succeed.
    pub async fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer = self.query(sql).await;
        if let Some(error) = answer.iter().find(|frame| frame.is(b'E')) {
            panic!("{sql}: {error:?}");
        }
        assert!(answer.last().is_some_and(|frame| frame.is(b'Z')), "{sql}: {}", notation(&answer));
        answer.iter().filter(|frame| frame.is(b'D')).map(Frame::row).collect()
    }

    /// The first value of a simple query that must succeed; NULL is the empty string.
    pub async fn value(&mut self, sql: &str) -> String {
        let first = self.rows(sql).await.into_iter().flatten().next();
        first.unwrap_or_else(|| panic!("{sql}: no row")).unwrap_or_default()
    }

    /// The process that serves the next statement.
    pub async fn server_pid(&mut self) -> String {
        self.value("select pg_backend_pid()").await
    }

    /// Forgets what was heard: comparisons begin here.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// Fails if anything at all is said for a while. It costs that while: only for what cannot be asked for.
    pub async fn expect_silence(&mut self, while_: Duration) {
        if let Some(said) = self.try_read_within(while_).await {
            panic!("{said:?} where nothing was expected");
        }
    }

    /// Fails unless the peer closes; what it says before is returned.
    pub async fn expect_close(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.try_read().await {
            frames.push(frame);
        }
        frames
    }

    /// Asks for the running query to be cancelled, on a connection of its own, and waits until that is closed.
    pub fn cancel(&self) -> impl Future<Output = ()> + Send + use<> {
        let key = self.key.clone().expect("a peer that gave a key");
        let address = self.address.clone().expect("an address to cancel at");
        let tls = self.tls.clone();
        async move {
            let target = Target { tls, ..Target::new(address, "", "") };
            let mut raw = Self::reach(&target).await.expect("a way to cancel");
            raw.send([say::cancel(&key)]).await;
            // Nothing is said, and the end is one in order: libpq takes any other for a failure.
            assert!(matches!(raw.fill().await, Ok(0)), "closed without a word, in TLS too");
        }
    }

    /// Reads raw bytes, for what is not in frames: the answer to SSLRequest.
    pub async fn read_byte(&mut self) -> Option<u8> {
        while self.inbox.is_empty() {
            let read = timeout(PATIENCE, self.fill()).await.expect("an answer in time");
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
        Some(self.inbox.get_u8())
    }

    /// Terminate, as drivers say goodbye, then FIN.
    pub async fn terminate(mut self) {
        let _ = self.try_send(&say::terminate()).await;
        self.close().await;
    }

    /// Closes with FIN, without a word.
    pub async fn close(mut self) {
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
            Stream::Unix(stream) => stream.shutdown().await,
            Stream::Other(stream) => stream.shutdown().await,
        };
    }

    /// Ends our direction only: the peer reads EOF, we can still hear.
    pub async fn close_write(&mut self) {
        let Stream::Tcp(stream) = &mut self.stream else { panic!("half closing needs TCP") };
        stream.shutdown().await.expect("a connection to half close");
    }

    /// Closes with RST, as a client whose machine or process died.
    pub fn reset(self) {
        socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// The TCP stream, for socket options.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Other(_) | Stream::Unix(_) => panic!("not TCP"),
        }
    }

    /// Cancel safe: bytes wait in the inbox until a frame is whole.
    async fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.inbox) {
                return Some(frame);
            }
            if !matches!(self.fill().await, Ok(1..)) {
                assert!(self.inbox.is_empty(), "closed inside a frame: {:?}", self.inbox);
                return None;
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.inbox.reserve(16 << 10);
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read_buf(&mut self.inbox).await,
            Stream::Tls(stream) => stream.read_buf(&mut self.inbox).await,
            Stream::Unix(stream) => stream.read_buf(&mut self.inbox).await,
            Stream::Other(stream) => stream.read_buf(&mut self.inbox).await,
        }
    }

    fn note(&mut self, frame: &Frame) {
        match frame.tag {
            b'S' => {
                let mut strings = frame.strings().into_iter();
                let (name, value) = (strings.next().unwrap_or_default(), strings.next().unwrap_or_default());
                self.parameters.insert(name, value);
            }
            b'K' => self.key = Some(frame.body.clone()),
            _ => {}
        }
        self.heard.push(frame.clone());
    }
}

/// A CancelRequest with any key; returns when the peer has closed, which PostgreSQL does once it is delivered.
pub async fn cancel(address: &Address, key: &[u8]) {
    let mut raw = Raw::connect(address).await;
    raw.send([say::cancel(key)]).await;
    raw.expect_close().await;
}

/// Takes one frame off the front, if it is whole.
pub fn take_frame(inbox: &mut BytesMut) -> Option<Frame> {
    let length = u32::from_be_bytes(inbox.get(1..5)?.try_into().ok()?);
    let whole = 1 + usize::try_from(length).expect("64 bits");
    assert!(whole >= 5, "a frame of length {length}: {inbox:?}");
    if inbox.len() < whole {
        return None;
    }
    let mut bytes = inbox.split_to(whole).freeze();
    let tag = bytes.get_u8();
    bytes.advance(4);
    Some(Frame { tag, body: bytes })
}

pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
