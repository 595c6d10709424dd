//! The login tier's SQL, put into databases.
//!
//! # Promises
//! - What is run is `deploy/sql`, as it is there, in one transaction: all of it or nothing. It may be run again, and upgrades.
//! - The key of the configuration is the one that is added; it is not printed.
//!
//! # Refuses
//! To change the application's own policies: those are for people.

use std::fmt;
use std::time::{Duration, Instant};

use crate::app::StartError;
use crate::auth::LoginKey;
use crate::check::Logins;
use crate::config::Config;
use crate::doctor::{Session, connect, named};

/// The files, as they are installed by hand.
const INSTALL: &str = include_str!("../deploy/sql/identity.sql");
const UNINSTALL: &str = include_str!("../deploy/sql/identity_uninstall.sql");

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The functions, and the key.
    Install,
    /// The key, and an end to the others after this long.
    Rotate(Duration),
    /// Everything away.
    Uninstall,
}

/// What came of it, one line a database.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Report(Vec<(String, Result<String, String>)>);

impl Report {
    /// Whether it failed anywhere.
    pub fn is_bad(&self) -> bool {
        self.0.iter().any(|(_, outcome)| outcome.is_err())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, outcome)| match outcome {
            Ok(done) => writeln!(f, "{name}: {done}"),
            Err(reason) => writeln!(f, "{name}: {reason}"),
        })
    }
}

/// The SQL, for those who run it by hand.
pub fn script(action: Action) -> &'static str {
    match action {
        Action::Install => INSTALL,
        Action::Rotate(_) => {
            "select ident.rotate_key('the text of identity.login_key', interval '1 hour');\n"
        }
        Action::Uninstall => UNINSTALL,
    }
}

/// Does it in these databases, or in all that are configured by name.
///
/// # Errors
/// What kept it from starting; a database in which it fails is in the report.
pub fn run(config: &Config, databases: &[String], action: Action) -> Result<Report, StartError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    let logins = Logins::new(config);
    let mut lines = Vec::new();
    for (name, entry) in named(config, databases) {
        let outcome = runtime.block_on(async {
            let entry = entry.ok_or_else(|| "the configuration has no such database".to_owned())?;
            let sql = sql(action, entry.rules.identity.login_key.as_ref())?;
            let server = connect(&logins, &name, entry, Instant::now())
                .await
                .map_err(|trouble| trouble.to_string())?;
            let mut session = Session::over(server);
            let done = session.run(&sql).await.map_err(|fault| fault.to_string());
            session.close();
            done.map(|_| done_words(action, entry.rules.identity.login_key.as_ref()))
        });
        lines.push((name, outcome));
    }
    Ok(Report(lines))
}

fn sql(action: Action, key: Option<&LoginKey>) -> Result<String, String> {
    let key = || {
        key.ok_or(
            "identity.login_key is not set: at least 32 characters, such as `openssl rand -hex 32` gives",
        )
    };
    let steps = match action {
        Action::Install => format!("{INSTALL}; select ident.add_secret('\\x{}')", *key()?.secret()),
        Action::Rotate(grace) => {
            format!(
                "select ident.rotate_secret('\\x{}', interval '{} seconds')",
                *key()?.secret(),
                grace.as_secs()
            )
        }
        Action::Uninstall => UNINSTALL.to_owned(),
    };
    Ok(format!("begin; set local client_min_messages = warning; {steps}; commit"))
}

fn done_words(action: Action, key: Option<&LoginKey>) -> String {
    let key = key.map_or("-", LoginKey::name);
    match action {
        Action::Install => format!("the login tier is installed, with key {key}"),
        Action::Rotate(grace) => {
            format!("key {key} is in use; others are until {} seconds from now", grace.as_secs())
        }
        Action::Uninstall => "the login tier is gone".to_owned(),
    }
}
