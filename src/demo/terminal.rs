//! A psql that stays connected: one driver connection, asked again and again.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use crate::demo::failure::Failure;
use crate::demo::process::{finish, said, tied, without_settings};
use crate::demo::programs::Programs;

/// An open connection.
pub(super) struct Terminal {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Terminal {
    /// Connects.
    pub(super) fn open(programs: &Programs, url: &str) -> Result<Self, Failure> {
        let mut psql = psql(programs, url);
        psql.args(["-At", "-v", "ON_ERROR_STOP=1"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().map_err(|error| Failure::Program("psql", error))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::Missing("pipes to psql"));
        };
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    /// Runs statements: the rows of their answers, columns separated by `|`.
    pub(super) fn ask(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        let sent = writeln!(self.stdin, "{sql};\n\\echo {END}");
        let mut rows = Vec::new();
        while sent.is_ok() {
            let mut line = String::new();
            match self.stdout.read_line(&mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) if line.trim_end() == END => return Ok(rows),
                Ok(_) => rows.push(line.trim_end().to_owned()),
            }
        }
        Err(self.lost())
    }

    /// What psql said when it ended.
    fn lost(&mut self) -> Failure {
        let mut words = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_end(&mut stderr, &mut words);
        }
        match self.child.wait() {
            Ok(status) => {
                Failure::Ended("psql", status, said(&Output { status, stdout: Vec::new(), stderr: words }))
            }
            Err(error) => Failure::Program("psql", error),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one statement on a connection of its own; whether it succeeds is for the caller to say.
pub(super) fn once(programs: &Programs, url: &str, sql: &str) -> Result<Output, Failure> {
    let mut psql = psql(programs, url);
    psql.args(["-At", "-v", "VERBOSITY=verbose", "-c", sql]);
    finish(psql, "psql")
}

fn psql(programs: &Programs, url: &str) -> Command {
    let mut psql = without_settings(tied(&programs.psql, "KILL", None));
    psql.args(["-Xq", "-d", url]).env("PGCONNECT_TIMEOUT", "20");
    psql
}

const END: &str = "~ that was all ~";
