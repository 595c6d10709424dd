//! Real PostgreSQL servers.
//!
//! A *shared* server runs for all tests of a run, and gives each a database of its own; it is started by whoever
//! needs it first. A *private* one is a copy of a template, to be configured, restarted and killed at will.
//! `tests/postgres.sh` does what both have in common.
//!
//! # Roles
//! `postgres` is the superuser, without a password. `app` and `other` log in by SCRAM, `hashed` by md5, `cleartext` by
//! password, `trusted` without; the password is the name. `app` owns the test's database. `encrypted` gets in by TLS only,
//! `plain` without only, `certified` by a certificate of that name.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::port::Port;
use super::process::{Background, Output, root, run, spawn, tied};
use super::raw::{Address, Raw, Target, split_socket};
use super::tls::Ca;
use super::{PATIENCE, eventually, say};

/// Every major under test.
pub const MAJORS: [u16; 5] = [14, 15, 16, 17, 18];

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug)]
pub enum StopMode {
    /// When the last client has left.
    Smart,
    /// Clients are closed with 57P01.
    Fast,
    /// Clients are closed with 57P02; the next start recovers.
    Immediate,
}

/// One cluster, and one database in it.
pub struct Postgres {
    major: u16,
    port: u16,
    directory: PathBuf,
    database: String,
    private: Option<Private>,
}

struct Private {
    server: Option<Background>,
    _port: Port,
}

impl Postgres {
    /// The running server of a major, with a fresh database.
    pub async fn shared(major: u16) -> Self {
        use_servers();
        let answer = script(&["shared", &major.to_string()]).await;
        let (port, directory) = answer.trim().split_once(' ').expect("port and directory");
        let mut postgres = Self {
            major,
            port: port.parse().expect("a port"),
            directory: directory.into(),
            database: "postgres".into(),
            private: None,
        };
        postgres.database = fresh_name();
        postgres.create_database(&postgres.database).await;
        postgres
    }

    /// A server of one's own with further settings, and lines that come before the usual ones in `pg_hba.conf`.
    pub async fn private(major: u16, settings: &[(&str, &str)], hba: &str) -> Self {
        use_servers();
        let directory = PathBuf::from(script(&["private", &major.to_string()]).await.trim());
        let port = Port::reserve();
        let mut postgres = Self {
            major,
            port: port.number,
            directory,
            database: fresh_name(),
            private: Some(Private { server: None, _port: port }),
        };
        postgres.configure(settings);
        let usual = fs::read_to_string(postgres.data().join("pg_hba.conf")).expect("pg_hba.conf");
        postgres.write("pg_hba.conf", &format!("{hba}\n{usual}"));
        postgres.start().await;
        postgres.create_database(&postgres.database).await;
        postgres
    }

    /// A standby that streams from this private server, with the same databases.
    ///
    /// Made by `pg_basebackup` where the installed one speaks to the major, else of the template that the primary was made of,
    /// which follows it from its first record: the primary must have kept that (`wal_keep_size`).
    pub async fn standby(&self) -> Self {
        let directory = PathBuf::from(script(&["private", &self.major.to_string()]).await.trim());
        let port = Port::reserve();
        let standby = Self {
            major: self.major,
            port: port.number,
            directory,
            database: self.database.clone(),
            private: Some(Private { server: None, _port: port }),
        };
        if self.major <= 15 {
            standby.take_backup_of(self).await;
        }
        let config = fs::read_to_string(self.data().join("postgresql.conf")).expect("postgresql.conf");
        standby.write("postgresql.conf", &config);
        let hba = fs::read_to_string(self.data().join("pg_hba.conf")).expect("pg_hba.conf");
        standby.write("pg_hba.conf", &hba);
        let mut standby = standby;
        standby.follow(self);
        standby.start().await;
        standby
    }

    async fn take_backup_of(&self, primary: &Self) {
        use std::os::unix::fs::{MetadataExt, chown};
        let owner = fs::metadata(self.data()).expect("the data directory");
        fs::remove_dir_all(self.data()).expect("an empty place");
        let target = Target::new(Address::Tcp(primary.address()), "postgres", "postgres");
        let backup = Tool::new("pg_basebackup", &target);
        backup.args(["-R", "-X", "stream", "-c", "fast", "-D"]).arg(self.data()).run().await.ok();
        // It ran as whoever runs the tests.
        let mut pending = vec![self.data()];
        while let Some(path) = pending.pop() {
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("its owner");
            if path.is_dir() {
                pending.extend(
                    fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()),
                );
            }
        }
    }

    /// Becomes a standby of another server, from the next start on.
    pub fn follow(&mut self, primary: &Self) {
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        self.configure(&[("primary_conninfo", &from)]);
        self.write("standby.signal", "");
    }

    /// Becomes a primary.
    pub async fn promote(&self) {
        assert_eq!(self.value("select pg_promote()").await, "t");
    }

    pub fn major(&self) -> u16 {
        self.major
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where its unix socket is.
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port))
    }

    /// The CA that every server's certificate is signed by, and that servers believe.
    pub fn ca(&self) -> Ca {
        Ca::read(&self.directory.parent().expect("the directory of all clusters").join("tls"))
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// This test's own.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The test's database as `app`, over TCP.
    pub fn target(&self) -> Target {
        Target::new(Address::Tcp(self.address()), "app", &self.database)
    }

    /// The test's database as superuser, over the socket.
    pub fn superuser(&self) -> Target {
        Target::new(Address::Unix(self.socket()), "postgres", &self.database)
    }

    pub fn url(&self) -> String {
        self.target().url()
    }

    pub fn superuser_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", self.port, self.database)
    }

    /// A connection as `app`.
    pub async fn client(&self) -> Raw {
        Raw::login(&self.target()).await
    }

    /// Runs SQL directly, as superuser, in the test's database: the rows as text.
    pub async fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut raw = Raw::login(&self.superuser()).await;
        let rows = raw.rows(sql).await;
        raw.terminate().await;
        rows
    }

    /// Runs SQL directly, as superuser: the first value.
    pub async fn value(&self, sql: &str) -> String {
        self.sql(sql).await.into_iter().flatten().next().flatten().unwrap_or_default()
    }

    /// Waits until SQL, run as superuser, answers this.
    pub async fn until(&self, sql: &str, expected: &str) {
        let mut raw = Raw::login(&self.superuser()).await;
        eventually(&format!("{sql}: {expected}"), PATIENCE, async || {
            (raw.value(sql).await == expected).then_some(())
        })
        .await;
        raw.terminate().await;
    }

    /// Waits until no client but the asking one is left in the test's database.
    pub async fn until_unused(&self) {
        self.until(
            "select count(*) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()",
            "0",
        )
        .await;
    }

    /// A further database, owned by `app`, not dropped with the test's own: for private clusters, or drop it yourself.
    pub async fn create_database(&self, name: &str) {
        let mut raw = Raw::login(&self.superuser().database("postgres")).await;
        raw.rows(&format!("create database {name} owner app template template0")).await;
        raw.terminate().await;
    }

    /// `psql`, `pgbench` or `pg_dump`, aimed at the test's database as `app`. These are always PostgreSQL 15's: psql and
    /// pgbench serve all majors, `pg_dump` only 14 and 15. Server programs (`pg_ctl`, `initdb`) are of this major.
    pub fn tool(&self, program: &str) -> Tool {
        Tool::new(program, &self.target())
    }

    /// Loads the schema of `docker/postgres/init.sql` into the test's database.
    pub async fn load_schema(&self) {
        let schema = root().join("docker/postgres/init.sql");
        self.tool("psql")
            .aim(&self.superuser())
            .args(["-v", "ON_ERROR_STOP=1", "-qXf"])
            .arg(&schema)
            .run()
            .await
            .ok();
    }

    /// What the server has logged; the whole run's if it is shared.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join("log")).unwrap_or_default()).into_owned()
    }

    /// Appends settings to `postgresql.conf`; they hold from the next start or reload.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.own_data().join("postgresql.conf");
        let mut text = fs::read_to_string(&file).expect("postgresql.conf");
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        self.write("postgresql.conf", &text);
    }

    /// Writes a file of the data directory, readable by the server's account only.
    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
        let data = self.own_data();
        let file = data.join(name);
        fs::write(&file, text).expect("a file in the data directory");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its permissions");
        let owner = fs::metadata(&data).expect("the data directory");
        chown(&file, Some(owner.uid()), Some(owner.gid())).expect("its owner");
    }

    /// Starts a server that was stopped, or was never started.
    pub async fn start(&mut self) {
        let log = self.directory.join("log");
        let port = self.port.to_string();
        let mut command = Command::new(root().join("tests/postgres.sh"));
        command
            .args(["exec", &self.major.to_string(), "postgres", "-p", &port, "-D"])
            .arg(self.data())
            .arg("-k")
            .arg(&self.directory);
        let mut server = Background::start(command, &log);

        let ready = self.data().join("postmaster.pid");
        eventually("the server is ready", PATIENCE, async || {
            if let Some(status) = server.ended() {
                panic!("PostgreSQL ended, {status}: {}", server.log());
            }
            let status = fs::read_to_string(&ready).unwrap_or_default();
            let mut lines = status.lines();
            let of_this_start = lines.next() == Some(&server.pid().to_string());
            let status = lines.nth(6).unwrap_or_default();
            (of_this_start && (status.starts_with("ready") || status.starts_with("standby"))).then_some(())
        })
        .await;
        self.private.as_mut().expect("a private server").server = Some(server);
    }

    /// Asks the server to stop and waits until it has.
    pub async fn stop(&mut self, mode: StopMode) {
        self.signal(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        if let Some(mut server) = self.server().take() {
            server.end().await;
        }
    }

    /// Stops fast and starts again, on the same port.
    pub async fn restart(&mut self) {
        self.stop(StopMode::Fast).await;
        self.start().await;
    }

    /// Kills the postmaster and every backend with SIGKILL, as a machine that loses power.
    pub async fn kill9(&mut self) {
        let backends = self
            .value("select string_agg(pid::text, ' ') from pg_stat_activity where pid <> pg_backend_pid()");
        let backends = backends.await;
        self.signal(Signal::KILL);
        for pid in backends.split(' ').filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(mut server) = self.server().take() {
            server.end().await;
        }
    }

    /// Stops the whole server with SIGSTOP: connections open and nobody answers. Undone by [`thaw`](Self::thaw).
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Reads the configuration again.
    pub fn reload(&mut self) {
        self.signal(Signal::HUP);
    }

    /// Signals the postmaster of a private server.
    pub fn signal(&mut self, signal: Signal) {
        self.server().as_ref().expect("a server that runs").signal(signal);
    }

    fn server(&mut self) -> &mut Option<Background> {
        &mut self.private.as_mut().expect("only private servers can be stopped or configured").server
    }

    fn own_data(&self) -> PathBuf {
        assert!(self.private.is_some(), "only private servers can be configured");
        self.data()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(private) = &mut self.private {
            if let Some(server) = private.server.take() {
                server.signal(Signal::CONT);
                server.signal(Signal::QUIT); // SIGKILL, which follows, would leave its shared memory behind
                for _ in 0..400 {
                    if !self.directory.join("data/postmaster.pid").exists() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            let _ = fs::remove_dir_all(&self.directory);
            return;
        }
        let drop = format!("drop database if exists {} with (force)", self.database);
        let superuser = self.superuser().database("postgres");
        // A runtime of its own: this one may be about to end, and cannot be blocked on.
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { Raw::login(&superuser).await.query(&drop).await });
        });
        let _ = dropped.join(); // what is left goes with the cluster
    }
}

/// One of PostgreSQL's programs, ready to run against a target.
pub struct Tool {
    command: Command,
}

impl Tool {
    pub fn new(program: &str, target: &Target) -> Self {
        let client = PathBuf::from("/usr/lib/postgresql/15/bin").join(program);
        let known = client.exists();
        assert!(known, "{} is missing: run tests/setup.sh", client.display());
        Self { command: tied(client, "KILL") }.aim(target)
    }

    /// Aims it elsewhere, at a pooler for example.
    pub fn aim(mut self, target: &Target) -> Self {
        let (host, port) = match &target.address {
            Address::Tcp(address) => (address.ip().to_string(), address.port().to_string()),
            Address::Unix(socket) => split_socket(socket),
        };
        self.command
            .env_remove("PGOPTIONS")
            .env("PGHOST", host)
            .env("PGPORT", port)
            .env("PGUSER", &target.user)
            .env("PGPASSWORD", &target.password)
            .env("PGDATABASE", &target.database)
            .env("PGSSLMODE", "disable")
            .env("PGCONNECT_TIMEOUT", "20");
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs it to its end.
    pub async fn run(self) -> Output {
        run(self.command).await
    }

    /// Leaves it running; its output goes to a file.
    pub fn start(self, log: &Path) -> Background {
        Background::start(self.command, log)
    }
}

/// Holds the lease for as long as this process lives: the watchdog and `postgres.sh stop` leave the servers alone.
fn use_servers() {
    static LEASE: OnceLock<fs::File> = OnceLock::new();
    LEASE.get_or_init(|| {
        let mut state = Command::new(root().join("tests/postgres.sh"));
        state.arg("state").stdout(std::process::Stdio::piped());
        let output = spawn(state).and_then(|child| child.wait_with_output()).expect("tests/postgres.sh");
        let state = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let lease = fs::File::create(state.join("lease")).expect("the lease");
        lease.lock_shared().expect("a shared lock");
        lease
    });
}

async fn script(arguments: &[&str]) -> String {
    let mut command = Command::new(root().join("tests/postgres.sh"));
    command.args(arguments);
    run(command).await.ok()
}

/// A name that no other test has, in this run or another.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_micros();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("t{now:x}_{}_{count}", std::process::id())
}

/// Runs one statement as `app` in the extended protocol: the whole answer, in notation.
pub async fn extended(raw: &mut Raw, sql: &str, values: &[Option<&str>]) -> String {
    raw.ask([say::extended(sql, values), say::sync()]).await
}
