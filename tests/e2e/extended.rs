//! The extended protocol passes through unchanged: statements, portals, pipelines, and errors in the middle of them.

use bytes::Bytes;

use crate::harness::{Comparison, Pgusher, Raw, notation, same_answers, say};
use crate::on_every_major;

const INT4: u32 = 23;

on_every_major! {
    async fn unnamed_statements_are_answered_as_directly(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for (sql, values) in [
                ("select 1", vec![]),
                ("select $1::int + $2::int", vec![Some("1"), Some("2")]),
                ("select $1::text", vec![None]),
                ("select $1::text", vec![Some("")]),
                ("select g, repeat('x', g) from generate_series(1, 500) g", vec![]),
                ("", vec![]),
                ("-- nothing", vec![]),
                ("do $$ begin raise notice 'n'; end $$", vec![]),
                ("select 1 / $1::int", vec![Some("0")]),
                ("select $1::int", vec![Some("no number")]),
                ("selec", vec![]),
                ("select 1; select 2", vec![]),
                ("select $1::int", vec![]),
                ("select 'usable'", vec![]),
            ] {
                client.ask([say::extended(sql, &values), say::sync()]).await;
            }
        })
        .await;
    }

    async fn binary_values_pass_in_both_directions(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            let (number, bytes) = (7_i32.to_be_bytes(), [0, 255, 0, b'\\']);
            client.ask([
                say::parse_typed("", "select $1 * 2, $2::bytea, $3::text", &[INT4]),
                say::bind_as("", "", &[1, 1, 0], &[Some(&number), Some(&bytes), None], &[1]),
                say::describe_portal(""),
                say::execute("", 0),
                say::sync(),
            ])
            .await;
        })
        .await;
    }

    async fn a_named_statement_is_described_executed_and_closed(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.ask([say::parse("s", "select $1::int as a, 'x'::text as b"), say::describe_statement("s"), say::sync()]).await;
            for value in ["1", "2", "3"] {
                client.ask([say::bind("", "s", &[Some(value)]), say::execute("", 0), say::sync()]).await;
            }
            client.ask([say::parse("t", "create temporary table if not exists x ()"), say::describe_statement("t"), say::sync()]).await;
            client.ask([say::close_statement("s"), say::close_statement("t"), say::close_statement("never"), say::sync()]).await;
        })
        .await;
    }

    async fn names_that_are_taken_or_unknown_are_errors_with_the_session_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        Comparison::of(&postgres, &pgusher)
            .in_notation()
            .run(async |client| {
                client.ask([say::parse("s", "select 1"), say::sync()]).await;
                client.ask([say::parse("s", "select 2"), say::sync()]).await;
                client.ask([say::bind("", "unknown", &[]), say::execute("", 0), say::sync()]).await;
                client.ask([say::describe_statement("unknown"), say::sync()]).await;
                client.ask([say::execute("unknown", 0), say::sync()]).await;
                client.ask([say::close_statement("s"), say::describe_statement("s"), say::sync()]).await;
                client.ask([say::parse("broken", "selec"), say::sync()]).await;
                client.ask([say::describe_statement("broken"), say::sync()]).await;
                client.ask([say::parse("broken", "select 3"), say::bind("", "broken", &[]), say::execute("", 0), say::sync()]).await;
            })
            .await;
    }

    async fn after_an_error_everything_is_skipped_up_to_the_sync(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send([
                say::extended("select 1", &[]),
                say::extended("select 1/0", &[]),
                say::extended("select 'skipped'", &[]),
                say::parse("skipped", "select 1"),
                say::flush(),
                say::sync(),
                say::extended("select 2", &[]),
                say::sync(),
            ])
            .await;
            client.read_until_ready_times(2).await;
        })
        .await;
    }

    async fn the_sync_after_an_error_may_come_late(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send([say::extended("select 1/0", &[])]).await;
            client.read_until(b'E').await;
            client.send([say::extended("select 'skipped'", &[]), say::flush()]).await;
            client.send([say::extended("select 'skipped too'", &[])]).await;
            client.ask([say::sync()]).await;
            client.ask([say::extended("select 'usable'", &[]), say::sync()]).await;
        })
        .await;
    }

    async fn a_flush_returns_what_is_owed_without_a_sync(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send([say::parse("", "select $1::int"), say::describe_statement(""), say::flush()]).await;
            client.read_until(b'T').await;
            client.send([say::bind("", "", &[Some("1")]), say::flush()]).await;
            client.read_until(b'2').await;
            client.send([say::execute("", 0), say::flush()]).await;
            client.read_until(b'C').await;
            client.ask([say::sync()]).await;
        })
        .await;
    }

    async fn a_row_limit_suspends_the_portal(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send([
                say::parse("", "select generate_series(1, 5)"),
                say::bind("p", "", &[]),
                say::execute("p", 2),
                say::flush(),
            ])
            .await;
            client.read_until(b's').await;
            client.send([say::execute("p", 2), say::flush()]).await;
            client.read_until(b's').await;
            client.ask([say::execute("p", 2), say::sync()]).await;
        })
        .await;
    }

    async fn portals_live_over_several_syncs_of_a_transaction(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.query("begin").await;
            client.ask([say::parse("s", "select generate_series(1, $1::int)"), say::sync()]).await;
            client.ask([say::bind("a", "s", &[Some("10")]), say::bind("b", "s", &[Some("3")]), say::sync()]).await;
            for _ in 0..3 {
                client.ask([say::execute("a", 4), say::execute("b", 1), say::sync()]).await;
            }
            client.ask([say::close_portal("a"), say::sync()]).await;
            client.ask([say::execute("a", 0), say::sync()]).await;
            client.query("rollback").await;
        })
        .await;
    }

    async fn pipelined_units_are_answered_in_order(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            let units = (0..300).map(|n| {
                let divisor = (n % 7).to_string();
                say::join([say::extended("select 1 / $1::int", &[Some(&divisor)]), say::sync()])
            });
            client.send(units).await;
            client.read_until_ready_times(300).await;
        })
        .await;
    }

    async fn simple_and_extended_units_mix_in_one_write(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send([
                say::query("begin"),
                say::extended("select 1", &[]),
                say::sync(),
                say::query("select 2"),
                say::sync(),
                say::sync(),
                say::query("commit"),
                say::query(""),
                say::extended("", &[]),
                say::sync(),
            ])
            .await;
            client.read_until_ready_times(8).await;
        })
        .await;
    }

    async fn an_unsynced_pipeline_is_one_transaction(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each("truncate t")
            .run(async |client| {
                client.ask([say::extended("insert into t values (1)", &[]), say::extended("select 1/0", &[]), say::sync()]).await;
                client.query("select count(*) from t").await;
                client.ask([say::extended("insert into t values (2)", &[]), say::extended("select 1", &[]), say::sync()]).await;
                client.query("select count(*) from t").await;
            })
            .await;
    }

    async fn messages_that_arrive_byte_by_byte_are_answered_as_directly(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            client.send_in_bytes([
                say::parse("s", "select $1::int"),
                say::describe_statement("s"),
                say::bind("p", "s", &[Some("1")]),
                say::execute("p", 0),
                say::close_portal("p"),
                say::sync(),
            ])
            .await;
            client.read_until_ready().await;
        })
        .await;
    }

    async fn statement_names_and_texts_may_be_longer_than_any_buffer(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let name = "n".repeat(60_000);
        let sql = format!("select {}::int /* {} */", "$1", "x".repeat(300_000));

        same_answers(&postgres, &pgusher, async |client| {
            client.ask([say::parse(&name, &sql), say::sync()]).await;
            client.ask([say::bind("", &name, &[Some("1")]), say::execute("", 0), say::sync()]).await;
        })
        .await;
    }

    async fn parameters_of_every_size_pass_unchanged(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;

        same_answers(&postgres, &pgusher, async |client| {
            for size in [0, 1, 8_150, 8_192, 65_500, 65_536, 5 << 20] {
                let value = "x".repeat(size);
                client.ask([say::extended("select length($1), md5($1)", &[Some(&value)]), say::sync()]).await;
            }
        })
        .await;
    }

    async fn a_statement_may_have_65535_parameters(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let values = vec![Some(b"1".as_slice()); 65_535];

        same_answers(&postgres, &pgusher, async |client| {
            client.ask([
                say::parse("", "select $65535::int"),
                say::bind_as("", "", &[], &values, &[]),
                say::execute("", 0),
                say::sync(),
            ])
            .await;
        })
        .await;
    }

    async fn an_execute_without_describe_gets_no_description(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).start().await;
        let mut client = pgusher.client().await;

        let answer = client.ask([say::parse("", "select 1"), say::bind("", "", &[]), say::execute("", 0), say::sync()]).await;

        assert_eq!(answer, "1 2 D C(SELECT 1) Z(I)");
    }

    async fn an_unnamed_statement_is_there_after_its_sync(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut other = pgusher.client().await;
        let mut client = pgusher.client().await;

        let parsed = client.ask([say::parse("", "select 'mine'"), say::sync()]).await;
        other.ask([say::extended("select 'another''s'", &[]), say::sync()]).await;
        client.send([say::bind("", "", &[]), say::execute("", 0), say::sync()]).await;
        let answer = client.read_until_ready().await;

        assert_eq!(parsed, "1 Z(I)");
        assert_eq!(notation(&answer), "2 D C(SELECT 1) Z(I)");
        assert_eq!(answer[1].row(), [Some("mine".to_owned())]);
    }

    async fn drivers_that_prepare_everything_work(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (driver, connection) = tokio_postgres::connect(&pgusher.target().url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);

        let statement = driver.prepare("select $1::int + 1").await.unwrap();
        for n in 0..20_i32 {
            let next: i32 = driver.query_one(&statement, &[&n]).await.unwrap().get(0);
            assert_eq!(next, n + 1);
        }
    }

    async fn pgbench_runs_in_every_protocol(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        postgres.tool("pgbench").args(["-i", "-q", "-s", "1"]).run().await.ok();

        for protocol in ["simple", "extended", "prepared"] {
            let report = postgres
                .tool("pgbench")
                .aim(&pgusher.target())
                .args(["-n", "-c", "6", "-t", "30", "-M", protocol])
                .run()
                .await
                .ok();

            assert!(report.contains("actually processed: 180/180"), "{report}");
        }
        assert_eq!(postgres.value("select count(*) from pgbench_history").await, "540");
    }
}

/// An unknown message type, a length that is too small: the connection is over, the server is not.
#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_and_closed() {
    let postgres = crate::harness::Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let pid = pgusher.client().await.server_pid().await;

    for nonsense in [
        say::frame(b'!', b"what"),
        Bytes::from_static(b"Q\0\0\0\x01"),
        Bytes::from_static(b"Q\xff\xff\xff\xff"),
    ] {
        let mut client: Raw = pgusher.client().await;
        client.send([nonsense]).await;
        let farewell = notation(&client.expect_close().await);

        assert_eq!(farewell, "E(08P01)");
        assert_eq!(pgusher.client().await.server_pid().await, pid);
    }
}
