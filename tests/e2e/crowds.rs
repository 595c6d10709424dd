//! Much at once: logins in a burst, thousands of clients that say nothing, readers that do not read, a row of a gigabyte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::tls::Wanted;
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

/// Key derivation is slow by design, and a handshake is not quick: nobody's query may wait for them, and nothing is derived twice.
#[tokio::test]
async fn a_thousand_logins_in_tls_derive_each_password_once_and_hold_up_no_query_heavy() {
    const USERS: usize = 50;
    raise_descriptors();
    let postgres = Postgres::shared(18).await;
    let (ca, directory) = (Ca::new("a CA"), tempfile::tempdir().unwrap());
    let mut builder = Pgusher::before(&postgres)
        .tls("require", &ca.issue(Wanted::loopback(), directory.path(), "pgusher"))
        .text("listen", "auth", "scram-sha-256")
        .text("listen", "login_timeout", "60s")
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"")
        .unset("users.\"app\"", "password");
    for user in 0..USERS {
        builder = builder.user(&format!("u{user}"), &format!("password of u{user}"));
    }
    let pgusher = builder.start().await;
    let encrypted = pgusher.target().in_tls(ca.client());
    let querying = Querying::begin(&encrypted.clone().user("u0", "password of u0")).await;

    let logins = (0..1_000).map(|number| {
        let user = format!("u{}", number % USERS);
        let target = encrypted.clone().user(&user, &format!("password of {user}"));
        tokio::spawn(async move { Raw::login(&target).await })
    });
    let mut clients = Vec::new();
    for login in logins.collect::<Vec<_>>() {
        clients.push(login.await.unwrap());
    }

    querying.assert_not_held_up();
    assert!(clients.iter().all(|client| client.session().handshake_kind().is_some()));
    // One for each user, the five of the harness that do not log in among them, and one for our own login to the server.
    let derived = || pgusher.log().matches("keys derived").count();
    eventually("all are derived", PATIENCE, async || (derived() > USERS + 5).then_some(())).await;
    assert_eq!(derived(), USERS + 5 + 1);
}

/// The worst a stranger can do: each guess is another password, and each has to be hashed.
#[tokio::test]
async fn guesses_at_passwords_hold_up_no_query_heavy() {
    raise_descriptors();
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "password")
        .text("listen", "login_timeout", "60s")
        .start()
        .await;
    let querying = Querying::begin(&pgusher.target()).await;

    let guesses = (0..200).map(|number| {
        let target = pgusher.target().user("app", &format!("guess {number}"));
        tokio::spawn(async move { Raw::connect(&target.address).await.try_login(&target).await.is_err() })
    });
    for guess in guesses.collect::<Vec<_>>() {
        assert!(guess.await.unwrap(), "a guess is let in");
    }

    querying.assert_not_held_up();
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

/// A client that asks again and again, on a thread of its own, and how long it waits for its answers.
struct Querying {
    since: Instant,
    is_over: Arc<AtomicBool>,
    took: std::thread::JoinHandle<Vec<Duration>>,
}

impl Querying {
    /// Begins when it has its first answer.
    async fn begin(target: &Target) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let (over, target) = (is_over.clone(), target.clone());
        let took = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut client = Raw::login(&target).await;
                client.rows("select 1").await;
                began.send(()).unwrap();
                let mut took = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    client.rows("select 1").await;
                    took.push(began.elapsed());
                }
                took
            })
        });
        has_begun.await.unwrap();
        Self { since: Instant::now(), is_over, took }
    }

    /// It was served all the while. A busy machine stretches the longest wait, but not beyond a part of the whole.
    fn assert_not_held_up(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let whole = self.since.elapsed();
        let mut took = self.took.join().unwrap();
        took.sort_unstable();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        eprintln!("{} queries in {whole:?}: the median took {median:?}, the longest {longest:?}", took.len());
        assert!(median < Duration::from_millis(100), "{median:?}");
        assert!(longest < Duration::from_secs(5).max(whole / 2), "{longest:?} of {whole:?}");
    }
}
