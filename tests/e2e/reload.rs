//! The configuration changes while clients are served: what can be applied is, at once, and nobody loses anything.

use std::fs;
use std::time::Duration;

use crate::harness::http::get;
use crate::harness::issuer::{Issuer, claims};
use crate::harness::pgusher::Builder;
use crate::harness::tls::Wanted;
use crate::harness::{Ca, PATIENCE, Pgusher, Postgres, Raw, Target, eventually, notation, say};

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

/// What was refused, by its SQLSTATE; "" if it was let in.
async fn refusal(target: &Target) -> String {
    let mut late = Raw::reach(target).await.expect("encrypted if it wants to be");
    late.try_login(target).await.err().map_or_else(String::new, |refusal| refusal.sqlstate())
}

#[tokio::test]
async fn the_encryption_of_clients_changes_for_those_who_come() {
    let postgres = Postgres::shared(18).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("a CA of this test");
    let issued = ca.issue(Wanted::loopback(), directory.path(), "pgusher");
    let mut pgusher = Pgusher::before(&postgres).start().await;
    let (plain, secret) = (pgusher.target(), pgusher.target().in_tls(ca.client()));
    let mut old = pgusher.client().await;
    assert!(Raw::reach(&secret).await.is_err(), "there is no TLS yet");

    pgusher.reloaded(|it| it.tls("allow", &issued)).await;
    let both = (refusal(&plain).await, refusal(&secret).await);
    let mut encrypted = Raw::login(&secret).await;
    pgusher.reloaded(|it| it.tls("require", &issued)).await;
    let required = (refusal(&plain).await, refusal(&secret).await);
    pgusher.reloaded(|it| it.text("tls.client", "mode", "disable")).await;

    assert_eq!(both, (String::new(), String::new()));
    assert_eq!(required, ("28000".into(), String::new()));
    assert_eq!(refusal(&plain).await, "");
    assert!(Raw::reach(&secret).await.is_err());
    assert_eq!(old.value("select 'stays'").await, "stays");
    assert_eq!(encrypted.value("select 'stays'").await, "stays");
}

#[tokio::test]
async fn the_encryption_of_servers_changes_with_the_next_transaction() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut client = pgusher.client().await;
    let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(client.value(encrypted).await, "f");

    client.rows("begin").await;
    pgusher.reloaded(|it| it.sslmode("require")).await;
    let inside = client.value(encrypted).await;
    client.rows("commit").await;

    assert_eq!(inside, "f");
    assert_eq!(client.value(encrypted).await, "t");
    postgres.until_servers_of("app", 1).await;
}

fn rules(it: Builder, rules: &[&str]) -> Builder {
    it.set("listen", "rules", &format!("{rules:?}"))
}

#[tokio::test]
async fn rules_change_for_those_who_come() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = rules(Pgusher::before(&postgres), &["host all app all trust"]).start().await;
    let (app, other) = (pgusher.target(), pgusher.target().user("other", "wrong"));
    let mut old = pgusher.client().await;
    let before = (refusal(&app).await, refusal(&other).await);

    pgusher.reloaded(|it| rules(it, &["host all app all reject", "host all other all scram-sha-256"])).await;
    let after =
        (refusal(&app).await, refusal(&other).await, refusal(&app.clone().user("other", "other")).await);
    pgusher.reloaded(|it| rules(it, &["host all app all nonsense"])).await;
    let still = (refusal(&app).await, refusal(&other).await);

    assert_eq!(before, (String::new(), "28000".into()));
    assert_eq!(after, ("28000".into(), "28P01".into(), String::new()));
    assert_eq!(still, ("28000".into(), "28P01".into()));
    assert!(pgusher.log().contains("nonsense"));
    assert_eq!(old.value("select 'stays'").await, "stays");
}

#[tokio::test]
async fn keys_and_terms_of_tokens_change_for_connected_clients() {
    let issuer = Issuer::new();
    let postgres = Postgres::shared(18).await;
    let mut pgusher =
        Pgusher::before(&postgres).identity().text("identity", "jwt_key", &issuer.jwk("ed")).start().await;
    let mut client = pgusher.client().await;
    let (ed, es) = (issuer.token("ed", &claims(A, 600, "")), issuer.token("es", &claims(A, 600, "")));
    let told = issuer.token("es", &claims(A, 600, r#","aud":"shop""#));
    let mut says = async |token: &str| notation(&client.query(&format!("set app.jwt = '{token}'")).await);
    let first = (says(&ed).await, says(&es).await);

    pgusher.reloaded(|it| it.text("identity", "jwt_key", &issuer.jwk("es"))).await;
    let second = (says(&ed).await, says(&es).await);
    pgusher.reloaded(|it| it.set("identity", "jwt_audience", "[\"shop\"]")).await;
    let third = (says(&es).await, says(&told).await);
    pgusher.reloaded(|it| it.text("identity", "jwt_key", "{ no key }")).await;
    let still = (says(&es).await, says(&told).await);

    let (yes, no) = (String::from("C(SET) Z(I)"), String::from("E(28000) Z(I)"));
    assert_eq!(first, (yes.clone(), no.clone()));
    assert_eq!(second, (no.clone(), yes.clone()));
    assert_eq!(third, (no.clone(), yes.clone()));
    assert_eq!(still, (no, yes));
    assert_eq!(client.value("select current_setting('app.current_user_id')").await, A);
}

#[tokio::test]
async fn the_ways_to_say_who_one_is_change_for_connected_clients() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).identity().start().await;
    let mut client = pgusher.client().await;
    let who = "select current_setting('app.current_user_id')";
    let set = format!("set app.current_user_id = '{A}'");
    client.rows(&set).await;
    assert_eq!(client.value(who).await, A);

    pgusher.reloaded(|it| it.text("identity", "scope", "transaction")).await;
    client.rows(&set).await;
    let scoped = (client.value(who).await, client.value(who).await);
    pgusher.reloaded(|it| it.text("identity", "from_set", "off")).await;
    let refused = client.query(&set).await;
    let target = pgusher.target().user(&format!("app.{A}"), "app");
    let unknown = refusal(&target).await;
    pgusher.reloaded(|it| it.text("identity", "from_user_suffix", "on")).await;
    let mut suffixed = Raw::login(&target).await;

    assert_eq!(scoped, (A.into(), String::new()));
    assert!(notation(&refused).starts_with("E("), "{refused:?}");
    assert_ne!(unknown, "");
    assert_eq!(suffixed.value(who).await, A);
}

#[tokio::test]
async fn timeouts_change_for_connected_clients() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let (mut client, mut second) = (pgusher.client().await, pgusher.client().await);
    let sleep = "select pg_sleep(0.3)";
    assert_eq!(notation(&client.query(sleep).await), "T D C(SELECT 1) Z(I)");

    client.rows("begin").await;
    pgusher.reloaded(|it| it.text("pool", "acquire_timeout", "100ms")).await;
    let not_served = notation(&second.query("select 1").await);
    client.rows("commit").await;
    pgusher.reloaded(|it| it.unset("pool", "acquire_timeout").text("pool", "query_timeout", "100ms")).await;
    let cut_short = notation(&client.query(sleep).await);
    pgusher
        .reloaded(|it| it.unset("pool", "query_timeout").text("pool", "idle_transaction_timeout", "100ms"))
        .await;
    client.rows("begin").await;
    let told = notation(&client.expect_close().await);

    assert_eq!(cut_short, "T E(57014) Z(I)");
    assert_eq!(not_served, "E(53300) Z(I)");
    assert_eq!(told, "E(25P03)");
    assert_eq!(second.value("select 'stays'").await, "stays");
}

#[tokio::test]
async fn what_is_paused_and_disabled_stays_so() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres)
        .set("admin", "users", "[\"postgres\"]")
        .database("shut", postgres.address())
        .pool_size(1)
        .start()
        .await;
    let mut admin = Raw::login(&pgusher.target().user("postgres", "postgres").database("pgusher")).await;
    let mut client = pgusher.client().await;
    client.rows("select 1").await;
    admin.rows(&format!("PAUSE {:?}", postgres.database())).await;
    admin.rows("DISABLE shut").await;

    // The same pool with other limits; another pool in its place; and a file that is refused.
    pgusher.reloaded(|it| it.set("pool", "size", "2")).await;
    pgusher.reloaded(|it| it.of_database("settings", "{ work_mem = \"7MB\" }")).await;
    pgusher.reloaded(|it| it.set("pool", "size", "\"lots\"")).await;
    client.send([say::query("show work_mem")]).await;
    client.expect_silence(Duration::from_millis(100)).await;
    let servers = postgres.servers_of("app").await;
    let shut = refusal(&pgusher.target().database("shut")).await;
    let states: Vec<_> =
        admin.rows("SHOW DATABASES").await.into_iter().map(|row| row[15..].to_vec()).collect();
    admin.rows(&format!("RESUME {:?}", postgres.database())).await;

    assert_eq!((servers, shut.as_str()), (0, "55000"));
    let flag = |is_so: bool| Some(u8::from(is_so).to_string());
    assert_eq!(states, [[flag(false), flag(true)], [flag(true), flag(false)]], "shut, and the test's own");
    assert_eq!(notation(&client.read_until_ready().await), "T D C(SHOW) Z(I)");
}

/// By SIGHUP, by the console, and by a look at the file: each time the same, and all of it.
#[tokio::test]
async fn a_bad_file_is_refused_whoever_asks_and_the_good_one_is_taken_again() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres)
        .set("admin", "users", "[\"postgres\"]")
        .pool_size(1)
        .metrics()
        .start()
        .await;
    let mut admin = Raw::login(&pgusher.target().user("postgres", "postgres").database("pgusher")).await;
    let mut client = pgusher.client().await;
    let before = (client.server_pid().await, admin.rows("SHOW CONFIG").await);
    let success = async |pgusher: &Pgusher| {
        let page = get(pgusher.metrics(), "/metrics").await.body;
        page.lines().find(|line| line.starts_with("pgusher_config_reload_success ")).unwrap().to_owned()
    };

    pgusher
        .reloaded(|it| {
            it.set("pool", "size", "0")
                .text("pool", "query_timeout", "soon")
                .text("identity", "missing", "perhaps")
                .text("listen", "max_client", "7")
                .text("tls.client", "mode", "require")
                .set("listen", "rules", "[\"host all\"]")
        })
        .await;
    let refused = admin.query("RELOAD").await;
    let failed = success(&pgusher).await;

    assert_eq!(notation(&refused), "E(F0000) Z(I)");
    let log = pgusher.log();
    for wrong in [
        "pool.size",
        "pool.query_timeout",
        "identity.missing",
        "listen.max_client",
        "tls.client",
        "listen.rules",
    ] {
        assert!(refused[0].message().contains(wrong), "{wrong}: {}", refused[0].message());
        assert!(log.contains(wrong), "{wrong}");
    }
    assert_eq!((client.server_pid().await, admin.rows("SHOW CONFIG").await), before);
    assert_eq!(failed, "pgusher_config_reload_success 0");
    pgusher
        .reloaded(|it| {
            it.set("pool", "size", "1")
                .unset("pool", "query_timeout")
                .unset("identity", "missing")
                .unset("listen", "max_client")
                .unset("tls.client", "mode")
                .unset("listen", "rules")
        })
        .await;
    assert_eq!(success(&pgusher).await, "pgusher_config_reload_success 1");
    assert_eq!(client.server_pid().await, before.0);
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
