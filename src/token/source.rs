//! Where keys come from, and when they are looked for again.
//!
//! ```text
//!  given ──────────────────────────────────────────────► the same for ever
//!  file ── looked at for each token ── changed? ────────► read again; if that fails, the ones before stay
//!  URL ─── older than `refresh`? ── in the background ──► fetched again; if that fails, the ones before stay
//!    └──── a key that is not known ── at most every [`PAUSE`] ─► fetched, and waited for
//! ```
//!
//! # Promises
//! - One fetch at a time, whoever asks; strangers' tokens cannot make more than one every [`PAUSE`].
//! - What was verified by keys that are not there any more is known by its generation.
//!
//! # Refuses
//! To use keys it could not read whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex as Turn;
use tokio::task::spawn_blocking;

use crate::auth::Secret;
use crate::session::TokenSettings;
use crate::token::fetch::Fetcher;
use crate::token::keys::{KeyError, KeySet, Secrecy};

/// The shortest time between two fetches for keys that are not known.
const PAUSE: Duration = Duration::from_secs(10);

/// The shortest time between two attempts to fetch what has never been fetched.
const RETRY: Duration = Duration::from_millis(500);

/// Keys, and which of those that have been there.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) set: Arc<KeySet>,
    pub(super) generation: u64,
}

/// Where keys come from.
pub(super) struct Source {
    kind: Kind,
    state: Mutex<State>,
    /// Who may fetch.
    turn: Turn<Attempts>,
}

enum Kind {
    File { path: PathBuf, is_secret: bool },
    Given,
    Url { fetcher: Arc<Fetcher>, refresh: Duration },
}

#[derive(Default)]
struct State {
    keys: Option<Keys>,
    /// What the file was when it was read.
    stamp: Option<(SystemTime, u64)>,
    fetched: Option<Instant>,
    is_refreshing: bool,
}

/// When it was last tried.
#[derive(Default)]
struct Attempts {
    first: Option<Instant>,
    unknown: Option<Instant>,
}

impl Source {
    /// The source that is configured; what it holds is read when it is first asked for. What cannot be used holds nothing.
    pub(super) fn new(settings: &TokenSettings) -> Self {
        let file = |path: &PathBuf, is_secret| Kind::File { path: path.clone(), is_secret };
        let mut state = State::default();
        let kind = match settings {
            TokenSettings { keys_file: Some(path), .. } => file(path, false),
            TokenSettings { secret_file: Some(path), .. } => file(path, true),
            TokenSettings { keys_url: Some(url), ca_file, refresh, .. } => {
                match Fetcher::new(url, ca_file.as_deref()) {
                    Ok(fetcher) => Kind::Url { fetcher: Arc::new(fetcher), refresh: *refresh },
                    Err(error) => {
                        tracing::error!(%error, "keys for tokens cannot be fetched: no certificates");
                        Kind::Given
                    }
                }
            }
            settings => {
                match given(settings) {
                    Ok(set) => state.replace(set),
                    Err(error) => tracing::error!(%error, "the key for tokens cannot be used"),
                }
                Kind::Given
            }
        };
        Self { kind, state: Mutex::new(state), turn: Turn::default() }
    }

    /// The keys there are; `None` if there are none yet.
    ///
    /// Cancel safe.
    pub(super) async fn current(self: &Arc<Self>) -> Option<Keys> {
        match &self.kind {
            Kind::Given => self.keys(),
            Kind::File { path, is_secret } => {
                if let Err(error) = self.read_again(path, *is_secret) {
                    tracing::error!(file = %path.display(), %error, "keys cannot be read; what was read before stays");
                }
                self.keys()
            }
            Kind::Url { refresh, .. } => match self.keys() {
                Some(keys) => {
                    self.refresh_after(*refresh);
                    Some(keys)
                }
                None => self.first().await,
            },
        }
    }

    /// The keys after those of `generation` knew no key by the name of a token.
    ///
    /// Cancel safe.
    pub(super) async fn beyond(self: &Arc<Self>, generation: u64) -> Option<Keys> {
        if !matches!(self.kind, Kind::Url { .. }) {
            return None;
        }
        let mut attempts = self.turn.lock().await;
        let keys = self.keys();
        if keys.as_ref().is_some_and(|keys| keys.generation != generation) {
            return keys;
        }
        if attempts.unknown.is_some_and(|last| last.elapsed() < PAUSE) {
            return None;
        }
        attempts.unknown = Some(Instant::now());
        self.fetch().await;
        self.keys().filter(|keys| keys.generation != generation)
    }

    async fn first(self: &Arc<Self>) -> Option<Keys> {
        let mut attempts = self.turn.lock().await;
        if let Some(keys) = self.keys() {
            return Some(keys);
        }
        if attempts.first.is_none_or(|last| last.elapsed() >= RETRY) {
            self.fetch().await;
            attempts.first = Some(Instant::now());
        }
        self.keys()
    }

    /// Fetches in the background what is older than that.
    fn refresh_after(self: &Arc<Self>, age: Duration) {
        let mut state = self.lock();
        let is_due = state.fetched.is_none_or(|fetched| fetched.elapsed() >= age);
        if !is_due || state.is_refreshing {
            return;
        }
        state.is_refreshing = true;
        let this = self.clone();
        drop(tokio::spawn(async move {
            let _turn = this.turn.lock().await;
            this.fetch().await;
            this.lock().is_refreshing = false;
        }));
    }

    /// Fetches; whoever calls has the turn.
    async fn fetch(self: &Arc<Self>) {
        let Kind::Url { fetcher, .. } = &self.kind else { return };
        let fetching = fetcher.clone();
        let fetched = spawn_blocking(move || fetching.fetch()).await;
        let read = match fetched {
            Ok(Ok(text)) => KeySet::read(&text, Secrecy::Published).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(explained(&error.to_string())),
            Err(_) => Err("the fetch was given up".to_owned()),
        };
        let mut state = self.lock();
        // A host that is down is not asked for each token: what failed is as old as what succeeded.
        state.fetched = Some(Instant::now());
        match read {
            Ok(set) => {
                tracing::debug!(keys = ?set, "keys for tokens fetched");
                state.replace(set);
            }
            Err(error) => {
                tracing::error!(url = fetcher.url(), %error, "keys for tokens cannot be fetched; what was fetched before stays")
            }
        }
    }

    fn read_again(&self, path: &Path, is_secret: bool) -> Result<(), ReadError> {
        let metadata = fs::metadata(path)?;
        let stamp = Some((metadata.modified()?, metadata.len()));
        if self.lock().stamp == stamp {
            return Ok(());
        }
        let set = read_file(path, is_secret);
        let mut state = self.lock();
        state.stamp = stamp;
        state.replace(set?);
        Ok(())
    }

    fn keys(&self) -> Option<Keys> {
        self.lock().keys.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn replace(&mut self, set: KeySet) {
        let generation = self.keys.as_ref().map_or(0, |keys| keys.generation);
        self.keys = Some(Keys { set: Arc::new(set), generation: generation + 1 });
    }
}

/// The keys that are written in the configuration itself.
fn given(settings: &TokenSettings) -> Result<KeySet, KeyError> {
    match &settings.secret {
        Some(secret) => KeySet::of_secret(secret),
        None => KeySet::read(settings.key.as_deref().unwrap_or_default().as_bytes(), Secrecy::Private),
    }
}

/// Why a file gives no keys.
#[derive(Debug)]
enum ReadError {
    Io(io::Error),
    Key(KeyError),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<KeyError> for ReadError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

fn read_file(path: &Path, is_secret: bool) -> Result<KeySet, ReadError> {
    let text = fs::read(path)?;
    Ok(if is_secret { secret(&text)? } else { KeySet::read(&text, Secrecy::Private)? })
}

/// An error of a fetch, with what may be done about it.
fn explained(error: &str) -> String {
    if error.contains("certificate") {
        return format!(
            "{error}; who vouches for the host is said by identity.jwt_ca_file, or else by the system"
        );
    }
    error.to_owned()
}

/// The key that a file's secret makes: all of the file, without the end of its line.
///
/// # Errors
/// It is not text, or too short.
pub fn secret(text: &[u8]) -> Result<KeySet, KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| KeyError::Format)?;
    KeySet::of_secret(&Secret::from(text.trim_end_matches(['\r', '\n'])))
}
