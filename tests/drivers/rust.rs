//! The Rust drivers: tokio-postgres, which pipelines whatever is in flight on one client, and sqlx, with its pool and migrations.
//!
//! `run_tokio_postgres` and `run_sqlx` take a URL of a database through pgusher in transaction mode with at least two
//! servers (or a direct one), run every case in a schema of their own, print `ok <sentence>` or `FAILED <sentence>: <reason>`,
//! and answer with the failures. Cases keep to two servers: never more than two clients in a transaction or pinned at once.
//!
//! Needs tokio-postgres, futures-util (sink), sqlx (runtime-tokio, postgres, migrate), and tokio with its time and macros.

use std::fmt::Debug;
use std::fmt::Display;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::SinkExt as _;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use futures_util::future::try_join_all;
use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::Row as _;
use sqlx::migrate::Migrate as _;
use sqlx::postgres::PgAdvisoryLock;
use sqlx::postgres::PgConnectOptions;
use sqlx::postgres::PgConnection;
use sqlx::postgres::PgListener;
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_postgres::AsyncMessage;
use tokio_postgres::Client;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::types::Type;

use crate::harness::tls::Tls;

/// Runs every tokio-postgres case against `url`; the error lists the cases that failed.
pub(crate) async fn run_tokio_postgres(url: &str) -> Result<(), String> {
    use with_tokio_postgres as t;

    let mut cases = Cases::begin(url, "rust_tokio_postgres").await?;
    cases
        .run("a committed transaction stays, one that is dropped or rolled back does not", t::transactions)
        .await;
    cases.run("a prepared statement works on whichever server comes next", t::changing_servers).await;
    cases
        .run("many clients prepare and drop statements, and each gets its own answers", t::many_statements)
        .await;
    cases.run("statements are gone after DISCARD ALL, and those of others are not", t::discard_all).await;
    cases.run("a prepared statement whose result type changes is healed", t::changed_result_type).await;
    cases.run("queries in flight on one client answer in order, errors among them", t::pipelines).await;
    cases.run("a pipelined transaction is one transaction", t::pipelined_transaction).await;
    cases.run("typed queries use the unnamed statement", t::typed_queries).await;
    cases.run("batch_execute and simple_query run several statements", t::simple_queries).await;
    cases.run("errors come with their SQLSTATE and the client is usable after each", t::errors).await;
    cases.run("COPY in and out carries every row", t::copy).await;
    cases.run("a COPY that is given up or refused leaves nothing", t::broken_copy).await;
    cases.run("a CancelToken stops the running query", t::cancel).await;
    cases.run("cancels stop their own client's query and no other", t::cancel_storm).await;
    cases.run("a future that is dropped leaves the client usable", t::dropped_futures).await;
    cases.run("a portal is read a few rows at a time", t::portals).await;
    cases.run("a million rows stream", t::million_rows).await;
    cases.run("one value of 50 MB comes and goes", t::large_value).await;
    cases.run("fifty clients over the same servers each get their own rows", t::fifty_clients).await;
    cases.run("settings follow their client while others use the same servers", t::settings).await;
    cases.run("LISTEN hears what another client says", t::listen).await;
    cases
        .run("temporary tables, held cursors and advisory locks stay with their client", t::session_state)
        .await;
    cases.end().await
}

/// Runs every sqlx case against `url`; the error lists the cases that failed.
pub(crate) async fn run_sqlx(url: &str) -> Result<(), String> {
    use with_sqlx as s;

    let mut cases = Cases::begin(url, "rust_sqlx").await?;
    cases.run("a pool serves many tasks, each with its own rows", s::pool).await;
    cases
        .run("transactions commit, roll back, nest, and are rolled back when dropped", s::transactions)
        .await;
    cases.run("cached statements work on whichever server comes next", s::changing_servers).await;
    cases.run("statements that the cache evicts are closed, the others stay", s::eviction).await;
    cases.run("a statement that is not persistent is unnamed", s::unnamed).await;
    cases.run("errors come with their SQLSTATE and the connection is usable after each", s::errors).await;
    cases.run("a hundred thousand rows stream, also when the stream is left", s::streams).await;
    cases.run("COPY in and out carries every row", s::copy).await;
    cases.run("settings, of the startup and of SET, follow their client", s::settings).await;
    cases.run("a listener hears what another client says", s::listen).await;
    cases.run("an advisory lock is its client's own", s::advisory_lock).await;
    cases.run("migrators lock each other out and each migration runs once", s::migrations).await;
    cases.end().await
}

// Cases and what they say

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;

/// What a case is given: where to connect, and the schema that is its run's own.
#[derive(Clone, Debug)]
struct Place {
    url: String,
    schema: String,
}

impl Place {
    /// The name of a table that no other case uses.
    fn table(&self) -> String {
        format!("{}.{}", self.schema, marker())
    }

    /// A client whose connection is driven by a task of its own.
    async fn connect(&self) -> Result<Client, Failure> {
        connect(&self.url).await
    }

    /// A client with one more startup parameter, in libpq's own spelling.
    async fn connect_with_options(&self, options: &str) -> Result<Client, Failure> {
        let mut config: tokio_postgres::Config = self.url.parse()?;
        config.options(options);
        let (client, connection) = config.connect(Tls::anyone()).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

#[derive(Debug)]
struct Cases {
    failures: Vec<String>,
    place: Place,
}

impl Cases {
    async fn begin(url: &str, name: &str) -> Result<Self, String> {
        let place = Place { url: url.to_owned(), schema: format!("{name}_{}", marker()) };
        administer(&place, &format!("create schema {}", place.schema)).await?;
        Ok(Self { failures: Vec::new(), place })
    }

    async fn run<F: Future<Output = Outcome>>(&mut self, sentence: &str, body: impl FnOnce(Place) -> F) {
        let outcome = match timeout(DEADLINE, body(self.place.clone())).await {
            Ok(outcome) => outcome.map_err(describe),
            Err(_) => Err(format!("did not end within {DEADLINE:?}")),
        };
        match outcome {
            Ok(()) => println!("ok {sentence}"),
            Err(reason) => {
                println!("FAILED {sentence}: {reason}");
                self.failures.push(format!("{sentence}: {reason}"));
            }
        }
    }

    async fn end(self) -> Result<(), String> {
        let sql = format!("set lock_timeout = '3s'; drop schema if exists {} cascade", self.place.schema);
        administer(&self.place, &sql).await?;
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.join("\n")) }
    }
}

async fn administer(place: &Place, sql: &str) -> Result<(), String> {
    let client = place.connect().await.map_err(describe)?;
    client.batch_execute(sql).await.map_err(|error| describe(error.into()))
}

/// An error with its causes: tokio-postgres says no more than `db error` itself.
fn describe(error: Failure) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.replace('\n', " ")
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, Tls::anyone()).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn same<T: PartialEq + Debug>(found: T, expected: T, what: impl Display) -> Outcome {
    if found == expected {
        return Ok(());
    }
    let brief = |value: T| format!("{value:?}").chars().take(200).collect::<String>();
    Err(format!("{what}: expected {}, found {}", brief(expected), brief(found)).into())
}

/// What a driver's error says to a program: its SQLSTATE.
trait HasSqlState: std::error::Error + Send + Sync + 'static {
    fn sqlstate(&self) -> Option<String>;
}

impl HasSqlState for tokio_postgres::Error {
    fn sqlstate(&self) -> Option<String> {
        self.code().map(|code| code.code().to_owned())
    }
}

impl HasSqlState for sqlx::Error {
    fn sqlstate(&self) -> Option<String> {
        self.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
    }
}

fn fails_with<T, E: HasSqlState>(result: Result<T, E>, sqlstate: &SqlState) -> Outcome {
    match result {
        Err(error) if error.sqlstate().as_deref() == Some(sqlstate.code()) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(format!("should have failed with {}, and did not", sqlstate.code()).into()),
    }
}

/// A word that occurs nowhere else, to be found in `pg_stat_activity` or in a row.
fn marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("m{:x}_{:x}_{}", std::process::id(), since.as_micros(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs `client(0)` to `client(count - 1)` at once.
async fn all_at_once<F: Future<Output = Outcome>>(count: i32, client: impl Fn(i32) -> F) -> Outcome {
    try_join_all((0..count).map(client)).await.map(|_| ())
}

/// Returns once a server is executing a statement that contains `word`; asks the database, over and over.
async fn wait_until_running(place: &Place, word: &str) -> Outcome {
    let observer = place.connect().await?;
    let ask = "select 1 from pg_stat_activity \
               where state = 'active' and pid <> pg_backend_pid() and query like '%' || $1 || '%'";
    let end = Instant::now() + Duration::from_secs(10);
    while observer.query_opt(ask, &[&word]).await?.is_none() {
        if Instant::now() > end {
            return Err(format!("no server began to run {word} within 10 s").into());
        }
    }
    Ok(())
}

/// Runs `work` while the next transaction of anybody runs on another server than `pid`.
///
/// Holds two servers in transactions, so a pool of two is full, and lets go of one that is not `pid`. Nobody else may be
/// in a transaction or pinned. In a larger pool, and without a pooler, nothing is forced and nothing breaks.
async fn elsewhere<T>(
    place: &Place,
    pid: i32,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (first, second) = (place.connect().await?, place.connect().await?);
    first.batch_execute("begin").await?;
    let first_pid: i32 = first.query_one("select pg_backend_pid()", &[]).await?.get(0);
    second.batch_execute("begin; select 1").await?;
    let (freed, held) = if first_pid == pid { (second, first) } else { (first, second) };
    freed.batch_execute("rollback").await?;
    let outcome = work.await;
    held.batch_execute("rollback").await?;
    outcome
}

fn zone(number: i32) -> &'static str {
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"][number as usize % 4]
}

const CLIENTS: i32 = 50;
const DEADLINE: Duration = Duration::from_secs(30);
const LARGE: i32 = 50_000_000;
const MILLION: i32 = 1_000_000;

mod with_tokio_postgres {
    use super::*;

    pub(super) async fn transactions(place: Place) -> Outcome {
        let (mut a, b, t) = (place.connect().await?, place.connect().await?, place.table());
        a.batch_execute(&format!("create table {t} (n int primary key)")).await?;
        let insert = format!("insert into {t} values ($1)");

        let mut transaction = a.transaction().await?;
        transaction.execute(&insert, &[&1]).await?;
        let savepoint = transaction.savepoint("before").await?;
        fails_with(savepoint.execute(&insert, &[&1]).await, &SqlState::UNIQUE_VIOLATION)?;
        savepoint.rollback().await?;
        transaction.execute(&insert, &[&2]).await?;
        transaction.commit().await?;
        drop({
            let dropped = a.transaction().await?;
            dropped.execute(&insert, &[&3]).await?;
            dropped
        });
        let rolled_back = a
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::Serializable)
            .start()
            .await?;
        let level: String = rolled_back.query_one("show transaction_isolation", &[]).await?.get(0);
        rolled_back.execute(&insert, &[&4]).await?;
        rolled_back.rollback().await?;

        same(level.as_str(), "serializable", "isolation")?;
        let rows = b.query(&format!("select n from {t} order by 1"), &[]).await?;
        same(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), vec![1, 2], "rows")
    }

    pub(super) async fn changing_servers(place: Place) -> Outcome {
        let a = place.connect().await?;
        let statement = a.prepare("select pg_backend_pid(), $1::int + 1").await?;
        let mut pid = 0;
        for number in 0..6 {
            let row =
                elsewhere(&place, pid, async { Ok(a.query_one(&statement, &[&number]).await?) }).await?;
            same(row.get(1), number + 1, "answer")?;
            pid = row.get(0);
        }
        Ok(())
    }

    pub(super) async fn many_statements(place: Place) -> Outcome {
        all_at_once(20, |number| {
            let place = &place;
            async move {
                let a = place.connect().await?;
                let kept = a.prepare("select $1::int * 1000 + $2::int").await?;
                for round in 0..15 {
                    same(
                        a.query_one(&kept, &[&number, &round]).await?.get(0),
                        number * 1000 + round,
                        "kept statement",
                    )?;
                    // Dropped at once, which sends Close.
                    let own: i32 =
                        a.query_one(&format!("select {number} + $1::int"), &[&round]).await?.get(0);
                    same(own, number + round, "own statement")?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn discard_all(place: Place) -> Outcome {
        let (a, b) = (place.connect().await?, place.connect().await?);
        for forget in ["deallocate all", "discard all"] {
            let (of_a, of_b) = (a.prepare("select $1::int").await?, b.prepare("select $1::int").await?);
            a.query_one(&of_a, &[&1]).await?;
            a.batch_execute(forget).await?;
            fails_with(a.query_one(&of_a, &[&1]).await, &SqlState::INVALID_SQL_STATEMENT_NAME)?;
            same(a.query_one("select $1::int", &[&2]).await?.get(0), 2, "a new statement")?;
            same(b.query_one(&of_b, &[&3]).await?.get(0), 3, "another client's statement")?;
        }
        Ok(())
    }

    pub(super) async fn changed_result_type(place: Place) -> Outcome {
        let (a, b, t) = (place.connect().await?, place.connect().await?, place.table());
        b.batch_execute(&format!("create table {t} as select 1 as n")).await?;
        let statement = a.prepare(&format!("select * from {t}")).await?;
        a.query_one(&statement, &[]).await?;
        b.batch_execute(&format!("alter table {t} add column word text default 'two'")).await?;
        // Without a pooler: 0A000. Through pgusher the server's copy is prepared anew.
        match a.query_one(&statement, &[]).await {
            Ok(row) => same(row.get(0), 1, "the old statement")?,
            Err(error) => fails_with(Err::<(), _>(error), &SqlState::FEATURE_NOT_SUPPORTED)?,
        }
        let fresh = a.prepare(&format!("select * from {t}")).await?;
        same(a.query_one(&fresh, &[]).await?.get(1), "two", "a new statement")
    }

    pub(super) async fn pipelines(place: Place) -> Outcome {
        all_at_once(8, |client| {
            let place = &place;
            async move {
                let a = place.connect().await?;
                let statement = a.prepare("select $1::int / $2::int").await?;
                let numbers: Vec<(i32, i32)> =
                    (0..200).map(|n| (client * 1000 + n, i32::from(n % 10 != 3))).collect();
                let queries =
                    numbers.iter().map(async |(n, divisor)| a.query_one(&statement, &[n, divisor]).await);
                for (outcome, (n, divisor)) in join_all(queries).await.into_iter().zip(&numbers) {
                    if *divisor == 0 {
                        fails_with(outcome, &SqlState::DIVISION_BY_ZERO)?;
                        continue;
                    }
                    same(outcome?.get(0), *n, "pipelined answer")?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn pipelined_transaction(place: Place) -> Outcome {
        let t = place.table();
        place.connect().await?.batch_execute(&format!("create table {t} (n int)")).await?;
        all_at_once(8, |number| {
            let (place, t) = (&place, &t);
            async move {
                let a = place.connect().await?;
                let insert = a.prepare(&format!("insert into {t} values ($1)")).await?;
                let values: [&(dyn ToSql + Sync); 1] = [&number];
                for end in ["commit", "rollback"] {
                    let (begun, inserted, ended) = tokio::join!(
                        a.batch_execute("begin"),
                        a.execute(&insert, &values),
                        a.batch_execute(end)
                    );
                    begun?;
                    inserted?;
                    ended?;
                }
                let count: i64 =
                    a.query_one(&format!("select count(*) from {t} where n = $1"), &[&number]).await?.get(0);
                same(count, 1, "rows of one client")
            }
        })
        .await
    }

    pub(super) async fn typed_queries(place: Place) -> Outcome {
        all_at_once(10, |number| {
            let place = &place;
            async move {
                let a = place.connect().await?;
                for round in 0..20 {
                    let rows = a
                        .query_typed("select $1 * 1000 + $2", &[(&number, Type::INT4), (&round, Type::INT4)])
                        .await?;
                    same(rows[0].get(0), number * 1000 + round, "answer")?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn simple_queries(place: Place) -> Outcome {
        let (a, t) = (place.connect().await?, place.table());
        a.batch_execute(&format!(
            "create table {t} (n int); insert into {t} values (1); begin; insert into {t} values (2); commit"
        ))
        .await?;
        let broken = format!("insert into {t} values (3); select 1 / 0; insert into {t} values (4)");
        fails_with(a.batch_execute(&broken).await, &SqlState::DIVISION_BY_ZERO)?;
        let messages =
            a.simple_query(&format!("select n from {t} order by 1; select 'Grüße 🐘', null")).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        same(rows.collect(), vec!["1", "2", "Grüße 🐘"], "rows")?;
        a.batch_execute("").await?;
        Ok(())
    }

    pub(super) async fn errors(place: Place) -> Outcome {
        let (mut a, t) = (place.connect().await?, place.table());
        a.batch_execute(&format!(
            "create table {t} (n int primary key check (n > 0)); insert into {t} values (1)"
        ))
        .await?;
        for (query, sqlstate) in [
            ("selec 1".to_owned(), SqlState::SYNTAX_ERROR),
            ("select 1 / 0".to_owned(), SqlState::DIVISION_BY_ZERO),
            ("select no_such_column".to_owned(), SqlState::UNDEFINED_COLUMN),
            (format!("insert into {t} values (1)"), SqlState::UNIQUE_VIOLATION),
            (format!("insert into {t} values (-1)"), SqlState::CHECK_VIOLATION),
        ] {
            fails_with(a.query(&query, &[]).await, &sqlstate)?;
            fails_with(a.batch_execute(&query).await, &sqlstate)?;
            a.query_one("select 1", &[]).await?;
        }
        let transaction = a.transaction().await?;
        fails_with(transaction.query("select 1 / 0", &[]).await, &SqlState::DIVISION_BY_ZERO)?;
        fails_with(transaction.query("select 1", &[]).await, &SqlState::IN_FAILED_SQL_TRANSACTION)?;
        transaction.rollback().await?;
        a.query_one("select 1", &[]).await?;
        Ok(())
    }

    pub(super) async fn copy(place: Place) -> Outcome {
        let (a, t) = (place.connect().await?, place.table());
        a.batch_execute(&format!("create table {t} (n int, word text)")).await?;
        let lines: Vec<String> = (0..20_000).map(|n| format!("{n}\tgrüßt {n}\n")).collect();
        let mut sink = pin!(a.copy_in(&format!("copy {t} from stdin")).await?);
        for chunk in lines.chunks(100) {
            sink.send(std::io::Cursor::new(chunk.concat())).await?;
        }
        same(sink.finish().await?, 20_000, "rows in")?;
        let out = a.copy_out(&format!("copy (select * from {t} order by n) to stdout")).await?;
        let bytes: Vec<u8> =
            out.try_fold(Vec::new(), async |all, chunk| Ok([all.as_slice(), &chunk].concat())).await?;
        same(bytes == lines.concat().into_bytes(), true, "what came back")
    }

    pub(super) async fn broken_copy(place: Place) -> Outcome {
        let (a, t) = (place.connect().await?, place.table());
        a.batch_execute(&format!("create table {t} (n int)")).await?;
        let into = format!("copy {t} from stdin");
        {
            let mut given_up = pin!(a.copy_in(&into).await?);
            given_up.send("1\n".as_bytes()).await?;
        }
        {
            let mut refused = pin!(a.copy_in(&into).await?);
            // The error may come while there is still something to send.
            let sent = async {
                for _ in 0..50 {
                    refused.send("not a number\n".as_bytes()).await?;
                }
                refused.finish().await
            };
            fails_with(sent.await, &SqlState::INVALID_TEXT_REPRESENTATION)?;
        }
        drop(a.copy_out("copy (select generate_series(1, 100000)) to stdout").await?);
        same(a.query_one(&format!("select count(*) from {t}"), &[]).await?.get(0), 0_i64, "rows")
    }

    pub(super) async fn cancel(place: Place) -> Outcome {
        let a = place.connect().await?;
        for round in 0..3 {
            let word = marker();
            let sleep = format!("select pg_sleep(30) /* {word} */");
            let cancel = async {
                wait_until_running(&place, &word).await?;
                a.cancel_token().cancel_query(Tls::anyone()).await?;
                Ok::<_, Failure>(())
            };
            let (slept, cancelled) = tokio::join!(a.query(&sleep, &[]), cancel);
            cancelled?;
            fails_with(slept, &SqlState::QUERY_CANCELED)?;
            same(a.query_one("select $1::int", &[&round]).await?.get(0), round, "answer after a cancel")?;
        }
        Ok(())
    }

    pub(super) async fn cancel_storm(place: Place) -> Outcome {
        all_at_once(9, |number| {
            let place = &place;
            async move {
                let a = place.connect().await?;
                for round in 0..20 {
                    if number % 3 != 0 {
                        // Nobody cancels these.
                        let row = a
                            .query_one(
                                "select $1::int8 + count(*) from generate_series(1, 5000)",
                                &[&i64::from(round)],
                            )
                            .await?;
                        same(row.get(0), i64::from(round) + 5000, "a bystander's answer")?;
                        continue;
                    }
                    // Waiting in the pool, running, or over: the cancel comes at any time.
                    let token = a.cancel_token();
                    let (outcome, cancelled) = tokio::join!(
                        a.query("select pg_sleep(0.02)", &[]),
                        token.cancel_query(Tls::anyone())
                    );
                    cancelled?;
                    if let Err(error) = outcome {
                        fails_with(Err::<(), _>(error), &SqlState::QUERY_CANCELED)?;
                    }
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn dropped_futures(place: Place) -> Outcome {
        let a = place.connect().await?;
        for round in 0..50 {
            let _ = timeout(
                Duration::from_micros(200 * round),
                a.query("select $1::int, pg_sleep(0.002)", &[&7]),
            )
            .await;
            same(a.query_one("select $1::int", &[&8]).await?.get(0), 8, "the answer to the next query")?;
        }
        let mut rows = Box::pin(a.query_raw("select generate_series(1, 100000)", Vec::<i32>::new()).await?);
        rows.next().await;
        drop(rows);
        same(a.query_one("select $1::int", &[&9]).await?.get(0), 9, "the answer after a stream")
    }

    pub(super) async fn portals(place: Place) -> Outcome {
        let (mut a, b) = (place.connect().await?, place.connect().await?);
        let transaction = a.transaction().await?;
        let portal = transaction.bind("select generate_series(1, $1::int)", &[&10]).await?;
        let mut found = Vec::new();
        for expected in [4, 4, 2, 0] {
            let rows = transaction.query_portal(&portal, 4).await?;
            same(rows.len(), expected, "rows of one Execute")?;
            found.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
            b.query_one("select 'beside'", &[]).await?;
        }
        transaction.commit().await?;
        same(found, (1..=10).collect(), "rows")
    }

    pub(super) async fn million_rows(place: Place) -> Outcome {
        let a = place.connect().await?;
        let rows = a.query_raw("select generate_series(1, $1::int)", [MILLION]).await?;
        let total = rows.try_fold(0_i64, async |sum, row| Ok(sum + i64::from(row.get::<_, i32>(0)))).await?;
        same(total, i64::from(MILLION) * i64::from(MILLION + 1) / 2, "sum")
    }

    pub(super) async fn large_value(place: Place) -> Outcome {
        let a = place.connect().await?;
        let value: String = a.query_one("select repeat('x', $1)", &[&LARGE]).await?.get(0);
        same(value.len(), LARGE as usize, "length there")?;
        same(a.query_one("select length($1::text)", &[&value]).await?.get(0), LARGE, "length here")
    }

    pub(super) async fn fifty_clients(place: Place) -> Outcome {
        all_at_once(CLIENTS, |_| {
            let place = &place;
            async move {
                let (mut a, own) = (place.connect().await?, marker());
                for _ in 0..10 {
                    let transaction = a.transaction().await?;
                    transaction.execute("select set_config('drivers.own', $1, true)", &[&own]).await?;
                    let found: String =
                        transaction.query_one("select current_setting('drivers.own')", &[]).await?.get(0);
                    transaction.commit().await?;
                    same(&found, &own, "a client's own row")?;
                    fails_with(
                        a.query("select $1::text::int", &[&own]).await,
                        &SqlState::INVALID_TEXT_REPRESENTATION,
                    )?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn settings(place: Place) -> Outcome {
        all_at_once(20, |number| {
            let place = &place;
            async move {
                let a = place.connect_with_options(&format!("-c lock_timeout={}ms", 200 + number)).await?;
                let own = [
                    ("timezone", zone(number).to_owned()),
                    ("search_path", format!("own_{number}")),
                    ("application_name", format!("client {number}")),
                    ("statement_timeout", format!("{}s", 100 + number)),
                    ("app.current_user_id", format!("00000000-0000-0000-0000-{:012}", number + 1)),
                ];
                for (name, value) in &own {
                    a.batch_execute(&format!("set {name} to '{value}'")).await?;
                }
                for _ in 0..8 {
                    for (name, value) in &own {
                        let found: String = a.query_one("select current_setting($1)", &[name]).await?.get(0);
                        same(&found, value, name)?;
                    }
                    let found: String = a.query_one("show lock_timeout", &[]).await?.get(0);
                    same(found, format!("{}ms", 200 + number), "lock_timeout")?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn listen(place: Place) -> Outcome {
        let channel = marker();
        let (a, mut connection) = tokio_postgres::connect(&place.url, Tls::anyone()).await?;
        let (tell, mut heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(note) = message {
                    let _ = tell.send(note.payload().to_owned());
                }
            }
        });
        a.batch_execute(&format!("listen {channel}")).await?;
        let b = place.connect().await?;
        for word in ["one", "two"] {
            b.execute("select pg_notify($1, $2)", &[&channel, &word]).await?;
            let payload = timeout(Duration::from_secs(10), heard.recv()).await?;
            same(payload.as_deref(), Some(word), "payload")?;
        }
        Ok(())
    }

    pub(super) async fn session_state(place: Place) -> Outcome {
        let b = place.connect().await?;
        let (name, key) = (marker(), i64::from(std::process::id()) << 20);
        let (a, connection) = tokio_postgres::connect(&place.url, Tls::anyone()).await?;
        let driven = tokio::spawn(connection);
        a.batch_execute(&format!(
            "create temp table {name} as select 1 as n; declare {name} cursor with hold for select generate_series(1, 10)"
        ))
        .await?;
        a.execute("select pg_advisory_lock($1)", &[&key]).await?;
        let hidden = async || -> Outcome {
            let row = b.query_one("select to_regclass($1) is null", &[&name]).await?;
            same(row.get(0), true, "another client does not see the temporary table")?;
            fails_with(b.batch_execute(&format!("fetch 1 from {name}")).await, &SqlState::INVALID_CURSOR_NAME)
        };
        for _ in 0..5 {
            same(
                a.query_one(&format!("select n from {name}"), &[]).await?.get(0),
                1,
                "its own temporary table",
            )?;
            a.batch_execute(&format!("fetch 1 from {name}")).await?;
            let row = b.query_one("select pg_try_advisory_xact_lock($1)", &[&key]).await?;
            same(row.get(0), false, "the lock is held")?;
            hidden().await?;
        }
        same(
            a.query_one("select pg_advisory_unlock($1)", &[&key]).await?.get(0),
            true,
            "the lock was held where it is given back",
        )?;
        drop(a);
        driven.await??;
        for _ in 0..5 {
            hidden().await?;
        }
        Ok(())
    }
}

mod with_sqlx {
    use super::*;

    pub(super) async fn pool(place: Place) -> Outcome {
        let pool = PgPoolOptions::new().max_connections(20).connect(&place.url).await?;
        all_at_once(200, |number| {
            let pool = &pool;
            async move {
                let found: i32 =
                    sqlx::query_scalar("select $1::int * 2").bind(number).fetch_one(pool).await?;
                same(found, number * 2, "answer")?;
                let own = marker();
                let mut transaction = pool.begin().await?;
                sqlx::query("select set_config('drivers.own', $1, true)")
                    .bind(&own)
                    .execute(&mut *transaction)
                    .await?;
                let found: String = sqlx::query_scalar("select current_setting('drivers.own')")
                    .fetch_one(&mut *transaction)
                    .await?;
                transaction.commit().await?;
                same(found, own, "a task's own row")
            }
        })
        .await?;
        pool.close().await;
        Ok(())
    }

    pub(super) async fn transactions(place: Place) -> Outcome {
        let pool = PgPoolOptions::new().max_connections(2).connect(&place.url).await?;
        let t = place.table();
        pool.execute(AssertSqlSafe(format!("create table {t} (n int primary key)"))).await?;
        let insert = |n: i32| sqlx::query(AssertSqlSafe(format!("insert into {t} values ($1)"))).bind(n);

        let mut outer = pool.begin().await?;
        insert(1).execute(&mut *outer).await?;
        let mut inner = outer.begin().await?;
        fails_with(insert(1).execute(&mut *inner).await, &SqlState::UNIQUE_VIOLATION)?;
        inner.rollback().await?;
        insert(2).execute(&mut *outer).await?;
        outer.commit().await?;
        let mut dropped = pool.begin().await?;
        insert(3).execute(&mut *dropped).await?;
        drop(dropped);
        let mut rolled_back = pool.begin_with("begin isolation level serializable").await?;
        insert(4).execute(&mut *rolled_back).await?;
        rolled_back.rollback().await?;

        let found: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(format!("select n from {t} order by 1")))
            .fetch_all(&pool)
            .await?;
        pool.close().await;
        same(found, vec![1, 2], "rows")
    }

    pub(super) async fn changing_servers(place: Place) -> Outcome {
        let mut a = PgConnection::connect(&place.url).await?;
        let mut pid = 0;
        for number in 0..6 {
            let query = sqlx::query("select pg_backend_pid(), $1::int + 1").bind(number);
            let row = elsewhere(&place, pid, async { Ok(query.fetch_one(&mut a).await?) }).await?;
            same(row.try_get(1)?, number + 1, "answer")?;
            pid = row.try_get(0)?;
        }
        a.close().await?;
        Ok(())
    }

    pub(super) async fn eviction(place: Place) -> Outcome {
        let options: PgConnectOptions = place.url.parse()?;
        let small = options.statement_cache_capacity(3);
        all_at_once(8, |number| {
            let small = &small;
            async move {
                let mut a = PgConnection::connect_with(small).await?;
                for round in 0..3 {
                    for statement in 0..8 {
                        let query =
                            sqlx::query_scalar(AssertSqlSafe(format!("select {statement} * 1000 + $1::int")))
                                .bind(number + round);
                        same(query.fetch_one(&mut a).await?, statement * 1000 + number + round, "answer")?;
                    }
                }
                a.clear_cached_statements().await?;
                same(
                    sqlx::query_scalar("select $1::int").bind(5).fetch_one(&mut a).await?,
                    5,
                    "answer after the cache is cleared",
                )
            }
        })
        .await
    }

    pub(super) async fn unnamed(place: Place) -> Outcome {
        all_at_once(10, |number| {
            let place = &place;
            async move {
                let mut a = PgConnection::connect(&place.url).await?;
                for round in 0..15 {
                    let query =
                        sqlx::query_scalar("select $1::int * 1000 + $2::int").bind(number).bind(round);
                    same(query.persistent(false).fetch_one(&mut a).await?, number * 1000 + round, "answer")?;
                }
                Ok(())
            }
        })
        .await
    }

    pub(super) async fn errors(place: Place) -> Outcome {
        let (mut a, t) = (PgConnection::connect(&place.url).await?, place.table());
        a.execute(AssertSqlSafe(format!(
            "create table {t} (n int primary key check (n > 0)); insert into {t} values (1)"
        )))
        .await?;
        for (query, sqlstate) in [
            ("selec 1".to_owned(), SqlState::SYNTAX_ERROR),
            ("select 1 / 0".to_owned(), SqlState::DIVISION_BY_ZERO),
            (format!("insert into {t} values (1)"), SqlState::UNIQUE_VIOLATION),
            (format!("insert into {t} values (-1)"), SqlState::CHECK_VIOLATION),
        ] {
            for _ in 0..2 {
                fails_with(sqlx::query(AssertSqlSafe(query.clone())).execute(&mut a).await, &sqlstate)?;
                fails_with(a.execute(AssertSqlSafe(query.clone())).await, &sqlstate)?;
                a.ping().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn streams(place: Place) -> Outcome {
        let mut a = PgConnection::connect(&place.url).await?;
        let rows =
            sqlx::query_scalar::<_, i32>("select generate_series(1, $1::int)").bind(100_000).fetch(&mut a);
        let total = rows.try_fold(0_i64, async |sum, n| Ok(sum + i64::from(n))).await?;
        same(total, 5_000_050_000, "sum")?;
        let mut left =
            sqlx::query_scalar::<_, i32>("select generate_series(1, $1::int)").bind(100_000).fetch(&mut a);
        left.try_next().await?;
        drop(left);
        same(
            sqlx::query_scalar("select $1::int").bind(7).fetch_one(&mut a).await?,
            7,
            "the answer after a stream that was left",
        )
    }

    pub(super) async fn copy(place: Place) -> Outcome {
        let pool = PgPoolOptions::new().max_connections(2).connect(&place.url).await?;
        let t = place.table();
        pool.execute(AssertSqlSafe(format!("create table {t} (n int, word text)"))).await?;
        let lines: String = (0..20_000).map(|n| format!("{n}\tgrüßt {n}\n")).collect();

        let mut into = pool.copy_in_raw(&format!("copy {t} from stdin")).await?;
        into.send(lines.as_bytes()).await?;
        same(into.finish().await?, 20_000, "rows in")?;
        let mut given_up = pool.copy_in_raw(&format!("copy {t} from stdin")).await?;
        given_up.send("1\tx\n".as_bytes()).await?;
        given_up.abort("second thoughts").await?;
        let out = pool.copy_out_raw(&format!("copy (select * from {t} order by n) to stdout")).await?;
        let bytes: Vec<u8> =
            out.try_fold(Vec::new(), async |all, chunk| Ok([all.as_slice(), &chunk].concat())).await?;

        pool.close().await;
        same(bytes == lines.into_bytes(), true, "what came back")
    }

    pub(super) async fn settings(place: Place) -> Outcome {
        all_at_once(20, |number| {
            let place = &place;
            async move {
                let options: PgConnectOptions = place.url.parse()?;
                let lock_timeout = format!("{}ms", 200 + number);
                let options =
                    options.application_name("at the start").options([("lock_timeout", &lock_timeout)]);
                let mut a = PgConnection::connect_with(&options).await?;
                let user = format!("00000000-0000-0000-0000-{:012}", number + 1);
                let own = [
                    ("timezone", zone(number)),
                    ("search_path", "elsewhere"),
                    ("app.current_user_id", user.as_str()),
                    ("lock_timeout", lock_timeout.as_str()),
                ];
                for (name, value) in &own[..3] {
                    a.execute(AssertSqlSafe(format!("set {name} to '{value}'"))).await?;
                }
                for _ in 0..8 {
                    for (name, value) in own {
                        let found: String = sqlx::query_scalar("select current_setting($1)")
                            .bind(name)
                            .fetch_one(&mut a)
                            .await?;
                        same(found.as_str(), value, name)?;
                    }
                }
                a.execute("discard all").await?;
                a.clear_cached_statements().await?;
                let found: String = sqlx::query_scalar("select current_setting('application_name')")
                    .fetch_one(&mut a)
                    .await?;
                same(found.as_str(), "at the start", "application_name after DISCARD ALL")
            }
        })
        .await
    }

    pub(super) async fn listen(place: Place) -> Outcome {
        let channel = marker();
        let mut listener = PgListener::connect(&place.url).await?;
        listener.listen(&channel).await?;
        let mut b = PgConnection::connect(&place.url).await?;
        for word in ["one", "two"] {
            sqlx::query("select pg_notify($1, $2)").bind(&channel).bind(word).execute(&mut b).await?;
            let note = timeout(Duration::from_secs(10), listener.recv()).await??;
            same(note.payload(), word, "payload")?;
        }
        listener.unlisten_all().await?;
        Ok(())
    }

    pub(super) async fn advisory_lock(place: Place) -> Outcome {
        let lock = PgAdvisoryLock::new(marker());
        let (mut a, mut b) =
            (PgConnection::connect(&place.url).await?, PgConnection::connect(&place.url).await?);
        let guard = lock.acquire(&mut a).await?;
        same(lock.try_acquire(&mut b).await?.is_left(), false, "a second client gets the lock")?;
        guard.release_now().await?;
        let Some(guard) = lock.try_acquire(&mut b).await?.left() else {
            return Err("the lock was not given back".into());
        };
        guard.release_now().await?;
        a.close().await?;
        b.close().await?;
        Ok(())
    }

    pub(super) async fn migrations(place: Place) -> Outcome {
        let directory = std::env::temp_dir().join(marker());
        std::fs::create_dir(&directory)?;
        let t = place.table();
        let first = format!("create table {t} (n int); insert into {t} values (1);");
        std::fs::write(directory.join("1_first.sql"), first)?;
        std::fs::write(directory.join("2_second.sql"), format!("insert into {t} values (2);"))?;
        let outcome = migrate_by_several(&place, &directory).await;
        std::fs::remove_dir_all(&directory)?;
        outcome?;

        let mut a = PgConnection::connect(&place.url).await?;
        let found: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(format!("select n from {t} order by 1")))
            .fetch_all(&mut a)
            .await?;
        a.lock().await?;
        a.unlock().await?;
        same(found, vec![1, 2], "each migration, once")
    }

    /// Two at once: each of them holds a server while it waits for sqlx's own advisory lock.
    async fn migrate_by_several(place: &Place, directory: &std::path::Path) -> Outcome {
        all_at_once(2, |_| async move {
            let options: PgConnectOptions = place.url.parse()?;
            // The table of versions goes where the search path leads.
            let mut a =
                PgConnection::connect_with(&options.options([("search_path", &place.schema)])).await?;
            sqlx::migrate::Migrator::new(directory).await?.run(&mut a).await?;
            a.close().await?;
            Ok(())
        })
        .await
    }
}
