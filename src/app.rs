//! The parts, built and put together; run until told to stop.
//!
//! # Promises
//! - Everything that is shared is made here, once.
//! - Addresses are bound before anything is served: a port in use is an error at start, not later.
//! - SIGHUP, and a file that changes, reload the configuration.
//! - The first signal to end drains, the second ends at once.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::admin::{self, Admin, Reload, http};
use crate::auth::Salts;
use crate::cli::Flags;
use crate::config::Config;
use crate::console::Console;
use crate::hashing::Hashing;
use crate::net::listen::Listener;
use crate::net::tls::Connectors;
use crate::pool::{Cap, Crowd, Hosts, Pools, Secrets, Shared};
use crate::proxy::{Farewell, Proxy};
use crate::reload::{Reloader, edition, tuning};
use crate::telemetry::log::Log;

/// Why the program could not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Listen(String, io::Error),
    /// The address of the metrics could not be bound.
    Metrics(SocketAddr, io::Error),
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
            Self::Metrics(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot serve metrics on {address}: another process listens there, maybe another pgusher; \
                     choose another metrics.listen (PGUSHER_METRICS_LISTEN), or \"off\""
                )
            }
            Self::Metrics(address, error) => {
                write!(f, "cannot serve metrics on {address}: {error}; metrics.listen says where")
            }
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
pub fn run(config: Config, flags: Flags, log: Log) -> Result<(), StartError> {
    raise_descriptors();
    let crowd = Arc::new(Crowd::default());
    runtime(config.workers, &crowd)?.block_on(serve(config, flags, log, crowd))
}

/// One worker is one thread: the normal case of a sidecar with one CPU.
fn runtime(workers: usize, crowd: &Arc<Crowd>) -> Result<tokio::runtime::Runtime, StartError> {
    let mut builder = match workers {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 1 {
        builder.worker_threads(workers);
    } else {
        let_gather(&mut builder, crowd.clone());
    }
    #[cfg(feature = "mutations")]
    mutate(&mut builder);
    builder.enable_all().max_blocking_threads(4).build().map_err(StartError::Runtime)
}

/// In a crowd the only worker lets news gather before it sleeps (see [`Crowd`]).
fn let_gather(builder: &mut tokio::runtime::Builder, crowd: Arc<Crowd>) {
    // The kernel puts off a sleeper's end by 50 us unless it is told not to.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000)) {
        tracing::debug!(%error, "cannot set the timer slack");
    }
    builder.on_thread_park(move || {
        if let Some(pause) = crowd.pause(Instant::now()) {
            std::thread::sleep(pause);
        }
    });
}

/// Switches off the rule that the tests want to see missed, on every thread.
#[cfg(feature = "mutations")]
fn mutate(builder: &mut tokio::runtime::Builder) {
    use crate::session::mutation::{named, switch_off};
    let mutation = std::env::var("MUTATION").ok().as_deref().and_then(named);
    switch_off(mutation);
    builder.on_thread_start(move || switch_off(mutation));
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

async fn serve(config: Config, flags: Flags, log: Log, crowd: Arc<Crowd>) -> Result<(), StartError> {
    // First of all: whoever can reach us may also signal us.
    let (mut terminate, mut interrupt) =
        (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let mut hangup = listen_for(SignalKind::hangup())?;
    // Before the addresses of clients: whoever can reach us there finds the metrics, too.
    let metrics = bind_metrics(&config)?;
    let listeners = bind(&config)?;
    let salts = Salts::random().map_err(|_| StartError::NoRandomness)?;
    let pools = pools(&config, crowd);
    let proxy = Arc::new(Proxy::new(edition(&config, &pools), Arc::new(pools), salts));
    drop(tokio::spawn(proxy.pools.clone().sweep()));
    proxy.prepare_listed();
    proxy.warm();
    let settings = config.metrics.clone();
    let reloader = Arc::new(Reloader::new(flags, config, proxy.clone(), log));
    serve_metrics(metrics, &settings, &proxy, &reloader);
    drop(tokio::spawn(reloader.clone().watch()));
    let console = Arc::new(Console::new(proxy.clone(), reloader.clone()));
    drop(tokio::spawn(console.clone().measure()));
    proxy.open_console(console);
    drop(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = reloader.reload();
        }
    }));
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        tracing::info!(address = listener.name(), "listening");
        doors.spawn(proxy.clone().accept(listener));
    }
    let how = tokio::select! {
        () = either(&mut terminate, &mut interrupt) => Farewell::Drained,
        how = proxy.asked_to_go() => how,
    };
    if how == Farewell::Abrupt {
        tracing::warn!("shut down at once, as the console says");
        return Ok(());
    }
    tokio::select! {
        () = depart(&proxy, doors) => tracing::info!("drained"),
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("second signal: ending at once"),
        () = asked_to_go_at_once(&proxy) => tracing::warn!("shut down at once, as the console says"),
    }
    Ok(())
}

async fn asked_to_go_at_once(proxy: &Proxy) {
    while proxy.asked_to_go().await != Farewell::Abrupt {}
}

/// Not ready any more; then nobody comes in any more; then everybody leaves.
async fn depart(proxy: &Proxy, doors: tokio::task::JoinSet<()>) {
    let settings = proxy.edition().settings.clone();
    tracing::info!(clients = proxy.clients.count(), grace = ?settings.drain_grace, "draining");
    proxy.drain.begin();
    tokio::time::sleep(settings.drain_grace).await;
    drop(doors);
    tracing::info!(clients = proxy.clients.count(), "clients leave at the end of their transactions");
    proxy.dismiss();
    finish(proxy, settings.drain_timeout).await;
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
    // First, so that whoever can reach us over TCP finds the socket too.
    if let (Some(directory), Some(first)) = (&net.unix_socket_dir, net.addresses.first()) {
        let listener = Listener::unix(directory, first.port(), net.unix_socket_mode);
        listeners.push(listener.map_err(|error| StartError::Listen(directory.display().to_string(), error))?);
    }
    for address in &net.addresses {
        let listener = Listener::tcp(*address, net.backlog, tuning(config));
        listeners.push(listener.map_err(|error| StartError::Listen(address.to_string(), error))?);
    }
    Ok(listeners)
}

/// Until the very end of a drain.
fn serve_metrics(
    listener: Option<TcpListener>,
    settings: &admin::Settings,
    proxy: &Arc<Proxy>,
    reloader: &Arc<Reloader>,
) {
    let Some(listener) = listener else { return };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serving metrics");
    }
    let reloader = reloader.clone();
    let last_reload = move || Reload { is_applied: reloader.last().is_applied, at: reloader.last().at };
    let admin = Arc::new(Admin::new(proxy.clone(), settings, last_reload));
    drop(tokio::spawn(http::serve(listener, admin)));
}

/// The port of metrics is bound before anything is served, too.
fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let listener = http::bind(address).map_err(|error| StartError::Metrics(address, error))?;
    Ok(Some(listener))
}

/// The pools of all databases, empty.
pub(crate) fn pools(config: &Config, crowd: Arc<Crowd>) -> Pools {
    Pools::new(Shared {
        next_server: AtomicU64::new(1),
        secrets: Secrets::default(),
        hashing: Arc::new(Hashing::new()),
        hosts: Hosts::default(),
        tuning: RwLock::new(tuning(config)),
        connectors: Connectors::default(),
        total: RwLock::new(config.max_servers.map(|most| Arc::new(Cap::new(most)))),
        crowd,
    })
}
