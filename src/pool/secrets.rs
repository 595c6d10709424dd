//! Passwords from files, read again when the file changes.
//!
//! # Promises
//! - A file is read when its modification time or its target changes (Kubernetes swaps a symlink), and not otherwise.
//! - A trailing newline is not part of the password.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::auth::Secret;

/// Passwords from files.
#[derive(Default)]
pub struct Secrets(Mutex<HashMap<PathBuf, Known>>);

struct Known {
    stamp: (SystemTime, u64),
    secret: Secret,
}

impl Secrets {
    /// The first line of a file.
    ///
    /// # Errors
    /// The system's; a file without a first line is [`io::ErrorKind::InvalidData`].
    pub fn read(&self, path: &Path) -> io::Result<Secret> {
        let metadata = fs::metadata(path)?;
        let stamp = (metadata.modified()?, metadata.len());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(path).filter(|known| known.stamp == stamp) {
            return Ok(known.secret.clone());
        }
        let text = zeroize::Zeroizing::new(fs::read(path)?);
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let secret = Secret::from(line);
        known.insert(path.to_owned(), Known { stamp, secret: secret.clone() });
        Ok(secret)
    }
}
