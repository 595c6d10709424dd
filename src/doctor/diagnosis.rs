//! From what the catalogues say to what is wrong with it. Pure: a chart and verdicts in, findings out.
//!
//! # Promises
//! - A finding's SQL ends it, whichever others have been mended before; a second examination finds what is left.
//! - What is wrong in one way is one finding: a policy that opens is not also blamed for being slow.
//!
//! # Refuses
//! To guess at intentions: a role that runs migrations is left out where the configuration exempts it.

use std::cmp::Reverse;

use crate::doctor::ask::identifier;
use crate::doctor::chart::{Attached, Chart, Function, Grant, Policy, Role, Table, View, Volatility};
use crate::doctor::finding::{Finding, Severity};
use crate::doctor::judge::{Clause, Nobody, Verdict};
use crate::doctor::text::{Readers, calls, mentions};

/// Where `ident.login` keeps the identity: among the variables where it is used.
pub(super) const LOGIN_SETTING: &str = "backtrace_functions";

/// Everything that is wrong, the worst first.
pub(super) fn findings(chart: &Chart, verdicts: &[Verdict], variables: &[String]) -> Vec<Finding> {
    let reading = reading(&chart.functions, variables);
    let readers = Readers {
        variables: variables.to_vec(),
        functions: reading.iter().map(|function| function.name.clone()).collect(),
    };
    let mut findings = Vec::new();
    findings.extend(chart.roles.iter().filter_map(bypassing));
    findings.extend(escapes(chart));
    findings.extend(ownerships(chart));
    findings.extend(chart.tables.iter().filter_map(disabled));
    findings.extend(chart.tables.iter().filter_map(unforced));
    findings.extend(reading.iter().filter_map(|function| folded(function)));
    findings.extend(opening(chart, verdicts, variables, &readers));
    findings.extend(chart.views.iter().filter_map(|view| seen_through(view, chart)));
    findings.extend(chart.settings.iter().filter_map(|attached| preset(attached, variables)));
    findings.extend(configured(chart));
    findings.extend(chart.grants.iter().map(making));
    findings.extend(slow(chart, verdicts, &readers));
    findings.extend(reading.iter().filter_map(|function| careless(function, &chart.policies, &readers)));
    findings.sort_by_key(|finding| Reverse(finding.severity)); // stable: within a severity as above
    findings
}

/// The functions that read a variable, by themselves or through one another.
fn reading<'a>(functions: &'a [Function], variables: &[String]) -> Vec<&'a Function> {
    let mut found: Vec<&Function> = Vec::new();
    loop {
        let more = functions.iter().find(|function| {
            let is_known = found.iter().any(|known| known.signature == function.signature);
            !is_known
                && !function.is_trigger
                && (mentions(&function.body, variables)
                    || found.iter().any(|known| calls(&function.body, &known.bare)))
        });
        match more {
            Some(function) => found.push(function),
            None => return found,
        }
    }
}

fn bypassing(role: &Role) -> Option<Finding> {
    let name = &role.name;
    let (kind, what, sql) = match (role.is_superuser, role.bypasses) {
        (true, _) if role.is_bootstrap => (
            "role_is_superuser",
            "pgusher logs in as it, and it is the superuser that initdb made: log in as a role of the application's own".to_owned(),
            Vec::new(),
        ),
        (true, bypasses) => (
            "role_is_superuser",
            "pgusher logs in as it, and it is a superuser".to_owned(),
            vec![format!("ALTER ROLE {name} NOSUPERUSER{}", if bypasses { " NOBYPASSRLS" } else { "" })],
        ),
        (false, true) => (
            "role_bypasses_rls",
            "pgusher logs in as it, and it has BYPASSRLS".to_owned(),
            vec![format!("ALTER ROLE {name} NOBYPASSRLS")],
        ),
        (false, false) => return None,
    };
    Some(Finding {
        kind,
        severity: Severity::Critical,
        object: format!("role {name}"),
        what,
        why: "No policy holds for it: every user of the application sees the rows of all.",
        sql,
    })
}

fn escapes(chart: &Chart) -> impl Iterator<Item = Finding> {
    chart.escapes.iter().map(|escape| Finding {
        kind: "role_may_become_bypassing",
        severity: Severity::Critical,
        object: format!("role {}", escape.role),
        what: format!("it may SET ROLE {}, for which no policy holds", escape.target),
        why: "One statement, and the application sees the rows of all.",
        sql: escape.through.iter().map(|role| format!("REVOKE {role} FROM {}", escape.role)).collect(),
    })
}

fn ownerships(chart: &Chart) -> impl Iterator<Item = Finding> {
    let new_owner = identifier(&format!("{}_owner", chart.database));
    chart.ownerships.iter().map(move |ownership| {
        let (role, table, owner) = (&ownership.role, &ownership.table, &ownership.owner);
        let is_forced = chart.tables.iter().any(|known| known.name == *table && known.is_forced);
        let what = match (role == owner, ownership.through.is_empty()) {
            (true, _) => format!("{role}, which pgusher logs in as, owns it"),
            (false, _) => format!("{role}, which pgusher logs in as, may become its owner {owner}"),
        };
        let sql = if ownership.through.is_empty() {
            let mut sql = vec![
                format!(
                    "DO $doctor$ BEGIN CREATE ROLE {new_owner} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $doctor$"
                ),
                format!("ALTER TABLE {table} OWNER TO {new_owner}"),
                format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"),
            ];
            sql.extend(ownership.sequences.iter().map(|name| format!("GRANT USAGE, SELECT ON SEQUENCE {name} TO {role}")));
            sql
        } else {
            ownership.through.iter().map(|through| format!("REVOKE {through} FROM {role}")).collect()
        };
        Finding {
            kind: "role_owns_table",
            severity: if is_forced { Severity::Warning } else { Severity::Critical },
            object: format!("table {table}"),
            what,
            why: if is_forced {
                "An owner can disable row-level security, and its policies, with one statement."
            } else {
                "No policy holds for the owner of a table that is not FORCEd: it sees the rows of all."
            },
            sql,
        }
    })
}

fn disabled(table: &Table) -> Option<Finding> {
    (table.has_policies && !table.is_enabled).then(|| Finding {
        kind: "rls_disabled",
        severity: Severity::Critical,
        object: format!("table {}", table.name),
        what: "it has policies, and row-level security is disabled".into(),
        why: "Its policies are not applied at all.",
        sql: vec![format!("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", table.name)],
    })
}

fn unforced(table: &Table) -> Option<Finding> {
    (!table.is_forced).then(|| Finding {
        kind: "rls_not_forced",
        severity: Severity::Warning,
        object: format!("table {}", table.name),
        what: "row-level security is not FORCEd".into(),
        why: "Its policies do not hold for its owner: not in a migration, a SECURITY DEFINER function or a view of the owner's.",
        sql: vec![format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY", table.name)],
    })
}

fn folded(function: &Function) -> Option<Finding> {
    (function.volatility == Volatility::Immutable).then(|| Finding {
        kind: "immutable_reader",
        severity: Severity::Critical,
        object: format!("function {}", function.signature),
        what: "it reads the identity and is IMMUTABLE".into(),
        why: "Its value is folded into cached plans: the next user of a plan gets the rows of the first.",
        sql: vec![format!("ALTER FUNCTION {} STABLE", function.signature)],
    })
}

/// Policies that let nobody see what a stranger may not.
fn opening<'a>(
    chart: &'a Chart,
    verdicts: &'a [Verdict],
    variables: &'a [String],
    readers: &'a Readers,
) -> impl Iterator<Item = Finding> {
    chart.policies.iter().enumerate().filter_map(move |(index, policy)| {
        let open: Vec<_> =
            verdicts.iter().filter(|verdict| verdict.policy == index && verdict.opens.is_some()).collect();
        let worst = open.iter().find(|verdict| verdict.opens == Some(Nobody::Empty)).or(open.first())?;
        let (state, severity) = match worst.opens? {
            Nobody::Empty => ("''", Severity::Critical),
            Nobody::Unset => ("not set", Severity::Critical),
        };
        let clauses: Vec<_> = open
            .iter()
            .map(|verdict| {
                let expression = policy.expression(verdict.clause);
                let once = readers.read_once(expression);
                let guarded = format!(
                    "{} AND ({})",
                    guard(expression, variables),
                    once.as_deref().unwrap_or(expression)
                );
                format!("{} ({guarded})", keyword(verdict.clause))
            })
            .collect();
        Some(Finding {
            kind: "policy_opens_for_nobody",
            severity,
            object: format!("policy {} on {}", policy.name, policy.table),
            what: format!("it lets through what it keeps from other users when the identity is {state}"),
            why: "Who has not said who they are, or forgot to, is let through. Both NULL and '' are nobody.",
            sql: vec![format!("ALTER POLICY {} ON {} {}", policy.name, policy.table, clauses.join(" "))],
        })
    })
}

/// Somebody is there.
fn guard(expression: &str, variables: &[String]) -> String {
    let named: Vec<_> =
        variables.iter().filter(|name| mentions(expression, std::slice::from_ref(name))).collect();
    if named.is_empty() && variables.iter().any(|name| name == LOGIN_SETTING) {
        return "(SELECT ident.uid() IS NOT NULL)".into();
    }
    let named = if named.is_empty() { variables.iter().take(1).collect() } else { named };
    let is_set = |name: &String| {
        let name = name.replace('\'', "''");
        format!("(SELECT nullif(current_setting('{name}', true), '') IS NOT NULL)")
    };
    named.into_iter().map(is_set).collect::<Vec<_>>().join(" AND ")
}

fn keyword(clause: Clause) -> &'static str {
    match clause {
        Clause::Check => "WITH CHECK",
        Clause::Using => "USING",
    }
}

fn seen_through(view: &View, chart: &Chart) -> Option<Finding> {
    if view.is_materialized {
        return copied(view, chart);
    }
    let has_invoker = chart.number >= FIRST_WITH_INVOKER;
    if view.is_invoker || !(has_invoker || view.owner_bypasses) {
        return None;
    }
    let role = chart.roles.iter().find(|role| !role.is_superuser && !role.bypasses);
    let sql = match (has_invoker, role) {
        (true, _) => vec![format!("ALTER VIEW {} SET (security_invoker = true)", view.name)],
        (false, Some(role)) => vec![format!("ALTER VIEW {} OWNER TO {}", view.name, role.name)],
        (false, None) => Vec::new(),
    };
    Some(Finding {
        kind: "view_without_security_invoker",
        severity: if view.owner_bypasses { Severity::Critical } else { Severity::Warning },
        object: format!("view {}", view.name),
        what: "it reads a table under row-level security with the rights of its owner".into(),
        why: if view.owner_bypasses {
            "No policy holds for its owner: who may read the view sees the rows of all."
        } else {
            "The policies of its owner hold, not those of the role that asks."
        },
        sql,
    })
}

/// A materialized view has the rows of whoever refreshed it, and no policies.
fn copied(view: &View, chart: &Chart) -> Option<Finding> {
    if view.readers.is_empty() {
        return None;
    }
    let sql = if view.grantees.is_empty() {
        let owner = identifier(&format!("{}_owner", chart.database));
        vec![
            format!(
                "DO $doctor$ BEGIN CREATE ROLE {owner} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $doctor$"
            ),
            format!("ALTER MATERIALIZED VIEW {} OWNER TO {owner}", view.name),
        ]
    } else {
        view.grantees.iter().map(|grantee| format!("REVOKE SELECT ON {} FROM {grantee}", view.name)).collect()
    };
    Some(Finding {
        kind: "materialized_view",
        severity: Severity::Critical,
        object: format!("materialized view {}", view.name),
        what: format!(
            "it keeps rows of a table under row-level security, and {} may read it",
            view.readers.join(", ")
        ),
        why: "A materialized view has no policies: it shows the rows of whoever refreshed it to all.",
        sql,
    })
}

fn preset(attached: &Attached, variables: &[String]) -> Option<Finding> {
    let class = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
    let is_ours = variables.iter().any(|variable| variable.eq_ignore_ascii_case(&attached.name));
    let is_near = attached.name.contains('.')
        && variables.iter().any(|variable| class(variable) == class(&attached.name));
    if !is_ours && !is_near {
        return None;
    }
    let name = attached.name.split('.').map(identifier).collect::<Vec<_>>().join(".");
    let (object, statement) = match (&attached.role, &attached.database) {
        (Some(role), Some(database)) => (
            format!("role {role} in database {database}"),
            format!("ALTER ROLE {role} IN DATABASE {database}"),
        ),
        (Some(role), None) => (format!("role {role}"), format!("ALTER ROLE {role}")),
        (None, Some(database)) => (format!("database {database}"), format!("ALTER DATABASE {database}")),
        (None, None) => ("all roles".into(), "ALTER ROLE ALL".into()),
    };
    Some(Finding {
        kind: "setting_attached",
        severity: if is_ours { Severity::Critical } else { Severity::Warning },
        object,
        what: format!("it has a value of its own for {}", attached.name),
        why: "Every new session begins with it, and every RESET returns to it: nobody is somebody.",
        sql: vec![format!("{statement} RESET {name}")],
    })
}

/// A value that comes from nowhere a catalogue knows: the server's files, its command line.
fn configured(chart: &Chart) -> impl Iterator<Item = Finding> {
    let is_attached =
        |name: &String| chart.settings.iter().any(|attached| attached.name.eq_ignore_ascii_case(name));
    let preset: Vec<_> = chart.preset.iter().filter(|name| !is_attached(name)).collect();
    preset.into_iter().map(|name| Finding {
        kind: "setting_configured",
        severity: Severity::Critical,
        object: format!("setting {name}"),
        what: "a new session has a value for it: from ALTER SYSTEM, or written into postgresql.conf".into(),
        why: "Every new session begins with it, and every RESET returns to it: nobody is somebody.",
        sql: vec![
            format!("ALTER SYSTEM RESET {}", name.split('.').map(identifier).collect::<Vec<_>>().join(".")),
            "SELECT pg_reload_conf()".into(),
        ],
    })
}

fn making(grant: &Grant) -> Finding {
    let is_temporary = grant.privilege == "TEMPORARY";
    Finding {
        kind: if is_temporary { "may_create_temporary" } else { "may_create" },
        severity: Severity::Warning,
        object: in_words(&grant.object),
        what: format!(
            "{} may create {} in it",
            grant.roles.join(", "),
            if is_temporary { "temporary tables" } else { "objects" }
        ),
        why: if is_temporary {
            "A temporary table shadows a real one for whoever has the server next, unless it is cleaned away."
        } else {
            "An object of one user's making can shadow a table or function that others use."
        },
        sql: grant
            .grantees
            .iter()
            .map(|grantee| format!("REVOKE {} ON {} FROM {grantee}", grant.privilege, grant.object))
            .collect(),
    }
}

/// `DATABASE shop`, as it is said in a sentence.
fn in_words(object: &str) -> String {
    object
        .split_once(' ')
        .map_or_else(|| object.to_owned(), |(word, name)| format!("{} {name}", word.to_lowercase()))
}

/// Policies that read the identity once for each row.
fn slow<'a>(
    chart: &'a Chart,
    verdicts: &'a [Verdict],
    readers: &'a Readers,
) -> impl Iterator<Item = Finding> {
    chart.policies.iter().enumerate().filter_map(move |(index, policy)| {
        if verdicts.iter().any(|verdict| verdict.policy == index && verdict.opens.is_some()) {
            return None;
        }
        let once = |expression: &Option<String>| readers.read_once(expression.as_deref()?);
        let clauses: Vec<_> = [(Clause::Using, once(&policy.using)), (Clause::Check, once(&policy.check))]
            .into_iter()
            .filter_map(|(clause, once)| Some(format!("{} ({})", keyword(clause), once?)))
            .collect();
        (!clauses.is_empty()).then(|| Finding {
            kind: "policy_reads_per_row",
            severity: Severity::Advice,
            object: format!("policy {} on {}", policy.name, policy.table),
            what: "it reads or casts the identity outside a sub-select".into(),
            why: "That is done for each row; in a sub-select, with its cast inside, once for a statement (three times as fast over 10,000 rows).",
            sql: vec![format!("ALTER POLICY {} ON {} {}", policy.name, policy.table, clauses.join(" "))],
        })
    })
}

/// A reader that policies use and that is not declared as what it is.
fn careless(function: &Function, policies: &[Policy], readers: &Readers) -> Option<Finding> {
    let alone = Readers { variables: Vec::new(), functions: vec![function.name.clone()] };
    let expressions = policies.iter().flat_map(|policy| [&policy.using, &policy.check]).flatten();
    let is_used =
        readers.functions.contains(&function.name) && expressions.into_iter().any(|text| alone.are_in(text));
    let is_volatile = function.volatility == Volatility::Volatile;
    if !is_used || function.volatility == Volatility::Immutable || (!is_volatile && function.is_parallel_safe)
    {
        return None;
    }
    let missing: Vec<_> = [("STABLE", is_volatile), ("PARALLEL SAFE", !function.is_parallel_safe)]
        .into_iter()
        .filter_map(|(word, is_missing)| is_missing.then_some(word))
        .collect();
    Some(Finding {
        kind: "reader_not_stable",
        severity: Severity::Advice,
        object: format!("function {}", function.signature),
        what: format!("policies read the identity by it, and it is not {}", missing.join(" and ")),
        why: "A VOLATILE function keeps policies from using an index, one that is not PARALLEL SAFE keeps queries to one process.",
        sql: vec![format!("ALTER FUNCTION {} {}", function.signature, missing.join(" "))],
    })
}

/// The first `server_version_num` that knows `security_invoker`.
const FIRST_WITH_INVOKER: u32 = 150_000;
