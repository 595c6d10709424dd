//! Policies tried out: does one let nobody see what a stranger may not?
//!
//! Reading cannot tell: `owner IS NULL OR …`, `is_public OR …` and `current_setting(…) IS NULL OR …` look alike, and
//! `coalesce(…, owner)` looks harmless. So the server is asked. Each expression is evaluated over rows made up for it (one of
//! NULLs, one of values), first with the variable unset, then with `''`; where that is true, once more as a user who does not
//! exist. A policy that opens for nobody, and not for that stranger, opens *because* nobody is there.
//!
//! ```text
//!                    nobody: TRUE        nobody: FALSE, NULL, an error of the value
//!  stranger: TRUE    public rows: fine   fine
//!  stranger: else    OPENS               fine
//! ```
//!
//! Under `form = "login"` the stranger logs in as well, with a token that is forgotten with its transaction: policies that read
//! `app.uid()` alone are told who asks by nothing else.
//!
//! # Promises
//! - No row of a user is read, and nothing is changed: made-up rows, a transaction that is read-only and rolled back.
//! - What could not be evaluated is said to be so, not said to be fine.
//!
//! # Invariants
//! - A variable once set is never NULL again in a session: everything is evaluated unset before anything is set.

use std::time::SystemTime;

use crate::auth::{Login, LoginKey};
use crate::doctor::ask::{Fault, Session, identifier, literal};
use crate::doctor::chart::{Chart, Policy, Sample, Table};
use crate::doctor::finding::string;

/// Who does not exist.
const STRANGERS: [&str; 2] = ["d0c70000-0000-4000-8000-00000d0c7042", "2000000042"];

/// How it is said who asks.
pub(super) struct Voice<'a> {
    variables: &'a [String],
    /// What signs tokens, and for which process of the server; where tokens are taken.
    login: Option<(&'a LoginKey, u32)>,
}

impl<'a> Voice<'a> {
    /// By the variables, and by tokens where there is a key; why not, if the server does not take them.
    pub(super) async fn find(
        session: &mut Session,
        variables: &'a [String],
        key: Option<&'a LoginKey>,
    ) -> Result<(Self, Option<String>), Fault> {
        let silent = Self { variables, login: None };
        let Some(key) = key else { return Ok((silent, None)) };
        let process = session.ask("SELECT pg_backend_pid()").await?;
        let process = process.into_iter().flatten().flatten().next().and_then(|number| number.parse().ok());
        let Some(process) = process else { return Ok((silent, None)) };
        let voice = Self { variables, login: Some((key, process)) };
        match session.ask(&voice.log_in("")).await {
            Ok(_) => Ok((voice, None)),
            Err(fault) if fault.sqlstate().is_some() => Ok((silent, Some(fault.to_string()))),
            Err(fault) => Err(fault),
        }
    }

    /// The statements that say it, each with its semicolon.
    fn say(&self, who: &str) -> String {
        let name = |name: &String| name.split('.').map(identifier).collect::<Vec<_>>().join(".");
        let set = |variable| format!("SET LOCAL {} = {}; ", name(variable), literal(who));
        let login = self.login.is_some().then(|| self.log_in(who) + "; ");
        self.variables.iter().map(set).chain(login).collect()
    }

    /// A call with a token that is the first each time: what it leaves is rolled back.
    fn log_in(&self, who: &str) -> String {
        let Some((key, process)) = self.login else { return String::new() };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut token = Vec::new();
        key.sign(Login { identity: who.as_bytes(), is_first: true, now, process, sequence: 1 }, &mut token);
        format!("SELECT ident.login({})", literal(&String::from_utf8_lossy(&token)))
    }
}

/// What came of one expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// Which policy, as a place in the chart.
    pub(super) policy: usize,
    pub(super) clause: Clause,
    /// For whom it opens; `None` if it does not.
    pub(super) opens: Option<Nobody>,
    /// Why it could not be evaluated.
    pub(super) doubt: Option<String>,
}

/// The two expressions of a policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Clause {
    Check,
    Using,
}

/// The two ways to be nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nobody {
    /// The variable is `''`.
    Empty,
    /// The variable was never set.
    Unset,
}

/// What an expression is for one row.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    /// The value was refused: 22P02, 42704 and the like.
    Refuses,
    True,
    /// FALSE or NULL.
    Untrue,
    Unknown(String),
}

impl Policy {
    /// Its expressions that are more than a constant.
    fn clauses(&self) -> impl Iterator<Item = (Clause, &str)> {
        let clauses = [(Clause::Using, &self.using), (Clause::Check, &self.check)];
        let given = clauses.into_iter().filter_map(|(clause, text)| Some((clause, text.as_deref()?)));
        given.filter(|(_, text)| !matches!(*text, "true" | "false"))
    }

    /// One of its expressions.
    pub(super) fn expression(&self, clause: Clause) -> &str {
        let expression = match clause {
            Clause::Check => &self.check,
            Clause::Using => &self.using,
        };
        expression.as_deref().unwrap_or_default()
    }
}

/// A row that an expression is true for, as nobody.
struct Opening {
    verdict: usize,
    row: String,
    nobody: Nobody,
}

/// Tries every policy of the chart.
pub(super) async fn judge(
    session: &mut Session,
    chart: &Chart,
    voice: &Voice<'_>,
) -> Result<Vec<Verdict>, Fault> {
    let mut verdicts = Vec::new();
    for (index, policy) in chart.policies.iter().enumerate() {
        let fresh = |(clause, _)| Verdict { policy: index, clause, opens: None, doubt: None };
        verdicts.extend(policy.clauses().map(fresh));
    }
    let mut openings = Vec::new();
    let is_unset = chart.preset.is_empty();
    for nobody in [Nobody::Unset, Nobody::Empty].into_iter().filter(|it| is_unset || *it == Nobody::Empty) {
        openings.extend(as_nobody(session, chart, voice, nobody, &mut verdicts).await?);
    }
    for Opening { verdict, row, nobody } in openings {
        let Some(verdict) = verdicts.get_mut(verdict) else { continue };
        if verdict.opens != Some(Nobody::Empty) && !is_strangers(session, chart, verdict, &row, voice).await?
        {
            verdict.opens = Some(nobody);
        }
    }
    Ok(verdicts)
}

/// The rows that each expression is true for, as nobody.
async fn as_nobody(
    session: &mut Session,
    chart: &Chart,
    voice: &Voice<'_>,
    nobody: Nobody,
    verdicts: &mut [Verdict],
) -> Result<Vec<Opening>, Fault> {
    let setting = match nobody {
        Nobody::Empty => voice.say(""),
        Nobody::Unset => String::new(),
    };
    let mut openings = Vec::new();
    for (index, verdict) in verdicts.iter_mut().enumerate() {
        let Some(policy) = chart.policies.get(verdict.policy) else { continue };
        let Some(table) = chart.tables.iter().find(|table| table.name == policy.table) else { continue };
        for row in rows(table) {
            match evaluate(session, policy.expression(verdict.clause), &row, &setting).await? {
                Answer::True => openings.push(Opening { verdict: index, row, nobody }),
                Answer::Unknown(reason) => verdict.doubt = Some(reason),
                Answer::Refuses | Answer::Untrue => {}
            }
        }
    }
    Ok(openings)
}

/// Whether a stranger sees this row as well.
async fn is_strangers(
    session: &mut Session,
    chart: &Chart,
    verdict: &Verdict,
    row: &str,
    voice: &Voice<'_>,
) -> Result<bool, Fault> {
    let Some(policy) = chart.policies.get(verdict.policy) else { return Ok(false) };
    for stranger in STRANGERS {
        let setting = voice.say(stranger);
        if evaluate(session, policy.expression(verdict.clause), row, &setting).await? == Answer::True {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn evaluate(
    session: &mut Session,
    expression: &str,
    row: &str,
    setting: &str,
) -> Result<Answer, Fault> {
    let sql = format!("{setting}SELECT ({expression}) IS TRUE FROM {row}");
    match session.ask(&sql).await {
        Ok(rows) => {
            // A login before it has a row of its own.
            let last = rows.last().and_then(|row| row.first().cloned()).flatten();
            Ok(if last.as_deref() == Some("t") { Answer::True } else { Answer::Untrue })
        }
        Err(fault) => match fault.sqlstate() {
            Some(sqlstate) if is_of_the_value(sqlstate) => Ok(Answer::Refuses),
            Some(_) => Ok(Answer::Unknown(fault.to_string())),
            None => Err(fault),
        },
    }
}

/// Whether an error says that a value is no identity: data exceptions, an unknown setting, RAISE, no authorization.
fn is_of_the_value(sqlstate: &str) -> bool {
    sqlstate.starts_with("22") || sqlstate.starts_with("28") || sqlstate == "42704" || sqlstate == "P0001"
}

/// Rows of a table's type under its name, as items of FROM: one of NULLs, one of values.
fn rows(table: &Table) -> [String; 2] {
    let sampled = table.columns.iter().filter_map(|(name, sample)| {
        let value = match sample {
            Sample::Array => "[]",
            Sample::Boolean => "true",
            Sample::Date => "\"2000-01-01\"",
            Sample::Json => "{}",
            Sample::Number => "1",
            Sample::Text => "\"1\"",
            Sample::Unknown => return None,
            Sample::Uuid => "\"d0c70000-0000-4000-8000-000000000001\"",
        };
        Some(format!("{}:{value}", string(name)))
    });
    let values = format!("{{{}}}", sampled.collect::<Vec<_>>().join(","));
    let row = |values: &str| {
        let (name, alias) = (&table.name, identifier(&table.bare));
        format!("jsonb_populate_record(NULL::{name}, {}::jsonb) AS {alias}", literal(values))
    };
    [row("{}"), row(&values)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_rows_have_the_tables_type_and_name() {
        let table = Table {
            oid: "1".into(),
            name: "app.\"T's\"".into(),
            bare: "T's".into(),
            is_enabled: true,
            is_forced: true,
            has_policies: true,
            columns: vec![
                ("id".into(), Sample::Uuid),
                ("o\"k".into(), Sample::Boolean),
                ("x".into(), Sample::Unknown),
            ],
        };

        let [nulls, values] = rows(&table);

        assert_eq!(nulls, "jsonb_populate_record(NULL::app.\"T's\", '{}'::jsonb) AS \"T's\"");
        assert!(
            values.contains("\"id\":\"d0c70000-0000-4000-8000-000000000001\",\"o\\\\\"k\":true"),
            "{values}"
        );
    }
}
