//! Where verifiers come from: the configuration, and a file in the format of PgBouncer's `userlist.txt`.
//!
//! # Promises
//! - The file is read again when it has changed; one that cannot be read any more leaves what was known.
//! - A plaintext secret becomes a SCRAM verifier once, not once for each login.
//!
//! # Refuses
//! To decide: it is asked for a user and says what it must know, or that it does not know the user.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::auth::userlist;
use crate::auth::{Secret, Verifier};

/// Where verifiers come from.
pub struct Verifiers {
    configured: HashMap<Vec<u8>, Verifier>,
    file: Option<PathBuf>,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    stamp: Option<(SystemTime, u64)>,
    users: HashMap<Vec<u8>, Verifier>,
}

impl Verifiers {
    /// Verifiers of configured users, and of a file.
    pub fn new<'a>(users: impl Iterator<Item = (&'a str, &'a Secret)>, file: Option<PathBuf>) -> Self {
        let configured = users
            .filter_map(|(name, secret)| {
                Some((name.as_bytes().to_vec(), Verifier::from_secret(secret).ok()?))
            })
            .collect();
        Self { configured, file, listed: Mutex::default() }
    }

    /// What `user` must know; `None` for a stranger.
    pub fn find(&self, user: &[u8]) -> Option<Verifier> {
        if let Some(verifier) = self.configured.get(user) {
            return Some(verifier.clone());
        }
        let file = self.file.as_ref()?;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = listed.refresh(file) {
            tracing::error!(file = %file.display(), %error, "auth_file cannot be read; what was read before stays");
        }
        listed.users.get(user).cloned()
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
