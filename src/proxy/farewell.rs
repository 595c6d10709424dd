//! How a client's life ended, or its turn, and what is said about it.
//!
//! Errors arise in five layers and are heard by several audiences: the client, the log, the metrics. This is the only place
//! above `session` that finds words for a client, so that what leaks can be reviewed by reading one file.
//!
//! # Promises
//! - A client is told only what is listed here, with the SQLSTATE PostgreSQL itself would use.
//! - What the server said when it refused a connection is passed on: it is the client's database.
//!
//! # Refuses
//! To pass a `Display` of anything else through to a client.

use std::fmt;

use bytes::BytesMut;

use crate::names::Printable;
use crate::pool::{CheckoutError, ConnectError};
use crate::proxy::counts::{Departure, Login};
use crate::session::violation::{Refusal, Report, TokenFault, Violation, sqlstate};
use crate::wire::write;

/// How a client's life ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It closed its connection without a word.
    ClientGone,
    /// It said Terminate.
    ClientLeft,
    /// It broke the protocol.
    ClientViolation(Violation),
    /// We are going away.
    Drained,
    /// Its database is not in the configuration any more.
    DatabaseRemoved,
    /// What it said at login does not hold under the configuration as it is now.
    LogInAnew,
    /// Its user is not in the configuration any more.
    UserRemoved,
    /// It said nothing for too long.
    Idle,
    /// It said nothing for too long inside a transaction.
    IdleInTransaction,
    /// The server went away in the middle of its words.
    ServerGone,
    /// The server said so itself; the client has its words.
    ServerFatal,
    /// The server broke the protocol.
    ServerViolation(Violation),
    /// Its transaction took too long.
    TransactionTimeout,
}

impl Ended {
    /// The word for logs and metrics.
    pub(super) fn departure(&self) -> Departure {
        match self {
            Self::ClientGone => Departure::ClientGone,
            Self::ClientLeft => Departure::ClientLeft,
            Self::ClientViolation(_) => Departure::ClientViolation,
            Self::DatabaseRemoved => Departure::DatabaseRemoved,
            Self::Drained => Departure::Shutdown,
            Self::LogInAnew => Departure::LogInAnew,
            Self::UserRemoved => Departure::UserRemoved,
            Self::Idle => Departure::Idle,
            Self::IdleInTransaction => Departure::IdleInTransaction,
            Self::ServerGone => Departure::ServerGone,
            Self::ServerFatal => Departure::ServerFatal,
            Self::ServerViolation(_) => Departure::ServerViolation,
            Self::TransactionTimeout => Departure::TransactionTimeout,
        }
    }

    /// What the client is told, if it can still be told anything.
    pub(super) fn report(&self) -> Option<Report> {
        let mut hint = None;
        let (sqlstate, message): (_, String) = match self {
            Self::ClientGone | Self::ClientLeft | Self::ServerFatal => return None,
            Self::ClientViolation(violation) => (sqlstate::PROTOCOL_VIOLATION, violation.to_string()),
            Self::DatabaseRemoved | Self::Drained | Self::LogInAnew | Self::UserRemoved => {
                hint = self.hint();
                (sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command".into())
            }
            Self::Idle => {
                (sqlstate::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout".into())
            }
            Self::IdleInTransaction => (
                sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout".into(),
            ),
            Self::ServerGone => {
                (sqlstate::CONNECTION_FAILURE, "server closed the connection unexpectedly".into())
            }
            Self::ServerViolation(_) => {
                (sqlstate::CONNECTION_FAILURE, "server connection was lost to a protocol error".into())
            }
            Self::TransactionTimeout => {
                (sqlstate::TRANSACTION_TIMEOUT, "terminating connection due to transaction timeout".into())
            }
        };
        Some(Report { severity: "FATAL", sqlstate, message, hint, routine: None })
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::DatabaseRemoved => Some("The database has been removed from the pooler's configuration."),
            Self::LogInAnew => Some("The pooler's [identity] settings have changed; connect again."),
            Self::UserRemoved => Some("The user has been removed from the pooler's configuration."),
            _ => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientViolation(violation) | Self::ServerViolation(violation) => {
                write!(f, "{}: {violation}", self.departure().word())
            }
            _ => f.write_str(self.departure().word()),
        }
    }
}

/// Why a client was not let in, or a turn of its could not be had.
#[derive(Debug)]
pub(super) enum Denied {
    /// No server.
    Checkout(CheckoutError),
    /// Its own cancel request found it waiting.
    Cancelled,
    /// We are going away.
    Drained,
    /// The startup packet states an identity, and may not.
    IdentityChannel,
    /// Its database is closed to newcomers.
    Disabled(String),
    /// A value for the identity that its pattern does not allow, at startup.
    IdentityPattern,
    /// The client's own `statement_timeout` left no time for the prelude.
    Hasty,
    /// The prelude failed, again and again.
    Prelude,
    /// Its startup settings were refused by the server, with these words.
    Settings(Box<[u8]>),
    /// As many clients as may be.
    TooManyClients,
    /// The token in the startup packet proves nothing.
    Token(TokenFault),
    /// There is no such database.
    UnknownDatabase(String),
}

impl Denied {
    /// The word for the metrics, where it was a login that was denied.
    pub(super) fn login(&self) -> Login {
        match self {
            Self::Checkout(_) | Self::Cancelled | Self::Drained | Self::Hasty | Self::Prelude => {
                Login::NoServer
            }
            Self::Disabled(_) => Login::Disabled,
            Self::IdentityChannel | Self::IdentityPattern | Self::Token(_) => Login::IdentityRefused,
            Self::Settings(_) => Login::SettingsRefused,
            Self::TooManyClients => Login::TooManyClients,
            Self::UnknownDatabase(_) => Login::UnknownDatabase,
        }
    }

    /// Tells the client, with this severity.
    pub(super) fn write(&self, severity: &'static str, outbox: &mut BytesMut) {
        match self {
            Self::Checkout(CheckoutError::Connect(error)) => write_connect_error(severity, error, outbox),
            Self::Settings(body) if !body.is_empty() => {
                let text = crate::wire::control::ErrorFields::read(body);
                let state = text.as_ref().and_then(|fields| fields.sqlstate).unwrap_or(*b"22023");
                let message = text.map(|fields| Printable(fields.message).to_string()).unwrap_or_default();
                let state = String::from_utf8_lossy(&state);
                write::error_response(outbox, severity, &state, &message, None, None, None);
            }
            _ => {
                let report = self.report(severity);
                report.write(outbox);
            }
        }
    }

    /// The words, where they are our own.
    pub(super) fn report(&self, severity: &'static str) -> Report {
        let (sqlstate, message, hint) = match self {
            Self::Cancelled => {
                (sqlstate::QUERY_CANCELED, "canceling statement due to user request".to_owned(), None)
            }
            Self::Drained => (
                sqlstate::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command".to_owned(),
                None,
            ),
            Self::Hasty => {
                (sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout".to_owned(), None)
            }
            Self::Checkout(CheckoutError::Closed) => {
                (sqlstate::ADMIN_SHUTDOWN, "the pool is being closed".to_owned(), None)
            }
            Self::Checkout(CheckoutError::Connect(error)) => {
                (sqlstate::CONNECTION_FAILURE, error.to_string(), None)
            }
            Self::Checkout(CheckoutError::QueueFull(most)) => (
                sqlstate::TOO_MANY_CONNECTIONS,
                format!("pool is exhausted: {most} clients are already waiting for a server"),
                Some("Raise pool.size or pool.max_waiting, or shorten transactions."),
            ),
            Self::Checkout(CheckoutError::TimedOut(limit)) => (
                sqlstate::TOO_MANY_CONNECTIONS,
                format!("no server became free within {limit:?}"),
                Some(
                    "Every server of the pool was busy. Raise pool.size or pool.acquire_timeout, or shorten transactions.",
                ),
            ),
            Self::IdentityChannel => Refusal::IdentityChannel.words(),
            Self::IdentityPattern => Refusal::IdentityPattern.words(),
            Self::Prelude => (
                sqlstate::CONNECTION_FAILURE,
                "the session could not be prepared on the server; nothing was executed".to_owned(),
                Some(
                    "The server refused the settings or the identity of this connection; its log says why. It is safe to try again.",
                ),
            ),
            Self::Settings(_) => {
                (sqlstate::INVALID_PARAMETER_VALUE, "invalid startup parameters".to_owned(), None)
            }
            Self::TooManyClients => (
                sqlstate::TOO_MANY_CONNECTIONS,
                "sorry, too many clients already".to_owned(),
                Some("Raise listen.max_clients, or the max_clients of the database or user."),
            ),
            Self::Disabled(name) => (
                "55000",
                format!("database \"{name}\" is not currently accepting connections"),
                Some("It was disabled in the pooler's console."),
            ),
            Self::Token(fault) => Refusal::Token(*fault).words(),
            Self::UnknownDatabase(name) => ("3D000", format!("database \"{name}\" does not exist"), None),
        };
        Report { severity, sqlstate, message, hint, routine: None }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkout(CheckoutError::Connect(error)) => error.fmt(f),
            Self::Settings(body) => match crate::wire::control::ErrorFields::read(body) {
                Some(fields) => Printable(fields.message).fmt(f),
                None => f.write_str("invalid startup parameters"),
            },
            _ => f.write_str(&self.report("ERROR").message),
        }
    }
}

/// The server's own words where it had any, under the severity of the moment.
fn write_connect_error(severity: &'static str, error: &ConnectError, outbox: &mut BytesMut) {
    let code = error.sqlstate();
    match error.server_error() {
        Some(server) => {
            let message = Printable(&server.message).to_string();
            let detail = server.detail.as_ref().map(|detail| Printable(detail).to_string());
            let hint = server.hint.as_ref().map(|hint| Printable(hint).to_string());
            write::error_response(
                outbox,
                severity,
                &code,
                &message,
                detail.as_deref(),
                hint.as_deref(),
                None,
            );
        }
        None => write::error_response(outbox, severity, &code, &error.to_string(), None, None, None),
    }
}
