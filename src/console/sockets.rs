//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS: connections, one row each.
//!
//! # Promises
//! - Columns are PgBouncer's. Those about its buffers, which SOCKETS and ACTIVE_SOCKETS have more, are 0: buffers here belong to
//!   whoever serves the connection, and are gone while nobody speaks.
//!
//! # Refuses
//! SHOW FDS: cancel keys and passwords are nobody's business.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::console::show::sorted;
use crate::console::table::{Cell, Table};
use crate::names::Printable;
use crate::pool::{Address, CancelTarget, Doing, Pool};
use crate::proxy::Proxy;
use crate::proxy::cancel::{About, ClientHandle, Standing};
use crate::wire::startup::Replication;

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
/// What a table of sockets has more.
const BUFFERS: &[&str] = &[
    "recv_pos:i",
    "pkt_pos:i",
    "pkt_remain:i",
    "send_pos:i",
    "send_remain:i",
    "pkt_avail:i",
    "send_avail:i",
];

/// Which column says what it is doing.
const STATE: usize = 4;

/// Which column says whose it is.
const LINK: usize = 15;

/// Clients and servers, in the words of SHOW SOCKETS.
pub(super) fn all(proxy: &Proxy) -> Table {
    let mut table = Table::new(SOCKETS);
    table.columns.extend(Table::new(BUFFERS).columns);
    let theirs = clients(proxy).rows.into_iter().map(|row| of_all(row, "cl_"));
    let ours = servers(proxy).rows.into_iter().map(|row| of_all(row, "sv_"));
    table.rows.extend(theirs.chain(ours));
    table
}

/// Those that are at work: clients with a server, and their servers.
pub(super) fn active(proxy: &Proxy) -> Table {
    let mut table = all(proxy);
    table.rows.retain(|row| row.get(LINK).is_some_and(|link| *link != "".into()));
    table
}

/// PgBouncer tells idle clients from active ones only in SHOW CLIENTS.
fn of_all(mut row: Vec<Cell>, side: &str) -> Vec<Cell> {
    if let Some(Cell::Text(state)) = row.get_mut(STATE) {
        let word = if side == "cl_" && state == "idle" { "active" } else { state.as_str() };
        *state = format!("{side}{word}");
    }
    row.extend(BUFFERS.iter().map(|_| Cell::from(0_u64)));
    row
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

/// What a client is doing, in PgBouncer's words.
struct Doings {
    state: &'static str,
    wait: Duration,
    /// Its server.
    link: String,
    /// How long ago it asked for what it has or waits for. Of one that is idle nobody knows any more.
    asked: Option<Duration>,
}

impl Doings {
    fn of(client: &ClientHandle, about: &About, now: Instant) -> Self {
        let none = Self { state: "idle", wait: Duration::ZERO, link: String::new(), asked: None };
        match client.standing(now) {
            // The console is its own server.
            Standing::Idle if about.pool.is_none() => Self { state: "active", ..none },
            Standing::Idle => none,
            Standing::Waiting(wait) => Self { state: "waiting", wait, asked: Some(wait), ..none },
            Standing::Active(target) => Self {
                state: "active",
                link: pointer(target.server.0),
                asked: Some(target.life.glimpse(now).lent_for),
                ..none
            },
        }
    }
}

pub(super) fn clients(proxy: &Proxy) -> Table {
    let mut table = Table::new(SOCKETS);
    let now = Instant::now();
    for client in proxy.clients.all() {
        let Some(about) = client.about() else { continue };
        table.rows.push(client_row(&client, about, Doings::of(&client, about, now)));
    }
    table
}

fn replication(kind: Replication) -> &'static str {
    match kind {
        Replication::Logical => "logical",
        Replication::None => "none",
        Replication::Physical => "physical",
    }
}

fn client_row(client: &ClientHandle, about: &About, doings: Doings) -> Vec<Cell> {
    let Doings { state, wait, link, asked } = doings;
    let request = asked.and_then(|ago| SystemTime::now().checked_sub(ago)).unwrap_or(about.since);
    let (remote, port) = address(about.remote);
    let (local, local_port) = address(about.local);
    vec![
        "C".into(),
        about.user.to_string().into(),
        about.database.to_string().into(),
        replication(about.replication).into(),
        state.into(),
        remote,
        port,
        local,
        local_port,
        timestamp(about.since).into(),
        timestamp(request).into(),
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

pub(super) fn servers(proxy: &Proxy) -> Table {
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

pub(super) fn remote_pid(target: &CancelTarget) -> u64 {
    target.key.as_ref().map_or(0, |key| u64::from(key.process_id()))
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
        assert_eq!([SOCKETS, BUFFERS].map(<[_]>::len), [21, 7]);
    }

    #[test]
    fn an_idle_client_is_an_active_socket_in_pgbouncers_words() {
        let mut row: Vec<Cell> = vec!["".into(); SOCKETS.len()];
        row[STATE] = "idle".into();

        let of = |side| of_all(row.clone(), side)[STATE].clone();

        assert_eq!([of("cl_"), of("sv_")], ["cl_active".into(), "sv_idle".into()]);
        assert_eq!(of_all(row.clone(), "sv_").len(), 28);
    }
}
