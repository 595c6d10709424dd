//! The table of keys: everything an operator can write, one row each.
//!
//! A row binds a key to a field of the settings and to a kind of value. From that one line follow the key in the
//! file, its variable, the suggestion for a misspelling, the default that `config/pgusher.toml` documents (it is the
//! field of `Default`, shown) and the error for a wrong value. A new setting is a field and a row.
//!
//! # Promises
//! - What is not in the table cannot be written; what is in it can be written in the file and in the environment.
//! - A key of `[pool]` may also be written for one database, where it means the same for that database alone; a key of
//!   `[identity]` for one database or one user, as `identity_<key>`.
//!
//! # Refuses
//! To say what a value may be (that is [`field`](super::field)) and what values mean together
//! ([`resolve`](super::resolve)).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Secret;
use crate::config::field::{
    Slot, addresses, choice, choice_or_off, claims, command, count, delay, duration, hosts, inherited_choice,
    inherited_count, keys_url, level, limit, listener, login_key, maps, names, one_in, path, period,
    period_or_at_once, permissions, public_key, question, rules, secret, settings_table, size, switch, text,
    url, user_map, variable, variables, workers,
};
use crate::config::url::{HostText, PORT, Url};
use crate::net::tls::{ClientSettings, ServerSettings};
use crate::pool::TargetSessionAttrs;
use crate::proxy::{AuthQuerySettings, CertificateUsers};
use crate::session::login::BindingPolicy;
use crate::session::{IdentitySettings, Mode, Rules};
use crate::telemetry::log;
use crate::{admin, net, pool, proxy};

/// A key, and the field of `T` it sets.
pub(super) struct Row<T>(&'static str, fn(&mut T) -> Slot<'_>);

const LISTEN: &[Row<Listen>] = &[
    Row("address", |it| addresses(&mut it.net.addresses)),
    Row("unix_socket_dir", |it| path(&mut it.net.unix_socket_dir)),
    Row("unix_socket_mode", |it| permissions(&mut it.net.unix_socket_mode)),
    Row("backlog", |it| count(&mut it.net.backlog, 1..=65_535)),
    Row("keepalive", |it| period(&mut it.net.keepalive)),
    Row("tcp_user_timeout", |it| period(&mut it.net.tcp_user_timeout)),
    Row("workers", |it| workers(&mut it.workers)),
    Row("max_clients", |it| count(&mut it.proxy.max_clients, 1..=1_000_000)),
    Row("auth", |it| choice(&mut it.proxy.auth)),
    Row("rules", |it| rules(&mut it.proxy.rules)),
    Row("maps", |it| maps(&mut it.proxy.maps)),
    Row("auth_file", |it| path(&mut it.proxy.auth_file)),
    Row("login_timeout", |it| duration(&mut it.proxy.login_timeout)),
    Row("client_idle_timeout", |it| period(&mut it.proxy.client_idle_timeout)),
    Row("ignore_startup_parameters", |it| names(&mut it.proxy.ignore_startup_parameters)),
    Row("drain_grace", |it| delay(&mut it.proxy.drain_grace)),
    Row("drain_timeout", |it| delay(&mut it.proxy.drain_timeout)),
    Row("watch_files", |it| switch(&mut it.watch_files)),
];

const TLS_CLIENT: &[Row<TlsClient>] = &[
    Row("mode", |it| choice(&mut it.tls.mode)),
    Row("cert_file", |it| path(&mut it.tls.cert_file)),
    Row("key_file", |it| path(&mut it.tls.key_file)),
    Row("ca_file", |it| path(&mut it.tls.ca_file)),
    Row("min_version", |it| choice(&mut it.tls.min_version)),
    Row("user_from", |it| choice(&mut it.users.user_from)),
    Row("user_map", |it| user_map(&mut it.users.user_map)),
];

/// What a database may override, all of it; libpq's names.
const TLS_SERVER: &[Row<TlsServer>] = &[
    Row("sslmode", |it| choice(&mut it.tls.sslmode)),
    Row("sslrootcert", |it| path(&mut it.tls.sslrootcert)),
    Row("sslcert", |it| path(&mut it.tls.sslcert)),
    Row("sslkey", |it| path(&mut it.tls.sslkey)),
    Row("sslnegotiation", |it| choice(&mut it.tls.sslnegotiation)),
    Row("ssl_min_protocol_version", |it| choice(&mut it.tls.ssl_min_protocol_version)),
    Row("channel_binding", |it| choice(&mut it.channel_binding)),
];

const POOL: &[Row<Pool>] = &[Row("max_servers", |it| limit(&mut it.max_servers, MOST_SERVERS))];

/// The part of `[pool]` that a database may override.
const POOLING: &[Row<Pooling>] = &[
    Row("mode", |it| choice(&mut it.rules.mode)),
    Row("size", |it| count(&mut it.limits.size, 1..=MOST_SERVERS)),
    Row("min", |it| count(&mut it.limits.min, 0..=MOST_SERVERS)),
    Row("reserve", |it| count(&mut it.limits.reserve, 0..=MOST_SERVERS)),
    Row("reserve_timeout", |it| delay(&mut it.limits.reserve_timeout)),
    Row("acquire_timeout", |it| duration(&mut it.limits.acquire_timeout)),
    Row("slow_wait", |it| period(&mut it.limits.slow_wait)),
    Row("max_waiting", |it| limit(&mut it.limits.max_waiting, MOST_CLIENTS)),
    Row("idle_timeout", |it| period(&mut it.limits.idle_timeout)),
    Row("lifetime", |it| period(&mut it.limits.lifetime)),
    Row("lifetime_jitter", |it| count(&mut it.limits.lifetime_jitter, 0..=100)),
    Row("max_uses", |it| limit(&mut it.limits.max_uses, u64::MAX)),
    Row("connect_timeout", |it| duration(&mut it.limits.connect_timeout)),
    Row("connect_retry", |it| duration(&mut it.limits.connect_retry)),
    Row("connect_concurrency", |it| count(&mut it.limits.connect_concurrency, 1..=1_000)),
    Row("target_session_attrs", |it| choice(&mut it.limits.target_session_attrs)),
    Row("check_delay", |it| period_or_at_once(&mut it.limits.check_delay)),
    Row("clean_timeout", |it| duration(&mut it.limits.clean_timeout)),
    Row("server_statements", |it| count(&mut it.rules.server_statements, 0..=100_000)),
    Row("client_statements", |it| count(&mut it.rules.client_statements, 0..=1_000_000)),
    Row("client_statement_bytes", |it| size(&mut it.rules.client_statement_bytes, 0)),
    Row("set", |it| choice(&mut it.rules.set)),
    Row("session_state", |it| choice(&mut it.rules.state)),
    Row("clean", |it| choice(&mut it.rules.clean)),
    Row("retained", |it| size(&mut it.rules.retained, 1 << 10)),
    Row("query_timeout", |it| period(&mut it.rules.query_timeout)),
    Row("transaction_timeout", |it| period(&mut it.rules.transaction_timeout)),
    Row("idle_transaction_timeout", |it| period(&mut it.rules.idle_transaction_timeout)),
    Row("canary", |it| one_in(&mut it.rules.canary)),
    Row("slow_transaction", |it| period(&mut it.rules.slow_transaction)),
];

const DATABASES: &[Row<Database>] = &[
    Row("url", |it| url(&mut it.url)),
    Row("host", |it| hosts(&mut it.hosts)),
    Row("port", |it| count(&mut it.port, 1..=65_535)),
    Row("dbname", |it| text(&mut it.dbname)),
    Row("user", |it| text(&mut it.user)),
    Row("password", |it| secret(&mut it.password)),
    Row("password_file", |it| path(&mut it.password_file)),
    Row("password_command", |it| command(&mut it.password_command)),
    Row("password_ttl", |it| period(&mut it.password_ttl)),
    Row("password_timeout", |it| duration(&mut it.password_timeout)),
    Row("application_name", |it| text(&mut it.application_name)),
    Row("application_name_add_client", |it| switch(&mut it.application_name_add_client)),
    Row("settings", |it| settings_table(&mut it.settings)),
    Row("statement_timeout", |it| period(&mut it.statement_timeout)),
    Row("connect_query", |it| text(&mut it.connect_query)),
    Row("max_servers", |it| limit(&mut it.max_servers, MOST_SERVERS)),
    Row("max_clients", |it| limit(&mut it.max_clients, MOST_CLIENTS)),
    Row("require_tls", |it| switch(&mut it.require_tls)),
    Row("auth_user", |it| text(&mut it.auth_user)),
    Row("auth_password", |it| secret(&mut it.auth_password)),
    Row("auth_password_file", |it| path(&mut it.auth_password_file)),
    Row("auth_password_command", |it| command(&mut it.auth_password_command)),
    Row("auth_query", |it| question(&mut it.auth_query)),
    Row("auth_dbname", |it| text(&mut it.auth_dbname)),
    Row("auth_ttl", |it| duration(&mut it.auth_ttl)),
    Row("auth_negative_ttl", |it| duration(&mut it.auth_negative_ttl)),
];

const USERS: &[Row<User>] = &[
    Row("password", |it| secret(&mut it.password)),
    Row("password_file", |it| path(&mut it.password_file)),
    Row("mode", |it| inherited_choice(&mut it.mode)),
    Row("size", |it| inherited_count(&mut it.size, 1, MOST_SERVERS)),
    Row("min", |it| inherited_count(&mut it.min, 0, MOST_SERVERS)),
    Row("target_session_attrs", |it| inherited_choice(&mut it.target_session_attrs)),
    Row("max_clients", |it| limit(&mut it.max_clients, MOST_CLIENTS)),
    Row("max_servers", |it| limit(&mut it.max_servers, MOST_SERVERS)),
];

/// The rows of `[identity]`, and the same for one database or user, where each key begins with `identity_`.
macro_rules! identity_rows {
    ($($key:literal => $field:expr,)+) => {
        const IDENTITY: &[Row<IdentitySettings>] =
            &[Row("enabled", |it| switch(&mut it.enabled)), $(Row($key, $field),)+];

        const OWN_IDENTITY: &[Row<IdentitySettings>] =
            &[Row("identity", |it| switch(&mut it.enabled)), $(Row(concat!("identity_", $key), $field),)+];
    };
}

identity_rows! {
    "variable" => |it| variable(&mut it.variable),
    "variables" => |it| variables(&mut it.variables),
    "from_startup" => |it| switch(&mut it.from_startup),
    "from_set" => |it| switch(&mut it.from_set),
    "from_login_role" => |it| switch(&mut it.from_login_role),
    "from_user_suffix" => |it| switch(&mut it.from_user_suffix),
    "from_certificate" => |it| choice_or_off(&mut it.from_certificate),
    "missing" => |it| choice(&mut it.missing),
    "scope" => |it| choice(&mut it.scope),
    "pattern" => |it| choice(&mut it.pattern),
    "form" => |it| choice(&mut it.form),
    "login_key" => |it| login_key(&mut it.login_key),
    "login_key_file" => |it| path(&mut it.login_key_file),
    "trusted_sql" => |it| switch(&mut it.trusted_sql),
    "exempt" => |it| names(&mut it.exempt),
    "strict" => |it| switch(&mut it.strict),
    "jwt_variable" => |it| variable(&mut it.token.variable),
    "jwt_keys_file" => |it| path(&mut it.token.keys_file),
    "jwt_keys_url" => |it| keys_url(&mut it.token.keys_url),
    "jwt_ca_file" => |it| path(&mut it.token.ca_file),
    "jwt_key" => |it| public_key(&mut it.token.key),
    "jwt_secret" => |it| secret(&mut it.token.secret),
    "jwt_secret_file" => |it| path(&mut it.token.secret_file),
    "jwt_refresh" => |it| duration(&mut it.token.refresh),
    "jwt_issuer" => |it| text(&mut it.token.issuer),
    "jwt_audience" => |it| names(&mut it.token.audience),
    "jwt_leeway" => |it| delay(&mut it.token.leeway),
    "jwt_claims" => |it| claims(&mut it.token.claims),
    "jwt_from_password" => |it| switch(&mut it.token.from_password),
}

const METRICS: &[Row<admin::Settings>] = &[
    Row("listen", |it| listener(&mut it.listen, METRICS_PORT)),
    Row("compat", |it| choice(&mut it.compat)),
    Row("max_pools", |it| count(&mut it.max_pools, 0..=10_000)),
];

const ADMIN: &[Row<proxy::console::Settings>] = &[
    Row("users", |it| names(&mut it.users)),
    Row("readers", |it| names(&mut it.readers)),
    Row("version", |it| text(&mut it.version)),
];

const LOG: &[Row<log::Settings>] = &[
    Row("level", |it| level(&mut it.level)),
    Row("format", |it| choice(&mut it.format)),
    Row("connections", |it| switch(&mut it.connections)),
];

/// Variables with a name of their own, for the keys one sets most.
pub(super) const SHORT_FORMS: &[(&str, Section, &str)] = &[
    ("PGUSHER_ACQUIRE_TIMEOUT", Section::Pool, "acquire_timeout"),
    ("PGUSHER_AUTH", Section::Listen, "auth"),
    ("PGUSHER_IDENTITY", Section::Identity, "enabled"),
    ("PGUSHER_LISTEN", Section::Listen, "address"),
    ("PGUSHER_LOG", Section::Log, "level"),
    ("PGUSHER_UNIX_SOCKET_DIR", Section::Listen, "unix_socket_dir"),
    ("PGUSHER_WORKERS", Section::Listen, "workers"),
];

/// The sections, in the order they are resolved: each may take its defaults from those before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) enum Section {
    /// `[listen]`
    Listen,
    /// `[admin]`
    Admin,
    /// `[log]`
    Log,
    /// `[metrics]`
    Metrics,
    /// `[identity]`
    Identity,
    /// `[pool]`
    Pool,
    /// `[tls.client]`
    TlsClient,
    /// `[tls.server]`
    TlsServer,
    /// `[databases.NAME]`
    Databases,
    /// `[users.NAME]`
    Users,
}

impl Section {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Listen,
        Self::Admin,
        Self::Log,
        Self::Metrics,
        Self::Identity,
        Self::Pool,
        Self::TlsClient,
        Self::TlsServer,
        Self::Databases,
        Self::Users,
    ];

    /// Its name in the file.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Databases => "databases",
            Self::Identity => "identity",
            Self::Listen => "listen",
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Pool => "pool",
            Self::TlsClient => "tls.client",
            Self::TlsServer => "tls.server",
            Self::Users => "users",
        }
    }

    /// Whether it has one table for each name.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Self::Databases | Self::Users)
    }

    /// The keys that may be written in it.
    pub(super) fn keys(self) -> Vec<&'static str> {
        match self {
            Self::Admin => words(ADMIN),
            Self::Databases => {
                [words(DATABASES), words(POOLING), words(TLS_SERVER), words(OWN_IDENTITY)].concat()
            }
            Self::Identity => words(IDENTITY),
            Self::Listen => words(LISTEN),
            Self::Log => words(LOG),
            Self::Metrics => words(METRICS),
            Self::Pool => [words(POOLING), words(POOL)].concat(),
            Self::TlsClient => words(TLS_CLIENT),
            Self::TlsServer => words(TLS_SERVER),
            Self::Users => [words(USERS), words(OWN_IDENTITY)].concat(),
        }
    }

    /// The key of this name.
    pub(super) fn key(self, name: &str) -> Option<&'static str> {
        self.keys().into_iter().find(|key| *key == name)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A key as it is documented: where, its name, its variable, its default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    /// The section's header without brackets: `pool`, `databases.NAME`.
    pub section: String,
    /// The key.
    pub name: &'static str,
    /// The variable that says the same, the name of a database or user standing in it as `NAME`.
    pub variable: String,
    /// What holds without it, as TOML.
    pub default: String,
}

/// Every key, each once: those of `[pool]` and `[tls.server]` that a database may have too are there, those of the
/// identity that a database or a user may have too are with `[identity]`.
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    keys.extend(documented(Section::Listen, LISTEN));
    keys.extend(documented(Section::TlsClient, TLS_CLIENT));
    keys.extend(documented(Section::TlsServer, TLS_SERVER));
    keys.extend(documented(Section::Pool, POOLING));
    keys.extend(documented(Section::Pool, POOL));
    keys.extend(documented(Section::Databases, DATABASES));
    keys.extend(documented(Section::Users, USERS));
    keys.extend(documented(Section::Identity, IDENTITY));
    keys.extend(documented(Section::Admin, ADMIN));
    keys.extend(documented(Section::Log, LOG));
    keys.extend(documented(Section::Metrics, METRICS));
    keys
}

fn documented<T: Default>(section: Section, rows: &[Row<T>]) -> impl Iterator<Item = Key> {
    let name = if section.is_named() { Some("NAME") } else { None };
    rows.iter().map(move |Row(key, field)| Key {
        section: name.map_or(section.to_string(), |name| format!("{section}.{name}")),
        name: key,
        variable: variable_name(section, name, key),
        default: field(&mut T::default()).show(),
    })
}

/// The keys of the sections without names, with what holds, as TOML.
pub(super) fn shown(
    listen: &mut Listen,
    log: &mut log::Settings,
    metrics: &mut admin::Settings,
    pool: &mut Pool,
) -> Vec<(String, String)> {
    fn of<T>(section: Section, rows: &[Row<T>], target: &mut T, all: &mut Vec<(String, String)>) {
        all.extend(rows.iter().map(|Row(key, field)| (format!("{section}.{key}"), field(target).show())));
    }
    let mut all = Vec::new();
    of(Section::Listen, LISTEN, listen, &mut all);
    of(Section::Admin, ADMIN, &mut listen.proxy.console, &mut all);
    of(Section::Pool, POOLING, &mut pool.pooling, &mut all);
    of(Section::Pool, POOL, pool, &mut all);
    of(Section::Identity, IDENTITY, &mut pool.pooling.rules.identity, &mut all);
    of(Section::Log, LOG, log, &mut all);
    of(Section::Metrics, METRICS, metrics, &mut all);
    all
}

/// The variable for a key: `PGUSHER_<SECTION>[_<NAME>]_<KEY>`.
pub(super) fn variable_name(section: Section, name: Option<&str>, key: &str) -> String {
    let parts = [Some(section.word()), name, Some(key)].into_iter().flatten();
    parts.fold("PGUSHER".into(), |variable, part| format!("{variable}_{}", shouted(part)))
}

/// A name as it stands in a variable: upper case, `_` for whatever a variable cannot have; `FALLBACK` for `*`.
pub(super) fn shouted(name: &str) -> String {
    if name == FALLBACK {
        return "FALLBACK".into();
    }
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The database for names that have no entry.
pub(super) const FALLBACK: &str = "*";

/// Settings that can be filled by key.
pub(super) trait Keyed {
    /// The field of a key.
    fn slot(&mut self, key: &str) -> Option<Slot<'_>>;
}

/// What `[listen]` fills.
#[derive(Clone, Debug)]
pub(super) struct Listen {
    pub(super) net: net::Settings,
    pub(super) proxy: proxy::Settings,
    pub(super) workers: usize,
    pub(super) watch_files: bool,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            net: net::Settings::default(),
            proxy: proxy::Settings::default(),
            workers: 1,
            watch_files: true,
        }
    }
}

/// What `[tls.client]` fills.
#[derive(Clone, Default, Debug)]
pub(super) struct TlsClient {
    pub(super) tls: ClientSettings,
    pub(super) users: CertificateUsers,
}

/// What `[tls.server]` fills and a database may override.
#[derive(Clone, Default, Debug)]
pub(super) struct TlsServer {
    pub(super) tls: ServerSettings,
    pub(super) channel_binding: BindingPolicy,
}

/// What `[pool]` fills and a database may override.
#[derive(Clone, Default, Debug)]
pub(super) struct Pooling {
    pub(super) limits: pool::Settings,
    pub(super) rules: Rules,
}

/// What `[pool]` fills.
#[derive(Clone, Default, Debug)]
pub(super) struct Pool {
    pub(super) pooling: Pooling,
    pub(super) max_servers: Option<usize>,
}

/// What `[databases.NAME]` fills.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) url: Option<Url>,
    pub(super) hosts: Vec<HostText>,
    pub(super) port: u16,
    pub(super) dbname: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) password_command: Vec<String>,
    pub(super) password_ttl: Option<Duration>,
    pub(super) password_timeout: Duration,
    pub(super) application_name: Option<String>,
    pub(super) application_name_add_client: bool,
    pub(super) settings: Vec<(String, String)>,
    pub(super) statement_timeout: Option<Duration>,
    pub(super) connect_query: Option<String>,
    pub(super) max_servers: Option<usize>,
    pub(super) max_clients: Option<usize>,
    pub(super) require_tls: bool,
    pub(super) auth_user: Option<String>,
    pub(super) auth_password: Option<Secret>,
    pub(super) auth_password_file: Option<PathBuf>,
    pub(super) auth_password_command: Vec<String>,
    pub(super) auth_query: String,
    pub(super) auth_dbname: Option<String>,
    pub(super) auth_ttl: Duration,
    pub(super) auth_negative_ttl: Duration,
    pub(super) pooling: Pooling,
    pub(super) encryption: TlsServer,
}

impl Database {
    /// A database that inherits this.
    pub(super) fn inheriting(pooling: Pooling, encryption: TlsServer) -> Self {
        Self {
            url: None,
            hosts: Vec::new(),
            port: PORT,
            dbname: None,
            user: None,
            password: None,
            password_file: None,
            password_command: Vec::new(),
            password_ttl: Some(Duration::from_secs(600)),
            password_timeout: Duration::from_secs(10),
            application_name: None,
            application_name_add_client: false,
            settings: Vec::new(),
            statement_timeout: None,
            connect_query: None,
            max_servers: None,
            max_clients: None,
            require_tls: false,
            auth_user: None,
            auth_password: None,
            auth_password_file: None,
            auth_password_command: Vec::new(),
            auth_query: AuthQuerySettings::QUERY.into(),
            auth_dbname: None,
            auth_ttl: Duration::from_secs(60),
            auth_negative_ttl: Duration::from_secs(5),
            pooling,
            encryption,
        }
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::inheriting(Pooling::default(), TlsServer::default())
    }
}

/// What `[users.NAME]` fills.
#[derive(Clone, Default, Debug)]
pub(super) struct User {
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) mode: Option<Mode>,
    pub(super) size: Option<usize>,
    pub(super) min: Option<usize>,
    pub(super) target_session_attrs: Option<TargetSessionAttrs>,
    pub(super) max_clients: Option<usize>,
    pub(super) max_servers: Option<usize>,
    pub(super) identity: IdentitySettings,
}

impl Keyed for Listen {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(LISTEN, key).map(|field| field(self))
    }
}

impl Keyed for proxy::console::Settings {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(ADMIN, key).map(|field| field(self))
    }
}

impl Keyed for log::Settings {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(LOG, key).map(|field| field(self))
    }
}

impl Keyed for admin::Settings {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(METRICS, key).map(|field| field(self))
    }
}

impl Keyed for IdentitySettings {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(IDENTITY, key).map(|field| field(self))
    }
}

/// The identity as one user has it: of the user's table, only what is about it.
#[derive(Debug)]
pub(super) struct OwnIdentity(pub(super) IdentitySettings);

impl Keyed for OwnIdentity {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(OWN_IDENTITY, key).map(|field| field(&mut self.0))
    }
}

impl Keyed for Pool {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        match find(POOL, key) {
            Some(field) => Some(field(self)),
            None => find(POOLING, key).map(|field| field(&mut self.pooling)),
        }
    }
}

impl Keyed for TlsClient {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(TLS_CLIENT, key).map(|field| field(self))
    }
}

impl Keyed for TlsServer {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        find(TLS_SERVER, key).map(|field| field(self))
    }
}

impl Keyed for Database {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        if let Some(field) = find(DATABASES, key) {
            return Some(field(self));
        }
        match find(POOLING, key) {
            Some(field) => Some(field(&mut self.pooling)),
            None => match find(TLS_SERVER, key) {
                Some(field) => Some(field(&mut self.encryption)),
                None => find(OWN_IDENTITY, key).map(|field| field(&mut self.pooling.rules.identity)),
            },
        }
    }
}

impl Keyed for User {
    fn slot(&mut self, key: &str) -> Option<Slot<'_>> {
        match find(USERS, key) {
            Some(field) => Some(field(self)),
            None => find(OWN_IDENTITY, key).map(|field| field(&mut self.identity)),
        }
    }
}

fn find<T>(rows: &[Row<T>], key: &str) -> Option<fn(&mut T) -> Slot<'_>> {
    rows.iter().find(|Row(name, _)| *name == key).map(|Row(_, field)| *field)
}

fn words<T>(rows: &[Row<T>]) -> Vec<&'static str> {
    rows.iter().map(|Row(name, _)| *name).collect()
}

const MOST_CLIENTS: usize = 1_000_000;
const MOST_SERVERS: usize = 100_000;

/// Where metrics are served if an address has no port.
const METRICS_PORT: u16 = 9930;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Value;

    #[test]
    fn no_key_is_in_a_section_twice() {
        for section in Section::ALL {
            let keys = section.keys();
            let mut once = keys.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), keys.len(), "{section}");
        }
    }

    #[test]
    fn every_default_is_accepted_as_written() {
        fn check<T: Default>(rows: &[Row<T>]) {
            for Row(key, field) in rows {
                let shown = field(&mut T::default()).show();
                let text = shown.trim_matches('"').to_owned();
                let value = match shown.as_bytes()[0] {
                    b'"' => Value::Text(text),
                    b'[' => Value::List(Vec::new()),
                    b'{' => Value::Table(Vec::new()),
                    _ => Value::Integer(text.parse().unwrap()),
                };
                let mut target = T::default();

                assert_eq!(field(&mut target).read(&value), Ok(()), "{key} = {shown}");
                assert_eq!(field(&mut target).show(), shown, "{key}");
            }
        }
        check(LISTEN);
        check(POOL);
        check(POOLING);
        check(DATABASES);
        check(USERS);
        check(TLS_CLIENT);
        check(TLS_SERVER);
        check(IDENTITY);
        check(ADMIN);
        check(LOG);
        check(METRICS);
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let mut variables: Vec<_> = keys().into_iter().map(|key| key.variable).collect();
        variables.extend(SHORT_FORMS.iter().map(|(variable, ..)| variable.to_string()));
        let count = variables.len();
        variables.sort();
        variables.dedup();

        assert_eq!(variables.len(), count);
    }

    #[test]
    fn short_forms_name_keys() {
        for (variable, section, key) in SHORT_FORMS {
            assert!(section.key(key).is_some(), "{variable}");
        }
    }
}
