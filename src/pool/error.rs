//! Why there is no server.
//!
//! # Promises
//! - What the server itself said is kept whole: a client is told the real reason.
//! - Each error knows whether trying again could help.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::ScramError;
use crate::net::tls::{HandshakeError, SslMode};
use crate::pool::pressure::Connected;
use crate::pool::secrets::PasswordError;
use crate::pool::target::{TargetSessionAttrs, Unfit};
use crate::session::hold::Pins;
use crate::session::login::LoginError;
use crate::session::violation::sqlstate;
use crate::wire::control::ServerError;

/// Why a server could not be made.
#[derive(Debug)]
pub enum ConnectError {
    /// The pool is being closed.
    Closed,
    /// `connect_query` failed.
    ConnectQuery(Box<ServerError>),
    /// It left what no clean keeps.
    ConnectQueryLeft(Pins),
    /// The login failed.
    Login(LoginError),
    /// The connection broke during the login.
    Lost(Arc<io::Error>),
    /// Encryption is required, and the server has none.
    NoEncryption(SslMode),
    /// There is no password to derive keys from.
    NoPassword,
    /// No server is what is wanted; what the last one is.
    NotWanted(TargetSessionAttrs, Unfit),
    /// What the server said about encryption is no answer, or more than one.
    NotAnAnswer,
    /// There is a place for the password, and it cannot be had from there.
    Password(PasswordError),
    /// The login took longer than `connect_timeout`.
    TimedOut(Duration),
    /// The handshake failed.
    Tls(HandshakeError),
    /// No host could be reached.
    Unreachable(io::Error),
}

impl ConnectError {
    /// What a broken connection means: inside TLS the reason may come after the handshake, as a refused certificate does in
    /// TLS 1.3.
    pub(crate) fn lost(error: io::Error) -> Self {
        match HandshakeError::from_io(error) {
            HandshakeError::Broken(error) => Self::Lost(error),
            refused => Self::Tls(refused),
        }
    }

    /// What the server said, if it said anything.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::ConnectQuery(error) => Some(error),
            Self::Login(LoginError::Refused(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether another try could end otherwise while a client waits.
    ///
    /// A server that is full (53300), starting up or shutting down (57P0x) may have room in a moment; a wrong password,
    /// an unknown database or role will not mend itself.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Lost(_) | Self::TimedOut(_) | Self::Unreachable(_) => true,
            Self::Tls(error) => error.is_passing(),
            // One of them may be promoted.
            Self::NotWanted(_, unfit) => *unfit != Unfit::Unknown,
            Self::Login(LoginError::Refused(error)) => {
                error.sqlstate().is_some_and(|state| state.starts_with("53") || state.starts_with("57"))
            }
            Self::Closed
            | Self::ConnectQuery(_)
            | Self::ConnectQueryLeft(_)
            | Self::Login(_)
            | Self::NoEncryption(_)
            | Self::NoPassword
            | Self::NotAnAnswer
            | Self::Password(_) => false,
        }
    }

    /// Whether the server did not take what we have to log in with: it may have been changed since.
    pub fn is_of_credential(&self) -> bool {
        match self {
            Self::Login(LoginError::Refused(error)) => {
                error.sqlstate().is_some_and(|state| state.starts_with("28"))
            }
            Self::Login(LoginError::Scram(error)) => *error == ScramError::KeysDoNotFit,
            _ => false,
        }
    }

    /// The word for the metrics.
    pub(super) fn word(&self) -> Connected {
        match self {
            Self::ConnectQuery(_) | Self::Login(LoginError::Refused(_)) => Connected::Refused,
            Self::NotWanted(..) => Connected::NotWanted,
            Self::TimedOut(_) => Connected::TimedOut,
            Self::Unreachable(_) => Connected::Unreachable,
            Self::Closed
            | Self::ConnectQueryLeft(_)
            | Self::Login(_)
            | Self::Lost(_)
            | Self::NoEncryption(_)
            | Self::NoPassword
            | Self::NotAnAnswer
            | Self::Password(_)
            | Self::Tls(_) => Connected::Failed,
        }
    }

    /// Whether it says that the host does not answer, and not what the host has answered.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::TimedOut(_) | Self::Unreachable(_))
    }

    /// Whether another host may do better: this one does not answer, cannot serve yet or any more (57P03), or is not what is
    /// wanted. What else a host says holds for the others too, as in libpq.
    pub fn leads_on(&self) -> bool {
        match self {
            Self::Login(LoginError::Refused(error)) => error.sqlstate() == Some(CANNOT_CONNECT_NOW),
            Self::NotWanted(..) => true,
            Self::Tls(error) => error.is_passing(),
            error => error.is_silence(),
        }
    }

    /// The code for the client.
    pub fn sqlstate(&self) -> String {
        match self {
            Self::Closed => sqlstate::ADMIN_SHUTDOWN.to_owned(),
            Self::ConnectQuery(error) => error.sqlstate().unwrap_or(sqlstate::CONNECTION_FAILURE).to_owned(),
            Self::ConnectQueryLeft(_) => sqlstate::FEATURE_NOT_SUPPORTED.to_owned(),
            Self::Login(error) => error.sqlstate().to_owned(),
            Self::Lost(_)
            | Self::NoEncryption(_)
            | Self::NotAnAnswer
            | Self::NotWanted(..)
            | Self::TimedOut(_)
            | Self::Tls(_)
            | Self::Unreachable(_) => "08001".to_owned(),
            Self::NoPassword | Self::Password(PasswordError::File(_)) => {
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION.to_owned()
            }
            Self::Password(PasswordError::Command(_)) => SYSTEM_ERROR.to_owned(),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the pool is closed"),
            Self::ConnectQuery(error) => write!(f, "connect_query failed: {error}"),
            Self::ConnectQueryLeft(left) => write!(
                f,
                "connect_query left session state behind ({left}), which does not survive the clean between clients; let it only SET: \
                 a role is set by ALTER ROLE … SET role, anything else by the client that needs it"
            ),
            Self::Login(error) => write!(f, "server login failed: {error}"),
            Self::Lost(error) => write!(f, "server closed the connection during login: {error}"),
            Self::NoEncryption(mode) => write!(
                f,
                "server does not support TLS, and sslmode is {}",
                match mode {
                    SslMode::VerifyCa => "verify-ca",
                    SslMode::VerifyFull => "verify-full",
                    _ => "require",
                }
            ),
            Self::NotAnAnswer => f.write_str(
                "server answered the request for TLS with something else, or with more than an answer",
            ),
            Self::NoPassword => f.write_str("server asks for a password and none is configured"),
            Self::NotWanted(target, unfit) => {
                let word = target.word();
                write!(f, "no server fits target_session_attrs = \"{word}\": the last one tried {unfit}")
            }
            Self::Password(PasswordError::Command(error)) => write!(
                f,
                "the password for the server is not known, since its password_command failed: {error}; \
                 it must print the password and exit with 0"
            ),
            Self::Password(PasswordError::File(error)) => {
                write!(f, "the server's password file cannot be read: {error}")
            }
            Self::Tls(error) => write!(f, "could not connect to server in TLS: {error}"),
            Self::TimedOut(limit) => write!(f, "server did not complete the login within {limit:?}"),
            Self::Unreachable(error) => write!(f, "could not connect to server: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

const CANNOT_CONNECT_NOW: &str = "57P03";

/// "Errors external to PostgreSQL itself" (appendix A of its documentation).
const SYSTEM_ERROR: &str = "58000";

/// Why a client gets no server.
#[derive(Clone, Debug)]
pub enum CheckoutError {
    /// The pool is closed.
    Closed,
    /// No server could be made; the last reason.
    Connect(Arc<ConnectError>),
    /// As many clients wait as may.
    QueueFull(usize),
    /// None became free in time.
    TimedOut(Duration),
}
