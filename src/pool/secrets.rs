//! Passwords that change while we run: from files, and from programs.
//!
//! # Promises
//! - A file is read when its modification time or its target changes (Kubernetes swaps a symlink), and when the server refuses
//!   what was read; not otherwise. The first line counts, without its end.
//! - A program is run once at a time, however many ask. What it printed holds for its `ttl`; in the last fifth of it, it is run
//!   again beside those who log in, who go on with the password there is.
//! - A server that refuses a password has it fetched anew, and [`Secrets::after_refusal`] says so only if it is another one by
//!   then: so that trying again makes sense. A program is run for that reason, or after it failed, once a [`PAUSE`] at most.
//! - While what is known still holds, a file that cannot be read or a program that fails costs nobody a login: the log says it.
//!
//! # Refuses
//! To log in.
//!
//! # Invariants
//! - Of each program at most one process runs; who waits for it may go away, and it goes on.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::auth::Secret;
use crate::pool::command::{self, CommandError};
use crate::pool::settings::{PasswordCommand, PasswordSource};

/// The shortest time between two runs of a program of which the first was of no use, and between two complaints about a file.
const PAUSE: Duration = Duration::from_secs(1);

/// Passwords that change.
#[derive(Default)]
pub struct Secrets {
    files: Mutex<HashMap<PathBuf, Read>>,
    agents: Mutex<HashMap<Arc<PasswordCommand>, Arc<Agent>>>,
}

/// What was in a file.
struct Read {
    stamp: (SystemTime, u64),
    secret: Secret,
    complained: Option<Instant>,
}

impl Secrets {
    /// The password as it is now; `None` if the source is none of ours.
    ///
    /// Cancel safe: a program goes on, for the next who asks.
    pub(super) async fn find(&self, source: &PasswordSource) -> Result<Option<Secret>, PasswordError> {
        Ok(match source {
            PasswordSource::Client => None,
            PasswordSource::Command(command) => {
                Some(self.agent(command).find().await.map_err(PasswordError::Command)?)
            }
            PasswordSource::File(path) => Some(self.read(path).map_err(PasswordError::File)?),
            PasswordSource::Given(secret) => Some(secret.clone()),
        })
    }

    /// The server has refused this password: another one, if there is one by now.
    ///
    /// Cancel safe, as [`Secrets::find`] is.
    pub(super) async fn after_refusal(&self, source: &PasswordSource, refused: &Secret) -> Option<Secret> {
        let now = match source {
            PasswordSource::Client | PasswordSource::Given(_) => return None,
            PasswordSource::Command(command) => self.agent(command).after_refusal(refused).await?,
            PasswordSource::File(path) => {
                self.forget(path);
                self.read(path).ok()?
            }
        };
        (now != *refused).then_some(now)
    }

    /// The first line of a file.
    fn read(&self, path: &Path) -> io::Result<Secret> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = files.get_mut(path);
        let read = read_unless(path, known.as_ref().map(|known| known.stamp));
        match (read, known) {
            (Ok(None), Some(known)) => Ok(known.secret.clone()),
            (Ok(None), None) => Err(io::ErrorKind::NotFound.into()),
            (Ok(Some((stamp, secret))), _) => {
                files.insert(path.to_owned(), Read { stamp, secret: secret.clone(), complained: None });
                Ok(secret)
            }
            (Err(error), Some(known)) => {
                known.complain(path, &error);
                Ok(known.secret.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// It is read again, whatever its stamp says: a file system's clock is coarse, and a copy may keep the time of its original.
    fn forget(&self, path: &Path) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get_mut(path) {
            known.stamp.1 = u64::MAX;
        }
    }

    /// Who runs this program. Those of programs that are not configured any more are forgotten in time.
    fn agent(&self, command: &Arc<PasswordCommand>) -> Arc<Agent> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(command) {
            return agent.clone();
        }
        agents.retain(|_, agent| !agent.is_of_no_use());
        let agent = Arc::new(Agent { command: command.clone(), state: Mutex::default() });
        agents.insert(command.clone(), agent.clone());
        agent
    }
}

impl Read {
    fn complain(&mut self, path: &Path, error: &io::Error) {
        let now = Instant::now();
        if self.complained.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return;
        }
        self.complained = Some(now);
        tracing::error!(file = %path.display(), %error, "password_file cannot be read; the password that was read before stays");
    }
}

type Stamp = (SystemTime, u64);

/// What is in a file, unless it is as it was.
fn read_unless(path: &Path, known: Option<Stamp>) -> io::Result<Option<(Stamp, Secret)>> {
    let metadata = fs::metadata(path)?;
    let stamp = (metadata.modified()?, metadata.len());
    if known == Some(stamp) {
        return Ok(None);
    }
    let text = Zeroizing::new(fs::read(path)?);
    let line = first_line(&text).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
    Ok(Some((stamp, line)))
}

/// The first line, without its end.
pub(super) fn first_line(text: &[u8]) -> Result<Secret, BadLine> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(BadLine::Empty);
    }
    if line.contains(&0) {
        return Err(BadLine::Nul);
    }
    Ok(Secret::from(line))
}

/// Why a first line is no password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadLine {
    /// There is nothing in it.
    Empty,
    /// PostgreSQL takes no NUL.
    Nul,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the first line is empty",
            Self::Nul => "the first line holds a NUL",
        })
    }
}

impl std::error::Error for BadLine {}

/// Why there is no password.
#[derive(Debug)]
pub enum PasswordError {
    /// The program is of no use.
    Command(CommandError),
    /// The file cannot be read.
    File(io::Error),
}

/// Runs one program, and remembers what it printed.
struct Agent {
    command: Arc<PasswordCommand>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// When it failed last, and why, if it did after `known`.
    failed: Option<(Instant, CommandError)>,
    /// What will be printed by the process that runs.
    running: Option<watch::Receiver<Option<Printed>>>,
}

type Printed = Result<Secret, CommandError>;

struct Known {
    secret: Secret,
    /// When the program was started: what it printed may be as old as that.
    since: Instant,
    /// When it was done.
    until: Instant,
}

/// How good what is known is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Age {
    /// It holds.
    Fresh,
    /// It holds, and will not for long.
    Waning,
    /// It holds no more.
    Over,
}

impl Age {
    fn of(age: Duration, ttl: Option<Duration>) -> Self {
        match ttl {
            Some(ttl) if age >= ttl => Self::Over,
            Some(ttl) if age >= ttl - ttl / 5 => Self::Waning,
            _ => Self::Fresh,
        }
    }
}

/// What is to be done for somebody who asks.
enum Answer {
    Now(Printed),
    Wait(watch::Receiver<Option<Printed>>),
}

impl Agent {
    async fn find(self: &Arc<Self>) -> Printed {
        let answer = self.look(&mut self.lock(), Instant::now());
        answer.out().await
    }

    fn look(self: &Arc<Self>, state: &mut State, now: Instant) -> Answer {
        let age = state
            .known
            .as_ref()
            .map_or(Age::Over, |known| Age::of(now.saturating_duration_since(known.since), self.command.ttl));
        match (&state.known, age) {
            (Some(known), Age::Fresh) => Answer::Now(Ok(known.secret.clone())),
            (Some(known), Age::Waning) => {
                let secret = known.secret.clone();
                if state.failed_lately(now).is_none() {
                    self.run(state, now);
                }
                Answer::Now(Ok(secret))
            }
            _ => match state.failed_lately(now) {
                Some(error) => Answer::Now(Err(error)),
                None => Answer::Wait(self.run(state, now)),
            },
        }
    }

    async fn after_refusal(self: &Arc<Self>, refused: &Secret) -> Option<Secret> {
        let answer = self.on_refusal(&mut self.lock(), refused, Instant::now())?;
        answer.out().await.ok()
    }

    /// What to try instead, if anything: what somebody else had printed meanwhile, or what is printed now.
    fn on_refusal(self: &Arc<Self>, state: &mut State, refused: &Secret, now: Instant) -> Option<Answer> {
        if let Some(running) = &state.running {
            return Some(Answer::Wait(running.clone()));
        }
        let known = state.known.as_ref();
        if let Some(known) = known.filter(|known| known.secret != *refused) {
            return Some(Answer::Now(Ok(known.secret.clone())));
        }
        let is_new = known.is_some_and(|known| now.saturating_duration_since(known.until) < PAUSE);
        if is_new || state.failed_lately(now).is_some() {
            return None;
        }
        Some(Answer::Wait(self.run(state, now)))
    }

    /// Has it run, in a task of its own, unless it does already.
    fn run(self: &Arc<Self>, state: &mut State, now: Instant) -> watch::Receiver<Option<Printed>> {
        if let Some(running) = &state.running {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.running = Some(receiver.clone());
        let agent = self.clone();
        drop(tokio::spawn(async move {
            let printed = command::run(&agent.command).await;
            agent.note(&printed, now);
            let _ = sender.send(Some(printed));
        }));
        receiver
    }

    fn note(&self, printed: &Printed, since: Instant) {
        let mut state = self.lock();
        state.running = None;
        let program = &self.command.program;
        match printed {
            Ok(secret) => {
                tracing::debug!(program = &**program, took = ?since.elapsed(), "password_command was run");
                state.known = Some(Known { secret: secret.clone(), since, until: Instant::now() });
                state.failed = None;
            }
            Err(error) => {
                tracing::error!(program = &**program, %error, "password_command failed; run it as pgusher's user to see why");
                state.failed = Some((Instant::now(), error.clone()));
            }
        }
    }

    fn is_of_no_use(&self) -> bool {
        let (state, now) = (self.lock(), Instant::now());
        let age = |known: &Known| Age::of(now.saturating_duration_since(known.since), self.command.ttl);
        state.running.is_none() && state.known.as_ref().is_none_or(|known| age(known) == Age::Over)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Why it failed, if that is not long ago.
    fn failed_lately(&self, now: Instant) -> Option<CommandError> {
        let (when, error) = self.failed.as_ref()?;
        (now.saturating_duration_since(*when) < PAUSE).then(|| error.clone())
    }
}

impl Answer {
    async fn out(self) -> Printed {
        match self {
            Self::Now(printed) => printed,
            Self::Wait(mut running) => match running.wait_for(Option::is_some).await {
                Ok(printed) => printed.clone().unwrap_or(Err(CommandError::Ending)),
                Err(_) => Err(CommandError::Ending),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says how often it was run.
    fn counting(directory: &Path, then: &str, ttl: Option<Duration>) -> PasswordSource {
        let file = directory.join("runs");
        let script = format!("echo >> {0}; n=$(wc -l < {0}); {then}", file.display());
        PasswordSource::Command(Arc::new(PasswordCommand {
            program: "/bin/sh".into(),
            arguments: ["-c".into(), script.into()].into(),
            ttl,
            timeout: Duration::from_secs(10),
        }))
    }

    fn runs(directory: &Path) -> usize {
        fs::read_to_string(directory.join("runs")).unwrap_or_default().len()
    }

    async fn found(secrets: &Secrets, source: &PasswordSource) -> String {
        let secret = secrets.find(source).await.unwrap().unwrap();
        String::from_utf8(secret.expose().to_vec()).unwrap()
    }

    #[test]
    fn what_is_known_wanes_before_it_is_over() {
        let ttl = Some(Duration::from_secs(100));
        for (age, expected) in [(0, Age::Fresh), (79, Age::Fresh), (80, Age::Waning), (100, Age::Over)] {
            assert_eq!(Age::of(Duration::from_secs(age), ttl), expected, "{age}");
        }
        assert_eq!(Age::of(Duration::from_secs(1_000_000), None), Age::Fresh);
    }

    #[tokio::test]
    async fn a_program_is_run_once_for_all_who_ask_and_goes_on_without_them() {
        let directory = tempfile::tempdir().unwrap();
        let source = counting(directory.path(), "sleep 0.2; echo run-$n", None);
        let secrets = Arc::new(Secrets::default());
        {
            let mut given_up = Box::pin(secrets.find(&source));
            assert!(tokio::time::timeout(Duration::from_millis(1), &mut given_up).await.is_err());
        }

        let all: Vec<_> = (0..100)
            .map(|_| {
                let (secrets, source) = (secrets.clone(), source.clone());
                tokio::spawn(async move { found(&secrets, &source).await })
            })
            .collect();

        for one in all {
            assert_eq!(one.await.unwrap(), "run-1");
        }
        assert_eq!(runs(directory.path()), 1);
    }

    #[tokio::test]
    async fn it_is_run_beside_those_who_ask_before_its_time_is_over_and_before_them_after_that() {
        let directory = tempfile::tempdir().unwrap();
        let ttl = Duration::from_secs(100);
        let source = counting(directory.path(), "echo run-$n", Some(ttl));
        let secrets = Secrets::default();
        assert_eq!(found(&secrets, &source).await, "run-1");
        let PasswordSource::Command(command) = &source else { unreachable!() };
        let agent = secrets.agent(command);
        let after = |part: u32| agent.look(&mut agent.lock(), Instant::now() + ttl * part / 100);

        let fresh = after(70).out().await.unwrap();
        assert_eq!((fresh, runs(directory.path())), (Secret::from("run-1"), 1));
        let waning = after(90);
        assert!(matches!(&waning, Answer::Now(Ok(secret)) if *secret == Secret::from("run-1")));
        let running = agent.lock().running.clone().expect("it runs");
        assert_eq!(Answer::Wait(running).out().await.unwrap(), Secret::from("run-2"));

        let over = after(300).out().await.unwrap();

        assert_eq!((over, runs(directory.path())), (Secret::from("run-3"), 3));
    }

    #[tokio::test]
    async fn a_program_that_fails_is_not_run_at_once_again_and_what_is_known_holds() {
        let directory = tempfile::tempdir().unwrap();
        let ttl = Duration::from_secs(100);
        let source = counting(directory.path(), "[ $n = 2 ] && echo run-$n", Some(ttl));
        let secrets = Secrets::default();
        for _ in 0..10 {
            let error = secrets.find(&source).await.unwrap_err();
            assert!(matches!(error, PasswordError::Command(CommandError::Failed(_))), "{error:?}");
        }
        assert_eq!(runs(directory.path()), 1);
        let PasswordSource::Command(command) = &source else { unreachable!() };
        let agent = secrets.agent(command);
        let after = |time: Duration| agent.look(&mut agent.lock(), Instant::now() + time);

        let second = after(PAUSE).out().await.unwrap();
        let waning = after(ttl).out().await;
        let running = agent.lock().running.clone();
        if let Some(running) = running {
            assert!(Answer::Wait(running).out().await.is_err());
        }

        assert_eq!((second, waning.unwrap()), (Secret::from("run-2"), Secret::from("run-2")));
        assert_eq!(runs(directory.path()), 3);
        assert_eq!(agent.lock().known.as_ref().unwrap().secret, Secret::from("run-2"));
    }

    #[tokio::test]
    async fn a_refusal_has_it_run_again_if_it_is_not_new() {
        let directory = tempfile::tempdir().unwrap();
        let source = counting(directory.path(), "echo run-$((n / 2))", None);
        let secrets = Secrets::default();
        assert_eq!(found(&secrets, &source).await, "run-0");
        let PasswordSource::Command(command) = &source else { unreachable!() };
        let agent = secrets.agent(command);

        assert_eq!(secrets.after_refusal(&source, &Secret::from("run-0")).await, None, "it is new");
        agent.lock().known.as_mut().unwrap().until -= PAUSE;
        let other = secrets.after_refusal(&source, &Secret::from("run-0")).await;
        assert_eq!((other, runs(directory.path())), (Some(Secret::from("run-1")), 2));
        let known = secrets.after_refusal(&source, &Secret::from("run-0")).await;
        assert_eq!((known, runs(directory.path())), (Some(Secret::from("run-1")), 2), "it is known already");

        agent.lock().known.as_mut().unwrap().until -= PAUSE;
        let same = secrets.after_refusal(&source, &Secret::from("run-1")).await;

        assert_eq!((same, runs(directory.path())), (None, 3), "the same again makes no sense");
    }

    #[tokio::test]
    async fn a_refusal_has_a_file_read_again_whatever_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let (source, secrets) = (PasswordSource::File(path.clone()), Secrets::default());
        fs::write(&path, "one\n").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(found(&secrets, &source).await, "one");
        assert_eq!(secrets.after_refusal(&source, &Secret::from("one")).await, None);

        fs::write(&path, "two\n").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();

        assert_eq!(found(&secrets, &source).await, "one");
        assert_eq!(secrets.after_refusal(&source, &Secret::from("one")).await, Some(Secret::from("two")));
        assert_eq!(found(&secrets, &source).await, "two");
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_empty_leaves_what_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let (source, secrets) = (PasswordSource::File(path.clone()), Secrets::default());
        let error = secrets.find(&source).await.unwrap_err();
        assert!(matches!(error, PasswordError::File(_)), "{error:?}");
        fs::write(&path, "one\n").unwrap();
        assert_eq!(found(&secrets, &source).await, "one");

        fs::write(&path, "").unwrap();
        assert_eq!(found(&secrets, &source).await, "one");
        fs::remove_file(&path).unwrap();
        assert_eq!(found(&secrets, &source).await, "one");
        fs::write(&path, "second\n").unwrap();

        assert_eq!(found(&secrets, &source).await, "second");
    }

    #[tokio::test]
    async fn programs_that_nobody_needs_any_more_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let secrets = Secrets::default();
        for number in 0..5 {
            let source = counting(directory.path(), &format!("echo {number}"), Some(Duration::from_nanos(1)));
            found(&secrets, &source).await;
        }

        assert_eq!(secrets.agents.lock().unwrap().len(), 1);
    }
}
