//! The console: what there is is seen, and steered under load without loss.

use std::time::Duration;

use crate::harness::pgusher::Builder;
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};

fn with_console(postgres: &Postgres) -> Builder {
    Pgusher::before(postgres)
        .set("admin", "users", "[\"postgres\"]")
        .set("admin", "readers", "[\"other\"]")
        .pool_size(3)
}

async fn console(pgusher: &Pgusher) -> Raw {
    Raw::login(&pgusher.target().user("postgres", "postgres").database("pgusher")).await
}

/// The columns of an answer: `name:oid`.
async fn columns(console: &mut Raw, sql: &str) -> String {
    let frames = console.query(sql).await;
    let described = frames.iter().find(|frame| frame.is(b'T')).unwrap_or_else(|| panic!("{sql}: {frames:?}"));
    let body = &described.body;
    let mut at = 2;
    let mut columns = Vec::new();
    while at < body.len() {
        let end = at + body[at..].iter().position(|byte| *byte == 0).unwrap();
        let name = String::from_utf8_lossy(&body[at..end]).into_owned();
        let oid = u32::from_be_bytes(body[end + 7..end + 11].try_into().unwrap());
        columns.push(format!("{name}:{oid}"));
        at = end + 19;
    }
    columns.join(" ")
}

/// The value of one column in the row that has this in its first.
async fn cell(console: &mut Raw, sql: &str, row: &str, column: &str) -> Option<String> {
    let names = columns(console, sql).await;
    let at = names.split(' ').position(|name| name.split(':').next() == Some(column)).unwrap();
    let rows = console.rows(sql).await;
    rows.iter().find(|cells| cells[0].as_deref() == Some(row)).and_then(|cells| cells[at].clone())
}

#[tokio::test]
async fn columns_are_pgbouncers_in_name_order_and_type() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut console = console(&pgusher).await;

    for (sql, expected) in [
        (
            "SHOW POOLS",
            "database:25 user:25 cl_active:23 cl_waiting:23 cl_active_cancel_req:23 cl_waiting_cancel_req:23 \
             sv_active:23 sv_active_cancel:23 sv_being_canceled:23 sv_idle:23 sv_used:23 sv_tested:23 sv_login:23 \
             maxwait:23 maxwait_us:23 pool_mode:25 load_balance_hosts:25",
        ),
        (
            "SHOW STATS_TOTALS",
            "database:25 server_assignment_count:1700 xact_count:1700 query_count:1700 bytes_received:1700 \
             bytes_sent:1700 xact_time:1700 query_time:1700 wait_time:1700 client_parse_count:1700 \
             server_parse_count:1700 bind_count:1700",
        ),
        (
            "SHOW DATABASES",
            "name:25 host:25 port:23 database:25 force_user:25 pool_size:23 min_pool_size:23 reserve_pool_size:23 \
             server_lifetime:23 pool_mode:25 load_balance_hosts:25 max_connections:23 current_connections:23 \
             max_client_connections:23 current_client_connections:23 paused:23 disabled:23",
        ),
        (
            "SHOW SERVERS",
            "type:25 user:25 database:25 replication:25 state:25 addr:25 port:23 local_addr:25 local_port:23 \
             connect_time:25 request_time:25 wait:23 wait_us:23 close_needed:23 ptr:25 link:25 remote_pid:23 tls:25 \
             application_name:25 prepared_statements:23 id:23",
        ),
        ("SHOW LISTS", "list:25 items:23"),
        ("show config", "key:25 value:25 default:25 changeable:25"),
        ("SHOW STATE", "key:25 value:25"),
        ("SHOW DNS_HOSTS", "hostname:25 ttl:20 addrs:25"),
    ] {
        assert_eq!(columns(&mut console, sql).await, expected, "{sql}");
    }
    assert_eq!(columns(&mut console, "SHOW STATS").await.split(' ').count(), 23);
    assert_eq!(columns(&mut console, "SHOW CLIENTS").await, columns(&mut console, "SHOW SERVERS").await);
    assert_eq!(console.value("SHOW VERSION").await, "PgBouncer 1.25.2");
    assert_eq!(console.rows("SHOW LISTS").await.len(), 14);
}

#[tokio::test]
async fn what_clients_do_is_seen() {
    let postgres = Postgres::shared(18).await;
    let pgusher =
        with_console(&postgres).pool_size(1).text("pool", "slow_wait", "200ms").no_identity().start().await;
    let database = postgres.database();
    let mut console = console(&pgusher).await;
    let (mut client, mut second) = (pgusher.client().await, pgusher.client().await);
    client.rows("select 1").await;
    client
        .ask([say::parse("s", "select 2"), say::bind("", "s", &[]), say::execute("", 0), say::sync()])
        .await;
    client.rows("begin; listen x; commit").await;
    second.send([say::query("select 'second'")]).await;

    let waiting = eventually("somebody waits", PATIENCE, async || {
        let rows = console.rows("SHOW WAITING").await;
        let pinned = |row: &&Vec<Option<String>>| row[7].as_deref().is_some_and(|it| it.contains("pinned"));
        rows.iter().find(pinned).cloned()
    })
    .await;
    let pool = "SHOW POOLS";
    let counts = [
        cell(&mut console, pool, database, "cl_waiting").await.unwrap(),
        cell(&mut console, pool, database, "sv_active").await.unwrap(),
        cell(&mut console, pool, database, "sv_idle").await.unwrap(),
    ];
    let pins = console.rows("SHOW PINS").await;
    let pid = client.server_pid().await;
    let servers = console.rows("SHOW SERVERS").await;
    let clients = console.rows("SHOW CLIENTS").await;

    let line = pgusher.until_logged("clients wait for a server").await;
    assert!(line.contains("pinned by listen"), "{line}");
    assert_eq!(counts, ["1", "1", "0"]);
    assert_eq!(waiting[6].as_deref(), Some("every server of the pool is in use"));
    assert!(waiting[7].as_deref().unwrap().contains("pinned by listen"), "{waiting:?}");
    assert_eq!(pins[0][7].as_deref(), Some("listen"));
    assert_eq!(servers[0][16].as_deref(), Some(&*pid));
    let states: Vec<_> = clients.iter().map(|client| client[4].clone().unwrap()).collect();
    assert_eq!(states, ["active", "active", "waiting"]);
    client.rows("unlisten *").await;
    second.read_until_ready().await;
    let stats = "SHOW STATS_TOTALS";
    for (column, least) in [("xact_count", 4), ("query_count", 4), ("bytes_sent", 100), ("wait_time", 1)] {
        let value: u64 = cell(&mut console, stats, database, column).await.unwrap().parse().unwrap();
        assert!(value >= least, "{column} = {value}");
    }
    for (column, count) in [("client_parse_count", "1"), ("server_parse_count", "1"), ("bind_count", "1")] {
        assert_eq!(cell(&mut console, stats, database, column).await.as_deref(), Some(count), "{column}");
    }
}

#[tokio::test]
async fn who_is_not_named_is_not_let_in_and_a_reader_only_sees() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres)
        .text("listen", "auth", "scram-sha-256")
        .set("listen", "max_clients", "1")
        .start()
        .await;
    let target = pgusher.target();
    let mut stranger = Raw::connect(&target.address).await;
    let refused = stranger.try_login(&target.clone().database("pgusher")).await.unwrap_err();

    let mut reader = Raw::login(&target.clone().user("other", "other").database("pgbouncer")).await;
    let mut late = Raw::connect(&target.address).await;
    let full = late.try_login(&target).await.unwrap_err();
    let mut admin = console(&pgusher).await;

    assert_eq!((refused.sqlstate(), full.sqlstate()), ("28P01".into(), "53300".into()));
    assert_eq!(notation(&reader.query("PAUSE").await), "E(42501) Z(I)");
    assert_eq!(notation(&reader.query("SHOW STATE").await), "T D D D C(SHOW) Z(I)");
    assert_eq!(notation(&admin.query("PAUSE").await), "C(PAUSE) Z(I)");
}

#[tokio::test]
async fn what_nobody_knows_is_an_error_and_the_connection_stays() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut console = console(&pgusher).await;

    for (sql, answer) in [
        ("frobnicate", "E(42601) Z(I)"),
        ("SHOW FROBS", "E(42601) Z(I)"),
        ("", "I Z(I)"),
        ("PAUSE nowhere", "E(3D000) Z(I)"),
        ("RESUME", "E(55000) Z(I)"),
        ("DISABLE", "E(42601) Z(I)"),
        ("KILL_CLIENT 99999", "E(42704) Z(I)"),
        ("SET pool.size = 'lots'", "E(22023) Z(I)"),
        ("SET no.such = 1", "E(22023) Z(I)"),
        ("SET extra_float_digits = 3", "C(SET) Z(I)"),
        ("BEGIN", "C(BEGIN) Z(T)"),
        ("COMMIT", "C(COMMIT) Z(I)"),
        ("SELECT 1", "T D C(SHOW) Z(I)"),
        ("SHOW HELP", "N(NOTICE 00000) C(SHOW) Z(I)"),
        ("RECONNECT; SHOW STATE", "C(RECONNECT) T D D D C(SHOW) Z(I)"),
    ] {
        assert_eq!(notation(&console.query(sql).await), answer, "{sql}");
    }
    let skipped = console
        .ask([say::parse("", "frobnicate"), say::bind("", "", &[]), say::execute("", 0), say::sync()])
        .await;
    assert_eq!(skipped, "1 2 E(42601) Z(I)");
    let described = console
        .ask([
            say::parse("a", "SHOW STATE"),
            say::describe_statement("a"),
            say::bind("", "a", &[]),
            say::execute("", 0),
            say::sync(),
        ])
        .await;
    assert_eq!(described, "1 t T 2 D D D C(SHOW) Z(I)");
}

#[tokio::test]
async fn a_pause_waits_for_transactions_and_everyone_waits_for_the_resume() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = with_console(&postgres).text("pool", "acquire_timeout", "200ms").start().await;
    let (mut admin, mut second) = (console(&pgusher).await, console(&pgusher).await);
    let (mut inside, mut idle) = (pgusher.client().await, pgusher.client().await);
    inside.rows("begin").await;
    idle.rows("select 1").await;

    admin.send([say::query("PAUSE")]).await;
    eventually("the pause has begun", PATIENCE, async || {
        (second.rows("SHOW STATE").await[1][1].as_deref() == Some("yes")).then_some(())
    })
    .await;
    idle.send([say::query("select 'after'")]).await;
    admin.expect_silence(Duration::from_millis(100)).await;
    inside.rows("commit").await;
    let paused = notation(&admin.read_until_ready().await);
    postgres.until_servers_of("app", 0).await;
    let newcomer = pgusher.client().await;
    pgusher.reloaded(|it| it.set("pool", "max_waiting", "9")).await;
    idle.expect_silence(Duration::from_millis(500)).await;
    assert_eq!(postgres.servers_of("app").await, 0);
    let resumed = notation(&admin.query("RESUME").await);

    assert_eq!((paused.as_str(), resumed.as_str()), ("C(PAUSE) Z(I)", "C(RESUME) Z(I)"));
    assert_eq!(notation(&idle.read_until_ready().await), "T D C(SELECT 1) Z(I)");
    drop(newcomer);
}

#[tokio::test]
async fn servers_are_renewed_and_the_old_ones_waited_for() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let (mut admin, mut inside) = (console(&pgusher).await, pgusher.client().await);
    inside.rows("begin").await;
    let before = inside.server_pid().await;

    admin.rows("RECONNECT").await;
    admin.send([say::query("WAIT_CLOSE")]).await;
    admin.expect_silence(Duration::from_millis(100)).await;
    let still = inside.server_pid().await;
    inside.rows("commit").await;

    assert_eq!(notation(&admin.read_until_ready().await), "C(WAIT_CLOSE) Z(I)");
    assert_eq!(still, before);
    assert_ne!(inside.server_pid().await, before);
}

#[tokio::test]
async fn databases_and_clients_are_disabled_and_killed() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let database = postgres.database();
    let mut admin = console(&pgusher).await;
    let mut one = pgusher.client().await;

    admin.rows(&format!("DISABLE \"{database}\"")).await;
    let mut late = Raw::connect(&pgusher.target().address).await;
    assert_eq!(late.try_login(&pgusher.target()).await.unwrap_err().sqlstate(), "55000");
    assert_eq!(one.value("select 'goes on'").await, "goes on");
    admin.rows(&format!("ENABLE \"{database}\"")).await;
    let mut two = pgusher.client().await;
    two.rows("begin").await;
    let clients = admin.rows("SHOW CLIENTS").await;
    let id = clients.last().unwrap()[20].clone().unwrap();

    admin.rows(&format!("KILL_CLIENT {id}")).await;
    assert_eq!(notation(&two.expect_close().await), "E(57P01)");
    one.send([say::query("select pg_sleep(60)")]).await;
    postgres.until_asleep(1).await;
    admin.rows(&format!("KILL \"{database}\"")).await;
    assert_eq!(notation(&one.expect_close().await), "E(57P01)");
    postgres.until_servers_of("app", 0).await;
    admin.rows(&format!("RESUME \"{database}\"")).await;
    assert_eq!(pgusher.client().await.value("select 'again'").await, "again");
}

#[tokio::test]
async fn settings_are_set_until_the_next_reload() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut admin = console(&pgusher).await;
    let database = postgres.database();
    let size = "SHOW DATABASES";

    assert_eq!(notation(&admin.query("SET default_pool_size = 7").await), "C(SET default_pool_size=7) Z(I)");
    assert_eq!(cell(&mut admin, size, database, "pool_size").await.as_deref(), Some("7"));
    assert_eq!(cell(&mut admin, "SHOW CONFIG", "pool.size", "value").await.as_deref(), Some("7"));
    assert_eq!(notation(&admin.query("RELOAD").await), "C(RELOAD) Z(I)");
    assert_eq!(cell(&mut admin, size, database, "pool_size").await.as_deref(), Some("3"));
    assert_eq!(cell(&mut admin, "SHOW CONFIG", "max_client_conn", "value").await.as_deref(), Some("10000"));
}

#[tokio::test]
async fn a_shutdown_drains_or_does_not() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = with_console(&postgres).start().await;
    let (mut admin, mut inside) = (console(&pgusher).await, pgusher.client().await);
    inside.rows("begin").await;

    admin.send([say::query("SHUTDOWN WAIT_FOR_CLIENTS")]).await;
    assert_eq!(notation(&admin.expect_close().await), "C(SHUTDOWN) Z(I) E(57P01)");
    assert_eq!(notation(&inside.query("commit").await), "C(COMMIT) Z(I)");
    assert!(pgusher.end().await.success());
    let mut pgusher = with_console(&postgres).start().await;
    let (mut admin, mut inside) = (console(&pgusher).await, pgusher.client().await);
    inside.rows("begin").await;
    admin.send([say::query("SHUTDOWN")]).await;

    assert!(pgusher.end().await.success());
    inside.expect_close().await;
}

/// pgbench counts and checks every transaction; what is steered meanwhile must not cost it one.
#[tokio::test]
async fn nothing_is_lost_while_it_is_steered_under_load() {
    let postgres = Postgres::shared(18).await;
    postgres.sql("create table tally (n int); alter table tally owner to app").await;
    let mut pgusher = with_console(&postgres).start().await;
    let script = pgusher.directory().join("count.sql");
    std::fs::write(
        &script,
        "begin;\ninsert into tally values (1);\nselect count(*) from pg_class;\ncommit;\n",
    )
    .unwrap();
    let bench = postgres
        .tool("pgbench")
        .aim(&pgusher.target())
        .args(["-n", "-c", "8", "-t", "60", "-M", "prepared", "-f"])
        .arg(&script)
        .run();
    let bench = tokio::spawn(bench);
    let mut admin = console(&pgusher).await;
    let database = postgres.database().to_owned();

    let mut rounds = 0;
    let mut done = 0;
    while !bench.is_finished() {
        let stats = "SHOW STATS_TOTALS";
        let count = cell(&mut admin, stats, &database, "xact_count")
            .await
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        if count < done {
            continue;
        }
        done = count + 40;
        for sql in ["PAUSE", "SHOW POOLS", "RESUME", "RECONNECT", "WAIT_CLOSE", "SET default_pool_size = 2"] {
            let said = notation(&admin.query(sql).await);
            assert!(!said.contains("E("), "{sql}: {said}");
        }
        admin.rows(&format!("PAUSE \"{database}\"")).await;
        admin.rows(&format!("RESUME \"{database}\"")).await;
        admin.rows("RELOAD").await;
        rounds += 1;
    }
    let output = bench.await.unwrap().ok();

    assert!(rounds > 1, "{rounds}");
    assert!(output.contains("number of failed transactions: 0"), "{output}");
    assert_eq!(postgres.value("select count(*) from tally").await, "480");
    assert!(pgusher.ended().is_none());
}

#[tokio::test]
async fn psql_and_psycopg_are_at_home() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let target = pgusher.target().user("postgres", "postgres").database("pgbouncer");
    let _client = pgusher.client().await;

    let psql = postgres.tool("psql").aim(&target).args(["-c", "SHOW POOLS;"]).run().await.ok();
    let script = "import os, psycopg\n\
                  with psycopg.connect(os.environ['URL']) as c:\n\
                  \x20   rows = c.execute('SHOW POOLS', binary=True).fetchall()\n\
                  \x20   assert isinstance(rows[0][2], int), rows\n\
                  \x20   stats = c.execute('SHOW STATS', prepare=True, binary=True).fetchall()\n\
                  \x20   print('stats', int(stats[0][2]), c.info.server_version)\n";
    let python = crate::harness::process::tools().join("python/bin/python");
    let mut command = crate::harness::process::tied(python, "KILL");
    command.args(["-c", script]).env("URL", target.url());
    let psycopg = crate::harness::process::run(command).await.ok();

    assert!(psql.contains("sv_idle"), "{psql}");
    assert!(psycopg.contains("stats"), "{psycopg}");
}
