//! Asking a server what a client has left on it, and cleaning it away.
//!
//! SQL can change a session in more ways than reading it can tell. So when a text *might* have, the server is asked at the
//! next `Z(I)`, after the client has its answer: which settings are the session's own, and what else is there that cannot
//! follow the client. The answer decides what is tracked, what pins, and what is swept.
//!
//! # Promises
//! - The question is schema-qualified down to its operators, and unaffected by a `statement_timeout` left behind.
//! - The sweep ends everything of a client's but the plans kept under our own names.
//!
//! # Refuses
//! To trust the answer further than the client's own session: it decides what *this* client gets back.

use bytes::BytesMut;

use crate::session::hold::{Pin, Pins};
use crate::session::parameters::Values;
use crate::session::tier;
use crate::wire::Malformed;
use crate::wire::backend;
use crate::wire::write;

/// The question. Rows are (kind, name, value).
const QUESTION: &str = "\
SELECT 'setting',name,setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
AND name OPERATOR(pg_catalog.<>) ALL ('{transaction_isolation,transaction_read_only,transaction_deferrable}'::pg_catalog.text[]) \
UNION ALL SELECT 'pin','advisory_lock','' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'pin','hold_cursor','' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'pin','listen','' WHERE EXISTS (SELECT pg_catalog.pg_listening_channels()) \
UNION ALL SELECT 'pin','role','' WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) \
WHERE unnest OPERATOR(pg_catalog.=) pg_catalog.concat('role=', pg_catalog.current_setting('role')) \
AND setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0, (SELECT oid FROM pg_catalog.pg_roles \
WHERE rolname OPERATOR(pg_catalog.=) SESSION_USER)])) \
OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() \
AND usename OPERATOR(pg_catalog.<>) pg_catalog.current_setting('session_authorization')::pg_catalog.name) \
UNION ALL SELECT 'pin','temporary','' WHERE EXISTS (SELECT FROM pg_catalog.pg_class \
WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())";

/// The part of it that the server may keep from its users: the view shows each client of a pool what the others prepared.
const STATEMENTS: &str = "\
 UNION ALL SELECT 'pin','prepare','' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
UNION ALL SELECT 'plans','',pg_catalog.count(*)::pg_catalog.text FROM pg_catalog.pg_prepared_statements \
WHERE NOT from_sql";

/// Said before and after the question when a `statement_timeout` is too short for it, or a cancel cut it short. The
/// timeout's own value is read first, because the guard changes it, and then its default: whether it is the session's own is
/// asked of a view that takes too long.
const GUARD: (&str, &str) = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;\
SELECT 'guarded','statement_timeout',pg_catalog.current_setting('statement_timeout');\
SET LOCAL statement_timeout TO DEFAULT;\
SELECT 'default','statement_timeout',pg_catalog.current_setting('statement_timeout');\
SET LOCAL statement_timeout=0;",
    ";COMMIT",
);

/// Everything of a client's, ended; plans kept (identity.md, "Giving the server back").
const SWEEP: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
SELECT pg_catalog.pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP";

/// The same, and the plans too.
const SWEEP_ALL: &str = "SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
SELECT pg_catalog.pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP;DEALLOCATE ALL";

/// What is asked, where it differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question<'a> {
    /// The identity's variable, if it may have been put back.
    pub identity: Option<&'a [u8]>,
    /// Whether a timeout cut the question short before.
    pub is_guarded: bool,
    /// Whether the server tells its users which statements there are.
    pub with_statements: bool,
}

/// Asks. `custom` are two-part settings, which PostgreSQL does not list.
pub fn ask<'a>(outbox: &mut BytesMut, custom: impl Iterator<Item = &'a [u8]>, question: Question<'a>) {
    let (before, after) = if question.is_guarded { GUARD } else { ("", "") };
    let statements = if question.with_statements { STATEMENTS } else { "" };
    let mut sql = [before, QUESTION, statements].concat().into_bytes();
    let custom = custom.map(|name| (&b"custom"[..], name));
    for (kind, name) in custom.chain(question.identity.map(|name| (&b"identity"[..], name))) {
        sql.extend_from_slice(b" UNION ALL SELECT ");
        put_literal(&mut sql, kind);
        sql.push(b',');
        put_literal(&mut sql, name);
        sql.extend_from_slice(b",pg_catalog.current_setting(");
        put_literal(&mut sql, name);
        sql.extend_from_slice(b",true)");
    }
    sql.extend_from_slice(after.as_bytes());
    write::query(outbox, &sql);
}

/// Sweeps.
pub fn sweep(outbox: &mut BytesMut, with_statements: bool) {
    write::query(outbox, if with_statements { SWEEP_ALL } else { SWEEP }.as_bytes());
}

/// `E'...'`: right under any `standard_conforming_strings`.
fn put_literal(sql: &mut Vec<u8>, text: &[u8]) {
    sql.extend_from_slice(b"E'");
    for &byte in text.iter().filter(|byte| **byte != 0) {
        if byte == b'\'' || byte == b'\\' {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

/// What the server answered, so far.
#[derive(Debug, Default)]
pub struct Findings {
    /// Settings that are the session's own.
    pub values: Values,
    /// What cannot follow the client.
    pub pins: Pins,
    /// Whether the identity is there still.
    pub has_identity: bool,
    /// Whether a token is remembered (`form = "login"`).
    pub knows_token: bool,
    /// The `statement_timeout` there was, if the guard has changed it.
    guarded: Option<Box<[u8]>>,
    /// How many statements there are by protocol, if the server says so; we know how many there should be.
    pub plans: Option<usize>,
}

impl Findings {
    /// Takes one DataRow of the answer.
    ///
    /// # Errors
    /// A body that is no row.
    pub fn on_row(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut columns = backend::data_row(body)?;
        let (Some(Some(kind)), Some(Some(name)), value) =
            (columns.next(), columns.next(), columns.next().flatten())
        else {
            return Ok(());
        };
        match (kind, value) {
            (b"guarded", Some(value)) => self.guarded = Some(value.into()),
            (b"default", Some(default)) => {
                if let Some(value) = self.guarded.as_deref().filter(|value| *value != default) {
                    self.values.set(name, value);
                }
            }
            // The guard's own.
            (b"setting", Some(_)) if name == b"statement_timeout" && self.guarded.is_some() => {}
            // Not the client's: it cannot even say it.
            (b"setting", Some(value)) if name == tier::SETTING && value.starts_with(tier::PREFIX) => {
                self.knows_token = true;
            }
            (b"setting", Some(value)) => {
                self.values.set(name, value);
            }
            (b"custom", Some(value)) if !value.is_empty() => {
                self.values.set(name, value);
            }
            (b"identity", Some(value)) => self.has_identity = !value.is_empty(),
            (b"pin", _) => {
                if let Some(pin) = Pin::ALL.into_iter().find(|pin| pin.name().as_bytes() == name) {
                    self.pins.insert(pin);
                }
            }
            (b"plans", Some(value)) => {
                let plans = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.plans = Some(plans.unwrap_or(usize::MAX));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Findings {
    /// What was found that is not believed of a server that is about to be anyone's: nothing but these settings and so many
    /// statements.
    pub fn beyond(&self, applied: &Values, statements: usize) -> Pins {
        let mut beyond = self.pins;
        // PostgreSQL cuts an application_name to its length.
        let is_compared = |name: &[u8]| !name.eq_ignore_ascii_case(b"application_name");
        let is_found =
            self.values.iter().any(|(name, value)| is_compared(name) && applied.value(name) != Some(value));
        let is_lost = applied
            .iter()
            .any(|(name, value)| is_compared(name) && !value.is_empty() && self.values.value(name).is_none());
        if is_found || is_lost {
            beyond.insert(Pin::Setting);
        }
        if self.plans.is_some_and(|plans| plans != statements) {
            beyond.insert(Pin::Prepare);
        }
        beyond
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
        write::data_row(&mut out, &values);
        out[5..].to_vec()
    }

    #[test]
    fn rows_become_settings_and_pins() {
        let mut findings = Findings::default();
        for values in [
            ["guarded", "statement_timeout", "1ms"],
            ["default", "statement_timeout", "0"],
            ["setting", "statement_timeout", "0"],
            ["custom", "app.x", ""],
            ["custom", "app.y", "1"],
            ["pin", "listen", ""],
            ["plans", "", "3"],
        ] {
            findings.on_row(&row(&values)).unwrap();
        }

        assert_eq!(findings.values.iter().count(), 2);
        assert!(findings.pins.contains(Pin::Listen));
        assert_eq!(findings.plans, Some(3));
    }

    #[test]
    fn the_timeout_of_the_guard_is_not_the_clients() {
        let mut findings = Findings::default();
        for values in [
            ["guarded", "statement_timeout", "30s"],
            ["default", "statement_timeout", "30s"],
            ["setting", "statement_timeout", "0"],
            ["setting", "work_mem", "5120"],
        ] {
            findings.on_row(&row(&values)).unwrap();
        }

        assert_eq!(findings.values.iter().collect::<Vec<_>>(), [(&b"work_mem"[..], &b"5120"[..])]);
    }

    #[test]
    fn what_is_not_believed_is_named_by_its_kind() {
        let values = |entries: &[(&str, &str)]| -> Values {
            entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
        };
        let found = |rows: &[[&str; 3]]| {
            let mut findings = Findings::default();
            rows.iter().for_each(|values| findings.on_row(&row(values)).unwrap());
            findings
        };
        let believed = values(&[("work_mem", "1024"), ("app.x", ""), ("application_name", "a long one")]);
        let right =
            [["setting", "work_mem", "1024"], ["setting", "application_name", "a lo"], ["plans", "", "2"]];
        assert!(found(&right).beyond(&believed, 2).is_empty());

        for (wrong, kinds) in [
            (vec![["setting", "work_mem", "2048"], ["plans", "", "2"]], "setting"),
            (vec![["plans", "", "2"]], "setting"),
            (vec![right[0], ["setting", "role", "x"], ["pin", "role", ""]], "role,setting"),
            (vec![right[0], ["plans", "", "3"]], "prepare"),
            (
                vec![right[0], ["pin", "temporary", ""], ["pin", "advisory_lock", ""]],
                "advisory_lock,temporary",
            ),
        ] {
            assert_eq!(found(&wrong).beyond(&believed, 2).to_string(), kinds);
        }
    }

    #[test]
    fn a_name_cannot_leave_its_literal() {
        let mut sql = Vec::new();
        put_literal(&mut sql, b"a'; drop table t; --\\");

        assert_eq!(sql, b"E'a''; drop table t; --\\\\'");
    }
}
