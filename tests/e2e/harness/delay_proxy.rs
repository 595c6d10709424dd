//! A network between two peers, as slow and as broken as a test wants it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::Dice;
use super::raw::dial;

/// Listens on a port of its own and forwards to one address. Ends, with its connections, when dropped.
pub struct DelayProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    upstream: SocketAddr,
    delay: AtomicU64,  // microseconds, each way
    jitter: AtomicU64, // microseconds, at most, on top of the delay
    dice: Mutex<Dice>,
    chopped: AtomicBool,
    refusing: AtomicBool,
    paused: watch::Sender<bool>,
    generation: watch::Sender<u64>, // connections end when it changes
    connections: AtomicUsize,
    round_trips: AtomicUsize,
    upward: AtomicUsize,
    downward: AtomicUsize,
}

impl DelayProxy {
    /// Between whoever connects and `upstream`, with a delay each way.
    pub async fn before(upstream: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream,
            delay: AtomicU64::new(micros(delay)),
            jitter: AtomicU64::new(0),
            dice: Mutex::new(Dice::new(Dice::seed())),
            chopped: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            paused: watch::Sender::new(false),
            generation: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            round_trips: AtomicUsize::new(0),
            upward: AtomicUsize::new(0),
            downward: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set_delay(&self, delay: Duration) {
        self.shared.delay.store(micros(delay), Ordering::Relaxed);
    }

    /// From now on each segment takes up to so much longer, by chance; their order is kept.
    pub fn set_jitter(&self, most: Duration) {
        self.shared.jitter.store(micros(most), Ordering::Relaxed);
    }

    /// From now on every byte travels in a segment of its own.
    pub fn chop(&self, chopped: bool) {
        self.shared.chopped.store(chopped, Ordering::Relaxed);
    }

    /// From now on nothing is delivered, in either direction; it waits.
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
    }

    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// Breaks every connection there is (RST where bytes are under way).
    pub fn cut(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    /// From now on new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::Relaxed);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How often the client spoke after the server had, over all connections: round trips a login or query costs.
    pub fn round_trips(&self) -> usize {
        self.shared.round_trips.load(Ordering::Relaxed)
    }

    /// Bytes from clients.
    pub fn upward(&self) -> usize {
        self.shared.upward.load(Ordering::Relaxed)
    }

    /// Bytes from the server.
    pub fn downward(&self) -> usize {
        self.shared.downward.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn delay(&self) -> Duration {
        let delay = self.delay.load(Ordering::Relaxed);
        let jitter = match self.jitter.load(Ordering::Relaxed) {
            0 => 0,
            most => self.dice.lock().expect("dice nobody dropped").roll() % most,
        };
        Duration::from_micros(delay + jitter)
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        if !shared.refusing.load(Ordering::Relaxed) {
            tokio::spawn(serve(client, Arc::clone(&shared)));
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    let Ok(server) = dial(shared.upstream).await else { return };
    let _ = client.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let last = Arc::new(AtomicU8::new(DOWN));
    let both = async {
        tokio::join!(
            forward(client_read, server_write, UP, Arc::clone(&last), &shared),
            forward(server_read, client_write, DOWN, last, &shared),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = generation.changed() => {}
    }
}

const UP: u8 = 0;
const DOWN: u8 = 1;

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: u8,
    last: Arc<AtomicU8>,
    shared: &Shared,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Bytes)>();
    let reading = async move {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        while let Ok(1..) = from.read_buf(&mut buffer).await {
            let before = last.swap(way, Ordering::Relaxed);
            if way == UP && before == DOWN {
                shared.round_trips.fetch_add(1, Ordering::Relaxed);
            }
            let counter = if way == UP { &shared.upward } else { &shared.downward };
            counter.fetch_add(buffer.len(), Ordering::Relaxed);
            let due = Instant::now() + shared.delay();
            if sender.send((due, buffer.split().freeze())).is_err() {
                return;
            }
            buffer.reserve(64 << 10);
        }
    };
    let writing = async move {
        let mut paused = shared.paused.subscribe();
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            let piece = if shared.chopped.load(Ordering::Relaxed) { 1 } else { bytes.len() };
            for piece in bytes.chunks(piece) {
                if to.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

fn micros(delay: Duration) -> u64 {
    u64::try_from(delay.as_micros()).expect("a short delay")
}
