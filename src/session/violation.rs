//! Every way a peer can break the protocol, or ask for what cannot be, with SQLSTATE.
//!
//! # Promises
//! - Each [`Violation`] knows who broke what; each [`Refusal`] is an ERROR that the session survives.
//! - Words for a client are made here and nowhere else below `proxy`.

use std::fmt;

use bytes::BytesMut;

use crate::wire::Malformed;
use crate::wire::write;

/// SQLSTATEs, by PostgreSQL's own condition names (PostgreSQL docs, Appendix A).
pub mod sqlstate {
    /// `admin_shutdown`.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// `cannot_connect_now`.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// `configuration_limit_exceeded`.
    pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
    /// `connection_failure`.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// `duplicate_prepared_statement`.
    pub const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
    /// `feature_not_supported`.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// `idle_in_transaction_session_timeout`.
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
    /// `idle_session_timeout`.
    pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
    /// `in_failed_sql_transaction`.
    pub const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
    /// `insufficient_privilege`.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// `invalid_authorization_specification`.
    pub const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
    /// `invalid_parameter_value`.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// `invalid_password`.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// `invalid_sql_statement_name`.
    pub const INVALID_SQL_STATEMENT_NAME: &str = "26000";
    /// `protocol_violation`.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// `query_canceled`.
    pub const QUERY_CANCELED: &str = "57014";
    /// `reserved_name`.
    pub const RESERVED_NAME: &str = "42939";
    /// `too_many_connections`.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `transaction_timeout`.
    pub const TRANSACTION_TIMEOUT: &str = "25P04";
    /// `undefined_parameter`.
    pub const UNDEFINED_OBJECT: &str = "42704";
}

/// Which side of the exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The application.
    Client,
    /// PostgreSQL.
    Server,
}

/// A broken protocol: the connection of whoever broke it cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Bytes that are not a message.
    Malformed(Side, Malformed),
    /// A message that has no place here, by its tag.
    Unexpected(Side, u8),
}

impl Violation {
    /// Who broke it.
    pub fn side(self) -> Side {
        match self {
            Self::Malformed(side, _) | Self::Unexpected(side, _) => side,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(_, malformed) => malformed.fmt(f),
            Self::Unexpected(_, tag) => write!(f, "unexpected message {:?}", char::from(*tag)),
        }
    }
}

impl std::error::Error for Violation {}

/// What a client asked for and does not get. It is told, and may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Named statements beyond the client's limits.
    ClientStatements,
    /// A Parse of a name that is taken.
    DuplicateStatement,
    /// A statement inside a transaction that has failed.
    FailedTransaction,
    /// The token that said who the user is has expired.
    IdentityExpired,
    /// A value for the identity that its pattern does not allow.
    IdentityPattern,
    /// A statement that would change the identity, in words or a place the pooler does not follow.
    IdentityUnclear,
    /// The identity may not be set this way here.
    IdentityChannel,
    /// No identity, where one is demanded.
    NoIdentity,
    /// A statement name that is kept for the pooler.
    ReservedStatement,
    /// Session state that cannot be kept, by configuration.
    SessionState,
    /// A plain SET, where configuration refuses them.
    SetRefused,
    /// A transaction block under statement pooling.
    StatementMode,
    /// A token that proves nothing.
    Token(TokenFault),
    /// A statement name that nobody prepared.
    UnknownStatement,
}

/// What is wrong with a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenFault {
    /// Its algorithm is not the one of its key, or none that is accepted.
    Algorithm,
    /// It is for somebody else.
    Audience,
    /// A claim that says who the user is is missing, or its value does not fit the variable's pattern.
    Claim,
    /// It has expired.
    Expired,
    /// Somebody else has issued it.
    Issuer,
    /// There are no keys to verify it by: they could not be read, or fetched.
    KeysUnavailable,
    /// It is not a token, or has no expiry.
    Malformed,
    /// It is not valid yet.
    NotYet,
    /// It was not signed by the key it names.
    Signature,
    /// It is longer than tokens may be.
    TooLong,
    /// No key is known by the name it gives.
    UnknownKey,
}

impl TokenFault {
    /// What is wrong, as the end of a sentence.
    pub fn words(self) -> &'static str {
        match self {
            Self::Algorithm => "its algorithm is not that of a key known here",
            Self::Audience => "it is meant for another audience",
            Self::Claim => "a claim that says who the user is is missing or does not fit its variable",
            Self::Expired => "it has expired",
            Self::Issuer => "it was issued by somebody else",
            Self::KeysUnavailable => "the keys to verify it by are not available",
            Self::Malformed => "it is not a signed token with an expiry",
            Self::NotYet => "it is not valid yet",
            Self::Signature => "its signature is wrong",
            Self::TooLong => "it is too long",
            Self::UnknownKey => "it was signed with a key that is not known here",
        }
    }
}

/// The parts of an ErrorResponse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// `ERROR` or `FATAL`.
    pub severity: &'static str,
    /// The code.
    pub sqlstate: &'static str,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<&'static str>,
    /// The function of PostgreSQL's source that reports the same, where drivers go by it.
    pub routine: Option<&'static str>,
}

impl Report {
    /// Writes it as an ErrorResponse.
    pub fn write(&self, outbox: &mut BytesMut) {
        let Self { severity, sqlstate, message, hint, routine } = self;
        write::error_response(outbox, severity, sqlstate, message, None, *hint, *routine);
    }
}

impl Refusal {
    /// The words for the client. `name` is the statement's, where there is one.
    pub fn report(self, name: &[u8]) -> Report {
        let (sqlstate, message, hint) = self.words_about(name);
        // postgres.js prepares again what is gone, if it was this function that missed it.
        let routine = (self == Self::UnknownStatement).then_some("FetchPreparedStatement");
        Report { severity: "ERROR", sqlstate, message, hint, routine }
    }

    /// SQLSTATE, message and hint.
    pub fn words(self) -> (&'static str, String, Option<&'static str>) {
        self.words_about(b"")
    }

    fn words_about(self, name: &[u8]) -> (&'static str, String, Option<&'static str>) {
        let name = crate::names::Printable(name);
        match self {
            Self::ClientStatements => (
                sqlstate::CONFIGURATION_LIMIT_EXCEEDED,
                "too many prepared statements on this connection".to_owned(),
                Some(
                    "Close statements that are no longer needed, or raise pool.client_statements and pool.client_statement_bytes.",
                ),
            ),
            Self::DuplicateStatement => (
                sqlstate::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
                None,
            ),
            Self::FailedTransaction => (
                sqlstate::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block".to_owned(),
                None,
            ),
            Self::IdentityChannel => (
                sqlstate::INSUFFICIENT_PRIVILEGE,
                "permission denied to set the identity of this connection".to_owned(),
                Some(
                    "The pooler takes the identity from another channel; see [identity] in its configuration.",
                ),
            ),
            Self::IdentityExpired => (
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
                "the token that states the identity of this connection has expired".to_owned(),
                Some(
                    "SET the token variable to a fresh token (identity.jwt_variable); the connection can be kept.",
                ),
            ),
            Self::IdentityPattern => (
                sqlstate::INVALID_PARAMETER_VALUE,
                "invalid value for the identity of this connection".to_owned(),
                Some(
                    "The value must match identity.pattern, or the variable's own in identity.variables; by default it is a UUID.",
                ),
            ),
            Self::IdentityUnclear => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                "the identity can only be set by a statement of its own".to_owned(),
                Some(
                    "Send SET, RESET or SELECT set_config(...) of one identity variable alone and first, outside a transaction; or SET LOCAL inside one.",
                ),
            ),
            Self::NoIdentity => (
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
                "no identity was set for this transaction".to_owned(),
                Some(
                    "SET the identity variable first; the pooler is configured with identity.missing = \"deny\".",
                ),
            ),
            Self::ReservedStatement => (
                sqlstate::RESERVED_NAME,
                format!("prepared statement name \"{name}\" is reserved"),
                Some("Names that begin with \"pgusher_\" are the pooler's own in SQL; choose another."),
            ),
            Self::SessionState => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                "session state is not kept in this pool".to_owned(),
                Some(
                    "LISTEN, session advisory locks, temporary tables, WITH HOLD cursors, PREPARE and SET ROLE need pool.session_state = \"pin\" or session pooling.",
                ),
            ),
            Self::SetRefused => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                "SET is not allowed in this pool".to_owned(),
                Some("Use SET LOCAL in a transaction, or pool.set = \"track\"."),
            ),
            Self::StatementMode => (
                sqlstate::FEATURE_NOT_SUPPORTED,
                "transaction blocks are not allowed with statement pooling".to_owned(),
                Some("Use pool.mode = \"transaction\" for this database or user."),
            ),
            Self::Token(fault) => (
                sqlstate::INVALID_AUTHORIZATION_SPECIFICATION,
                format!("the token was refused: {}", fault.words()),
                match fault {
                    TokenFault::KeysUnavailable => {
                        Some("The log of the pooler says why; it is safe to try again.")
                    }
                    _ => None,
                },
            ),
            Self::UnknownStatement => (
                sqlstate::INVALID_SQL_STATEMENT_NAME,
                if name.0.is_empty() {
                    "unnamed prepared statement does not exist".to_owned()
                } else {
                    format!("prepared statement \"{name}\" does not exist")
                },
                None,
            ),
        }
    }
}
