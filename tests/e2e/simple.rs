//! Simple queries pass through unchanged, whatever their size and whatever comes of them.

use crate::harness::{Comparison, Pgusher, Raw, notation, same_answers, say};
use crate::on_every_major;

const MEGABYTE: usize = 1 << 20;

on_every_major! {
    async fn queries_empty_single_and_several_are_answered_as_directly(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for sql in [
                "",
                ";",
                " ;; /* nothing */ ; -- at all",
                "select 1",
                "select 1 as a, null as b, 'three' as c; select 2; values (3), (4)",
                "select; select",
                "select generate_series(1, 1000)",
                "select 1 where false",
                "show server_version",
                "explain (costs off) select 1",
                "begin; select 1; commit",
                "create temporary table x (a int) on commit drop",
                "values (1), (null), (3)",
            ] {
                client.query(sql).await;
            }
        })
        .await;
    }

    async fn errors_are_answered_as_directly_and_the_connection_stays_usable(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for sql in [
                "select 1/0",
                "selec",
                "select * from nothing",
                "select 'open",
                "select 1; select 1/0; select 2",
                "begin; select 1/0; commit",
                "select 1",
                "rollback",
                "do $$ begin raise exception 'x' using errcode = 'ABCDE', detail = 'd', hint = 'h', column = 'c'; end $$",
                "select 'usable'",
            ] {
                client.query(sql).await;
            }
        })
        .await;
    }

    async fn a_failed_statement_takes_its_whole_query_with_it(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).start().await;
        let mut client = pgusher.client().await;

        let answer = notation(&client.query("insert into t values (1); select 1/0; insert into t values (2)").await);

        assert_eq!(answer, "C(INSERT 0 1) E(22012) Z(I)");
        assert_eq!(client.value("select count(*) from t").await, "0");
    }

    async fn every_transaction_status_is_passed_on(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;

        let mut statuses = Vec::new();
        for sql in ["begin", "select 1", "savepoint a", "selec", "rollback to a", "select 1/0", "commit", "select 1"] {
            statuses.push(client.query(sql).await.pop().unwrap().to_string());
        }

        assert_eq!(statuses, ["Z(T)", "Z(T)", "Z(T)", "Z(E)", "Z(T)", "Z(E)", "Z(I)", "Z(I)"]);
    }

    async fn queries_sent_in_one_write_are_answered_in_order(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send((0..200).map(|n| say::query(&format!("select {n}, 1 / ({n} % 10)")))).await;
            client.read_until_ready_times(200).await;
        })
        .await;
    }

    async fn a_query_that_arrives_byte_by_byte_is_answered_as_directly(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send_in_bytes([say::query("select 1"), say::query("select 1/0"), say::query("")]).await;
            client.read_until_ready_times(3).await;
        })
        .await;
    }

    async fn rows_of_every_size_pass_unchanged(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for size in [0, 1, 100, 1_000, 4_000, 8_180, 8_192, 8_200, 16_384, 65_530, 65_536, 70_000, 300_000, 3 * MEGABYTE] {
                client.query(&format!("select repeat('x', {size})")).await;
            }
            client.query("select repeat('y', g) from generate_series(1, 3000) g").await;
        })
        .await;
    }

    async fn a_query_of_megabytes_passes_unchanged(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for size in [8_100, 8_192, 65_536, 3 * MEGABYTE] {
                client.query(&format!("select length('{}')", "x".repeat(size))).await;
            }
        })
        .await;
    }

    async fn a_row_of_many_columns_passes_unchanged(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let columns: Vec<_> = (0..1_600).map(|n| format!("{n} as c{n}")).collect();

        same_answers(&postgres, &pgusher, async |client| {
            client.query(&format!("select {}", columns.join(", "))).await;
        })
        .await;
    }

    async fn notices_come_where_they_came(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.query("do $$ begin for n in 1..100 loop raise notice 'n%', n; end loop; end $$").await;
            client.query("select 1; do $$ begin raise warning 'between'; end $$; select 2").await;
            client.query("commit").await;
            client.query("drop table if exists nothing").await;
        })
        .await;
    }

    async fn reported_parameters_come_where_they_came(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.query("set timezone = 'Europe/Berlin'").await;
            client.query("set datestyle = 'german'").await;
            client.query("select timestamptz '2026-01-01 00:00:00+00'").await;
            client.query("begin").await;
            client.query("set local application_name = 'inside'").await;
            client.query("rollback").await;
            client.query("show application_name").await;
        })
        .await;
    }

    async fn a_notification_reaches_its_listener(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        Comparison::of(&postgres, &pgusher)
            .in_notation()
            .run(async |client| {
                client.query("listen news").await;
                client.query("notify news, 'hello'").await;
                client.query("begin; notify news; select 1; commit").await;
            })
            .await;
    }

    async fn a_function_call_is_answered_as_directly(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let pi: u32 = postgres.value("select 'pi()'::regprocedure::oid::int").await.parse().unwrap();
        let upper: u32 = postgres.value("select 'upper(text)'::regprocedure::oid::int").await.parse().unwrap();

        same_answers(&postgres, &pgusher, async |client| {
            client.ask([say::function_call(pi, &[])]).await;
            client.ask([say::function_call(upper, &[Some(b"loud")])]).await;
            client.ask([say::function_call(upper, &[None])]).await;
            client.ask([say::function_call(1, &[])]).await;
            client.ask([say::query("select 'usable'")]).await;
        })
        .await;
    }

    async fn a_login_reports_what_the_server_reports(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        for parameters in [vec![], vec![("application_name", "mine"), ("timezone", "Asia/Tokyo"), ("client_encoding", "LATIN1")]] {
            let with = |target| parameters.iter().fold(target, |target: crate::harness::Target, (name, value)| target.with(name, value));
            let direct = Raw::login(&with(postgres.target())).await;
            let through = Raw::login(&with(pgusher.target())).await;

            assert_eq!(through.parameters, direct.parameters);
        }
    }

    async fn a_startup_packet_of_nearly_ten_thousand_bytes_is_accepted(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let name = "x".repeat(9_800);

        let direct = Raw::login(&postgres.target().with("application_name", &name)).await;
        let through = Raw::login(&pgusher.target().with("application_name", &name)).await;

        assert_eq!(through.parameters["application_name"], direct.parameters["application_name"]);
    }
}

/// A value that PostgreSQL itself needs gigabytes for: one major is enough.
#[tokio::test]
async fn a_heavy_row_of_a_quarter_gigabyte_streams_through_in_bounded_memory() {
    let postgres = crate::harness::Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    client.rows("select 1").await;
    let before = pgusher.resident();

    client.send([say::query(&format!("select repeat('x', {})", 256 * MEGABYTE))]).await;
    client.tcp().readable().await.unwrap();
    let row = client.read_until(b'D').await.pop().unwrap();
    let grown = pgusher.resident().saturating_sub(before);
    client.read_until_ready().await;

    assert_eq!(row.body.len(), 2 + 4 + 256 * MEGABYTE);
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!(client.value("select 'usable'").await, "usable");
}

/// The reader takes nothing for now; the pooler must stop reading from the server instead of keeping it all.
#[tokio::test]
async fn a_heavy_answer_to_a_client_that_does_not_read_is_not_kept_in_memory() {
    let postgres = crate::harness::Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    client.rows("select 1").await;
    let before = pgusher.resident();

    client.send([say::query("select repeat('x', 100000) from generate_series(1, 2000)")]).await;
    postgres
        .until(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'ClientWrite'",
            "1",
        )
        .await;
    let grown = pgusher.resident().saturating_sub(before);
    let answer = client.read_until_ready().await;

    assert!(grown < 16 << 20, "{grown} bytes more");
    assert_eq!(answer.iter().filter(|frame| frame.is(b'D')).count(), 2_000);
}
