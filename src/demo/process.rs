//! Processes that end with us.
//!
//! # Promises
//! - A [`Process`] is ended when it is dropped, and by the kernel when we are killed.
//! - A process in the background does not hear a Ctrl-C: we do, and end it in order.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::demo::failure::Failure;
use crate::demo::programs::Account;

/// A process in the background, its output in a file.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    /// What asks it to end.
    farewell: Signal,
}

impl Process {
    /// Starts it.
    pub(super) fn start(
        mut command: Command,
        name: &'static str,
        farewell: Signal,
        log: &Path,
    ) -> Result<Self, Failure> {
        let file = File::create(log).map_err(|error| Failure::File(log.into(), error))?;
        let second = file.try_clone().map_err(|error| Failure::File(log.into(), error))?;
        command.stdin(Stdio::null()).stdout(second).stderr(file).process_group(0);
        let child = command.spawn().map_err(|error| Failure::Program(name, error))?;
        Ok(Self { name, child, farewell })
    }

    /// Its number: `setpriv` becomes the program it runs.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to end, and waits; after a while it has to.
    pub(super) fn end(&mut self) -> Result<ExitStatus, Failure> {
        if self.ended().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
        {
            let _ = kill_process(pid, self.farewell); // it may have ended meanwhile
        }
        let ended = until(PATIENCE, || self.ended());
        if ended.is_none() {
            let _ = self.child.kill();
        }
        self.child.wait().map_err(|error| Failure::Program(self.name, error))
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub(super) fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A command that the kernel ends, by this signal's name, when we end; as another account if there is one.
pub(super) fn tied(program: &Path, signal: &str, account: Option<&Account>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal]);
    if let Some(account) = account {
        command.arg("--reuid").arg(account.uid.to_string());
        command.arg("--regid").arg(account.gid.to_string()).arg("--clear-groups");
    }
    command.arg("--").arg(program);
    command
}

/// Takes the settings of other poolers and servers out of a command's environment.
pub(super) fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let is_setting =
            name.to_str().is_some_and(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        if is_setting {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end; it must succeed.
pub(super) fn succeed(command: Command, name: &'static str) -> Result<String, Failure> {
    let output = finish(command, name)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::Ended(name, output.status, said(&output)))
}

/// Runs a command to its end.
pub(super) fn finish(mut command: Command, name: &'static str) -> Result<Output, Failure> {
    command.stdin(Stdio::null()).output().map_err(|error| Failure::Program(name, error))
}

/// What a program that failed had to say.
pub(super) fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    tail(if stderr.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { stderr }.as_ref())
}

/// The end of a log.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Asks until there is an answer, or it has taken too long.
pub(super) fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port nobody listens on. Somebody may take it before we do: whoever asks has to be ready to ask again.
pub(super) fn free_port() -> Result<u16, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::Program("a port of the loopback", error))
}

/// Longest a process may take to start, or to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Ports to try before giving up.
pub(super) const TRIES: usize = 5;

const LAST_LINES: usize = 15;
const PREFIXES: [&str; 2] = ["DATABASE_POOL_", "PG"];
