//! Which databases and users there are, and what holds for a client of both.
//!
//! # Promises
//! - A client's rules are the user's where it has its own, then the database's, then the pool's defaults.
//! - Caps are counted once for each database and user, whoever asks.
//!
//! # Refuses
//! To authenticate, to open anything.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::names::{Database, PoolKey, User};
use crate::pool::{Cap, Recipe, Settings, Upstream};
use crate::proxy::settings::{DatabaseEntry, UserEntry};
use crate::session::Rules;

/// The name of the entry for databases that have none of their own.
const FALLBACK: &[u8] = b"*";

/// Which databases and users there are.
pub struct Catalog {
    databases: HashMap<Vec<u8>, Place>,
    users: HashMap<Vec<u8>, Person>,
}

/// A database, with what is counted for it.
struct Place {
    upstream: Arc<Upstream>,
    settings: Settings,
    rules: Arc<Rules>,
    /// The rules of users for whom something differs.
    own: HashMap<Vec<u8>, Arc<Rules>>,
    servers: Option<Arc<Cap>>,
    clients: Option<Arc<Semaphore>>,
}

/// A user, with what is counted for it.
struct Person {
    entry: UserEntry,
    servers: Option<Arc<Cap>>,
    clients: Option<Arc<Semaphore>>,
}

/// What holds for a client of one database and user.
pub struct Seat {
    /// The pool its servers come from.
    pub key: PoolKey,
    /// What that pool is made of, if it is not there yet.
    pub recipe: Recipe,
    /// The rules of its conversation.
    pub rules: Arc<Rules>,
    /// Whether it needs no identity.
    pub is_exempt: bool,
    /// The caps on clients it counts against.
    pub caps: Vec<Arc<Semaphore>>,
}

fn cap(most: Option<usize>) -> Option<Arc<Semaphore>> {
    most.map(|most| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))))
}

/// The rules of one user, if they are not those of everybody.
fn own(database: &DatabaseEntry, user: &UserEntry) -> Option<Arc<Rules>> {
    let mode = user.mode.filter(|mode| *mode != database.rules.mode);
    let identity = database.identities.get(&user.name);
    if mode.is_none() && identity.is_none() {
        return None;
    }
    let mut rules = database.rules.clone();
    rules.mode = mode.unwrap_or(rules.mode);
    rules.identity = identity.cloned().unwrap_or(rules.identity);
    Some(Arc::new(rules))
}

impl Catalog {
    /// What configuration says.
    pub fn new(databases: &[DatabaseEntry], users: &[UserEntry]) -> Self {
        let place = |entry: &DatabaseEntry| Place {
            upstream: Arc::new(entry.upstream.clone()),
            settings: entry.pool.clone(),
            rules: Arc::new(entry.rules.clone()),
            own: users
                .iter()
                .filter_map(|user| Some((user.name.clone().into(), own(entry, user)?)))
                .collect(),
            servers: entry.upstream.max_servers.map(|most| Arc::new(Cap::new(most))),
            clients: cap(entry.upstream.max_clients),
        };
        let person = |entry: &UserEntry| Person {
            servers: entry.max_servers.map(|most| Arc::new(Cap::new(most))),
            clients: cap(entry.max_clients),
            entry: entry.clone(),
        };
        Self {
            databases: databases.iter().map(|entry| (entry.name.as_bytes().to_vec(), place(entry))).collect(),
            users: users.iter().map(|entry| (entry.name.as_bytes().to_vec(), person(entry))).collect(),
        }
    }

    /// What holds for this client; `None` if there is no such database.
    pub fn seat(&self, database: &Database, user: &User) -> Option<Seat> {
        let place = self.databases.get(database.as_bytes()).or_else(|| self.databases.get(FALLBACK))?;
        let person = self.users.get(user.as_bytes());
        let forced = place.upstream.user.as_deref().map(User::from);
        let is_forced = forced.as_ref().is_some_and(|forced| forced != user);
        let mut settings = place.settings.clone();
        if let Some(person) = person.filter(|_| !is_forced) {
            settings.size = person.entry.size.unwrap_or(settings.size);
            settings.min = person.entry.min.unwrap_or(settings.min).min(settings.size);
        }
        let rules = place.own.get(user.as_bytes()).unwrap_or(&place.rules).clone();
        let identity = &rules.identity;
        let name = String::from_utf8_lossy(user.as_bytes());
        Some(Seat {
            key: PoolKey { database: database.clone(), user: forced.unwrap_or_else(|| user.clone()) },
            is_exempt: identity.exempt.iter().any(|exempt| *exempt == name),
            recipe: Recipe {
                upstream: place.upstream.clone(),
                settings,
                identity_variables: identity.said().map(str::to_owned).collect(),
                caps: place
                    .servers
                    .clone()
                    .into_iter()
                    .chain(person.and_then(|person| person.servers.clone()))
                    .collect(),
            },
            caps: place
                .clients
                .clone()
                .into_iter()
                .chain(person.and_then(|person| person.clients.clone()))
                .collect(),
            rules,
        })
    }

    /// What holds for a client of physical replication: it names no database, so any will do that is the only one.
    pub fn seat_of_any(&self, user: &User) -> Option<Seat> {
        let mut named = self.databases.keys().filter(|name| **name != FALLBACK);
        match (named.next(), named.next()) {
            (Some(only), None) => self.seat(&Database::from(&**only), user),
            _ => None,
        }
    }

    /// A seat for each database and user that has a minimum of servers and can log in by itself.
    pub fn to_warm(&self) -> impl Iterator<Item = Seat> {
        self.databases.iter().filter(|(name, _)| *name != FALLBACK).filter_map(|(name, place)| {
            let user = User::from(place.upstream.user.as_deref()?);
            self.seat(&Database::from(&**name), &user).filter(|seat| seat.recipe.settings.min > 0)
        })
    }
}
