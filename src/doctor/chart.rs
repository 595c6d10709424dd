//! What the catalogues say about roles, tables, policies, functions, views, grants and settings.
//!
//! # Promises
//! - Names are as SQL would write them: qualified, and quoted where need be.
//! - What belongs to PostgreSQL or to an extension is left out.

use std::collections::BTreeMap;

use crate::doctor::ask::{Fault, Row, Session, array};

/// One database, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Chart {
    /// `server_version_num`.
    pub(super) number: u32,
    /// `server_version`.
    pub(super) version: String,
    /// The database's own name.
    pub(super) database: String,
    /// The identity variables that a new session has a value for.
    pub(super) preset: Vec<String>,
    /// The roles the pools log in as.
    pub(super) roles: Vec<Role>,
    /// Roles that bypass row-level security, and which of ours may become them.
    pub(super) escapes: Vec<Escape>,
    /// Tables with policies or row-level security.
    pub(super) tables: Vec<Table>,
    /// Their owners, where one of our roles is or may become one.
    pub(super) ownerships: Vec<Ownership>,
    /// Their policies.
    pub(super) policies: Vec<Policy>,
    /// Functions of the application.
    pub(super) functions: Vec<Function>,
    /// Views over these tables.
    pub(super) views: Vec<View>,
    /// What lets our roles make objects.
    pub(super) grants: Vec<Grant>,
    /// Settings attached to our roles and databases.
    pub(super) settings: Vec<Attached>,
}

/// A role the pools log in as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) is_superuser: bool,
    pub(super) bypasses: bool,
    /// Whether it is the one that initdb made, which cannot lose its superuser attribute.
    pub(super) is_bootstrap: bool,
}

/// A way for a role to become one that bypasses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Escape {
    pub(super) role: String,
    pub(super) target: String,
    /// The memberships to end it with.
    pub(super) through: Vec<String>,
}

/// A table with policies or row-level security.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Table {
    pub(super) oid: String,
    pub(super) name: String,
    /// Its name without a schema, unquoted: what expressions call it.
    pub(super) bare: String,
    pub(super) is_enabled: bool,
    pub(super) is_forced: bool,
    pub(super) has_policies: bool,
    /// Name and kind of each column.
    pub(super) columns: Vec<(String, Sample)>,
}

/// A value that a column's type has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sample {
    Array,
    Boolean,
    Date,
    Json,
    Number,
    Text,
    Unknown,
    Uuid,
}

/// A role of ours that is, or may become, a table's owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ownership {
    pub(super) role: String,
    pub(super) table: String,
    pub(super) owner: String,
    /// The memberships to end it with; none if the role is the owner itself.
    pub(super) through: Vec<String>,
    /// Sequences that go with the table.
    pub(super) sequences: Vec<String>,
}

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) table: String,
    pub(super) using: Option<String>,
    pub(super) check: Option<String>,
}

/// A function of the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Function {
    /// `schema.name`.
    pub(super) name: String,
    /// Its name without a schema, unquoted.
    pub(super) bare: String,
    /// With its arguments, as ALTER FUNCTION wants it.
    pub(super) signature: String,
    pub(super) volatility: Volatility,
    pub(super) is_parallel_safe: bool,
    pub(super) is_trigger: bool,
    pub(super) body: String,
}

/// As `provolatile`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// A view that reads one of the tables by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) is_materialized: bool,
    pub(super) is_invoker: bool,
    /// Whether no policy holds for its owner.
    pub(super) owner_bypasses: bool,
    /// Our roles that may read it.
    pub(super) readers: Vec<String>,
    /// Who has been given the right to.
    pub(super) grantees: Vec<String>,
}

/// What lets some of our roles make objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Grant {
    /// `DATABASE name` or `SCHEMA name`.
    pub(super) object: String,
    /// `TEMPORARY` or `CREATE`.
    pub(super) privilege: String,
    pub(super) roles: Vec<String>,
    pub(super) grantees: Vec<String>,
}

/// A setting attached to a role, a database or both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attached {
    pub(super) database: Option<String>,
    pub(super) role: Option<String>,
    pub(super) name: String,
}

impl Chart {
    /// Reads everything.
    pub(super) async fn read(
        session: &mut Session,
        roles: &[&str],
        variables: &[String],
    ) -> Result<Self, Fault> {
        let mut chart = Self::default();
        let preset: String = variables
            .iter()
            .map(|name| format!(",current_setting({},true)", crate::doctor::ask::literal(name)))
            .collect();
        let server = format!(
            "SELECT current_setting('server_version_num'),current_setting('server_version'),current_database(){preset}"
        );
        if let Some(row) = session.ask(&server).await?.first() {
            chart.number = text(row, 0).parse().unwrap_or(0);
            chart.version = text(row, 1).split(' ').next().unwrap_or_default().to_owned();
            chart.database = text(row, 2);
            let has_value = |index: usize| {
                row.get(index + 3).is_some_and(|value| value.as_ref().is_some_and(|value| !value.is_empty()))
            };
            let named = variables.iter().enumerate().filter(|(index, _)| has_value(*index));
            chart.preset = named.map(|(_, name)| name.clone()).collect();
        }
        let roles = array(roles.iter().copied());
        let may_become = if chart.number >= 160_000 { "SET" } else { "MEMBER" };
        let question = |sql: &str| sql.replace("$ROLES", &roles).replace("$SET", may_become);
        chart.roles = session.ask(&question(ROLES)).await?.iter().map(role).collect();
        chart.escapes = session.ask(&question(ESCAPES)).await?.iter().map(escape).collect();
        chart.tables = session.ask(&question(TABLES)).await?.iter().map(table).collect();
        columns(&session.ask(&question(COLUMNS)).await?, &mut chart.tables);
        chart.ownerships = session.ask(&question(OWNERSHIPS)).await?.iter().map(ownership).collect();
        chart.policies = session.ask(&question(POLICIES)).await?.iter().map(policy).collect();
        chart.functions = session.ask(&question(FUNCTIONS)).await?.iter().map(function).collect();
        chart.views = session.ask(&question(VIEWS)).await?.iter().map(view).collect();
        chart.grants = session.ask(&question(GRANTS)).await?.iter().map(grant).collect();
        chart.settings = session.ask(&question(SETTINGS)).await?.iter().map(attached).collect();
        Ok(chart)
    }
}

fn role(row: &Row) -> Role {
    Role {
        name: text(row, 0),
        is_superuser: is_true(row, 1),
        bypasses: is_true(row, 2),
        is_bootstrap: is_true(row, 3),
    }
}

fn escape(row: &Row) -> Escape {
    Escape { role: text(row, 0), target: text(row, 1), through: list(row, 2) }
}

fn table(row: &Row) -> Table {
    Table {
        oid: text(row, 0),
        name: text(row, 1),
        bare: text(row, 2),
        is_enabled: is_true(row, 3),
        is_forced: is_true(row, 4),
        has_policies: is_true(row, 5),
        columns: Vec::new(),
    }
}

fn columns(rows: &[Row], tables: &mut [Table]) {
    let mut of_tables: BTreeMap<String, Vec<(String, Sample)>> = BTreeMap::new();
    for row in rows {
        let sample = match (text(row, 2).as_str(), text(row, 3).as_str()) {
            (_, "uuid") => Sample::Uuid,
            (_, "json" | "jsonb") => Sample::Json,
            ("A", _) => Sample::Array,
            ("B", _) => Sample::Boolean,
            ("D", _) => Sample::Date,
            ("N", _) => Sample::Number,
            ("S", _) => Sample::Text,
            _ => Sample::Unknown,
        };
        of_tables.entry(text(row, 0)).or_default().push((text(row, 1), sample));
    }
    for table in tables {
        table.columns = of_tables.remove(&table.oid).unwrap_or_default();
    }
}

fn ownership(row: &Row) -> Ownership {
    Ownership {
        role: text(row, 0),
        table: text(row, 1),
        owner: text(row, 2),
        through: list(row, 3),
        sequences: list(row, 4),
    }
}

fn policy(row: &Row) -> Policy {
    let expression = |at: usize| row.get(at).cloned().flatten();
    Policy { name: text(row, 0), table: text(row, 1), using: expression(2), check: expression(3) }
}

fn function(row: &Row) -> Function {
    Function {
        name: text(row, 0),
        bare: text(row, 1),
        signature: text(row, 2),
        volatility: match text(row, 3).as_str() {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        is_parallel_safe: text(row, 4) == "s",
        is_trigger: is_true(row, 5),
        body: text(row, 6),
    }
}

fn view(row: &Row) -> View {
    View {
        name: text(row, 0),
        is_materialized: is_true(row, 1),
        is_invoker: is_true(row, 2),
        owner_bypasses: is_true(row, 3),
        readers: list(row, 4),
        grantees: list(row, 5),
    }
}

fn grant(row: &Row) -> Grant {
    Grant { object: text(row, 0), privilege: text(row, 1), roles: list(row, 2), grantees: list(row, 3) }
}

fn attached(row: &Row) -> Attached {
    let name = |at: usize| row.get(at).cloned().flatten();
    Attached { database: name(0), role: name(1), name: text(row, 2) }
}

fn text(row: &Row, at: usize) -> String {
    row.get(at).cloned().flatten().unwrap_or_default()
}

fn is_true(row: &Row, at: usize) -> bool {
    text(row, at) == "t"
}

/// Lists come as lines: `string_agg(…, E'\n')`.
fn list(row: &Row, at: usize) -> Vec<String> {
    text(row, at).lines().map(str::to_owned).collect()
}

const ROLES: &str = "SELECT quote_ident(rolname), rolsuper, rolbypassrls, oid = 10 FROM pg_roles WHERE rolname = ANY ($ROLES) ORDER BY 1";

/// SUPERUSER and BYPASSRLS are never inherited; SET ROLE gets them.
const ESCAPES: &str = r"
SELECT quote_ident(r.rolname), quote_ident(b.rolname),
       (SELECT string_agg(quote_ident(m.rolname), E'\n' ORDER BY m.rolname)
        FROM pg_auth_members e JOIN pg_roles m ON m.oid = e.roleid
        WHERE e.member = r.oid AND pg_has_role(e.roleid, b.oid, '$SET'))
FROM pg_roles r JOIN pg_roles b ON b.oid <> r.oid AND (b.rolsuper OR b.rolbypassrls)
WHERE r.rolname = ANY ($ROLES) AND NOT r.rolsuper AND pg_has_role(r.oid, b.oid, '$SET') ORDER BY 1, 2";

/// The tables that all of the following are about.
const TABLES: &str = r"
SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relname, c.relrowsecurity, c.relforcerowsecurity,
       EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND (c.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2";

const COLUMNS: &str = r"
SELECT a.attrelid, a.attname, t.typcategory, CASE WHEN t.typtype = 'd' THEN t.typbasetype::regtype::text ELSE t.typname END
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND (c.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)) ORDER BY 1, a.attnum";

const OWNERSHIPS: &str = r"
SELECT quote_ident(r.rolname), format('%I.%I', n.nspname, c.relname), quote_ident(o.rolname),
       (SELECT string_agg(quote_ident(m.rolname), E'\n' ORDER BY m.rolname)
        FROM pg_auth_members e JOIN pg_roles m ON m.oid = e.roleid
        WHERE r.oid <> o.oid AND e.member = r.oid AND pg_has_role(e.roleid, o.oid, 'MEMBER')),
       (SELECT string_agg(format('%I.%I', sn.nspname, s.relname), E'\n' ORDER BY s.relname)
        FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype = 'a')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
JOIN pg_roles r ON pg_has_role(r.oid, c.relowner, 'MEMBER')
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND (c.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND r.rolname = ANY ($ROLES) AND NOT r.rolsuper ORDER BY 2, 1";

const POLICIES: &str = r"
SELECT quote_ident(p.polname), format('%I.%I', n.nspname, c.relname),
       pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2, 1";

const FUNCTIONS: &str = r"
SELECT format('%I.%I', n.nspname, p.proname), p.proname, p.oid::regprocedure, p.provolatile, p.proparallel,
       p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype), coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind = 'f' AND l.lanname NOT IN ('c', 'internal')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY 3";

/// Those that read a table by themselves: a view over a view runs as the inner one says.
const VIEWS: &str = r"
SELECT format('%I.%I', n.nspname, v.relname), v.relkind = 'm',
       EXISTS (SELECT FROM pg_options_to_table(v.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean),
       bool_or(o.rolsuper OR o.rolbypassrls OR (pg_has_role(o.oid, t.relowner, 'USAGE') AND NOT t.relforcerowsecurity)),
       (SELECT string_agg(quote_ident(r.rolname), E'\n' ORDER BY r.rolname) FROM pg_roles r
        WHERE r.rolname = ANY ($ROLES) AND has_any_column_privilege(r.oid, v.oid, 'SELECT')),
       (SELECT string_agg(DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END, E'\n')
        FROM aclexplode(v.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
        WHERE a.privilege_type = 'SELECT' AND a.grantee <> v.relowner AND (a.grantee = 0 OR EXISTS (SELECT FROM pg_roles r
              WHERE r.rolname = ANY ($ROLES) AND NOT r.rolsuper AND pg_has_role(r.oid, a.grantee, 'USAGE'))))
FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace JOIN pg_roles o ON o.oid = v.relowner
JOIN pg_rewrite w ON w.ev_class = v.oid
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid
JOIN pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p')
 AND (t.relrowsecurity OR EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t.oid))
WHERE v.relkind IN ('v', 'm')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = v.oid AND d.deptype = 'e')
GROUP BY v.oid, n.nspname, v.relname, v.relkind, v.reloptions, v.relacl, v.relowner ORDER BY 1";

const GRANTS: &str = r"
WITH privileges AS (
    SELECT 'DATABASE ' || quote_ident(d.datname) AS object, a.privilege_type, a.grantee
    FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    WHERE d.datname = current_database() AND a.privilege_type IN ('TEMPORARY', 'CREATE')
    UNION ALL
    SELECT 'SCHEMA ' || quote_ident(n.nspname), a.privilege_type, a.grantee
    FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
    WHERE a.privilege_type = 'CREATE' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
)
SELECT g.object, g.privilege_type, string_agg(DISTINCT quote_ident(r.rolname), E'\n'),
       string_agg(DISTINCT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(o.rolname) END, E'\n')
FROM privileges g JOIN pg_roles r ON g.grantee = 0 OR pg_has_role(r.oid, g.grantee, 'USAGE')
LEFT JOIN pg_roles o ON o.oid = g.grantee
WHERE r.rolname = ANY ($ROLES) AND NOT r.rolsuper
GROUP BY 1, 2 ORDER BY 1, 2 DESC";

const SETTINGS: &str = r"
SELECT quote_ident(d.datname), quote_ident(r.rolname), split_part(c.setting, '=', 1)
FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS c(setting)
LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE (s.setdatabase = 0 OR d.datname = current_database()) AND (s.setrole = 0 OR r.rolname = ANY ($ROLES)) ORDER BY 1 NULLS FIRST, 2 NULLS FIRST, 3";
