//! Tables: what there is, what it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::console::averages::Sums;
use crate::console::table::{Cell, Table};
use crate::console::{Console, sockets};
use crate::names::{Printable, User};
use crate::pool::{Host, Injected, Pool};
use crate::proxy::cancel::{ClientHandle, Standing};
use crate::proxy::{Listing, Proxy};
use crate::session::Mode;
use crate::telemetry::instruments::{Counter, Word};

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
const IDENTITY: &[&str] = &[
    "database",
    "enabled",
    "variables",
    "missing",
    "scope",
    "clients:q",
    "injected:q",
    "cancelled:q",
    "failed:q",
    "refused:q",
];
const PINS: &[&str] =
    &["database", "user", "server:q", "remote_pid:i", "client:q", "state", "held_us:q", "pinned_by"];

impl Console {
    /// What is called so; `None` if nothing is.
    pub(super) fn table(&self, what: &str) -> Option<Table> {
        let proxy = &self.proxy;
        Some(match what {
            "active_sockets" => sockets::active(proxy),
            "clients" => sockets::clients(proxy),
            "config" => self.config(),
            "databases" => databases(proxy),
            "dns_hosts" => Table::new(&["hostname", "ttl:q", "addrs"]),
            "dns_zones" => Table::new(&["zonename", "serial:q", "count:i"]),
            "identity" => identity(proxy),
            "lists" => lists(proxy),
            "mem" => memory(),
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
            "servers" => sockets::servers(proxy),
            "sockets" => sockets::all(proxy),
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
        // Exporters ask for it. Here a user's bound is `[users.NAME] max_servers`, and there is none for all.
        table.rows.push(vec!["max_user_connections".into(), "0".into(), "0".into(), "no".into()]);
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

pub(super) fn sorted(mut pools: Vec<Arc<Pool>>) -> Vec<Arc<Pool>> {
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
        ("login_clients", proxy.clients.all().iter().filter(|client| client.about().is_none()).count()),
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

/// There are no slabs of objects here: what is not used is the allocator's. So it is the process, in pages.
fn memory() -> Table {
    let mut table = Table::new(&["name", "size:i", "used:i", "free:i", "memtotal:i"]);
    let page = rustix::param::page_size();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    // proc_pid_statm(5): virtual, resident, shared.
    let pages = statm.split(' ').map_while(|pages| pages.parse::<usize>().ok());
    for (name, pages) in ["virtual", "resident", "shared"].into_iter().zip(pages) {
        table.rows.push(vec![
            name.into(),
            page.into(),
            fitting(pages).into(),
            0_u64.into(),
            fitting(pages * page).into(),
        ]);
    }
    table
}

/// As an int4, which is what the column is.
fn fitting(number: usize) -> usize {
    number.min(i32::MAX as usize)
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
                sockets::remote_pid(&target).into(),
                client.0.into(),
                glimpse.doing.word().into(),
                (glimpse.lent_for.as_micros() as u64).into(),
                glimpse.pins.to_string().into(),
            ]);
        }
    }
    table
}

/// What is injected where and how often; never what was.
fn identity(proxy: &Proxy) -> Table {
    let mut table = Table::new(IDENTITY);
    let (edition, clients) = (proxy.edition(), proxy.clients.all());
    for Listing { name, rules, .. } in edition.catalog.listing() {
        let database = name.as_str().into();
        let identity = &rules.identity;
        let guests = clients.iter().filter(|client| client.about().is_some_and(|it| it.database == database));
        let (mut counts, mut refused) = ([0; Injected::WORDS.len()], 0);
        for pool in proxy.pools.of(Some(&database)) {
            let pressure = pool.pressure();
            counts.iter_mut().zip(pressure.injections.values()).for_each(|(count, more)| *count += more);
            refused += pressure.refusals.iter().map(Counter::value).sum::<u64>();
        }
        let variables: Vec<_> = identity.stated().map(|(name, _)| name).collect();
        table.rows.push(vec![
            name.as_str().into(),
            (if identity.enabled { "yes" } else { "no" }).into(),
            variables.join(",").into(),
            format!("{:?}", identity.missing).to_lowercase().into(),
            format!("{:?}", identity.scope).to_lowercase().into(),
            guests.count().into(),
            counts[Injected::Ok.index()].into(),
            counts[Injected::Cancelled.index()].into(),
            counts[Injected::Failed.index()].into(),
            refused.into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_many_as_pgbouncers() {
        let counts = [POOLS, STATS, STATS_SHORT, DATABASES, USERS].map(<[_]>::len);

        assert_eq!(counts, [17, 23, 12, 17, 8]);
    }
}
