//! A password from a program: run away from the threads that serve, for a bounded time, and its first line taken.
//!
//! # Promises
//! - No shell: the words are the program and its arguments. Of our environment it gets what is not for pgusher itself
//!   (`PGUSHER_*` may hold passwords), nothing to read, and nowhere to complain to: what it prints is in no log.
//! - It is its own process group, and when it takes too long or says too much the whole group is killed: what it has started
//!   does not outlive it.
//! - Memory is bounded whatever it prints, and wiped.
//!
//! # Refuses
//! To remember, to run it again: [`Secrets`](crate::pool::Secrets) does.

use std::env;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::auth::Secret;
use crate::pool::secrets::{BadLine, first_line};
use crate::pool::settings::PasswordCommand;

/// The most it may print. PostgreSQL takes no longer password (`PG_MAX_AUTH_TOKEN_LENGTH` in auth.c).
const MOST_OUTPUT: usize = 65_535;

/// Variables that are ours alone.
const OWN_VARIABLES: &str = "PGUSHER_";

/// Runs it, and takes the first line of what it prints for the password.
///
/// Not cancel safe in one way: it is killed.
pub(super) async fn run(command: &PasswordCommand) -> Result<Secret, CommandError> {
    match timeout(command.timeout, until_done(command)).await {
        Ok(result) => result,
        Err(_) => Err(CommandError::TimedOut(command.timeout)),
    }
}

async fn until_done(command: &PasswordCommand) -> Result<Secret, CommandError> {
    let mut process = Group::start(command).await?;
    let mut output = Zeroizing::new(Vec::with_capacity(MOST_OUTPUT + 1));
    if let Some(printed) = process.0.stdout.take() {
        read(printed, &mut output).await?;
    }
    let status = process.0.wait().await.map_err(CommandError::of)?;
    if !status.success() {
        return Err(CommandError::Failed(status));
    }
    first_line(&output).map_err(CommandError::Output)
}

/// Reads to the end, as long as there is room: a buffer that grows would leave copies behind.
async fn read(mut printed: impl AsyncRead + Unpin, output: &mut Vec<u8>) -> Result<(), CommandError> {
    loop {
        let room = (MOST_OUTPUT + 1 - output.len()) as u64;
        let read = (&mut printed).take(room).read_buf(output).await.map_err(CommandError::of)?;
        if output.len() > MOST_OUTPUT {
            return Err(CommandError::TooLong);
        }
        if read == 0 {
            return Ok(());
        }
    }
}

/// A process and what it has started; gone when this is.
struct Group(Child);

impl Group {
    /// Forking takes a while in a process with much memory: nobody's query waits for it.
    async fn start(command: &PasswordCommand) -> Result<Self, CommandError> {
        let mut process = Command::new(&*command.program);
        process
            .args(command.arguments.iter().map(|argument| &**argument))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(OWN_VARIABLES.as_bytes()) {
                process.env_remove(name);
            }
        }
        let started = spawn_blocking(move || process.spawn()).await.map_err(|_| CommandError::Ending)?;
        started.map(Self).map_err(CommandError::of)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // `None` once it was waited for: then the number may be somebody else's.
        let id = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = id {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Why there is no password. Says nothing of what was printed.
#[derive(Clone, Debug)]
pub enum CommandError {
    /// pgusher is ending.
    Ending,
    /// It says itself that it failed.
    Failed(ExitStatus),
    /// What it printed is no password.
    Output(BadLine),
    /// It could not be run, or read from.
    System(Arc<io::Error>),
    /// It did not end in time.
    TimedOut(Duration),
    /// It printed more than any password has.
    TooLong,
}

impl CommandError {
    fn of(error: io::Error) -> Self {
        Self::System(Arc::new(error))
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ending => f.write_str("pgusher is ending"),
            Self::Failed(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "it exited with {code}"),
                (None, Some(signal)) => write!(f, "it was ended by signal {signal}"),
                (None, None) => write!(f, "it ended with {status}"),
            },
            Self::Output(bad) => write!(f, "what it printed is no password: {bad}"),
            Self::System(error) => write!(f, "it could not be run: {error}"),
            Self::TimedOut(limit) => write!(f, "it was not done within password_timeout ({limit:?})"),
            Self::TooLong => write!(f, "it printed more than {MOST_OUTPUT} bytes"),
        }
    }
}

impl std::error::Error for CommandError {}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> PasswordCommand {
        PasswordCommand {
            program: "/bin/sh".into(),
            arguments: ["-c".into(), script.into()].into(),
            ttl: None,
            timeout: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn the_first_line_of_what_it_prints_is_the_password() {
        for (script, password) in [
            ("echo pencil", "pencil"),
            ("printf pencil", "pencil"),
            (r"printf 'pencil\r\nsecond\nthird\n'", "pencil"),
            ("printf ' with blanks '", " with blanks "),
            ("echo pencil; echo a complaint >&2", "pencil"),
            ("cat; echo pencil", "pencil"),
        ] {
            assert_eq!(run(&shell(script)).await.unwrap(), Secret::from(password), "{script}");
        }
    }

    #[tokio::test]
    async fn what_is_no_password_is_refused_and_not_repeated() {
        for (script, said) in [
            ("true", "what it printed is no password: the first line is empty"),
            ("echo; echo pencil", "what it printed is no password: the first line is empty"),
            (r"printf 'pen\0cil\n'", "what it printed is no password: the first line holds a NUL"),
            ("echo pencil; exit 3", "it exited with 3"),
            ("echo pencil; kill -9 $$", "it was ended by signal 9"),
            ("yes pencil", "it printed more than 65535 bytes"),
        ] {
            let error = run(&shell(script)).await.unwrap_err();
            assert_eq!(error.to_string(), said, "{script}");
            assert!(!format!("{error:?}").contains("pencil"), "{error:?}");
        }
        let nothing = PasswordCommand { program: "/no/such/program".into(), ..shell("") };
        assert!(
            run(&nothing).await.unwrap_err().to_string().starts_with("it could not be run: No such file")
        );
    }

    #[tokio::test]
    async fn it_is_killed_with_what_it_has_started_when_it_takes_too_long() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let script = format!("mkfifo {0}; (exec 3<>{0}; sleep 600) & sleep 600", fifo.display());
        let slow = PasswordCommand { timeout: Duration::from_millis(300), ..shell(&script) };
        let began = Instant::now();

        let error = run(&slow).await.unwrap_err();

        assert_eq!(error.to_string(), "it was not done within password_timeout (300ms)");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // Nobody has the fifo open any more: a writer that does not wait is refused.
        let is_alone = || {
            use rustix::fs::{Mode, OFlags, open};
            open(&fifo, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).is_err()
        };
        while !is_alone() {
            assert!(began.elapsed() < Duration::from_secs(5), "its child lives on");
            tokio::task::yield_now().await;
        }
    }
}
