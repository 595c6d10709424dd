//! Which databases and users there are, and what holds for a client of both.
//!
//! # Promises
//! - A client's rules are the user's where it has its own, then the database's, then the pool's defaults.
//! - Caps are counted once for each database and user, whoever asks; they outlive a reload, with what they have counted.
//! - What a pool is made of follows from its key alone, whichever client comes first.
//!
//! # Refuses
//! To authenticate, to open anything.

use std::collections::HashMap;
use std::sync::Arc;

use crate::names::{Database, PoolKey, User};
use crate::pool::{Cap, Places, Recipe, Settings, Upstream};
use crate::proxy::settings::{DatabaseEntry, UserEntry};
use crate::session::{IdentitySettings, Rules};
use crate::token::Tokens;

/// The name of the entry for databases that have none of their own.
const FALLBACK: &[u8] = b"*";

/// Which databases and users there are.
pub struct Catalog {
    /// Which reading of the configuration it is.
    edition: u64,
    databases: HashMap<Vec<u8>, Place>,
    tokens: Vec<(IdentitySettings, Arc<Tokens>)>,
    users: HashMap<Vec<u8>, Person>,
}

/// A database, with what is counted for it.
struct Place {
    upstream: Arc<Upstream>,
    settings: Arc<Settings>,
    rules: Arc<Rules>,
    /// What verifies the tokens that say who a user is.
    tokens: Option<Arc<Tokens>>,
    /// The same for users for whom something differs.
    own: HashMap<Vec<u8>, Own>,
    servers: Option<Arc<Cap>>,
    clients: Option<Arc<Places>>,
    requires_tls: bool,
}

/// What differs for one user.
type Own = (Arc<Rules>, Option<Arc<Tokens>>);

/// A user, with what is counted for it.
struct Person {
    entry: UserEntry,
    servers: Option<Arc<Cap>>,
    clients: Option<Arc<Places>>,
}

/// A database as configured.
pub struct Listing<'a> {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub upstream: &'a Upstream,
    /// The limits of its pools.
    pub settings: &'a Settings,
    /// The rules of its conversations.
    pub rules: &'a Rules,
}

/// What holds for a client of one database and user.
pub struct Seat {
    /// The pool its servers come from.
    pub key: PoolKey,
    /// What that pool is made of, if it is not there yet.
    pub recipe: Recipe,
    /// The rules of its conversation.
    pub rules: Arc<Rules>,
    /// What verifies its tokens, if they say who its user is.
    pub tokens: Option<Arc<Tokens>>,
    /// Whether it needs no identity.
    pub is_exempt: bool,
    /// The caps on clients it counts against.
    pub caps: Vec<Arc<Places>>,
}

/// The cap there was, at its new bound; a new one only where there was none.
fn cap(most: Option<usize>, before: Option<&Arc<Cap>>) -> Option<Arc<Cap>> {
    if let Some(cap) = before {
        cap.resize(most);
        return most.map(|_| cap.clone());
    }
    most.map(|most| Arc::new(Cap::new(most)))
}

/// The same for clients.
fn places(most: Option<usize>, before: Option<&Arc<Places>>) -> Option<Arc<Places>> {
    if let Some(places) = before {
        places.resize(most);
        return most.map(|_| places.clone());
    }
    most.map(|most| Places::new(Some(most)))
}

/// Everything that verifies tokens: one for all who have the same identity, from edition to edition, for it knows keys.
struct Verifiers<'a> {
    before: &'a [(IdentitySettings, Arc<Tokens>)],
    made: Vec<(IdentitySettings, Arc<Tokens>)>,
}

impl Verifiers<'_> {
    fn of(&mut self, identity: &IdentitySettings) -> Option<Arc<Tokens>> {
        if !identity.takes_tokens() {
            return None;
        }
        let is_same =
            |other: &IdentitySettings| other.token == identity.token && other.stated().eq(identity.stated());
        if let Some((_, tokens)) = self.made.iter().find(|(other, _)| is_same(other)) {
            return Some(tokens.clone());
        }
        let before = self.before.iter().find(|(other, _)| is_same(other));
        let tokens = before.map_or_else(|| Arc::new(Tokens::new(identity)), |(_, tokens)| tokens.clone());
        self.made.push((identity.clone(), tokens.clone()));
        Some(tokens)
    }
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
    /// What configuration says, and what was counted so far.
    pub fn new(databases: &[DatabaseEntry], users: &[UserEntry], before: Option<&Self>) -> Self {
        let mut verifiers =
            Verifiers { before: before.map_or(&[], |before| &before.tokens), made: Vec::new() };
        let mut place = |entry: &DatabaseEntry| {
            let before = before.and_then(|before| before.databases.get(entry.name.as_bytes()));
            Place {
                upstream: Arc::new(entry.upstream.clone()),
                settings: Arc::new(entry.pool.clone()),
                rules: before
                    .filter(|before| *before.rules == entry.rules)
                    .map_or_else(|| Arc::new(entry.rules.clone()), |before| before.rules.clone()),
                tokens: verifiers.of(&entry.rules.identity),
                own: users
                    .iter()
                    .filter_map(|user| {
                        let rules = own(entry, user)?;
                        let tokens = verifiers.of(&rules.identity);
                        Some((user.name.clone().into(), (rules, tokens)))
                    })
                    .collect(),
                servers: cap(entry.upstream.max_servers, before.and_then(|before| before.servers.as_ref())),
                clients: places(
                    entry.upstream.max_clients,
                    before.and_then(|before| before.clients.as_ref()),
                ),
                requires_tls: entry.require_tls,
            }
        };
        let person = |entry: &UserEntry| {
            let before = before.and_then(|before| before.users.get(entry.name.as_bytes()));
            Person {
                servers: cap(entry.max_servers, before.and_then(|before| before.servers.as_ref())),
                clients: places(entry.max_clients, before.and_then(|before| before.clients.as_ref())),
                entry: entry.clone(),
            }
        };
        Self {
            edition: before.map_or(0, |before| before.edition + 1),
            databases: databases.iter().map(|entry| (entry.name.as_bytes().to_vec(), place(entry))).collect(),
            tokens: verifiers.made,
            users: users.iter().map(|entry| (entry.name.as_bytes().to_vec(), person(entry))).collect(),
        }
    }

    /// Which reading of the configuration it is.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    fn place(&self, database: &Database) -> Option<&Place> {
        self.databases.get(database.as_bytes()).or_else(|| self.databases.get(FALLBACK))
    }

    /// What the pool of this key is made of; `None` if there is to be no such pool.
    pub fn recipe(&self, key: &PoolKey) -> Option<Recipe> {
        let place = self.place(&key.database)?;
        if place.upstream.user.as_deref().is_some_and(|forced| forced.as_bytes() != key.user.as_bytes()) {
            return None;
        }
        Some(self.recipe_of(place, self.users.get(key.user.as_bytes()), &key.user))
    }

    /// The same for who has been found already.
    fn recipe_of(&self, place: &Place, person: Option<&Person>, user: &User) -> Recipe {
        let (size, min) = (person.and_then(|it| it.entry.size), person.and_then(|it| it.entry.min));
        let target = person.and_then(|it| it.entry.target_session_attrs);
        let settings = match (size, min, target) {
            (None, None, None) => place.settings.clone(),
            _ => {
                let size = size.unwrap_or(place.settings.size);
                let min = min.unwrap_or(place.settings.min).min(size);
                let target_session_attrs = target.unwrap_or(place.settings.target_session_attrs);
                Arc::new(Settings { size, min, target_session_attrs, ..(*place.settings).clone() })
            }
        };
        let rules = place.own.get(user.as_bytes()).map_or(&place.rules, |(rules, _)| rules);
        Recipe {
            edition: self.edition,
            upstream: place.upstream.clone(),
            settings,
            identity_variables: rules.identity.said().map(str::to_owned).collect(),
            keeps_statements: place.rules.server_statements > 0,
            caps: place
                .servers
                .clone()
                .into_iter()
                .chain(person.and_then(|person| person.servers.clone()))
                .collect(),
        }
    }

    /// What holds for this client; `None` if there is no such database.
    pub fn seat(&self, database: &Database, user: &User) -> Option<Seat> {
        let place = self.place(database)?;
        let person = self.users.get(user.as_bytes());
        let forced = place.upstream.user.as_deref().map(User::from);
        let (rules, tokens) = match place.own.get(user.as_bytes()) {
            Some(own) => own.clone(),
            None => (place.rules.clone(), place.tokens.clone()),
        };
        let recipe = match &forced {
            Some(forced) => self.recipe_of(place, self.users.get(forced.as_bytes()), forced),
            None => self.recipe_of(place, person, user),
        };
        let key = PoolKey { database: database.clone(), user: forced.unwrap_or_else(|| user.clone()) };
        let name = String::from_utf8_lossy(user.as_bytes());
        Some(Seat {
            is_exempt: rules.identity.exempt.iter().any(|exempt| *exempt == name),
            recipe,
            key,
            tokens,
            caps: place
                .clients
                .clone()
                .into_iter()
                .chain(person.and_then(|person| person.clients.clone()))
                .collect(),
            rules,
        })
    }

    /// Every database as configured, by name.
    pub fn listing(&self) -> impl Iterator<Item = Listing<'_>> {
        let mut places: Vec<_> = self.databases.iter().collect();
        places.sort_by_key(|(name, _)| *name);
        places.into_iter().map(|(name, place)| Listing {
            name: String::from_utf8_lossy(name).into_owned(),
            upstream: &place.upstream,
            settings: &place.settings,
            rules: &place.rules,
        })
    }

    /// Every user as configured, by name.
    pub fn users(&self) -> impl Iterator<Item = &UserEntry> {
        let mut users: Vec<_> = self.users.values().map(|person| &person.entry).collect();
        users.sort_by_key(|entry| &entry.name);
        users.into_iter()
    }

    /// Whether there is a database for this name.
    pub fn has(&self, database: &Database) -> bool {
        self.place(database).is_some()
    }

    /// Whether a user is among those configured.
    pub fn knows_user(&self, user: &User) -> bool {
        self.users.contains_key(user.as_bytes())
    }

    /// Whether clients of this database must be encrypted. One that does not exist is as strict as the strictest, so that
    /// asking does not tell which do.
    pub fn requires_tls(&self, database: &Database) -> bool {
        match self.databases.get(database.as_bytes()).or_else(|| self.databases.get(FALLBACK)) {
            Some(place) => place.requires_tls,
            None => self.databases.values().any(|place| place.requires_tls),
        }
    }

    /// What holds for a client of physical replication: it names no database, so any will do that is the only one.
    pub fn seat_of_any(&self, user: &User) -> Option<Seat> {
        let mut named = self.databases.keys().filter(|name| **name != FALLBACK);
        match (named.next(), named.next()) {
            (Some(only), None) => self.seat(&Database::from(&**only), user),
            _ => None,
        }
    }

    /// Everything that verifies tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Tokens>> {
        self.tokens.iter().map(|(_, tokens)| tokens)
    }

    /// A seat for each database and user that has a minimum of servers and can log in by itself.
    pub fn to_warm(&self) -> impl Iterator<Item = Seat> {
        self.databases.iter().filter(|(name, _)| *name != FALLBACK).filter_map(|(name, place)| {
            let user = User::from(place.upstream.user.as_deref()?);
            self.seat(&Database::from(&**name), &user).filter(|seat| seat.recipe.settings.min > 0)
        })
    }
}
