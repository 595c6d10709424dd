//! Every number there is, read when somebody looks.
//!
//! ```text
//!  pools, counts, process ──look──► Snapshot ──page──► text
//!                                    (on the runtime)   (beside it)
//! ```
//!
//! # Promises
//! - At most `metrics.max_pools` pools have series of their own; the rest is one, `other`, whose counters do not go back when
//!   one of its pools is forgotten.
//! - A look takes no lock that a client holds for longer than a few lines.
//!
//! # Refuses
//! To count.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::admin::pgbouncer;
use crate::admin::process::Process;
use crate::admin::settings::{Compat, Settings};
use crate::admin::{Admin, Reload};
use crate::names::{Database, PoolKey};
use crate::net::tls::Handshake;
use crate::pool::{Closing, Connected, Host, Injected, Outcome, Pool, Pools, Rejection, Upstream};
use crate::proxy::cancel::ClientHandle;
use crate::proxy::{Cancelled, Departure, Edition, Listing, Login, Proxy};
use crate::session::Mode;
use crate::session::hold::Pin;
use crate::session::tally::{ERROR_CLASSES, IDENTITY_REFUSALS};
use crate::telemetry::instruments::{Counter, Distribution, Latency, Word};
use crate::telemetry::metrics::Metric;
use crate::telemetry::page::{Family, Format, Labels, Page, cut};

/// The states of `pgusher_pool_servers`.
const SERVER_STATES: [&str; 5] = ["active", "idle", "pinned", "connecting", "cancelling"];

/// The states of `pgusher_clients`.
const CLIENT_STATES: [&str; 3] = ["active", "waiting", "idle"];

/// The directions of `pgusher_bytes_total`.
const DIRECTIONS: [&str; 2] = ["received", "sent"];

/// The messages of `pgusher_prepared_statement_messages_total`.
const MESSAGES: [&str; 3] = ["client_parse", "server_parse", "client_bind"];

/// What the pools are called that have no name of their own.
const OTHER: &str = "other";

/// What is remembered from look to look.
pub(super) struct Scraper {
    compat: Compat,
    names: Mutex<Names>,
    workers: Mutex<Workers>,
}

impl Scraper {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            compat: settings.compat,
            names: Mutex::new(Names { most: settings.max_pools, ..Names::default() }),
            workers: Mutex::new(Workers { since: Instant::now(), busy: Vec::new() }),
        }
    }

    /// Reads everything.
    pub(super) fn look(&self, admin: &Admin) -> Snapshot {
        let now = Instant::now();
        let proxy = &admin.proxy;
        let pools = proxy.pools.all();
        let edition = proxy.edition();
        let place = |pool: &Pool| match self.compat {
            Compat::Off => Place::default(),
            Compat::PgBouncer => Place::of(pool, &edition, &proxy.pools),
        };
        let reading = |pool: &Arc<Pool>| (pool.key().clone(), Reading::of(pool, place(pool), now));
        let read = pools.iter().map(reading).collect();
        pools.iter().for_each(|pool| pool.pressure().looked_at());
        let counts = &proxy.counts;
        Snapshot {
            listed: (self.compat == Compat::PgBouncer).then(|| Listed::of(proxy, &edition)),
            pools: self.names.lock().unwrap_or_else(PoisonError::into_inner).name(read),
            max_clients: edition.settings.max_clients,
            reload: (admin.last_reload)(),
            handshakes: [counts.handshakes.values(), proxy.pools.connectors().handshakes().values()],
            expiries: expiries(proxy, &edition),
            logins: counts.logins.values(),
            login: counts.login.read(),
            departures: counts.departures.values(),
            cancels: counts.cancels.values(),
            is_draining: proxy.drain.is_draining(),
            is_ready: admin.health.readiness(proxy).is_good(),
            rejections: admin.rejections.value(),
            workers: self.workers.lock().unwrap_or_else(PoisonError::into_inner).busy_since_last(now),
        }
    }
}

/// What the workers had to do.
struct Workers {
    since: Instant,
    /// Time each has been busy in its life.
    busy: Vec<Duration>,
}

impl Workers {
    /// The share of time since the last look in which each was busy.
    fn busy_since_last(&mut self, now: Instant) -> Vec<f64> {
        let metrics = tokio::runtime::Handle::current().metrics();
        let busy: Vec<_> =
            (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).collect();
        let passed = now.saturating_duration_since(self.since).as_secs_f64().max(1e-3);
        let before = self.busy.iter().copied().chain(std::iter::repeat(Duration::ZERO));
        let share = |(busy, before): (&Duration, Duration)| {
            (busy.saturating_sub(before).as_secs_f64() / passed).clamp(0.0, 1.0)
        };
        let shares = busy.iter().zip(before).map(share).collect();
        (self.busy, self.since) = (busy, now);
        shares
    }
}

/// Where the servers of a pool are, in PgBouncer's words.
#[derive(Clone, Default, Debug)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: String,
    pub(super) database: String,
    /// Empty if clients are logged in as themselves.
    pub(super) force_user: String,
    pub(super) mode: &'static str,
    /// 0 is no bound.
    pub(super) max_servers: usize,
    pub(super) is_paused: bool,
    pub(super) is_disabled: bool,
}

impl Place {
    /// Of a pool, whose database need not be a listed one.
    fn of(pool: &Pool, edition: &Edition, pools: &Pools) -> Self {
        let key = pool.key();
        let mode = edition.catalog.seat(&key.database, &key.user).map(|seat| seat.rules.mode);
        Self {
            is_paused: pools.is_paused(&key.database),
            is_disabled: pools.is_disabled(&key.database),
            ..Self::at(&pool.recipe().upstream, mode, &key.database.to_string())
        }
    }

    fn at(upstream: &Upstream, mode: Option<Mode>, name: &str) -> Self {
        let (host, port) = match upstream.hosts.first() {
            Some(Host::Tcp { host, port }) => (host.clone(), port.to_string()),
            Some(Host::Unix { directory, port }) => (directory.display().to_string(), port.to_string()),
            None => Default::default(),
        };
        Self {
            host,
            port,
            database: upstream.dbname.clone().unwrap_or_else(|| name.to_owned()),
            force_user: upstream.user.clone().unwrap_or_default(),
            mode: match mode {
                Some(Mode::Session) => "session",
                Some(Mode::Statement) => "statement",
                Some(Mode::Transaction) | None => "transaction",
            },
            max_servers: upstream.max_servers.unwrap_or(0),
            is_paused: false,
            is_disabled: false,
        }
    }
}

/// What is configured, as PgBouncer's exporter counts it.
#[derive(Default)]
pub(super) struct Listed {
    /// Databases, by name: what they may have, and nothing that they do.
    pub(super) databases: BTreeMap<String, Reading>,
    pub(super) users: usize,
    pub(super) free_clients: usize,
    pub(super) login_clients: usize,
}

impl Listed {
    fn of(proxy: &Proxy, edition: &Edition) -> Self {
        let database = |listing: Listing<'_>| {
            let name = Database::from(listing.name.as_str());
            let place = Place {
                is_paused: proxy.pools.is_paused(&name),
                is_disabled: proxy.pools.is_disabled(&name),
                ..Place::at(listing.upstream, Some(listing.rules.mode), &listing.name)
            };
            let (size, reserve) = (listing.settings.size, listing.settings.reserve);
            (cut(&listing.name), Reading { size, reserve, place, ..Reading::default() })
        };
        let is_logging_in = |client: &&Arc<ClientHandle>| client.about().is_none();
        Self {
            databases: edition.catalog.listing().map(database).collect(),
            users: edition.catalog.users().count(),
            free_clients: proxy.places.free(),
            login_clients: proxy.clients.all().iter().filter(is_logging_in).count(),
        }
    }
}

/// What a pool had to say.
#[derive(Clone, Default, Debug)]
pub(super) struct Reading {
    pub(super) size: usize,
    /// Beyond `size`.
    pub(super) reserve: usize,
    max_size: usize,
    /// Where its servers are: host, port, database, forced user, and how it pools.
    pub(super) place: Place,
    /// Times: in transactions, in queries, waiting.
    pub(super) micros: [u64; 3],
    /// Transactions, queries.
    pub(super) done: [u64; 2],
    /// By state.
    pub(super) servers: [usize; 5],
    in_use_peak: usize,
    waiting_peak: usize,
    /// By state.
    pub(super) clients: [usize; 3],
    pub(super) oldest_wait: Duration,
    exhausted: Duration,
    waits: u64,
    /// From clients, to clients; from servers, to servers.
    pub(super) bytes: [[u64; 2]; 2],
    /// By message.
    pub(super) statements: [u64; 3],
    /// Hits of the cache of prepared statements, evictions from it.
    prepared: [u64; 2],
    reuses: u64,
    affinity_hits: u64,
    rejections: Vec<u64>,
    wait: Vec<Distribution>,
    transaction: Distribution,
    query: Distribution,
    connect: Distribution,
    connects: Vec<u64>,
    closes: Vec<u64>,
    injections: Vec<u64>,
    refusals: Vec<u64>,
    pins: Vec<u64>,
    slips: Vec<u64>,
    cleans: u64,
    errors: Vec<u64>,
}

impl Reading {
    fn of(pool: &Pool, place: Place, now: Instant) -> Self {
        let settings = pool.settings();
        let (pressure, stats) = (pool.pressure(), pool.stats());
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (lent, pinned, waiting) = (pressure.lent.now(), pressure.pinned.now(), pressure.waiting.now());
        let clients = pool.clients();
        let active = lent.min(clients);
        Self {
            size: settings.size,
            reserve: settings.reserve,
            max_size: pool.max_size(),
            place,
            micros: [&stats.transaction_time, &stats.query_time, &stats.wait_time].map(of),
            done: [&stats.transactions, &stats.queries].map(of),
            servers: [
                lent.saturating_sub(pinned),
                pool.servers().1,
                pinned,
                pool.connecting(),
                pressure.cancelling.now(),
            ],
            in_use_peak: pressure.lent.peak(),
            waiting_peak: pressure.waiting.peak(),
            clients: [active, waiting, clients.saturating_sub(active + waiting)],
            oldest_wait: pressure.oldest_wait(now),
            exhausted: pressure.exhausted(now),
            waits: of(&stats.waits),
            bytes: [[&stats.received, &stats.sent], [&stats.server_received, &stats.server_sent]]
                .map(|side| side.map(of)),
            prepared: [&stats.prepared_hits, &stats.prepared_evictions].map(of),
            statements: [&stats.client_parses, &stats.server_parses, &stats.binds].map(of),
            reuses: pressure.reuses.value(),
            affinity_hits: pressure.affinity_hits.value(),
            rejections: pressure.rejections.values(),
            wait: pressure.wait.each().map(Latency::read).collect(),
            transaction: pressure.transaction.read(),
            query: pressure.query.read(),
            connect: pressure.connect.read(),
            connects: pressure.connects.values(),
            closes: pressure.closes.values(),
            injections: pressure.injections.values(),
            refusals: pressure.refusals.iter().map(Counter::value).collect(),
            pins: pressure.pins.iter().map(Counter::value).collect(),
            slips: pressure.slips.iter().map(Counter::value).collect(),
            cleans: pressure.cleans.value(),
            errors: pressure.errors.iter().map(Counter::value).collect(),
        }
    }

    /// Servers that somebody has, or that are on their way to or from somebody.
    pub(super) fn in_use(&self) -> usize {
        let [active, _, pinned, _, cancelling] = self.servers;
        active + pinned + cancelling
    }

    fn wait_timeouts(&self) -> u64 {
        self.wait.get(Outcome::TimedOut.index()).map_or(0, Distribution::count)
    }

    fn utilization(&self) -> f64 {
        self.in_use() as f64 / self.max_size.max(1) as f64
    }

    /// The gauges and the counters of both.
    pub(super) fn add(&mut self, other: &Self) {
        self.size += other.size;
        self.reserve += other.reserve;
        self.max_size += other.max_size;
        self.servers.iter_mut().zip(other.servers).for_each(|(count, more)| *count += more);
        self.in_use_peak += other.in_use_peak;
        self.waiting_peak += other.waiting_peak;
        self.clients.iter_mut().zip(other.clients).for_each(|(count, more)| *count += more);
        self.oldest_wait = self.oldest_wait.max(other.oldest_wait);
        if self.place.mode.is_empty() {
            self.place.clone_from(&other.place);
        }
        self.add_counters(other);
    }

    fn add_counters(&mut self, other: &Self) {
        self.exhausted += other.exhausted;
        self.waits += other.waits;
        self.reuses += other.reuses;
        self.affinity_hits += other.affinity_hits;
        self.transaction += &other.transaction;
        self.query += &other.query;
        let (bytes, more) = (self.bytes.as_flattened_mut(), other.bytes.as_flattened());
        bytes.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        self.prepared.iter_mut().zip(other.prepared).for_each(|(count, more)| *count += more);
        self.micros.iter_mut().zip(other.micros).for_each(|(count, more)| *count += more);
        self.done.iter_mut().zip(other.done).for_each(|(count, more)| *count += more);
        self.statements.iter_mut().zip(other.statements).for_each(|(count, more)| *count += more);
        self.connect += &other.connect;
        add_each(&mut self.rejections, &other.rejections);
        add_each(&mut self.connects, &other.connects);
        add_each(&mut self.closes, &other.closes);
        add_each(&mut self.injections, &other.injections);
        add_each(&mut self.refusals, &other.refusals);
        add_each(&mut self.pins, &other.pins);
        add_each(&mut self.slips, &other.slips);
        add_each(&mut self.errors, &other.errors);
        self.cleans += other.cleans;
        self.wait.resize(self.wait.len().max(other.wait.len()), Distribution::default());
        self.wait.iter_mut().zip(&other.wait).for_each(|(wait, more)| *wait += more);
    }
}

fn add_each(counts: &mut Vec<u64>, more: &[u64]) {
    counts.resize(counts.len().max(more.len()), 0);
    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
}

/// What a pool is called on the page.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Name {
    pub(super) database: String,
    user: String,
}

impl Name {
    fn of(key: &PoolKey) -> Self {
        Self { database: cut(&key.database.to_string()), user: cut(&key.user.to_string()) }
    }

    pub(super) fn labels(&self) -> Labels {
        Labels::of(&[("database", &self.database), ("user", &self.user)])
    }
}

/// Which pools have names of their own.
#[derive(Default)]
struct Names {
    most: usize,
    named: HashSet<PoolKey>,
    /// The pools that have none, as they were last read.
    others: HashMap<PoolKey, Reading>,
    /// The counters of those that are gone.
    retired: Reading,
    /// Whether there ever were any.
    has_others: bool,
}

impl Names {
    /// Puts together what is to be seen under each name. A pool keeps the name it got first for as long as it lives.
    ///
    /// Two names may look alike once they are made fit to print: then they are one.
    fn name(&mut self, read: Vec<(PoolKey, Reading)>) -> BTreeMap<Name, Reading> {
        let living: HashSet<_> = read.iter().map(|(key, _)| key.clone()).collect();
        self.named.retain(|key| living.contains(key));
        for (_, gone) in self.others.extract_if(|key, _| !living.contains(key)) {
            self.retired.add_counters(&gone);
        }
        let mut seen: BTreeMap<Name, Reading> = BTreeMap::new();
        for (key, reading) in read {
            let is_other = self.others.contains_key(&key);
            if self.named.contains(&key) || (!is_other && self.named.len() < self.most) {
                seen.entry(Name::of(&key)).or_default().add(&reading);
                self.named.insert(key);
            } else {
                self.others.insert(key, reading);
                self.has_others = true;
            }
        }
        if self.has_others {
            let other = seen.entry(Name { database: OTHER.into(), user: OTHER.into() }).or_default();
            other.add_counters(&self.retired);
            self.others.values().for_each(|reading| other.add(reading));
        }
        seen
    }
}

/// Everything, as it was in one moment.
pub(super) struct Snapshot {
    /// Where the names of PgBouncer's exporter are wanted.
    listed: Option<Listed>,
    pub(super) pools: BTreeMap<Name, Reading>,
    pub(super) max_clients: usize,
    reload: Reload,
    /// Of clients, of servers.
    handshakes: [Vec<u64>; 2],
    /// When certificates end, by file.
    expiries: BTreeMap<String, SystemTime>,
    logins: Vec<u64>,
    login: Distribution,
    departures: Vec<u64>,
    cancels: Vec<u64>,
    is_draining: bool,
    is_ready: bool,
    rejections: u64,
    workers: Vec<f64>,
}

impl Snapshot {
    /// As text.
    pub(super) fn page(&self, format: Format) -> String {
        let mut page = Page::new(format);
        self.write_pools(&mut page);
        self.write_clients(&mut page);
        self.write_tls(&mut page);
        self.write_process(&mut page);
        if let Some(listed) = &self.listed {
            pgbouncer::write(self, listed, &mut page);
        }
        page.finish()
    }

    /// One family, with what each pool has to say in it.
    fn each(&self, page: &mut Page, metric: &Metric, write: impl Fn(&mut Family<'_>, &Labels, &Reading)) {
        let mut family = page.family(metric);
        for (name, reading) in &self.pools {
            write(&mut family, &name.labels(), reading);
        }
    }

    /// One value of each pool.
    fn value<T: Display>(&self, page: &mut Page, metric: &Metric, of: fn(&Reading) -> T) {
        self.each(page, metric, |family, labels, pool| {
            family.value(labels, of(pool));
        });
    }

    /// One value of each pool for each word of the last label.
    fn words<T: Copy + Display>(
        &self,
        page: &mut Page,
        metric: &Metric,
        words: &[&'static str],
        of: fn(&Reading) -> &[T],
    ) {
        self.each(page, metric, |family, labels, pool| {
            family.words(labels, words, of(pool));
        });
    }

    /// One histogram of each pool.
    fn distribution(&self, page: &mut Page, metric: &Metric, of: fn(&Reading) -> &Distribution) {
        self.each(page, metric, |family, labels, pool| {
            family.distribution(labels, of(pool));
        });
    }

    /// As the catalogue has them, from the pool's size to its clients.
    fn write_pools(&self, page: &mut Page) {
        self.write_saturation(page);
        self.write_waits(page);
        self.write_servers(page);
        self.write_identity(page);
        self.write_messages(page);
    }

    fn write_saturation(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        self.value(page, &of::POOL_SIZE, |pool| pool.size);
        self.value(page, &of::POOL_MAX_SIZE, |pool| pool.max_size);
        self.words(page, &of::POOL_SERVERS, &SERVER_STATES, |pool| &pool.servers);
        self.value(page, &of::POOL_SERVERS_PEAK, |pool| pool.in_use_peak);
        self.value(page, &of::POOL_UTILIZATION, Reading::utilization);
        self.value(page, &of::POOL_WAITING, |pool| pool.clients[1]);
        self.value(page, &of::POOL_WAITING_PEAK, |pool| pool.waiting_peak);
        self.value(page, &of::POOL_OLDEST_WAIT, |pool| pool.oldest_wait.as_secs_f64());
        self.value(page, &of::POOL_EXHAUSTED, |pool| pool.exhausted.as_secs_f64());
        self.value(page, &of::POOL_WAITS, |pool| pool.waits);
        self.value(page, &of::POOL_WAIT_TIMEOUTS, Reading::wait_timeouts);
        self.words(page, &of::POOL_REJECTIONS, Rejection::WORDS, |pool| &pool.rejections);
    }

    fn write_waits(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let mut waits = page.family(&of::POOL_WAIT);
        for (Name { database, user }, pool) in &self.pools {
            for (outcome, wait) in Outcome::WORDS.iter().zip(&pool.wait) {
                let labels = Labels::of(&[("database", database), ("user", user), ("outcome", outcome)]);
                waits.distribution(&labels, wait);
            }
        }
        self.distribution(page, &of::TRANSACTION, |pool| &pool.transaction);
        self.distribution(page, &of::QUERY, |pool| &pool.query);
    }

    fn write_servers(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        self.distribution(page, &of::SERVER_CONNECT, |pool| &pool.connect);
        self.words(page, &of::SERVER_CONNECTS, Connected::WORDS, |pool| &pool.connects);
        self.words(page, &of::SERVER_CLOSES, Closing::WORDS, |pool| &pool.closes);
        self.value(page, &of::SERVER_REUSES, |pool| pool.reuses);
        self.value(page, &of::AFFINITY_HITS, |pool| pool.affinity_hits);
        self.words(page, &of::SERVER_ERRORS, &ERROR_CLASSES, |pool| &pool.errors);
    }

    fn write_identity(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let pins = Pin::ALL.map(Pin::name);
        self.words(page, &of::INJECTIONS, Injected::WORDS, |pool| &pool.injections);
        self.words(page, &of::REFUSALS, &IDENTITY_REFUSALS, |pool| &pool.refusals);
        self.words(page, &of::PINS, &pins, |pool| &pool.pins);
        self.words(page, &of::SLIPS, &pins, |pool| &pool.slips);
        self.value(page, &of::CLEANS, |pool| pool.cleans);
    }

    fn write_messages(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let mut bytes = page.family(&of::BYTES);
        for (Name { database, user }, pool) in &self.pools {
            for (side, counts) in ["client", "server"].into_iter().zip(&pool.bytes) {
                let labels = Labels::of(&[("database", database), ("user", user), ("side", side)]);
                bytes.words(&labels, &DIRECTIONS, counts);
            }
        }
        self.words(page, &of::STATEMENTS, &MESSAGES, |pool| &pool.statements);
        self.value(page, &of::PREPARED_HITS, |pool| pool.prepared[0]);
        self.value(page, &of::PREPARED_MISSES, |pool| pool.statements[1]);
        self.value(page, &of::PREPARED_EVICTIONS, |pool| pool.prepared[1]);
        self.words(page, &of::CLIENTS, &CLIENT_STATES, |pool| &pool.clients);
    }

    fn write_clients(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let none = Labels::none();
        page.family(&of::MAX_CLIENTS).value(&none, self.max_clients);
        page.family(&of::CLIENT_LOGINS).words(&none, Login::WORDS, &self.logins);
        page.family(&of::CLIENT_LOGIN).distribution(&none, &self.login);
        page.family(&of::CLIENT_DISCONNECTS).words(&none, Departure::WORDS, &self.departures);
        page.family(&of::CANCELS).words(&none, Cancelled::WORDS, &self.cancels);
    }

    fn write_tls(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let mut family = page.family(&of::TLS_HANDSHAKES);
        for (side, counts) in ["client", "server"].into_iter().zip(&self.handshakes) {
            for (result, resumed, handshake) in [
                ("ok", "false", Handshake::Full),
                ("ok", "true", Handshake::Resumed),
                ("failed", "false", Handshake::Failed),
            ] {
                let labels = Labels::of(&[("side", side), ("result", result), ("resumed", resumed)]);
                family.value(&labels, counts.get(handshake.index()).copied().unwrap_or(0));
            }
        }
        let mut family = page.family(&of::TLS_EXPIRY);
        for (file, ends) in &self.expiries {
            let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
            family.value(&Labels::of(&[("file", file)]), ends.as_secs());
        }
    }

    fn write_process(&self, page: &mut Page) {
        use crate::telemetry::metrics as of;
        let none = Labels::none();
        let version = Labels::of(&[("version", env!("CARGO_PKG_VERSION"))]);
        page.family(&of::BUILD_INFO).value(&version, 1);
        page.family(&of::DRAINING).value(&none, u8::from(self.is_draining));
        page.family(&of::READY).value(&none, u8::from(self.is_ready));
        page.family(&of::RELOAD_SUCCESS).value(&none, u8::from(self.reload.is_applied));
        let at = self.reload.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.family(&of::RELOAD_TIME).value(&none, at.as_secs_f64());
        let mut workers = page.family(&of::WORKER_BUSY);
        for (worker, share) in self.workers.iter().enumerate() {
            workers.value(&Labels::of(&[("worker", &worker.to_string())]), share);
        }
        page.family(&of::HTTP_REJECTIONS).value(&none, self.rejections);
        let process = Process::read();
        maybe(page, &of::PROCESS_CPU, process.cpu_seconds);
        maybe(page, &of::PROCESS_RESIDENT, process.resident_bytes);
        maybe(page, &of::PROCESS_VIRTUAL, process.virtual_bytes);
        maybe(page, &of::PROCESS_FDS, process.open_fds);
        maybe(page, &of::PROCESS_MAX_FDS, process.max_fds);
        maybe(page, &of::PROCESS_START, process.start_seconds);
    }
}

/// When the certificates end that are shown or believed; of several in one file, the first.
fn expiries(proxy: &Proxy, edition: &Edition) -> BTreeMap<String, SystemTime> {
    let own = edition.tls.iter().flat_map(|acceptor| acceptor.expiries());
    let mut first = BTreeMap::new();
    for (file, ends) in own.chain(proxy.pools.connectors().expiries()) {
        let known = first.entry(file.display().to_string()).or_insert(ends);
        *known = ends.min(*known);
    }
    first
}

/// A value of the process, if the system has one.
fn maybe(page: &mut Page, metric: &Metric, value: Option<impl Display>) {
    if let Some(value) = value {
        page.family(metric).value(&Labels::none(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> PoolKey {
        PoolKey { database: format!("d{number}").as_str().into(), user: "u".into() }
    }

    fn reading(waits: u64) -> Reading {
        Reading { waits, size: 1, ..Reading::default() }
    }

    fn names(most: usize) -> Names {
        Names { most, ..Names::default() }
    }

    fn seen(names: &mut Names, pools: &[(usize, u64)]) -> Vec<(String, u64)> {
        let read = pools.iter().map(|(number, waits)| (key(*number), reading(*waits))).collect();
        let seen = names.name(read);
        seen.into_iter().map(|(name, reading)| (name.database, reading.waits)).collect()
    }

    #[test]
    fn pools_beyond_the_bound_are_one() {
        let mut names = names(2);

        let all = seen(&mut names, &[(0, 1), (1, 2), (2, 3), (3, 4)]);

        assert_eq!(all, [("d0".into(), 1), ("d1".into(), 2), ("other".into(), 7)]);
    }

    #[test]
    fn the_counters_of_the_rest_never_go_back() {
        let mut names = names(1);
        seen(&mut names, &[(0, 1), (1, 5), (2, 7)]);

        let without_one = seen(&mut names, &[(0, 1), (2, 8)]);
        let without_any = seen(&mut names, &[(0, 1)]);

        assert_eq!(without_one, [("d0".into(), 1), ("other".into(), 13)]);
        assert_eq!(without_any, [("d0".into(), 1), ("other".into(), 13)]);
    }

    #[test]
    fn a_name_that_is_free_again_goes_to_the_next_newcomer_and_not_to_one_who_is_counted_among_the_rest() {
        let mut names = names(1);
        seen(&mut names, &[(0, 1), (1, 5)]);

        let then = seen(&mut names, &[(1, 6), (2, 1)]);

        assert_eq!(then, [("d2".into(), 1), ("other".into(), 6)]);
    }

    #[test]
    fn names_that_print_alike_are_one_series() {
        let mut names = names(9);
        let user = || "other".into();
        let alike = [&b"\\xff"[..], &b"\xff"[..], &b"other"[..]];
        let read = alike.map(|name| (PoolKey { database: name.into(), user: user() }, reading(1)));

        let seen = names.name(read.into());

        assert_eq!(seen.len(), 2);
        assert_eq!(seen.values().map(|reading| reading.waits).sum::<u64>(), 3);
    }
}
