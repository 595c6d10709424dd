//! Where verifiers come from: the configuration, a file in the format of PgBouncer's `userlist.txt`, and the database.
//!
//! # Promises
//! - The file is read again when it has changed; one that cannot be read any more leaves what was known.
//! - Who is listed in the configuration is not looked for in the file, and who is in either is not asked about.
//! - A plaintext secret becomes a SCRAM verifier once, not once for each login.
//!
//! # Refuses
//! To decide: it is asked for a user and says what it must know, or that it does not know the user.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::auth::secret::Plaintext;
use crate::auth::userlist;
use crate::auth::{Secret, Verifier};
use crate::names::{Database, User};
use crate::proxy::auth_query::AuthQueries;

/// Where verifiers come from.
pub struct Verifiers {
    configured: HashMap<Vec<u8>, Verifier>,
    file: Option<PathBuf>,
    listed: Mutex<Listed>,
    queries: AuthQueries,
}

#[derive(Default)]
struct Listed {
    stamp: Option<(SystemTime, u64)>,
    /// Whether users were read that nobody has asked about yet.
    is_news: bool,
    users: HashMap<Vec<u8>, Verifier>,
}

impl Verifiers {
    /// Verifiers of configured users, of a file, and of databases that are asked.
    pub fn new<'a>(
        users: impl Iterator<Item = (&'a str, &'a Secret)>,
        file: Option<PathBuf>,
        queries: AuthQueries,
    ) -> Self {
        let configured = users
            .filter_map(|(name, secret)| {
                Some((name.as_bytes().to_vec(), Verifier::from_secret(secret).ok()?))
            })
            .collect();
        Self { configured, file, listed: Mutex::default(), queries }
    }

    /// What `user` must know to use `database`; `None` for a stranger.
    ///
    /// Cancel safe.
    pub async fn find(&self, database: &Database, user: &User) -> Option<Verifier> {
        if let Some(verifier) = self.listed(user.as_bytes()) {
            return Some(verifier);
        }
        self.queries.of(database.as_bytes())?.find(user.as_bytes()).await
    }

    /// The listed users whose secret is a password, not a verifier.
    pub(super) fn plaintexts(&self) -> Vec<(Vec<u8>, Arc<Plaintext>)> {
        let listed = self.refreshed();
        let all = self.configured.iter().chain(&listed.users);
        all.filter_map(|(user, verifier)| match verifier {
            Verifier::Plaintext(plain) => Some((user.clone(), plain.clone())),
            _ => None,
        })
        .collect()
    }

    /// A login has failed: what the database said of its user may not be true any more.
    pub async fn doubt(&self, database: &Database, user: &User) {
        if let Some(query) = self.queries.of(database.as_bytes()) {
            query.doubt(user.as_bytes()).await;
        }
    }

    /// Whether the file has been read since this was last asked.
    pub(super) fn has_news(&self) -> bool {
        std::mem::take(&mut self.listed.lock().unwrap_or_else(PoisonError::into_inner).is_news)
    }

    /// The users of the file, as it is now.
    fn refreshed(&self) -> MutexGuard<'_, Listed> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && let Err(error) = listed.refresh(file)
        {
            tracing::error!(file = %file.display(), %error, "auth_file cannot be read; what was read before stays");
        }
        listed
    }

    /// What `user` must know, if it is listed.
    pub(super) fn listed(&self, user: &[u8]) -> Option<Verifier> {
        if let Some(verifier) = self.configured.get(user) {
            return Some(verifier.clone());
        }
        self.file.as_ref()?;
        self.refreshed().users.get(user).cloned()
    }
}

impl Listed {
    fn refresh(&mut self, file: &PathBuf) -> std::io::Result<()> {
        let metadata = fs::metadata(file)?;
        let stamp = Some((metadata.modified()?, metadata.len()));
        if self.stamp == stamp {
            return Ok(());
        }
        let text = fs::read(file)?;
        self.stamp = stamp;
        match userlist::parse(&text) {
            Ok(users) => {
                self.is_news = true;
                let known = users.into_iter();
                self.users = known
                    .filter_map(|(name, secret)| Some((name, Verifier::from_secret(&secret).ok()?)))
                    .collect();
            }
            Err(problems) => {
                tracing::error!(file = %file.display(), problems = problems.len(), "auth_file has mistakes; what was read before stays");
            }
        }
        Ok(())
    }
}
