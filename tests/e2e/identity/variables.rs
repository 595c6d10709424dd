//! More variables than one, a prelude that the server has prepared, and who differs from the rest.

use super::{A, B, act, is, me};
use crate::contract;
use crate::harness::{Pgusher, Postgres, Raw, notation, say};

const TENANT: &str = "select pg_catalog.current_setting('app.tenant_id', true)";

/// What a client is taken for: the user, and the tenant.
async fn both(client: &mut Raw) -> (String, String) {
    (me(client).await, client.value(TENANT).await)
}

fn pair(user: &str, tenant: &str) -> (String, String) {
    (user.to_owned(), tenant.to_owned())
}

contract! {
    /// Section 2, further variables: each is stated as the main one is, and both are there or neither.
    async fn further_variables_follow_each_client(setting: Setting) {
        let stage = setting
            .stage_with(|pgusher| pgusher.set("identity", "variables", r#"{ "app.tenant_id" = "integer", "app.role" = "any" }"#))
            .await;
        let mut a = Raw::login(&stage.target.clone().with("app.current_user_id", A).with("options", "-c App.Tenant_Id=1")).await;
        let mut b = stage.client_for(B).await;
        b.rows("set app.tenant_id = 2").await;

        for _ in 0..2 {
            assert_eq!(both(&mut a).await, pair(A, "1"));
            assert_eq!(both(&mut b).await, pair(B, "2"));
        }
        is(&mut a, A).await;
        assert_eq!(b.ask([say::extended("select set_config('app.tenant_id', $1, false)", &[Some("22")]), say::sync()]).await, "1 2 T D C(SELECT 1) Z(I)");
        assert_eq!(b.ask([say::extended("set app.role to 'clerk'", &[]), say::sync()]).await, "1 2 n C(SET) Z(I)");
        a.rows("set app.tenant_id = 11").await;
        assert_eq!(both(&mut a).await, pair(A, "11"));
        assert_eq!(both(&mut b).await, pair(B, "22"));
        assert_eq!(a.value("select current_setting('app.role')").await, "");
        // Its own pattern, and what cannot be followed.
        assert_eq!(a.ask([say::query("set app.tenant_id = 'x'")]).await, "E(22023) Z(I)");
        assert_eq!(a.ask([say::query(&format!("set app.tenant_id = 7; set app.current_user_id = '{B}'"))]).await, "E(0A000) Z(I)");
        assert_eq!(a.ask([say::query("select set_config('app.tenant_id', '7', 1 > 2)")]).await, "E(0A000) Z(I)");
        assert_eq!(both(&mut a).await, pair(A, "11"));
        // Inside a transaction a SET is PostgreSQL's, and ends with it.
        for end in ["commit", "rollback"] {
            a.rows("begin").await;
            a.rows("set app.tenant_id = 7").await;
            assert_eq!(a.value(TENANT).await, "7");
            a.rows(end).await;
            assert_eq!(both(&mut b).await, pair(B, "22"));
            assert_eq!(both(&mut a).await, pair(A, "11"));
        }
        a.rows("reset app.tenant_id").await;
        assert_eq!(both(&mut a).await, pair(A, "1"));
        b.rows("discard all").await;
        assert_eq!(both(&mut b).await, pair(B, ""));
        a.rows("set app.tenant_id to default").await;
        a.rows(&format!("set app.current_user_id = '{B}'")).await;
        assert_eq!(both(&mut a).await, pair(B, "1"));
        a.rows("begin; reset all; rollback").await;
        assert_eq!(both(&mut a).await, pair(B, "1"));
        a.rows("reset all").await;
        assert_eq!(both(&mut a).await, pair(A, "1"));

        stage.nobody_acted_as_another().await;
    }

    /// Section 1, named statements: prepared once, and again when a client has dropped them.
    async fn a_trusted_prelude_is_prepared_once_on_each_server(setting: Setting) {
        let stage = setting.stage_with(|pgusher| pgusher.set("identity", "trusted_sql", "true")).await;
        let (mut a, mut b) = stage.pair().await;
        let named = "select string_agg(name, ' ' order by name) from pg_prepared_statements where name ~ '^pgusher_[a-z]'";
        let since = "select min(prepare_time)::text from pg_prepared_statements where name ~ '^pgusher_[a-z]'";

        is(&mut a, A).await;
        let set = if stage.form == Form::Bound { " pgusher_set" } else { "" };
        assert_eq!(a.value(named).await, format!("pgusher_begin pgusher_commit{set}"));
        let first = a.value(since).await;
        is(&mut b, B).await;
        is(&mut a, A).await;
        assert_eq!(b.value(since).await, first, "prepared again though it was there");
        for drop in [
            "discard all",
            "deallocate all",
            "select 1; discard plans; deallocate all",
            "do $$ begin execute 'deallocate all'; end $$",
            "deallocate pgusher_set",
            "do $$ begin execute 'deallocate pgusher_commit'; end $$",
            "begin; select 1; deallocate all; rollback",
            "select 1/0",
        ] {
            a.send([say::query(drop)]).await;
            a.read_until_ready().await;
            is(&mut b, B).await;
            is(&mut a, A).await;
        }
        a.send([say::extended("deallocate all", &[]), say::sync(), say::query(&act(A))]).await;
        assert_eq!(notation(&a.read_until_ready_times(2).await), "1 2 n C(DEALLOCATE ALL) Z(I) C(INSERT 0 1) Z(I)");
        is(&mut b, B).await;

        stage.nobody_acted_as_another().await;
    }
}

/// Section 2: options for one database and for one user, the user's the last word.
#[tokio::test]
async fn an_option_holds_for_one_database_or_one_user() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(1)
        .identity()
        .of_database("identity_missing", "\"deny\"")
        .of_database("identity_pattern", "\"integer\"")
        .set("users.\"other\"", "identity_missing", "\"empty\"")
        .set("users.\"other\"", "identity_variable", "\"app.me\"")
        .env("PGUSHER_USERS_POSTGRES_IDENTITY", "off")
        .start()
        .await;
    let (mut app, mut other, mut postgres) = (
        pgusher.client().await,
        Raw::login(&pgusher.target().user("other", "other")).await,
        Raw::login(&pgusher.target().user("postgres", "postgres")).await,
    );

    assert_eq!(app.ask([say::query("select 1")]).await, "E(28000) Z(I)");
    app.rows("set app.current_user_id = 1").await;
    assert_eq!(me(&mut app).await, "1");
    other.rows("set app.me = 2").await;
    assert_eq!(other.value("select current_setting('app.me')").await, "2");
    assert_eq!(postgres.value("select current_setting('app.current_user_id', true) is null").await, "t");
}

/// Users who share servers, because all log in as one role, each with an identity of its own kind.
#[tokio::test]
async fn what_one_user_states_is_empty_for_another_on_the_same_servers() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(1)
        .identity()
        .text("identity", "pattern", "any")
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"")
        .set("users.\"other\"", "identity_variables", r#"{ "app.tenant_id" = "any" }"#)
        .set("users.\"trusted\"", "identity", "\"off\"")
        .start()
        .await;
    let mut app = pgusher.client().await;
    let mut other = Raw::login(&pgusher.target().user("other", "other")).await;
    let mut trusted = Raw::login(&pgusher.target().user("trusted", "trusted")).await;
    app.rows("set app.current_user_id = 'a'").await;
    other.rows("set app.current_user_id = 'o'").await;
    other.rows("set app.tenant_id = 't'").await;

    for _ in 0..2 {
        assert_eq!(both(&mut other).await, pair("o", "t"));
        assert_eq!(both(&mut app).await, pair("a", ""));
        assert_eq!(both(&mut other).await, pair("o", "t"));
        assert_eq!(both(&mut trusted).await, pair("", ""));
    }
    assert_eq!(other.value("select session_user").await, "app");
}
