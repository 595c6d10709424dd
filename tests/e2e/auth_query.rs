//! Users that only PostgreSQL knows: asked about, remembered, doubted, and never by way of a client's own session.

use crate::harness::pgusher::Builder;
use crate::harness::{Frame, PATIENCE, Pgusher, Postgres, Raw, eventually};
use crate::on_every_major;

/// What the tests' users know. Nothing of the configuration does.
const PASSWORD: &str = "only-the-client-knows";

/// What the role that asks knows.
const ASKER: &str = "asks-for-all-of-them";

on_every_major! {
    async fn a_user_that_only_the_database_knows_is_let_in_and_passed_through(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let pgusher = asking(&postgres).await.start().await;

        let mut client = Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;

        assert_eq!(client.value("select current_user || ' ' || session_user").await, format!("{ann} {ann}"));
        for (user, password) in [(&*ann, "wrong"), (&ann, ""), ("nobody_at_all", PASSWORD), (&ann.to_uppercase(), PASSWORD)] {
            assert_refused(&pgusher, user, password).await;
        }
        assert!(!pgusher.log().contains(PASSWORD) && !pgusher.log().contains("SCRAM-SHA-256$"), "{}", pgusher.log());
    }

    async fn an_md5_verifier_is_enough_too(postgres: Postgres) {
        let pgusher = asking(&postgres).await.text("listen", "auth", "md5").start().await;

        let mut client = Raw::login(&pgusher.target().user("hashed", "hashed")).await;

        assert_eq!(client.value("select current_user").await, "hashed");
        assert_refused(&pgusher, "hashed", "wrong").await;
    }

    async fn whoever_may_not_log_in_by_password_is_a_stranger(postgres: Postgres) {
        let mut refused = Vec::new();
        for (name, attributes) in
            [("expired", "valid until 'yesterday'"), ("nologin", "nologin"), ("empty", "password null")]
        {
            refused.push(role(&postgres, name, attributes).await);
        }
        let ann = role(&postgres, "ann", "valid until 'infinity'").await;
        let bob = role(&postgres, "bob", "valid until 'tomorrow'").await;
        let pgusher = asking(&postgres).await.start().await;

        for user in refused {
            assert_refused(&pgusher, &user, PASSWORD).await;
        }
        for user in [ann, bob] {
            Raw::login(&pgusher.target().user(&user, PASSWORD)).await;
        }
    }

    async fn a_password_expires_although_it_is_remembered(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        postgres.sql(&format!("do $$ begin execute format('alter role {ann} valid until %L', now() + '3 s'); end $$")).await;
        let pgusher = asking(&postgres).await.of_database("auth_ttl", "\"1h\"").start().await;

        Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;

        eventually("the password has expired", PATIENCE, async || {
            try_login(&pgusher, &ann, PASSWORD).await.err()
        })
        .await;
    }

    async fn a_changed_password_is_asked_about_when_a_login_fails(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let pgusher = asking(&postgres)
            .await
            .of_database("auth_ttl", "\"1h\"")
            .of_database("auth_negative_ttl", "\"100ms\"")
            .start()
            .await;
        let mut early = Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;

        postgres.sql(&format!("alter role {ann} password 'another-one'")).await;
        eventually("the new password is known", PATIENCE, async || try_login(&pgusher, &ann, "another-one").await.ok()).await;

        assert_refused(&pgusher, &ann, PASSWORD).await;
        assert_eq!(early.value("select 'still here'").await, "still here");
    }

    async fn nobody_else_answers_for_the_catalogue(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let builder = asking(&postgres).await;
        let asker = asker(&postgres).await;
        postgres
            .sql(&format!(
                "create schema evil;
                 create table evil.pg_shadow as select usename, 'anybody'::text as passwd, valuntil from pg_catalog.pg_shadow;
                 grant usage on schema evil to public; grant select on evil.pg_shadow to public;
                 alter role {asker} set search_path = evil, pg_catalog;
                 alter role {asker} in database {} set search_path = evil, pg_catalog;
                 alter role {ann} set search_path = evil, pg_catalog",
                postgres.database()
            ))
            .await;
        let pgusher = builder
            .of_database("auth_query", "\"select usename, passwd from pg_shadow where usename = $1\"")
            .start()
            .await;

        let target = pgusher.target().user(&ann, "anybody").with("search_path", "evil");
        let refusal = Raw::connect(&target.address).await.try_login(&target).await.unwrap_err();

        assert_eq!(refusal.sqlstate(), "28P01");
        Raw::login(&pgusher.target().user(&ann, PASSWORD).with("search_path", "evil")).await;
    }

    async fn a_user_is_asked_about_once_however_many_of_its_clients_come(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let pgusher = noting(&postgres).await.of_database("auth_negative_ttl", "\"1h\"").start().await;

        for (user, password) in [(&*ann, PASSWORD), ("nobody_at_all", "x"), (&ann, PASSWORD), ("nobody_at_all", "x")] {
            let logins = (0..20).map(|_| {
                let target = pgusher.target().user(user, password);
                tokio::spawn(async move { Raw::connect(&target.address).await.try_login(&target).await.is_ok() })
            });
            for login in logins.collect::<Vec<_>>() {
                assert_eq!(login.await.unwrap(), user == ann);
            }
        }

        let asked = postgres.sql("select name, count(*) from asked group by 1 order by 1").await;
        let one = Some("1".to_owned());
        let mut expected = [vec![Some(ann), one.clone()], vec![Some("nobody_at_all".into()), one]];
        expected.sort();
        assert_eq!(asked, expected);
    }

    async fn the_question_carries_nothing_of_the_client(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let pgusher = noting(&postgres).await.identity().start().await;
        let identity = "11111111-1111-1111-1111-111111111111";

        let target = pgusher.target().user(&ann, PASSWORD).with("application_name", "a client");
        Raw::login(&target.with("app.current_user_id", identity).with("search_path", "public").with("DateStyle", "German")).await;

        let seen = postgres.sql("select distinct application, path, identity, datestyle from asked").await;
        let expected = ["pgusher auth_query", "pg_catalog", "", "ISO, MDY"].map(|value| Some(value.to_owned()));
        assert_eq!(seen, [expected]);
        assert_eq!(postgres.value("select distinct who from asked").await, asker(&postgres).await);
    }

    async fn a_query_that_fails_looks_like_a_wrong_password_and_is_no_answer(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let builder = asking(&postgres).await;
        let asker = asker(&postgres).await;
        postgres.sql(&format!("revoke select on pg_catalog.pg_shadow from {asker}")).await;
        let pgusher = builder.start().await;

        assert_refused(&pgusher, &ann, PASSWORD).await;
        assert_refused(&pgusher, "nobody_at_all", PASSWORD).await;
        let said = pgusher.until_logged("auth_query failed").await;
        assert!(said.contains("permission denied for view pg_shadow") && said.contains(&ann), "{said}");

        postgres.sql(&format!("grant select on pg_catalog.pg_shadow to {asker}")).await;
        Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;
    }

    async fn the_function_of_the_readme_needs_no_right_to_read_verifiers(postgres: Postgres) {
        let ann = role(&postgres, "ann", "").await;
        let expired = role(&postgres, "expired", "valid until 'yesterday'").await;
        let builder = asking(&postgres).await;
        let asker = asker(&postgres).await;
        postgres.sql(&format!("revoke select on pg_catalog.pg_shadow from {asker}")).await;
        let (sql, query) = example();
        postgres.sql(&sql.replace("to pgusher;", &format!("to {asker};"))).await;
        let pgusher = builder.of_database("auth_query", &format!("{query:?}")).start().await;

        Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;

        for (user, password) in [(&*ann, "wrong"), (&expired, PASSWORD), ("nobody_at_all", PASSWORD)] {
            assert_refused(&pgusher, user, password).await;
        }
        assert!(!pgusher.log().contains("auth_query failed"), "{}", pgusher.log());
        let stranger = postgres.client().await.query("select * from pgusher.lookup('app')").await;
        assert_eq!(stranger[0].sqlstate(), "42501");
    }
}

#[tokio::test]
async fn the_connection_that_asks_is_opened_again_when_it_was_lost() {
    let postgres = Postgres::shared(18).await;
    let (ann, bob) = (role(&postgres, "ann", "").await, role(&postgres, "bob", "").await);
    let pgusher = asking(&postgres).await.start().await;
    Raw::login(&pgusher.target().user(&ann, PASSWORD)).await;

    postgres
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgusher auth_query' and datname = current_database()")
        .await;

    Raw::login(&pgusher.target().user(&bob, PASSWORD)).await;
    assert!(!pgusher.log().contains("auth_query failed"), "{}", pgusher.log());
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_question_holds_up_its_own_clients_only() {
    let postgres = Postgres::shared(18).await;
    let ann = role(&postgres, "ann", "").await;
    let pgusher = asking(&postgres)
        .await
        .of_database("auth_query", "\"select $1::text, 'x' from pg_sleep(600)\"")
        .of_database("connect_timeout", "\"500ms\"")
        .user("app", "app")
        .start()
        .await;

    assert_refused(&pgusher, &ann, PASSWORD).await;

    pgusher.until_logged("auth_query failed").await;
    assert_eq!(pgusher.client().await.value("select 'served'").await, "served");
    postgres.until("select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()", "0").await;
}

#[tokio::test]
async fn listed_users_are_not_asked_about() {
    let postgres = Postgres::shared(18).await;
    let pgusher = noting(&postgres).await.user("app", "app").start().await;

    pgusher.client().await;
    assert_refused(&pgusher, "app", "wrong").await;

    assert_eq!(postgres.value("select count(*) from asked").await, "0");
}

/// A role of this test alone.
async fn role(postgres: &Postgres, name: &str, attributes: &str) -> String {
    let role = format!("{name}_{}", postgres.database());
    postgres
        .sql(&format!("create role {role} login password '{PASSWORD}'; alter role {role} {attributes}"))
        .await;
    role
}

/// The role that asks, in the test's database.
async fn asker(postgres: &Postgres) -> String {
    format!("asker_{}", postgres.database())
}

/// A pooler that knows no user but by asking.
async fn asking(postgres: &Postgres) -> Builder {
    let asker = asker(postgres).await;
    postgres
        .sql(&format!(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = '{asker}') then
                     create role {asker} login password '{ASKER}';
                 end if;
             end $$;
             grant select on pg_catalog.pg_shadow to {asker}"
        ))
        .await;
    let mut builder = Pgusher::before(postgres).text("listen", "auth", "scram-sha-256");
    for user in ["app", "other", "trusted", "hashed", "cleartext", "postgres"] {
        builder = builder.unset(&format!("users.{user:?}"), "password");
    }
    builder
        .of_database("auth_user", &format!("{asker:?}"))
        .of_database("auth_password", &format!("{ASKER:?}"))
}

/// As [`asking`], with a query that takes its time and notes how it was asked.
async fn noting(postgres: &Postgres) -> Builder {
    let builder = asking(postgres).await;
    postgres
        .sql(
            "create table asked (name text, who text, application text, path text, identity text, datestyle text);
             create function ask(name text, out usename text, out passwd text) security definer language plpgsql as $$
             begin
                 insert into public.asked values (name, session_user, current_setting('application_name'),
                     current_setting('search_path'), coalesce(current_setting('app.current_user_id', true), ''),
                     current_setting('DateStyle'));
                 perform pg_sleep(0.2);
                 select s.usename, s.passwd into usename, passwd from pg_shadow s where s.usename = name;
             end $$",
        )
        .await;
    builder.of_database("auth_query", "\"select * from public.ask($1)\"").of_database("auth_ttl", "\"1h\"")
}

/// The example of the README: what is run in the database, and the query.
fn example() -> (String, String) {
    let readme = std::fs::read_to_string(crate::harness::process::root().join("README.md")).unwrap();
    let block = readme.split("```").find(|block| block.contains("create function pgusher.lookup")).unwrap();
    let sql = block.strip_prefix("sql\n").unwrap().replace("create role pgusher login password '…';\n", "");
    let query = readme.split('`').find(|word| word.starts_with("select * from pgusher.lookup")).unwrap();
    (sql, query.into())
}

async fn try_login(pgusher: &Pgusher, user: &str, password: &str) -> Result<(), Frame> {
    let target = pgusher.target().user(user, password);
    Raw::connect(&target.address).await.try_login(&target).await
}

async fn assert_refused(pgusher: &Pgusher, user: &str, password: &str) {
    let refusal = try_login(pgusher, user, password).await.unwrap_err();

    assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "28P01".into()), "{refusal:?}");
    assert_eq!(refusal.message(), format!("password authentication failed for user \"{user}\""));
}
