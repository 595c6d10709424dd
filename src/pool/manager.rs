//! How servers are made and when they are still good: deadpool's Manager.
//!
//! # Promises
//! - Making one is dialling and the whole login, within one deadline for each host; hosts are tried until one is what is wanted.
//! - A password that the server refuses is asked for again where it comes from, and tried once more if it is another one.
//! - A server that is not what is wanted any more (`target_session_attrs`) is not lent again; if it was a demoted primary, no
//!   other of its generation is either.
//! - Whether one is still good is decided from facts, without a round trip and without a system call.
//!
//! # Refuses
//! To try again: how long a client is willing to wait is known in [`crate::pool::Pool`].

use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, RecycleResult};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::auth::{ChannelBinding, Credential, ScramKeys, Secret, Verifier};
use crate::hashing::Hashing;
use crate::names::{ClientId, Database, PoolKey, ServerId, ServerKey, User};
use crate::net::Peer;
use crate::net::connect::Tuning;
use crate::net::tls::Connectors;
use crate::pool::cap::{Cap, Counted, Heirs};
use crate::pool::connect_query;
use crate::pool::crowd::Crowd;
use crate::pool::dial::{self, Address, Attempt, Reached};
use crate::pool::error::ConnectError;
use crate::pool::flow::Flow;
use crate::pool::hosts::Hosts;
use crate::pool::places::{Place, Places};
use crate::pool::pressure::{Closing, Connected, Pressure};
use crate::pool::recipe::Recipe;
use crate::pool::secrets::Secrets;
use crate::pool::server::{CancelTarget, Server, Vitality};
use crate::pool::settings::{Host, PasswordSource, Upstream};
use crate::pool::shelf::Shelf;
use crate::pool::steering::Gate;
use crate::pool::target::{TargetSessionAttrs, Unfit, Verdict};
use crate::session::login::{Established, Login, LoginError, LoginPlan, Progress};
use crate::session::{Exchange, Parameters, Role, ServerState, Values};
use crate::wire::startup::Setting;
use crate::wire::write;

/// What is the same for all pools of the process.
pub struct Shared {
    /// Numbers for servers.
    pub next_server: AtomicU64,
    /// Passwords from files and from programs.
    pub secrets: Secrets,
    /// Keys from passwords.
    pub hashing: Arc<Hashing>,
    /// The hosts that do not answer.
    pub hosts: Hosts,
    /// How connections are tuned.
    pub tuning: RwLock<Tuning>,
    /// How they are encrypted.
    pub connectors: Connectors,
    /// Servers over all pools.
    pub total: RwLock<Option<Arc<Cap>>>,
    /// How much is going on.
    pub crowd: Arc<Crowd>,
}

/// A server that has let us in, before it is known whether it is used.
struct Opened {
    peer: Peer,
    address: Address,
    reported: Parameters,
    key: Option<ServerKey>,
    /// What it was logged in with.
    credential: Option<Credential>,
}

/// When servers that refuse to write are doubted again.
#[derive(Default)]
struct Doubt {
    until: Option<Instant>,
    pause: Duration,
}

/// The caps a pool's servers count against, from the narrowest to the widest.
pub(super) type Caps = Vec<Arc<Cap>>;

/// What becomes of a server that is given back.
pub(super) enum Destiny {
    /// Somebody else needs its place more.
    Close,
    /// A client of its pool waits for a cap, and takes it over.
    HandOver(oneshot::Sender<Box<Server>>),
    /// It waits for the next client.
    Keep,
}

/// What a new server is made of.
enum Found {
    /// Places under every cap.
    Places(Vec<Place>),
    /// One that has its places already.
    Server(Box<Server>),
}

/// Makes the servers of one pool.
pub(super) struct Manager {
    /// Whose servers.
    pub key: PoolKey,
    shared: Arc<Shared>,
    /// What configuration says now.
    recipe: RwLock<Arc<Recipe>>,
    /// Whether servers may be opened.
    gate: Gate,
    /// Its servers, as others see them.
    lives: Mutex<Vec<Weak<CancelTarget>>>,
    /// What of it is looked at whenever a server is lent or given back.
    glance: Glance,
    /// Its clients that wait for a cap.
    heirs: Heirs,
    /// What the last client of this pool proved itself with, for pools without a password of their own.
    credential: Mutex<Option<Credential>>,
    /// Bounds the connections being opened at once.
    opening: Arc<Places>,
    /// Connections being opened.
    pub connecting: AtomicUsize,
    /// The host that was right last.
    last_host: AtomicUsize,
    /// Whether there may be servers of that host, and they have not been found to be of another kind.
    has_primary: AtomicBool,
    /// Whether servers that refuse to write are taken for demoted ones.
    doubt: Mutex<Doubt>,
    /// Servers of an older generation are not lent again.
    generation: AtomicU64,
    /// How hard the pool is pressed.
    pub pressure: Pressure,
    /// What the first server of this pool reported.
    baseline: Mutex<Option<Parameters>>,
}

/// Without a lock.
#[derive(Default)]
struct Glance {
    max_uses: AtomicU64,
    check_delay: AtomicU64,
    has_caps: AtomicBool,
    /// A [`TargetSessionAttrs`].
    target: AtomicU8,
}

impl Glance {
    fn note(&self, recipe: &Recipe) {
        let delay = recipe.settings.check_delay.map_or(u64::MAX, micros);
        self.max_uses.store(recipe.settings.max_uses.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.check_delay.store(delay, Ordering::Relaxed);
        self.has_caps.store(!recipe.caps.is_empty(), Ordering::Relaxed);
        self.target.store(recipe.settings.target_session_attrs as u8, Ordering::Relaxed);
    }

    fn target(&self) -> TargetSessionAttrs {
        TargetSessionAttrs::from_number(self.target.load(Ordering::Relaxed))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Manager {
    /// A manager of one pool.
    pub(super) fn new(key: PoolKey, recipe: Recipe, shared: Arc<Shared>) -> Self {
        let glance = Glance::default();
        glance.note(&recipe);
        Self {
            opening: Places::new(Some(recipe.settings.connect_concurrency.max(1))),
            key,
            shared,
            recipe: RwLock::new(Arc::new(recipe)),
            glance,
            gate: Gate::default(),
            lives: Mutex::default(),
            heirs: Heirs::default(),
            credential: Mutex::default(),
            connecting: AtomicUsize::new(0),
            pressure: Pressure::default(),
            last_host: AtomicUsize::new(0),
            has_primary: AtomicBool::new(false),
            doubt: Mutex::default(),
            generation: AtomicU64::new(0),
            baseline: Mutex::default(),
        }
    }

    /// How much is going on, in all pools.
    pub(super) fn crowd(&self) -> &Crowd {
        &self.shared.crowd
    }

    /// What configuration says now.
    pub(super) fn recipe(&self) -> Arc<Recipe> {
        self.recipe.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What configuration says from now on.
    pub(super) fn adopt(&self, recipe: Recipe) {
        self.glance.note(&recipe);
        self.opening.resize(Some(recipe.settings.connect_concurrency.max(1)));
        *self.recipe.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(recipe);
    }

    /// Servers there are now will not be lent again. The recipe is older than the generation: what is opened with the recipe
    /// before may count as of this one, and never the other way round.
    pub(super) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether servers may be opened.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Its servers, as others see them.
    pub(super) fn lives(&self) -> Vec<Arc<CancelTarget>> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter().filter_map(Weak::upgrade).filter(|target| !target.life.is_over()).collect()
    }

    fn has_opened(&self, target: &Arc<CancelTarget>) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.retain(|known| known.upgrade().is_some_and(|target| !target.life.is_over()));
        lives.push(Arc::downgrade(target));
    }

    /// The generation of servers that are opened now.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Servers may report something else from now on.
    pub(super) fn forget_baseline(&self) {
        *self.baseline.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a server of this pool reports after login, once one has.
    pub(super) fn baseline(&self) -> Option<Parameters> {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what a client proved itself with.
    pub(super) fn learn(&self, credential: Credential) {
        *self.credential.lock().unwrap_or_else(PoisonError::into_inner) = Some(credential);
    }

    /// Whether servers are logged in with what clients proved themselves with.
    pub(super) fn borrows_credentials(&self) -> bool {
        self.recipe().upstream.password == PasswordSource::Client
    }

    /// What a client of this pool proved itself with last.
    fn borrowed(&self) -> Option<Credential> {
        self.credential.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A login, but for what it proves itself with.
    fn plan(&self, recipe: &Recipe) -> LoginPlan {
        let upstream = &recipe.upstream;
        let mut parameters: Vec<Setting> = Vec::new();
        let mut add =
            |name: &str, value: &str| parameters.push((name.as_bytes().into(), value.as_bytes().into()));
        if let Some(name) = &upstream.application_name {
            add("application_name", name);
        }
        for (name, value) in &upstream.settings {
            add(name, value);
        }
        for variable in recipe.identity_variables.iter() {
            add(variable, "");
        }
        LoginPlan {
            user: upstream.user.as_deref().map_or_else(|| self.key.user.clone(), User::from),
            database: upstream.dbname.as_deref().map_or_else(|| self.key.database.clone(), Database::from),
            parameters,
            credential: None,
            minor: 2,
            binding: ChannelBinding::Unavailable,
            policy: upstream.channel_binding,
        }
    }

    /// A server for one client alone, with parameters of its own in the startup packet.
    pub(super) async fn open_dedicated(&self, parameters: Vec<Setting>) -> Result<Server, ConnectError> {
        let (generation, recipe) = (self.generation(), self.recipe());
        let mut plan = self.plan(&recipe);
        plan.parameters.retain(|(name, _)| parameters.iter().all(|(other, _)| other != name));
        plan.parameters.extend(parameters);
        self.open(plan, generation, &recipe).await
    }

    /// A server, logged in with the password as it is now; if it is refused, and is another one by then, with that.
    async fn open(&self, plan: LoginPlan, generation: u64, recipe: &Recipe) -> Result<Server, ConnectError> {
        let (secrets, source) = (&self.shared.secrets, &recipe.upstream.password);
        let found = secrets.find(source).await.map_err(ConnectError::Password);
        let found = found.inspect_err(|error| self.pressure.connects.count(error.word()));
        let Some(secret) = found? else {
            let plan = LoginPlan { credential: self.borrowed(), ..plan };
            return self.open_with(plan, generation, recipe).await;
        };
        let with = |secret: &Secret| LoginPlan { credential: credential(secret), ..plan.clone() };
        let opened = self.open_with(with(&secret), generation, recipe).await;
        match &opened {
            Err(error) if error.is_of_credential() => {}
            _ => return opened,
        }
        match secrets.after_refusal(source, &secret).await {
            Some(other) => self.open_with(with(&other), generation, recipe).await,
            None => opened,
        }
    }

    /// A server of the first host that has one that is wanted.
    async fn open_with(
        &self,
        plan: LoginPlan,
        generation: u64,
        recipe: &Recipe,
    ) -> Result<Server, ConnectError> {
        let began = Instant::now();
        let opened = self.search(plan, generation, recipe).await;
        self.note(&opened, began.elapsed());
        let server = opened?;
        server.cancel.life.is_of(server.generation);
        self.has_opened(&server.cancel);
        Ok(server)
    }

    async fn search(
        &self,
        plan: LoginPlan,
        mut generation: u64,
        recipe: &Recipe,
    ) -> Result<Server, ConnectError> {
        let (hosts, known, now) = (&recipe.upstream.hosts, &self.shared.hosts, Instant::now());
        let mut spare = None;
        let mut last = ConnectError::Unreachable(io::ErrorKind::NotFound.into());
        for index in known.order(hosts, self.last_host.load(Ordering::Relaxed), now) {
            let Some(host) = hosts.get(index) else { continue };
            if spare.is_some() && known.is_down(host, now) {
                continue;
            }
            let opened = self.open_on(host, &plan, recipe, &mut spare).await;
            match &opened {
                Ok(_) => {
                    self.last_host.store(index, Ordering::Relaxed);
                    self.has_primary.store(true, Ordering::Relaxed);
                }
                Err(ConnectError::NotWanted(target, unfit)) if target.wants_writes() => {
                    generation = self.on_unfit(index, *unfit, generation);
                }
                Err(_) => {}
            }
            match &opened {
                Err(error) if error.is_silence() => known.on_silence(host, now),
                _ => known.on_answer(host),
            }
            match opened {
                Ok(opened) => return self.finish(opened, generation, recipe).await,
                Err(error) if error.leads_on() || spare.is_some() => last = error,
                Err(error) => return Err(error),
            }
        }
        match spare {
            Some(spare) => self.finish(spare, generation, recipe).await,
            None => Err(last),
        }
    }

    /// One of the addresses of a host, the first that is wanted; the first that is not but would do is `spare`.
    async fn open_on(
        &self,
        host: &Host,
        plan: &LoginPlan,
        recipe: &Recipe,
        spare: &mut Option<Opened>,
    ) -> Result<Opened, ConnectError> {
        let (limit, target) = (recipe.settings.connect_timeout, recipe.settings.target_session_attrs);
        let late = |_| ConnectError::TimedOut(limit);
        let mut last = ConnectError::Unreachable(io::ErrorKind::NotFound.into());
        let places = timeout(limit, dial::places(host)).await.map_err(late)?;
        for place in places.map_err(ConnectError::Unreachable)? {
            let opened = timeout(limit, self.open_at(&place, plan, &recipe.upstream)).await;
            match opened.map_err(late).flatten() {
                Ok(opened) => match target.judge(Role::of(&opened.reported)) {
                    Verdict::Fit => return Ok(opened),
                    Verdict::Spare if spare.is_none() => *spare = Some(opened),
                    Verdict::Spare => close(opened.peer),
                    Verdict::Unfit(unfit) => {
                        last = ConnectError::NotWanted(target, unfit);
                        close(opened.peer);
                    }
                },
                Err(error) if error.leads_on() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// A server at one address, reached the other way if the first is refused by rule and the mode allows it.
    async fn open_at(
        &self,
        place: &dial::Place<'_>,
        plan: &LoginPlan,
        upstream: &Upstream,
    ) -> Result<Opened, ConnectError> {
        let connector = self.shared.connectors.find(&upstream.tls);
        let tuning = *self.shared.tuning.read().unwrap_or_else(PoisonError::into_inner);
        let first = dial::reach(place, &connector, Attempt::First, tuning).await?;
        let was_encrypted = first.address.is_encrypted();
        let refused = match self.enter(first, plan.clone()).await {
            Err(ConnectError::Login(LoginError::Refused(error))) => error,
            entered => return entered,
        };
        let sqlstate = refused.sqlstate().unwrap_or_default();
        if dial::has_second(upstream.tls.sslmode, was_encrypted, sqlstate) {
            let second = dial::reach(place, &connector, Attempt::Second, tuning).await?;
            if second.address.is_encrypted() != was_encrypted {
                return self.enter(second, plan.clone()).await;
            }
        }
        Err(ConnectError::Login(LoginError::Refused(refused)))
    }

    async fn enter(&self, reached: Reached, plan: LoginPlan) -> Result<Opened, ConnectError> {
        let Reached { stream, address, end_point } = reached;
        let binding = end_point.map_or(ChannelBinding::Unavailable, ChannelBinding::TlsServerEndPoint);
        let mut peer = Peer::new(stream);
        let (established, credential) = self.log_in(&mut peer, LoginPlan { binding, ..plan }).await?;
        let reported = established.parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
        Ok(Opened { peer, address, reported, key: established.key, credential })
    }

    /// What is done only once it is certain that the server is used.
    async fn finish(
        &self,
        mut opened: Opened,
        generation: u64,
        recipe: &Recipe,
    ) -> Result<Server, ConnectError> {
        let is_borrowed = recipe.upstream.password == PasswordSource::Client;
        if let Some(credential) = opened.credential.take().filter(|_| is_borrowed) {
            self.learn(credential);
        }
        let mut base = Values::default();
        if let Some(sql) = &recipe.upstream.connect_query {
            let limit = recipe.settings.connect_timeout;
            let ran = timeout(limit, connect_query::run(&mut opened.peer, sql, &mut opened.reported)).await;
            base = ran.map_err(|_| ConnectError::TimedOut(limit))??;
        }
        opened.peer.give_up();
        Ok(self.server(opened, generation, recipe, base))
    }

    /// A host cannot be written to; the generation for what is opened after that. If it was the one that was right, whoever is
    /// connected to it, is so to a demoted primary.
    fn on_unfit(&self, index: usize, unfit: Unfit, generation: u64) -> u64 {
        let is_of_last = self.last_host.load(Ordering::Relaxed) == index;
        if !is_of_last || unfit == Unfit::Unknown {
            return generation;
        }
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = Doubt::default();
        if !self.has_primary.swap(false, Ordering::Relaxed) {
            return generation;
        }
        tracing::warn!(pool = %self.key, "the primary {unfit} now: its servers are not lent again");
        let before = self.generation.fetch_add(1, Ordering::Release);
        // Somebody else's step may be for another recipe than ours.
        if before == generation { before + 1 } else { generation }
    }

    async fn log_in(
        &self,
        peer: &mut Peer,
        plan: LoginPlan,
    ) -> Result<(Established, Option<Credential>), ConnectError> {
        let credential = plan.credential.clone();
        let mut login = Login::new(plan);
        login.begin(&mut peer.buffers.outbox);
        loop {
            let buffers = &mut peer.buffers;
            match login.on_input(&mut buffers.inbox, &mut buffers.outbox).map_err(ConnectError::Login)? {
                Progress::Established(established) => return Ok((established, credential)),
                Progress::NeedMore => {
                    peer.drain().await.map_err(ConnectError::lost)?;
                    if !peer.fill().await.map_err(ConnectError::lost)? {
                        return Err(ConnectError::lost(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Progress::NeedsKeys { salt, iterations } => {
                    let keys = self.keys(credential.as_ref(), &salt, iterations).await?;
                    login.with_keys(&keys, &mut peer.buffers.outbox).map_err(ConnectError::Login)?;
                }
            }
        }
    }

    /// Keys for this salt and count.
    async fn keys(
        &self,
        credential: Option<&Credential>,
        salt: &[u8],
        iterations: u32,
    ) -> Result<ScramKeys, ConnectError> {
        let Some(Credential::Password(password)) = credential else { return Err(ConnectError::NoPassword) };
        self.shared.hashing.keys(password, salt, iterations).await.ok_or(ConnectError::Closed)
    }

    fn server(&self, opened: Opened, generation: u64, recipe: &Recipe, base: Values) -> Server {
        let Opened { peer, address, reported, key, .. } = opened;
        let id = ServerId(self.shared.next_server.fetch_add(1, Ordering::Relaxed));
        let now = Instant::now();
        let mut state = ServerState::new(id, self.intern_baseline(reported)).with_base(base);
        state.tier.process = key.as_ref().map(ServerKey::process_id);
        Server {
            peer,
            state,
            exchange: Exchange::default(),
            flow: Flow::new(self.shared.crowd.clone()),
            cancel: Arc::new(CancelTarget::new(id, address, key)),
            born: now,
            expires: recipe
                .settings
                .lifetime
                .map(|lifetime| now + jittered(lifetime, recipe.settings.lifetime_jitter, id)),
            idle_since: now,
            awaited: None,
            uses: 0,
            counted: (0, 0),
            generation,
            permits: Vec::new(),
            identity_variables: recipe.identity_variables.clone(),
        }
    }

    /// Equal reports share one table, so that comparing them is comparing pointers.
    fn intern_baseline(&self, reported: Parameters) -> Parameters {
        let mut baseline = self.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        match &*baseline {
            Some(known) if *known == reported => known.clone(),
            _ => {
                *baseline = Some(reported.clone());
                reported
            }
        }
    }

    /// The caps its servers count against.
    pub(super) fn caps(&self) -> Caps {
        self.recipe().caps.clone()
    }

    /// Whether there is room under every cap.
    pub(super) fn has_room(&self) -> bool {
        !self.glance.has_caps.load(Ordering::Relaxed) || self.caps().iter().all(|cap| cap.has_room())
    }

    /// A place under every cap, or a server of this pool that has one.
    ///
    /// Cancel safe.
    async fn place(&self) -> Option<Found> {
        let caps = self.caps();
        let at_once: Option<Vec<_>> = caps.iter().map(|cap| cap.place_now()).collect();
        if let Some(places) = at_once {
            return Some(Found::Places(places));
        }
        let found = async {
            let mut places = Vec::with_capacity(caps.len());
            for cap in &caps {
                places.push(cap.place(&self.key).await?);
            }
            Some(places)
        };
        tokio::select! {
            biased;
            server = self.heirs.inherit() => server.map(Found::Server),
            places = found => places.map(Found::Places),
        }
    }

    /// What becomes of a server given back now, while `waiting` clients of its pool wait.
    pub(super) fn destiny(&self, waiting: usize, now: Instant) -> Destiny {
        if !self.glance.has_caps.load(Ordering::Relaxed) {
            return Destiny::Keep;
        }
        let (own, caps) = (self.heirs.waiting(), self.caps());
        if caps.iter().any(|cap| cap.is_exceeded() || cap.is_overdue(own, now)) {
            return Destiny::Close;
        }
        if let Some(heir) = self.heirs.next() {
            return Destiny::HandOver(heir);
        }
        if waiting == 0 && caps.iter().any(|cap| cap.is_wanted(own)) {
            return Destiny::Close;
        }
        Destiny::Keep
    }

    /// How connecting went.
    fn note(&self, opened: &Result<Server, ConnectError>, took: Duration) {
        let result = opened.as_ref().map_or_else(ConnectError::word, |_| Connected::Ok);
        self.pressure.connects.count(result);
        if result == Connected::Ok {
            self.pressure.connect.observe(took);
        }
    }

    /// Whether clients of its pool wait for a cap.
    pub(super) fn waits_for_cap(&self) -> bool {
        self.heirs.waiting() > 0
    }

    /// Why a server may not be lent again, or kept; `None` if it may.
    pub(super) fn fault(&self, server: &Server, now: Instant) -> Option<Closing> {
        if server.expires.is_some_and(|expires| now >= expires) {
            return Some(Closing::Lifetime);
        }
        if server.uses >= self.glance.max_uses.load(Ordering::Relaxed) {
            return Some(Closing::MaxUses);
        }
        if server.generation != self.generation() {
            return Some(Closing::Reconnect);
        }
        if server.cancel.has_stray() {
            return Some(Closing::StrayCancel);
        }
        (!self.is_wanted(server)).then_some(Closing::NotWanted)
    }

    /// Whether it is still what is wanted, by what it has said since.
    fn is_wanted(&self, server: &Server) -> bool {
        let target = self.glance.target();
        if target == TargetSessionAttrs::Any {
            return true;
        }
        let mut role = server.state.role;
        if server.state.is_read_only_by_wish() {
            role.is_read_only = Some(false);
        }
        !matches!(target.judge(role), Verdict::Unfit(_))
    }

    /// A server has refused to write. Perhaps its client had asked for that in words we did not follow, perhaps something between
    /// us and PostgreSQL leads to another server now: the next login tells. Each doubt that was idle makes the next one wait
    /// longer, so that no client can have servers closed all the time.
    pub(super) fn on_refused_write(&self, server: &Server, now: Instant) {
        let is_expected = !self.glance.target().wants_writes()
            || server.state.is_read_only_by_wish()
            || server.generation != self.generation();
        if is_expected {
            return;
        }
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        if doubt.until.is_some_and(|until| now < until) {
            return;
        }
        let pause = if doubt.pause.is_zero() { DOUBT } else { (doubt.pause * 2).min(LONGEST_DOUBT) };
        *doubt = Doubt { until: Some(now + pause), pause };
        self.generation.fetch_add(1, Ordering::Release);
        tracing::info!(pool = %self.key, "a server refused to write: the others are opened anew");
    }
}

/// Entitles to a server of the shelf, or brings one that has just been made.
pub(super) struct Ticket(pub(super) Option<Box<Server>>);

/// deadpool's Manager: one for the pool, one for its reserve.
pub(super) struct Maker {
    manager: Arc<Manager>,
    /// Its idle servers.
    shelf: Shelf<Box<Server>>,
}

impl Maker {
    /// Without servers.
    pub(super) fn new(manager: Arc<Manager>) -> Self {
        Self { manager, shelf: Shelf::default() }
    }

    /// Its idle servers.
    pub(super) fn shelf(&self) -> &Shelf<Box<Server>> {
        &self.shelf
    }

    /// A server is idle; whoever brings it gives the ticket for it back afterwards.
    pub(super) fn shelve(&self, server: Box<Server>) {
        let (awaited, since) = (server.awaited, server.idle_since);
        self.shelf.put(server, awaited, since);
    }

    /// The server of the shelf that is to be lent to this client, or why it may not be.
    pub(super) fn unshelve(
        &self,
        client: Option<ClientId>,
    ) -> Result<Box<Server>, Option<(Box<Server>, Closing)>> {
        let now = Instant::now();
        let mut server = self.shelf.take(client, now).ok_or(None)?;
        let is_dead = |server: &mut Server| (server.look() == Vitality::Dead).then_some(Closing::Gone);
        if let Some(reason) = self.fault(&server, now).or_else(|| is_dead(&mut server)) {
            return Err(Some((server, reason)));
        }
        let idle = micros(now.saturating_duration_since(server.idle_since));
        server.state.is_doubtful |= idle > self.glance.check_delay.load(Ordering::Relaxed);
        Ok(server)
    }
}

impl Deref for Maker {
    type Target = Manager;

    fn deref(&self) -> &Manager {
        &self.manager
    }
}

impl managed::Manager for Maker {
    type Type = Ticket;
    type Error = ConnectError;

    async fn create(&self) -> Result<Ticket, ConnectError> {
        // Who asks whether there is one at once gives this up here, before anything is opened.
        {
            let _connecting = Counted::up(&self.connecting);
            tokio::task::yield_now().await;
        }
        // The login is large and rare; what waits for it is small and common.
        Box::pin(async {
            loop {
                self.gate.pass().await;
                let permits = match self.place().await {
                    Some(Found::Places(permits)) => permits,
                    Some(Found::Server(server)) => return Ok(Ticket(Some(server))),
                    None => return Err(ConnectError::Closed),
                };
                let _connecting = Counted::up(&self.connecting);
                let _opening = self.opening.take().await.ok_or(ConnectError::Closed)?;
                let (generation, recipe) = (self.generation(), self.recipe());
                let mut server = self.open(self.plan(&recipe), generation, &recipe).await?;
                server.permits = permits;
                if !self.gate.is_shut() {
                    return Ok(Ticket(Some(Box::new(server))));
                }
                server.close(); // it came too late for a pause
            }
        })
        .await
    }

    async fn recycle(&self, _: &mut Ticket, _: &Metrics) -> RecycleResult<ConnectError> {
        Ok(())
    }
}

/// What a configured secret logs in with, if it can.
fn credential(secret: &Secret) -> Option<Credential> {
    match Verifier::from_secret(secret) {
        Ok(Verifier::Md5(hash)) => Some(Credential::Md5(hash)),
        Ok(Verifier::Plaintext(_)) => Some(Credential::Password(secret.clone())),
        Ok(Verifier::Scram(_)) | Err(_) => None,
    }
}

/// How long servers that refuse to write are trusted after the first doubt.
const DOUBT: Duration = Duration::from_secs(1);

/// How long they are after many that were idle.
const LONGEST_DOUBT: Duration = Duration::from_secs(60);

/// Says Terminate as far as the socket takes it at once, and closes.
fn close(mut peer: Peer) {
    write::terminate(&mut peer.buffers.outbox);
    let _ = peer.poll_drain(&mut std::task::Context::from_waker(std::task::Waker::noop()));
}

/// `whole`, shorter by up to `percent` of itself; by how much depends on `id` alone, so that servers opened together do not
/// all close together.
fn jittered(whole: Duration, percent: u8, id: ServerId) -> Duration {
    let share = (id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as f64 / f64::from(u32::MAX);
    whole.mul_f64(1.0 - share.min(1.0) * f64::from(percent.min(100)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread_within_their_share() {
        let whole = Duration::from_secs(100);
        let lives: Vec<_> = (0..100).map(|id| jittered(whole, 10, ServerId(id))).collect();

        assert!(lives.iter().all(|life| (Duration::from_secs(90)..=whole).contains(life)));
        assert!(lives.iter().max().unwrap().abs_diff(*lives.iter().min().unwrap()) > Duration::from_secs(5));
        assert_eq!(jittered(whole, 0, ServerId(7)), whole);
    }
}
