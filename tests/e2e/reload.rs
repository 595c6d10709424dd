//! The configuration changes while clients are served: what can be applied is, at once, and nobody loses anything.

use std::fs;
use std::time::Duration;

use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};

const A: &str = "0a1b2c3d-0000-4000-8000-00000000000a";

async fn prepared_here(client: &mut Raw) -> String {
    client.value("select count(*) from pg_prepared_statements where name like 'pgusher_%'").await
}

async fn prepare(client: &mut Raw, count: usize) {
    for number in 0..count {
        let (name, sql) = (format!("s{number}"), format!("select {number} + $1::int"));
        let said = client.ask([say::parse(&name, &sql), say::sync()]).await;
        assert_eq!(said, "1 Z(I)");
        assert_eq!(execute(client, number).await, "2 D C(SELECT 1) Z(I)");
    }
}

async fn execute(client: &mut Raw, number: usize) -> String {
    let name = format!("s{number}");
    client.ask([say::bind("", &name, &[Some("1")]), say::execute("", 0), say::sync()]).await
}

#[tokio::test]
async fn a_pool_whose_settings_did_not_change_is_untouched() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher =
        Pgusher::before(&postgres).pool_size(1).database("twin", postgres.address()).start().await;
    let twin = format!("databases.{:?}", "twin");
    pgusher
        .reloaded(|it| {
            it.text(&twin, "dbname", postgres.database())
                .text(&twin, "user", "app")
                .text(&twin, "password", "app")
        })
        .await;
    let mut mine = pgusher.client().await;
    let mut other = Raw::login(&pgusher.target().database("twin")).await;
    let (before, other_before) = (mine.server_pid().await, other.server_pid().await);

    pgusher.reloaded(|it| it.set(&twin, "size", "3").set(&twin, "acquire_timeout", "\"9s\"")).await;
    let with_other_limits = (mine.server_pid().await, other.server_pid().await);
    pgusher.reloaded(|it| it.set(&twin, "settings", "{ jit = \"off\" }")).await;
    let with_other_settings = (mine.server_pid().await, other.server_pid().await);

    assert_eq!(with_other_limits, (before.clone(), other_before.clone()));
    assert_eq!(with_other_settings.0, before);
    assert_ne!(with_other_settings.1, other_before);
    assert_eq!(other.value("show jit").await, "off");
}

#[tokio::test]
async fn a_transaction_ends_on_the_server_where_it_began_and_the_next_is_on_a_new_one() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(2).start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;
    let before = client.server_pid().await;

    pgusher.reloaded(|it| it.of_database("settings", "{ work_mem = \"7MB\" }")).await;
    let inside = (client.server_pid().await, client.value("show work_mem").await);
    client.rows("commit").await;
    let after = (client.server_pid().await, client.value("show work_mem").await);

    assert_eq!(inside.0, before);
    assert_ne!(inside.1, "7MB");
    assert_ne!(after.0, before);
    assert_eq!(after.1, "7MB");
    postgres.until_servers_of("app", 1).await;
}

#[tokio::test]
async fn a_pool_grows_for_those_who_wait_and_shrinks_as_servers_are_given_back() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(pgusher.client().await);
    }
    clients[0].rows("begin").await;
    for client in &mut clients[1..] {
        client.send([say::query("begin")]).await;
    }
    clients[1].expect_silence(Duration::from_millis(100)).await;

    pgusher.reloaded(|it| it.set("pool", "size", "4")).await;
    for client in &mut clients[1..] {
        assert_eq!(notation(&client.read_until_ready().await), "C(BEGIN) Z(T)");
    }
    assert_eq!(postgres.servers_of("app").await, 4);
    pgusher.reloaded(|it| it.set("pool", "size", "2")).await;
    for client in &mut clients {
        client.rows("commit").await;
    }
    postgres.until_servers_of("app", 2).await;
    clients[0].rows("begin").await;
    clients[1].rows("begin").await;
    clients[2].send([say::query("select 1")]).await;
    clients[2].expect_silence(Duration::from_millis(100)).await;
    pgusher.reloaded(|it| it.set("pool", "size", "4")).await;

    assert_eq!(notation(&clients[2].read_until_ready().await), "T D C(SELECT 1) Z(I)");
    clients[3].rows("begin").await;
    assert!(postgres.servers_of("app").await <= 4);
}

#[tokio::test]
async fn databases_come_and_go() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).database("spare", postgres.address()).start().await;
    let spare = "databases.\"spare\"";
    pgusher.reloaded(|it| it.text(spare, "dbname", postgres.database())).await;
    let mut idle = Raw::login(&pgusher.target().database("spare")).await;
    let mut inside = Raw::login(&pgusher.target().database("spare")).await;
    idle.rows("select 1").await;
    inside.rows("begin").await;

    pgusher
        .reloaded(|it| {
            ["host", "port", "dbname"].into_iter().fold(it, |it, key| it.unset(spare, key)).text(
                "databases.\"new\"",
                "url",
                &postgres.url(),
            )
        })
        .await;
    let told = idle.expect_close().await;
    let committed = notation(&inside.query("commit").await);
    let told_later = notation(&inside.expect_close().await);
    let mut late = Raw::connect(&pgusher.target().address).await;
    let refused = late.try_login(&pgusher.target().database("spare")).await.unwrap_err();

    assert_eq!((notation(&told).as_str(), told_later.as_str()), ("E(57P01)", "E(57P01)"));
    assert!(told[0].field(b'H').unwrap().contains("removed"), "{:?}", told[0]);
    assert_eq!(committed, "C(COMMIT) Z(I)");
    assert_eq!(refused.sqlstate(), "3D000");
    assert_eq!(Raw::login(&pgusher.target().database("new")).await.value("select 'new'").await, "new");
}

#[tokio::test]
async fn users_and_passwords_change_for_those_who_come() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "scram-sha-256")
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"")
        .user("anna", "one")
        .user("otto", "one")
        .start()
        .await;
    let (mut anna, mut otto) = (
        Raw::login(&pgusher.target().user("anna", "one")).await,
        Raw::login(&pgusher.target().user("otto", "one")).await,
    );

    pgusher.reloaded(|it| it.user("anna", "two").unset("users.\"otto\"", "password")).await;
    let mut late = Raw::connect(&pgusher.target().address).await;
    let refused = late.try_login(&pgusher.target().user("anna", "one")).await.unwrap_err();

    assert_eq!(refused.sqlstate(), "28P01");
    assert_eq!(anna.value("select 'stays'").await, "stays");
    assert_eq!(Raw::login(&pgusher.target().user("anna", "two")).await.value("select 1").await, "1");
    assert_eq!(notation(&otto.expect_close().await), "E(57P01)");
}

#[tokio::test]
async fn statement_limits_change_for_connected_clients() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).no_identity().start().await;
    let mut client = pgusher.client().await;
    prepare(&mut client, 5).await;
    assert_eq!(prepared_here(&mut client).await, "5");

    pgusher.reloaded(|it| it.set("pool", "server_statements", "2")).await;
    assert_eq!(execute(&mut client, 4).await, "2 D C(SELECT 1) Z(I)");
    assert_eq!(prepared_here(&mut client).await, "2");
    for number in 0..5 {
        assert_eq!(execute(&mut client, number).await, "2 D C(SELECT 1) Z(I)");
    }
    assert_eq!(prepared_here(&mut client).await, "2");

    pgusher.reloaded(|it| it.set("pool", "client_statements", "5")).await;
    let refused = client.ask([say::parse("s6", "select 6"), say::sync()]).await;
    assert_eq!(refused, "E(53400) Z(I)");
}

#[tokio::test]
async fn no_statements_on_servers_leaves_the_names_that_were_given_and_no_others() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).no_identity().start().await;
    let mut client = pgusher.client().await;
    prepare(&mut client, 3).await;

    pgusher.reloaded(|it| it.set("pool", "server_statements", "0")).await;
    for number in [2, 0, 1] {
        assert_eq!(execute(&mut client, number).await, "2 D C(SELECT 1) Z(I)");
    }
    assert_eq!(prepared_here(&mut client).await, "1");
    client.rows("deallocate all").await;
    let pid = client.server_pid().await;
    let named = client.ask([say::parse("mine", "select 'mine'"), say::sync()]).await;
    let kept = client.value("select name from pg_prepared_statements").await;

    assert_eq!((named.as_str(), kept.as_str()), ("1 Z(I)", "mine"));
    assert_eq!(client.server_pid().await, pid);
    pgusher.reloaded(|it| it.set("pool", "server_statements", "9")).await;
    assert_eq!(
        client.ask([say::bind("", "mine", &[]), say::execute("", 0), say::sync()]).await,
        "2 D C(SELECT 1) Z(I)"
    );
}

#[tokio::test]
async fn identity_rules_change_for_connected_clients() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).identity().start().await;
    let (mut nobody, mut anna) = (pgusher.client().await, pgusher.client_for(A).await);
    assert_eq!(nobody.value("select 1").await, "1");

    pgusher.reloaded(|it| it.text("identity", "missing", "deny")).await;
    let refused = notation(&nobody.query("select 1").await);
    let served = anna.value("select current_setting('app.current_user_id')").await;

    assert_eq!(refused, "E(28000) Z(I)");
    assert_eq!(served, A);
}

#[tokio::test]
async fn another_variable_leaves_no_identity_in_the_one_before() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).identity().start().await;
    let (mut nobody, mut anna) = (pgusher.client().await, pgusher.client_for(A).await);
    let before = "coalesce(current_setting('app.current_user_id', true), '')";
    assert_eq!(anna.value(&format!("select {before}")).await, A);

    pgusher.reloaded(|it| it.text("identity", "variable", "app.uid")).await;
    let both = format!("select current_setting('app.uid') || '/' || {before}");

    assert_eq!(anna.value(&both).await, format!("{A}/"));
    assert_eq!(nobody.value(&both).await, "/");
    pgusher.reloaded(|it| it.text("identity", "pattern", "integer")).await;
    assert_eq!(notation(&anna.expect_close().await), "E(57P01)");
    assert_eq!(nobody.value(&both).await, "/");
}

#[tokio::test]
async fn limits_on_clients_and_the_log_level_change() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).text("log", "level", "info").start().await;
    let mut one = pgusher.client().await;
    let _two = pgusher.client().await;

    pgusher
        .reloaded(|it| it.set("listen", "max_clients", "1").text("log", "level", "pgusher::proxy=warn,info"))
        .await;
    let mut late = Raw::connect(&pgusher.target().address).await;
    let refused = late.try_login(&pgusher.target()).await.unwrap_err();
    let lines = pgusher.log().matches("client connected").count();
    pgusher.reloaded(|it| it.set("listen", "max_clients", "3")).await;
    let _three = pgusher.client().await;

    assert_eq!(refused.sqlstate(), "53300");
    assert_eq!(one.value("select 'stays'").await, "stays");
    assert_eq!(pgusher.log().matches("client connected").count(), lines);
}

#[tokio::test]
async fn what_needs_a_restart_is_said_and_the_rest_is_applied() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).start().await;

    pgusher
        .reloaded(|it| {
            it.set("listen", "workers", "3").set("listen", "backlog", "7").set("listen", "max_clients", "1")
        })
        .await;
    let _one = pgusher.client().await;
    let mut late = Raw::connect(&pgusher.target().address).await;

    assert_eq!(late.try_login(&pgusher.target()).await.unwrap_err().sqlstate(), "53300");
    for key in ["listen.workers", "listen.backlog"] {
        assert!(pgusher.until_logged(key).await.contains("restart"));
    }
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_everything_wrong_with_it_is_said() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    let before = client.server_pid().await;

    pgusher
        .reloaded(|it| {
            it.set("pool", "size", "\"lots\"")
                .text("pool", "mode", "sesion")
                .of_database("dbname", "\"elsewhere\"")
        })
        .await;

    let log = pgusher.log();
    for wrong in ["pool.size", "pool.mode", "sesion"] {
        assert!(log.contains(wrong), "{wrong}");
    }
    assert_eq!(client.server_pid().await, before);
    assert_eq!(pgusher.client().await.value("select 1").await, "1");
}

#[tokio::test]
async fn a_changed_file_is_read_without_a_signal_also_behind_a_swapped_symlink() {
    let postgres = Postgres::shared(18).await;
    let mut builder = Pgusher::before(&postgres)
        .text("listen", "watch_files", "on")
        .text("listen", "auth", "scram-sha-256")
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"");
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    for version in ["1", "2"] {
        fs::create_dir(secrets.path().join(version)).unwrap();
        fs::write(secrets.path().join(version).join("password"), format!("secret{version}\n")).unwrap();
    }
    std::os::unix::fs::symlink("1", secrets.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/password", &password).unwrap();
    builder = builder.text("users.\"anna\"", "password_file", password.to_str().unwrap());
    let pgusher = builder.start().await;
    let enters = async |user: &str, password: &str| {
        let mut client = Raw::connect(&pgusher.target().address).await;
        client.try_login(&pgusher.target().user(user, password)).await.is_ok()
    };
    assert!(enters("anna", "secret1").await);

    std::os::unix::fs::symlink("2", secrets.path().join("..new")).unwrap();
    fs::rename(secrets.path().join("..new"), secrets.path().join("..data")).unwrap();

    eventually("the secret is changed", PATIENCE, async || enters("anna", "secret2").await.then_some(()))
        .await;
    assert!(!enters("anna", "secret1").await);
    let text = fs::read_to_string(pgusher.config_file()).unwrap();
    fs::write(pgusher.config_file(), format!("{text}\n[users.berta]\npassword = \"b\"\n")).unwrap();
    eventually("the user is there", PATIENCE, async || enters("berta", "b").await.then_some(())).await;
}
