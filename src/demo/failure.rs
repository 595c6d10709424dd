//! Why the demo could not be shown, or showed what it should not.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why the demo ended early.
#[derive(Debug)]
pub enum Failure {
    /// A program ended that should not have, or failed; with the end of what it said.
    Ended(&'static str, ExitStatus, String),
    /// A file or directory could not be made, read or written.
    File(PathBuf, io::Error),
    /// The user has had enough.
    Interrupted,
    /// A program is not installed.
    Missing(&'static str),
    /// A program of the machine could not be used.
    Program(&'static str, io::Error),
    /// A program did not do in time what it should.
    TooSlow(&'static str, String),
    /// What was shown is wrong.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(program, status, said) => {
                write!(f, "{program} failed ({status}): {}", said.trim_end())
            }
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Missing(what) => write!(f, "the demo needs {what}"),
            Self::Program(program, error) => write!(f, "cannot run {program}: {error}"),
            Self::TooSlow(what, said) => write!(f, "waited in vain for {what}: {}", said.trim_end()),
            Self::Wrong(what) => write!(f, "this should not have happened: {what}"),
        }
    }
}

impl std::error::Error for Failure {}
