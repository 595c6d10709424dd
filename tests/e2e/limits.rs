//! How many servers there may be, how many clients, and who is served next.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::harness::{
    FakeServer, Frame, PATIENCE, Pgusher, Postgres, Raw, answer, eventually, notation, say,
};
use crate::on_every_major;

/// Long enough for an answer that should not come, short enough for many tests.
const A_WHILE: Duration = Duration::from_millis(150);

on_every_major! {
    async fn the_minimum_is_opened_at_start_and_kept(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .set("pool", "min", "3")
            .of_database("user", "\"app\"")
            .of_database("password", "\"app\"")
            .start()
            .await;

        postgres.until_servers_of("app", 3).await;
        postgres.terminate_servers_of("app").await;
        postgres.until_servers_of("app", 3).await;
        assert_eq!(pgusher.client().await.value("select 'served'").await, "served");
    }

    async fn the_minimum_of_a_pool_without_a_login_of_its_own_is_opened_once_a_client_has_come(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).set("pool", "min", "3").text("listen", "auth", "scram-sha-256").start().await;
        assert_eq!(postgres.servers_of("app").await, 0);

        pgusher.client().await.rows("select 1").await;

        postgres.until_servers_of("app", 3).await;
    }

    async fn the_reserve_is_opened_for_those_who_have_waited_long_enough(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .pool_size(1)
            .set("pool", "reserve", "1")
            .text("pool", "reserve_timeout", "400ms")
            .start()
            .await;
        let (mut a, mut b, mut c) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        a.rows("begin").await;

        let began = Instant::now();
        b.rows("begin").await;
        let waited = began.elapsed();
        c.send([say::query("select 'c'")]).await;
        c.expect_silence(Duration::from_millis(600)).await;
        let most = postgres.servers_of("app").await;
        a.rows("commit").await;

        assert!(waited >= Duration::from_millis(400), "{waited:?}");
        assert_eq!(most, 2);
        assert_eq!(notation(&c.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn a_cap_on_a_database_holds_over_all_its_users(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(5).of_database("max_servers", "2").start().await;

        assert_capped_at_two(&postgres, &pgusher).await;
    }

    async fn a_cap_on_all_servers_holds_over_all_pools(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(5).set("pool", "max_servers", "2").start().await;

        assert_capped_at_two(&postgres, &pgusher).await;
    }

    async fn a_cap_on_a_user_holds_over_all_databases(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .pool_size(5)
            .database("second", postgres.address())
            .text("databases.\"second\"", "dbname", postgres.database())
            .set("users.\"app\"", "max_servers", "1")
            .start()
            .await;
        let mut first = pgusher.client().await;
        let mut second = Raw::login(&pgusher.target().database("second")).await;

        for _ in 0..3 {
            first.rows("select 1").await;
            second.rows("select 1").await;
            assert_eq!(postgres.servers_of("app").await, 1);
        }
        first.rows("begin").await;
        second.send([say::query("select 'second'")]).await;
        second.expect_silence(A_WHILE).await;
        first.rows("commit").await;

        assert_eq!(notation(&second.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    async fn an_idle_server_of_another_pool_makes_room_under_a_cap(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(5).of_database("max_servers", "1").start().await;
        let mut a = pgusher.client().await;
        let mut b = Raw::login(&pgusher.target().user("other", "other")).await;

        for _ in 0..3 {
            assert_eq!(a.value("select current_user").await, "app");
            assert_eq!(b.value("select current_user").await, "other");
        }

        postgres.until_servers_of("app", 0).await;
        assert_eq!(postgres.servers_of("other").await, 1);
    }

    async fn a_server_given_back_serves_a_client_of_its_own_pool_that_waits_for_a_cap(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(3).of_database("max_servers", "1").start().await;
        let (mut a, mut b, mut c) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        a.rows("begin").await;
        let pid = a.server_pid().await;

        b.send([say::query("select pg_backend_pid()")]).await;
        b.expect_silence(A_WHILE).await;
        c.send([say::query("select pg_backend_pid()")]).await;
        a.rows("commit").await;

        for client in [&mut b, &mut c] {
            let answer = client.read_until_ready().await;
            assert_eq!(answer[1].row(), [Some(pid.clone())]);
        }
    }

    async fn a_busy_pool_does_not_keep_another_from_a_cap_for_ever(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .pool_size(1)
            .text("pool", "max_uses", "unlimited")
            .of_database("max_servers", "1")
            .start()
            .await;
        let mut storm = Vec::new();
        for _ in 0..3 {
            let target = pgusher.target();
            let mut client = Raw::login(&target).await;
            storm.push(tokio::spawn(async move {
                loop {
                    client.rows("select 1").await;
                }
            }));
        }

        let mut other = Raw::login(&pgusher.target().user("other", "other")).await;
        let served = other.value("select current_user").await;

        assert_eq!(served, "other");
        assert!(storm.iter().all(|task| !task.is_finished()));
        storm.iter().for_each(tokio::task::JoinHandle::abort);
    }

    async fn too_many_clients_are_told_so_and_the_next_is_let_in_when_one_has_left(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).set("listen", "max_clients", "2").start().await;
        let (first, mut second) = (pgusher.client().await, pgusher.client().await);

        let refusal = refused(&pgusher, "app").await;
        first.terminate().await;
        let mut third = eventually("there is room", PATIENCE, async || {
            let mut client = Raw::connect(&pgusher.target().address).await;
            client.try_login(&pgusher.target()).await.is_ok().then_some(client)
        })
        .await;

        assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "53300".into()));
        assert_eq!(second.value("select 2").await, "2");
        assert_eq!(third.value("select 3").await, "3");
    }

    async fn the_clients_of_a_user_and_of_a_database_are_counted_for_themselves(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .set("users.\"app\"", "max_clients", "1")
            .of_database("max_clients", "2")
            .start()
            .await;
        let _first = pgusher.client().await;

        let of_user = refused(&pgusher, "app").await;
        let second = Raw::login(&pgusher.target().user("other", "other")).await;
        let of_database = refused(&pgusher, "hashed").await;
        second.terminate().await;

        assert_eq!((of_user.sqlstate(), of_database.sqlstate()), ("53300".into(), "53300".into()));
        eventually("there is room in the database", PATIENCE, async || {
            let mut client = Raw::connect(&pgusher.target().address).await;
            client.try_login(&pgusher.target().user("hashed", "hashed")).await.ok()
        })
        .await;
    }

    async fn failed_logins_hold_no_place(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres)
            .set("listen", "max_clients", "1")
            .text("listen", "auth", "scram-sha-256")
            .start()
            .await;

        for _ in 0..5 {
            let mut client = Raw::connect(&pgusher.target().address).await;
            let refusal = client.try_login(&pgusher.target().user("app", "wrong")).await.unwrap_err();
            assert_eq!(refusal.sqlstate(), "28P01");
            // Not closed by us: the place of a refused client does not wait for that.
            std::mem::forget(client);
        }

        assert_eq!(pgusher.client().await.value("select 'in'").await, "in");
    }

    async fn those_who_wait_are_served_in_the_order_in_which_they_came(postgres: Postgres) {
        postgres.sql("create sequence turn; grant all on turn to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut a = pgusher.client().await;
        let mut queue = Vec::new();
        for _ in 0..8 {
            queue.push(pgusher.client().await);
        }
        a.rows("begin").await;

        for client in &mut queue {
            client.send([say::query("select nextval('turn')")]).await;
            // Its words are read before the next client's are sent: a round trip on a connection of its own.
            let probe = Raw::connect(&pgusher.target().address).await;
            cancel_nobody(probe).await;
        }
        a.rows("commit").await;

        for (place, client) in queue.iter_mut().enumerate() {
            let answer = client.read_until_ready().await;
            assert_eq!(answer[1].row(), [Some((place + 1).to_string())]);
        }
    }

    async fn a_queue_that_is_full_refuses_at_once_and_keeps_the_session(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).set("pool", "max_waiting", "1").metrics().start().await;
        let (mut a, mut b, mut c) = (pgusher.client().await, pgusher.client().await, pgusher.client().await);
        a.rows("begin").await;
        b.send([say::query("select 'b'")]).await;
        pgusher.until_waiting(1).await;

        let began = Instant::now();
        let simple = c.query("select 'c'").await;
        let extended = c.ask([say::extended("select 'c'", &[]), say::sync()]).await;
        let took = began.elapsed();
        a.rows("commit").await;

        assert_eq!(notation(&simple), "E(53300) Z(I)");
        assert_eq!(simple[0].severity(), "ERROR");
        assert_eq!(extended, "E(53300) Z(I)");
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(notation(&b.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        assert_eq!(c.value("select 'kept'").await, "kept");
    }

    async fn clients_for_whom_servers_are_being_opened_are_not_too_many(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(5).set("pool", "max_waiting", "1").start().await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(pgusher.client().await);
        }

        for client in &mut clients {
            client.send([say::query("select pg_sleep(0.3)")]).await;
        }

        for client in &mut clients {
            assert_eq!(notation(&client.read_until_ready().await), "T D C(SELECT 1) Z(I)");
        }
    }

    async fn a_client_whose_server_is_slow_to_open_takes_one_given_back_meanwhile(postgres: Postgres) {
        let mut postgres = Postgres::private(postgres.major(), &[], "").await;
        let pgusher = Pgusher::before(&postgres)
            .pool_size(2)
            .set("pool", "min", "0")
            .text("pool", "connect_timeout", "60s")
            .start()
            .await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.rows("begin").await;
        let pid = a.server_pid().await;
        let mut witness = Raw::login(&postgres.superuser()).await;
        postgres.configure(&[("pre_auth_delay", "30")]);
        postgres.reload();
        eventually("logins are slow", PATIENCE, async || (witness.value("show pre_auth_delay").await == "30s").then_some(())).await;

        b.send([say::query("select pg_backend_pid()")]).await;
        b.expect_silence(A_WHILE).await;
        a.rows("commit").await;

        assert_eq!(b.read_until_ready().await[1].row(), [Some(pid.to_string())]);
        assert_eq!(a.server_pid().await, pid);
    }

    async fn a_client_that_waited_too_long_is_told_and_keeps_its_session(postgres: Postgres) {
        let mut pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
        a.rows("begin").await; // to open its server may take longer than the limit
        pgusher.reloaded(|it| it.text("pool", "acquire_timeout", "300ms")).await;

        let began = Instant::now();
        let simple = b.query("select 'b'").await;
        let took = began.elapsed();
        let extended = b.ask([say::extended("select 'b'", &[]), say::sync()]).await;
        a.rows("commit").await;

        assert_eq!(notation(&simple), "E(53300) Z(I)");
        assert_eq!(simple[0].severity(), "ERROR");
        assert_eq!(extended, "E(53300) Z(I)");
        // Exact from below; from above as exact as a busy machine is.
        assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
        assert_eq!(b.value("select 'kept'").await, "kept");
    }

    async fn a_client_that_dies_in_its_query_gives_its_server_back(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
        let mut witness = pgusher.client().await;
        let pid = witness.server_pid().await;

        for words in [
            vec![say::query("select pg_sleep(600)")],
            vec![say::extended("select pg_sleep(600)", &[]), say::sync()],
            vec![say::query("begin; select pg_sleep(600)")],
        ] {
            let mut client = pgusher.client().await;
            client.send(words).await;
            postgres.until_asleep(1).await;
            client.reset();

            assert_eq!(witness.server_pid().await, pid);
            assert_eq!(postgres.servers_of("app").await, 1);
        }
    }
}

#[tokio::test]
async fn several_servers_are_opened_at_once_and_no_more_than_allowed() {
    let (release, released) = watch::channel(false);
    let server = FakeServer::start(move |mut peer| {
        let mut released = released.clone();
        async move {
            let Some(_) = peer.startup().await else { return };
            released.wait_for(|released| *released).await.unwrap();
            peer.send([answer::welcome()]).await;
            while peer.read_until(b'Q').await.is_some() {
                peer.send([answer::one_value("a", "1")]).await;
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address())
        .pool_size(10)
        .set("pool", "connect_concurrency", "3")
        .text("pool", "connect_timeout", "30s")
        .start()
        .await;

    let clients: Vec<_> = (0..10)
        .map(|_| {
            let target = pgusher.target();
            tokio::spawn(async move { Raw::login(&target).await.value("select a").await })
        })
        .collect();
    eventually("three are being opened", PATIENCE, async || (server.connections() >= 3).then_some(())).await;
    tokio::time::sleep(A_WHILE).await; // a fourth would come now; nothing announces that it does not
    let opened = server.connections();
    release.send_replace(true);

    assert_eq!(opened, 3);
    for client in clients {
        assert_eq!(client.await.unwrap(), "1");
    }
    assert!(server.connections() <= 10, "{}", server.connections());
}

/// Two servers at most, whoever asks; everybody is served in the end.
async fn assert_capped_at_two(postgres: &Postgres, pgusher: &Pgusher) {
    let mut clients = Vec::new();
    for user in ["app", "other", "hashed", "app", "other", "hashed"] {
        clients.push(Raw::login(&pgusher.target().user(user, user)).await);
    }

    for client in &mut clients {
        client.send([say::query("select pg_sleep(0.1)")]).await;
    }
    let mut most = 0;
    for client in &mut clients {
        let users = ["app", "other", "hashed"].map(|user| postgres.servers_of(user));
        most = most.max(futures_util::future::join_all(users).await.into_iter().sum());
        assert_eq!(notation(&client.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    }

    assert!((1..=2).contains(&most), "{most} servers");
}

/// The refusal of a login that must be refused.
async fn refused(pgusher: &Pgusher, user: &str) -> Frame {
    let mut client = Raw::connect(&pgusher.target().address).await;
    client.try_login(&pgusher.target().user(user, user)).await.unwrap_err()
}

/// A cancel request with a key that is nobody's; returns once the pooler has read it and closed.
async fn cancel_nobody(mut probe: Raw) {
    probe.send([say::cancel(&[0; 8])]).await;
    probe.expect_close().await;
}

/// A connection costs a descriptor before it is known whose it is.
#[tokio::test]
async fn strangers_without_end_are_turned_away_at_once_and_clients_are_served() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).set("listen", "max_clients", "2").pool_size(1).start().await;
    let mut client = pgusher.client().await;
    let address = pgusher.target().address;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(Raw::connect(&address).await);
    }

    let refusal = eventually("one more is refused", PATIENCE, async || {
        let mut stranger = Raw::connect(&address).await;
        stranger.try_read_within(A_WHILE).await.flatten()
    })
    .await;

    assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "53300".into()));
    assert_eq!(client.value("select 'served'").await, "served");
    drop(silent);
    eventually("there is room again", PATIENCE, async || {
        Raw::connect(&address).await.try_login(&pgusher.target()).await.ok()
    })
    .await;
}
