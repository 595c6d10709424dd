//! Much at once: logins in a burst, thousands of clients that say nothing, readers that do not read, a row of a gigabyte.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::*;

/// Each client is a descriptor of this process too.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

/// Nobody is turned away, and the pool does not grow for it.
#[tokio::test]
async fn a_thousand_logins_at_once_all_succeed_heavy() {
    raise_descriptors();
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "scram-sha-256")
        .text("listen", "login_timeout", "60s")
        .pool_size(5)
        .start()
        .await;

    let logins: Vec<_> = (0..1_000)
        .map(|_| {
            let target = pgusher.target();
            tokio::spawn(async move { Raw::login(&target).await })
        })
        .collect();
    let mut clients = Vec::new();
    for login in logins {
        clients.push(login.await.unwrap());
    }

    assert_eq!(clients[999].value("select 'in'").await, "in");
    let servers =
        "select count(*) from pg_stat_activity where usename = 'app' and datname = current_database()";
    assert!(postgres.value(servers).await.parse::<usize>().unwrap() <= 5);
}

/// An idle client holds no buffer and no server.
#[tokio::test]
async fn five_thousand_idle_clients_cost_little_heavy() {
    raise_descriptors();
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
    let mut clients = vec![pgusher.client().await];
    let before = pgusher.resident();

    for _ in 0..5_000 {
        clients.push(pgusher.client().await);
    }
    let each = (pgusher.resident() - before) / 5_000;

    for client in clients.iter_mut().step_by(500) {
        assert_eq!(client.value("select 'still here'").await, "still here");
    }
    assert!(each < 16 << 10, "{each} bytes each, in an unoptimised build");
}

/// A client that does not read its result holds its own memory, bounded; one whose answer is complete holds no server.
#[tokio::test]
async fn a_slow_reader_holds_bounded_memory_and_no_finished_server() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut slow = pgusher.client().await;
    let before = pgusher.resident();
    slow.send([say::query("select repeat('x', 1000) from generate_series(1, 300000)")]).await;
    postgres
        .until("select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and datname = current_database()", "1")
        .await;
    assert!(pgusher.resident() < before + (16 << 20));
    slow.reset();

    let mut brief = pgusher.client().await;
    brief.send([say::query("select repeat('y', 100000)")]).await;
    let mut other = pgusher.client().await;

    assert_eq!(other.value("select 'has the server'").await, "has the server");
}

/// As large as PostgreSQL makes them: nobody but the reader holds it.
#[tokio::test]
async fn a_row_of_a_gigabyte_streams_in_bounded_memory_heavy() {
    const LETTERS: usize = 1_000_000_000;
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    pgusher.client().await.rows("select 1").await;
    let before = pgusher.resident();
    let raw::Address::Tcp(address) = pgusher.target().address else { panic!("it listens on TCP") };
    let mut stream = TcpStream::connect(address).unwrap();
    let hello = [pgusher.target().startup(), say::query(&format!("select repeat('x', {LETTERS})"))];
    stream.write_all(&hello.concat()).unwrap();

    let (mut received, mut most, mut chunk) = (0, 0, vec![0; 1 << 20]);
    while received < LETTERS {
        received += stream.read(&mut chunk).unwrap();
        most = most.max(pgusher.resident());
    }

    assert!(most < before + (16 << 20), "{before} bytes before, {most} at most");
}
