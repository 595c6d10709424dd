//! What is known of a server, from login to its end.
//!
//! # Promises
//! - What is recorded here is what the server confirmed, or what was sent and not yet refused; an error takes it back.
//!
//! # Refuses
//! To know a socket or a client.

use crate::names::ServerId;
use crate::session::parameters::{Parameters, Values};
use crate::session::prepared::ServerStatements;

/// One server's side of the conversation.
#[derive(Debug)]
pub struct ServerState {
    /// Which server.
    pub id: ServerId,
    /// What it has reported.
    pub reported: Parameters,
    /// The settings it has in some client's name.
    pub applied: Values,
    /// The statements it has under our names.
    pub statements: ServerStatements,
    /// Whether it keeps from its users which statements there are (`pg_prepared_statements` is revoked).
    pub hides_statements: bool,
    /// How many statements of the prelude it has by name (see [`crate::session::inject`]).
    pub prelude: usize,
    /// Whether it must prove itself alive before a client's words are sent: it has been idle for long.
    pub is_doubtful: bool,
}

impl ServerState {
    /// A server that has just been logged in.
    pub fn new(id: ServerId, reported: Parameters) -> Self {
        Self {
            id,
            reported,
            applied: Values::default(),
            statements: ServerStatements::default(),
            hides_statements: false,
            prelude: 0,
            is_doubtful: false,
        }
    }

    /// After the full clean: what clients set is gone.
    pub fn on_swept(&mut self, with_statements: bool) {
        self.applied = Values::default();
        if with_statements {
            self.forget_statements();
        }
    }

    /// It has no statements any more, of ours neither.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
        self.prelude = 0;
    }
}
