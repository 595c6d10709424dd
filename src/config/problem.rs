//! What is wrong with a configuration, and where it was written.
//!
//! An operator who must run the program once per mistake makes the last correction in a hurry. So problems are
//! collected, and shown together.
//!
//! # Promises
//! - Each says where (file and line, variable, flag), which key, which value, and what would be accepted.
//! - Text from the operator is escaped: a value cannot forge a line.
//!
//! # Refuses
//! To hold a secret: whoever makes a [`Problem`] has already hidden it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::names::Printable;

/// Where something was written.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Source {
    /// In a file, at a line counted from 1; 0 is the file as a whole.
    File(PathBuf, usize),
    /// On the command line, by this flag.
    Flag(&'static str),
    /// Nowhere: it is missing.
    Nowhere,
    /// In this variable of the environment.
    Variable(String),
}

impl Source {
    /// The file as a whole.
    pub fn file(path: &Path) -> Self {
        Self::File(path.to_owned(), 0)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Nowhere => f.write_str("configuration"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it is.
    pub source: Source,
    /// The key, such as `pool.size`; empty where the mistake is not one of a key.
    pub key: String,
    /// The value as it may be shown, without secrets; `None` where it is not the value that is wrong.
    pub value: Option<String>,
    /// What is wrong, or what would be accepted.
    pub reason: String,
}

impl Problem {
    /// A mistake that is not about the value.
    pub(super) fn new(source: Source, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { source, key: key.into(), value: None, reason: reason.into() }
    }

    /// The same, showing this value.
    pub(super) fn with_value(self, value: String) -> Self {
        Self { value: Some(value), ..self }
    }

    /// The key and the value, as one would write them.
    fn subject(&self) -> String {
        match &self.value {
            Some(value) => format!("{} = {}", self.key, shortened(value)),
            None => self.key.clone(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [place, subject, reason] = cells(self);
        match subject.as_str() {
            "" => write!(f, "{place}: {reason}"),
            subject => write!(f, "{place}: {subject}: {reason}"),
        }
    }
}

/// Everything that is wrong, never nothing. `Display` is for the terminal: a line each, aligned, counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// These problems, if there are any.
    pub(super) fn of(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems, in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 3]> = self.0.iter().map(cells).collect();
        let width = |column: usize| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.filter(|width| *width <= WIDEST).max().unwrap_or(0)
        };
        let (first, second) = (width(0), width(1));
        for [place, subject, reason] in &rows {
            writeln!(f, "{place:first$}  {subject:second$}  {reason}")?;
        }
        match rows.len() {
            1 => f.write_str("1 problem with the configuration"),
            count => write!(f, "{count} problems with the configuration"),
        }
    }
}

impl std::error::Error for Problems {}

/// The candidate that was probably meant, as the end of a sentence; nothing if none is near.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let near = |candidate: &'a str| (strsim::jaro_winkler(word, candidate), candidate);
    let best = candidates.into_iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, candidate)) if likeness >= NEAR => format!("; did you mean {candidate}?"),
        _ => String::new(),
    }
}

/// Where, what and why, safe to print.
fn cells(problem: &Problem) -> [String; 3] {
    [problem.source.to_string(), problem.subject(), problem.reason.clone()]
        .map(|cell| Printable(cell.as_bytes()).to_string())
}

/// A value of at most [`LONGEST_VALUE`] characters.
fn shortened(value: &str) -> String {
    if value.chars().count() <= LONGEST_VALUE {
        return value.to_owned();
    }
    value.chars().take(LONGEST_VALUE).chain(['…']).collect()
}

/// Characters of a value that are shown.
const LONGEST_VALUE: usize = 60;

/// How alike two words must be, from 0 to 1, for one to be a misspelling of the other.
const NEAR: f64 = 0.85;

/// A cell wider than this does not push the others of its column to the right.
const WIDEST: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_aligned_and_counted() {
        let problems = Problems(vec![
            Problem::new(Source::File("a.toml".into(), 12), "pool.size", "expected a number")
                .with_value("\"x\"".into()),
            Problem::new(Source::Variable("PGUSHER_LOGG".into()), "", "unknown variable"),
        ]);

        assert_eq!(
            problems.to_string(),
            "a.toml:12     pool.size = \"x\"  expected a number\n\
             PGUSHER_LOGG                   unknown variable\n\
             2 problems with the configuration"
        );
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let problem = Problem::new(Source::Flag("--log"), "log.level", "no").with_value("a\nb".into());

        assert!(Problems(vec![problem]).to_string().contains("a\\nb"));
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(shortened(&"é".repeat(100)).chars().count(), LONGEST_VALUE + 1);
    }
}
