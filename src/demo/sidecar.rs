//! The pooler, started as its users start it: the program, and an environment.

use std::net::{Ipv4Addr, TcpStream};
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::demo::failure::Failure;
use crate::demo::postgres::{DATABASE, Postgres, read_tail};
use crate::demo::process::{PATIENCE, Process, TRIES, free_port, tied, until, without_settings};

/// A running pooler.
pub(super) struct Sidecar {
    pub(super) process: Process,
    pub(super) port: u16,
    /// The variables it was given.
    pub(super) environment: Vec<(&'static str, String)>,
}

impl Sidecar {
    /// Starts one with a pool of this size, and waits until it listens.
    pub(super) fn start(postgres: &Postgres, size: usize) -> Result<Self, Failure> {
        let mut last = None;
        for _ in 0..TRIES {
            match Self::launch(postgres, size, free_port()?) {
                Err(failure @ Failure::Ended(_, _, _)) => last = Some(failure),
                result => return result,
            }
        }
        Err(last.unwrap_or(Failure::Interrupted))
    }

    fn launch(postgres: &Postgres, size: usize, port: u16) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::Program("pgusher", error))?;
        let environment = vec![
            ("PGUSHER_UPSTREAM", url(postgres.port)),
            ("PGUSHER_LISTEN", format!("127.0.0.1:{port}")),
            ("PGUSHER_POOL_SIZE", size.to_string()),
        ];
        let mut command = without_settings(tied(&program, "KILL", None));
        command.env("PGUSHER_METRICS_LISTEN", "off").envs(environment.clone()).current_dir(&postgres.home.0);
        let log = postgres.home.file(&format!("pgusher-{port}.log"));
        let mut process = Process::start(command, "pgusher", Signal::TERM, &log)?;
        let is_listening = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        match until(PATIENCE, || if is_listening() { Some(None) } else { process.ended().map(Some) }) {
            Some(None) => Ok(Self { process, port, environment }),
            Some(Some(status)) => Err(Failure::Ended("pgusher", status, read_tail(&log))),
            None => Err(Failure::TooSlow("pgusher to listen", read_tail(&log))),
        }
    }

    /// Where clients connect.
    pub(super) fn url(&self) -> String {
        url(self.port)
    }

    /// Tells it to end and waits until it has.
    pub(super) fn end(mut self) -> Result<ExitStatus, Failure> {
        self.process.end()
    }
}

/// As the application's role, of init.sql.
pub(super) fn url(port: u16) -> String {
    format!("postgres://{ROLE}:{ROLE}@127.0.0.1:{port}/{DATABASE}")
}

/// The one role that all end users of the application share.
pub(super) const ROLE: &str = "saas_user";
