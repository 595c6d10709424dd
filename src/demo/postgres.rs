//! A PostgreSQL of our own, in a directory that goes when it goes.
//!
//! # Promises
//! - It listens on the loopback alone and asks for passwords there; the superuser comes in by a socket that only its
//!   own account, and root, can reach.
//! - It is small: [`MAX_CONNECTIONS`] connections and no durability. It lives for a minute.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::demo::failure::Failure;
use crate::demo::process::{
    PATIENCE, Process, TRIES, free_port, succeed, tail, tied, until, without_settings,
};
use crate::demo::programs::{Account, Programs};

/// A running server with the schema of `docker/postgres/init.sql`.
pub(super) struct Postgres {
    // Dropped in this order: first the server ends, then its directory goes.
    pub(super) server: Process,
    pub(super) port: u16,
    pub(super) home: Home,
}

impl Postgres {
    /// Makes a cluster, starts it and loads the schema.
    pub(super) fn start(programs: &Programs) -> Result<Self, Failure> {
        let account = Account::for_server()?;
        let home = Home::make(account.as_ref())?;
        initdb(programs, &home, account.as_ref())?;
        let mut last = None;
        for _ in 0..TRIES {
            match launch(programs, &home, account.as_ref(), free_port()?) {
                Ok((server, port)) => {
                    let postgres = Self { server, port, home };
                    postgres.load(programs, "postgres", &format!("create database {DATABASE};"))?;
                    postgres.load(programs, DATABASE, SCHEMA)?;
                    return Ok(postgres);
                }
                Err(failure @ Failure::Ended(_, _, _)) => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or(Failure::Interrupted))
    }

    /// Runs SQL as superuser, past the pooler: the rows, columns separated by `|`.
    pub(super) fn ask(&self, programs: &Programs, sql: &str) -> Result<String, Failure> {
        let mut psql = self.superuser(programs, DATABASE);
        psql.args(["-At", "-c", sql]);
        succeed(psql, "psql").map(|rows| rows.trim_end().to_owned())
    }

    /// The same as a table for people.
    pub(super) fn table(&self, programs: &Programs, sql: &str) -> Result<String, Failure> {
        let mut psql = self.superuser(programs, DATABASE);
        psql.args(["-P", "footer=off", "-P", "null=(null)", "-c", sql]);
        succeed(psql, "psql")
    }

    /// Runs a script as superuser.
    pub(super) fn load(&self, programs: &Programs, database: &str, script: &str) -> Result<(), Failure> {
        let mut psql = self.superuser(programs, database);
        psql.args(["-v", "ON_ERROR_STOP=1", "-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = psql.spawn().map_err(|error| Failure::Program("psql", error))?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(script.as_bytes()); // if it ends early, it says why
        }
        let output = child.wait_with_output().map_err(|error| Failure::Program("psql", error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::Ended("psql", output.status, tail(&String::from_utf8_lossy(&output.stderr))))
    }

    fn superuser(&self, programs: &Programs, database: &str) -> Command {
        let mut psql = without_settings(tied(&programs.psql, "KILL", None));
        psql.arg("-Xq").arg("-h").arg(&self.home.0).arg("-p").arg(self.port.to_string());
        psql.args(["-U", "postgres", "-d", database]);
        psql
    }
}

/// A directory, removed when dropped.
pub(super) struct Home(pub(super) PathBuf);

impl Home {
    fn make(account: Option<&Account>) -> Result<Self, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let name = format!("pgusher-demo-{}-{now}", std::process::id());
        let usual = std::env::temp_dir();
        // A socket's path may have 107 bytes.
        let parent = if usual.as_os_str().len() > LONGEST_PARENT { Path::new("/tmp") } else { &usual };
        let directory = parent.join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Failure::File(directory.clone(), error))?;
        let home = Self(directory);
        if let Some(account) = account {
            account.own(&home.0)?;
        }
        Ok(home)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn initdb(programs: &Programs, home: &Home, account: Option<&Account>) -> Result<(), Failure> {
    let mut initdb = without_settings(tied(&programs.initdb, "KILL", account));
    initdb.arg("-D").arg(home.file("data")).args(["-U", "postgres", "--encoding=UTF8", "--no-locale"]);
    initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]).current_dir(&home.0);
    succeed(initdb, "initdb").map(drop)
}

/// Starts the server and waits until it is ready.
fn launch(
    programs: &Programs,
    home: &Home,
    account: Option<&Account>,
    port: u16,
) -> Result<(Process, u16), Failure> {
    let mut postgres = without_settings(tied(&programs.postgres, "QUIT", account));
    postgres.arg("-D").arg(home.file("data")).arg("-k").arg(&home.0).arg("-p").arg(port.to_string());
    let most = format!("max_connections={MAX_CONNECTIONS}");
    for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "autovacuum=off", &most]
    {
        postgres.args(["-c", setting]);
    }
    postgres.current_dir(&home.0);
    let log = home.file("postgres.log");
    let mut server = Process::start(postgres, "postgres", Signal::QUIT, &log)?;
    let status = home.file("data/postmaster.pid");
    let own = server.pid().to_string();
    let is_ready = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let mut lines = status.lines();
        lines.next() == Some(&own) && lines.nth(6).is_some_and(|line| line.starts_with("ready"))
    };
    match until(PATIENCE, || if is_ready() { Some(None) } else { server.ended().map(Some) }) {
        Some(None) => Ok((server, port)),
        Some(Some(status)) => Err(Failure::Ended("postgres", status, read_tail(&log))),
        None => Err(Failure::TooSlow("PostgreSQL to start", read_tail(&log))),
    }
}

/// The end of a log file.
pub(super) fn read_tail(log: &Path) -> String {
    fs::read_to_string(log).map_or_else(|error: io::Error| error.to_string(), |text| tail(&text))
}

/// What init.sql is loaded into.
pub(super) const DATABASE: &str = "saas";

/// Few, so that 200 clients cannot do without a pooler.
pub(super) const MAX_CONNECTIONS: u16 = 20;

const LONGEST_PARENT: usize = 60;
const SCHEMA: &str = include_str!("../../docker/postgres/init.sql");
