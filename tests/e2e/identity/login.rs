//! The login tier: who the user is, where the application's own SQL cannot change it. PostgreSQL 15 and later.

use std::time::{SystemTime, UNIX_EPOCH};

use pgusher::auth::{Login, LoginKey};

use super::stage::{Form, KEY, Setting, Transport};
use super::{A, B, act, first_column, is};
use crate::harness::pgusher::Builder;
use crate::harness::{Pgusher, Postgres, Raw, notation, say};

/// The identity that policies of the tier see.
const UID: &str = "select app.uid()::text";

/// Makes of one scenario a test for each major that has the tier.
macro_rules! tier {
    ($( $(#[$about:meta])* async fn $name:ident($setting:ident: Setting) $scenario:block )+) => { $(
        $(#[$about])*
        mod $name {
            use super::*;

            async fn scenario($setting: Setting) $scenario

            async fn on(major: u16) {
                let setting = Setting::new(Postgres::shared(major).await, Transport::Tcp, Form::Login).await;
                Box::pin(scenario(setting)).await;
            }

            #[tokio::test]
            async fn on_15() { on(15).await }
            #[tokio::test]
            async fn on_16() { on(16).await }
            #[tokio::test]
            async fn on_17() { on(17).await }
            #[tokio::test]
            async fn on_18() { on(18).await }
        }
    )+ };
}

tier! {
    /// 57, as one who knows the key and who is on the very server: each wrong token for one reason.
    async fn a_token_that_is_not_for_this_moment_is_refused(setting: Setting) {
        let mut client = Raw::login(&setting.postgres.target()).await;
        let process: u32 = client.server_pid().await.parse().expect("a process");
        let good = Login { identity: A.as_bytes(), is_first: true, now: now(), process, sequence: 5 };
        let first = token(KEY, good);
        for (wrong, reason) in [
            (token("another key, that nobody has put into the database", good), "not in ident.keys"),
            (token(KEY, Login { process: process + 1, ..good }), "another server process"),
            (token(KEY, Login { now: now() - 100, ..good }), "expired"),
            (token(KEY, Login { is_first: false, ..good }), "not the first"),
            (first.replace(&hex(A), &hex(B)), "signature"),
            (first.replacen(".5.", ".6.", 1), "signature"),
            (format!("{first}0"), "signature"),
            (first[..first.len() - 1].to_owned(), "signature"),
            (first.rsplit_once('.').unwrap().0.to_owned(), "not understood"),
            (format!("{first}."), "not understood"),
            (String::new(), "not understood"),
            ("1.......".to_owned(), "not in ident.keys"),
        ] {
            refused(&mut client, &wrong, reason).await;
            assert_eq!(client.value(UID).await, "", "{reason}");
        }

        client.rows(&format!("select ident.login('{first}')")).await;
        assert_eq!(client.value(UID).await, A);

        refused(&mut client, &first, "used").await;
        refused(&mut client, &token(KEY, Login { sequence: 9, ..good }), "used").await;
        let second = token(KEY, Login { identity: B.as_bytes(), is_first: false, sequence: 6, ..good });
        client.rows(&format!("select ident.login('{second}')")).await;
        refused(&mut client, &second, "used").await;
        refused(&mut client, &token(KEY, Login { is_first: false, ..good }), "used").await;
        assert_eq!(client.value(UID).await, B);
        client.rows("reset all").await;
        refused(&mut client, &second, "not the first").await;
        assert_eq!(client.value(UID).await, "");
    }

    /// 58: whatever the application's role says, it is nobody or itself.
    async fn no_sql_of_the_application_makes_it_another(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut b, B).await;
        is(&mut a, A).await;
        let theirs = format!("pgusher_999_{}", hex(B));

        for attempt in [
            format!("set backtrace_functions = '{theirs}'"),
            format!("set local backtrace_functions = '{theirs}'"),
            "reset backtrace_functions".to_owned(),
            "set backtrace_functions to default".to_owned(),
            format!("select set_config('backtrace_functions', '{theirs}', false)"),
            format!("select set_config('backtrace_functions', '{theirs}', true)"),
            format!("do $$ begin perform set_config('backtrace_functions', '{theirs}', false); end $$"),
            format!("select query_to_xml('select set_config(''backtrace_functions'', ''{theirs}'', false)', true, true, '')"),
            format!("update pg_settings set setting = '{theirs}' where name = 'backtrace_functions'"),
            format!("create function evil() returns int language sql set backtrace_functions = '{theirs}' as 'select 1'; select evil()"),
            format!("alter role current_user set backtrace_functions = '{theirs}'"),
            "set role pgusher_identity".to_owned(),
            "set session authorization pgusher_identity".to_owned(),
            "select * from ident.keys".to_owned(),
            "update ident.keys set retires_at = null".to_owned(),
            "select ident.add_key('a key of the application, which it knows')".to_owned(),
            "select ident.rotate_key('a key of the application, which it knows')".to_owned(),
            "create or replace function ident.uid() returns text language sql as $$ select 'x' $$".to_owned(),
            format!("create or replace function app.uid() returns uuid language sql as $$ select '{B}'::uuid $$"),
            "alter function ident.login(text) security invoker".to_owned(),
            "grant set on parameter backtrace_functions to app".to_owned(),
        ] {
            let answer = a.query(&attempt).await;
            assert!(notation(&answer).contains("E("), "{attempt}: {}", notation(&answer));
            assert_eq!(a.value(UID).await, A, "{attempt}");
            is(&mut b, B).await;
            is(&mut a, A).await;
        }
        for harmless in [
            format!("set app.current_user_id = '{B}'; select app.uid()"),
            format!("begin; set local app.current_user_id = '{B}'; select app.uid(); commit"),
            format!("do $$ begin perform set_config('app.current_user_id', '{B}', false); end $$"),
            "reset all".to_owned(),
            "do $$ begin execute 'reset all'; end $$".to_owned(),
            "begin; reset all; rollback".to_owned(),
            "discard all".to_owned(),
        ] {
            a.query(&harmless).await;
            assert_eq!(a.value(UID).await, A, "{harmless}");
            is(&mut b, B).await;
            is(&mut a, A).await;
        }

        stage.nobody_acted_as_another().await;
    }

    /// 58: in the middle of a statement, and of a transaction.
    async fn a_switch_in_the_middle_of_a_query_shows_nobody_elses_rows(setting: Setting) {
        let stage = setting.stage().await;
        stage.postgres.sql("create table mine (owner uuid, n int); alter table mine enable row level security; alter table mine force row level security;
            create policy own on mine using (owner = (select app.uid())); create policy bare on mine using (owner = app.uid());
            grant select on mine to app;
            insert into mine select case when n % 2 = 0 then '0a0a0a0a-0000-4000-8000-00000000000a'::uuid else '0b0b0b0b-0000-4000-8000-00000000000b' end, n
            from generate_series(1, 1000) n").await;
        let mut a = stage.client_for(A).await;
        let switch = format!("set_config('app.current_user_id', '{B}', true)");

        for sql in [
            format!("select distinct owner::text from mine, lateral (select {switch}) s where n > 0"),
            format!("select distinct owner::text from mine where {switch} is not null"),
            format!("with s as materialized (select {switch}) select distinct owner::text from s, mine"),
            format!("select {switch}; select distinct owner::text from mine"),
            "select distinct owner::text from mine union select distinct owner::text from mine where query_to_xml('reset all', true, true, '') is not null".to_owned(),
        ] {
            let answer = a.query(&sql).await;
            let seen = first_column(&answer);
            assert!(seen.iter().all(|owner| owner == A || owner == B && sql.starts_with("select set_config")), "{sql}: {seen:?}");
            let owners = seen.iter().filter(|owner| *owner == B).count();
            assert!(owners <= usize::from(sql.starts_with("select set_config")), "{sql}: {seen:?}");
        }
        a.rows("begin").await;
        a.rows("reset all").await;
        assert_eq!(a.rows("select * from mine").await.len(), 0, "nobody sees nothing");
        a.rows("rollback").await;
        assert_eq!(a.rows("select * from mine").await.len(), 500);
    }

    async fn a_key_takes_the_place_of_another_while_clients_are_served(setting: Setting) {
        let stage = setting.stage().await;
        let (mut a, mut b) = stage.pair().await;
        is(&mut a, A).await;

        stage.postgres.sql("select ident.rotate_key('the next key, which a next pooler will use', '1 hour')").await;
        is(&mut b, B).await;
        is(&mut a, A).await;
        stage.postgres.sql("update ident.keys set retires_at = now() - interval '1 second' where retires_at is not null").await;

        let refused = notation(&a.query(&act(A)).await);
        assert!(refused.starts_with("E("), "{refused}");
        assert_eq!(stage.acts_of(A).await, 2);
        stage.postgres.sql(&format!("select ident.add_key('{KEY}')")).await;
        is(&mut a, A).await;
        stage.nobody_acted_as_another().await;
    }

    async fn parallel_workers_are_the_same_user(setting: Setting) {
        let mut client = Raw::login(&setting.postgres.target()).await;
        let process: u32 = client.server_pid().await.parse().expect("a process");
        let login = Login { identity: A.as_bytes(), is_first: true, now: now(), process, sequence: 1 };
        client.rows(&format!("select ident.login('{}')", token(KEY, login))).await;
        let force = if setting.postgres.major() >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
        setting.postgres.sql("create table wide as select app.uid() as nobody, n from generate_series(1, 20000) n; grant select on wide to app").await;

        client.rows(&format!("set {force} = on; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0")).await;

        assert_eq!(client.rows("select distinct app.uid()::text from wide where n > 0").await, [[Some(A.to_owned())]]);
        let plan = client.rows("explain select distinct app.uid()::text from wide where n > 0").await;
        assert!(format!("{plan:?}").contains("Gather"), "{plan:?}");
    }

    async fn what_is_installed_can_be_installed_again_and_taken_away(setting: Setting) {
        let postgres = &setting.postgres;
        let keys = postgres.value("select string_agg(id, ',') from ident.keys").await;

        postgres.sql(INSTALL).await;

        assert_eq!(postgres.value("select string_agg(id, ',') from ident.keys").await, keys);
        postgres.sql("drop policy own on notes").await;
        postgres.sql(UNINSTALL).await;
        assert_eq!(postgres.value("select to_regnamespace('ident')::text").await, "");
        postgres.sql(INSTALL).await;
    }
}

/// The program installs what psql would, with its own key; its clients are let in, and after a rotation the next pooler's are.
#[tokio::test]
async fn the_program_installs_rotates_and_uninstalls() {
    for major in [15, 18] {
        let postgres = Postgres::shared(major).await;
        let builder = |key: &str| {
            Pgusher::before(&postgres).identity().text("identity", "form", "login").text(
                "identity",
                "login_key",
                key,
            )
        };
        let superuser = |action: &str, key: &str| {
            let builder =
                builder(key).of_database("user", "\"postgres\"").of_database("password", "\"postgres\"");
            builder.arg("identity").arg(action)
        };
        let next = "the next key, which a next pooler will use";

        for _ in 0..2 {
            let (code, said) = ended(superuser("install", KEY)).await;
            assert!(code == 0 && said.contains("the login tier is installed, with key "), "{said}");
        }
        let pgusher = builder(KEY).start().await;
        let mut client = pgusher.client_for(A).await;
        assert_eq!(client.value(UID).await, A);
        assert_eq!(ended(superuser("rotate", next)).await.0, 0);
        assert_eq!(client.value(UID).await, A, "while the grace lasts");
        let other = builder(next).start().await;
        assert_eq!(other.client_for(B).await.value(UID).await, B);
        let (code, said) = ended(superuser("rotate", next).arg("--grace").arg("0")).await;
        assert_eq!(code, 0, "{said}");
        let answer = notation(&client.query(UID).await);
        assert!(answer.starts_with("E("), "{answer}");
        let (code, said) = ended(superuser("uninstall", next)).await;
        assert_eq!(code, 0, "{said}");
        assert_eq!(postgres.value("select to_regnamespace('ident')::text").await, "");
    }
}

#[tokio::test]
async fn a_server_without_the_tier_is_refused_in_words() {
    let old = Postgres::shared(14).await;
    let builder =
        Pgusher::before(&old).of_database("user", "\"postgres\"").of_database("password", "\"postgres\"");

    let (code, said) = ended(builder.text("identity", "login_key", KEY).arg("identity").arg("install")).await;

    assert!(code == 1 && said.contains("needs PostgreSQL 15 or later"), "{code}: {said}");
}

async fn ended(builder: Builder) -> (i32, String) {
    let mut process = builder.launch();
    let code = process.end().await.code().expect("an exit code");
    (code, process.log())
}

#[tokio::test]
async fn before_15_it_is_refused() {
    let postgres = Postgres::shared(14).await;
    let mut superuser = Raw::login(&postgres.superuser()).await;

    let answer = notation(&superuser.query(INSTALL).await);

    assert_eq!(answer, "E(0A000) Z(I)");
}

#[tokio::test]
async fn who_is_no_superuser_is_refused() {
    let postgres = Postgres::shared(17).await;
    let mut owner = Raw::login(&postgres.target()).await;

    let answer = notation(&owner.query(INSTALL).await);

    assert_eq!(answer, "E(42501) Z(I)");
}

async fn refused(client: &mut Raw, token: &str, reason: &str) {
    client.send([say::extended("select ident.login($1)", &[Some(token)]), say::sync()]).await;
    let answer = client.read_until_ready().await;
    let error =
        answer.iter().find(|frame| frame.is(b'E')).unwrap_or_else(|| panic!("{token} was taken: {reason}"));
    let words = format!("{error:?}");
    assert!(words.contains("28000") && words.contains(reason), "{reason}: {words}");
}

fn token(key: &str, login: Login<'_>) -> String {
    let mut token = Vec::new();
    LoginKey::new(key.as_bytes()).expect("a key").sign(login, &mut token);
    String::from_utf8(token).expect("ASCII")
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

const INSTALL: &str = include_str!("../../../deploy/sql/identity.sql");
const UNINSTALL: &str = include_str!("../../../deploy/sql/identity_uninstall.sql");
