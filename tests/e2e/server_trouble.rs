//! Servers that are down, full, restarted, killed: what clients notice, and that it is over when it is over.

use std::process::Command;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{
    FakeServer, MAJORS, PATIENCE, Pgusher, Postgres, Raw, StopMode, Target, answer, eventually, notation, say,
};
use crate::on_every_major;

on_every_major! {
    async fn servers_that_ended_while_idle_are_replaced_unnoticed(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(3).start().await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(pgusher.client().await);
        }
        for client in &mut clients {
            client.rows("begin").await;
        }
        for client in &mut clients {
            client.rows("commit").await;
        }

        for _ in 0..3 {
            postgres.terminate_servers_of("app").await;
            for client in &mut clients {
                assert_eq!(client.value("select 'served'").await, "served");
                assert_eq!(client.ask([say::extended("select 1", &[]), say::sync()]).await, "1 2 T D C(SELECT 1) Z(I)");
            }
        }
    }

    async fn a_server_killed_in_a_query_is_the_end_of_that_session_only(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
        let (mut victim, mut other) = (pgusher.client().await, pgusher.client().await);
        victim.send([say::query("select pg_sleep(600)")]).await;
        postgres.until_asleep(1).await;

        postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").await;
        let heard = victim.read_until(b'E').await;

        assert_eq!(heard.last().unwrap().sqlstate(), "57P01");
        assert_eq!(other.value("select 'served'").await, "served");
        assert_eq!(pgusher.client().await.value("select 'new'").await, "new");
    }

    async fn the_servers_own_refusal_of_a_login_reaches_the_client(postgres: Postgres) {
        postgres.sql("drop role if exists limited").await;
        let pgusher = Pgusher::before(&postgres)
            .user("app", "wrong")
            .user("other", "other")
            .database("nowhere", postgres.address())
            .text("databases.\"nowhere\"", "dbname", "no_such_database")
            .start()
            .await;

        let wrong = refusal(&pgusher, "app", postgres.database()).await;
        let nowhere = refusal(&pgusher, "other", "nowhere").await;
        let stranger = refusal(&pgusher, "nobody_at_all", postgres.database()).await;

        assert_eq!(wrong, ("28P01".into(), "password authentication failed for user \"app\"".into()));
        assert_eq!(nowhere, ("3D000".into(), "database \"no_such_database\" does not exist".into()));
        assert!(stranger.0.starts_with("28"), "{stranger:?}");
        assert!(pgusher.log().contains("password authentication failed for user \\\"app\\\"")
            || pgusher.log().contains("password authentication failed for user \"app\""), "{}", pgusher.log());
    }
}

/// 57P03 is passing: it is tried again, and told in the end.
#[tokio::test]
async fn a_server_that_is_starting_up_says_so() {
    let server = FakeServer::start(|mut client| async move {
        client.startup().await;
        client.send([answer::error_of("FATAL", "57P03", "the database system is starting up")]).await;
    })
    .await;
    let pgusher =
        Pgusher::before_address(server.address()).text("pool", "acquire_timeout", "700ms").start().await;

    let mut client = Raw::connect(&pgusher.target().address).await;
    let refusal = client.try_login(&pgusher.target()).await.unwrap_err();

    assert_eq!(refusal.sqlstate(), "57P03");
    assert_eq!(refusal.message(), "the database system is starting up");
    assert!(server.connections() > 1);
}

#[tokio::test]
async fn a_full_server_says_so_and_is_tried_until_it_has_room() {
    for major in [14, 18] {
        let settings = [("max_connections", "5"), ("superuser_reserved_connections", "3")];
        let reserved: &[(&str, &str)] = if major >= 16 { &[("reserved_connections", "0")] } else { &[] };
        let postgres = Postgres::private(major, &[&settings[..], reserved].concat(), "").await;
        let pgusher =
            Pgusher::before(&postgres).pool_size(5).text("pool", "acquire_timeout", "700ms").start().await;
        let (one, other) = (postgres.client().await, postgres.client().await);

        let told = refusal(&pgusher, "app", postgres.database()).await;
        let target = pgusher.target();
        one.terminate().await;
        other.terminate().await;
        let mut client = eventually("there is room", PATIENCE, async || {
            let mut client = Raw::connect(&target.address).await;
            client.try_login(&target).await.is_ok().then_some(client)
        })
        .await;

        assert_eq!(told.0, "53300", "{told:?}");
        assert_eq!(client.value("select 'in'").await, "in");
    }
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_found_when_it_comes_up() {
    for major in [14, 18] {
        let mut postgres = Postgres::private(major, &[], "").await;
        postgres.stop(StopMode::Fast).await;
        let pgusher = Pgusher::before(&postgres).text("pool", "acquire_timeout", "1s").start().await;

        let told = refusal(&pgusher, "app", postgres.database()).await;
        postgres.start().await;
        let mut client = pgusher.client().await;

        assert_eq!(told.0, "08001", "{told:?}");
        assert_eq!(client.value("select 'up'").await, "up");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_a_server_to_come_up_is_served() {
    let mut postgres = Postgres::private(16, &[], "").await;
    postgres.stop(StopMode::Fast).await;
    let pgusher = Pgusher::before(&postgres).start().await;
    let target = pgusher.target();

    let waiting = tokio::spawn(async move { Raw::login(&target).await.value("select 'served'").await });
    pgusher.until_logged("server connection failed").await;
    postgres.start().await;

    assert_eq!(waiting.await.unwrap(), "served");
}

#[tokio::test]
async fn a_restart_is_unnoticed_by_clients_between_transactions() {
    for major in MAJORS {
        let mut postgres = Postgres::private(major, &[], "").await;
        let pgusher = Pgusher::before(&postgres).set("pool", "min", "2").start().await;
        let (mut idle, mut inside) = (pgusher.client().await, pgusher.client().await);
        idle.rows("set work_mem = '5MB'").await;
        idle.rows("show work_mem").await; // after which it is known what was set
        inside.rows("begin").await;

        postgres.restart().await;
        let told = inside.expect_close().await;

        assert_eq!(idle.value("show work_mem").await, "5MB");
        assert!(told.iter().any(|frame| frame.is(b'E')), "{}", notation(&told));
        assert_eq!(pgusher.client().await.value("select 'new'").await, "new");
    }
}

#[tokio::test]
async fn a_server_that_dies_before_it_has_said_what_was_set_takes_the_session_with_it() {
    let server = FakeServer::start(|mut peer| async move {
        if peer.let_in().await.is_none() {
            return;
        }
        while let Some(frame) = peer.read().await {
            if !frame.is(b'Q') {
                continue;
            }
            if !frame.body.starts_with(b"set ") {
                peer.send([answer::error_of("FATAL", "57P01", "terminating")]).await;
                return;
            }
            peer.send([answer::command_complete("SET"), answer::ready(b'I')]).await;
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let mut client = pgusher.client().await;

    let told = notation(&client.query("set work_mem = '5MB'").await);
    let farewell = notation(&client.expect_close().await);

    // Going on would be going on without the setting the client was told it has.
    assert_eq!((told.as_str(), farewell.as_str()), ("C(SET) Z(I)", "E(08006)"));
}

/// What is killed, with a signal that leaves no time for last words.
#[derive(Clone, Copy)]
enum Blow {
    /// One process; the others are ended by PostgreSQL itself, which then recovers.
    Backend,
    Server,
}

#[tokio::test]
async fn a_server_killed_under_heavy_load_is_left_and_found_again() {
    for (major, blow) in [(14, Blow::Server), (18, Blow::Server), (14, Blow::Backend), (18, Blow::Backend)] {
        let mut postgres = Postgres::private(major, &[("synchronous_commit", "on")], "").await;
        postgres.sql("create table done (id bigint primary key); alter table done owner to app").await;
        let pgusher = Pgusher::before(&postgres).pool_size(5).start().await;
        let (is_over, over) = watch::channel(false);
        let storm: Vec<JoinHandle<Vec<i64>>> = (0..10)
            .map(|number| {
                tokio::spawn(write_through_trouble(pgusher.target(), number * 1_000_000, over.clone()))
            })
            .collect();

        postgres.until("select count(*) > 100 from done", "t").await;
        strike(blow, &mut postgres).await;
        let kept: i64 = postgres.value("select count(*) from done").await.parse().unwrap();
        postgres.until(&format!("select count(*) > {} from done", kept + 100), "t").await;
        is_over.send_replace(true);
        let mut acknowledged = Vec::new();
        for client in storm {
            acknowledged.extend(client.await.unwrap());
        }

        let listed = acknowledged.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let found =
            postgres.value(&format!("select count(*) from done where id = any('{{{listed}}}')")).await;
        assert_eq!(found, acknowledged.len().to_string(), "of what was acknowledged");
        assert!(postgres.servers_of("app").await <= 5);
        assert!(!pgusher.log().contains("panicked"), "{}", pgusher.log());
    }
}

/// Kills, and waits until PostgreSQL serves again.
async fn strike(blow: Blow, postgres: &mut Postgres) {
    let before = postgres.log().matches("ready to accept connections").count();
    match blow {
        Blow::Backend => {
            let pid = postgres.value("select pid from pg_stat_activity where usename = 'app' limit 1").await;
            assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            eventually("PostgreSQL has recovered", PATIENCE, async || {
                (postgres.log().matches("ready to accept connections").count() > before).then_some(())
            })
            .await;
        }
        Blow::Server => {
            postgres.kill9().await;
            postgres.start().await;
        }
    }
}

/// Writes rows until it is over, logging in again whenever a session ends: the rows that were acknowledged.
async fn write_through_trouble(target: Target, first: i64, over: watch::Receiver<bool>) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    let mut client = None;
    for row in first.. {
        if *over.borrow() {
            break;
        }
        let mut raw: Raw = match client.take() {
            Some(raw) => raw,
            None => {
                let mut raw = Raw::connect(&target.address).await;
                if raw.try_login(&target).await.is_err() {
                    continue;
                }
                raw
            }
        };
        if raw.try_send(&say::query(&format!("insert into done values ({row})"))).await.is_err() {
            continue;
        }
        let answer = raw.read_until_ready().await;
        if notation(&answer) == "C(INSERT 0 1) Z(I)" {
            acknowledged.push(row);
        }
        if answer.last().is_some_and(|frame| frame.is(b'Z')) {
            client = Some(raw);
        }
    }
    acknowledged
}

/// SQLSTATE and message of a login that must be refused.
async fn refusal(pgusher: &Pgusher, user: &str, database: &str) -> (String, String) {
    let target = pgusher.target().user(user, user).database(database);
    let mut client = Raw::connect(&target.address).await;
    let refusal = client.try_login(&target).await.unwrap_err();
    assert_eq!(refusal.severity(), "FATAL");
    (refusal.sqlstate(), refusal.message())
}
