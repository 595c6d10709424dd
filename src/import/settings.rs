//! Every key of PgBouncer, and what becomes of it.
//!
//! The order is that of `bouncer_params` in PgBouncer's main.c, and of `parse_database` and `parse_user` in loader.c, so
//! that the next release can be laid beside it.
//!
//! # Promises
//! - A key that is not in the table is none of PgBouncer 1.25.
//! - A value that its kind refuses is an error, whatever becomes of the key: PgBouncer would not have started.
//! - What is written as PgBouncer has it anyway is no remark.
//!
//! # Refuses
//! To know our keys: what a value becomes is in [`translate`](super::translate).

use std::collections::BTreeMap;

use crate::import::remark::{Kind, Remarks, Spot};

/// What a value may be.
#[derive(Clone, Copy)]
enum Value {
    /// A whole number, as C's `strtol` reads it with any base.
    Number,
    /// Seconds, with a fraction.
    Seconds,
    /// Any text.
    Text,
    /// One of these.
    Word(&'static [&'static str]),
}

/// What becomes of it.
#[derive(Clone, Copy)]
enum Fate {
    /// [`translate`](super::translate) says it in our words.
    Carried,
    /// There is nothing like it, because.
    Lost(&'static str),
    /// It is what happens anyway.
    Needless(&'static str),
}

use Fate::{Carried, Lost, Needless};
use Value::{Number, Seconds, Text, Word};

const AUTH_TYPES: Value =
    Word(&["any", "cert", "hba", "ldap", "md5", "pam", "plain", "scram-sha-256", "trust"]);
const SSLMODES: Value = Word(&["allow", "disable", "prefer", "require", "verify-ca", "verify-full"]);

/// The modes of pools.
pub(super) const MODES: &[&str] = &["session", "transaction", "statement"];

const NO_LOG_FILE: Fate = Lost("the log goes to standard error; whoever starts pgusher keeps it");
const NO_CHOICE: Fate = Lost("what is offered is fixed: the suites and curves of rustls, none of them weak");
const RESOLVED_ANEW: Fate = Needless("names are resolved anew for every connection, and nothing is cached");
const PACKETS: Fate = Needless("buffers grow for what is large and shrink after");
const KERNEL: Fate = Lost("the system's own value holds");

/// A key, what it may be, PgBouncer's default, what becomes of it.
struct Row(&'static str, Value, &'static str, Fate);

/// The keys of one kind of section.
#[derive(Clone, Copy)]
pub(super) struct Keys(&'static str, &'static [Row]);

/// Of `[pgbouncer]`.
pub(super) const PGBOUNCER: Keys = Keys("pgbouncer", ROWS);

/// Of an entry of `[databases]`.
pub(super) const DATABASES: Keys = Keys(
    "databases",
    &[
        Row("dbname", Text, "", Carried),
        Row("host", Text, "", Carried),
        Row("port", Number, "5432", Carried),
        Row("user", Text, "", Carried),
        Row("password", Text, "", Carried),
        Row("auth_user", Text, "", Carried),
        Row("auth_dbname", Text, "", Carried),
        Row("client_encoding", Text, "", Carried),
        Row("datestyle", Text, "", Carried),
        Row("timezone", Text, "", Carried),
        Row("pool_size", Number, "-1", Carried),
        Row("min_pool_size", Number, "-1", Carried),
        Row("reserve_pool", Number, "-1", Carried),
        Row("reserve_pool_size", Number, "-1", Carried),
        Row("query_wait_timeout", Number, "-1", Carried),
        Row("max_db_connections", Number, "-1", Carried),
        Row("max_db_client_connections", Number, "-1", Carried),
        Row("server_lifetime", Number, "-1", Carried),
        Row("load_balance_hosts", Word(&["disable", "round-robin"]), "round-robin", Carried),
        Row("pool_mode", Word(MODES), "", Carried),
        Row("connect_query", Text, "", Carried),
        Row("application_name", Text, "", Carried),
        Row("auth_query", Text, "", Carried),
    ],
);

/// Of an entry of `[users]`.
pub(super) const USERS: Keys = Keys(
    "users",
    &[
        Row("pool_mode", Word(MODES), "", Carried),
        Row("pool_size", Number, "-1", Carried),
        Row("reserve_pool_size", Number, "-1", Lost("a user has no reserve of its own: set the database's")),
        Row("max_user_connections", Number, "-1", Carried),
        Row("transaction_timeout", Number, "0", OF_DATABASE),
        Row("idle_transaction_timeout", Number, "0", OF_DATABASE),
        Row("query_timeout", Number, "0", OF_DATABASE),
        Row("query_wait_timeout", Number, "-1", OF_DATABASE),
        Row(
            "client_idle_timeout",
            Number,
            "0",
            Lost("a user has no timeout of its own: set listen.client_idle_timeout"),
        ),
        Row("max_user_client_connections", Number, "-1", Carried),
    ],
);

/// Of an entry of `[peers]`, which is not carried over as a whole.
pub(super) const PEERS: Keys = Keys(
    "peers",
    &[
        Row("host", Text, "", Carried),
        Row("port", Number, "6432", Carried),
        Row("pool_size", Number, "-1", Carried),
    ],
);

const OF_DATABASE: Fate =
    Lost("a user has no timeout of its own: set it for a database that this user has for itself");

const ROWS: &[Row] = &[
    Row("admin_users", Text, "", Carried),
    Row("application_name_add_host", Number, "0", Carried),
    Row("auth_dbname", Text, "", Carried),
    Row("auth_file", Text, "", Carried),
    Row(
        "auth_hba_file",
        Text,
        "",
        Lost("write its lines into listen.rules: they are read as in pg_hba.conf"),
    ),
    Row(
        "auth_ident_file",
        Text,
        "",
        Lost("write its lines into listen.maps: they are read as in pg_ident.conf"),
    ),
    Row("auth_ldap_options", Text, "", Lost("passwords are not checked by LDAP")),
    Row("auth_query", Text, "", Carried),
    Row("auth_type", AUTH_TYPES, "md5", Carried),
    Row("auth_user", Text, "", Carried),
    Row(
        "autodb_idle_timeout",
        Seconds,
        "3600",
        Needless("a pool without servers costs next to nothing, and keeps no connection"),
    ),
    Row(
        "cancel_wait_timeout",
        Seconds,
        "10",
        Needless("a cancel request never waits for a place in the pool"),
    ),
    Row("client_idle_timeout", Seconds, "0", Carried),
    Row("client_login_timeout", Seconds, "60", Carried),
    Row("client_tls13_ciphers", Text, "", NO_CHOICE),
    Row("client_tls_ca_file", Text, "", Carried),
    Row("client_tls_cert_file", Text, "", Carried),
    Row("client_tls_ciphers", Text, "default", NO_CHOICE),
    Row("client_tls_dheparams", Text, "auto", NO_CHOICE),
    Row("client_tls_ecdhcurve", Text, "auto", NO_CHOICE),
    Row("client_tls_key_file", Text, "", Carried),
    Row("client_tls_protocols", Text, "secure", Carried),
    Row("client_tls_sslmode", SSLMODES, "disable", Carried),
    Row("conffile", Text, "", Lost("the file is given by --config or PGUSHER_CONFIG")),
    Row("default_pool_size", Number, "20", Carried),
    Row("disable_pqexec", Number, "0", Lost("simple queries are always served")),
    Row("dns_max_ttl", Seconds, "15", RESOLVED_ANEW),
    Row("dns_nxdomain_ttl", Seconds, "15", RESOLVED_ANEW),
    Row(
        "dns_zone_check_period",
        Seconds,
        "0",
        Lost("zones are not watched; a new connection goes where the name points then"),
    ),
    Row("idle_transaction_timeout", Seconds, "0", Carried),
    Row("ignore_startup_parameters", Text, "", Carried),
    Row("job_name", Text, "pgbouncer", Lost("there is no service of Windows")),
    Row("listen_addr", Text, "", Carried),
    Row("listen_backlog", Number, "128", Carried),
    Row("listen_port", Number, "6432", Carried),
    Row("log_connections", Number, "1", Carried),
    Row("log_disconnections", Number, "1", Carried),
    Row(
        "log_pooler_errors",
        Number,
        "1",
        Lost("what clients are told is always in the log; log.level is what is shown"),
    ),
    Row("log_stats", Number, "1", Needless("no statistics are written to the log")),
    Row("logfile", Text, "", NO_LOG_FILE),
    Row("login_notify_message", Text, "", Lost("clients are told nothing that PostgreSQL does not say")),
    Row("max_client_conn", Number, "100", Carried),
    Row("max_db_client_connections", Number, "0", Carried),
    Row("max_db_connections", Number, "0", Carried),
    Row(
        "max_packet_size",
        Number,
        "2147483647",
        Lost("packets of any size stream through; before the login they are bounded"),
    ),
    Row("max_prepared_statements", Number, "200", Carried),
    Row("max_user_client_connections", Number, "0", Carried),
    Row("max_user_connections", Number, "0", Carried),
    Row("min_pool_size", Number, "0", Carried),
    Row("peer_id", Number, "0", Lost(NO_PEERS)),
    Row(
        "pidfile",
        Text,
        "",
        Lost("pgusher does not leave its terminal; whoever starts it knows its process"),
    ),
    Row("pkt_buf", Number, "4096", PACKETS),
    Row(
        "pool_idle_timeout",
        Seconds,
        "0",
        Needless("a pool without servers costs next to nothing, and keeps no connection"),
    ),
    Row("pool_mode", Word(MODES), "session", Carried),
    Row("query_timeout", Seconds, "0", Carried),
    Row(
        "query_wait_notify",
        Number,
        "5",
        Lost("a waiting client is told nothing until it is served or pool.acquire_timeout is over"),
    ),
    Row("query_wait_timeout", Seconds, "120", Carried),
    Row("reserve_pool_size", Number, "0", Carried),
    Row("reserve_pool_timeout", Seconds, "5", Carried),
    Row("resolv_conf", Text, "", Lost("names are resolved as the system does")),
    Row("sbuf_loopcnt", Number, "5", PACKETS),
    Row(
        "scram_iterations",
        Number,
        "4096",
        Lost("a verifier has its own count; a plain password is proven with PostgreSQL's default, 4096"),
    ),
    Row("server_check_delay", Seconds, "30", Carried),
    Row("server_check_query", Text, "<empty>", Carried),
    Row("server_connect_timeout", Seconds, "15", Carried),
    Row("server_fast_close", Number, "0", Lost("a session keeps its server until it ends")),
    Row("server_idle_timeout", Seconds, "600", Carried),
    Row("server_lifetime", Seconds, "3600", Carried),
    Row(
        "server_login_retry",
        Seconds,
        "15",
        Lost(
            "pauses between attempts begin at pool.connect_retry (200ms) and grow tenfold; clients wait meanwhile, up to pool.acquire_timeout",
        ),
    ),
    Row(
        "server_reset_query",
        Text,
        "DISCARD ALL",
        Lost("what a client leaves behind is looked for and removed, without a query of one's own"),
    ),
    Row(
        "server_reset_query_always",
        Number,
        "0",
        Needless("what a client leaves behind is looked for and removed in every mode"),
    ),
    Row(
        "server_round_robin",
        Number,
        "0",
        Lost("the server used last is used next, so that those not needed can close"),
    ),
    Row("server_tls13_ciphers", Text, "", NO_CHOICE),
    Row("server_tls_ca_file", Text, "", Carried),
    Row("server_tls_cert_file", Text, "", Carried),
    Row("server_tls_ciphers", Text, "default", NO_CHOICE),
    Row("server_tls_key_file", Text, "", Carried),
    Row("server_tls_protocols", Text, "secure", Carried),
    Row("server_tls_sslmode", SSLMODES, "prefer", Carried),
    Row("service_name", Text, "pgbouncer", Lost("there is no service of Windows")),
    Row("so_reuseport", Number, "0", Lost("one process serves with several threads: set listen.workers")),
    Row("stats_period", Number, "60", Lost("no averages are computed here")),
    Row("stats_users", Text, "", Carried),
    Row(
        "suspend_timeout",
        Seconds,
        "10",
        Lost("there is no SUSPEND and no online restart; a drain hands over to the next process"),
    ),
    Row("syslog", Number, "0", NO_LOG_FILE),
    Row("syslog_facility", Text, "daemon", NO_LOG_FILE),
    Row("syslog_ident", Text, "pgbouncer", NO_LOG_FILE),
    Row("tcp_defer_accept", Number, "1", KERNEL),
    Row("tcp_keepalive", Number, "1", Carried),
    Row("tcp_keepcnt", Number, "0", KERNEL),
    Row("tcp_keepidle", Number, "0", Carried),
    Row("tcp_keepintvl", Number, "0", KERNEL),
    Row("tcp_socket_buffer", Number, "0", KERNEL),
    Row("tcp_user_timeout", Number, "0", Carried),
    Row("track_extra_parameters", Text, "IntervalStyle", Needless("whatever a client sets follows it")),
    Row("transaction_timeout", Seconds, "0", Carried),
    Row("unix_socket_dir", Text, "/tmp", Carried),
    Row("unix_socket_group", Text, "", Lost("give the directory the group, and its setgid bit")),
    Row("unix_socket_mode", Number, "0777", Carried),
    Row("user", Text, "", Lost("pgusher does not change its user; start it as the one it shall be")),
    Row("verbose", Number, "0", Carried),
];

/// Every key that is known, with its section.
pub fn known() -> Vec<(&'static str, &'static str)> {
    let of = |Keys(section, rows): Keys| rows.iter().map(move |Row(key, ..)| (section, *key));
    [PGBOUNCER, DATABASES, USERS, PEERS].into_iter().flat_map(of).collect()
}

/// What is written in one place, every value of its kind.
pub(super) struct Settings {
    rows: &'static [Row],
    written: BTreeMap<&'static str, (Spot, String)>,
}

impl Settings {
    /// Takes what is written, and says what becomes of what is not carried over; `owner` is the entry it is written in.
    pub(super) fn read<'a>(
        Keys(section, rows): Keys,
        owner: Option<&str>,
        entries: impl Iterator<Item = (&'a Spot, &'a str, &'a str)>,
        remarks: &mut Remarks,
    ) -> Self {
        let mut written = BTreeMap::new();
        for (spot, key, value) in entries {
            let subject = match owner {
                Some(owner) => format!("[{section}] {owner}: {key} = {value}"),
                None => format!("{key} = {value}"),
            };
            let Some(Row(key, kind, default, fate)) = rows.iter().find(|Row(known, ..)| *known == key) else {
                match owner {
                    // It may be a key of a later release.
                    None => remarks.add(Kind::Lost, spot, subject, "PgBouncer 1.25 has no such key"),
                    // It may be the end of a password with a blank in it.
                    Some(owner) => {
                        remarks.add(
                            Kind::Error,
                            spot,
                            format!("[{section}] {owner}"),
                            "a key PgBouncer 1.25 does not have there",
                        );
                    }
                }
                continue;
            };
            if let Err(expected) = accepted(*kind, value) {
                remarks.add(Kind::Error, spot, subject, expected);
                continue;
            }
            written.insert(*key, (spot.clone(), value.to_owned()));
            match fate {
                Carried => {}
                _ if value.is_empty() || means_the_same(*kind, value, default) => {}
                Lost(why) => remarks.add(Kind::Lost, spot, subject, *why),
                Needless(why) => remarks.add(Kind::Needless, spot, subject, *why),
            }
        }
        Self { rows, written }
    }

    /// Where a key is written, if it is.
    pub(super) fn spot(&self, key: &str) -> Option<&Spot> {
        self.written.get(key).map(|(spot, _)| spot)
    }

    /// The value of a key, or PgBouncer's default.
    pub(super) fn text(&self, key: &'static str) -> &str {
        let default = || {
            self.rows.iter().find(|Row(name, ..)| *name == key).map_or("", |Row(_, _, default, _)| default)
        };
        self.written.get(key).map_or_else(default, |(_, value)| value)
    }

    /// The value of a key, if there is one.
    pub(super) fn given(&self, key: &'static str) -> Option<&str> {
        Some(self.text(key)).filter(|value| !value.is_empty())
    }

    /// A number that is not negative: what PgBouncer has for "not set" is none.
    pub(super) fn count(&self, key: &'static str) -> Option<i64> {
        Some(self.number(key)).filter(|number| *number >= 0)
    }

    /// The same, a number.
    pub(super) fn number(&self, key: &'static str) -> i64 {
        number(self.text(key)).unwrap_or(0)
    }

    /// The same, a duration in microseconds.
    pub(super) fn micros(&self, key: &'static str) -> u64 {
        micros(self.text(key)).unwrap_or(0)
    }
}

fn accepted(kind: Value, value: &str) -> Result<(), String> {
    match kind {
        Number if number(value).is_none() => Err("expected a whole number".into()),
        Seconds if micros(value).is_none() => Err("expected seconds".into()),
        Word(words) if !words.contains(&value) => Err(format!("expected one of {}", words.join(", "))),
        _ => Ok(()),
    }
}

fn means_the_same(kind: Value, one: &str, other: &str) -> bool {
    match kind {
        Number => number(one) == number(other),
        Seconds => micros(one) == micros(other),
        Text | Word(_) => one == other,
    }
}

/// A whole number as C's `strtol` with base 0 has it: `12`, `-1`, `0777`, `0x1ff`.
pub(super) fn number(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (16, digits),
        None if digits.len() > 1 && digits.starts_with('0') => (8, digits.trim_start_matches('0')),
        None => (10, digits),
    };
    if radix == 8 && digits.is_empty() {
        return Some(0);
    }
    // Rust would take another sign.
    let is_digits = digits.chars().all(|c| c.is_digit(radix));
    let number = is_digits.then(|| u32::from_str_radix(digits, radix).ok())??;
    Some(sign * i64::from(number))
}

/// Seconds with a fraction, in microseconds; more than a hundred years is none.
pub(super) fn micros(text: &str) -> Option<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(6).collect();
    Some(u64::from(whole) * 1_000_000 + fraction.parse::<u64>().ok()?)
}

pub(super) const NO_PEERS: &str = "processes do not pass cancel requests to each other: have one process with several \
                                   listen.workers, or let a client reach the same one always";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("12", Some(12)),
            ("-1", Some(-1)),
            ("+3", Some(3)),
            ("0777", Some(0o777)),
            ("00", Some(0)),
            ("0x1F", Some(31)),
            ("0x", None),
            ("08", None),
            ("", None),
            ("-", None),
            ("--1", None),
            ("12a", None),
            ("1.5", None),
            ("99999999999", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn seconds_have_fractions() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5", Some(5_000_000)),
            ("0.5", Some(500_000)),
            (".25", Some(250_000)),
            ("3.", Some(3_000_000)),
            ("1.23456789", Some(1_234_567)),
            ("", None),
            (".", None),
            ("-1", None),
            ("5s", None),
            ("1.+2", None),
            ("99999999999", None),
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }

    #[test]
    fn every_default_is_of_its_kind_and_no_key_is_there_twice() {
        for Keys(section, rows) in [PGBOUNCER, DATABASES, USERS, PEERS] {
            let mut once = BTreeSet::new();
            for Row(key, kind, default, _) in rows {
                assert!(default.is_empty() || accepted(*kind, default).is_ok(), "{section}: {key}");
                assert!(once.insert(key), "{section}: {key}");
            }
        }
    }
}
