//! The pooler, as the process that users run.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::port::Port;
use super::process::{Background, tied};
use super::raw::{Address, Raw, Target};
use super::{Issued, PATIENCE, Postgres, eventually, http, secrets};

/// What is written into the configuration, section by section.
///
/// Starts from: loopback, `trust`, the roles of the harness with their passwords, identity off (or as the environment
/// variable `PGUSHER_E2E_IDENTITY` says), no TLS, log level `debug`, files not watched. Everything else is the program's own
/// default.
pub struct Builder {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    appended: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    target: Target,
    has_metrics: bool,
}

impl Builder {
    /// Sets one key to a piece of TOML: `set("pool", "size", "1")`, `set("pool", "mode", "\"session\"")`.
    pub fn set(mut self, section: &str, key: &str, toml: &str) -> Self {
        self.sections.entry(section.into()).or_default().insert(key.into(), toml.into());
        self
    }

    /// Sets one key to a string.
    pub fn text(self, section: &str, key: &str, value: &str) -> Self {
        let value = format!("{value:?}");
        self.set(section, key, &value)
    }

    /// Drops one of the keys that the builder started from.
    pub fn unset(mut self, section: &str, key: &str) -> Self {
        self.sections.entry(section.into()).or_default().remove(key);
        self
    }

    /// Servers in each pool.
    pub fn pool_size(self, size: usize) -> Self {
        self.set("pool", "min", "0").set("pool", "size", &size.to_string())
    }

    /// `session`, `transaction` or `statement`.
    pub fn mode(self, mode: &str) -> Self {
        self.text("pool", "mode", mode)
    }

    /// Turns the identity on, read from the default variable.
    pub fn identity(self) -> Self {
        self.text("identity", "enabled", "on")
    }

    /// Turns the identity off, whatever the environment says.
    pub fn no_identity(self) -> Self {
        self.text("identity", "enabled", "off")
    }

    /// Offers TLS to clients, as `mode` says.
    pub fn tls(self, mode: &str, issued: &Issued) -> Self {
        let path = |path: &Path| path.display().to_string();
        self.text("tls.client", "mode", mode)
            .text("tls.client", "cert_file", &path(&issued.certificate))
            .text("tls.client", "key_file", &path(&issued.key))
    }

    /// Encrypts servers, as `sslmode` says.
    pub fn sslmode(self, mode: &str) -> Self {
        self.text("tls.server", "sslmode", mode)
    }

    /// A user who may log in, and the password for both sides.
    pub fn user(self, name: &str, password: &str) -> Self {
        self.text(&format!("users.{name:?}"), "password", password)
    }

    /// A database by the name clients use, on a server anywhere: Postgres, DelayProxy, FakeServer.
    pub fn database(self, name: &str, server: SocketAddr) -> Self {
        let section = format!("databases.{name:?}");
        self.text(&section, "host", &server.ip().to_string()).set(
            &section,
            "port",
            &server.port().to_string(),
        )
    }

    /// Sets one key of the test's database: `dbname`, `settings`, `connect_query` …
    pub fn of_database(self, key: &str, toml: &str) -> Self {
        let section = format!("databases.{:?}", self.target.database);
        self.set(&section, key, toml)
    }

    /// Reaches the test's database through another address: a DelayProxy between pooler and server.
    pub fn via(self, server: SocketAddr) -> Self {
        let name = self.target.database.clone();
        self.database(&name, server)
    }

    /// TOML written as it is, after everything else. Sections must not be among those set above.
    pub fn append(mut self, toml: &str) -> Self {
        self.appended.push_str(toml);
        self.appended.push('\n');
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Serves metrics and health on a port of its own.
    pub fn metrics(mut self) -> Self {
        self.has_metrics = true;
        self
    }

    /// The configuration as it will be written.
    pub fn toml(&self) -> String {
        let mut toml = String::new();
        for (section, keys) in self.sections.iter().filter(|(_, keys)| !keys.is_empty()) {
            toml.push_str(&format!("[{section}]\n"));
            keys.iter().for_each(|(key, value)| toml.push_str(&format!("{key} = {value}\n")));
            toml.push('\n');
        }
        toml + &self.appended
    }

    /// Starts it and waits until it accepts connections.
    pub async fn start(self) -> Pgusher {
        let mut pgusher = self.launch();
        pgusher.until_listening().await;
        pgusher
    }

    /// Starts it without waiting: for configurations it should refuse.
    pub fn launch(mut self) -> Pgusher {
        let port = Port::reserve();
        let metrics = self.has_metrics.then(Port::reserve);
        let address = port.address();
        let directory = tempfile::Builder::new().prefix("pgusher-").tempdir().expect("a directory");
        let target = Target { address: Address::Tcp(address), ..self.target.clone() };
        self = self.text("listen", "address", &address.to_string());
        let config = directory.path().join("pgusher.toml");
        let toml = self.toml();
        fs::write(&config, &toml).expect("a configuration file");
        secrets::note_all_of(&toml);
        self.environment.iter().for_each(|(_, value)| secrets::note_url(value));

        let mut command = tied(env!("CARGO_BIN_EXE_pgusher"), "KILL");
        command
            .arg("--config")
            .arg(&config)
            .args(&self.arguments)
            .env("PGUSHER_LISTEN", address.to_string())
            .env(
                "PGUSHER_METRICS_LISTEN",
                metrics.as_ref().map_or("off".into(), |port| port.address().to_string()),
            )
            .env_remove("PGUSHER_E2E_IDENTITY") // the harness's own, which the program does not know
            .env("RUST_BACKTRACE", "1") // a panic of the pooler is read with its stack
            .envs(self.environment.clone())
            .current_dir(directory.path());
        let process = Background::start(command, &directory.path().join("log"));
        Pgusher { process, directory, target, _port: port, metrics, builder: self, may_leak: false }
    }
}

/// A running pooler. Killed when dropped.
pub struct Pgusher {
    process: Background,
    directory: TempDir,
    target: Target,
    _port: Port,
    metrics: Option<Port>,
    builder: Builder,
    may_leak: bool,
}

impl Pgusher {
    /// In front of a server: the test's database under its own name.
    pub fn before(postgres: &Postgres) -> Builder {
        Self::configured(postgres.target()).database(postgres.database(), postgres.address())
    }

    /// In front of anything that listens, such as a FakeServer, as database `fake`.
    pub fn before_address(server: SocketAddr) -> Builder {
        let builder =
            Self::configured(Target::new(Address::Tcp(server), "app", "fake")).database("fake", server);
        builder.text("pool", "clean", "when-needed") // what is scripted knows no clean between clients
    }

    /// In front of nothing yet.
    pub fn configured(target: Target) -> Builder {
        let identity = std::env::var("PGUSHER_E2E_IDENTITY").unwrap_or_else(|_| "off".into());
        let mut builder = Builder {
            sections: BTreeMap::new(),
            appended: String::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            target,
            has_metrics: false,
        };
        for name in ["app", "other", "trusted", "hashed", "cleartext", "postgres"] {
            builder = builder.user(name, name);
        }
        builder
            .sslmode("disable")
            .text("listen", "auth", "trust")
            .text("identity", "enabled", &identity)
            .text("log", "level", "debug")
            .text("listen", "watch_files", "off")
    }

    /// With a configuration of one's own, in which `LISTEN` stands for the address to listen on.
    pub async fn with_toml(toml: &str, target: Target) -> Self {
        let mut builder = Self::configured(target);
        builder.sections.clear();
        builder.appended = toml.into();
        let port = Port::reserve();
        let address = port.address();
        let directory = tempfile::Builder::new().prefix("pgusher-").tempdir().expect("a directory");
        let config = directory.path().join("pgusher.toml");
        fs::write(&config, toml.replace("LISTEN", &address.to_string())).expect("a configuration file");
        let mut command = tied(env!("CARGO_BIN_EXE_pgusher"), "KILL");
        command
            .arg("--config")
            .arg(&config)
            .env("PGUSHER_METRICS_LISTEN", "off")
            .current_dir(directory.path());
        let process = Background::start(command, &directory.path().join("log"));
        let target = Target { address: Address::Tcp(address), ..builder.target.clone() };
        let mut pgusher =
            Self { process, directory, target, _port: port, metrics: None, builder, may_leak: false };
        pgusher.until_listening().await;
        pgusher
    }

    pub fn address(&self) -> SocketAddr {
        let Address::Tcp(address) = self.target.address else { unreachable!("it listens on TCP") };
        address
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// Where it serves metrics and health.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics.as_ref().expect("a pooler with metrics").address()
    }

    /// Its own directory: the configuration, the log, and room for sockets and password files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join("pgusher.toml")
    }

    /// The test's database as `app`, through the pooler.
    pub fn target(&self) -> Target {
        self.target.clone()
    }

    pub fn url(&self, database: &str, user: &str, password: &str) -> String {
        self.target().user(user, password).database(database).url()
    }

    /// A connection as `app`.
    pub async fn client(&self) -> Raw {
        Raw::login(&self.target).await
    }

    /// A connection as `app`, whose identity is stated at startup.
    pub async fn client_for(&self, identity: &str) -> Raw {
        Raw::login(&self.target().with("app.current_user_id", identity)).await
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything it has written to standard output and error.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The lines of its output that hold a secret.
    pub fn leaks(&self) -> Vec<String> {
        secrets::leaks(&self.log())
    }

    /// It is not held against this one: the test makes it leak.
    pub fn forgive_leaks(&mut self) {
        self.may_leak = true;
    }

    /// Waits until the log holds a text, and returns its line.
    pub async fn until_logged(&self, text: &str) -> String {
        eventually(&format!("the log says {text:?}"), PATIENCE, async || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Waits until so many clients wait for a server; it must serve [`metrics`](Builder::metrics).
    pub async fn until_waiting(&self, count: usize) {
        eventually(&format!("{count} wait for a server"), PATIENCE, async || {
            let page = http::get(self.metrics(), "/metrics").await.body;
            let of_pools = page.lines().filter(|line| line.starts_with("pgusher_pool_waiting_clients{"));
            let counts = of_pools.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            (counts.sum::<f64>() == count as f64).then_some(())
        })
        .await;
    }

    /// Writes a changed configuration and tells it to read it (SIGHUP).
    pub fn reload(&mut self, change: impl FnOnce(Builder) -> Builder) {
        let empty = Self::configured(self.target.clone());
        self.builder = change(std::mem::replace(&mut self.builder, empty));
        fs::write(self.config_file(), self.builder.toml()).expect("a configuration file");
        self.hangup();
    }

    /// The same, and waits until it has been read: applied or refused.
    pub async fn reloaded(&mut self, change: impl FnOnce(Builder) -> Builder) {
        let count = |log: String| log.lines().filter(|line| line.contains("reloaded")).count();
        let before = count(self.log());
        self.reload(change);
        eventually("the configuration is read again", PATIENCE, async || {
            (count(self.log()) > before).then_some(())
        })
        .await;
    }

    pub fn hangup(&self) {
        self.process.signal(Signal::HUP);
    }

    /// SIGTERM: drain.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        self.process.end().await
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process that lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kilobytes: u64 =
            line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
        kilobytes << 10
    }

    /// How many of its file descriptors are sockets.
    pub fn sockets(&self) -> usize {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process that lives");
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    async fn until_listening(&mut self) {
        let address = self.address();
        eventually("the pooler listens", Duration::from_secs(30), async || {
            if let Some(status) = self.process.ended() {
                let toml = fs::read_to_string(self.directory.path().join("pgusher.toml")).unwrap_or_default();
                panic!("pgusher ended, {status}:\n{}\nIts configuration:\n{toml}", self.process.log());
            }
            TcpStream::connect(address).await.ok()
        })
        .await;
    }
}

impl Drop for Pgusher {
    /// A failed test is read with the pooler's log at hand; the log of another is read for secrets.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of pgusher {} ---\n{}---", self.pid(), self.log());
            return;
        }
        let leaks = self.leaks();
        assert!(self.may_leak || leaks.is_empty(), "secrets in the output of pgusher: {leaks:#?}");
    }
}
