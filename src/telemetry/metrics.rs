//! What there is to be measured: every metric's name, unit, labels and meaning.
//!
//! `deploy/METRICS.md` is made from this, and a test holds the two together. Names are Prometheus' (base units, counters end in
//! `_total`). The labels `database` and `user` are bounded: of more pools than `metrics.max_pools` the rest is called
//! `other`. No label has SQL, identities or addresses in it.
//!
//! # Refuses
//! To count: [`crate::telemetry::instruments`] does, where things happen.

/// What kind of number it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, but for a restart.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, whole.
    pub name: &'static str,
    /// What kind of number.
    pub kind: Kind,
    /// `seconds`, `bytes`, `ratio`, or nothing for a count.
    pub unit: &'static str,
    /// The labels of its series.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub meaning: &'static str,
}

/// Declares the metrics of a catalogue, and the catalogue.
macro_rules! catalogue {
    ($(#[$doc:meta])* $catalogue:ident { $($name:ident: $kind:ident $text:literal [$($label:literal),*] $unit:literal, $meaning:literal;)+ }) => {
        $(
            #[doc = $meaning]
            pub const $name: Metric = Metric {
                name: $text, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], meaning: $meaning,
            };
        )+

        $(#[$doc])*
        pub const $catalogue: &[Metric] = &[$($name),+];
    };
}

catalogue! {
    /// All of ours, in the order of the page.
    CATALOGUE {
        POOL_SIZE: Gauge "pgusher_pool_size" ["database", "user"] "", "Servers the pool may have, without its reserve.";
        POOL_MAX_SIZE: Gauge "pgusher_pool_max_size" ["database", "user"] "", "Servers the pool may have, with its reserve and under every max_servers.";
        POOL_SERVERS: Gauge "pgusher_pool_servers" ["database", "user", "state"] "", "Servers now: active (in a transaction), idle, pinned (kept by a client between its transactions), connecting, cancelling (waiting for a cancel request to arrive).";
        POOL_SERVERS_PEAK: Gauge "pgusher_pool_servers_in_use_peak" ["database", "user"] "", "Most servers in use at once since the scrape before the last.";
        POOL_UTILIZATION: Gauge "pgusher_pool_utilization_ratio" ["database", "user"] "ratio", "Servers in use, of those the pool may have.";
        POOL_WAITING: Gauge "pgusher_pool_waiting_clients" ["database", "user"] "", "Clients waiting for a server now.";
        POOL_WAITING_PEAK: Gauge "pgusher_pool_waiting_clients_peak" ["database", "user"] "", "Most clients waiting at once since the scrape before the last.";
        POOL_OLDEST_WAIT: Gauge "pgusher_pool_oldest_wait_seconds" ["database", "user"] "seconds", "How long the client has waited that has waited longest.";
        POOL_EXHAUSTED: Counter "pgusher_pool_exhausted_seconds_total" ["database", "user"] "seconds", "Time with every server busy and somebody waiting.";
        POOL_WAITS: Counter "pgusher_pool_waits_total" ["database", "user"] "", "Clients that got no server at once.";
        POOL_WAIT_TIMEOUTS: Counter "pgusher_pool_wait_timeouts_total" ["database", "user"] "", "Clients that got no server within pool.acquire_timeout.";
        POOL_REJECTIONS: Counter "pgusher_pool_rejections_total" ["database", "user", "reason"] "", "Clients told at once that there is no server: queue_full (pool.max_waiting), connect (the server refuses for good), closed.";
        POOL_WAIT: Histogram "pgusher_pool_wait_seconds" ["database", "user", "outcome"] "seconds", "How long a server was asked for, those included that were there at once: served, timed_out, failed, abandoned (the client left or cancelled).";
        TRANSACTION: Histogram "pgusher_transaction_seconds" ["database", "user"] "seconds", "How long a client had a server for one transaction.";
        QUERY: Histogram "pgusher_query_seconds" ["database", "user"] "seconds", "How long queries took, without the time their client thought between them; within one transaction the mean of its queries.";
        SERVER_CONNECT: Histogram "pgusher_server_connect_seconds" ["database", "user"] "seconds", "How long it took to connect and log in to a server, if it succeeded.";
        SERVER_CONNECTS: Counter "pgusher_server_connects_total" ["database", "user", "result"] "", "Connections to servers: ok, refused (the server said no), timed_out, unreachable, failed (broken, or nothing to log in with).";
        SERVER_CLOSES: Counter "pgusher_server_closes_total" ["database", "user", "reason"] "", "Servers closed, and why.";
        SERVER_REUSES: Counter "pgusher_server_reuses_total" ["database", "user"] "", "Servers lent that had been lent before.";
        AFFINITY_HITS: Counter "pgusher_server_affinity_hits_total" ["database", "user"] "", "Servers lent to the client they had last, so that they need no clean (pool.clean).";
        SERVER_ERRORS: Counter "pgusher_server_errors_total" ["database", "user", "sqlstate_class"] "", "Errors that servers have said to clients, by the first two characters of their SQLSTATE.";
        INJECTIONS: Counter "pgusher_identity_injections_total" ["database", "user", "result"] "", "Transactions before which the identity was said: ok, cancelled (by the client, meanwhile), failed (the server refused it or the settings said with it; nothing of the client ran).";
        REFUSALS: Counter "pgusher_identity_refusals_total" ["database", "user", "reason"] "", "Statements refused to keep identities apart: channel (not to be set this way), expired (its token has), missing (none, where one is demanded), pattern (a value that does not fit), token (one that proves nothing), unclear (a statement that would change it in a way that cannot be followed).";
        PINS: Counter "pgusher_session_pins_total" ["database", "user", "reason"] "", "Clients that began to keep their server for what they left there: advisory_lock, hold_cursor, listen, prepare, role, setting, temporary.";
        SLIPS: Counter "pgusher_session_slips_total" ["database", "user", "reason"] "", "Session state that is refused (pool.session_state) and that was made all the same, by words that did not show it, and was removed.";
        CLEANS: Counter "pgusher_session_cleans_total" ["database", "user"] "", "Servers cleaned because a client left something there.";
        BYTES: Counter "pgusher_bytes_total" ["database", "user", "side", "direction"] "bytes", "Bytes received from clients and servers (side), and sent to them, as they are without TLS; counted at the end of each transaction.";
        STATEMENTS: Counter "pgusher_prepared_statement_messages_total" ["database", "user", "message"] "", "Messages for named prepared statements: client_parse, server_parse (those a server had not seen yet), client_bind.";
        PREPARED_HITS: Counter "pgusher_prepared_cache_hits_total" ["database", "user"] "", "Uses of clients' named prepared statements that the server had already.";
        PREPARED_MISSES: Counter "pgusher_prepared_cache_misses_total" ["database", "user"] "", "Uses of clients' named prepared statements that the server had to be told first.";
        PREPARED_EVICTIONS: Counter "pgusher_prepared_cache_evictions_total" ["database", "user"] "", "Statements closed on a server to make room for others (pool.server_statements).";
        CLIENTS: Gauge "pgusher_clients" ["database", "user", "state"] "", "Clients now: active (with a server), waiting for one, idle.";
        MAX_CLIENTS: Gauge "pgusher_max_clients" [] "", "Most clients at once, listen.max_clients.";
        CLIENT_LOGINS: Counter "pgusher_client_logins_total" ["result"] "", "Clients that came, and what became of them.";
        CLIENT_LOGIN: Histogram "pgusher_client_login_seconds" [] "seconds", "How long it took to let a client in, from its first byte.";
        CLIENT_DISCONNECTS: Counter "pgusher_client_disconnects_total" ["reason"] "", "Clients that had been let in and are gone.";
        CANCELS: Counter "pgusher_cancels_total" ["result"] "", "Cancel requests: delivered, waiting (its client stopped waiting for a server), nothing (nothing to cancel, or a wrong key), failed.";
        TLS_HANDSHAKES: Counter "pgusher_tls_handshakes_total" ["side", "result", "resumed"] "", "TLS handshakes with clients and with servers.";
        TLS_EXPIRY: Gauge "pgusher_tls_certificate_expiry_timestamp_seconds" ["file"] "seconds", "When the certificate in a file ends, in Unix time; of several the first.";
        BUILD_INFO: Gauge "pgusher_build_info" ["version"] "", "1; which version this is.";
        DRAINING: Gauge "pgusher_draining" [] "", "1 once it has been told to end.";
        READY: Gauge "pgusher_ready" [] "", "1 while /readyz says yes.";
        RELOAD_SUCCESS: Gauge "pgusher_config_reload_success" [] "", "1 if what was read last is what runs.";
        RELOAD_TIME: Gauge "pgusher_config_last_reload_timestamp_seconds" [] "seconds", "When the configuration was read last, in Unix time.";
        WORKER_BUSY: Gauge "pgusher_worker_busy_ratio" ["worker"] "ratio", "The share of time since the last scrape in which a worker had something to do.";
        HTTP_REJECTIONS: Counter "pgusher_http_rejections_total" [] "", "HTTP connections closed because too many were open.";
        PROCESS_CPU: Counter "process_cpu_seconds_total" [] "seconds", "User and system time of the process.";
        PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "bytes", "Resident memory.";
        PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] "bytes", "Virtual memory.";
        PROCESS_FDS: Gauge "process_open_fds" [] "", "Open file descriptors.";
        PROCESS_MAX_FDS: Gauge "process_max_fds" [] "", "Most file descriptors that may be open.";
        PROCESS_START: Gauge "process_start_time_seconds" [] "seconds", "When the process began, in Unix time.";
    }
}

/// The names of prometheus-community's pgbouncer_exporter, served with `metrics.compat = "pgbouncer"`.
pub mod pgbouncer {
    use super::{Kind, Metric};

    catalogue! {
        /// All of them, in the order of the page.
        CATALOGUE {
            UP: Gauge "pgbouncer_up" [] "", "1.";
            VERSION: Gauge "pgbouncer_version_info" ["version"] "", "1; which version this is.";
            MAX_CLIENTS: Gauge "pgbouncer_config_max_client_connections" [] "", "listen.max_clients.";
            MAX_USER: Gauge "pgbouncer_config_max_user_connections" [] "", "0: there is a bound for each user, and none for all.";
            DATABASES: Gauge "pgbouncer_databases" [] "", "Databases as configured.";
            USERS: Gauge "pgbouncer_users" [] "", "Users as configured.";
            POOLS: Gauge "pgbouncer_pools" [] "", "Pools.";
            FREE_CLIENTS: Gauge "pgbouncer_free_clients" [] "", "Clients that may still come.";
            USED_CLIENTS: Gauge "pgbouncer_used_clients" [] "", "Clients.";
            LOGIN_CLIENTS: Gauge "pgbouncer_login_clients" [] "", "Clients that are logging in.";
            FREE_SERVERS: Gauge "pgbouncer_free_servers" [] "", "Idle servers.";
            USED_SERVERS: Gauge "pgbouncer_used_servers" [] "", "Servers in use or connecting.";
            POOL_CLIENT_ACTIVE: Gauge "pgbouncer_pools_client_active_connections" ["database", "user"] "", "Clients with a server, or idle.";
            POOL_CLIENT_ACTIVE_CANCEL: Gauge "pgbouncer_pools_client_active_cancel_connections" ["database", "user"] "", "0.";
            POOL_CLIENT_WAITING: Gauge "pgbouncer_pools_client_waiting_connections" ["database", "user"] "", "Clients waiting for a server.";
            POOL_CLIENT_WAITING_CANCEL: Gauge "pgbouncer_pools_client_waiting_cancel_connections" ["database", "user"] "", "0.";
            POOL_SERVER_ACTIVE: Gauge "pgbouncer_pools_server_active_connections" ["database", "user"] "", "Servers linked to a client.";
            POOL_SERVER_ACTIVE_CANCEL: Gauge "pgbouncer_pools_server_active_cancel_connections" ["database", "user"] "", "0.";
            POOL_SERVER_BEING_CANCELED: Gauge "pgbouncer_pools_server_being_canceled_connections" ["database", "user"] "", "Servers waiting for a cancel request to arrive.";
            POOL_SERVER_IDLE: Gauge "pgbouncer_pools_server_idle_connections" ["database", "user"] "", "Idle servers.";
            POOL_SERVER_USED: Gauge "pgbouncer_pools_server_used_connections" ["database", "user"] "", "0.";
            POOL_SERVER_TESTING: Gauge "pgbouncer_pools_server_testing_connections" ["database", "user"] "", "0.";
            POOL_SERVER_LOGIN: Gauge "pgbouncer_pools_server_login_connections" ["database", "user"] "", "Servers being connected.";
            POOL_MAXWAIT: Gauge "pgbouncer_pools_client_maxwait_seconds" ["database", "user"] "seconds", "How long the client has waited that has waited longest.";
            DATABASE_POOL_SIZE: Gauge "pgbouncer_databases_pool_size" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "Servers each of its pools may have.";
            DATABASE_RESERVE: Gauge "pgbouncer_databases_reserve_pool" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "Servers beyond that.";
            DATABASE_MAX: Gauge "pgbouncer_databases_max_connections" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "max_servers; 0 is no bound.";
            DATABASE_CURRENT: Gauge "pgbouncer_databases_current_connections" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "Servers.";
            DATABASE_PAUSED: Gauge "pgbouncer_databases_paused" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "1 if it is paused.";
            DATABASE_DISABLED: Gauge "pgbouncer_databases_disabled" ["name", "host", "port", "database", "force_user", "pool_mode"] "", "1 if it is disabled.";
            STATS_QUERIES: Counter "pgbouncer_stats_totals_queries_pooled_total" ["database"] "", "Queries.";
            STATS_QUERY_TIME: Counter "pgbouncer_stats_totals_queries_duration_seconds_total" ["database"] "seconds", "Time of queries.";
            STATS_RECEIVED: Counter "pgbouncer_stats_totals_received_bytes_total" ["database"] "bytes", "Bytes from clients.";
            STATS_SENT: Counter "pgbouncer_stats_totals_sent_bytes_total" ["database"] "bytes", "Bytes to clients.";
            STATS_WAIT: Counter "pgbouncer_stats_totals_client_wait_seconds_total" ["database"] "seconds", "Time clients waited for a server.";
            STATS_TRANSACTIONS: Counter "pgbouncer_stats_totals_sql_transactions_pooled_total" ["database"] "", "Transactions.";
            STATS_TRANSACTION_TIME: Counter "pgbouncer_stats_totals_server_in_transaction_seconds_total" ["database"] "seconds", "Time servers were lent for.";
            STATS_CLIENT_PARSES: Counter "pgbouncer_stats_totals_client_parses_total" ["database"] "", "Parse messages of clients for named statements.";
            STATS_SERVER_PARSES: Counter "pgbouncer_stats_totals_server_parses_total" ["database"] "", "Parse messages to servers for them.";
            STATS_BINDS: Counter "pgbouncer_stats_totals_binds_total" ["database"] "", "Bind messages for named statements.";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in CATALOGUE.iter().chain(pgbouncer::CATALOGUE) {
            let (name, is_total) = (metric.name, metric.name.ends_with("_total"));
            assert_eq!(is_total, metric.kind == Kind::Counter, "{name}");
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert!(metric.unit.is_empty() || stem.ends_with(metric.unit), "{name}: {}", metric.unit);
            assert!(metric.meaning.ends_with('.'), "{name}");
        }
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut names: Vec<_> =
            CATALOGUE.iter().chain(pgbouncer::CATALOGUE).map(|metric| metric.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();

        assert_eq!(names.len(), count);
    }
}
