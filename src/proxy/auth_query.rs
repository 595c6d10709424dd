//! Verifiers from PostgreSQL itself: the user is asked about there, and the answer remembered for a while.
//!
//! With it no user need be listed here, and if the server's verifiers are SCRAM's no password is anywhere in this process: a
//! client is checked against the server's own verifier, and the key its proof reveals logs in to that server.
//!
//! # Promises
//! - A user is asked about once at a time, however many of its clients come at once, and again when what is known is older
//!   than `auth_ttl` (`auth_negative_ttl` for a user that is not there), or the password has expired (VALID UNTIL).
//! - A login that fails makes what is known of its user doubtful, and the next one asks again; but not what is younger than
//!   `auth_negative_ttl`: so a stranger has one question asked for each name in that time, whether there is such a user or not.
//! - A query that fails lets nobody in: the client hears what a wrong password hears, the log hears why, once a second.
//!
//! # Refuses
//! To keep an answer for a failure: the next client asks again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::auth::Verifier;
use crate::auth::shadow::{self, BadShadow};
use crate::names::Printable;
use crate::pool::{AskError, Asker, PasswordSource, Pools, Upstream};
use crate::proxy::settings::{AuthQuerySettings, DatabaseEntry};

/// Most users remembered, those that are not there among them.
const MOST_KNOWN: u64 = 10_000;

/// The longest name a role can have (NAMEDATALEN - 1). PostgreSQL would take the front of a longer one for another user.
const LONGEST_NAME: usize = 63;

/// How often a failing query is a line in the log.
const COMPLAINT: Duration = Duration::from_secs(1);

/// The name of the entry for databases that have none of their own.
const FALLBACK: &[u8] = b"*";

/// Who is asked about the users of which database.
#[derive(Default)]
pub struct AuthQueries {
    /// `None`: the database has no `auth_user`.
    databases: HashMap<Vec<u8>, Option<Arc<AuthQuery>>>,
}

impl AuthQueries {
    /// Those of all databases that have an `auth_user`. Nobody is connected to before somebody is asked about.
    pub fn new(databases: &[DatabaseEntry], pools: &Pools) -> Self {
        let one = |entry: &DatabaseEntry| {
            let settings = entry.auth_query.as_ref()?;
            let asker = pools.asker(upstream(entry, settings), entry.pool.clone());
            Some(Arc::new(AuthQuery::new(&entry.name, settings, asker)))
        };
        let named = databases.iter().map(|entry| (entry.name.as_bytes().to_vec(), one(entry)));
        Self { databases: named.collect() }
    }

    /// Who is asked about the users of this database. Where there is no such database somebody is asked all the same, so that
    /// it takes as long to hear that there is not.
    pub(super) fn of(&self, database: &[u8]) -> Option<&Arc<AuthQuery>> {
        match self.databases.get(database).or_else(|| self.databases.get(FALLBACK)) {
            Some(own) => own.as_ref(),
            None => self.databases.values().flatten().next(),
        }
    }
}

impl AuthQueries {
    /// Asks once about the role that asks, past what is known. `None`: this database has no `auth_user`.
    ///
    /// # Errors
    /// Why the query is of no use, in words for the operator.
    pub async fn check(&self, database: &str) -> Option<Result<(), String>> {
        let query = self.databases.get(database.as_bytes())?.as_ref()?;
        Some(query.ask(query.user.as_bytes()).await.map(drop).map_err(|failure| failure.to_string()))
    }
}

/// How the connection for a database's question is made: as its servers are, but for what is said on it.
fn upstream(entry: &DatabaseEntry, settings: &AuthQuerySettings) -> Upstream {
    let own = &entry.upstream;
    let is_same_user = own.user.as_ref() == Some(&settings.user);
    let password = match &settings.password {
        PasswordSource::Client if is_same_user => own.password.clone(),
        password => password.clone(),
    };
    let named = (entry.name.as_bytes() != FALLBACK).then(|| entry.name.clone());
    Upstream {
        user: Some(settings.user.clone()),
        password,
        dbname: settings.dbname.clone().or_else(|| own.dbname.clone()).or(named),
        application_name: Some("pgusher auth_query".into()),
        application_name_add_client: false,
        // Names are compared as the bytes they came as, and nothing but PostgreSQL's own is found without a schema
        // (CVE-2025-12819), whatever the role or the database has been given to start with.
        // The server gives up when we do: it would not notice that we have closed.
        settings: [
            ("search_path", "pg_catalog".to_owned()),
            ("client_encoding", "SQL_ASCII".to_owned()),
            ("statement_timeout", format!("{}ms", entry.pool.connect_timeout.as_millis().max(1))),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        connect_query: None,
        ..own.clone()
    }
}

/// Asks one database about users.
pub(super) struct AuthQuery {
    /// The database, for the log.
    database: String,
    /// The role that asks.
    user: String,
    sql: Arc<str>,
    asker: Asker,
    known: Cache<Box<[u8]>, Arc<Known>>,
    /// How young an answer is above doubt.
    settled: Duration,
    complained: Mutex<Option<Instant>>,
}

/// What was answered about a user.
struct Known {
    verifier: Option<Verifier>,
    valid_for: Option<Duration>,
    since: Instant,
}

impl AuthQuery {
    fn new(database: &str, settings: &AuthQuerySettings, asker: Asker) -> Self {
        let lifetimes = Lifetimes { ttl: settings.ttl, negative_ttl: settings.negative_ttl };
        Self {
            database: database.to_owned(),
            user: settings.user.clone(),
            sql: settings.query.as_str().into(),
            asker,
            known: Cache::builder().max_capacity(MOST_KNOWN).expire_after(lifetimes).build(),
            settled: settings.negative_ttl,
            complained: Mutex::default(),
        }
    }

    /// What `user` must know; `None` for a stranger, and if it cannot be found out.
    ///
    /// Cancel safe: another client that waits for the same answer asks instead.
    pub(super) async fn find(&self, user: &[u8]) -> Option<Verifier> {
        if user.len() > LONGEST_NAME {
            return None;
        }
        match self.known.try_get_with(user.into(), self.ask(user)).await {
            Ok(known) => known.verifier.clone(),
            Err(error) => {
                self.complain(user, &error);
                None
            }
        }
    }

    async fn ask(&self, user: &[u8]) -> Result<Arc<Known>, Failure> {
        let rows = self.asker.ask(self.sql.clone(), user).await.map_err(Failure::Ask)?;
        let shadow = shadow::read(user, &rows).map_err(Failure::Answer)?;
        Ok(Arc::new(Known { verifier: shadow.verifier, valid_for: shadow.valid_for, since: Instant::now() }))
    }

    /// A login of `user` has failed, here or on the server: perhaps its password is another by now.
    pub(super) async fn doubt(&self, user: &[u8]) {
        if let Some(known) = self.known.get(user).await
            && known.since.elapsed() >= self.settled
        {
            self.known.invalidate(user).await;
        }
    }

    fn complain(&self, user: &[u8], failure: &Failure) {
        let now = Instant::now();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_some_and(|last| now.duration_since(last) < COMPLAINT) {
            return;
        }
        *complained = Some(now);
        let (database, user) = (&self.database, Printable(user));
        tracing::error!(database, %user, error = %failure, "auth_query failed; the client is told that its password is wrong");
    }
}

/// How long an answer is remembered.
struct Lifetimes {
    ttl: Duration,
    negative_ttl: Duration,
}

impl Expiry<Box<[u8]>, Arc<Known>> for Lifetimes {
    fn expire_after_create(&self, _: &Box<[u8]>, known: &Arc<Known>, _: Instant) -> Option<Duration> {
        let ttl = if known.verifier.is_some() { self.ttl } else { self.negative_ttl };
        Some(known.valid_for.map_or(ttl, |left| left.min(ttl)))
    }
}

/// Why a user could not be asked about.
#[derive(Debug)]
enum Failure {
    /// The answer makes no sense.
    Answer(BadShadow),
    /// There is none.
    Ask(AskError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(bad) => write!(f, "the answer cannot be used: {bad}"),
            Self::Ask(error) => error.fmt(f),
        }
    }
}
