//! Cancel keys: minted, looked up, forwarded, never blocking a reuse.
//!
//! The registry is also where every living client can be found, to be told to leave.
//!
//! # Promises
//! - Keys are random and compared in constant time; a key is found by its number, not by searching.
//! - A request reaches the server its client holds at that moment, and that server is not lent on before it has arrived.
//! - A server whose request got lost is not lent again: it might arrive later.
//! - A client that waits for a server is cancelled where it waits.
//!
//! # Refuses
//! To tell whether a key was right: a stranger learns nothing.

use std::collections::{HashMap, hash_map};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::names::{ClientId, ClientKey, Database, PoolKey, User};
use crate::net::Peer;
use crate::net::stream::Remote;
use crate::pool::{Aim, CancelTarget, ConnectError};
use crate::wire::startup::Replication;
use crate::wire::write;

/// Longest a request may take to be delivered.
const DELIVERY: Duration = Duration::from_secs(5);

/// What a client may be told from outside, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Order {
    /// Stop waiting for a server.
    StopWaiting = 1,
    /// Leave at the next transaction boundary.
    Leave = 2,
    /// Leave at once.
    Die = 4,
}

/// What a client has of the servers.
#[derive(Debug)]
enum Holding {
    Nothing,
    Server(Arc<CancelTarget>),
    Waiting(Instant),
}

/// Who a client is, for those who look from outside.
#[derive(Debug)]
pub struct About {
    /// Who it says it is.
    pub user: User,
    /// What it asked for.
    pub database: Database,
    /// The pool of its servers; none in the console.
    pub pool: Option<PoolKey>,
    /// Where it comes from.
    pub remote: Option<SocketAddr>,
    /// Where it came in.
    pub local: Option<SocketAddr>,
    /// When.
    pub since: SystemTime,
    /// Whether what it says is encrypted.
    pub is_encrypted: bool,
    /// Its `application_name`, at startup.
    pub application_name: Box<[u8]>,
    /// What kind of session it has.
    pub replication: Replication,
}

impl About {
    /// Where it comes from, be it this machine.
    pub fn origin(&self) -> Remote {
        self.remote.map_or(Remote::Unix, Remote::Tcp)
    }
}

/// What a client is doing.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It has a server.
    Active(Arc<CancelTarget>),
    /// It needs none.
    Idle,
    /// It waits for one, so long.
    Waiting(Duration),
}

/// What a cancel request found.
#[must_use]
pub enum Found {
    /// A server to send it to.
    Aim(Aim),
    /// Nothing to cancel, or nobody.
    Nothing,
    /// A client that waits, and has been told to stop.
    Waiting,
}

/// A living client, seen from outside its task.
#[derive(Debug)]
pub struct ClientHandle {
    /// Which client.
    pub id: ClientId,
    /// Its key.
    pub key: ClientKey,
    holding: Mutex<Holding>,
    orders: AtomicU8,
    was_cancelled: AtomicBool,
    waker: OnceLock<Waker>,
    about: OnceLock<Box<About>>,
    statements: AtomicUsize,
}

impl ClientHandle {
    /// Says who it is, once.
    pub fn introduce(&self, about: About) {
        let _ = self.about.set(Box::new(about));
    }

    /// Who it is, once it has been let in.
    pub fn about(&self) -> Option<&About> {
        self.about.get().map(|about| &**about)
    }

    /// What it is doing.
    pub fn standing(&self, now: Instant) -> Standing {
        match &*self.holding.lock().unwrap_or_else(PoisonError::into_inner) {
            Holding::Nothing => Standing::Idle,
            Holding::Server(target) => Standing::Active(target.clone()),
            Holding::Waiting(since) => Standing::Waiting(now.saturating_duration_since(*since)),
        }
    }

    /// It has so many named statements.
    pub fn has_statements(&self, count: usize) {
        self.statements.store(count, Ordering::Relaxed);
    }

    /// How many named statements it had after its last turn.
    pub fn statements(&self) -> usize {
        self.statements.load(Ordering::Relaxed)
    }

    fn hold(&self, holding: Holding) {
        *self.holding.lock().unwrap_or_else(PoisonError::into_inner) = holding;
    }

    /// It waits for a server.
    pub fn waits(&self) {
        self.was_cancelled.store(false, Ordering::Relaxed);
        self.orders.fetch_and(!(Order::StopWaiting as u8), Ordering::Relaxed);
        self.hold(Holding::Waiting(Instant::now()));
    }

    /// It has a server. Whether it was told to stop waiting in the moment in which one was found.
    pub fn has(&self, target: &Arc<CancelTarget>) -> bool {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let is_late = matches!(*holding, Holding::Waiting(_)) && self.is_ordered(Order::StopWaiting);
        self.was_cancelled.store(false, Ordering::Relaxed);
        *holding = Holding::Server(target.clone());
        is_late
    }

    /// It has none.
    pub fn has_nothing(&self) {
        self.hold(Holding::Nothing);
    }

    /// Whether a request of this client has set out since it got its server.
    pub fn was_cancelled(&self) -> bool {
        self.was_cancelled.load(Ordering::Relaxed)
    }

    /// Whether it has been told so.
    pub fn is_ordered(&self, order: Order) -> bool {
        self.orders.load(Ordering::Relaxed) & order as u8 != 0
    }

    /// Whose task is to be woken by an order.
    pub fn is_served_by(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// Tells it.
    pub fn order(&self, order: Order) {
        self.orders.fetch_or(order as u8, Ordering::Relaxed);
        self.wake();
    }

    /// Has it look around.
    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// The living clients, by the number in their key.
#[derive(Default)]
pub struct Clients {
    living: Mutex<HashMap<u32, Arc<ClientHandle>>>,
    next: AtomicU32,
    secrets: Mutex<Secrets>,
}

/// Random bytes, had from the system for many keys at once.
struct Secrets {
    bytes: [u8; 256],
    /// How many have been given away; those are gone from here.
    given: usize,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { bytes: [0; 256], given: 256 }
    }
}

impl Secrets {
    /// A key with a secret that nobody had before.
    fn key(&mut self, number: u32, secret_len: usize) -> Result<ClientKey, getrandom::Error> {
        if self.bytes.len() - self.given < secret_len {
            getrandom::fill(&mut self.bytes)?;
            self.given = 0;
        }
        let secret = self.bytes.get_mut(self.given..self.given + secret_len).unwrap_or_default();
        let key = ClientKey::new(number, secret);
        secret.fill(0);
        self.given += secret_len;
        Ok(key)
    }
}

impl Clients {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<ClientHandle>>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mints a key of `secret_len` random bytes, and keeps its client until the guard is dropped.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn enter(self: &Arc<Self>, id: ClientId, secret_len: usize) -> io::Result<Entry> {
        let mut living = self.lock();
        let place = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            // Drivers take the number for a process ID: positive.
            let number = number & 0x7fff_ffff;
            if number != 0
                && let hash_map::Entry::Vacant(place) = living.entry(number)
            {
                break place;
            }
        };
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = secrets.key(*place.key(), secret_len);
        let key = key.map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        let handle = Arc::new(ClientHandle {
            id,
            key,
            holding: Mutex::new(Holding::Nothing),
            orders: AtomicU8::new(0),
            was_cancelled: AtomicBool::new(false),
            waker: OnceLock::new(),
            about: OnceLock::new(),
            statements: AtomicUsize::new(0),
        });
        place.insert(handle.clone());
        Ok(Entry { clients: self.clone(), handle })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<ClientHandle>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|handle| handle.id.0);
        all
    }

    /// Tells all of them.
    pub fn order_all(&self, order: Order) {
        for handle in self.lock().values() {
            handle.order(order);
        }
    }

    /// Has all of them look around.
    pub fn wake_all(&self) {
        for handle in self.lock().values() {
            handle.wake();
        }
    }

    /// What a request is for.
    pub fn cancel(&self, key: &ClientKey) -> Found {
        let Some(handle) = self.lock().get(&key.process_id()).cloned() else { return Found::Nothing };
        if !bool::from(handle.key.secret().ct_eq(key.secret())) {
            return Found::Nothing;
        }
        let holding = handle.holding.lock().unwrap_or_else(PoisonError::into_inner);
        match &*holding {
            Holding::Nothing => Found::Nothing,
            Holding::Server(target) => {
                handle.was_cancelled.store(true, Ordering::Relaxed);
                Found::Aim(target.aim())
            }
            Holding::Waiting(_) => {
                handle.order(Order::StopWaiting);
                Found::Waiting
            }
        }
    }
}

/// A client's place among the living.
pub struct Entry {
    clients: Arc<Clients>,
    /// The client.
    pub handle: Arc<ClientHandle>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.handle.key.process_id());
    }
}

/// Delivers a request: PostgreSQL closes the connection after it has sent the signal.
///
/// Cancel safe: a request that was said and not seen to arrive is marked on its server, which is then not lent again.
///
/// # Errors
/// The server could not be reached, or did not close in time.
pub async fn deliver(mut aim: Aim) -> Result<(), ConnectError> {
    let Some(key) = aim.target().key.clone() else { return Ok(()) };
    let delivery = async {
        let stream = aim.target().address.reach_again().await?;
        let mut peer = Peer::new(stream);
        write::cancel_request(&mut peer.buffers.outbox, key.process_id(), key.secret());
        aim.set_out();
        peer.drain().await.map_err(ConnectError::lost)?;
        while peer.fill().await.map_err(ConnectError::lost)? {
            peer.buffers.inbox.clear();
        }
        aim.arrive();
        Ok(())
    };
    timeout(DELIVERY, delivery).await.unwrap_or(Err(ConnectError::TimedOut(DELIVERY)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::names::{ServerId, ServerKey};
    use crate::pool::Address;

    fn target() -> Arc<CancelTarget> {
        let address = Address::Unix("/nowhere".into(), 1);
        Arc::new(CancelTarget::new(ServerId(1), address, Some(ServerKey::new(1, b"abcd"))))
    }

    #[test]
    fn only_the_right_secret_finds_the_server() {
        let clients = Arc::new(Clients::default());
        let entry = clients.enter(ClientId(1), 32).unwrap();
        entry.handle.has(&target());

        assert!(matches!(clients.cancel(&entry.handle.key), Found::Aim(_)));
        assert!(matches!(
            clients.cancel(&ClientKey::new(entry.handle.key.process_id(), &[0; 32])),
            Found::Nothing
        ));
        assert!(matches!(
            clients.cancel(&ClientKey::new(entry.handle.key.process_id(), &[])),
            Found::Nothing
        ));
        assert!(matches!(clients.cancel(&ClientKey::new(77, entry.handle.key.secret())), Found::Nothing));
    }

    #[test]
    fn a_server_is_aimed_at_until_the_request_has_arrived() {
        let clients = Arc::new(Clients::default());
        let entry = clients.enter(ClientId(1), 4).unwrap();
        let target = target();
        entry.handle.has(&target);

        let aim = clients.cancel(&entry.handle.key);
        assert!(target.is_aimed_at());
        drop(aim);

        assert!(!target.is_aimed_at());
    }

    #[test]
    fn a_request_that_was_said_and_not_seen_to_arrive_is_remembered() {
        let (never_said, arrived, lost) = (target(), target(), target());

        drop(never_said.aim());
        let mut aim = arrived.aim();
        aim.set_out();
        aim.arrive();
        drop(aim);
        let mut aim = lost.aim();
        aim.set_out();
        drop(aim);

        let strays = [never_said, arrived, lost].map(|target| (target.is_aimed_at(), target.has_stray()));
        assert_eq!(strays, [(false, false), (false, false), (false, true)]);
    }

    #[test]
    fn a_client_that_waits_is_told_to_stop() {
        let clients = Arc::new(Clients::default());
        let entry = clients.enter(ClientId(1), 4).unwrap();
        entry.handle.waits();

        assert!(matches!(clients.cancel(&entry.handle.key), Found::Waiting));

        assert!(entry.handle.is_ordered(Order::StopWaiting));
    }

    #[test]
    fn a_client_that_is_told_to_stop_in_the_moment_it_gets_a_server_hears_of_it_once() {
        let clients = Arc::new(Clients::default());
        let entry = clients.enter(ClientId(1), 4).unwrap();
        entry.handle.waits();
        let _ = clients.cancel(&entry.handle.key);

        assert!(entry.handle.has(&target()));
        assert!(!entry.handle.has(&target()));
        entry.handle.waits();
        assert!(!entry.handle.has(&target()));
    }

    #[test]
    fn every_client_has_a_secret_of_its_own() {
        let clients = Arc::new(Clients::default());
        let lens = [4, 32].into_iter().cycle().take(100);
        let entries: Vec<_> = lens.map(|len| (len, clients.enter(ClientId(1), len).unwrap())).collect();

        let secrets: HashSet<_> =
            entries.iter().map(|(_, entry)| entry.handle.key.secret().to_vec()).collect();
        assert!(entries.iter().all(|(len, entry)| entry.handle.key.secret().len() == *len));
        assert_eq!(secrets.len(), entries.len());
        assert!(!secrets.iter().any(|secret| secret.iter().all(|byte| *byte == 0)));
        let kept = clients.secrets.lock().unwrap();
        assert!(kept.bytes[..kept.given].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_client_that_has_left_is_not_found() {
        let clients = Arc::new(Clients::default());
        let entry = clients.enter(ClientId(1), 4).unwrap();
        let key = entry.handle.key.clone();
        entry.handle.has(&target());
        drop(entry);

        assert!(matches!(clients.cancel(&key), Found::Nothing));
        assert_eq!(clients.count(), 0);
    }
}
