//! What no text shows: a function in a plain SELECT changes the session. The next client must not find it, whether its
//! server has plans to keep or not; and what `connect_query` has set is there for everybody.

use crate::harness::postgres::extended;
use crate::harness::{Pgusher, Postgres, Raw, say};
use crate::on_every_major;

/// A function for each kind of state, and one that says what is there.
const FUNCTIONS: &str = "
    create function leave(what text) returns text language plpgsql as $$ begin
        case what
            when 'setting' then perform set_config('work_mem', '77kB', false);
            when 'reported' then perform set_config('DateStyle', 'German', false);
            when 'custom' then perform set_config('my.tenant', 'anna', false);
            when 'channel' then execute 'listen gossip';
            when 'lock' then perform pg_advisory_lock(7);
            when 'temporary' then execute 'create temporary table mine (a int)';
            when 'plan' then execute 'prepare mine as select 1';
            when 'sequence' then perform nextval('counter');
            when 'role' then execute 'set role app';
        end case;
        return what;
    end $$;
    create sequence counter;
    grant usage on sequence counter to app;
    create function last_of_sequence() returns text language plpgsql as $$ begin
        return lastval();
    exception when object_not_in_prerequisite_state then return null; end $$;
    create function found() returns text language sql as $$
        select coalesce(string_agg(what, ', '), 'nothing') from (
            select 'setting' where current_setting('work_mem') = '77kB'
            union all select 'reported' where current_setting('DateStyle') = 'German, DMY'
            union all select 'custom' where current_setting('my.tenant', true) <> ''
            union all select 'channel' from pg_listening_channels()
            union all select 'lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
            union all select 'temporary' where to_regclass('pg_temp.mine') is not null
            union all select 'plan' from pg_prepared_statements where from_sql
            union all select 'sequence' where last_of_sequence() is not null
            union all select 'role' where current_setting('role') <> 'none') l (what) $$";

const KINDS: [&str; 9] =
    ["setting", "reported", "custom", "channel", "lock", "temporary", "sequence", "role", "plan"];

async fn pooler(postgres: &Postgres) -> crate::harness::pgusher::Builder {
    postgres.sql(FUNCTIONS).await;
    Pgusher::before(postgres).pool_size(1).set("pool", "canary", "\"off\"")
}

/// Gives the only server a plan of the protocol, which cleaning must not cost.
async fn prepare(client: &mut Raw) {
    client.ask([say::parse("p", "select 7"), say::sync()]).await;
    run_prepared(client).await;
}

async fn run_prepared(client: &mut Raw) {
    let answer = client.ask([say::bind("", "p", &[]), say::execute("", 0), say::sync()]).await;
    assert_eq!(answer, "2 D C(SELECT 1) Z(I)");
}

/// What the others find after each kind was left by one.
async fn found(pgusher: &Pgusher, has_plans: bool) -> Vec<String> {
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
    let mut all = Vec::new();
    for what in KINDS {
        if has_plans {
            prepare(&mut one).await;
        }
        assert_eq!(one.value(&format!("select leave('{what}')")).await, what);
        all.push(other.value("select found()").await);
        if has_plans {
            one.ask([say::close_statement("p"), say::sync()]).await;
        }
    }
    all
}

on_every_major! {
    async fn what_a_function_leaves_is_not_there_for_another_client(postgres: Postgres) {
        let pgusher = pooler(&postgres).await.start().await;

        assert_eq!(found(&pgusher, false).await, ["nothing"; 9]);
    }

    async fn nor_is_it_on_a_server_that_keeps_its_plans(postgres: Postgres) {
        let pgusher = pooler(&postgres).await.start().await;
        let expected = KINDS.map(|what| if what == "plan" { "plan" } else { "nothing" });

        // A plan is not told from those that are kept; the next test is about it.
        assert_eq!(found(&pgusher, true).await, expected);
    }

    async fn nor_where_transactions_have_an_identity(postgres: Postgres) {
        let pgusher = pooler(&postgres).await.identity().start().await;

        assert_eq!(found(&pgusher, false).await, ["nothing"; 9]);
    }

    async fn the_settings_of_a_connect_query_are_everybody_s(postgres: Postgres) {
        let sql = r#""set work_mem to '2MB'; set app.shop to 'north'; set timezone to 'Asia/Tokyo'""#;
        let pgusher = Pgusher::before(&postgres).pool_size(1).of_database("connect_query", sql).start().await;
        let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
        let ask = "select concat_ws(' ', current_setting('work_mem'), current_setting('app.shop', true), current_setting('timezone'))";

        assert_eq!(one.parameters["TimeZone"], "Asia/Tokyo");
        assert_eq!(one.value(ask).await, "2MB north Asia/Tokyo");
        one.query("set work_mem to '3MB'; set app.shop to 'south'").await;
        assert_eq!(one.value(ask).await, "3MB south Asia/Tokyo");
        assert_eq!(other.value(ask).await, "2MB north Asia/Tokyo");
        assert_eq!(one.value(ask).await, "3MB south Asia/Tokyo");
        one.query("discard all").await;
        assert_eq!(one.value(ask).await, "2MB north Asia/Tokyo");
        other.query("do $$ begin perform set_config('work_mem', '4MB', false); end $$").await;
        assert_eq!(other.value(ask).await, "4MB north Asia/Tokyo");
        assert_eq!(one.value(ask).await, "2MB north Asia/Tokyo");
    }
}

#[tokio::test]
async fn a_plan_that_a_function_made_is_not_met_by_words_about_plans() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres).await.start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
    prepare(&mut one).await;

    one.value("select leave('plan')").await;

    assert!(crate::harness::notation(&other.query("execute mine").await).contains("26000"));
    run_prepared(&mut one).await;
}

#[tokio::test]
async fn cleaning_when_needed_leaves_it_to_the_next() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres).await.text("pool", "clean", "when-needed").start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);

    one.value("select leave('custom')").await;

    assert_eq!(other.value("select found()").await, "custom");
}

#[tokio::test]
async fn a_client_finds_what_its_own_functions_left_while_nobody_else_comes() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres).await.start().await;
    let mut one = pgusher.client().await;

    one.value("select leave('custom')").await;

    assert_eq!(one.value("select found()").await, "custom");
}

#[tokio::test]
async fn what_is_left_by_a_failed_pipeline_is_cleaned_too() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres).await.start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
    one.value("select leave('role')").await;

    // The clean is said with words that fail: it is not undone with them.
    assert!(extended(&mut other, "select 1/0", &[]).await.contains("22012"));

    assert_eq!(other.value("select found()").await, "nothing");
}

#[tokio::test]
async fn a_plan_outlives_the_clean_between_clients() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres).await.start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
    prepare(&mut one).await;
    let plans = "select count(*) from pg_prepared_statements where statement = 'select 7'";

    assert_eq!(other.value(plans).await, "1");
    run_prepared(&mut one).await;
    assert_eq!(other.value(plans).await, "1");
}

#[tokio::test]
async fn a_role_that_is_the_login_s_default_is_no_state() {
    let postgres = Postgres::private(18, &[], "").await;
    postgres.sql("create role worker; grant worker to app; alter role app set role = 'worker'").await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "canary", "1").start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);
    let pid = one.server_pid().await;

    one.query("set work_mem to '3MB'").await; // the server is asked what it has

    for client in [&mut other, &mut one] {
        assert_eq!(client.value("select current_user || pg_backend_pid()").await, format!("worker{pid}"));
    }
}

/// The timer runs out amid DISCARD ALL, where PostgreSQL looks for no interrupts: it is noticed with what comes behind.
#[tokio::test]
async fn a_statement_timeout_that_runs_out_in_the_clean_is_no_other_client_s_error() {
    let postgres = Postgres::private(18, &[("max_locks_per_transaction", "1000")], "").await;
    postgres
        .sql(
            "create function lock_much() returns text language plpgsql as $$ begin
                perform pg_advisory_lock(i) from generate_series(1, 40000) i;
                return set_config('statement_timeout', '1ms', false);
            end $$",
        )
        .await;
    let pgusher = pooler(&postgres).await.start().await;
    let mut other = pgusher.client().await;

    for _ in 0..3 {
        assert_eq!(pgusher.client().await.value("select lock_much()").await, "1ms");

        assert_eq!(other.value("select 'served'").await, "served");
    }
}

/// Where plans are kept the clean is a transaction: what ends it puts the timeout back, to end the next one on that server.
#[tokio::test]
async fn a_statement_timeout_that_ends_each_clean_costs_a_server_and_no_client() {
    let postgres = Postgres::shared(18).await;
    postgres
        .sql(
            "create function leave_much() returns text language plpgsql as $$ begin
                perform set_config('my.setting' || i, 'left', false) from generate_series(1, 30000) i;
                return set_config('statement_timeout', '1ms', false);
            end $$",
        )
        .await;
    let pgusher = pooler(&postgres).await.start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);

    prepare(&mut one).await;
    assert_eq!(one.value("select leave_much()").await, "1ms");
    let served = other.value("select 'served'").await;
    run_prepared(&mut one).await;
    assert_eq!(one.value("select leave_much()").await, "1ms");
    let mut newcomer = Raw::login(&pgusher.target().with("DateStyle", "German")).await;

    assert_eq!(served, "served");
    assert_eq!(newcomer.value("show datestyle").await, "German, DMY");
}

#[tokio::test]
async fn a_connect_query_that_leaves_more_than_settings_is_refused() {
    let postgres = Postgres::shared(18).await;
    let sql = r#""create temporary table mine (a int)""#;
    let pgusher = Pgusher::before(&postgres).pool_size(1).of_database("connect_query", sql).start().await;
    let mut client = Raw::connect(&pgusher.target().address).await;

    let error = client.try_login(&pgusher.target()).await.unwrap_err();

    assert_eq!(error.sqlstate(), "0A000");
    let message = error.message();
    assert!(message.contains("connect_query left session state behind (temporary)"), "{message}");
}
