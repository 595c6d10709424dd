//! One address in front of several poolers, as a Service of Kubernetes is: new connections go to those that are ready.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http::try_get;
use super::raw::dial;
use super::{PATIENCE, Pgusher, eventually};

/// How often each is asked whether it is ready, and so how long somebody may still be sent to one that is not.
const PROBE_PERIOD: Duration = Duration::from_millis(25);

/// Listens on a port of its own. Ends when dropped; connections live on.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    turned_away: AtomicUsize,
}

struct Endpoint {
    clients: SocketAddr,
    probes: SocketAddr,
    is_ready: AtomicBool,
}

impl Service {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let tasks = vec![
            tokio::spawn(accept(listener, Arc::clone(&shared))),
            tokio::spawn(probe(Arc::clone(&shared))),
        ];
        Self { address, shared, tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One more, which has metrics; waits until it gets connections.
    pub async fn add(&self, pgusher: &Pgusher) {
        let endpoint = Arc::new(Endpoint {
            clients: pgusher.address(),
            probes: pgusher.metrics(),
            is_ready: AtomicBool::new(false),
        });
        self.shared.all().push(Arc::clone(&endpoint));
        eventually("the endpoint is ready", PATIENCE, async || {
            endpoint.is_ready.load(Ordering::Relaxed).then_some(())
        })
        .await;
    }

    /// How many found nobody, or somebody who did not listen.
    pub fn turned_away(&self) -> usize {
        self.shared.turned_away.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next of those that are ready.
    fn next(&self) -> Option<SocketAddr> {
        let endpoints = self.all();
        let ready: Vec<_> = endpoints.iter().filter(|it| it.is_ready.load(Ordering::Relaxed)).collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(ready.len())?;
        Some(ready[turn].clients)
    }
}

async fn probe(shared: Arc<Shared>) {
    let mut round = tokio::time::interval(PROBE_PERIOD);
    loop {
        round.tick().await;
        let endpoints = shared.all().clone();
        for endpoint in &endpoints {
            let answer = try_get(endpoint.probes, "/readyz").await;
            endpoint.is_ready.store(answer.is_ok_and(|answer| answer.status == 200), Ordering::Relaxed);
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Some(address) = shared.next() else {
                shared.turned_away.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let Ok(mut server) = dial(address).await else {
                shared.turned_away.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let _ = client.set_nodelay(true);
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
