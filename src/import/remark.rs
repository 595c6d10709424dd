//! What an operator must know about a translation.
//!
//! # Promises
//! - Each says where it was written, what was written, and why it is not what it was.
//! - Text from the file is escaped: a value cannot forge a line.
//!
//! # Refuses
//! To hold a password: whoever makes a [`Remark`] names the key and leaves its value away.

use std::fmt;
use std::path::PathBuf;

use crate::names::Printable;

/// A line of a file, counted from 1; 0 is the file as a whole.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Spot {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// What became of something that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Kind {
    /// It cannot be understood, or cannot be used.
    Error,
    /// It has no counterpart.
    Lost,
    /// It is carried over, and means something else than before.
    Changed,
    /// It is what happens anyway.
    Needless,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Error => "error",
            Self::Lost => "not carried over",
            Self::Needless => "not needed",
        })
    }
}

/// One thing to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// What became of it.
    pub kind: Kind,
    /// Where it is written.
    pub spot: Spot,
    /// What is written, such as `tcp_keepcnt = 3`.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// All of them, in the order of the file; `Display` is for the terminal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remarks(Vec<Remark>);

impl Remarks {
    /// One more.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        spot: &Spot,
        subject: impl Into<String>,
        reason: impl Into<String>,
    ) {
        let remark = Remark { kind, spot: spot.clone(), subject: subject.into(), reason: reason.into() };
        if !self.0.contains(&remark) {
            self.0.push(remark);
        }
    }

    /// Those there are.
    pub fn iter(&self) -> impl Iterator<Item = &Remark> {
        self.0.iter()
    }

    /// Whether anything could not be understood, or used.
    pub fn has_errors(&self) -> bool {
        self.count(Kind::Error) > 0
    }

    fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|remark| remark.kind == kind).count()
    }

    /// By place.
    pub(super) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.spot.cmp(&b.spot));
    }
}

impl fmt::Display for Remarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Remark { kind, spot, subject, reason } in &self.0 {
            let line = match subject.as_str() {
                "" => format!("{spot}: {kind}: {reason}"),
                subject => format!("{spot}: {subject}: {kind}: {reason}"),
            };
            writeln!(f, "{}", Printable(line.as_bytes()))?;
        }
        let counts: Vec<_> = [Kind::Error, Kind::Lost, Kind::Changed, Kind::Needless]
            .into_iter()
            .filter(|kind| self.count(*kind) > 0)
            .map(|kind| match (kind, self.count(kind)) {
                (Kind::Error, 1) => "1 error".to_owned(),
                (Kind::Error, count) => format!("{count} errors"),
                (kind, count) => format!("{count} {kind}"),
            })
            .collect();
        match counts.is_empty() {
            true => f.write_str("everything is carried over"),
            false => f.write_str(&counts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(line: usize) -> Spot {
        Spot { file: "a.ini".into(), line }
    }

    #[test]
    fn remarks_say_where_what_and_why_and_are_counted() {
        let mut remarks = Remarks::default();
        remarks.add(Kind::Lost, &spot(3), "tcp_keepcnt = 3", "the system decides");
        remarks.add(Kind::Error, &spot(0), "", "it cannot be read");
        remarks.add(Kind::Lost, &spot(3), "tcp_keepcnt = 3", "the system decides");
        remarks.sort();

        assert!(remarks.has_errors());
        assert_eq!(
            remarks.to_string(),
            "a.ini: error: it cannot be read\n\
             a.ini:3: tcp_keepcnt = 3: not carried over: the system decides\n\
             1 error, 1 not carried over"
        );
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let mut remarks = Remarks::default();
        remarks.add(Kind::Lost, &spot(1), "a\nb", "c");

        assert_eq!(remarks.to_string().lines().count(), 2);
    }

    #[test]
    fn nothing_to_say_is_said() {
        assert_eq!(Remarks::default().to_string(), "everything is carried over");
    }
}
