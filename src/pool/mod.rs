//! Servers kept and lent: one pool for each database and user.
//!
//! deadpool counts them, bounds their number and has them made; the idle ones are on a shelf, which chooses. Here is what
//! PostgreSQL adds: a reserve, a minimum, retries while a server is down, and reasons not to lend one again.
//!
//! # Promises
//! - Waiters are served in the order in which they came.
//! - A pool never has more servers than `size` and `reserve` together.
//! - A client that stops waiting leaves nothing behind.
//! - A client gets the server it had last, if that is idle when its turn comes.
//! - A client for whom a server is being opened takes one that is given back meanwhile; the other is opened all the same.
//!
//! # Refuses
//! To know clients: who waits, and for whose sake, is [`crate::proxy`]'s.

mod asker;
mod cap;
mod command;
mod connect_query;
mod crowd;
mod dial;
mod error;
mod flow;
mod granted;
mod greeting;
mod hosts;
mod lease;
mod life;
mod manager;
mod places;
mod pressure;
mod recipe;
mod secrets;
mod server;
mod settings;
mod shelf;
mod statements;
mod stats;
mod steering;
mod sweep;
mod target;

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use deadpool::managed::{Object, PoolConfig, PoolError, Timeouts};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until};

pub use asker::{AskError, Asker};
pub use cap::Cap;
pub use command::CommandError;
pub use crowd::Crowd;
pub use dial::Address;
pub use error::{CheckoutError, ConnectError};
pub use flow::Flow;
pub use greeting::Greeting;
pub use hosts::Hosts;
pub use lease::Lease;
pub use life::{Doing, Glimpse, Life};
pub use manager::Shared;
pub use places::{Place, Places};
pub use pressure::{Closing, Connected, Injected, Outcome, Pressure, Rejection};
pub use recipe::Recipe;
pub use secrets::{PasswordError, Secrets};
pub use server::{Aim, CancelTarget, Server, Vitality};
pub use settings::{Host, PasswordCommand, PasswordSource, Settings, Upstream};
pub use shelf::Shelf;
pub use statements::Statements;
pub use stats::{Stats, Tally};
pub use target::TargetSessionAttrs;

use crate::hashing::Hashing;
use crate::names::{ClientId, PoolKey};
use crate::net::connect::Tuning;
use crate::net::tls::Connectors;
use crate::pool::granted::Granted;
use crate::pool::manager::{Maker, Manager};
use crate::pool::pressure::Waiting;
use crate::pool::recipe::Change;
use crate::pool::steering::Steering;
use crate::session::{Parameters, Values};

/// Without waiting for one.
const AT_ONCE: Timeouts = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };

type Got = Result<Granted, PoolError<ConnectError>>;

/// A server being had; it may be let go on in a task of its own.
type Getting = Pin<Box<dyn Future<Output = Got> + Send>>;

/// Most sets of startup settings remembered as accepted, in one pool.
const MOST_ACCEPTED: usize = 1_000;

/// How often a pool says who has its servers.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Most servers that are said of it.
const MOST_HOLDERS: usize = 20;

/// Servers, idle or lent, and how many there may be. deadpool's own bound only grows: the places are what bounds.
#[derive(Clone)]
struct Kept {
    servers: deadpool::managed::Pool<Maker>,
    places: Arc<Places>,
}

impl Kept {
    fn new(maker: Maker, size: usize) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "deadpool refuses only timeouts without a runtime, and there are none"
        )]
        let servers = deadpool::managed::Pool::builder(maker)
            .config(PoolConfig::new(size))
            .build()
            .expect("a pool without timeouts can be built");
        Self { servers, places: Places::new(Some(size)) }
    }

    /// A server, in the order of asking.
    async fn get(&self, client: Option<ClientId>) -> Got {
        let place = self.places.take().await.ok_or(PoolError::Closed)?;
        self.fill(place, client).await
    }

    /// A server for who has a place, opened if none is idle.
    async fn fill(&self, mut place: Place, client: Option<ClientId>) -> Got {
        loop {
            match self.redeem(self.servers.get().await?, place, client) {
                Ok(granted) => return Ok(granted),
                Err(back) => place = back,
            }
        }
    }

    /// One that is idle; else the place for one that would have to be opened, if there is a place.
    fn get_now(&self, client: Option<ClientId>) -> Result<Granted, Option<Place>> {
        self.fill_now(self.places.take_now().ok_or(None)?, client).map_err(Some)
    }

    /// One that is idle, for who has a place; it neither waits nor opens anything (see [`Maker`]).
    fn fill_now(&self, mut place: Place, client: Option<ClientId>) -> Result<Granted, Place> {
        loop {
            let get = pin!(self.servers.timeout_get(&AT_ONCE));
            match get.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(ticket)) => match self.redeem(ticket, place, client) {
                    Ok(granted) => return Ok(granted),
                    Err(back) => place = back,
                },
                Poll::Ready(Err(_)) | Poll::Pending => return Err(place),
            }
        }
    }

    /// The server for a ticket; if the one of the shelf is good no more, it is closed, and the ticket worth nothing.
    fn redeem(
        &self,
        mut ticket: Object<Maker>,
        place: Place,
        client: Option<ClientId>,
    ) -> Result<Granted, Place> {
        if let Some(server) = ticket.0.take() {
            return Ok(Granted::new(server, ticket, place));
        }
        let maker = self.servers.manager();
        match maker.unshelve(client) {
            Ok(server) => Ok(Granted::new(server, ticket, place)),
            Err(unfit) => {
                drop(Object::take(ticket));
                if let Some((server, reason)) = unfit {
                    maker.pressure.closes.count(reason);
                    server.close();
                }
                Err(place)
            }
        }
    }

    /// A ticket, and a server on the shelf for it, opened if none is idle.
    async fn stock(&self) -> Result<Object<Maker>, PoolError<ConnectError>> {
        let mut ticket = self.servers.get().await?;
        ticket.0.take().into_iter().for_each(|server| self.servers.manager().shelve(server));
        Ok(ticket)
    }

    /// So many servers from now on. Idle ones beyond it are closed, lent ones when they are given back.
    fn resize(&self, size: usize) {
        if size > self.servers.status().max_size {
            self.servers.resize(size);
        }
        self.places.resize(Some(size));
        let mut surplus = self.servers.status().size.saturating_sub(size);
        self.close_idle(|_| {
            let is_kept = surplus == 0;
            surplus = surplus.saturating_sub(1);
            (!is_kept).then_some(Closing::Surplus)
        });
    }

    fn shelf(&self) -> &Shelf<Box<Server>> {
        self.servers.manager().shelf()
    }

    /// Closes the idle servers that are not to be kept.
    fn close_idle(&self, mut fault: impl FnMut(&Server) -> Option<Closing>) {
        let maker = self.servers.manager();
        let mut is_to_go = |server: &Server| {
            let fault = fault(server);
            fault.into_iter().for_each(|reason| maker.pressure.closes.count(reason));
            fault.is_some()
        };
        // Each goes with a ticket: for those whose ticket is on its way nobody is asked.
        let (mut round, mut closing) = (self.shelf().round(), Vec::new());
        self.servers.retain(|_, _| {
            let server = round.next(|server| is_to_go(server));
            let is_kept = server.is_none();
            closing.extend(server);
            is_kept
        });
        drop(round);
        closing.into_iter().for_each(|server| server.close());
    }

    /// How many servers there are, and of these idle ones.
    fn count(&self) -> (usize, usize) {
        let status = self.servers.status();
        (status.size, status.available)
    }
}

/// The servers of one database and user.
pub struct Pool {
    manager: Arc<Manager>,
    kept: Kept,
    reserve: Kept,
    stats: Stats,
    statements: Arc<Statements>,
    /// Clients that may ask for a server.
    clients: AtomicUsize,
    /// Connections that failed, one after the other.
    failures: AtomicU32,
    freed: Notify,
    /// Whether servers for the minimum are being opened.
    warming: AtomicBool,
    /// Whether configuration knows it no more.
    is_retired: AtomicBool,
    /// When it was last said who has the servers.
    complained: Mutex<Option<Instant>>,
    /// What follows from startup settings that a server of this pool has accepted.
    accepted: Mutex<HashMap<Values, Arc<Greeting>>>,
    /// When it was last of use to anyone.
    last_used: Mutex<Instant>,
}

impl Pool {
    /// An empty pool.
    fn new(manager: Arc<Manager>) -> Self {
        let settings = manager.recipe().settings.clone();
        Self {
            kept: Kept::new(Maker::new(manager.clone()), settings.size.max(1)),
            reserve: Kept::new(Maker::new(manager.clone()), settings.reserve),
            manager,
            stats: Stats::default(),
            statements: Arc::default(),
            clients: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            freed: Notify::new(),
            warming: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            complained: Mutex::default(),
            accepted: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// Whose servers.
    pub fn key(&self) -> &PoolKey {
        &self.manager().key
    }

    /// Its limits, as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.recipe().settings.clone()
    }

    /// What it is made of, as configuration says now.
    pub fn recipe(&self) -> Arc<Recipe> {
        self.manager.recipe()
    }

    /// What its clients have done.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Is made of this from now on. What is not about servers leaves them alone; else they are closed, the lent ones when they
    /// are given back.
    pub fn reconfigure(self: &Arc<Self>, recipe: Recipe) {
        let was_retired = self.is_retired.swap(false, Ordering::Relaxed);
        let settings = recipe.settings.clone();
        let change = self.recipe().change_to(&recipe);
        if change == Change::None && !was_retired {
            return;
        }
        recipe.caps.iter().for_each(|cap| cap.add(self));
        self.manager.adopt(recipe);
        self.kept.resize(settings.size.max(1));
        self.reserve.resize(settings.reserve);
        if change == Change::Servers || was_retired {
            self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.manager.forget_baseline();
            self.renew();
        }
        tracing::info!(pool = %self.key(), ?change, "pool reconfigured");
    }

    /// Configuration knows it no more: what is lent may finish, nothing is kept.
    fn retire(&self) {
        if !self.is_retired.swap(true, Ordering::Relaxed) {
            self.renew();
            tracing::info!(pool = %self.key(), "pool removed from the configuration");
        }
    }

    /// Other servers than those there are: idle ones are closed now, lent ones when they are given back.
    pub fn renew(&self) {
        self.manager.renew();
        self.kept.close_idle(|_| Some(Closing::Reconnect));
        self.reserve.close_idle(|_| Some(Closing::Reconnect));
        self.on_freed();
    }

    /// What its servers report after login, once one has.
    pub fn baseline(&self) -> Option<Parameters> {
        self.manager().baseline()
    }

    /// Remembers what a client proved itself with, for servers that take the same.
    pub fn learn(&self, credential: crate::auth::Credential) {
        if self.manager().borrows_credentials() {
            self.manager().learn(credential);
        }
    }

    /// The text of its clients' prepared statements.
    pub fn statements(&self) -> Arc<Statements> {
        self.statements.clone()
    }

    /// Clients waiting now.
    pub fn waiting(&self) -> usize {
        self.pressure().waiting.now()
    }

    /// How hard it is pressed.
    pub fn pressure(&self) -> &Pressure {
        &self.manager.pressure
    }

    /// Clients that may ask for a server.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Connections being opened.
    pub fn connecting(&self) -> usize {
        self.manager().connecting.load(Ordering::Relaxed)
    }

    /// Most servers there may be: with the reserve, and under every cap.
    pub fn max_size(&self) -> usize {
        let recipe = self.recipe();
        let own = recipe.settings.size + recipe.settings.reserve;
        recipe.caps.iter().filter_map(|cap| cap.most()).fold(own, usize::min)
    }

    /// Looks whether those who wait do so because every server is busy. Who begins to wait and who has waited look; the
    /// sweep does, for what changes between.
    fn note_exhaustion(&self, settings: &Settings, now: Instant) {
        let is_busy = self.pressure().lent.now() >= settings.size || self.manager().waits_for_cap();
        self.pressure().note(is_busy, now);
    }

    /// Servers there are, and of these idle ones.
    pub fn servers(&self) -> (usize, usize) {
        let ((size, idle), (more, more_idle)) = (self.kept.count(), self.reserve.count());
        (size + more, idle + more_idle)
    }

    /// How a client with these startup settings is greeted, if a server has accepted their like before.
    pub fn greeting(&self, values: &Values) -> Option<Arc<Greeting>> {
        let baseline = self.baseline()?;
        let mut known = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let greeting = known.get_mut(values)?;
        if !greeting.is_of(&baseline) {
            *greeting = Arc::new(Greeting::new(greeting.values.clone(), baseline));
        }
        Some(greeting.clone())
    }

    /// A server has accepted these startup settings, and made of them what is said.
    pub fn accept(&self, values: Values, accepted: Values) {
        let greeting = Greeting::new(accepted, self.baseline().unwrap_or_default());
        let mut known = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_ACCEPTED {
            known.clear();
        }
        known.insert(values, Arc::new(greeting));
    }

    /// A client may ask for servers, until the guard is dropped.
    pub fn join(self: &Arc<Self>) -> Member {
        self.clients.fetch_add(1, Ordering::Relaxed);
        Member(self.clone())
    }

    /// A server, at once if one is idle: the one this client had last, if that is.
    ///
    /// Cancel safe: a place in the queue, or a connection being opened, is given up.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn checkout(self: &Arc<Self>, client: Option<ClientId>) -> Result<Lease, CheckoutError> {
        match self.checkout_now(client) {
            Ok(lease) => Ok(lease),
            Err(waiting) => waiting.await,
        }
    }

    /// The same; what is waited for is boxed, for that is rare, and what waits is in the task of every client.
    ///
    /// # Errors
    /// Whoever waits for one.
    pub fn checkout_now(
        self: &Arc<Self>,
        client: Option<ClientId>,
    ) -> Result<Lease, Pin<Box<impl Future<Output = Result<Lease, CheckoutError>> + Send>>> {
        match self.kept.get_now(client) {
            Ok(granted) => {
                self.pressure().wait.of(Outcome::Served).observe(Duration::ZERO);
                Ok(Lease::new(granted, self.clone(), client))
            }
            Err(place) => Err(Box::pin(self.wait(place, client))),
        }
    }

    /// A client is gone: no server awaits it.
    pub fn forget(&self, client: ClientId) {
        self.kept.shelf().forget(client);
        self.reserve.shelf().forget(client);
    }

    /// Waits its turn, or for its place to be filled, and notes what came of it.
    async fn wait(
        self: &Arc<Self>,
        place: Option<Place>,
        client: Option<ClientId>,
    ) -> Result<Lease, CheckoutError> {
        let settings = self.settings();
        let mut opening = place.map(|place| self.open(place, client));
        let mut got = None;
        if let Some(opening) = &mut opening {
            // Begun before anything is counted: what is being opened makes the queue no longer.
            got = match poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await {
                Poll::Ready(got) => Some(got),
                Poll::Pending => None,
            };
        }
        let began = tokio::time::Instant::now();
        let mut waiting = self.queue(&settings, began.into_std())?;
        let _waited = self.stats.wait(began.into_std());
        let result = self.until_served(client, opening, got, &settings, began).await;
        waiting.outcome = match &result {
            Ok(_) => Outcome::Served,
            Err(CheckoutError::TimedOut(_)) => Outcome::TimedOut,
            Err(CheckoutError::Connect(error)) if error.is_passing() => Outcome::TimedOut,
            Err(_) => Outcome::Failed,
        };
        drop(waiting);
        self.note_exhaustion(&settings, Instant::now());
        if let Err(error) = &result {
            self.note_rejection(error);
        }
        result
    }

    fn note_rejection(&self, error: &CheckoutError) {
        let rejection = match error {
            CheckoutError::Closed => Rejection::Closed,
            CheckoutError::Connect(error) if error.is_passing() => return,
            CheckoutError::Connect(_) => Rejection::Connect,
            CheckoutError::QueueFull(_) => Rejection::QueueFull,
            CheckoutError::TimedOut(_) => return,
        };
        self.pressure().rejections.count(rejection);
    }

    /// Until there is a server: given back, opened, or of the reserve; or the deadline.
    async fn until_served(
        self: &Arc<Self>,
        client: Option<ClientId>,
        mut opening: Option<Getting>,
        mut got: Option<Got>,
        settings: &Settings,
        began: tokio::time::Instant,
    ) -> Result<Lease, CheckoutError> {
        let mut turn = pin!(self.kept.places.take());
        let mut freed = pin!(self.freed.notified());
        let deadline = began + settings.acquire_timeout;
        // One timer for both: most waits see the end of neither.
        let mut slow = settings.slow_wait.map(|limit| began + limit).filter(|slow| *slow < deadline);
        let mut timer = pin!(sleep_until(slow.unwrap_or(deadline)));
        let mut reserve = pin!(self.reserved(client, began, settings.reserve_timeout));
        let mut again = None;
        let mut last_error = None;
        loop {
            if let Some(result) = got.take() {
                match result {
                    Ok(granted) => {
                        self.failures.store(0, Ordering::Relaxed);
                        return Ok(Lease::new(granted, self.clone(), client));
                    }
                    Err(error) => {
                        let error = self.on_failure(error)?;
                        last_error = Some(error);
                        again = Some(Box::pin(self.try_again(client)));
                    }
                }
            }
            let first_is_done = again.is_some();
            tokio::select! {
                biased;
                place = &mut turn, if opening.is_none() => match place.map(|place| self.kept.fill_now(place, client)) {
                    Some(Ok(granted)) => got = Some(Ok(granted)),
                    Some(Err(place)) => opening = Some(self.open(place, client)),
                    None => got = Some(Err(PoolError::Closed)),
                },
                Some(result) = async { Some(opening.as_mut()?.await) }, if !first_is_done => got = Some(result),
                // Only who has a place looks up at every server that is given back: the others have their turn.
                () = &mut freed, if opening.is_some() && !first_is_done => {
                    freed.set(self.freed.notified());
                    if self.is_opening()
                        && let Ok(granted) = self.kept.get_now(client)
                    {
                        opening.take().into_iter().for_each(|opening| self.let_go_on(opening));
                        return Ok(Lease::new(granted, self.clone(), client));
                    }
                }
                Some(result) = async { Some(again.as_mut()?.await) }, if first_is_done => got = Some(result),
                granted = &mut reserve => return Ok(Lease::new(granted, self.clone(), client)),
                () = &mut timer => {
                    if slow.take().is_some() {
                        timer.as_mut().reset(deadline);
                        self.complain(began.elapsed());
                        continue;
                    }
                    // Whoever paused the pool wants its clients to wait.
                    if self.manager().gate().is_shut() {
                        timer.as_mut().reset(tokio::time::Instant::now() + settings.acquire_timeout);
                        continue;
                    }
                    let timed_out = CheckoutError::TimedOut(settings.acquire_timeout);
                    return Err(last_error.map_or(timed_out, CheckoutError::Connect));
                }
            }
        }
    }

    /// A server for who has a place, opened if none is idle.
    fn open(&self, place: Place, client: Option<ClientId>) -> Getting {
        let kept = self.kept.clone();
        Box::pin(async move { kept.fill(place, client).await })
    }

    /// Whether what is being had for a client is a connection: under a cap that is full it may be waiting for that, and then
    /// inherits what is given back.
    fn is_opening(&self) -> bool {
        self.manager().caps().iter().all(|cap| cap.has_room())
    }

    /// The server that is being opened for who has another by now is opened for the next one: beginning anew each time would
    /// be a storm of logins that nobody finishes.
    fn let_go_on(self: &Arc<Self>, get: Getting) {
        let pool = self.clone();
        self.spawn(async move {
            match get.await {
                Ok(granted) => {
                    drop(granted);
                    pool.on_freed();
                }
                Err(error) => drop(pool.on_failure(error)),
            }
        });
    }

    /// A client has waited for long: says who has the servers, at most once a second for each pool.
    fn complain(&self, waited: Duration) {
        let now = Instant::now();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        *complained = Some(now);
        let (seconds, waiting, reason) = (waited.as_secs_f64(), self.waiting(), self.why_waiting());
        tracing::warn!(pool = %self.key(), seconds, waiting, %reason, servers = %self.holders(now), "clients wait for a server");
    }

    /// Why a client that asks now would wait.
    pub fn why_waiting(&self) -> &'static str {
        let (size, idle) = self.servers();
        let connecting = self.manager().connecting.load(Ordering::Relaxed);
        match self.settings().size {
            _ if self.manager().gate().is_shut() => "the pool is paused",
            most if size >= most && idle == 0 => "every server of the pool is in use",
            _ if connecting > 0 => "servers are being opened",
            _ if self.failures.load(Ordering::Relaxed) > 0 => "servers cannot be opened",
            _ if !self.manager().has_room() => "max_servers is reached by other pools",
            _ => "servers are about to be free",
        }
    }

    /// Who has the servers, for how long, in which state, pinned by what; the longest first.
    pub fn holders(&self, now: Instant) -> String {
        let mut lives: Vec<_> =
            self.lives().iter().map(|target| (target.server, target.life.glimpse(now))).collect();
        lives.retain(|(_, glimpse)| glimpse.client.is_some());
        lives.sort_by_key(|(_, glimpse)| std::cmp::Reverse(glimpse.lent_for));
        let rest = lives.len().saturating_sub(MOST_HOLDERS);
        let said: Vec<_> = lives
            .iter()
            .take(MOST_HOLDERS)
            .map(|(server, glimpse)| format!("{server}: {glimpse}"))
            .chain((rest > 0).then(|| format!("and {rest} more")))
            .collect();
        said.join("; ")
    }

    /// Its servers, as others see them.
    pub fn lives(&self) -> Vec<Arc<CancelTarget>> {
        self.manager().lives()
    }

    /// Whether it has servers that are not to be lent again.
    pub fn has_old(&self) -> bool {
        let generation = self.manager().generation();
        self.lives().iter().any(|target| target.life.generation() != generation)
    }

    /// Whether this server is not to be lent again.
    pub fn is_old(&self, target: &CancelTarget) -> bool {
        target.life.generation() != self.manager().generation()
    }

    /// A place among those who wait. Those for whom a server is being opened are not counted: the pool is not full.
    fn queue(&self, settings: &Settings, now: Instant) -> Result<Waiting<'_>, CheckoutError> {
        let is_full = |most: &usize| (self.waiting() + 1).saturating_sub(self.connecting()) > *most;
        let is_paused = self.manager().gate().is_shut();
        if let Some(most) = settings.max_waiting.filter(|most| !is_paused && is_full(most)) {
            let error = CheckoutError::QueueFull(most);
            self.note_rejection(&error);
            return Err(error);
        }
        let place = self.pressure().wait(now);
        self.note_exhaustion(settings, now);
        Ok(place)
    }

    /// A server of the reserve, after `reserve_timeout`; without a reserve, never.
    async fn reserved(
        &self,
        client: Option<ClientId>,
        began: tokio::time::Instant,
        patience: Duration,
    ) -> Granted {
        if self.reserve.places.most() == Some(0) {
            return std::future::pending().await;
        }
        sleep_until(began + patience).await;
        match Box::pin(self.reserve.get(client)).await {
            Ok(granted) => granted,
            Err(_) => std::future::pending().await,
        }
    }

    /// A connection could not be opened. What will not mend itself is an error for the client at once.
    fn on_failure(&self, error: PoolError<ConnectError>) -> Result<Arc<ConnectError>, CheckoutError> {
        let PoolError::Backend(error) = error else { return Err(CheckoutError::Closed) };
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        if failures == 0 || !error.is_passing() {
            tracing::warn!(pool = %self.key(), %error, sqlstate = error.sqlstate(), "server connection failed");
        }
        let is_passing = error.is_passing();
        let error = Arc::new(error);
        if is_passing { Ok(error) } else { Err(CheckoutError::Connect(error)) }
    }

    /// After a pause, or when a server is given back before it is over.
    async fn try_again(&self, client: Option<ClientId>) -> Got {
        let freed = self.freed.notified();
        tokio::select! {
            () = sleep(self.pause()) => {}
            () = freed => {}
        }
        self.kept.get(client).await
    }

    /// `connect_retry`, doubled with every failure up to ten times itself, shortened by up to a half so that those who
    /// wait do not all try at once.
    fn pause(&self) -> Duration {
        let failures = self.failures.load(Ordering::Relaxed).saturating_sub(1).min(4);
        let whole = self.settings().connect_retry * (1 << failures).min(10);
        let mut random = [0u8; 2];
        let share = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u16::from_ne_bytes(random)) / f64::from(u16::MAX),
            Err(_) => 0.0,
        };
        whole.mul_f64(1.0 - share / 2.0)
    }

    /// A server has been given back or closed.
    fn on_freed(&self) {
        self.freed.notify_waiters();
    }

    /// Runs a task of the pool's own.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(task));
    }

    /// A server for one client alone, outside the pool.
    ///
    /// Cancel safe: the connection is dropped.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open_dedicated(
        &self,
        parameters: Vec<crate::wire::startup::Setting>,
    ) -> Result<Server, ConnectError> {
        self.manager().open_dedicated(parameters).await
    }

    /// Opens the servers that the minimum lacks, if the pool has something to log in with.
    pub async fn warm(&self) {
        let opening = poll_fn(|cx| Poll::Ready(self.begin_to_open(cx))).await;
        let opening: Vec<_> = opening.into_iter().map(tokio::spawn).collect();
        for opened in opening {
            if let Ok(Err(PoolError::Backend(error))) = opened.await {
                tracing::warn!(pool = %self.key(), %error, sqlstate = error.sqlstate(), "server connection failed");
            }
        }
    }

    /// deadpool opens only when nothing is idle: the idle ones are taken, and given back before anything is awaited.
    fn begin_to_open(&self, cx: &mut Context<'_>) -> Vec<Opening> {
        let settings = self.settings();
        let there = self.kept.count().0 + self.manager().connecting.load(Ordering::Relaxed);
        let lacking = settings.min.min(settings.size).saturating_sub(there);
        let mut idle = Vec::new();
        let mut opening: Vec<Opening> = Vec::new();
        while opening.len() < lacking {
            let Some(place) = self.kept.places.take_now() else { break };
            let kept = self.kept.clone();
            let mut get: Opening = Box::pin(async move { Ok((kept.stock().await?, place)) });
            match get.as_mut().poll(cx) {
                Poll::Pending => opening.push(get),
                Poll::Ready(Ok(granted)) => idle.push(granted),
                Poll::Ready(Err(_)) => break,
            }
        }
        opening
    }
}

/// A server being opened for the shelf.
type Opening = Pin<Box<dyn Future<Output = Result<(Object<Maker>, Place), PoolError<ConnectError>>> + Send>>;

/// Counts a client of a pool.
pub struct Member(Arc<Pool>);

impl Member {
    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
        *self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// All pools.
pub struct Pools {
    pools: RwLock<HashMap<PoolKey, Arc<Pool>>>,
    steering: Mutex<Steering>,
    shared: Arc<Shared>,
}

impl Pools {
    /// No pools yet.
    pub fn new(shared: Shared) -> Self {
        Self { pools: RwLock::default(), steering: Mutex::default(), shared: Arc::new(shared) }
    }

    /// The pool of this database and user, made on demand.
    pub fn pool(&self, key: &PoolKey, recipe: impl FnOnce() -> Recipe) -> Arc<Pool> {
        if let Some(pool) = self.pools.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return pool.clone();
        }
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let recipe = self.with_total(recipe());
            let caps = recipe.caps.clone();
            let pool = Arc::new(Pool::new(Arc::new(Manager::new(key.clone(), recipe, self.shared.clone()))));
            caps.iter().for_each(|cap| cap.add(&pool));
            self.steer(&pool);
            pool
        };
        pools.entry(key.clone()).or_insert_with(make).clone()
    }

    /// Every server counts against the total as well.
    fn with_total(&self, mut recipe: Recipe) -> Recipe {
        let total = self.shared.total.read().unwrap_or_else(PoisonError::into_inner);
        recipe.caps.extend(total.clone());
        recipe
    }

    /// So many servers over all pools from now on; holds for each pool once it is reconfigured.
    pub fn set_total(&self, most: Option<usize>) {
        let mut total = self.shared.total.write().unwrap_or_else(PoisonError::into_inner);
        match (&*total, most) {
            (Some(cap), _) => cap.resize(most),
            (None, Some(most)) => *total = Some(Arc::new(Cap::new(most))),
            (None, None) => {}
        }
    }

    /// What encrypts servers.
    pub fn connectors(&self) -> &Connectors {
        &self.shared.connectors
    }

    /// How connections are tuned from now on.
    pub fn set_tuning(&self, tuning: Tuning) {
        *self.shared.tuning.write().unwrap_or_else(PoisonError::into_inner) = tuning;
    }

    /// Each pool is made of what is said of it now; those of which nothing is said are retired.
    pub fn reconfigure(&self, recipe: impl Fn(&PoolKey) -> Option<Recipe>) {
        for pool in self.all() {
            match recipe(pool.key()) {
                Some(recipe) => pool.reconfigure(self.with_total(recipe)),
                None => pool.retire(),
            }
        }
    }

    /// Where keys come from, for all pools.
    pub fn hashing(&self) -> &Arc<Hashing> {
        &self.shared.hashing
    }

    /// A connection beside all pools, to ask questions of our own.
    pub fn asker(&self, upstream: Upstream, settings: Settings) -> Asker {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        let key = PoolKey {
            database: name(&upstream.dbname).as_str().into(),
            user: name(&upstream.user).as_str().into(),
        };
        let recipe = Recipe {
            edition: 0,
            upstream: Arc::new(upstream),
            settings: Arc::new(settings),
            identity_variables: Arc::default(),
            keeps_statements: false,
            caps: Vec::new(),
        };
        Asker::new(Manager::new(key, recipe, self.shared.clone()))
    }

    /// The pool of this database and user, if there is one.
    pub fn find(&self, key: &PoolKey) -> Option<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All pools there are now.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
