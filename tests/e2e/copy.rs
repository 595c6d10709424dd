//! COPY in both directions and all protocols, ended well, ended badly, and not ended at all.

use crate::harness::{Comparison, Pgusher, Postgres, Raw, notation, say};
use crate::on_every_major;

const TABLE: &str = "create table t (a int primary key, b text); alter table t owner to app";
const SEED: &str = "truncate t; insert into t select g, 'row ' || g from generate_series(1, 100) g";

on_every_major! {
    async fn copying_out_is_answered_as_directly(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each(SEED)
            .run(async |client| {
                client.query("copy t to stdout").await;
                client.query("copy (select * from t where false) to stdout (format csv, header)").await;
                client.query("copy t to stdout (format binary)").await;
                client.query("copy (select 1 / (50 - a) from t order by a) to stdout").await;
                client.query("select 1; copy t to stdout; select 2").await;
                client.ask([say::extended("copy t to stdout", &[]), say::sync()]).await;
                client.ask([say::parse("c", "copy t to stdout"), say::sync()]).await;
                for _ in 0..2 {
                    client.ask([say::bind("", "c", &[]), say::execute("", 0), say::sync()]).await;
                }
            })
            .await;
    }

    async fn copying_in_is_answered_as_directly(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each("truncate t")
            .run(async |client| {
                begin_copy(client, [say::query("copy t from stdin")]).await;
                client.ask([say::copy_data(b"1\tone\n2\ttwo\n"), say::copy_data(b"3\tthr"), say::copy_data(b"ee\n"), say::copy_done()]).await;

                begin_copy(client, [say::extended("copy t from stdin (format csv)", &[]), say::flush()]).await;
                client.ask([say::copy_data(b"4,four\n"), say::copy_done(), say::sync()]).await;

                client.ask([say::parse("c", "copy t from stdin"), say::sync()]).await;
                for row in ["5\tfive\n", "6\tsix\n"] {
                    begin_copy(client, [say::bind("", "c", &[]), say::execute("", 0), say::flush()]).await;
                    client.ask([say::copy_data(row.as_bytes()), say::copy_done(), say::sync()]).await;
                }
                client.query("select * from t order by a").await;
            })
            .await;
    }

    async fn copying_in_may_be_sent_without_waiting_for_leave(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each("truncate t")
            .run(async |client| {
                client.ask([say::query("copy t from stdin"), say::copy_data(b"1\tone\n"), say::copy_done()]).await;
                client
                    .send([
                        say::query("copy t from stdin; select 1; copy t from stdin"),
                        say::copy_data(b"2\ttwo\n"),
                        say::copy_done(),
                        say::copy_data(b"3\tthree\n"),
                        say::copy_done(),
                        say::query("select count(*) from t"),
                    ])
                    .await;
                client.read_until_ready_times(2).await;
            })
            .await;
    }

    async fn a_copy_that_the_client_fails_is_answered_as_directly(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each("truncate t")
            .run(async |client| {
                begin_copy(client, [say::query("copy t from stdin")]).await;
                client.ask([say::copy_data(b"1\tone\n"), say::copy_fail("changed my mind")]).await;
                begin_copy(client, [say::extended("copy t from stdin", &[]), say::flush()]).await;
                client.ask([say::copy_data(b"1\tone\n"), say::copy_fail("again"), say::sync()]).await;
                client.query("begin").await;
                begin_copy(client, [say::query("copy t from stdin")]).await;
                client.ask([say::copy_fail("inside a transaction")]).await;
                client.query("rollback").await;
                client.query("select count(*) from t").await;
            })
            .await;
    }

    async fn a_copy_that_the_server_fails_swallows_the_data_still_arriving(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .before_each("truncate t")
            .run(async |client| {
                begin_copy(client, [say::query("copy t from stdin")]).await;
                client.send([say::copy_data(b"no number\n")]).await;
                client.send((0..200).map(|_| say::copy_data(&[b'x'; 1000]))).await;
                client.send([say::copy_done(), say::query("select 'usable'")]).await;
                client.read_until_ready_times(2).await;

                begin_copy(client, [say::extended("copy t from stdin", &[]), say::flush()]).await;
                client.send([say::copy_data(b"no number\n"), say::copy_data(b"2\tb\n"), say::copy_done(), say::sync()]).await;
                client.read_until_ready().await;
                client.query("select count(*) from t").await;
            })
            .await;
    }

    async fn data_that_comes_when_no_copy_is_on_is_ignored(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        Comparison::of(&postgres, &pgusher)
            .run(async |client| {
                client.send([say::copy_data(b"late"), say::copy_done(), say::copy_fail("late"), say::query("select 1")]).await;
                client.read_until_ready().await;
            })
            .await;
    }

    async fn a_copy_keeps_its_server_to_its_end(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        begin_copy(&mut a, [say::query("copy t from stdin")]).await;
        a.send([say::copy_data(b"1\tone\n")]).await;
        b.send([say::query("select count(*) from t")]).await;
        a.send([say::copy_data(b"2\ttwo\n")]).await;
        b.expect_silence(std::time::Duration::from_millis(100)).await;
        let done = a.ask([say::copy_done()]).await;
        let seen = b.read_until_ready().await;

        assert_eq!(done, "C(COPY 2) Z(I)");
        assert_eq!(seen[1].row(), [Some("2".to_owned())]);
    }

    async fn a_client_that_leaves_while_copying_in_leaves_nothing(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;

        for extended in [false, true] {
            for reset in [false, true] {
                let mut client = pgusher.client().await;
                let copy = if extended {
                    say::join([say::extended("copy t from stdin", &[]), say::flush()])
                } else {
                    say::query("copy t from stdin")
                };
                begin_copy(&mut client, [copy]).await;
                client.send([say::copy_data(b"1\tone\n")]).await;
                if reset {
                    client.reset();
                } else {
                    client.close().await;
                }

                assert_eq!(witness.value("select count(*) from t").await, "0", "extended {extended}, reset {reset}");
            }
        }
    }

    async fn a_client_that_leaves_while_copying_out_frees_its_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;

        let mut client = pgusher.client().await;
        client.send([say::query("copy (select repeat('x', 1000) from generate_series(1, 10000000)) to stdout")]).await;
        client.read_until(b'd').await;
        client.reset();

        assert_eq!(witness.value("select 'served'").await, "served");
    }

    async fn a_copy_both_ways_of_ten_megabytes_is_the_same_afterwards(postgres: Postgres) {
        postgres.sql(TABLE).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut client = pgusher.client().await;

        begin_copy(&mut client, [say::query("copy t from stdin")]).await;
        for batch in 0..100 {
            let rows = (0..100).map(|row| format!("{}\t{}\n", batch * 100 + row, "x".repeat(1_000)));
            client.send([say::copy_data(rows.collect::<String>().as_bytes())]).await;
        }
        let done = client.ask([say::copy_done()]).await;
        let out = client.query("copy (select * from t order by a) to stdout").await;

        assert_eq!(done, "C(COPY 10000) Z(I)");
        assert_eq!(out.iter().filter(|frame| frame.is(b'd')).count(), 10_000);
        assert_eq!(notation(&out[10_001..]), "c C(COPY 10000) Z(I)");
    }

    async fn psql_copies_through_the_pooler(postgres: Postgres) {
        postgres.sql(TABLE).await;
        postgres.sql(SEED).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let file = pgusher.directory().join("t.csv");

        let script = format!("\\copy t to '{0}' csv\ntruncate t;\n\\copy t from '{0}' csv\nselect count(*) from t;\n", file.display());
        let commands = pgusher.directory().join("commands.sql");
        std::fs::write(&commands, script).unwrap();
        let said = postgres.tool("psql").aim(&pgusher.target()).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&commands).run().await.ok();

        assert_eq!(said.trim(), "100");
    }
}

/// pg_dump knows servers up to its own major, which is 15.
#[tokio::test]
async fn pg_dump_through_the_pooler_is_the_same_as_directly() {
    for major in [14, 15] {
        let postgres = Postgres::shared(major).await;
        postgres.sql(TABLE).await;
        postgres.sql(SEED).await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;

        let direct = postgres.tool("pg_dump").run().await.ok();
        let through = postgres.tool("pg_dump").aim(&pgusher.target()).run().await.ok();

        assert!(direct.contains("row 100"), "{direct}");
        assert_eq!(without_nonce(&through), without_nonce(&direct));
    }
}

/// Says it, and waits until the server wants data.
async fn begin_copy(client: &mut Raw, messages: impl IntoIterator<Item = bytes::Bytes>) {
    client.send(messages).await;
    client.read_until(b'G').await;
}

/// Newer minors put a random word into `\restrict`.
fn without_nonce(dump: &str) -> Vec<&str> {
    dump.lines().filter(|line| !line.contains("restrict")).collect()
}
