//! One login to every database, and what the servers said.
//!
//! A configuration can be valid and still name a host that is not there or a password that was changed. Finding that
//! out costs one connection each, before the first client does.
//!
//! # Promises
//! - Every database that can be tried is tried, with the login its pools would use; one failure hides no other.
//! - What cannot be tried is said, with the reason: it is no failure.
//!
//! # Refuses
//! To serve, to keep a connection, to run SQL other than `connect_query`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::app::{self, StartError};
use crate::auth::{Credential, Secret, Verifier, userlist};
use crate::config::Config;
use crate::names::{Database, User};
use crate::pool::{ConnectError, PasswordSource, Pool, Pools, Recipe, Server};
use crate::proxy::{AuthQueries, Catalog, DatabaseEntry};
use crate::session::login::LoginError;

/// What came of it, one line a login.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Report(Vec<Line>);

/// One login.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    /// `database` or `database as user`.
    who: String,
    outcome: Outcome,
}

/// What came of one login.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    /// The question about users has an answer.
    Answered,
    /// Refused, by the server or on the way to it.
    Failed(String),
    /// The server's version.
    LoggedIn(String),
    /// The server let us in as far as can be told without a database.
    Proven,
    /// Why not.
    Untried(&'static str),
}

impl Report {
    /// Whether any login failed.
    pub fn is_bad(&self) -> bool {
        self.0.iter().any(|line| matches!(line.outcome, Outcome::Failed(_)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { who, outcome } in &self.0 {
            match outcome {
                Outcome::Answered => writeln!(f, "{who}: answers")?,
                Outcome::Failed(reason) => writeln!(f, "{who}: {reason}")?,
                Outcome::LoggedIn(version) => writeln!(f, "{who}: logged in to PostgreSQL {version}")?,
                Outcome::Proven => writeln!(f, "{who}: the login is accepted")?,
                Outcome::Untried(reason) => writeln!(f, "{who}: not tried: {reason}")?,
            }
        }
        Ok(())
    }
}

/// Logs in once to every database: as its user, or as each user whose password is known.
///
/// # Errors
/// What kept it from starting; a login that fails is in the report.
pub fn connect(config: &Config) -> Result<Report, StartError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    Ok(runtime.block_on(try_all(config)))
}

async fn try_all(config: &Config) -> Report {
    let logins = Logins::new(config);
    let queries = AuthQueries::new(&config.databases, &logins.pools);
    let mut lines = Vec::new();
    for entry in &config.databases {
        if let Some(asked) = queries.check(&entry.name).await {
            let outcome = asked.map_or_else(Outcome::Failed, |()| Outcome::Answered);
            lines.push(Line { who: format!("{} auth_query", entry.name), outcome });
        }
    }
    for entry in config.databases.iter().filter(|entry| !is_tried_by_name(entry, config)) {
        let users = logins.users(entry);
        if users.is_empty() {
            let reason = "it logs in as its clients do, and no client's password is known";
            lines.push(Line { who: entry.name.clone(), outcome: Outcome::Untried(reason) });
        }
        for user in users {
            let who = format!("{} as {user}", entry.name);
            let name = if entry.name == FALLBACK { ANY_DATABASE } else { &entry.name };
            let outcome = match logins.pool(name, user, |recipe| recipe) {
                Some(pool) => try_one(entry, &pool).await,
                None => Outcome::Untried("it is not in the catalogue"),
            };
            lines.push(Line { who, outcome });
        }
    }
    Report(lines)
}

/// The logins that pools would use, one pool each.
pub(crate) struct Logins {
    pools: Pools,
    catalog: Catalog,
    /// Of the users whose passwords are known as such, not by a verifier.
    passwords: BTreeMap<String, Secret>,
}

impl Logins {
    /// What the configuration gives.
    pub(crate) fn new(config: &Config) -> Self {
        let catalog = Catalog::new(&config.databases, &config.users, None);
        Self { pools: app::pools(config, Arc::default()), catalog, passwords: passwords(config) }
    }

    /// As whom a database can be tried.
    pub(crate) fn users<'a>(&'a self, entry: &'a DatabaseEntry) -> Vec<&'a str> {
        match &entry.upstream.user {
            Some(user) => vec![user],
            None => self.passwords.keys().map(String::as_str).collect(),
        }
    }

    /// A pool for a client of this database and user, ready to log in; `None` if there is no such database.
    pub(crate) fn pool(
        &self,
        database: &str,
        user: &str,
        adapt: impl FnOnce(Recipe) -> Recipe,
    ) -> Option<Arc<Pool>> {
        let seat = self.catalog.seat(&Database::from(database), &User::from(user))?;
        let pool = self.pools.pool(&seat.key, || adapt(seat.recipe));
        if let Some(password) = self.passwords.get(user) {
            pool.learn(Credential::Password(password.clone()));
        }
        Some(pool)
    }
}

async fn try_one(entry: &DatabaseEntry, pool: &Arc<Pool>) -> Outcome {
    match pool.open_dedicated(Vec::new()).await {
        Ok(server) => {
            let version = version(&server);
            server.close();
            Outcome::LoggedIn(version)
        }
        Err(error) if entry.name == FALLBACK && is_past_authentication(&error) => Outcome::Proven,
        Err(ConnectError::Login(LoginError::NoCredential(_)) | ConnectError::NoPassword)
            if entry.upstream.password == PasswordSource::Client =>
        {
            Outcome::Untried("it takes what its clients prove themselves with")
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Whether the same login is tried under a name: the fallback has none, and need not borrow one then.
fn is_tried_by_name(entry: &DatabaseEntry, config: &Config) -> bool {
    let is_same = |other: &DatabaseEntry| {
        other.name != FALLBACK
            && other.upstream.hosts == entry.upstream.hosts
            && other.upstream.user == entry.upstream.user
            && other.upstream.password == entry.upstream.password
    };
    entry.name == FALLBACK && config.databases.iter().any(is_same)
}

/// The users whose passwords are known as such, not by a verifier.
fn passwords(config: &Config) -> BTreeMap<String, Secret> {
    let file = config.proxy.auth_file.as_ref().and_then(|path| std::fs::read(path).ok());
    let listed = file.and_then(|bytes| userlist::parse(&bytes).ok()).unwrap_or_default();
    let listed =
        listed.into_iter().map(|(name, secret)| (String::from_utf8_lossy(&name).into_owned(), secret));
    let written = config.users.iter().filter_map(|user| Some((user.name.clone(), user.secret.clone()?)));
    let is_plain = |secret: &Secret| matches!(Verifier::from_secret(secret), Ok(Verifier::Plaintext(_)));
    listed.chain(written).filter(|(_, secret)| is_plain(secret)).collect()
}

/// PostgreSQL looks for the database, and asks whether one may connect to it, after it has authenticated
/// (`InitPostgres` in postinit.c).
fn is_past_authentication(error: &ConnectError) -> bool {
    matches!(error.sqlstate().as_str(), "3D000" | "42501")
}

fn version(server: &Server) -> String {
    let version = server.state.reported.value(b"server_version").unwrap_or_default();
    String::from_utf8_lossy(version).split_whitespace().next().unwrap_or("?").to_owned()
}

/// What the fallback is tried with: nearly every server has it.
const ANY_DATABASE: &str = "postgres";
const FALLBACK: &str = "*";
