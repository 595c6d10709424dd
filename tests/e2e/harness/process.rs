//! Processes that end with the test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, eventually};

/// Where `tests/setup.sh` puts what the machine lacks.
pub fn tools() -> PathBuf {
    std::env::var_os("TOOLS_DIR").map_or_else(|| root().join(".tools"), PathBuf::from)
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Spawns from a thread that lives as long as the process: the kernel sends a "parent death signal" when the
/// *thread* that spawned ends, and tests run on threads of their own under `cargo test`.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = channel();
    spawner.send((command, answer)).expect("the spawner lives for ever");
    child.recv().expect("the spawner answers")
}

/// A command that is sent `signal` when the test process ends.
pub fn tied(program: impl AsRef<Path>, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program.as_ref());
    command
}

/// A process in the background, its output in a file. Killed when dropped.
pub struct Background {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Background {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = fs::File::create(log).expect("a log file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let what = format!("{command:?}");
        let child = spawn(command).unwrap_or_else(|error| panic!("{what}: {error}"));
        Self { child, log: log.into(), ended: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child to wait for");
        }
        self.ended
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        let what = format!("process {} ends", self.pid());
        eventually(&what, PATIENCE, async || self.ended()).await
    }

    pub fn signal(&self, signal: Signal) {
        if self.ended.is_some() {
            return;
        }
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process ID");
        let _ = kill_process(pid, signal); // it may have ended meanwhile
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a program that ran to its end had to say.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its standard output, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// Longest a program may run: pgbench waits for ever for an answer that is lost.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// Runs a program to its end, off the runtime's threads.
pub async fn run(command: Command) -> Output {
    run_within(LONGEST_RUN, command).await
}

/// The same, of a program that may take longer, or must not take as long.
pub async fn run_within(longest: Duration, mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = format!("{command:?}");
    let child = spawn(command).unwrap_or_else(|error| panic!("{what}: {error}"));
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process ID");
    let mut waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let (done, in_time) = match tokio::time::timeout(longest, &mut waiting).await {
        Ok(done) => (done, true),
        Err(_) => {
            let _ = kill_process(pid, Signal::KILL);
            (waiting.await, false)
        }
    };
    let output = done.expect("no panic while waiting").unwrap_or_else(|error| panic!("{what}: {error}"));
    let output = Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(in_time, "not within {longest:?}: {what}: {output:?}");
    output
}
