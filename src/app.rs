//! The parts, built and put together; run until told to stop.
//!
//! # Promises
//! - Everything that is shared is made here, once.
//! - Addresses are bound before anything is served: a port in use is an error at start, not later.
//! - The first signal drains, the second ends at once.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::auth::Salts;
use crate::config::Config;
use crate::drain::Drain;
use crate::net::connect::Tuning;
use crate::net::listen::Listener;
use crate::pool::{Cap, Pools, Secrets, Shared};
use crate::proxy::cancel::Clients;
use crate::proxy::{AuthQueries, Catalog, Proxy, Verifiers};

/// Why the program could not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Listen(String, io::Error),
    /// There are no random bytes for keys and salts.
    NoRandomness,
    /// The runtime could not be made.
    Runtime(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(name, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {name}: another process does; stop it, or choose another listen.address"
                )
            }
            Self::Listen(name, error) => write!(f, "cannot listen on {name}: {error}"),
            Self::NoRandomness => f.write_str("the system has no random bytes"),
            Self::Runtime(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs until told to stop.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: &Config) -> Result<(), StartError> {
    raise_descriptors();
    runtime(config.workers)?.block_on(serve(config))
}

/// One worker is one thread: the normal case of a sidecar with one CPU.
fn runtime(workers: usize) -> Result<tokio::runtime::Runtime, StartError> {
    let mut builder = match workers {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.enable_all().max_blocking_threads(4).build().map_err(StartError::Runtime)
}

/// Every client and every server is a descriptor.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

async fn serve(config: &Config) -> Result<(), StartError> {
    let listeners = bind(config)?;
    let proxy = Arc::new(proxy(config)?);
    let (mut terminate, mut interrupt) =
        (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    drop(tokio::spawn(proxy.pools.clone().sweep()));
    for seat in proxy.catalog.to_warm() {
        let pool = proxy.pools.pool(&seat.key, || seat.recipe);
        drop(tokio::spawn(async move { pool.warm().await }));
    }
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        tracing::info!(address = listener.name(), "listening");
        doors.spawn(proxy.clone().accept(listener));
    }
    either(&mut terminate, &mut interrupt).await;
    tracing::info!(clients = proxy.clients.count(), "draining");
    proxy.drain.begin();
    drop(doors);
    proxy.dismiss();
    tokio::select! {
        () = finish(&proxy, config.proxy.drain_timeout) => tracing::info!("drained"),
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("second signal: ending at once"),
    }
    Ok(())
}

/// Waits for the last client, then has the others leave.
async fn finish(proxy: &Proxy, limit: Duration) {
    if timeout(limit, proxy.drain.emptied()).await.is_err() {
        tracing::warn!(
            clients = proxy.clients.count(),
            "drain_timeout is over: closing the remaining clients"
        );
        proxy.expel();
        let _ = timeout(Duration::from_secs(2), proxy.drain.emptied()).await;
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(StartError::Runtime)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    let (one, other): (_, _) = (one.recv(), other.recv());
    let _ = race(one, other).await;
}

async fn race(one: impl Future<Output = Option<()>>, other: impl Future<Output = Option<()>>) -> Option<()> {
    tokio::select! {
        received = one => received,
        received = other => received,
    }
}

fn bind(config: &Config) -> Result<Vec<Listener>, StartError> {
    let net = &config.net;
    let mut listeners = Vec::new();
    for address in &net.addresses {
        let listener = Listener::tcp(*address, net.backlog);
        listeners.push(listener.map_err(|error| StartError::Listen(address.to_string(), error))?);
    }
    if let (Some(directory), Some(first)) = (&net.unix_socket_dir, net.addresses.first()) {
        let listener = Listener::unix(directory, first.port(), net.unix_socket_mode);
        listeners.push(listener.map_err(|error| StartError::Listen(directory.display().to_string(), error))?);
    }
    Ok(listeners)
}

fn proxy(config: &Config) -> Result<Proxy, StartError> {
    let users = config.users.iter().filter_map(|user| Some((user.name.as_str(), user.secret.as_ref()?)));
    let pools = pools(config);
    let queries = AuthQueries::new(&config.databases, &pools);
    Ok(Proxy {
        catalog: Catalog::new(&config.databases, &config.users),
        verifiers: Verifiers::new(users, config.proxy.auth_file.clone(), queries),
        pools: Arc::new(pools),
        clients: Arc::new(Clients::default()),
        salts: Salts::random().map_err(|_| StartError::NoRandomness)?,
        drain: Drain::default(),
        logs_connections: config.log.connections,
        tuning: tuning(config),
        places: Arc::new(Semaphore::new(config.proxy.max_clients.min(Semaphore::MAX_PERMITS))),
        next_client: AtomicU64::new(1),
        settings: config.proxy.clone(),
    })
}

/// The pools of all databases, empty.
pub(crate) fn pools(config: &Config) -> Pools {
    Pools::new(Shared {
        next_server: AtomicU64::new(1),
        secrets: Secrets::default(),
        tuning: tuning(config),
        total: config.max_servers.map(|most| Arc::new(Cap::new(most))),
    })
}

fn tuning(config: &Config) -> Tuning {
    Tuning { keepalive: config.net.keepalive, user_timeout: config.net.tcp_user_timeout }
}
