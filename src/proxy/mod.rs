//! Clients served: from accept to farewell.
//!
//! # Promises
//! - Every client has a task of its own, and one client's trouble is nobody else's.
//! - What is shared is made once, in `app`, and passed.
//!
//! # Refuses
//! To judge bytes: [`crate::session`] does.

mod auth_query;
pub mod cancel;
mod catalog;
mod checkout;
mod client;
mod entrance;
mod farewell;
mod relay;
mod replication;
mod settings;
mod verifiers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

pub use auth_query::AuthQueries;
pub use catalog::Catalog;
pub use settings::{AuthQuerySettings, DatabaseEntry, Settings, UserEntry};
pub use verifiers::Verifiers;

use crate::auth::Salts;
use crate::drain::Drain;
use crate::names::ClientId;
use crate::net::Stream;
use crate::net::listen::Listener;
use crate::pool::Pools;
use crate::proxy::cancel::{Clients, Order};

/// What all clients share.
pub struct Proxy {
    /// The operator's decisions.
    pub settings: Settings,
    /// Which databases and users there are.
    pub catalog: Catalog,
    /// Their servers.
    pub pools: Arc<Pools>,
    /// What users must know.
    pub verifiers: Verifiers,
    /// The living.
    pub clients: Arc<Clients>,
    /// Salts for those who have none stored.
    pub salts: Salts,
    /// Whether we are going away.
    pub drain: Drain,
    /// Whether each connection is a line in the log.
    pub logs_connections: bool,
    /// How accepted connections are tuned.
    pub tuning: crate::net::connect::Tuning,
    /// Places for clients.
    pub places: Arc<Semaphore>,
    /// Numbers for clients.
    pub next_client: AtomicU64,
}

impl Proxy {
    /// Accepts for ever; each client gets a task.
    ///
    /// Cancel safe.
    pub async fn accept(self: Arc<Self>, mut listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(stream) => self.clone().welcome(stream),
                Err(error) => tracing::warn!(listener = listener.name(), %error, "cannot accept a client"),
            }
        }
    }

    fn welcome(self: Arc<Self>, stream: Stream) {
        if let Err(error) = stream.tune(self.tuning.keepalive, self.tuning.user_timeout) {
            tracing::debug!(%error, "cannot tune a client's connection");
        }
        let id = ClientId(self.next_client.fetch_add(1, Ordering::Relaxed));
        let drain = self.drain.clone();
        drain.track(|here| client::serve(self, stream, id, here));
    }

    /// Tells every client to leave at its next transaction boundary.
    pub fn dismiss(&self) {
        self.clients.order_all(Order::Leave);
    }

    /// Tells every client to leave at once.
    pub fn expel(&self) {
        self.clients.order_all(Order::Die);
    }
}
