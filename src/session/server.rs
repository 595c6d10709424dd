//! What is known of a server, from login to its end.
//!
//! # Promises
//! - What is recorded here is what the server confirmed, or what was sent and not yet refused; an error takes it back.
//!
//! # Refuses
//! To know a socket or a client.

use std::borrow::Cow;

use crate::names::{ClientId, ServerId};
use crate::session::parameters::{Parameters, Values};
use crate::session::prepared::ServerStatements;
use crate::session::role::{DEFAULT_TRANSACTION_READ_ONLY, Role};
use crate::session::tier::Tier;

/// One server's side of the conversation.
#[derive(Debug)]
pub struct ServerState {
    /// Which server.
    pub id: ServerId,
    /// What it has reported.
    pub reported: Parameters,
    /// What it is, by that.
    pub role: Role,
    /// Whether it has refused to write (25006), for whatever reason.
    pub has_refused_write: bool,
    /// The settings it had when it was new, from `connect_query`: everybody's who wants no other.
    pub base: Values,
    /// The settings it has in some client's name.
    pub applied: Values,
    /// Whose words have run on it since it was cleaned.
    pub guest: Option<ClientId>,
    /// The statements it has under our names.
    pub statements: ServerStatements,
    /// Whether it keeps from its users which statements there are (`pg_prepared_statements` is revoked).
    pub hides_statements: bool,
    /// How many statements of the prelude it has by name (see [`crate::session::inject`]).
    pub prelude: usize,
    /// Its logins by token.
    pub tier: Tier,
    /// How often it was about to be given back.
    pub returns: u64,
    /// Whether it must answer a Sync before another client's words are sent: it has been idle for long, or may have a timeout
    /// still to say.
    pub is_doubtful: bool,
}

impl ServerState {
    /// A server that has just been logged in.
    pub fn new(id: ServerId, reported: Parameters) -> Self {
        Self {
            id,
            role: Role::of(&reported),
            has_refused_write: false,
            reported,
            base: Values::default(),
            applied: Values::default(),
            guest: None,
            statements: ServerStatements::default(),
            hides_statements: false,
            prelude: 0,
            tier: Tier::default(),
            returns: 0,
            is_doubtful: false,
        }
    }

    /// It has these settings from `connect_query`, and no client yet.
    #[must_use]
    pub fn with_base(self, base: Values) -> Self {
        Self { applied: base.clone(), base, ..self }
    }

    /// It has reported a setting.
    pub fn on_report(&mut self, name: &[u8], value: &[u8]) {
        self.reported.set(name, value);
        self.role.on_report(name, value);
    }

    /// Whether a client has asked for transactions that begin as `READ ONLY`: then that says nothing about the server.
    pub fn is_read_only_by_wish(&self) -> bool {
        self.applied.value(DEFAULT_TRANSACTION_READ_ONLY).is_some()
    }

    /// The settings it is to have for a client that wants these.
    pub fn settings_for<'a>(&self, wanted: &'a Values) -> Cow<'a, Values> {
        if self.base.is_empty() { Cow::Borrowed(wanted) } else { Cow::Owned(wanted.over(&self.base)) }
    }

    /// After the full clean: what clients set is gone.
    pub fn on_swept(&mut self, with_statements: bool) {
        self.applied = Values::default();
        self.tier.set_known(false);
        if with_statements {
            self.forget_statements();
        }
    }

    /// Whether it has statements of ours.
    pub fn has_plans(&self) -> bool {
        self.prelude > 0 || !self.statements.is_empty()
    }

    /// Whether an error that ended a prelude may be the doing of a timeout that another client left here: it would end the
    /// next one, too.
    pub fn is_to_blame(&self, client: ClientId, sqlstate: Option<[u8; 5]>) -> bool {
        is_belated(sqlstate) && self.guest.is_some_and(|guest| guest != client)
    }

    /// It has no statements any more, of ours neither.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
        self.prelude = 0;
    }
}

/// Whether an error is one of those that PostgreSQL may raise only when it reads the message after the one it is about: a
/// timeout that runs out behind a statement's last look for interrupts (`ProcessInterrupts`).
pub fn is_belated(sqlstate: Option<[u8; 5]>) -> bool {
    matches!(sqlstate.as_ref(), Some(b"55P03" | b"57014"))
}
