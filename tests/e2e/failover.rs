//! Several hosts, of which one is the primary: which one is used, and what is noticed when it is another one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

use crate::harness::pgusher::Builder;
use crate::harness::{FakeServer, PATIENCE, Pgusher, Postgres, Raw, StopMode, answer, eventually, say};

/// A primary and a standby that has everything before a commit is acknowledged.
async fn pair(major: u16) -> (Postgres, Postgres) {
    let settings = [("wal_keep_size", "64MB"), ("synchronous_commit", "on")];
    let mut primary = Postgres::private(major, &settings, "").await;
    let standby = primary.standby().await;
    primary.until("select count(*) from pg_stat_replication where state = 'streaming'", "1").await;
    primary.configure(&[("synchronous_standby_names", "*")]);
    primary.reload();
    primary.until("select sync_state from pg_stat_replication", "sync").await;
    (primary, standby)
}

/// In front of several servers, in this order.
fn before(hosts: &[&Postgres], target: &str) -> Builder {
    let list: Vec<_> = hosts.iter().map(|host| format!("\"127.0.0.1:{}\"", host.port())).collect();
    Pgusher::before(hosts[0])
        .of_database("host", &format!("[{}]", list.join(", ")))
        .of_database("target_session_attrs", &format!("{target:?}"))
        .pool_size(4)
}

/// Where a client's transactions are, now.
async fn port_of(client: &mut Raw) -> u16 {
    client.value("select current_setting('port')").await.parse().unwrap()
}

/// What an application knows that writes, and tries twice.
#[derive(Default)]
struct Writers {
    /// Rows whose commit was acknowledged.
    acknowledged: Mutex<BTreeSet<i64>>,
    /// What was said to those who had tried twice.
    refused: Mutex<Vec<String>>,
    tried_again: AtomicUsize,
    is_over: AtomicBool,
}

impl Writers {
    async fn write(self: Arc<Self>, url: String, first: i64) {
        let mut client = None;
        for row in first.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            if insert(&url, &mut client, row).await.is_err() {
                self.tried_again.fetch_add(1, Ordering::Relaxed);
                client = None;
                if let Err(error) = insert(&url, &mut client, row).await {
                    self.refused.lock().await.push(error);
                    return;
                }
            }
            self.acknowledged.lock().await.insert(row);
        }
    }

    async fn until_more(&self, count: usize) {
        let before = self.acknowledged.lock().await.len();
        eventually("more rows are acknowledged", PATIENCE, async || {
            (self.acknowledged.lock().await.len() >= before + count || !self.refused.lock().await.is_empty())
                .then_some(())
        })
        .await;
    }
}

/// In a transaction, so that there is something to be in the middle of.
async fn insert(url: &str, client: &mut Option<Client>, row: i64) -> Result<(), String> {
    if client.is_none() {
        let (new, connection) =
            tokio_postgres::connect(url, NoTls).await.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        *client = Some(new);
    }
    let client = client.as_mut().expect("just connected");
    let written = async {
        let transaction = client.transaction().await?;
        // It may have been committed, the first time, without our hearing of it.
        transaction.execute("insert into rows values ($1) on conflict do nothing", &[&row]).await?;
        transaction.commit().await
    };
    written.await.map_err(|error: tokio_postgres::Error| format!("{error:?}"))
}

async fn a_promotion_under_load_is_one_error_at_most(major: u16) {
    let (mut primary, standby) = pair(major).await;
    primary.sql("create table rows (id bigint primary key)").await;
    primary.sql("grant all on rows to app").await;
    let pgusher = before(&[&primary, &standby], "read-write").start().await;
    let writers = Arc::new(Writers::default());
    let tasks: Vec<_> = (0..8)
        .map(|number| tokio::spawn(writers.clone().write(pgusher.target().url(), number * 1_000_000)))
        .collect();
    writers.until_more(200).await;

    primary.stop(StopMode::Immediate).await;
    standby.promote().await;
    standby.sql("alter system set synchronous_standby_names = ''").await;
    standby.sql("select pg_reload_conf()").await;
    writers.until_more(200).await;

    writers.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*writers.refused.lock().await, [""; 0]);
    assert!(writers.tried_again.load(Ordering::Relaxed) > 0, "nobody noticed anything: nothing was proven");
    let there = standby.sql("select id from rows").await;
    let there: BTreeSet<i64> = there.into_iter().flatten().flatten().map(|id| id.parse().unwrap()).collect();
    let lost: Vec<_> = writers.acknowledged.lock().await.difference(&there).copied().collect();
    assert_eq!(lost, [0_i64; 0]);
}

#[tokio::test]
async fn a_promotion_under_load_is_one_error_at_most_on_15() {
    a_promotion_under_load_is_one_error_at_most(15).await;
}

#[tokio::test]
async fn a_promotion_under_load_is_one_error_at_most_on_18() {
    a_promotion_under_load_is_one_error_at_most(18).await;
}

#[tokio::test]
async fn a_primary_that_comes_back_as_a_standby_is_left() {
    let (mut old, mut new) = pair(15).await;
    let pgusher = before(&[&old, &new], "primary").start().await;
    let mut client = pgusher.client().await;
    assert_eq!(port_of(&mut client).await, old.port());

    // Fast: the standby has everything, and the old primary can follow it.
    old.stop(StopMode::Fast).await;
    new.promote().await;
    new.configure(&[("synchronous_standby_names", "")]);
    new.reload();
    old.follow(&new);
    old.start().await;
    old.until("select pg_is_in_recovery()", "t").await;

    for _ in 0..10 {
        let mut client = pgusher.client().await;
        assert_eq!(port_of(&mut client).await, new.port());
        client.terminate().await;
    }
    assert!(pgusher.log().contains("the primary is a standby now"), "{}", pgusher.log());
}

#[tokio::test]
async fn a_user_that_only_reads_is_sent_to_the_standby() {
    let (primary, mut standby) = pair(15).await;
    let pgusher = before(&[&primary, &standby], "primary")
        .text("users.\"other\"", "target_session_attrs", "standby")
        .text("users.\"trusted\"", "target_session_attrs", "prefer-standby")
        .text("pool", "acquire_timeout", "1s")
        .start()
        .await;
    let target = |user: &str| pgusher.target().user(user, user);
    let mut writer = pgusher.client().await;
    let mut reader = Raw::login(&target("other")).await;
    let mut preferring = Raw::login(&target("trusted")).await;

    assert_eq!(port_of(&mut writer).await, primary.port());
    assert_eq!(port_of(&mut reader).await, standby.port());
    assert_eq!(port_of(&mut preferring).await, standby.port());
    assert_eq!(reader.value("select pg_is_in_recovery()").await, "t");

    standby.stop(StopMode::Fast).await;
    let refused = reader.query("select 1").await;

    assert_eq!(port_of(&mut preferring).await, primary.port());
    assert_eq!(port_of(&mut writer).await, primary.port());
    let refused = refused.iter().find(|frame| frame.tag == b'E').expect("an error");
    assert_eq!(refused.sqlstate(), "08001", "{}", refused.message());

    standby.start().await;
    assert_eq!(port_of(&mut reader).await, standby.port());
    primary.terminate_servers_of("trusted").await;
    assert_eq!(port_of(&mut preferring).await, standby.port());
}

/// `default_transaction_read_only` is reported when it changes: nobody has to fail first.
#[tokio::test]
async fn a_server_that_is_closed_for_writing_is_left_as_it_says_so() {
    let (mut one, other) = (Postgres::private(15, &[], "").await, Postgres::private(15, &[], "").await);
    let pgusher = before(&[&one, &other], "read-write").of_database("dbname", "\"postgres\"").start().await;
    let mut client = pgusher.client().await;
    let mut own = pgusher.client().await;
    assert_eq!(port_of(&mut client).await, one.port());

    // A client's own wish says nothing about the server.
    own.rows("set default_transaction_read_only = on").await;
    assert_eq!(port_of(&mut own).await, one.port());
    let process = own.value("select pg_backend_pid()").await;
    assert_eq!(client.value("select pg_backend_pid()").await, process);

    one.configure(&[("default_transaction_read_only", "on")]);
    one.reload();
    eventually("the pool goes to the other", PATIENCE, async || {
        (port_of(&mut client).await == other.port()).then_some(())
    })
    .await;
    assert_eq!(client.value("show transaction_read_only").await, "off");
}

/// Something in front of the servers may change which one a connection leads to: then only the refusal to write tells.
#[tokio::test]
async fn a_refused_write_is_the_end_of_its_generation_and_the_next_login_finds_the_primary() {
    let is_demoted = Arc::new(AtomicBool::new(false));
    let one = switched(is_demoted.clone(), false, "INSERT 0 1").await;
    let other = switched(is_demoted.clone(), true, "INSERT 0 2").await;
    let pgusher = Pgusher::before_address(one.address())
        .of_database("host", &format!("[\"{}\", \"{}\"]", one.address(), other.address()))
        .unset("databases.\"fake\"", "port")
        .of_database("target_session_attrs", "\"primary\"")
        .pool_size(3)
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(pgusher.client().await);
    }
    for client in &mut clients {
        assert_eq!(client.ask([say::query("begin")]).await, "C(BEGIN) Z(T)");
    }
    for client in &mut clients {
        assert_eq!(client.ask([say::query("commit")]).await, "C(COMMIT) Z(I)");
    }

    is_demoted.store(true, Ordering::Relaxed);
    let refused = clients[0].ask([say::query("insert")]).await;

    assert_eq!(refused, "E(25006) Z(I)");
    for client in &mut clients {
        assert_eq!(client.ask([say::query("insert")]).await, "C(INSERT 0 2) Z(I)");
    }
}

/// A server behind a switch: it is a primary or a standby as the switch says, also in the middle of a session, and does not
/// say so before the next login.
async fn switched(is_demoted: Arc<AtomicBool>, is_other: bool, done: &'static str) -> FakeServer {
    FakeServer::start(move |mut client| {
        let is_demoted = is_demoted.clone();
        async move {
            let is_standby = || is_demoted.load(Ordering::Relaxed) != is_other;
            client.startup().await;
            client.send([answer::authentication_ok()]).await;
            client
                .send([answer::parameter_status("in_hot_standby", if is_standby() { "on" } else { "off" })])
                .await;
            client.send([answer::parameter_status("default_transaction_read_only", "off")]).await;
            client.send([answer::ready(b'I')]).await;
            while let Some(frame) = client.read().await {
                if frame.tag != b'Q' {
                    continue;
                }
                let said = match &frame.body[..] {
                    b"begin\0" => [answer::command_complete("BEGIN"), answer::ready(b'T')],
                    b"commit\0" => [answer::command_complete("COMMIT"), answer::ready(b'I')],
                    _ if is_standby() => {
                        [answer::error_of("ERROR", "25006", "cannot execute INSERT"), answer::ready(b'I')]
                    }
                    _ => [answer::command_complete(done), answer::ready(b'I')],
                };
                client.send(said).await;
            }
        }
    })
    .await
}

/// It accepts and says nothing: every look at it costs the whole `connect_timeout`.
#[tokio::test]
async fn a_host_that_does_not_answer_is_not_tried_first_each_time() {
    let postgres = Postgres::shared(15).await;
    let silent = FakeServer::start(|mut client| async move {
        client.startup().await;
        std::future::pending::<()>().await;
    })
    .await;
    let pgusher = Pgusher::before(&postgres)
        .of_database("host", &format!("[\"{}\", \"{}\"]", silent.address(), postgres.address()))
        .unset(&format!("databases.{:?}", postgres.database()), "port")
        .text("pool", "connect_timeout", "1s")
        .pool_size(8)
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(pgusher.client().await);
    }

    // Each needs a server of its own.
    for client in &mut clients {
        client.rows("begin").await;
    }

    assert_eq!(silent.connections(), 1, "{}", pgusher.log());
    assert!(pgusher.log().contains("host does not answer"), "{}", pgusher.log());
}

/// Which host is in the way is said, and what it is.
#[tokio::test]
async fn a_check_says_what_the_servers_are() {
    let postgres = Postgres::shared(14).await;
    let pgusher = Pgusher::before(&postgres).of_database("target_session_attrs", "\"standby\"").start().await;

    let check = std::process::Command::new(env!("CARGO_BIN_EXE_pgusher"))
        .args(["check", "--connect", "--config"])
        .arg(pgusher.config_file())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no server fits target_session_attrs = \"standby\": the last one tried is no standby"),
        "{said}"
    );
}
