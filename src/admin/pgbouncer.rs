//! The same numbers under the names of prometheus-community's pgbouncer_exporter, for dashboards and alerts people have.
//!
//! # Promises
//! - Names, labels and units are the exporter's; what PgBouncer has and we have not is 0.
//!
//! # Refuses
//! To be complete where a number would lie: there is no DNS cache here, so none is counted.

use std::collections::BTreeMap;

use crate::admin::scrape::{Listed, Reading, Snapshot};
use crate::telemetry::metrics::Metric;
use crate::telemetry::metrics::pgbouncer as of;
use crate::telemetry::page::{Labels, Page};

/// Writes them all.
pub(super) fn write(snapshot: &Snapshot, listed: &Listed, page: &mut Page) {
    let none = Labels::none();
    page.family(&of::UP).value(&none, 1);
    page.family(&of::VERSION)
        .value(&Labels::of(&[("version", concat!("pgusher ", env!("CARGO_PKG_VERSION")))]), 1);
    page.family(&of::MAX_CLIENTS).value(&none, snapshot.max_clients);
    page.family(&of::MAX_USER).value(&none, 0);
    page.family(&of::DATABASES).value(&none, listed.databases.len());
    page.family(&of::USERS).value(&none, listed.users);
    page.family(&of::POOLS).value(&none, snapshot.pools.len());
    page.family(&of::FREE_CLIENTS).value(&none, listed.free_clients);
    let sum = |of: fn(&Reading) -> usize| snapshot.pools.values().map(of).sum::<usize>();
    page.family(&of::USED_CLIENTS).value(&none, sum(|pool| pool.clients.iter().sum()));
    page.family(&of::LOGIN_CLIENTS).value(&none, listed.login_clients);
    page.family(&of::FREE_SERVERS).value(&none, sum(|pool| pool.servers[1]));
    page.family(&of::USED_SERVERS).value(&none, sum(|pool| pool.in_use() + pool.servers[3]));
    write_pools(snapshot, page);
    let databases = databases(snapshot, listed);
    write_databases(&databases, page);
    write_stats(&databases, page);
}

/// A metric, and what it is of a pool or a database.
type Row<T> = (&'static Metric, fn(&Reading) -> T);

fn write_pools(snapshot: &Snapshot, page: &mut Page) {
    let rows: [Row<f64>; 12] = [
        (&of::POOL_CLIENT_ACTIVE, |pool| (pool.clients[0] + pool.clients[2]) as f64),
        (&of::POOL_CLIENT_ACTIVE_CANCEL, |_| 0.0),
        (&of::POOL_CLIENT_WAITING, |pool| pool.clients[1] as f64),
        (&of::POOL_CLIENT_WAITING_CANCEL, |_| 0.0),
        (&of::POOL_SERVER_ACTIVE, |pool| (pool.servers[0] + pool.servers[2]) as f64),
        (&of::POOL_SERVER_ACTIVE_CANCEL, |_| 0.0),
        (&of::POOL_SERVER_BEING_CANCELED, |pool| pool.servers[4] as f64),
        (&of::POOL_SERVER_IDLE, |pool| pool.servers[1] as f64),
        (&of::POOL_SERVER_USED, |_| 0.0),
        (&of::POOL_SERVER_TESTING, |_| 0.0),
        (&of::POOL_SERVER_LOGIN, |pool| pool.servers[3] as f64),
        (&of::POOL_MAXWAIT, |pool| pool.oldest_wait.as_secs_f64()),
    ];
    for (metric, value) in rows {
        let mut family = page.family(metric);
        for (name, pool) in &snapshot.pools {
            family.value(&name.labels(), value(pool));
        }
    }
}

/// PgBouncer counts by database, over its users; those nobody has asked for yet are there too.
fn databases<'a>(snapshot: &'a Snapshot, listed: &'a Listed) -> BTreeMap<&'a str, Reading> {
    let mut databases: BTreeMap<&str, Reading> =
        listed.databases.iter().map(|(name, reading)| (name.as_str(), reading.clone())).collect();
    for (name, pool) in &snapshot.pools {
        let (size, reserve) = (pool.size, pool.reserve);
        let database = databases.entry(&name.database).or_default();
        database.add(pool);
        // These are each pool's own, and not added up.
        (database.size, database.reserve) = (size, reserve);
    }
    databases
}

fn write_databases(databases: &BTreeMap<&str, Reading>, page: &mut Page) {
    let rows: [Row<usize>; 6] = [
        (&of::DATABASE_POOL_SIZE, |database| database.size),
        (&of::DATABASE_RESERVE, |database| database.reserve),
        (&of::DATABASE_MAX, |database| database.place.max_servers),
        (&of::DATABASE_CURRENT, |database| database.in_use() + database.servers[1]),
        (&of::DATABASE_PAUSED, |database| usize::from(database.place.is_paused)),
        (&of::DATABASE_DISABLED, |database| usize::from(database.place.is_disabled)),
    ];
    for (metric, value) in rows {
        let mut family = page.family(metric);
        for (name, database) in databases {
            let place = &database.place;
            let labels = Labels::of(&[
                ("name", name),
                ("host", &place.host),
                ("port", &place.port),
                ("database", &place.database),
                ("force_user", &place.force_user),
                ("pool_mode", place.mode),
            ]);
            family.value(&labels, value(database));
        }
    }
}

fn write_stats(databases: &BTreeMap<&str, Reading>, page: &mut Page) {
    let rows: [Row<f64>; 10] = [
        (&of::STATS_QUERIES, |database| database.done[1] as f64),
        (&of::STATS_QUERY_TIME, |database| seconds(database.micros[1])),
        (&of::STATS_RECEIVED, |database| database.bytes[0][0] as f64),
        (&of::STATS_SENT, |database| database.bytes[0][1] as f64),
        (&of::STATS_WAIT, |database| seconds(database.micros[2])),
        (&of::STATS_TRANSACTIONS, |database| database.done[0] as f64),
        (&of::STATS_TRANSACTION_TIME, |database| seconds(database.micros[0])),
        (&of::STATS_CLIENT_PARSES, |database| database.statements[0] as f64),
        (&of::STATS_SERVER_PARSES, |database| database.statements[1] as f64),
        (&of::STATS_BINDS, |database| database.statements[2] as f64),
    ];
    for (metric, value) in rows {
        let mut family = page.family(metric);
        for (name, database) in databases {
            family.value(&Labels::of(&[("database", name)]), value(database));
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
