//! A server is shared between transactions and never inside one; so with sessions and statements, in their modes.

use std::time::Duration;

use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};
use crate::on_every_major;

/// Long enough for an answer that should not come, short enough for many tests.
const A_WHILE: Duration = Duration::from_millis(100);

on_every_major! {
    async fn two_clients_share_one_server_in_turn(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        let pids = [a.server_pid().await, b.server_pid().await, a.server_pid().await];

        assert_eq!(pids[0], pids[1]);
        assert_eq!(pids[1], pids[2]);
    }

    async fn nobody_else_gets_the_server_inside_a_transaction(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.rows("begin").await;
        b.send([say::query("select 'b'")]).await;
        a.rows("select 1").await;
        b.expect_silence(A_WHILE).await;
        a.rows("commit").await;

        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_failed_transaction_keeps_its_server_until_the_rollback(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.rows("begin").await;
        a.query("select 1/0").await;
        b.send([say::query("select 'b'")]).await;
        b.expect_silence(A_WHILE).await;
        let refused = notation(&a.query("select 1").await);
        a.rows("rollback").await;

        assert_eq!(refused, "E(25P02) Z(E)");
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_chained_transaction_keeps_its_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.rows("begin").await;
        b.send([say::query("select 'b'")]).await;
        a.rows("commit and chain").await;
        a.rows("rollback and chain").await;
        b.expect_silence(A_WHILE).await;
        a.rows("commit").await;

        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_transaction_may_begin_and_end_in_the_extended_protocol(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        let begun = a.ask([say::extended("begin", &[]), say::sync()]).await;
        b.send([say::extended("select 'b'", &[]), say::sync()]).await;
        b.expect_silence(A_WHILE).await;
        let ended = a.ask([say::extended("commit", &[]), say::sync()]).await;

        assert_eq!((begun.as_str(), ended.as_str()), ("1 2 n C(BEGIN) Z(T)", "1 2 n C(COMMIT) Z(I)"));
        assert_eq!(notation(&b.read_until_ready().await), "1 2 T D C(SELECT 1) Z(I)");
    }

    async fn an_unsynced_unit_keeps_its_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.send([say::extended("select 'a'", &[]), say::flush()]).await;
        a.read_until(b'C').await;
        b.send([say::query("select 'b'")]).await;
        b.expect_silence(A_WHILE).await;
        let synced = a.ask([say::sync()]).await;

        assert_eq!(synced, "Z(I)");
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_failed_unit_keeps_its_server_until_its_sync(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.send([say::extended("select 1/0", &[]), say::flush()]).await;
        a.read_until(b'E').await;
        b.send([say::query("select 'b'")]).await;
        b.expect_silence(A_WHILE).await;
        let synced = a.ask([say::sync()]).await;

        assert_eq!(synced, "Z(I)");
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_pipeline_gets_all_its_answers_while_others_wait_for_the_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(pgusher.client().await);
        }

        for (number, client) in clients.iter_mut().enumerate() {
            let mark = number.to_string();
            let units = (0..50).map(|_| say::join([say::extended("select $1::text", &[Some(&mark)]), say::sync()]));
            client.send(units).await;
        }

        for (number, client) in clients.iter_mut().enumerate() {
            let answers = client.read_until_ready_times(50).await;
            let rows: Vec<_> = answers.iter().filter(|frame| frame.is(b'D')).flat_map(|frame| frame.row()).collect();
            assert_eq!(rows, vec![Some(number.to_string()); 50]);
        }
    }

    async fn the_pool_never_exceeds_its_size(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(3).start().await;

        let storm = (0..20).map(|_| {
            let target = pgusher.target();
            tokio::spawn(async move {
                let mut client = Raw::login(&target).await;
                for _ in 0..10 {
                    client.rows("begin").await;
                    client.rows("select 1").await;
                    client.rows("commit").await;
                }
                client.terminate().await;
            })
        });
        let storm: Vec<_> = storm.collect();
        let mut most = 0;
        eventually("every client is served", PATIENCE, async || {
            most = most.max(servers_of(&postgres).await);
            storm.iter().all(tokio::task::JoinHandle::is_finished).then_some(())
        })
        .await;
        for client in storm {
            client.await.unwrap();
        }

        assert!((1..=3).contains(&most), "{most} servers");
    }

    async fn a_client_that_leaves_inside_a_transaction_is_rolled_back_and_its_server_reused(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;
        let pid = witness.server_pid().await;

        for leave in [Leave::Terminate, Leave::Fin, Leave::Rst] {
            let mut client = pgusher.client().await;
            client.rows("begin").await;
            client.rows("insert into t values (1)").await;
            leave.with(client).await;

            assert_eq!(witness.value("select count(*) from t").await, "0", "{leave:?}");
        }
        assert_eq!(witness.server_pid().await, pid);
    }

    async fn a_client_that_leaves_before_its_sync_leaves_nothing(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;

        for leave in [Leave::Terminate, Leave::Fin, Leave::Rst] {
            let mut client = pgusher.client().await;
            client.send([say::extended("insert into t values (1)", &[]), say::flush()]).await;
            client.read_until(b'C').await;
            leave.with(client).await;

            assert_eq!(witness.value("select count(*) from t").await, "0", "{leave:?}");
        }
    }

    async fn a_client_that_leaves_during_its_query_has_it_cancelled(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;

        for leave in [Leave::Fin, Leave::Rst] {
            let mut client = pgusher.client().await;
            client.send([say::query("select pg_sleep(600)")]).await;
            postgres.until(SLEEPING, "1").await;
            leave.with(client).await;

            postgres.until(SLEEPING, "0").await;
            assert_eq!(witness.value("select 'served'").await, "served");
            assert!(servers_of(&postgres).await <= 1);
        }
    }

    async fn a_client_that_leaves_while_it_waits_is_forgotten(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

        a.rows("begin").await;
        b.send([say::query("create table never ()")]).await;
        b.expect_silence(A_WHILE).await;
        b.reset();
        a.rows("commit").await;

        let mut c = pgusher.client().await;
        assert_eq!(c.value("select 'served'").await, "served");
        assert_eq!(c.value("select to_regclass('never') is null").await, "t");
    }

    async fn two_users_never_share_a_server(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut a = pgusher.client().await;
        let mut b = Raw::login(&pgusher.target().user("other", "other")).await;

        assert_eq!(a.value("select current_user").await, "app");
        assert_eq!(b.value("select current_user").await, "other");
        assert_ne!(a.server_pid().await, b.server_pid().await);
    }

    async fn in_session_mode_a_server_stays_until_its_client_leaves(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).mode("session").start().await;
        let mut a = pgusher.client().await;
        let pid = a.server_pid().await;
        a.rows("create temporary table mine ()").await;
        a.rows("set work_mem = '5MB'").await;

        let target = pgusher.target();
        let waiting = tokio::spawn(async move {
            let mut b = Raw::login(&target).await;
            let found = b.value("select to_regclass('mine') is not null").await;
            (b.server_pid().await, found, b.value("show work_mem").await)
        });
        tokio::time::sleep(A_WHILE).await; // b must still be waiting; nothing announces that
        assert!(!waiting.is_finished());
        assert_eq!(a.server_pid().await, pid);
        a.terminate().await;

        assert_eq!(waiting.await.unwrap(), (pid, "f".into(), "4MB".into()));
    }

    async fn in_statement_mode_a_transaction_block_is_refused_and_the_session_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).mode("statement").start().await;
        let mut client = pgusher.client().await;

        let simple = notation(&client.query("begin").await);
        let extended = client.ask([say::extended("start transaction", &[]), say::sync()]).await;

        assert_eq!(simple, "E(0A000) Z(I)");
        assert!(extended.ends_with("E(0A000) Z(I)"), "{extended}");
        assert_eq!(client.value("select 'kept'").await, "kept");
    }
}

const SLEEPING: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";

#[derive(Debug)]
enum Leave {
    Fin,
    Rst,
    Terminate,
}

impl Leave {
    async fn with(&self, client: Raw) {
        match self {
            Self::Fin => client.close().await,
            Self::Rst => client.reset(),
            Self::Terminate => client.terminate().await,
        }
    }
}

/// Connections to the test's database, but for the one that asks.
async fn servers_of(postgres: &Postgres) -> usize {
    let count = postgres
        .value(
            "select count(*) from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend' and usename = 'app'",
        )
        .await;
    count.parse().unwrap()
}
