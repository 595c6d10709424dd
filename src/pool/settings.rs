//! What the operator decides about pools: how many servers, for how long, and where they are.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Secret;
use crate::net::tls::ServerSettings;
use crate::pool::target::TargetSessionAttrs;
use crate::session::login::BindingPolicy;

/// The limits of one pool: `[pool]`, overridden by the database, overridden by the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Most servers at once.
    pub size: usize,
    /// Servers kept ready; at most `size`.
    pub min: usize,
    /// Servers beyond `size` for clients that have waited `reserve_timeout`.
    pub reserve: usize,
    /// How long a client waits before the reserve is opened.
    pub reserve_timeout: Duration,
    /// Longest a client waits for a server.
    pub acquire_timeout: Duration,
    /// A wait of this length is a line in the log that says who has the servers; `None` is never.
    pub slow_wait: Option<Duration>,
    /// Most clients waiting at once; `None` is no bound.
    pub max_waiting: Option<usize>,
    /// Servers beyond `min` are closed after being idle for this long; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Servers are closed at this age, give or take `lifetime_jitter`; `None` is never.
    pub lifetime: Option<Duration>,
    /// The share of `lifetime`, in percent, by which each server's own may be shorter.
    pub lifetime_jitter: u8,
    /// Transactions a server may serve; `None` is no bound.
    pub max_uses: Option<u64>,
    /// Longest a connection and its whole login may take.
    pub connect_timeout: Duration,
    /// The first pause after a failed connection; it doubles, jittered, up to ten times itself.
    pub connect_retry: Duration,
    /// Connections being opened at once.
    pub connect_concurrency: usize,
    /// A server idle for longer proves itself alive before it is lent; `None` is never.
    pub check_delay: Option<Duration>,
    /// Longest a server may take to be cleaned after its client left.
    pub clean_timeout: Duration,
    /// Which of several hosts will do.
    pub target_session_attrs: TargetSessionAttrs,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: 20,
            min: 2,
            reserve: 0,
            reserve_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_secs(30),
            slow_wait: Some(Duration::from_secs(1)),
            max_waiting: None,
            idle_timeout: Some(Duration::from_secs(30)),
            lifetime: Some(Duration::from_secs(3600)),
            lifetime_jitter: 10,
            max_uses: Some(7_500),
            connect_timeout: Duration::from_secs(2),
            connect_retry: Duration::from_millis(200),
            connect_concurrency: 4,
            check_delay: Some(Duration::from_secs(30)),
            clean_timeout: Duration::from_secs(5),
            target_session_attrs: TargetSessionAttrs::Any,
        }
    }
}

/// One place PostgreSQL may listen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// A name or an address.
    Tcp {
        /// Host name or IP address, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The directory of a unix socket; the file is `.s.PGSQL.<port>`.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// The port in the file's name.
        port: u16,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { directory, port } => write!(f, "{}:{port}", directory.display()),
        }
    }
}

/// Where a password comes from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PasswordSource {
    /// Not configured: the client's own (its plaintext, or its SCRAM keys) is used if there is one.
    #[default]
    Client,
    /// The first line that a program prints, run again in time.
    Command(Arc<PasswordCommand>),
    /// The first line of a file, read again when the file changes.
    File(PathBuf),
    /// Written in the configuration or the environment: plaintext, or a SCRAM or md5 verifier.
    Given(Secret),
}

/// A program that prints a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordCommand {
    /// It: a path, or a name that is looked for in `PATH`.
    pub program: Box<str>,
    /// What it is told.
    pub arguments: Box<[Box<str>]>,
    /// How long what it printed holds; `None` is until the server refuses it.
    pub ttl: Option<Duration>,
    /// Longest it may take.
    pub timeout: Duration,
}

/// Arguments may hold what nobody should see.
impl fmt::Debug for PasswordCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordCommand").field(&self.program).finish()
    }
}

/// `[databases.NAME]`: where its servers are and how they are logged in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Tried in order, from the one that was right last; those that did not answer come last.
    pub hosts: Vec<Host>,
    /// The database on the server; `None` is the one the client named.
    pub dbname: Option<String>,
    /// The role to log in as; `None` is the client's own.
    pub user: Option<String>,
    /// Its password.
    pub password: PasswordSource,
    /// How its servers are encrypted.
    pub tls: ServerSettings,
    /// Whether logins are bound to the encryption.
    pub channel_binding: BindingPolicy,
    /// `application_name` of the servers when the client states none.
    pub application_name: Option<String>,
    /// Whether the client's address is appended to `application_name`.
    pub application_name_add_client: bool,
    /// Settings sent in the server's startup packet, in order (`jit`, `statement_timeout` …).
    pub settings: Vec<(String, String)>,
    /// SQL run once on each new server.
    pub connect_query: Option<String>,
    /// Most servers of this database over all users; `None` is no bound.
    pub max_servers: Option<usize>,
    /// Most clients of this database; `None` is no bound.
    pub max_clients: Option<usize>,
}
