//! pooling.md, 31: replication connections pass through one to one.

use crate::harness::*;

/// A walsender speaks its own commands; the pool has no part in it.
#[tokio::test]
async fn a_base_backup_is_taken_through_the_pooler() {
    let rules =
        "local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";
    let postgres = Postgres::private(15, &[("wal_level", "replica"), ("max_wal_senders", "4")], rules).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;

    let target = pgusher.target().user("postgres", "postgres");
    let directory = pgusher.directory().join("backup");
    let _ = postgres
        .tool("pg_basebackup")
        .aim(&target)
        .args(["-X", "stream", "-c", "fast", "-D", directory.to_str().unwrap()])
        .run()
        .await
        .ok();

    assert!(directory.join("PG_VERSION").exists());
    assert_eq!(client.value("select 'still in its transaction'").await, "still in its transaction");
}

/// Logical decoding needs SQL and replication commands on one connection.
#[tokio::test]
async fn a_logical_replication_connection_speaks_both_languages() {
    let rules =
        "local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";
    let postgres = Postgres::private(15, &[("wal_level", "logical")], rules).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let target = pgusher.target().user("postgres", "postgres").with("replication", "database");

    let mut client = Raw::login(&target).await;

    assert_eq!(client.rows("IDENTIFY_SYSTEM").await.len(), 1);
    assert_eq!(client.value("select 1").await, "1");
}

/// The settings of a replication connection go into its startup packet, where three names are no settings.
#[tokio::test]
async fn options_do_not_say_who_logs_in_to_the_server() {
    let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
    let postgres = Postgres::private(18, &[("wal_level", "logical")], rules).await;
    postgres.sql("alter role app replication").await;
    postgres.create_database("elsewhere").await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let target = pgusher.target().with("replication", "database");
    let mut client = Raw::login(&target).await;
    assert_eq!(client.value("select session_user").await, "app");

    for option in ["-c user=postgres", "--user=postgres", "-c database=elsewhere", "-c replication=false"] {
        let target = target.clone().with("options", option);
        let refusal = Raw::connect(&target.address).await.try_login(&target).await.unwrap_err();

        assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "42704".into()), "{option}");
        assert!(
            refusal.message().starts_with("unrecognized configuration parameter"),
            "{}",
            refusal.message()
        );
    }
}
