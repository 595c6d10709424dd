//! `pgusher doctor`: everything that lets a user through is found, and its own SQL ends it.
//!
//! Each finding is a test: a database without fault, one fault made, the finding, its SQL, no finding. The roles are the
//! test's own, because roles belong to the cluster and others run beside it.

use std::time::Duration;

use serde_json::Value;

use crate::harness::pgusher::Builder;
use crate::harness::port::Port;
use crate::harness::{DelayProxy, PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};
use crate::on_every_major;

const A: &str = "0a0a0a0a-0000-4000-8000-00000000000a";
const B: &str = "0b0b0b0b-0000-4000-8000-00000000000b";

/// A database whose policies keep users apart, and the role of its application.
struct Ward {
    postgres: Postgres,
    role: String,
}

impl Ward {
    async fn new(postgres: Postgres) -> Self {
        let ward = Self { role: format!("{}_role", postgres.database()), postgres };
        ward.sql(HEALTHY).await;
        ward
    }

    /// Runs SQL as superuser; ROLE, OTHER and DB stand for names of the test's own.
    async fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.postgres.sql(&self.named(sql)).await
    }

    fn named(&self, text: &str) -> String {
        let database = self.postgres.database();
        text.replace("ROLE", &self.role)
            .replace("OTHER", &format!("{database}_other"))
            .replace("DB", database)
    }

    fn builder(&self) -> Builder {
        let user = format!("{:?}", self.role);
        Pgusher::before(&self.postgres)
            .of_database("user", &user)
            .of_database("password", "\"secret\"")
            .identity()
            .pool_size(1)
    }

    async fn examine(&self) -> Examination {
        examine(self.builder(), &[]).await
    }

    /// One fault is made, found, and mended by the finding's own SQL; afterwards there is none of any kind.
    async fn mends(&self, fault: &str, kind: &str, object: &str, severity: &str) {
        let before = self.examine().await;
        assert_eq!((before.code, before.kinds().as_slice()), (0, &[][..]), "before: {}", before.said);
        self.sql(fault).await;

        let found = self.examine().await;

        let object = self.named(object);
        let finding =
            found.finding(kind, &object).unwrap_or_else(|| panic!("no {kind} of {object}: {}", found.said));
        assert_eq!((found.code, finding["severity"].as_str()), (1, Some(severity)), "{}", found.said);
        self.mend(finding).await;
        let mended = self.examine().await;
        assert_eq!(mended.finding(kind, &object), None, "still there: {}", mended.said);
        self.recover().await;
    }

    /// Runs the SQL of a finding, statement by statement, as an operator would.
    async fn mend(&self, finding: &Value) {
        let statements = finding["sql"].as_array().expect("SQL");
        assert!(!statements.is_empty(), "nothing mends {finding}");
        let mut superuser = Raw::login(&self.postgres.superuser()).await;
        for statement in statements {
            superuser.rows(statement.as_str().expect("a statement")).await;
        }
    }

    /// Mends what is found until nothing is.
    async fn recover(&self) {
        for _ in 0..4 {
            let found = self.examine().await;
            if found.code == 0 {
                return;
            }
            for finding in found.findings() {
                self.mend(finding).await;
            }
        }
        panic!("it does not recover: {}", self.examine().await.said);
    }
}

/// What `doctor` said.
struct Examination {
    code: i32,
    said: String,
    json: Value,
}

impl Examination {
    fn findings(&self) -> impl Iterator<Item = &Value> {
        self.json["databases"]
            .as_array()
            .expect("databases")
            .iter()
            .flat_map(|database| database["findings"].as_array().expect("findings"))
    }

    fn kinds(&self) -> Vec<&str> {
        self.findings().map(|finding| finding["kind"].as_str().expect("a kind")).collect()
    }

    fn finding(&self, kind: &str, object: &str) -> Option<&Value> {
        self.findings().find(|finding| finding["kind"] == kind && finding["object"] == object)
    }
}

async fn run(builder: Builder, arguments: &[&str]) -> (i32, String) {
    let builder = arguments.iter().fold(builder.arg("doctor"), |builder, argument| builder.arg(argument));
    let mut process = builder.launch();
    let code = process.end().await.code().expect("an exit code");
    (code, process.log())
}

async fn examine(builder: Builder, arguments: &[&str]) -> Examination {
    let (code, said) = run(builder, &[&["--json"], arguments].concat()).await;
    let json = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    Examination { code, said, json }
}

on_every_major! {
    async fn a_superuser_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter role ROLE superuser bypassrls", "role_is_superuser", "role ROLE", "critical").await;
    }

    async fn a_role_that_bypasses_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter role ROLE bypassrls", "role_bypasses_rls", "role ROLE", "critical").await;
    }

    async fn a_role_that_may_become_one_that_bypasses_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        ward.sql("create role OTHER_between nologin noinherit").await;
        let fault = "alter role OTHER bypassrls; grant OTHER to OTHER_between; grant OTHER_between to ROLE";

        ward.mends(fault, "role_may_become_bypassing", "role ROLE", "critical").await;
    }

    async fn a_role_that_owns_a_table_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        ward.sql("create table app.orders (id serial primary key, owner uuid); alter table app.orders enable row level security;
                  alter table app.orders force row level security;").await;

        ward.mends("alter table app.orders owner to ROLE", "role_owns_table", "table app.orders", "warning").await;

        let mut client = Raw::login(&ward.postgres.target().user(&ward.role, "secret")).await;
        client.rows("select nextval('app.orders_id_seq')").await;
    }

    async fn an_owner_without_force_sees_all_and_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = "alter table app.docs owner to ROLE; alter table app.docs no force row level security";

        ward.mends(fault, "role_owns_table", "table app.docs", "critical").await;
    }

    async fn a_role_that_may_become_an_owner_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter table app.docs owner to OTHER; grant OTHER to ROLE", "role_owns_table", "table app.docs", "warning").await;
    }

    async fn policies_that_are_not_forced_are_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter table app.docs no force row level security", "rls_not_forced", "table app.docs", "warning").await;
    }

    async fn policies_that_are_not_enabled_are_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter table app.docs disable row level security", "rls_disabled", "table app.docs", "critical").await;
    }

    async fn an_immutable_reader_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter function app.uid() immutable", "immutable_reader", "function app.uid()", "critical").await;
    }

    async fn an_immutable_function_that_calls_a_reader_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = "create function app.\"Is me\"(who uuid) returns boolean immutable parallel safe
                     begin atomic select who = app.uid(); end";

        ward.mends(fault, "immutable_reader", "function app.\"Is me\"(uuid)", "critical").await;
    }

    /// 35.
    async fn an_immutable_reader_gives_one_user_the_rows_of_another_until_it_is_mended(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        ward.sql("alter function app.uid() immutable").await;
        let pgusher = ward.builder().start().await;
        let (mut a, mut b) = (pgusher.client_for(A).await, pgusher.client_for(B).await);
        for client in [&mut a, &mut b] {
            client.ask([say::parse("mine", "select owner::text from app.docs"), say::sync()]).await;
        }
        assert_eq!(owners(&mut a).await, [A]);
        assert_eq!(owners(&mut b).await, [A], "the plan of A is not shared any more: this test proves nothing");

        let found = ward.examine().await;
        ward.mend(found.finding("immutable_reader", "function app.uid()").expect("a finding")).await;

        assert_eq!(owners(&mut a).await, [A]);
        assert_eq!(owners(&mut b).await, [B]);
    }

    async fn a_policy_that_opens_on_null_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = "alter policy own on app.docs using (current_setting('app.current_user_id', true) is null or owner = (select app.uid()))";

        ward.mends(fault, "policy_opens_for_nobody", "policy own on app.docs", "critical").await;
    }

    async fn a_policy_that_opens_on_the_empty_value_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        for fault in [
            "alter policy own on app.docs using (current_setting('app.current_user_id', true) = '' or owner = (select app.uid()))",
            "alter policy own on app.docs using (owner = coalesce((select app.uid()), owner))",
            "alter policy own on app.docs using ((select app.uid()) is null or owner = (select app.uid()))",
            "alter policy own on app.docs using (owner is not distinct from (select app.uid()))",
            "alter policy own on app.docs with check (owner = (select app.uid()) or (select app.uid()) is null)",
        ] {
            ward.mends(fault, "policy_opens_for_nobody", "policy own on app.docs", "critical").await;
        }
    }

    async fn a_policy_for_rows_that_all_may_see_is_no_finding(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        for sound in [
            "alter policy own on app.docs using (is_public or owner = (select app.uid()))",
            "alter policy own on app.docs using (owner is null or owner = (select app.uid()))",
            "alter policy own on app.docs using (owner = (select nullif(current_setting('app.current_user_id'), '')::uuid))",
            "alter policy own on app.docs using (exists (select from app.members m where m.doc = docs.id and m.who = (select app.uid())))",
            "alter policy own on app.docs using (true)",
        ] {
            ward.sql(sound).await;

            let found = ward.examine().await;

            assert_eq!((found.code, found.kinds().as_slice()), (0, &[][..]), "{sound}: {}", found.said);
        }
    }

    async fn a_cast_outside_the_sub_select_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        for fault in [
            "alter policy own on app.docs using (owner = current_setting('app.current_user_id')::uuid)",
            "alter policy own on app.docs using (owner = (select current_setting('app.current_user_id'))::uuid)",
            "alter policy own on app.docs using (owner = app.uid()) with check (app.uid() = owner)",
            "alter policy own on app.docs using (exists (select from app.members m where m.doc = docs.id and m.who = app.uid()))",
        ] {
            ward.mends(fault, "policy_reads_per_row", "policy own on app.docs", "advice").await;
        }
    }

    async fn a_reader_that_is_not_stable_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter function app.uid() volatile parallel unsafe", "reader_not_stable", "function app.uid()", "advice").await;
    }

    async fn a_view_with_its_owners_rights_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = "create view app.\"All docs\" as select * from app.docs; create view app.again as select * from app.\"All docs\";
                     grant select on app.\"All docs\", app.again to ROLE";

        ward.mends(fault, "view_without_security_invoker", "view app.\"All docs\"", "critical").await;

        let mut client = Raw::login(&ward.postgres.target().user(&ward.role, "secret").with("app.current_user_id", A)).await;
        for view in ["app.\"All docs\"", "app.again"] {
            assert_eq!(client.value(&format!("select string_agg(owner::text, ',') from {view}")).await, A, "{view}");
        }
    }

    async fn a_materialized_view_of_everybodys_rows_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = "create materialized view app.copy as select * from app.docs; grant select on app.copy to public";

        ward.mends(fault, "materialized_view", "materialized view app.copy", "critical").await;
        ward.mends("alter materialized view app.copy owner to ROLE", "materialized_view", "materialized view app.copy", "critical").await;
    }

    async fn the_right_to_make_temporary_tables_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("grant temporary on database DB to public, ROLE", "may_create_temporary", "database DB", "warning").await;
    }

    async fn the_right_to_make_objects_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("grant create on schema public to public", "may_create", "schema public", "warning").await;
        ward.mends("grant OTHER to ROLE; grant create on schema app to OTHER", "may_create", "schema app", "warning").await;
        ward.mends("grant create on database DB to ROLE", "may_create", "database DB", "warning").await;
    }

    async fn the_owner_of_a_database_may_make_objects_and_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        ward.mends("alter database DB owner to ROLE", "may_create_temporary", "database DB", "warning").await;
    }

    async fn a_setting_attached_to_a_role_or_database_is_found(postgres: Postgres) {
        let ward = Ward::new(postgres).await;

        for (fault, object) in [
            ("alter role ROLE set app.current_user_id = '0a0a0a0a-0000-4000-8000-00000000000a'", "role ROLE"),
            ("alter role ROLE in database DB set app.current_user_id = ''", "role ROLE in database DB"),
            ("alter database DB set app.current_user_id = '0a0a0a0a-0000-4000-8000-00000000000a'", "database DB"),
        ] {
            ward.mends(fault, "setting_attached", object, "critical").await;
        }
        ward.mends("alter database DB set app.tenant_id = '1'", "setting_attached", "database DB", "warning").await;
    }

    async fn names_that_need_quotes_are_quoted(postgres: Postgres) {
        let ward = Ward::new(postgres).await;
        let fault = r#"create schema "my App"; grant usage on schema "my App" to public; create table "my App"."it's; ""mine""" ("Owner's id" uuid);
            alter table "my App"."it's; ""mine""" enable row level security;
            create policy "o'; drop table app.docs" on "my App"."it's; ""mine"""
                using (current_setting('app.current_user_id', true) = '' or "Owner's id" = app.uid());
            alter table "my App"."it's; ""mine""" owner to ROLE"#;
        ward.sql(fault).await;

        let found = ward.examine().await;

        let mut kinds = found.kinds();
        kinds.sort_unstable();
        assert_eq!(kinds, ["policy_opens_for_nobody", "rls_not_forced", "role_owns_table"], "{}", found.said);
        ward.recover().await;
    }

    /// The product's schema, as `pgusher demo` loads it: no fault but that its policies cast for each row.
    async fn the_schema_of_the_demo_is_sound_but_for_its_speed(postgres: Postgres) {
        postgres.load_schema().await;
        let builder = || {
            Pgusher::before(&postgres).of_database("user", "\"saas_user\"").of_database("password", "\"saas_user\"").identity()
        };

        let found = examine(builder(), &[]).await;
        let (faults, faultless) = run(builder(), &["--level", "warning"]).await;

        assert_eq!((found.code, found.kinds()), (1, vec!["policy_reads_per_row"; 3]), "{}", found.said);
        let words = format!("{}: nothing found (PostgreSQL {}", postgres.database(), postgres.major());
        assert!(faults == 0 && faultless.starts_with(&words), "{faults}: {faultless}");
        let sql = found.findings().flat_map(|finding| finding["sql"].as_array().expect("SQL"));
        for statement in sql {
            postgres.sql(statement.as_str().expect("a statement")).await;
        }
        assert_eq!(examine(builder(), &[]).await.code, 0);
        let mut nobody = Raw::login(&postgres.target().user("saas_user", "saas_user").with("app.current_user_id", "")).await;
        assert_eq!(notation(&nobody.query("select * from users.users").await), "T E(22P02) Z(I)");
    }
}

#[tokio::test]
async fn a_setting_of_the_servers_own_files_is_found() {
    for major in [14, 18] {
        let postgres = Postgres::private(major, &[("app.current_user_id", A)], "").await;
        let ward = Ward::new(postgres).await;

        let found = ward.examine().await;

        assert!(
            found.finding("setting_configured", "setting app.current_user_id").is_some(),
            "{}",
            found.said
        );
    }
}

/// The reader of the login tier is one like any other.
#[tokio::test]
async fn an_immutable_reader_of_the_login_tier_is_found() {
    let ward = Ward::new(Postgres::shared(17).await).await;
    ward.sql(include_str!("../../deploy/sql/identity.sql")).await;
    let key = "a key that nobody knows but the pooler and the database";
    let builder = || ward.builder().text("identity", "form", "login").text("identity", "login_key", key);
    let sound = examine(builder(), &[]).await;
    assert_eq!((sound.code, sound.kinds().as_slice()), (0, &[][..]), "{}", sound.said);
    ward.sql("alter function app.uid() immutable").await;

    let found = examine(builder(), &[]).await;

    ward.mend(found.finding("immutable_reader", "function app.uid()").expect("a finding")).await;
    assert_eq!(examine(builder(), &[]).await.code, 0);
}

/// Policies that read the login alone are tried out with logins: what opens for nobody is told from what is everybody's.
#[tokio::test]
async fn a_policy_that_opens_for_whom_nobody_logged_in_is_found() {
    let ward = Ward::new(Postgres::shared(18).await).await;
    ward.sql(include_str!("../../deploy/sql/identity.sql")).await;
    let key = "a key that nobody knows but the pooler and the database";
    let builder = || ward.builder().text("identity", "form", "login").text("identity", "login_key", key);
    let deaf = examine(builder(), &[]).await;
    ward.sql(&format!("select ident.add_key('{key}')")).await;
    ward.sql("alter policy own on app.docs using (is_public or (select app.uid()) is not null and owner = (select app.uid()))").await;
    let sound = examine(builder(), &[]).await;
    ward.sql("alter policy own on app.docs using (is_public or (select app.uid()) is null or owner = (select app.uid()))").await;

    let found = examine(builder(), &[]).await;

    assert!(
        deaf.said.contains("ident.login refuses: ERROR: identity refused: the token was signed with a key"),
        "{}",
        deaf.said
    );
    assert_eq!((sound.code, sound.kinds().as_slice()), (0, &[][..]), "{}", sound.said);
    assert!(!sound.said.contains("ident.login refuses"), "{}", sound.said);
    assert_eq!(found.kinds(), ["policy_opens_for_nobody"], "{}", found.said);
    ward.mend(found.findings().next().expect("a finding")).await;
    assert_eq!(examine(builder(), &[]).await.code, 0);
}

#[tokio::test]
async fn the_superuser_of_initdb_is_told_to_stay_away() {
    let ward = Ward::new(Postgres::shared(17).await).await;
    let builder = Pgusher::before(&ward.postgres).of_database("user", "\"postgres\"").identity();

    let found = examine(builder, &[]).await;

    let finding = found.finding("role_is_superuser", "role postgres").expect("a finding");
    assert_eq!(finding["sql"].as_array().map(Vec::len), Some(0), "{}", found.said);
}

#[tokio::test]
async fn roles_that_run_migrations_may_own() {
    let ward = Ward::new(Postgres::shared(16).await).await;
    ward.sql("alter table app.docs owner to ROLE").await;
    let exempt = format!("[{:?}]", ward.role);

    let found = examine(ward.builder().set("identity", "exempt", &exempt), &[]).await;

    assert_eq!((found.code, found.kinds().as_slice()), (0, &[][..]), "{}", found.said);
}

#[tokio::test]
async fn a_database_without_a_user_is_examined_for_every_user_that_may_log_in() {
    let ward = Ward::new(Postgres::shared(15).await).await;
    ward.sql("alter role OTHER login bypassrls").await;
    let other = ward.named("OTHER");
    let mut builder = Pgusher::before(&ward.postgres).identity();
    for user in ["app", "other", "trusted", "hashed", "cleartext", "postgres"] {
        builder = builder.unset(&format!("users.{user:?}"), "password");
    }
    let builder = builder.user(&ward.role, "secret").user(&other, VERIFIER);

    let found = examine(builder, &[]).await;

    assert_eq!(found.kinds(), ["role_bypasses_rls"], "{}", found.said);
    assert!(found.finding("role_bypasses_rls", &format!("role {other}")).is_some(), "{}", found.said);
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_hides_no_findings_of_another() {
    let ward = Ward::new(Postgres::shared(18).await).await;
    ward.sql("alter role ROLE bypassrls").await;
    let nobody = Port::reserve();
    let gone = format!(
        "[databases.gone]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"x\"\npassword = \"hunter2\"\n",
        nobody.number
    );

    let found = examine(ward.builder().append(&gone), &[]).await;

    assert_eq!((found.code, found.kinds()), (2, vec!["role_bypasses_rls"]), "{}", found.said);
    assert!(found.said.contains("as x: could not connect to server: Connection refused"), "{}", found.said);
    assert!(!found.said.contains("hunter2"));
    assert_eq!(examine(ward.builder().append(&gone), &[ward.postgres.database()]).await.code, 1);
    assert_eq!(examine(ward.builder(), &["nonsense"]).await.code, 2);
}

#[tokio::test]
async fn it_waits_for_a_server_that_is_not_there_yet() {
    let ward = Ward::new(Postgres::shared(17).await).await;
    let network = DelayProxy::before(ward.postgres.address(), Duration::ZERO).await;
    network.refuse(true);
    let builder = ward.builder().via(network.address()).set("log", "level", "\"off\"");
    let mut doctor = builder.arg("doctor").arg("--wait").arg("60s").launch();
    eventually("it has tried", PATIENCE, async || doctor.log().contains("waiting").then_some(())).await;

    network.refuse(false);

    assert_eq!(doctor.end().await.code(), Some(0), "{}", doctor.log());
}

#[tokio::test]
async fn words_it_does_not_know_are_wrong_usage() {
    let postgres = Postgres::shared(17).await;

    for arguments in [["--level", "bad"], ["--wait", "soon"]] {
        let (code, said) = run(Pgusher::before(&postgres), &arguments).await;
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(arguments[0]), "{said}");
    }
}

#[tokio::test]
async fn what_it_does_leaves_no_trace() {
    let ward = Ward::new(Postgres::shared(17).await).await;
    ward.sql("create function app.count_me() returns boolean language plpgsql as $$ begin insert into app.members values (1, app.uid()); return true; end $$;
              grant execute on function app.count_me() to public; grant insert on app.members to ROLE;
              alter policy own on app.docs using (app.count_me() and owner = (select app.uid()))").await;

    let found = ward.examine().await;

    assert_eq!(ward.postgres.value("select count(*) from app.members").await, "0");
    assert!(found.said.contains("policy own on app.docs could not be tried out: ERROR: cannot execute INSERT in a read-only transaction (25006)"), "{}", found.said);
}

/// Who the rows belong to that a prepared statement gives.
async fn owners(client: &mut Raw) -> Vec<String> {
    client.send([say::bind("", "mine", &[]), say::execute("", 0), say::sync()]).await;
    let answer = client.read_until_ready().await;
    let rows = answer.iter().filter(|frame| frame.is(b'D'));
    rows.map(|frame| frame.row().into_iter().flatten().collect()).collect()
}

/// No fault at all.
const HEALTHY: &str = "
create role ROLE login password 'secret';
create role OTHER nologin;
alter database DB owner to postgres;
revoke all on database DB from public;
grant connect on database DB to public;
revoke create on schema public from public;
create schema app;
create function app.uid() returns uuid language sql stable parallel safe
    as $$ select nullif(current_setting('app.current_user_id', true), '')::uuid $$;
create table app.docs (id int, owner uuid, is_public boolean not null default false);
create table app.members (doc int, who uuid);
insert into app.docs values (1, '0a0a0a0a-0000-4000-8000-00000000000a'), (2, '0b0b0b0b-0000-4000-8000-00000000000b');
alter table app.docs enable row level security;
alter table app.docs force row level security;
create policy own on app.docs using (owner = (select app.uid()));
grant usage on schema app to public;
grant select, insert, update, delete on app.docs to ROLE;
grant select on app.members to ROLE;
";

/// Of some password.
const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
