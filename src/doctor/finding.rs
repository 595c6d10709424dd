//! What was found, and how it is said: to people, and as JSON.
//!
//! # Promises
//! - Every finding names its object, the reason it matters, and what mends it.
//! - A note is no finding: it changes no exit code.

use std::fmt;
use std::fmt::Write;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Right, but slower than it need be.
    Advice,
    /// A wall is missing: with one more mistake, a user is let through.
    Warning,
    /// A user can see or do what is another's.
    Critical,
}

impl Severity {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Advice => "advice",
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }

    /// The severity of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Advice, Self::Warning, Self::Critical].into_iter().find(|severity| severity.word() == word)
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind it is: a word that stays the same from version to version.
    pub kind: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as SQL would name it.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What mends it, statement by statement; empty where no SQL can.
    pub sql: Vec<String>,
}

/// One database: what was found in it, or why nothing could be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Database {
    /// Its name, as clients say it.
    pub(super) name: String,
    /// The server's version.
    pub(super) version: String,
    /// The worst first.
    pub(super) findings: Vec<Finding>,
    /// What is good to know.
    pub(super) notes: Vec<String>,
    /// Why it could not be examined.
    pub(super) failure: Option<String>,
}

/// What came of it all.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Report(pub(super) Vec<Database>);

impl Report {
    /// 0 if there is nothing, 1 with findings, 2 if a database could not be examined.
    pub fn exit_code(&self) -> u8 {
        if self.0.iter().any(|database| database.failure.is_some()) {
            return 2;
        }
        u8::from(self.0.iter().any(|database| !database.findings.is_empty()))
    }

    /// For programs: one object.
    pub fn json(&self) -> String {
        let databases: Vec<_> = self.0.iter().map(database_json).collect();
        format!("{{\"databases\":[{}]}}\n", databases.join(","))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for database in &self.0 {
            let name = &database.name;
            match (&database.failure, database.findings.len()) {
                (Some(failure), _) => writeln!(f, "{name}: not examined: {failure}")?,
                (None, 0) => writeln!(f, "{name}: nothing found (PostgreSQL {})", database.version)?,
                (None, 1) => writeln!(f, "{name}: 1 finding (PostgreSQL {})", database.version)?,
                (None, count) => writeln!(f, "{name}: {count} findings (PostgreSQL {})", database.version)?,
            }
            for finding in &database.findings {
                writeln!(f, "\n  {}: {}: {}", finding.severity.word(), finding.object, finding.what)?;
                writeln!(f, "    {}", finding.why)?;
                finding
                    .sql
                    .iter()
                    .try_for_each(|sql| writeln!(f, "    => {};", sql.replace('\n', "\n       ")))?;
            }
            if !database.notes.is_empty() {
                writeln!(f)?;
            }
            database.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))?;
        }
        Ok(())
    }
}

fn database_json(database: &Database) -> String {
    let findings: Vec<_> = database.findings.iter().map(finding_json).collect();
    let failure = database.failure.as_ref().map_or_else(|| "null".into(), |failure| string(failure));
    format!(
        "{{\"database\":{},\"server_version\":{},\"failure\":{failure},\"findings\":[{}],\"notes\":{}}}",
        string(&database.name),
        string(&database.version),
        findings.join(","),
        strings(&database.notes),
    )
}

fn finding_json(finding: &Finding) -> String {
    format!(
        "{{\"kind\":{},\"severity\":{},\"object\":{},\"what\":{},\"why\":{},\"sql\":{}}}",
        string(finding.kind),
        string(finding.severity.word()),
        string(&finding.object),
        string(&finding.what),
        string(finding.why),
        strings(&finding.sql),
    )
}

fn strings(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| string(text)).collect();
    format!("[{}]", texts.join(","))
}

/// A text as JSON writes it (RFC 8259, section 7).
pub(super) fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // writing to a String does not fail
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(findings: Vec<Finding>, failure: Option<&str>) -> Database {
        let (name, version) = ("shop".into(), "17.2".into());
        Database {
            name,
            version,
            findings,
            notes: vec!["a \"note\"".into()],
            failure: failure.map(str::to_owned),
        }
    }

    fn finding() -> Finding {
        Finding {
            kind: "table_not_forced",
            severity: Severity::Warning,
            object: "app.\"T\"".into(),
            what: "not forced".into(),
            why: "The owner sees all.",
            sql: vec!["ALTER TABLE app.\"T\"\nFORCE ROW LEVEL SECURITY".into()],
        }
    }

    #[test]
    fn the_exit_code_tells_findings_from_failures() {
        assert_eq!(Report(vec![database(vec![], None)]).exit_code(), 0);
        assert_eq!(Report(vec![database(vec![finding()], None)]).exit_code(), 1);
        assert_eq!(
            Report(vec![database(vec![finding()], None), database(vec![], Some("gone"))]).exit_code(),
            2
        );
    }

    #[test]
    fn json_is_escaped() {
        let json = Report(vec![database(vec![finding()], Some("a\u{1}b"))]).json();

        assert_eq!(
            json,
            "{\"databases\":[{\"database\":\"shop\",\"server_version\":\"17.2\",\"failure\":\"a\\u0001b\",\"findings\":[\
             {\"kind\":\"table_not_forced\",\"severity\":\"warning\",\"object\":\"app.\\\"T\\\"\",\"what\":\"not forced\",\
             \"why\":\"The owner sees all.\",\"sql\":[\"ALTER TABLE app.\\\"T\\\"\\nFORCE ROW LEVEL SECURITY\"]}],\
             \"notes\":[\"a \\\"note\\\"\"]}]}\n"
        );
    }

    #[test]
    fn severities_are_ordered_and_have_words() {
        assert!(Severity::Critical > Severity::Warning && Severity::Warning > Severity::Advice);
        assert_eq!(Severity::from_word("warning"), Some(Severity::Warning));
        assert_eq!(Severity::from_word("Warnings"), None);
    }
}
