//! Tables: what there is, what it does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::console::Console;
use crate::console::averages::Sums;
use crate::console::table::{Cell, Table};
use crate::names::{Printable, User};
use crate::pool::{Address, CancelTarget, Doing, Host, Pool};
use crate::proxy::cancel::{About, ClientHandle, Standing};
use crate::proxy::{Listing, Proxy};
use crate::session::Mode;

const POOLS: &[&str] = &[
    "database",
    "user",
    "cl_active:i",
    "cl_waiting:i",
    "cl_active_cancel_req:i",
    "cl_waiting_cancel_req:i",
    "sv_active:i",
    "sv_active_cancel:i",
    "sv_being_canceled:i",
    "sv_idle:i",
    "sv_used:i",
    "sv_tested:i",
    "sv_login:i",
    "maxwait:i",
    "maxwait_us:i",
    "pool_mode",
    "load_balance_hosts",
];
const STATS: &[&str] = &[
    "database",
    "total_server_assignment_count:n",
    "total_xact_count:n",
    "total_query_count:n",
    "total_received:n",
    "total_sent:n",
    "total_xact_time:n",
    "total_query_time:n",
    "total_wait_time:n",
    "total_client_parse_count:n",
    "total_server_parse_count:n",
    "total_bind_count:n",
    "avg_server_assignment_count:n",
    "avg_xact_count:n",
    "avg_query_count:n",
    "avg_recv:n",
    "avg_sent:n",
    "avg_xact_time:n",
    "avg_query_time:n",
    "avg_wait_time:n",
    "avg_client_parse_count:n",
    "avg_server_parse_count:n",
    "avg_bind_count:n",
];
const STATS_SHORT: &[&str] = &[
    "database",
    "server_assignment_count:n",
    "xact_count:n",
    "query_count:n",
    "bytes_received:n",
    "bytes_sent:n",
    "xact_time:n",
    "query_time:n",
    "wait_time:n",
    "client_parse_count:n",
    "server_parse_count:n",
    "bind_count:n",
];
const DATABASES: &[&str] = &[
    "name",
    "host",
    "port:i",
    "database",
    "force_user",
    "pool_size:i",
    "min_pool_size:i",
    "reserve_pool_size:i",
    "server_lifetime:i",
    "pool_mode",
    "load_balance_hosts",
    "max_connections:i",
    "current_connections:i",
    "max_client_connections:i",
    "current_client_connections:i",
    "paused:i",
    "disabled:i",
];
const SOCKETS: &[&str] = &[
    "type",
    "user",
    "database",
    "replication",
    "state",
    "addr",
    "port:i",
    "local_addr",
    "local_port:i",
    "connect_time",
    "request_time",
    "wait:i",
    "wait_us:i",
    "close_needed:i",
    "ptr",
    "link",
    "remote_pid:i",
    "tls",
    "application_name",
    "prepared_statements:i",
    "id:i",
];
const USERS: &[&str] = &[
    "name",
    "pool_size",
    "reserve_pool_size",
    "pool_mode",
    "max_user_connections:i",
    "current_connections:i",
    "max_user_client_connections:i",
    "current_client_connections:i",
];
const WAITING: &[&str] =
    &["database", "user", "client:q", "application_name", "addr", "wait_us:q", "reason", "servers"];
const PINS: &[&str] =
    &["database", "user", "server:q", "remote_pid:i", "client:q", "state", "held_us:q", "pinned_by"];

impl Console {
    /// What is called so; `None` if nothing is.
    pub(super) fn table(&self, what: &str) -> Option<Table> {
        let proxy = &self.proxy;
        Some(match what {
            "clients" => clients(proxy),
            "config" => self.config(),
            "databases" => databases(proxy),
            "dns_hosts" => Table::new(&["hostname", "ttl:q", "addrs"]),
            "dns_zones" => Table::new(&["zonename", "serial:q", "count:i"]),
            "identity" => identity(proxy),
            "lists" => lists(proxy),
            "mem" => Table::new(&["name", "size:i", "used:i", "free:i", "memtotal:i"]),
            "peer_pools" => Table::new(&[
                "peer_id:i",
                "cl_active_cancel_req:i",
                "cl_waiting_cancel_req:i",
                "sv_active_cancel:i",
                "sv_login:i",
            ]),
            "peers" => Table::new(&["peer_id:i", "host", "port:i", "pool_size:i"]),
            "pins" => pins(proxy),
            "pools" => pools(proxy),
            "servers" => servers(proxy),
            "state" => state(proxy),
            "stats" => self.stats(),
            "stats_averages" => self.stats_of(|console, name, _| console.averages.of(name)),
            "stats_totals" => self.stats_of(|_, _, sums| *sums),
            "totals" => self.totals(),
            "users" => users(proxy),
            "version" => one("version", proxy.edition().settings.console.version()),
            "waiting" => waiting(proxy),
            _ => return None,
        })
    }

    fn stats(&self) -> Table {
        let mut table = Table::new(STATS);
        for (name, sums) in sums(&self.proxy) {
            let numbers = sums.into_iter().chain(self.averages.of(&name)).map(Cell::from);
            table.rows.push(std::iter::once(Cell::from(name)).chain(numbers).collect());
        }
        table
    }

    fn stats_of(&self, numbers: impl Fn(&Self, &str, &Sums) -> Sums) -> Table {
        let mut table = Table::new(STATS_SHORT);
        for (name, sums) in sums(&self.proxy) {
            let numbers = numbers(self, &name, &sums).map(Cell::from);
            table.rows.push(std::iter::once(Cell::from(name)).chain(numbers).collect());
        }
        table
    }

    fn totals(&self) -> Table {
        let mut table = Table::new(&["name", "value:n"]);
        let (mut totals, mut averages) = ([0; 11], [0; 11]);
        for (name, sums) in sums(&self.proxy) {
            add(&mut totals, &sums);
            add(&mut averages, &self.averages.of(&name));
        }
        let names = STATS.iter().skip(1).map(|name| name.trim_end_matches(":n"));
        let numbers = totals.into_iter().chain(averages);
        table.rows.extend(names.zip(numbers).map(|(name, number)| vec![name.into(), number.into()]));
        table
    }

    fn config(&self) -> Table {
        let mut table = Table::new(&["key", "value", "default", "changeable"]);
        for shown in self.reloader.shown() {
            let changeable = if shown.needs_restart { "no" } else { "yes" };
            table.rows.push(vec![
                shown.key.into(),
                shown.value.into(),
                shown.default.into(),
                changeable.into(),
            ]);
        }
        table
    }
}

/// A table of one value.
pub(super) fn one(column: &'static str, value: &str) -> Table {
    let mut table = Table::new(&[]);
    table.columns.push((column, crate::console::table::Kind::Text));
    table.rows.push(vec![value.into()]);
    table
}

fn add(to: &mut Sums, more: &Sums) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to = to.saturating_add(*more));
}

/// The counts of every database, by name.
pub(super) fn sums(proxy: &Proxy) -> BTreeMap<String, Sums> {
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
    for pool in proxy.pools.all() {
        let stats = pool.stats();
        let numbers = [
            &stats.assignments,
            &stats.transactions,
            &stats.queries,
            &stats.received,
            &stats.sent,
            &stats.transaction_time,
            &stats.query_time,
            &stats.wait_time,
            &stats.client_parses,
            &stats.server_parses,
            &stats.binds,
        ]
        .map(|number| number.load(Ordering::Relaxed));
        add(sums.entry(pool.key().database.to_string()).or_default(), &numbers);
    }
    sums
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Session => "session",
        Mode::Transaction => "transaction",
        Mode::Statement => "statement",
    }
}

/// The clients of every pool that are waiting: how many, and the longest wait.
fn waits(clients: &[Arc<ClientHandle>], pool: &Pool, now: Instant) -> (usize, Duration) {
    let waits =
        clients.iter().filter(|client| is_of(client, pool)).filter_map(|client| match client.standing(now) {
            Standing::Waiting(wait) => Some(wait),
            _ => None,
        });
    waits.fold((0, Duration::ZERO), |(count, longest), wait| (count + 1, longest.max(wait)))
}

fn is_of(client: &ClientHandle, pool: &Pool) -> bool {
    client.about().and_then(|about| about.pool.as_ref()) == Some(pool.key())
}

fn pools(proxy: &Proxy) -> Table {
    let mut table = Table::new(POOLS);
    let (edition, clients, now) = (proxy.edition(), proxy.clients.all(), Instant::now());
    for pool in sorted(proxy.pools.all()) {
        let key = pool.key();
        let (waiting, longest) = waits(&clients, &pool, now);
        let lives = pool.lives();
        let cancelled = lives.iter().filter(|target| target.is_aimed_at()).count();
        let (size, idle) = pool.servers();
        let seat = edition.catalog.seat(&key.database, &key.user);
        let mode = seat.map_or("transaction", |seat| mode_word(seat.rules.mode));
        table.rows.push(vec![
            key.database.to_string().into(),
            key.user.to_string().into(),
            pool.clients().saturating_sub(waiting).into(),
            waiting.into(),
            0_u64.into(),
            0_u64.into(),
            size.saturating_sub(idle).saturating_sub(cancelled).into(),
            0_u64.into(),
            cancelled.into(),
            idle.into(),
            0_u64.into(),
            0_u64.into(),
            pool.connecting().into(),
            longest.as_secs().into(),
            u64::from(longest.subsec_micros()).into(),
            mode.into(),
            Cell::Null,
        ]);
    }
    table
}

fn sorted(mut pools: Vec<Arc<Pool>>) -> Vec<Arc<Pool>> {
    pools.sort_by_cached_key(|pool| pool.key().to_string());
    pools
}

/// Where a database is, in PgBouncer's two columns.
fn place(hosts: &[Host]) -> (Cell, Cell) {
    let host = |host: &Host| match host {
        Host::Tcp { host, .. } => host.clone(),
        Host::Unix { directory, .. } => directory.display().to_string(),
    };
    let port = hosts.first().map(|host| match host {
        Host::Tcp { port, .. } | Host::Unix { port, .. } => u64::from(*port),
    });
    let names: Vec<_> = hosts.iter().map(host).collect();
    (names.join(",").into(), port.into())
}

fn databases(proxy: &Proxy) -> Table {
    let mut table = Table::new(DATABASES);
    let (edition, clients) = (proxy.edition(), proxy.clients.all());
    for Listing { name, upstream, settings, rules } in edition.catalog.listing() {
        let database = name.as_str().into();
        let pools = proxy.pools.of(Some(&database));
        let guests = clients.iter().filter(|client| client.about().is_some_and(|it| it.database == database));
        let (host, port) = place(&upstream.hosts);
        let lifetime = settings.lifetime.map_or(0, |lifetime| lifetime.as_secs());
        table.rows.push(vec![
            name.as_str().into(),
            host,
            port,
            upstream.dbname.clone().unwrap_or_else(|| name.clone()).into(),
            upstream.user.clone().into(),
            settings.size.into(),
            settings.min.into(),
            settings.reserve.into(),
            lifetime.into(),
            mode_word(rules.mode).into(),
            Cell::Null,
            upstream.max_servers.unwrap_or(0).into(),
            pools.iter().map(|pool| pool.servers().0).sum::<usize>().into(),
            upstream.max_clients.unwrap_or(0).into(),
            guests.count().into(),
            u64::from(proxy.pools.is_paused(&database)).into(),
            u64::from(proxy.pools.is_disabled(&database)).into(),
        ]);
    }
    table
}

fn users(proxy: &Proxy) -> Table {
    let mut table = Table::new(USERS);
    let (edition, clients, pools) = (proxy.edition(), proxy.clients.all(), proxy.pools.all());
    for entry in edition.catalog.users() {
        let user = User::from(entry.name.as_str());
        let servers = pools.iter().filter(|pool| pool.key().user == user).map(|pool| pool.servers().0);
        let guests = clients.iter().filter(|client| client.about().is_some_and(|it| it.user == user)).count();
        table.rows.push(vec![
            entry.name.as_str().into(),
            entry.size.map_or_else(String::new, |size| size.to_string()).into(),
            "".into(),
            entry.mode.map(mode_word).into(),
            entry.max_servers.unwrap_or(0).into(),
            servers.sum::<usize>().into(),
            entry.max_clients.unwrap_or(0).into(),
            guests.into(),
        ]);
    }
    table
}

fn address(address: Option<SocketAddr>) -> (Cell, Cell) {
    match address {
        Some(address) => (address.ip().to_string().into(), u64::from(address.port()).into()),
        None => ("unix".into(), 0_u64.into()),
    }
}

fn pointer(number: u64) -> String {
    format!("{number:#x}")
}

fn clients(proxy: &Proxy) -> Table {
    let mut table = Table::new(SOCKETS);
    let now = Instant::now();
    for client in proxy.clients.all() {
        let Some(about) = client.about() else { continue };
        let (state, wait, link) = match client.standing(now) {
            // The console is its own server.
            Standing::Idle if about.pool.is_none() => ("active", Duration::ZERO, String::new()),
            Standing::Idle => ("idle", Duration::ZERO, String::new()),
            Standing::Waiting(wait) => ("waiting", wait, String::new()),
            Standing::Active(target) => ("active", Duration::ZERO, pointer(target.server.0)),
        };
        table.rows.push(client_row(&client, about, state, wait, link));
    }
    table
}

fn client_row(client: &ClientHandle, about: &About, state: &str, wait: Duration, link: String) -> Vec<Cell> {
    let (remote, port) = address(about.remote);
    let (local, local_port) = address(about.local);
    vec![
        "C".into(),
        about.user.to_string().into(),
        about.database.to_string().into(),
        about.replication.into(),
        state.into(),
        remote,
        port,
        local,
        local_port,
        timestamp(about.since).into(),
        timestamp(about.since).into(),
        wait.as_secs().into(),
        u64::from(wait.subsec_micros()).into(),
        0_u64.into(),
        pointer(client.id.0).into(),
        link.into(),
        0_u64.into(),
        (if about.is_encrypted { "TLS" } else { "" }).into(),
        Printable(&about.application_name).to_string().into(),
        client.statements().into(),
        client.id.0.into(),
    ]
}

fn servers(proxy: &Proxy) -> Table {
    let mut table = Table::new(SOCKETS);
    let now = Instant::now();
    for pool in sorted(proxy.pools.all()) {
        for target in pool.lives() {
            table.rows.push(server_row(&pool, &target, now));
        }
    }
    table
}

fn server_row(pool: &Pool, target: &CancelTarget, now: Instant) -> Vec<Cell> {
    let glimpse = target.life.glimpse(now);
    let state = match glimpse.doing {
        _ if target.is_aimed_at() => "being_canceled",
        Doing::Idle => "idle",
        _ => "active",
    };
    let (addr, port) = match &target.address {
        Address::Tcp(address) | Address::Tls(address, ..) => {
            (address.ip().to_string(), u64::from(address.port()))
        }
        Address::Unix(_, port) => ("unix".to_owned(), u64::from(*port)),
    };
    let since = SystemTime::now().checked_sub(glimpse.for_).unwrap_or(UNIX_EPOCH);
    vec![
        "S".into(),
        pool.key().user.to_string().into(),
        pool.key().database.to_string().into(),
        "none".into(),
        state.into(),
        addr.into(),
        port.into(),
        "".into(),
        0_u64.into(),
        timestamp(target.life.born_at()).into(),
        timestamp(since).into(),
        0_u64.into(),
        0_u64.into(),
        u64::from(pool.is_old(target)).into(),
        pointer(target.server.0).into(),
        glimpse.client.map_or_else(String::new, |client| pointer(client.0)).into(),
        remote_pid(target).into(),
        (if matches!(target.address, Address::Tls(..)) { "TLS" } else { "" }).into(),
        "".into(),
        target.life.statements().into(),
        target.server.0.into(),
    ]
}

fn remote_pid(target: &CancelTarget) -> u64 {
    target.key.as_ref().map_or(0, |key| u64::from(key.process_id()))
}

fn lists(proxy: &Proxy) -> Table {
    let mut table = Table::new(&["list", "items:i"]);
    let edition = proxy.edition();
    let (used, pools) = (proxy.clients.count(), proxy.pools.all());
    let servers: usize = pools.iter().map(|pool| pool.servers().0).sum();
    let idle: usize = pools.iter().map(|pool| pool.servers().1).sum();
    for (list, items) in [
        ("databases", edition.catalog.listing().count()),
        ("users", edition.catalog.users().count()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", proxy.places.free()),
        ("used_clients", used),
        ("login_clients", 0),
        ("free_servers", idle),
        ("used_servers", servers.saturating_sub(idle)),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ] {
        table.rows.push(vec![list.into(), items.into()]);
    }
    table
}

fn state(proxy: &Proxy) -> Table {
    let mut table = Table::new(&["key", "value"]);
    let is_paused = proxy.pools.are_paused();
    for (key, is_so) in [("active", !is_paused), ("paused", is_paused), ("suspended", false)] {
        table.rows.push(vec![key.into(), (if is_so { "yes" } else { "no" }).into()]);
    }
    table
}

/// Who waits, and why.
fn waiting(proxy: &Proxy) -> Table {
    let mut table = Table::new(WAITING);
    let (clients, now) = (proxy.clients.all(), Instant::now());
    for pool in sorted(proxy.pools.all()) {
        let mut waiting: Vec<_> = clients
            .iter()
            .filter(|client| is_of(client, &pool))
            .filter_map(|client| match client.standing(now) {
                Standing::Waiting(wait) => Some((wait, client)),
                _ => None,
            })
            .collect();
        waiting.sort_by_key(|(wait, _)| std::cmp::Reverse(*wait));
        let (reason, holders) = (pool.why_waiting(), pool.holders(now));
        for (wait, client) in waiting {
            let Some(about) = client.about() else { continue };
            table.rows.push(vec![
                about.database.to_string().into(),
                about.user.to_string().into(),
                client.id.0.into(),
                Printable(&about.application_name).to_string().into(),
                about.remote.map_or_else(|| "unix".to_owned(), |remote| remote.to_string()).into(),
                (wait.as_micros() as u64).into(),
                reason.into(),
                holders.as_str().into(),
            ]);
        }
    }
    table
}

/// Servers that a client keeps between its transactions, and what for.
fn pins(proxy: &Proxy) -> Table {
    let mut table = Table::new(PINS);
    let now = Instant::now();
    for pool in sorted(proxy.pools.all()) {
        for target in pool.lives() {
            let glimpse = target.life.glimpse(now);
            let (Some(client), false) = (glimpse.client, glimpse.pins.is_empty()) else { continue };
            table.rows.push(vec![
                pool.key().database.to_string().into(),
                pool.key().user.to_string().into(),
                target.server.0.into(),
                remote_pid(&target).into(),
                client.0.into(),
                glimpse.doing.word().into(),
                (glimpse.lent_for.as_micros() as u64).into(),
                glimpse.pins.to_string().into(),
            ]);
        }
    }
    table
}

/// What is injected where; never what was.
fn identity(proxy: &Proxy) -> Table {
    let mut table = Table::new(&["database", "enabled", "variables", "missing", "scope", "clients:q"]);
    let (edition, clients) = (proxy.edition(), proxy.clients.all());
    for Listing { name, rules, .. } in edition.catalog.listing() {
        let database = name.as_str().into();
        let identity = &rules.identity;
        let guests = clients.iter().filter(|client| client.about().is_some_and(|it| it.database == database));
        let variables: Vec<_> = identity.stated().map(|(name, _)| name).collect();
        table.rows.push(vec![
            name.as_str().into(),
            (if identity.enabled { "yes" } else { "no" }).into(),
            variables.join(",").into(),
            format!("{:?}", identity.missing).to_lowercase().into(),
            format!("{:?}", identity.scope).to_lowercase().into(),
            guests.count().into(),
        ]);
    }
    table
}

/// As PgBouncer writes it: `2026-11-21 17:18:44 UTC`.
fn timestamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second % 3_600 / 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of the day so many after 1970-01-01, counted in years that begin in March, so that the day that
/// comes and goes is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(1_795_281_524)), "2026-11-21 17:18:44 UTC");
    }

    #[test]
    fn columns_are_as_many_as_pgbouncers() {
        let counts = [POOLS, STATS, STATS_SHORT, DATABASES, SOCKETS, USERS].map(<[_]>::len);

        assert_eq!(counts, [17, 23, 12, 17, 21, 8]);
    }
}
