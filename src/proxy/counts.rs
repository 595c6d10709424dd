//! What became of those who came.
//!
//! # Refuses
//! To count what a pool knows: [`crate::pool::Pressure`] does.

use crate::net::tls::Handshake;
use crate::telemetry::instruments::{Latency, Tally, Word, words};

words! {
    /// What became of a login.
    pub enum Login {
        /// The client was let in.
        Ok = "ok",
        /// It was let in to speak the replication protocol, one to one.
        Replication = "replication",
        /// A wrong password, or no such user.
        AuthFailed = "auth_failed",
        /// It went away first.
        ClientGone = "client_gone",
        /// Its database is closed to newcomers.
        Disabled = "disabled",
        /// A value for its identity that is not accepted.
        IdentityRefused = "identity_refused",
        /// It was not encrypted, and had to be.
        NoEncryption = "no_encryption",
        /// There was no server to try its settings on.
        NoServer = "no_server",
        /// It broke the protocol.
        ProtocolViolation = "protocol_violation",
        /// The server refused its startup settings.
        SettingsRefused = "settings_refused",
        /// It took longer than `listen.login_timeout`.
        TimedOut = "login_timeout",
        /// There was no encryption to be had with it, or not with its certificate.
        TlsFailed = "tls_failed",
        /// As many are here as may be.
        TooManyClients = "too_many_clients",
        /// There is no such database.
        UnknownDatabase = "unknown_database",
    }
}

words! {
    /// How the life of a client ended that had been let in.
    pub enum Departure {
        /// It closed its connection without a word.
        ClientGone = "client_gone",
        /// It said Terminate.
        ClientLeft = "client_left",
        /// It broke the protocol.
        ClientViolation = "client_protocol_violation",
        /// Its database is not in the configuration any more.
        DatabaseRemoved = "database_removed",
        /// Its identity does not hold under the configuration as it is now.
        LogInAnew = "configuration_changed",
        /// Its user is not in the configuration any more.
        UserRemoved = "user_removed",
        /// `listen.client_idle_timeout`.
        Idle = "client_idle_timeout",
        /// `pool.idle_transaction_timeout`.
        IdleInTransaction = "idle_transaction_timeout",
        /// The server went away in the middle of its words.
        ServerGone = "server_gone",
        /// The server ended it.
        ServerFatal = "server_fatal",
        /// The server broke the protocol.
        ServerViolation = "server_protocol_violation",
        /// We are going away.
        Shutdown = "shutdown",
        /// `pool.query_timeout` or `pool.transaction_timeout`.
        TransactionTimeout = "transaction_timeout",
    }
}

words! {
    /// What became of a cancel request.
    pub enum Cancelled {
        /// The server has taken it.
        Delivered = "delivered",
        /// The server could not be reached.
        Failed = "failed",
        /// Nothing runs for that client, or there is no such client.
        Nothing = "nothing",
        /// Its client waits for a server, and was told to stop.
        Waiting = "waiting",
    }
}

/// What is counted over all pools.
#[derive(Debug, Default)]
pub struct Counts {
    /// Those who came.
    pub logins: Tally<Login>,
    /// How long it took to let in those who were.
    pub login: Latency,
    /// Those who had been let in, and are gone.
    pub departures: Tally<Departure>,
    /// How clients' TLS handshakes ended.
    pub handshakes: Tally<Handshake>,
    /// Cancel requests.
    pub cancels: Tally<Cancelled>,
}

impl Departure {
    /// The word for logs and metrics.
    pub(super) fn word(self) -> &'static str {
        Self::WORDS.get(self.index()).copied().unwrap_or_default()
    }
}

impl Login {
    /// The word for logs and metrics.
    pub(super) fn word(self) -> &'static str {
        Self::WORDS.get(self.index()).copied().unwrap_or_default()
    }
}
