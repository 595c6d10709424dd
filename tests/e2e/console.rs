//! The console: what there is is seen, and steered under load without loss.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::pgusher::Builder;
use crate::harness::process::{root, run, tied, tools};
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, Target, eventually, notation, say};

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

/// Everything PgBouncer 1.25.2 can show, and what is ours.
const SHOWN: [&str; 24] = [
    "ACTIVE_SOCKETS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "DNS_ZONES",
    "IDENTITY",
    "LISTS",
    "MEM",
    "PEER_POOLS",
    "PEERS",
    "PINS",
    "POOLS",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "STATS_AVERAGES",
    "STATS_TOTALS",
    "TOTALS",
    "USERS",
    "VERSION",
    "WAITING",
    "timezone",
];

#[tokio::test]
async fn readers_are_shown_all_there_is_and_change_nothing() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;
    let mut admin = console(&pgusher).await;
    let mut reader = Raw::login(&pgusher.target().user("other", "other").database("pgbouncer")).await;

    for what in SHOWN {
        let shown = (columns(&mut admin, &format!("SHOW {what}")).await, format!("select {what};"));
        assert_eq!(columns(&mut reader, &shown.1).await, shown.0, "{what}");
        assert!(notation(&reader.query(&shown.1).await).ends_with("C(SHOW) Z(I)"), "{what}");
    }
    for refused in ["SHOW FDS", "SUSPEND"] {
        assert_eq!(notation(&admin.query(refused).await), "E(0A000) Z(I)", "{refused}");
    }
    let database = postgres.database();
    for steers in [
        "SHOW FDS",
        "SUSPEND",
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "WAIT_CLOSE",
        "KILL",
        "KILL_CLIENT 1",
        "RELOAD",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "SET pool.size = 1",
        &format!("DISABLE \"{database}\""),
        &format!("ENABLE \"{database}\""),
    ] {
        assert_eq!(notation(&reader.query(steers).await), "E(42501) Z(I)", "{steers}");
    }
    assert_eq!(notation(&client.query("commit").await), "C(COMMIT) Z(I)");
}

#[tokio::test]
async fn sockets_and_memory_are_shown_in_pgbouncers_columns() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let (mut admin, mut idle, mut inside) =
        (console(&pgusher).await, pgusher.client().await, pgusher.client().await);
    idle.rows("select 1").await;
    inside.rows("begin").await;

    let sockets = columns(&mut admin, "SHOW SOCKETS").await;
    let buffers =
        "recv_pos:23 pkt_pos:23 pkt_remain:23 send_pos:23 send_remain:23 pkt_avail:23 send_avail:23";
    let states = async |admin: &mut Raw, sql| {
        let rows = admin.rows(sql).await;
        let mut states: Vec<_> = rows.into_iter().map(|row| row[4].clone().unwrap()).collect();
        states.sort();
        states.join(" ")
    };
    let memory = admin.rows("SHOW MEM").await;

    assert_eq!(sockets, format!("{} {buffers}", columns(&mut admin, "SHOW CLIENTS").await));
    assert_eq!(states(&mut admin, "SHOW SOCKETS").await, "cl_active cl_active cl_active sv_active");
    assert_eq!(states(&mut admin, "SHOW ACTIVE_SOCKETS").await, "cl_active sv_active");
    assert_eq!(columns(&mut admin, "SHOW MEM").await, "name:25 size:23 used:23 free:23 memtotal:23");
    let resident = memory.iter().find(|row| row[0].as_deref() == Some("resident")).unwrap();
    let resident: u64 = resident[4].as_deref().unwrap().parse().unwrap();
    assert!((1 << 20..1 << 30).contains(&resident), "{resident}");
}

/// prometheus-community's pgbouncer_exporter, by its own statements over the driver it has (lib/pq): what it does not find or
/// cannot read, it does not export.
#[tokio::test]
async fn the_exporter_of_prometheus_reads_what_it_wants() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;
    let target = pgusher.target().user("other", "other").database("pgbouncer");
    let mut exporter = tied("go", "KILL");
    exporter
        .arg("run")
        .arg(root().join("tests/drivers/exporter.go"))
        .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")])
        .env("GOCACHE", tools().join("go"))
        .env("DATABASE_URL", target.url());

    let exported = run(exporter).await.ok();

    let lines: Vec<_> = exported.lines().collect();
    let database = postgres.database();
    for expected in [
        "version PgBouncer 1.25.2".to_owned(),
        "lists pools 1".to_owned(),
        "config max_client_conn 10000".to_owned(),
        "config max_user_connections 0".to_owned(),
        format!("databases{{{database},127.0.0.1,{},{database},,transaction}} pool_size 3", postgres.port()),
        format!("pools{{{database},app}} sv_active 1"),
        format!("pools{{{database},app}} maxwait 0"),
    ] {
        assert!(lines.contains(&&*expected), "{expected} in {exported}");
    }
    assert_eq!(lines.len(), 1 + 11 + 2 + 5 + 10 + 12, "{exported}");
}

/// Execute's limit, as cursors of drivers use it.
#[tokio::test]
async fn rows_come_as_many_at_once_as_are_wanted() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let mut console = console(&pgusher).await;
    let executed = |rows| [say::execute("p", rows), say::sync()];

    console.rows("begin").await;
    let begun = console
        .ask([say::parse("", "SHOW LISTS"), say::bind("p", "", &[]), say::execute("p", 5), say::sync()])
        .await;
    let described = console.ask([say::describe_portal("p"), say::execute("p", 1), say::sync()]).await;
    let rest = console.ask(executed(0)).await;
    let gone = console.ask(executed(0)).await;
    console.rows("commit").await;
    let exact = console
        .ask([
            say::parse("", "SHOW STATE"),
            say::bind("p", "", &[]),
            say::execute("p", 3),
            say::execute("p", 3),
            say::sync(),
        ])
        .await;
    let over = console.ask(executed(0)).await;

    assert_eq!(begun, "1 2 D D D D D s Z(T)");
    assert_eq!(described, "T D s Z(T)");
    assert_eq!(rest, "D D D D D D D D C(SHOW) Z(T)");
    assert_eq!(gone, "E(34000) Z(T)");
    assert_eq!(exact, "1 2 D D D s C(SHOW) Z(I)");
    assert_eq!(over, "E(34000) Z(I)");
}

#[tokio::test]
async fn what_is_injected_is_counted_and_not_shown() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).identity().text("identity", "missing", "deny").start().await;
    let database = postgres.database();
    let mut admin = console(&pgusher).await;
    let mut client = pgusher.client().await;
    client.query("select 1").await;
    client.query("set app.current_user_id = '00000000-0000-0000-0000-000000000001'").await;
    client.value("select 1").await;
    client.value("select 2").await;

    let mut counts = Vec::new();
    for column in ["injected", "cancelled", "failed", "refused", "clients"] {
        counts.push(cell(&mut admin, "SHOW IDENTITY", database, column).await.unwrap());
    }
    let shown = format!("{:?}", admin.rows("SHOW IDENTITY").await);

    assert_eq!(counts, ["2", "0", "0", "1", "1"]);
    assert!(!shown.contains("0000-0000"), "{shown}");
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
    for client in &clients {
        let [connected, requested] = [9, 10].map(|at| client[at].as_deref().unwrap());
        assert!(requested >= connected && requested.ends_with(" UTC"), "{client:?}");
    }
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
    let mut pgusher = with_console(&postgres).start().await;
    let (mut admin, mut second) = (console(&pgusher).await, console(&pgusher).await);
    let (mut inside, mut idle) = (pgusher.client().await, pgusher.client().await);
    inside.rows("begin").await;
    idle.rows("select 1").await;
    // Only now: on a busy machine it takes longer than that to log in to a server.
    pgusher.reloaded(|it| it.text("pool", "acquire_timeout", "700ms")).await;

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
    idle.expect_silence(Duration::from_millis(900)).await;
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

/// A script for pgbench that leaves one row for each transaction.
fn one_row_each(pgusher: &Pgusher) -> PathBuf {
    let script = pgusher.directory().join("one_row.sql");
    let text = "begin;\ninsert into tally values (:client_id);\nselect count(*) from pg_class;\ncommit;\n";
    std::fs::write(&script, text).unwrap();
    script
}

/// How many of pgbench's transactions were acknowledged, by its own log.
fn acknowledged(prefix: &Path) -> usize {
    let name = prefix.file_name().unwrap().to_string_lossy().into_owned();
    let logs = std::fs::read_dir(prefix.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
    let logs = logs.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name));
    logs.map(|entry| std::fs::read_to_string(entry.path()).unwrap().lines().count()).sum()
}

/// Those who are connected go on, newcomers are refused: pgbench counts every transaction.
#[tokio::test]
async fn a_disabled_database_loses_nobody_who_is_there() {
    let postgres = Postgres::shared(18).await;
    postgres.sql("create table tally (n int); alter table tally owner to app").await;
    let pgusher = with_console(&postgres).start().await;
    let (script, mut admin, database) =
        (one_row_each(&pgusher), console(&pgusher).await, postgres.database().to_owned());
    let bench = postgres
        .tool("pgbench")
        .aim(&pgusher.target())
        .args(["-n", "-c", "6", "-t", "80", "-M", "extended", "-f"])
        .arg(&script)
        .run();
    let bench = tokio::spawn(bench);
    eventually("everybody is there", PATIENCE, async || {
        let clients = cell(&mut admin, "SHOW DATABASES", &database, "current_client_connections").await;
        (clients.as_deref() == Some("6")).then_some(())
    })
    .await;

    let mut refused = 0;
    while !bench.is_finished() {
        admin.rows(&format!("DISABLE \"{database}\"")).await;
        let mut late = Raw::connect(&pgusher.target().address).await;
        let refusal = late.try_login(&pgusher.target()).await.expect_err("it is disabled");
        assert_eq!(refusal.sqlstate(), "55000");
        admin.rows(&format!("ENABLE \"{database}\"")).await;
        pgusher.client().await.terminate().await;
        refused += 1;
    }
    let output = bench.await.unwrap().ok();

    assert!(refused > 1, "{refused}");
    assert!(output.contains("number of failed transactions: 0"), "{output}");
    assert_eq!(postgres.value("select count(*) from tally").await, "480");
}

/// Its clients are cut off, and lose what they had not committed; those of another database notice nothing.
#[tokio::test]
async fn a_killed_database_keeps_what_was_acknowledged_and_spares_the_others() {
    let postgres = Postgres::shared(18).await;
    postgres.sql("create table tally (n int); alter table tally owner to app").await;
    postgres.sql("create table spared (n int); alter table spared owner to app").await;
    let pgusher = with_console(&postgres)
        .database("spare", postgres.address())
        .text("databases.\"spare\"", "dbname", postgres.database())
        .start()
        .await;
    let (script, mut admin, database) =
        (one_row_each(&pgusher), console(&pgusher).await, postgres.database().to_owned());
    let spared = pgusher.directory().join("spared.sql");
    std::fs::write(&spared, "begin;\ninsert into spared values (1);\ncommit;\n").unwrap();
    let log = pgusher.directory().join("killed");
    let bench = |target: Target, script: &Path, more: &[&str]| {
        postgres
            .tool("pgbench")
            .aim(&target)
            .args(["-n", "-c", "6"])
            .args(more.iter().copied())
            .arg("-f")
            .arg(script)
            .run()
    };
    let killed = tokio::spawn(bench(
        pgusher.target(),
        &script,
        &["-T", "30", "-l", "--log-prefix", log.to_str().unwrap()],
    ));
    let other = tokio::spawn(bench(pgusher.target().database("spare"), &spared, &["-t", "200"]));
    eventually("all are at work", PATIENCE, async || {
        let at_work = "select (select count(*) from tally) > 100 and (select count(*) from spared) > 100";
        (postgres.value(at_work).await == "t").then_some(())
    })
    .await;

    let tag = notation(&admin.query(&format!("KILL \"{database}\"")).await);
    let cut_off = killed.await.unwrap();
    let mut late = Raw::connect(&pgusher.target().address).await;
    late.send([pgusher.target().startup()]).await;
    let rows: usize = postgres.value("select count(*) from tally").await.parse().unwrap();
    let (acknowledged, spared) = (acknowledged(&log), other.await.unwrap().ok());
    late.expect_silence(Duration::from_millis(20)).await;
    let resumed = notation(&admin.query(&format!("RESUME \"{database}\"")).await);

    assert_eq!((tag.as_str(), resumed.as_str()), ("C(KILL) Z(I)", "C(RESUME) Z(I)"));
    assert!(!cut_off.status.success() && cut_off.stderr.contains("administrator command"), "{cut_off:?}");
    // A commit that was under way may have arrived without its answer: one for each client at most.
    assert!((acknowledged..=acknowledged + 6).contains(&rows), "{acknowledged} acknowledged, {rows} rows");
    assert!(spared.contains("number of failed transactions: 0"), "{spared}");
    assert_eq!(postgres.value("select count(*) from spared").await, "1200");
    late.authenticate("app", "app").await.expect("it is let in");
    late.read_until_ready().await;
    assert_eq!(late.value("select 'later'").await, "later");
}

#[tokio::test]
async fn psql_and_drivers_are_at_home() {
    let postgres = Postgres::shared(18).await;
    let pgusher = with_console(&postgres).start().await;
    let target = pgusher.target().user("postgres", "postgres").database("pgbouncer");
    let _client = pgusher.client().await;
    let url = target.url().split('?').next().unwrap_or_default().to_owned();

    let psql = postgres.tool("psql").aim(&target).args(["-c", "SHOW POOLS;"]).run().await.ok();
    for (interpreter, script) in
        [(tools().join("python/bin/python"), "console.py"), ("node".into(), "console.mjs")]
    {
        let mut command = tied(interpreter, "KILL");
        command.arg(root().join("tests/drivers").join(script)).env("DATABASE_URL", &url);
        run(command).await.ok();
    }
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let statement = client.prepare("SHOW POOLS").await.unwrap();
    let rows = client.query(&statement, &[]).await.unwrap();

    assert!(psql.contains("sv_idle"), "{psql}");
    assert_eq!(rows[0].get::<_, i32>("cl_active"), 1);
}
