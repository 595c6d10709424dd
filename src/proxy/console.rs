//! The door to the console: who may enter, and what is handed to whoever serves there.
//!
//! Clients that ask for the database `pgusher` (or `pgbouncer`, so that tools find it) and are named in `[admin]` do not want a
//! server: they want to see and steer. They prove themselves as all others do.
//!
//! # Promises
//! - Where nobody is named there is no console, and the two names are databases like others.
//! - Whoever is not named hears what a wrong password hears.
//!
//! # Refuses
//! To know a command: [`Console`] is served above.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::names::{ClientId, Database, User};
use crate::net::Peer;
use crate::pool::Place;
use crate::proxy::cancel::Entry;

/// The console's names as a database.
pub const NAMES: [&str; 2] = ["pgusher", "pgbouncer"];

/// `[admin]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Users who may see and steer.
    pub users: Vec<String>,
    /// Users who may see.
    pub readers: Vec<String>,
    /// What SHOW VERSION says, for tools that read it; `None` is what PgBouncer 1.25.2 says.
    pub version: Option<String>,
}

/// What somebody may do in the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// See and steer. Counts against no limit.
    Admin,
    /// See.
    Reader,
}

impl Settings {
    /// What SHOW VERSION says.
    pub fn version(&self) -> &str {
        self.version.as_deref().unwrap_or("PgBouncer 1.25.2")
    }

    /// Whether this names the console.
    pub fn is_console(&self, database: &Database) -> bool {
        let is_there = !self.users.is_empty() || !self.readers.is_empty();
        is_there && NAMES.iter().any(|name| name.as_bytes() == database.as_bytes())
    }

    /// What this user may do there.
    pub fn role(&self, user: &User) -> Option<Role> {
        let is_in = |names: &[String]| names.iter().any(|name| name.as_bytes() == user.as_bytes());
        match (is_in(&self.users), is_in(&self.readers)) {
            (true, _) => Some(Role::Admin),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }
}

/// Somebody who has been let in, and welcomed.
pub struct Visitor {
    /// Who.
    pub id: ClientId,
    /// By which name.
    pub user: User,
    /// What it may do.
    pub role: Role,
    /// Its connection.
    pub peer: Peer,
    /// Its place among the living.
    pub entry: Entry,
    /// Its place among the clients, if it needs one.
    pub place: Option<Place>,
}

/// Who serves there.
pub trait Console: Send + Sync {
    /// Serves until the visitor leaves.
    fn serve(self: Arc<Self>, visitor: Visitor) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_anybody_named_there_is_no_console() {
        let named = Settings { readers: vec!["r".into()], ..Settings::default() };

        for name in NAMES {
            assert!(!Settings::default().is_console(&Database::from(name)));
            assert!(named.is_console(&Database::from(name)));
        }
        assert!(!named.is_console(&Database::from("postgres")));
        assert_eq!((named.role(&User::from("r")), named.role(&User::from("x"))), (Some(Role::Reader), None));
    }
}
