//! Clients whose machine went away without a word: keepalive finds out, or words that nobody acknowledges, and what they held is
//! free again.

use socket2::{SockFilter, SockRef};

use crate::harness::process::{root, run, tied};
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, say};

/// A pooler that asks a silent peer after a second whether it is still there.
async fn attentive(postgres: &Postgres, size: usize) -> Pgusher {
    let builder = Pgusher::before(postgres).pool_size(size).text("listen", "keepalive", "1s");
    builder.set("listen", "max_clients", "2").start().await
}

/// Logs a client in, has it say something, and takes its machine away.
async fn vanish(pgusher: &Pgusher, postgres: &Postgres, sql: &str) {
    let address = pgusher.address();
    let mut command = tied("python3", "KILL");
    command.arg(root().join("tests/drivers/vanish.py")).args([
        &address.ip().to_string(),
        &address.port().to_string(),
        "app",
        postgres.database(),
        sql,
    ]);
    assert_eq!(run(command).await.ok(), "gone\n");
}

#[tokio::test]
async fn a_transaction_whose_client_vanished_is_rolled_back_and_its_server_used_again() {
    let postgres = Postgres::shared(18).await;
    postgres.sql("create table t (a int); alter table t owner to app; insert into t values (1)").await;
    let pgusher = attentive(&postgres, 1).await;
    let mut witness = pgusher.client().await;
    let pid = witness.server_pid().await;

    vanish(&pgusher, &postgres, "begin; update t set a = 2").await;

    assert_eq!(witness.value("select a from t").await, "1"); // it waits for the only server
    assert_eq!(witness.server_pid().await, pid);
}

#[tokio::test]
async fn a_server_pinned_to_a_client_that_vanished_is_used_again() {
    let postgres = Postgres::shared(18).await;
    let pgusher = attentive(&postgres, 1).await;
    let mut witness = pgusher.client().await;

    vanish(&pgusher, &postgres, "create temporary table mine ()").await;

    assert_eq!(witness.value("select to_regclass('mine') is null").await, "t");
}

#[tokio::test]
async fn the_place_of_a_client_that_vanished_is_another_s() {
    let postgres = Postgres::shared(18).await;
    let pgusher = attentive(&postgres, 2).await;
    let _other = pgusher.client().await;

    vanish(&pgusher, &postgres, "select 1").await;

    eventually("its place is free", PATIENCE, async || {
        let mut client = Raw::connect(&pgusher.target().address).await;
        client.try_login(&pgusher.target()).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_is_given_up_by_tcp_user_timeout() {
    let postgres = Postgres::shared(18).await;
    postgres.sql("create table t (a int); alter table t owner to app; insert into t values (1)").await;
    let builder = Pgusher::before(&postgres).pool_size(1).text("listen", "keepalive", "off");
    let pgusher = builder.text("listen", "tcp_user_timeout", "1s").start().await;
    let (mut deaf, mut witness) = (pgusher.client().await, pgusher.client().await);

    // From here on its kernel drops what comes for it, as if the cable were cut; its last words still get out.
    const DROP: SockFilter = SockFilter::new(0x06, 0, 0, 0); // BPF_RET: so many bytes are kept
    SockRef::from(deaf.tcp()).attach_filter(&[DROP]).unwrap();
    deaf.send([say::query("begin; update t set a = 2")]).await;
    postgres.until("select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'", "1").await;

    assert_eq!(witness.value("select a from t").await, "1"); // it waits for the only server
}
