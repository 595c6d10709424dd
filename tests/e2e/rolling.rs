//! Rolled under load: poolers are replaced one by one behind one address, and no application loses anything by it.
//!
//! ```text
//!  workers (tokio-postgres, psycopg) ──► Service ──► pgusher, pgusher ──► PostgreSQL
//!                                                    └ one more is started, the oldest is told to end; five times
//! ```
//!
//! A worker inserts its rows 1, 2, 3 … and connects again when it is told 57P01, or is cut off before that arrives. It repeats a
//! transaction only if nothing of it was answered; everything else fails the test. So a row that was inserted without an answer is
//! a duplicate key, an acknowledged one that is lost is a gap, and a transaction that was not let finish is an error.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

use crate::harness::process::{Background, root, run, tied, tools};
use crate::harness::raw::{Address, Target};
use crate::harness::{PATIENCE, Pgusher, Postgres, Service, eventually};

const RESTARTS: usize = 5;

/// How many are replaced in turn.
const REPLICAS: usize = 2;

/// Transactions between two restarts.
const BETWEEN: u64 = 150;

/// What the workers have in common.
struct Load {
    url: String,
    is_over: AtomicBool,
    committed: AtomicU64,
    reconnects: AtomicU64,
}

/// How a worker makes its transactions.
#[derive(Clone, Copy)]
enum Habit {
    /// One statement, prepared once, by itself.
    Autocommit,
    /// A block of two.
    Block,
}

/// What became of a transaction.
enum Attempt {
    Committed(u64),
    /// The connection ended before anything of it was answered.
    Untouched,
}

async fn one_more(postgres: &Postgres) -> Pgusher {
    Pgusher::before(postgres)
        .pool_size(4)
        .text("listen", "drain_grace", "250ms")
        .text("listen", "drain_timeout", "10s")
        .metrics()
        .start()
        .await
}

/// Told to end, or cut off.
fn is_farewell(error: &Error) -> bool {
    error.code() == Some(&SqlState::ADMIN_SHUTDOWN)
        || (error.code().is_none() && error.as_db_error().is_none())
}

impl Load {
    /// Again while the one that was found is on its way out.
    async fn connect(&self) -> Client {
        loop {
            match tokio_postgres::connect(&self.url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if is_farewell(&error) => {}
                Err(error) => panic!("a newcomer is refused: {error:?}"),
            }
        }
    }

    /// Works until it is over; how many rows were acknowledged.
    async fn work(self: Arc<Self>, worker: i64, habit: Habit) -> u64 {
        let mut rows = 0;
        let mut client = self.connect().await;
        while !self.is_over.load(Ordering::Relaxed) {
            let attempt = match habit {
                Habit::Autocommit => autocommit(&client, worker, rows + 1).await,
                Habit::Block => block(&mut client, worker, rows + 1).await,
            };
            match attempt {
                Attempt::Committed(more) => {
                    rows += more;
                    self.committed.fetch_add(1, Ordering::Relaxed);
                }
                Attempt::Untouched => {
                    self.reconnects.fetch_add(1, Ordering::Relaxed);
                    client = self.connect().await;
                }
            }
        }
        rows
    }
}

async fn autocommit(client: &Client, worker: i64, row: u64) -> Attempt {
    match client.execute("insert into kept values ($1, $2)", &[&worker, &row.cast_signed()]).await {
        Ok(_) => Attempt::Committed(1),
        Err(error) if is_farewell(&error) => Attempt::Untouched,
        Err(error) => panic!("worker {worker}, row {row}: {error:?}"),
    }
}

async fn block(client: &mut Client, worker: i64, row: u64) -> Attempt {
    let block = match client.transaction().await {
        Ok(block) => block,
        Err(error) if is_farewell(&error) => return Attempt::Untouched,
        Err(error) => panic!("worker {worker}, row {row}: {error:?}"),
    };
    let insert = "insert into kept values ($1, $2)";
    for row in [row, row + 1] {
        block
            .execute(insert, &[&worker, &row.cast_signed()])
            .await
            .expect("a transaction that began goes on");
    }
    block.commit().await.expect("a transaction that began is committed");
    Attempt::Committed(2)
}

/// The same by psycopg, which says at its end what was acknowledged.
fn in_python(load: &Load, log: &Path, workers: &[&str]) -> Background {
    let mut command = tied(tools().join("python/bin/python"), "KILL");
    command.arg(root().join("tests/drivers/rolling.py")).args(workers).env("DATABASE_URL", &load.url);
    Background::start(command, log)
}

/// As kubelet does: by a signal, or by a `preStop` that waits for the end.
async fn tell_to_end(pgusher: &Pgusher, by_signal: bool) {
    if by_signal {
        return pgusher.terminate();
    }
    let mut order = tied(env!("CARGO_BIN_EXE_pgusher"), "KILL");
    order.args(["drain", "--wait", "--config"]).arg(pgusher.config_file());
    order.env("PGUSHER_METRICS_LISTEN", pgusher.metrics().to_string()).env_remove("PGUSHER_E2E_IDENTITY");
    run(order).await.ok();
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_fails_while_poolers_are_rolled() {
    let postgres = Postgres::shared(17).await;
    postgres
        .sql("create table kept (worker bigint, row bigint, primary key (worker, row)); alter table kept owner to app")
        .await;
    let service = Service::start().await;
    let mut poolers = Vec::new();
    for _ in 0..REPLICAS {
        poolers.push(one_more(&postgres).await);
        service.add(poolers.last().expect("one more")).await;
    }
    let target = Target { address: Address::Tcp(service.address()), ..poolers[0].target() };
    let load = Arc::new(Load {
        url: target.url(),
        is_over: AtomicBool::new(false),
        committed: AtomicU64::new(0),
        reconnects: AtomicU64::new(0),
    });
    let directory = tempfile::tempdir().expect("a directory");
    let mut python = in_python(&load, &directory.path().join("said"), &["101", "102", "103"]);
    let workers: Vec<_> = (1..=6)
        .map(|worker| {
            let habit = if worker % 2 == 0 { Habit::Autocommit } else { Habit::Block };
            tokio::spawn(Arc::clone(&load).work(worker, habit))
        })
        .collect();

    for restart in 0..RESTARTS {
        let enough = load.committed.load(Ordering::Relaxed) + BETWEEN;
        eventually("the load goes on", PATIENCE, async || {
            (load.committed.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
        let next = one_more(&postgres).await;
        service.add(&next).await;
        poolers.push(next);
        let mut oldest = poolers.remove(0);
        tell_to_end(&oldest, restart % 2 == 0).await;
        let status = oldest.end().await;
        assert!(status.success(), "{status}");
        assert!(!oldest.log().contains("drain_timeout is over"), "somebody did not get away in time");
    }
    load.is_over.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for (worker, rows) in (1..).zip(workers) {
        acknowledged.push((worker, rows.await.expect("a worker that lost nothing")));
    }
    python.signal(rustix::process::Signal::TERM);
    let status = python.end().await;
    let said = python.log();
    assert!(status.success(), "{said}");
    for line in said.lines() {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        acknowledged.push((numbers[0], numbers[1]));
        load.reconnects.fetch_add(numbers[2], Ordering::Relaxed);
    }

    acknowledged.sort_unstable();
    let expected: Vec<_> =
        acknowledged.iter().map(|(worker, rows)| format!("{worker}:{rows}:{rows}")).collect();
    let kept = "select string_agg(worker || ':' || n || ':' || last, ' ' order by worker)
                from (select worker, count(*) n, max(row) last from kept group by worker) t";
    assert_eq!(postgres.value(kept).await, expected.join(" "));
    assert_eq!(acknowledged.len(), 9);
    assert!(acknowledged.iter().all(|(_, rows)| *rows > 20), "{acknowledged:?}");
    assert!(load.reconnects.load(Ordering::Relaxed) >= 9, "nobody noticed anything");
    assert_eq!(service.turned_away(), 0, "a newcomer found a closed door");
}
