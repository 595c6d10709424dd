//! What was configured is read again, and what can change while clients are served does.
//!
//! SIGHUP, a changed file and the console all come here. What is read is held against what runs: what differs becomes the next
//! [`Edition`], which the pools take at once and each client at its next transaction boundary.
//!
//! # Promises
//! - A configuration with anything wrong changes nothing, and everything that is wrong is logged.
//! - What needs a restart is named, and the rest is applied.
//! - Reading the same again changes nothing.
//! - A file is looked at by what its name leads to, so that Kubernetes' swapped symlinks are seen.
//!
//! # Refuses
//! To judge values: [`crate::config`] does. To touch what did not change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::cli::Flags;
use crate::config::{Config, Problems, Surroundings, keys};
use crate::net::connect::Tuning;
use crate::net::tls::{Acceptor, ClientSettings, SslMode};
use crate::pool::Pools;
use crate::proxy::{AuthQueries, Catalog, Edition, Proxy, Verifiers};
use crate::telemetry::log::Log;

/// How often files are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// Reads the configuration again.
pub struct Reloader {
    flags: Flags,
    proxy: Arc<Proxy>,
    log: Log,
    state: Mutex<State>,
}

struct State {
    /// What runs.
    running: Config,
    /// What was set by hand since it was last read.
    set: Vec<(String, String)>,
    /// What it was read from, as it was then.
    files: Vec<(PathBuf, Stamp)>,
    last: Last,
}

/// How the last reading went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Last {
    /// Whether what was read is what runs.
    pub is_applied: bool,
    /// When.
    pub at: SystemTime,
}

/// What came of reading it again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Whether anything was applied.
    pub is_changed: bool,
    /// Keys that differ from what runs, and will until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// A key and what holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// `section.key`, or PgBouncer's name.
    pub key: String,
    /// What holds.
    pub value: String,
    /// What would hold if nothing were written.
    pub default: String,
    /// Whether it is read at start only.
    pub needs_restart: bool,
}

/// What is read at start only.
const AT_START: [&str; 9] = [
    "listen.address",
    "listen.unix_socket_dir",
    "listen.unix_socket_mode",
    "listen.backlog",
    "listen.workers",
    "log.format",
    "metrics.compat",
    "metrics.listen",
    "metrics.max_pools",
];

/// PgBouncer's names for keys that mean the same, and the unit its bare numbers have.
const SYNONYMS: &[(&str, &str, &str)] = &[
    ("client_idle_timeout", "listen.client_idle_timeout", "s"),
    ("client_login_timeout", "listen.login_timeout", "s"),
    ("default_pool_size", "pool.size", ""),
    ("idle_transaction_timeout", "pool.idle_transaction_timeout", "s"),
    ("max_client_conn", "listen.max_clients", ""),
    ("max_prepared_statements", "pool.server_statements", ""),
    ("min_pool_size", "pool.min", ""),
    ("pool_mode", "pool.mode", ""),
    ("query_timeout", "pool.query_timeout", "s"),
    ("query_wait_timeout", "pool.acquire_timeout", "s"),
    ("reserve_pool_size", "pool.reserve", ""),
    ("reserve_pool_timeout", "pool.reserve_timeout", "s"),
    ("server_check_delay", "pool.check_delay", "s"),
    ("server_connect_timeout", "pool.connect_timeout", "s"),
    ("server_idle_timeout", "pool.idle_timeout", "s"),
    ("server_lifetime", "pool.lifetime", "s"),
    ("transaction_timeout", "pool.transaction_timeout", "s"),
];

/// Our name for a key, and the value in a form that we read.
fn synonym(key: &str, value: &str) -> (String, String) {
    let Some((_, ours, unit)) = SYNONYMS.iter().find(|(theirs, ..)| *theirs == key) else {
        return (key.to_owned(), value.to_owned());
    };
    let value = match value.parse::<u64>() {
        Ok(0) if *unit == "s" => "off".to_owned(),
        Ok(number) => format!("{number}{unit}"),
        Err(_) => value.to_owned(),
    };
    ((*ours).to_owned(), value)
}

/// A value as PgBouncer would show it: times are seconds, and 0 is never.
fn plain(value: &str, unit: &str) -> String {
    if unit != "s" {
        return value.to_owned();
    }
    let number: String = value.chars().take_while(char::is_ascii_digit).collect();
    let scale = match &value[number.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    number.parse::<u64>().map_or_else(|_| "0".to_owned(), |number| (number * scale).to_string())
}

/// What a file's name leads to, and when that was last written.
type Stamp = Option<(PathBuf, u64, SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let target = fs::canonicalize(path).ok()?;
    let metadata = fs::metadata(&target).ok()?;
    Some((target, metadata.ino(), metadata.modified().ok()?, metadata.len()))
}

impl Reloader {
    /// `running` was read under these flags, and runs.
    pub fn new(flags: Flags, running: Config, proxy: Arc<Proxy>, log: Log) -> Self {
        let files = read(&flags, &[]).1;
        let last = Last { is_applied: true, at: SystemTime::now() };
        Self { flags, proxy, log, state: Mutex::new(State { running, set: Vec::new(), files, last }) }
    }

    /// How the last reading went.
    pub fn last(&self) -> Last {
        self.lock().last
    }

    /// What runs.
    pub fn running(&self) -> Config {
        self.lock().running.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything again, and applies what can be applied.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn reload(&self) -> Result<Report, Problems> {
        self.reload_with(&mut self.lock(), Vec::new())
    }

    /// Reads everything again with one key set to another value, until the next [`reload`](Self::reload). PgBouncer's names
    /// of keys are understood where ours mean the same.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn set(&self, key: &str, value: &str) -> Result<Report, Problems> {
        let mut state = self.lock();
        let mut set = state.set.clone();
        set.push(synonym(key, value));
        self.reload_with(&mut state, set)
    }

    /// Every key that is not one database's or user's; with some of PgBouncer's names, for tools that read them.
    pub fn shown(&self) -> Vec<Shown> {
        let keys = keys();
        let default = |name: &str| {
            let key = keys.iter().find(|key| format!("{}.{}", key.section, key.name) == name);
            key.map(|key| key.default.clone()).unwrap_or_default()
        };
        let own = self.running().shown;
        let bare = |text: String| text.trim_matches('"').to_owned();
        let mut shown: Vec<_> = own
            .iter()
            .map(|(key, value)| Shown {
                key: key.clone(),
                value: bare(value.clone()),
                default: bare(default(key)),
                needs_restart: AT_START.contains(&key.as_str()),
            })
            .collect();
        let same = SYNONYMS.iter().filter_map(|(theirs, ours, unit)| {
            let known = shown.iter().find(|shown| shown.key == *ours)?;
            let [value, default] = [&known.value, &known.default].map(|text| plain(text, unit));
            Some(Shown { key: (*theirs).into(), value, default, needs_restart: false })
        });
        let same: Vec<_> = same.collect();
        shown.extend(same);
        shown
    }

    fn reload_with(&self, state: &mut State, set: Vec<(String, String)>) -> Result<Report, Problems> {
        let (read, files) = read(&self.flags, &set);
        state.files = files;
        state.last = Last { is_applied: read.is_ok(), at: SystemTime::now() };
        let read = read.inspect_err(complain)?;
        let (next, needs_restart) = apply(&state.running, read);
        for key in &needs_restart {
            tracing::warn!(key, "changed in the configuration; it takes a restart to apply");
        }
        let is_changed = next != state.running;
        state.set = set;
        if is_changed {
            self.publish(&state.running, &next);
            state.running = next;
        }
        self.reload_certificates();
        tracing::info!(is_changed, "configuration reloaded");
        Ok(Report { is_changed, needs_restart })
    }

    /// Those whose files have just been found good; what cannot be used all the same is in the log, and the old ones stay.
    fn reload_certificates(&self) {
        if let Some(acceptor) = &self.proxy.edition().tls {
            let _ = acceptor.reload();
        }
        let _ = self.proxy.pools.connectors().reload();
    }

    fn publish(&self, running: &Config, next: &Config) {
        if running.log.level != next.log.level && !self.log.set_level(&next.log.level) {
            tracing::error!(level = next.log.level, "the log level could not be changed");
        }
        let before = self.proxy.edition();
        let asked = |config: &Config| {
            let databases = config.databases.iter().filter(|entry| entry.auth_query.is_some());
            databases.cloned().collect::<Vec<_>>()
        };
        let has_same_users = running.users == next.users
            && running.proxy.auth_file == next.proxy.auth_file
            && asked(running) == asked(next);
        let verifiers = match has_same_users {
            true => before.verifiers.clone(),
            false => verifiers(next, &self.proxy.pools),
        };
        self.proxy.pools.set_total(next.max_servers);
        self.proxy.publish(edition_after(next, Some(&before), verifiers));
        self.proxy.warm();
    }

    /// Reads again whenever one of the files has changed, for ever.
    ///
    /// Cancel safe.
    pub async fn watch(self: Arc<Self>) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            let changed = self.changed_file();
            if let Some(file) = changed {
                tracing::info!(file = %file.display(), "changed");
                let _ = self.reload();
            }
        }
    }

    fn changed_file(&self) -> Option<PathBuf> {
        let state = self.lock();
        if !state.running.watch_files {
            return None;
        }
        state.files.iter().find(|(path, known)| stamp(path) != *known).map(|(path, _)| path.clone())
    }
}

/// What follows from the first reading.
pub fn edition(config: &Config, pools: &Pools) -> Edition {
    edition_after(config, None, verifiers(config, pools))
}

/// What users must know.
fn verifiers(config: &Config, pools: &Pools) -> Arc<Verifiers> {
    let users = config.users.iter().filter_map(|user| Some((user.name.as_str(), user.secret.as_ref()?)));
    let queries = AuthQueries::new(&config.databases, pools);
    Arc::new(Verifiers::new(users, config.proxy.auth_file.clone(), queries))
}

/// What follows after another; what was counted stays.
fn edition_after(config: &Config, before: Option<&Edition>, verifiers: Arc<Verifiers>) -> Edition {
    Edition {
        settings: config.proxy.clone(),
        catalog: Catalog::new(&config.databases, &config.users, before.map(|before| &before.catalog)),
        verifiers,
        tls: acceptor(&config.net.tls, before),
        logs_connections: config.log.connections,
        tuning: tuning(config),
    }
}

/// What encrypts clients: the same as before if nothing is said of it that was not said then.
fn acceptor(settings: &ClientSettings, before: Option<&Edition>) -> Option<Arc<Acceptor>> {
    if settings.mode == SslMode::Disable {
        return None;
    }
    let before = before.and_then(|before| before.tls.as_ref());
    let same = before.filter(|acceptor| acceptor.settings() == settings).cloned();
    Some(same.unwrap_or_else(|| Arc::new(Acceptor::new(settings))))
}

/// How connections are tuned.
pub fn tuning(config: &Config) -> Tuning {
    Tuning { keepalive: config.net.keepalive, user_timeout: config.net.tcp_user_timeout }
}

/// Reads everything, and notes which files it was read from, as they were before.
fn read(flags: &Flags, set: &[(String, String)]) -> (Result<Config, Problems>, Vec<(PathBuf, Stamp)>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut surroundings = Surroundings::of_process();
    let noted = seen.clone();
    surroundings.read_file = Box::new(move |path| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), stamp(path)));
        fs::read(path)
    });
    let config = Config::load_with(flags, &surroundings, set);
    let files = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    (config, files)
}

fn complain(problems: &Problems) {
    tracing::error!(count = problems.iter().count(), "the configuration is not reloaded: it has mistakes");
    for problem in problems.iter() {
        tracing::error!(%problem, "mistake in the configuration");
    }
}

/// What will run, and which of the keys that were written it does without: those that are read once, at start.
fn apply(running: &Config, read: Config) -> (Config, Vec<&'static str>) {
    let mut keys = Vec::new();
    let mut note = |key, is_other: bool| {
        if is_other {
            keys.push(key);
        }
    };
    note("listen.address", running.net.addresses != read.net.addresses);
    note("listen.unix_socket_dir", running.net.unix_socket_dir != read.net.unix_socket_dir);
    note("listen.unix_socket_mode", running.net.unix_socket_mode != read.net.unix_socket_mode);
    note("listen.backlog", running.net.backlog != read.net.backlog);
    note("listen.workers", running.workers != read.workers);
    note("log.format", running.log.format != read.log.format);
    note("metrics.listen", running.metrics.listen != read.metrics.listen);
    note("metrics.compat", running.metrics.compat != read.metrics.compat);
    note("metrics.max_pools", running.metrics.max_pools != read.metrics.max_pools);
    let mut next = read;
    next.workers = running.workers;
    next.log.format = running.log.format;
    next.metrics.clone_from(&running.metrics);
    next.net.addresses.clone_from(&running.net.addresses);
    next.net.unix_socket_dir.clone_from(&running.net.unix_socket_dir);
    next.net.unix_socket_mode = running.net.unix_socket_mode;
    next.net.backlog = running.net.backlog;
    for (key, value) in next.shown.iter_mut().filter(|(key, _)| AT_START.contains(&key.as_str())) {
        if let Some((_, runs)) = running.shown.iter().find(|(known, _)| known == key) {
            value.clone_from(runs);
        }
    }
    (next, keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config(text: &'static str) -> Config {
        let surroundings = Surroundings {
            environment: BTreeMap::new(),
            read_file: Box::new(move |_| Ok(text.as_bytes().to_vec())),
        };
        let upstream = Some("postgres://app:pw@h/d".to_owned());
        let flags = Flags { config: Some("/c".into()), upstream, ..Flags::default() };
        Config::load(&flags, &surroundings).unwrap()
    }

    #[test]
    fn what_needs_a_restart_is_named_and_the_rest_is_taken() {
        let running = config("");
        let read = config(
            "[listen]\naddress = \"127.0.0.1:1\"\nworkers = 2\nmax_clients = 7\n[log]\nformat = \"json\"\n\
             [pool]\nsize = 3\n",
        );

        let (next, keys) = apply(&running, read);

        assert_eq!(keys, ["listen.address", "listen.workers", "log.format"]);
        assert_eq!((next.net.addresses, next.workers), (running.net.addresses, running.workers));
        assert_eq!((next.proxy.max_clients, next.databases[0].pool.size), (7, 3));
    }

    #[test]
    fn what_is_shown_is_what_runs() {
        let read = config("[metrics]\nmax_pools = 3\ncompat = \"pgbouncer\"\n");

        let (next, keys) = apply(&config(""), read);

        assert_eq!(keys, ["metrics.compat", "metrics.max_pools"]);
        assert!(keys.iter().all(|key| AT_START.contains(key)));
        assert_eq!(next.shown, config("").shown);
    }

    #[test]
    fn pgbouncers_names_and_numbers_are_understood() {
        assert_eq!(synonym("query_wait_timeout", "7"), ("pool.acquire_timeout".into(), "7s".into()));
        assert_eq!(synonym("query_timeout", "0"), ("pool.query_timeout".into(), "off".into()));
        assert_eq!(synonym("pool.size", "7"), ("pool.size".into(), "7".into()));
        assert_eq!([plain("2m", "s"), plain("off", "s"), plain("7", "")], ["120", "0", "7"]);
    }

    #[test]
    fn the_same_again_is_no_change() {
        let (next, keys) = apply(&config(""), config(""));

        assert_eq!((next, keys.len()), (config(""), 0));
    }

    #[test]
    fn a_swapped_symlink_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        let (data, name) = (directory.path().join("..data"), directory.path().join("name"));
        for version in [&first, &second] {
            fs::create_dir(version).unwrap();
            fs::write(version.join("name"), "same").unwrap();
        }
        std::os::unix::fs::symlink(&first, &data).unwrap();
        std::os::unix::fs::symlink(data.join("name"), &name).unwrap();
        let before = stamp(&name);

        fs::remove_file(&data).unwrap();
        std::os::unix::fs::symlink(&second, &data).unwrap();

        assert!(before.is_some());
        assert_ne!(stamp(&name), before);
    }
}
