//! Whatever may take too long has a limit: what is told, what is undone, what is kept.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::harness::{FakeServer, PATIENCE, Pgusher, Postgres, Raw, answer, eventually, notation, say};
use crate::on_every_major;

/// The limit most tests set.
const LIMIT: &str = "300ms";

on_every_major! {
    async fn a_query_that_runs_too_long_is_cancelled_and_the_session_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "query_timeout", LIMIT).start().await;
        let mut client = pgusher.client().await;
        let pid = client.server_pid().await;

        let simple = notation(&client.query("select pg_sleep(600)").await);
        let extended = client.ask([say::extended("select pg_sleep(600)", &[]), say::sync()]).await;

        assert_eq!((simple.as_str(), extended.as_str()), ("T E(57014) Z(I)", "1 2 T E(57014) Z(I)"));
        assert_eq!(client.server_pid().await, pid);
        postgres.until_asleep(0).await;
    }

    async fn every_query_of_a_transaction_has_its_limit(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "query_timeout", LIMIT).start().await;
        let mut client = pgusher.client().await;
        client.rows("begin; savepoint a").await;

        for _ in 0..3 {
            assert_eq!(notation(&client.query("select pg_sleep(600)").await), "T E(57014) Z(E)");
            client.rows("rollback to a").await;
        }

        assert_eq!(notation(&client.query("commit").await), "C(COMMIT) Z(I)");
    }

    async fn many_short_queries_in_one_write_are_not_one_long_query(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "query_timeout", "1s").start().await;
        let mut client = pgusher.client().await;

        client.send((0..7).map(|_| say::query("select pg_sleep(0.2)"))).await;

        for _ in 0..7 {
            assert_eq!(notation(&client.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        }
    }

    async fn a_transaction_that_takes_too_long_is_ended_with_its_client(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "transaction_timeout", LIMIT).start().await;
        let (mut witness, mut idler, mut sleeper) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        let pid = witness.server_pid().await;

        idler.rows("begin").await;
        let idle = idler.expect_close().await;
        sleeper.send([say::query("begin; select pg_sleep(600)")]).await;
        let asleep = sleeper.expect_close().await;

        assert_eq!(notation(&idle), "E(25P04)");
        assert_eq!(asleep.last().unwrap().sqlstate(), "25P04");
        assert_eq!(asleep.last().unwrap().severity(), "FATAL");
        postgres.until_asleep(0).await;
        assert_eq!(witness.server_pid().await, pid);
    }

    async fn a_client_silent_inside_its_transaction_is_rolled_back(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "idle_transaction_timeout", LIMIT).start().await;
        let (mut witness, mut client) = (pgusher.client().await, pgusher.client().await);
        let pid = witness.server_pid().await;

        // A query is no silence.
        client.send([say::query("begin; insert into t values (1)"), say::query("select pg_sleep(0.5)")]).await;
        let heard = client.expect_close().await;

        assert_eq!(notation(&heard), "C(BEGIN) C(INSERT 0 1) Z(T) T D C(SELECT 1) Z(T) E(25P03)");
        assert_eq!(heard.last().unwrap().severity(), "FATAL");
        assert_eq!(witness.value("select count(*) from t").await, "0");
        assert_eq!(witness.server_pid().await, pid);
    }

    async fn a_client_silent_before_its_sync_is_ended_like_one_in_a_transaction(postgres: Postgres) {
        postgres.sql("create table t (a int); alter table t owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "idle_transaction_timeout", LIMIT).start().await;
        let (mut witness, mut client) = (pgusher.client().await, pgusher.client().await);

        client.send([say::extended("insert into t values (1)", &[]), say::flush()]).await;
        let heard = client.expect_close().await;

        assert!(notation(&heard).ends_with("C(INSERT 0 1) E(25P03)"), "{}", notation(&heard));
        assert_eq!(witness.value("select count(*) from t").await, "0");
    }

    async fn a_client_silent_between_transactions_is_closed_where_that_is_limited(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).text("listen", "client_idle_timeout", "800ms").start().await;
        let mut client = pgusher.client().await;

        client.send([say::query("begin; select pg_sleep(1)"), say::query("commit")]).await;
        let heard = client.expect_close().await;

        assert_eq!(notation(&heard), "C(BEGIN) T D C(SELECT 1) Z(T) C(COMMIT) Z(I) E(57P05)");
        assert_eq!(heard.last().unwrap().severity(), "FATAL");
    }

    async fn a_server_is_replaced_when_its_life_is_over(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).text("pool", "lifetime", "1s").start().await;
        let mut client = pgusher.client().await;
        client.rows("begin").await;
        let first = client.server_pid().await;
        client.rows("select pg_sleep(1.1)").await;

        let within = client.server_pid().await;
        client.rows("commit").await;
        let after = client.server_pid().await;

        assert_eq!(within, first);
        assert_ne!(after, first);
    }

    async fn a_server_is_replaced_after_its_last_use(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "max_uses", "3").start().await;
        let mut client = pgusher.client().await;
        let mut pids = Vec::new();
        for _ in 0..9 {
            pids.push(client.server_pid().await);
        }
        pids.dedup();

        assert!((3..=4).contains(&pids.len()), "{pids:?}");
    }

    async fn servers_idle_for_long_are_closed_down_to_the_minimum(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .set("pool", "size", "5")
            .set("pool", "min", "2")
            .set("users.\"other\"", "min", "0")
            .text("pool", "idle_timeout", LIMIT)
            .start()
            .await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(pgusher.client().await);
        }
        for client in &mut clients {
            client.rows("begin").await;
        }
        postgres.until_servers_of("app", 5).await;
        for client in &mut clients {
            client.rows("commit").await;
        }

        postgres.until_servers_of("app", 2).await;
        // A server of another pool that goes for the same reason shows that the sweep has come by again.
        for _ in 0..2 {
            let other = Raw::login(&pgusher.target().user("other", "other")).await;
            other.terminate().await;
            postgres.until_servers_of("other", 0).await;
            assert_eq!(postgres.servers_of("app").await, 2);
        }
    }
}

#[tokio::test]
async fn servers_made_together_do_not_end_together() {
    const SERVERS: usize = 8;
    let postgres = Postgres::shared(18).await;
    let size = SERVERS.to_string();
    let pgusher = Pgusher::before(&postgres)
        .set("pool", "size", &size)
        .set("pool", "min", "0")
        .text("pool", "lifetime", "4s")
        .set("pool", "lifetime_jitter", "100")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..SERVERS {
        let mut client = pgusher.client().await;
        client.rows("begin").await;
        clients.push(client);
    }
    postgres.until_servers_of("app", SERVERS).await;
    for client in &mut clients {
        client.rows("commit").await;
    }
    let began = Instant::now();

    let mut counts = vec![SERVERS];
    eventually("all of them have ended", PATIENCE, async || {
        let left = postgres.servers_of("app").await;
        if counts.last() != Some(&left) {
            counts.push(left);
        }
        (left == 0).then_some(())
    })
    .await;

    assert!(counts.len() > 2, "all at once: {counts:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_login_that_takes_too_long_is_closed_wherever_it_stops() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "scram-sha-256")
        .text("listen", "login_timeout", "500ms")
        .start()
        .await;
    let startup = pgusher.target().startup();

    for words in [
        Bytes::new(),
        startup.slice(..3),
        startup.slice(..startup.len() - 1),
        say::ssl_request(),
        startup.clone(),
        say::join([startup.clone(), say::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")]),
    ] {
        let mut client = Raw::connect(&pgusher.target().address).await;
        let began = Instant::now();
        client.try_send(&words).await.unwrap();
        if words == say::ssl_request() {
            assert_eq!(client.read_byte().await, Some(b'N'));
        }
        client.expect_close().await;
        let took = began.elapsed();

        assert!(
            (Duration::from_millis(490)..Duration::from_secs(5)).contains(&took),
            "{took:?} after {words:?}"
        );
    }
    assert_eq!(pgusher.client().await.value("select 'in'").await, "in");
}

#[tokio::test]
async fn a_drop_by_drop_login_does_not_outlive_the_limit() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).text("listen", "login_timeout", "500ms").start().await;
    let mut client = Raw::connect(&pgusher.target().address).await;
    let began = Instant::now();

    for byte in pgusher.target().startup() {
        tokio::time::sleep(Duration::from_millis(50)).await; // each byte in time, all of them not
        if client.try_send(&[byte]).await.is_err() {
            break;
        }
        if began.elapsed() > PATIENCE {
            panic!("still listened to");
        }
    }

    assert!(client.expect_close().await.is_empty());
}

#[tokio::test]
async fn the_limit_on_connecting_covers_the_whole_login() {
    for stage in 0..3 {
        let server = FakeServer::start(move |mut peer| async move {
            if stage > 0 {
                let Some(_) = peer.startup().await else { return };
            }
            if stage > 1 {
                peer.send([answer::authentication_ok(), answer::parameter_status("a", "b")]).await;
            }
            peer.until_gone().await;
        })
        .await;
        let pgusher = Pgusher::before_address(server.address())
            .pool_size(1)
            .text("pool", "connect_timeout", "200ms")
            .text("pool", "acquire_timeout", "1s")
            .start()
            .await;
        let began = Instant::now();

        let mut client = Raw::connect(&pgusher.target().address).await;
        let refusal = client.try_login(&pgusher.target()).await.unwrap_err();

        let took = began.elapsed();
        assert_eq!(refusal.sqlstate(), "08001", "stage {stage}: {refusal:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert!(server.connections() >= 2, "it was not tried again");
    }
}

#[tokio::test]
async fn a_server_that_stops_answering_is_left_by_a_cancelled_client() {
    let (asked, mut hears) = watch::channel(0);
    let server = FakeServer::start(move |mut peer| {
        let asked = asked.clone();
        async move {
            if peer.let_in().await.is_none() {
                return;
            }
            while peer.read_until(b'Q').await.is_some() {
                asked.send_modify(|count| *count += 1);
                if *asked.borrow() > 1 {
                    peer.send([answer::one_value("a", "1")]).await;
                }
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address())
        .pool_size(1)
        .text("pool", "clean_timeout", "300ms")
        .start()
        .await;
    let mut dead = pgusher.client().await;
    dead.send([say::query("select never")]).await;
    hears.wait_for(|count| *count == 1).await.unwrap();

    dead.reset();

    let mut client = pgusher.client().await;
    assert_eq!(client.value("select a").await, "1");
    eventually("it is another connection", PATIENCE, async || (server.connections() >= 2).then_some(()))
        .await;
}
