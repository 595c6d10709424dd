//! Clients served: from accept to farewell.
//!
//! # Promises
//! - Every client has a task of its own, and one client's trouble is nobody else's.
//! - What is shared is made once, in `app`, and passed.
//! - What follows from the configuration is one [`Edition`], replaced as a whole: a client takes the next one at a transaction
//!   boundary, which it finds out with one look at a number.
//!
//! # Refuses
//! To judge bytes: [`crate::session`] does.

mod admission;
mod auth_query;
pub mod cancel;
mod catalog;
mod checkout;
mod client;
pub mod console;
mod counts;
mod entrance;
mod farewell;
mod relay;
mod replication;
mod settings;
mod verifiers;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::Notify;

pub use auth_query::AuthQueries;
pub use catalog::{Catalog, Listing, Seat};
pub use counts::{Cancelled, Counts, Departure, Login};
pub use settings::{AuthQuerySettings, CertificateUsers, DatabaseEntry, Settings, UserEntry};
pub use verifiers::Verifiers;

use crate::auth::scram::DEFAULT_ITERATIONS;
use crate::auth::secret::Plaintext;
use crate::auth::{Method, Salts};
use crate::drain::Drain;
use crate::hashing::Hashing;
use crate::names::ClientId;
use crate::net::Stream;
use crate::net::connect::Tuning;
use crate::net::listen::Listener;
use crate::net::stream::Remote;
use crate::net::tls::Acceptor;
use crate::pool::{Places, Pools};
use crate::proxy::cancel::{Clients, Order};
use crate::proxy::console::Console;

/// What follows from the configuration, as it was read once.
pub struct Edition {
    /// The operator's decisions.
    pub settings: Settings,
    /// Which databases and users there are.
    pub catalog: Catalog,
    /// What users must know.
    pub verifiers: Arc<Verifiers>,
    /// Encrypts clients; absent where none are.
    pub tls: Option<Arc<Acceptor>>,
    /// Whether each connection is a line in the log.
    pub logs_connections: bool,
    /// How accepted connections are tuned.
    pub tuning: Tuning,
}

impl Edition {
    /// Counts the readings of the configuration.
    pub fn number(&self) -> u64 {
        self.catalog.edition()
    }
}

/// What all clients share.
pub struct Proxy {
    /// What the configuration says now.
    edition: RwLock<Arc<Edition>>,
    /// Its number, for those who only want to know whether they have it.
    number: AtomicU64,
    /// The servers.
    pub pools: Arc<Pools>,
    /// The living.
    pub clients: Arc<Clients>,
    /// Salts for those who have none stored.
    pub salts: Salts,
    /// Whether we are going away.
    pub drain: Drain,
    /// Places for clients.
    pub places: Arc<Places>,
    /// Places for those who have not been let in yet.
    strangers: Arc<Places>,
    /// What became of those who came.
    pub counts: Counts,
    /// Numbers for clients.
    next_client: AtomicU64,
    /// Who serves at the console, once there is somebody.
    console: OnceLock<Arc<dyn Console>>,
    /// That somebody has asked us to go.
    goodbye: Goodbye,
}

/// How we were asked to go, by the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// At once.
    Abrupt,
    /// As by a signal: draining first.
    Drained,
}

#[derive(Default)]
struct Goodbye {
    asked: Mutex<Option<Farewell>>,
    heard: Notify,
}

impl Proxy {
    /// Nobody here yet.
    pub fn new(edition: Edition, pools: Arc<Pools>, salts: Salts) -> Self {
        Self {
            places: Places::new(Some(edition.settings.max_clients)),
            strangers: Places::new(Some(most_strangers(edition.settings.max_clients))),
            number: AtomicU64::new(edition.number()),
            edition: RwLock::new(Arc::new(edition)),
            pools,
            clients: Arc::default(),
            salts,
            drain: Drain::default(),
            counts: Counts::default(),
            next_client: AtomicU64::new(1),
            console: OnceLock::new(),
            goodbye: Goodbye::default(),
        }
    }

    /// Who serves at the console from now on.
    pub fn open_console(&self, console: Arc<dyn Console>) {
        let _ = self.console.set(console);
    }

    /// Asks the process to go.
    pub fn ask_to_go(&self, how: Farewell) {
        *self.goodbye.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        self.goodbye.heard.notify_waiters();
    }

    /// Waits until somebody asks the process to go.
    ///
    /// Cancel safe.
    pub async fn asked_to_go(&self) -> Farewell {
        loop {
            let heard = self.goodbye.heard.notified();
            if let Some(how) = self.goodbye.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return how;
            }
            heard.await;
        }
    }

    /// What the configuration says now.
    pub fn edition(&self) -> Arc<Edition> {
        self.edition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a newer edition than this.
    pub fn has_newer_than(&self, edition: &Edition) -> bool {
        self.number.load(Ordering::Acquire) != edition.number()
    }

    /// The configuration says this from now on: to those who come, to the pools, and to everyone here at the next transaction
    /// boundary.
    pub fn publish(&self, edition: Edition) {
        self.places.resize(Some(edition.settings.max_clients));
        self.strangers.resize(Some(most_strangers(edition.settings.max_clients)));
        let number = edition.number();
        let edition = Arc::new(edition);
        *self.edition.write().unwrap_or_else(PoisonError::into_inner) = edition.clone();
        self.number.store(number, Ordering::Release);
        self.pools.set_tuning(edition.tuning);
        self.pools.reconfigure(|key| edition.catalog.recipe(key));
        self.clients.wake_all();
        self.prepare_listed();
    }

    /// Opens the minimum of every pool that can log in by itself, and has the keys of tokens fetched.
    pub fn warm(&self) {
        let edition = self.edition();
        for tokens in edition.catalog.tokens() {
            let tokens = tokens.clone();
            drop(tokio::spawn(async move { tokens.warm().await }));
        }
        for seat in edition.catalog.to_warm() {
            let pool = self.pools.pool(&seat.key, || seat.recipe);
            drop(tokio::spawn(async move { pool.warm().await }));
        }
    }

    /// Accepts for ever; each client gets a task.
    ///
    /// Cancel safe.
    pub async fn accept(self: Arc<Self>, mut listener: Listener) {
        loop {
            if let Err(error) = listener.tune(self.edition().tuning) {
                tracing::warn!(listener = listener.name(), %error, "cannot tune clients' connections");
            }
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let tuning = self.edition().tuning;
                    // There was a reload while it waited for this one.
                    if !listener.is_tuned(tuning) {
                        let _ = stream.tune(tuning);
                    }
                    self.clone().welcome(stream, remote);
                }
                Err(error) => tracing::warn!(listener = listener.name(), %error, "cannot accept a client"),
            }
        }
    }

    /// Makes the SCRAM verifiers of listed users, one after the other: or the first login of each would take longer than a
    /// stranger's, and tell that there is such a user.
    pub fn prepare_listed(&self) {
        let edition = self.edition();
        if !edition.settings.asks_for(Method::ScramSha256) {
            return;
        }
        let (salts, hashing) = (self.salts.clone(), self.pools.hashing().clone());
        drop(tokio::spawn(async move {
            for (user, plain) in edition.verifiers.plaintexts() {
                prepare(&user, &plain, &salts, &hashing).await;
            }
        }));
    }

    fn welcome(self: Arc<Self>, stream: Stream, remote: Remote) {
        let id = ClientId(self.next_client.fetch_add(1, Ordering::Relaxed));
        let drain = self.drain.clone();
        drain.track(|here| client::serve(self, stream, remote, id, here));
    }

    /// Tells every client to leave at its next transaction boundary.
    pub fn dismiss(&self) {
        self.drain.dismiss();
        self.clients.order_all(Order::Leave);
    }

    /// Tells every client to leave at once.
    pub fn expel(&self) {
        self.clients.order_all(Order::Die);
    }
}

/// How many may be on their way in where so many may be in: a connection costs a descriptor before it is known whose it is.
/// Cancel requests are among them, so there is always room for some.
fn most_strangers(max_clients: usize) -> usize {
    max_clients.max(LEAST_STRANGERS)
}

const LEAST_STRANGERS: usize = 100;

/// Makes the SCRAM verifier of a plaintext secret, once.
async fn prepare(user: &[u8], plain: &Plaintext, salts: &Salts, hashing: &Hashing) {
    if plain.is_prepared() {
        return;
    }
    if let Some(keys) = hashing.keys(plain.password(), &salts.salt_for(user), DEFAULT_ITERATIONS).await {
        plain.prepare(&keys);
    }
}
