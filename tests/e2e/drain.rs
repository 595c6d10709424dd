//! Told to end, it lets transactions finish; told twice, it ends.

use std::time::{Duration, Instant};

use crate::harness::{Pgusher, Postgres, Raw, notation, say};
use crate::on_every_major;

on_every_major! {
    async fn idle_clients_are_told_and_transactions_finish(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let mut pgusher = Pgusher::before(&postgres).start().await;
        let (mut idle, mut inside, mut busy) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        inside.rows("begin; insert into t values (1)").await;
        let gate = postgres.gate().await;
        busy.send([say::query("select count(*) from gate")]).await;
        postgres.until_at_gate(1).await;

        pgusher.terminate();
        let farewell = idle.expect_close().await;
        inside.rows("insert into t values (2)").await;
        let committed = notation(&inside.query("commit").await);
        let told = notation(&inside.expect_close().await);
        gate.open().await;
        let served = notation(&busy.read_until_ready().await);

        assert_eq!(notation(&farewell), "E(57P01)");
        assert_eq!(farewell[0].severity(), "FATAL");
        assert_eq!((committed.as_str(), told.as_str()), ("C(COMMIT) Z(I)", "E(57P01)"));
        assert_eq!(served, "T D C(SELECT 1) Z(I)");
        assert_eq!(notation(&busy.expect_close().await), "E(57P01)");
        assert!(pgusher.end().await.success());
        assert_eq!(postgres.value("select count(*) from t").await, "2");
        postgres.until_unused().await;
    }

    async fn a_second_signal_ends_at_once(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres).start().await;
        let mut inside = pgusher.client().await;
        inside.rows("begin").await;
        pgusher.terminate();
        pgusher.until_logged("draining").await;

        let began = Instant::now();
        pgusher.terminate();
        pgusher.end().await;

        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        inside.expect_close().await;
        postgres.until_unused().await;
    }

    async fn the_last_transactions_have_a_deadline(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres).text("listen", "drain_timeout", "500ms").start().await;
        let mut inside = pgusher.client().await;
        inside.rows("begin").await;

        pgusher.terminate();
        let told = notation(&inside.expect_close().await);

        assert_eq!(told, "E(57P01)");
        assert!(pgusher.end().await.success());
        postgres.until_unused().await;
    }

    async fn a_login_that_waits_for_a_server_at_the_deadline_is_told(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres)
            .pool_size(1)
            .text("listen", "auth", "trust")
            .text("listen", "drain_timeout", "500ms")
            .metrics()
            .start()
            .await;
        let mut inside = pgusher.client().await;
        inside.rows("begin").await;
        // Settings nobody had before are tried on a server before the client is let in.
        let target = pgusher.target().with("DateStyle", "German");
        let mut waiting = Raw::connect(&target.address).await;
        waiting.send([target.startup()]).await;
        pgusher.until_waiting(1).await;

        pgusher.terminate();
        let told = waiting.expect_close().await;

        assert_eq!(notation(&told), "E(57P01)");
        assert_eq!(told[0].severity(), "FATAL");
        inside.expect_close().await;
        assert!(pgusher.end().await.success());
    }

    async fn newcomers_are_served_through_the_grace_and_then_told(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres).text("listen", "drain_grace", "2s").start().await;
        let mut here = pgusher.client().await;

        pgusher.terminate();
        pgusher.until_logged("draining").await;
        let mut late = pgusher.client().await;
        let served = (here.value("select 'here'").await, late.value("select 'late'").await);
        let told = (notation(&here.expect_close().await), notation(&late.expect_close().await));

        assert_eq!(served, ("here".into(), "late".into()));
        assert_eq!(told, ("E(57P01)".into(), "E(57P01)".into()));
        assert!(pgusher.end().await.success());
        postgres.until_unused().await;
    }

    async fn what_runs_at_the_deadline_is_cancelled_on_the_server(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres).text("listen", "drain_timeout", "300ms").start().await;
        let mut busy = pgusher.client().await;
        busy.send([say::query("select pg_sleep(60)")]).await;
        postgres.until_asleep(1).await;

        pgusher.terminate();

        assert_eq!(notation(&busy.expect_close().await), "E(57P01)");
        assert!(pgusher.end().await.success());
        postgres.until_asleep(0).await;
    }
}

/// Each is at a boundary of its own: it keeps a server, has one for its whole session, waits for one, or is in a pipeline.
#[tokio::test]
async fn those_who_hold_or_wait_for_servers_are_told_at_their_boundary() {
    let postgres = Postgres::shared(17).await;
    postgres.sql("create table t (a int); alter table t owner to app").await;
    let session = "databases.\"session\"";
    let mut pgusher = Pgusher::before(&postgres)
        .pool_size(2)
        .database("session", postgres.address())
        .text(session, "dbname", postgres.database())
        .text(session, "mode", "session")
        .start()
        .await;
    let mut listening = pgusher.client().await;
    listening.rows("listen here").await;
    let mut settled = Raw::login(&pgusher.target().database("session")).await;
    settled.rows("create temporary table mine (a int)").await;
    let (mut copying, mut waiting) = (pgusher.client().await, pgusher.client().await);
    copying.send([say::query("copy t from stdin")]).await;
    copying.read_until(b'G').await;
    waiting.send([say::query("insert into t values (2)")]).await;
    waiting.expect_silence(Duration::from_millis(50)).await;

    pgusher.terminate();
    let told = [notation(&listening.expect_close().await), notation(&settled.expect_close().await)];
    copying.send([say::copy_data(b"1\n"), say::copy_done()]).await;
    let copied = notation(&copying.read_until_ready().await);
    let (after_copy, waited) =
        (notation(&copying.expect_close().await), notation(&waiting.expect_close().await));

    assert_eq!(told, ["E(57P01)", "E(57P01)"]);
    assert_eq!((copied.as_str(), after_copy.as_str()), ("C(COPY 1) Z(I)", "E(57P01)"));
    assert!(pgusher.end().await.success());
    // It was told, so nothing of it ran; or it was served before it was told.
    let rows = postgres.value("select string_agg(a::text, ',' order by a) from t").await;
    let expected = if waited == "E(57P01)" { "1" } else { "1,2" };
    assert_eq!(rows, expected, "{waited}");
    postgres.until_unused().await;
}
