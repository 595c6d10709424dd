//! From database to database: log in, read, judge.
//!
//! # Promises
//! - A database is examined once, as the first of its users who can log in, for all roles its pools log in as.
//! - Exempt roles (`identity.exempt`: migrations) are not blamed for what they own.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use crate::app::StartError;
use crate::auth::{LoginKey, userlist};
use crate::check::Logins;
use crate::config::Config;
use crate::doctor::ask::{Fault, Session, literal};
use crate::doctor::chart::Chart;
use crate::doctor::diagnosis;
use crate::doctor::finding::{Database, Report, Severity};
use crate::doctor::judge::{Voice, judge};
use crate::pool::{ConnectError, Recipe, Server};
use crate::proxy::DatabaseEntry;
use crate::session::{Form, IdentitySettings};
use crate::wire::startup::Setting;

/// What to examine, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visit {
    /// Names of databases, as clients say them; none is all that are named in the configuration.
    pub databases: Vec<String>,
    /// Findings below it are left out.
    pub level: Severity,
    /// How long to wait for a server that is not there yet.
    pub wait: Duration,
}

/// Why a database could not be examined.
pub(crate) enum Trouble {
    Asking(Fault),
    Connecting(String, ConnectError),
    NoLogin,
    TooOld(String),
    Unknown,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asking(fault) => write!(f, "{fault}"),
            Self::Connecting(user, error) => write!(f, "as {user}: {error}"),
            Self::NoLogin => f.write_str(
                "it logs in as its clients do, and no client's password is known: give its `user` and `password`",
            ),
            Self::TooOld(version) => write!(f, "PostgreSQL {version} is older than 14, the first that is examined"),
            Self::Unknown => f.write_str("the configuration has no such database, and no \"*\""),
        }
    }
}

/// Examines them all.
///
/// # Errors
/// What kept it from starting; a database that cannot be examined is in the report.
pub fn examine(config: &Config, visit: &Visit) -> Result<Report, StartError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    Ok(runtime.block_on(rounds(config, visit)))
}

async fn rounds(config: &Config, visit: &Visit) -> Report {
    let logins = Logins::new(config);
    let deadline = Instant::now() + visit.wait;
    let mut databases = Vec::new();
    for (name, entry) in named(config, &visit.databases) {
        let examined = match entry {
            Some(entry) => one(config, &logins, &name, entry, deadline).await,
            None => Err(Trouble::Unknown),
        };
        let mut database = examined.unwrap_or_else(|trouble| Database {
            name: name.clone(),
            version: String::new(),
            findings: Vec::new(),
            notes: Vec::new(),
            failure: Some(trouble.to_string()),
        });
        database.findings.retain(|finding| finding.severity >= visit.level);
        databases.push(database);
    }
    Report(databases)
}

/// The databases to examine: those asked for, or else all but the fallback, which has no name of its own.
pub(crate) fn named<'a>(config: &'a Config, asked: &[String]) -> Vec<(String, Option<&'a DatabaseEntry>)> {
    let entry = |name: &str| config.databases.iter().find(|entry| entry.name == name);
    if !asked.is_empty() {
        return asked.iter().map(|name| (name.clone(), entry(name).or_else(|| entry(FALLBACK)))).collect();
    }
    let named: Vec<_> = config.databases.iter().filter(|entry| entry.name != FALLBACK).collect();
    if named.is_empty() {
        let usual = entry(FALLBACK).and_then(|entry| entry.upstream.dbname.clone());
        return vec![(usual.unwrap_or_else(|| ANY_DATABASE.into()), entry(FALLBACK))];
    }
    named.into_iter().map(|entry| (entry.name.clone(), Some(entry))).collect()
}

async fn one(
    config: &Config,
    logins: &Logins,
    name: &str,
    entry: &DatabaseEntry,
    deadline: Instant,
) -> Result<Database, Trouble> {
    let mut session = Session::over(connect(logins, name, entry, deadline).await?);
    let (variables, roles) = (variables(entry), roles(config, entry));
    let blamed: Vec<_> = roles.iter().map(String::as_str).filter(|role| !is_exempt(entry, role)).collect();
    let version =
        session.ask("SELECT current_setting('server_version_num'), current_setting('server_version')").await;
    let version = version.map_err(Trouble::Asking)?.into_iter().flatten().flatten().collect::<Vec<_>>();
    if version.first().is_none_or(|number| number.as_str() < OLDEST || number.len() < OLDEST.len()) {
        return Err(Trouble::TooOld(version.get(1).cloned().unwrap_or_default()));
    }
    let chart = Chart::read(&mut session, &blamed, &variables).await.map_err(Trouble::Asking)?;
    let (voice, silence) =
        Voice::find(&mut session, &variables, key(entry)).await.map_err(Trouble::Asking)?;
    let verdicts = judge(&mut session, &chart, &voice).await.map_err(Trouble::Asking)?;
    let mut notes: Vec<_> = verdicts
        .iter()
        .filter(|verdict| verdict.opens.is_none())
        .filter_map(|verdict| Some((chart.policies.get(verdict.policy)?, verdict.doubt.as_ref()?)))
        .map(|(policy, reason)| {
            format!("policy {} on {} could not be tried out: {reason}", policy.name, policy.table)
        })
        .collect();
    notes.dedup();
    notes.extend(silence.map(|reason| {
        format!(
            "policies that read app.uid() could be tried out as nobody only, ident.login refuses: {reason}"
        )
    }));
    if are_statements_readable(&mut session, &blamed).await.map_err(Trouble::Asking)? {
        notes.push(STATEMENTS.into());
    }
    session.close();
    let mut read = variables;
    read.extend(uses_logins(entry).then(|| diagnosis::LOGIN_SETTING.to_owned()));
    let findings = diagnosis::findings(&chart, &verdicts, &read);
    Ok(Database { name: name.to_owned(), version: chart.version, findings, notes, failure: None })
}

/// The variables that policies may read, the main one first: every user's, also where no identity is injected.
fn variables(entry: &DatabaseEntry) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for identity in std::iter::once(&entry.rules.identity).chain(entry.identities.values()) {
        let enabled = IdentitySettings { enabled: true, others: Vec::new(), ..identity.clone() };
        let more: Vec<_> = enabled
            .said()
            .filter(|name| !found.iter().any(|known| known == name))
            .map(str::to_owned)
            .collect();
        found.extend(more);
    }
    found
}

/// Whether the identity is in the login tier's setting, too, which nobody may set to try things out.
fn uses_logins(entry: &DatabaseEntry) -> bool {
    let all = std::iter::once(&entry.rules.identity).chain(entry.identities.values());
    all.into_iter().any(|identity| identity.form == Form::Login)
}

/// What signs the tokens of the login tier.
fn key(entry: &DatabaseEntry) -> Option<&LoginKey> {
    std::iter::once(&entry.rules.identity)
        .chain(entry.identities.values())
        .find_map(IdentitySettings::signing)
}

fn is_exempt(entry: &DatabaseEntry, role: &str) -> bool {
    let identity = entry.identities.get(role).unwrap_or(&entry.rules.identity);
    identity.exempt.iter().any(|name| name == role)
}

/// The roles that the pools of a database log in as.
fn roles(config: &Config, entry: &DatabaseEntry) -> BTreeSet<String> {
    if let Some(user) = &entry.upstream.user {
        return BTreeSet::from([user.clone()]);
    }
    let file = config.proxy.auth_file.as_ref().and_then(|path| std::fs::read(path).ok());
    let listed = file.and_then(|bytes| userlist::parse(&bytes).ok()).unwrap_or_default();
    let listed = listed.into_iter().map(|(name, _)| String::from_utf8_lossy(&name).into_owned());
    listed.chain(config.users.iter().map(|user| user.name.clone())).collect()
}

/// A server, as the first user who can log in; as nobody, without any variable of the identity.
pub(crate) async fn connect(
    logins: &Logins,
    name: &str,
    entry: &DatabaseEntry,
    deadline: Instant,
) -> Result<Server, Trouble> {
    let mut last = Trouble::NoLogin;
    for user in logins.users(entry) {
        let as_nobody = |recipe| Recipe { identity_variables: [].into(), ..recipe };
        let Some(pool) = logins.pool(name, user, as_nobody) else { return Err(Trouble::Unknown) };
        let mut is_first = true;
        loop {
            match pool.open_dedicated(parameters()).await {
                Ok(server) => return Ok(server),
                Err(error) if error.is_passing() && Instant::now() < deadline => {
                    if std::mem::take(&mut is_first) {
                        eprintln!("{name}: waiting: {error}");
                    }
                    tokio::time::sleep(pool.settings().connect_retry).await;
                }
                Err(error) => {
                    last = Trouble::Connecting(user.to_owned(), error);
                    break;
                }
            }
        }
    }
    Err(last)
}

fn parameters() -> Vec<Setting> {
    let pairs = [("application_name", "pgusher doctor"), ("client_encoding", "UTF8")];
    pairs.map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).into()
}

async fn are_statements_readable(session: &mut Session, roles: &[&str]) -> Result<bool, Fault> {
    let roles: Vec<_> = roles.iter().map(|role| literal(role)).collect();
    if roles.is_empty() {
        return Ok(false);
    }
    let sql = format!(
        "SELECT FROM pg_roles r WHERE r.rolname IN ({}) AND has_table_privilege(r.oid, 'pg_prepared_statements', 'SELECT') \
         AND has_function_privilege(r.oid, 'pg_prepared_statement()', 'EXECUTE')",
        roles.join(",")
    );
    Ok(!session.ask(&sql).await?.is_empty())
}

/// What the fallback is examined as: nearly every server has it.
const ANY_DATABASE: &str = "postgres";
const FALLBACK: &str = "*";
/// As `server_version_num`.
const OLDEST: &str = "140000";
/// PostgreSQL's default.
const STATEMENTS: &str = "pg_prepared_statements is readable: clients of a pool can read the texts of each other's prepared statements, \
not the values bound to them; REVOKE ALL ON pg_prepared_statements FROM PUBLIC and REVOKE ALL ON FUNCTION pg_prepared_statement() FROM PUBLIC \
end that";
