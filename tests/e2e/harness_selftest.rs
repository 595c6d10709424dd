//! The harness itself, against PostgreSQL without a pooler: what it says about the pooler rests on this.

use std::time::Duration;

use bytes::Bytes;

use crate::harness::raw::Address;
use crate::harness::{
    DelayProxy, FakeServer, Frame, MAJORS, PATIENCE, Pgusher, Postgres, Raw, StopMode, Target, answer,
    eventually, notation, say, secrets,
};
use crate::on_every_major;

on_every_major! {
    async fn answers_are_printed_in_notation(postgres: Postgres) {
        let mut client = postgres.client().await;

        let simple = notation(&client.query("select 1").await);
        let extended = client.ask([say::parse("", "select $1::int"), say::bind("", "", &[Some("7")]), say::execute("", 0), say::sync()]).await;
        let failed = notation(&client.query("select 1/0").await);

        assert_eq!(simple, "T D C(SELECT 1) Z(I)");
        assert_eq!(extended, "1 2 D C(SELECT 1) Z(I)");
        assert_eq!(failed, "E(22012) Z(I)");
    }

    async fn the_server_is_of_the_major_it_claims(postgres: Postgres) {
        let version = postgres.value("show server_version_num").await;

        assert!(version.starts_with(&postgres.major().to_string()), "{version}");
    }

    async fn every_way_of_logging_in_works(postgres: Postgres) {
        for user in ["app", "other", "hashed", "cleartext", "trusted"] {
            let mut client = Raw::login(&postgres.target().user(user, user)).await;

            assert_eq!(client.value("select current_user").await, user);
        }
        let mut client = Raw::connect(&postgres.target().address).await;
        let refusal = client.try_login(&postgres.target().user("app", "wrong")).await.unwrap_err();
        assert_eq!(refusal.to_string(), "E(28P01)");
    }

    async fn every_frontend_message_is_understood(postgres: Postgres) {
        let mut client = postgres.client().await;
        client.rows("create table t (a int, b text)").await;

        let copied = {
            client.send([say::query("copy t from stdin")]).await;
            client.read_until(b'G').await;
            client.ask([say::copy_data(b"1\tone\n2\ttwo\n"), say::copy_done()]).await
        };
        let abandoned = {
            client.send([say::query("copy t from stdin")]).await;
            client.read_until(b'G').await;
            client.ask([say::copy_fail("no more")]).await
        };
        let described = client.ask([
            say::parse_typed("s", "select b from t where a = $1", &[23]),
            say::describe_statement("s"),
            say::bind_as("p", "s", &[1], &[Some(&2_i32.to_be_bytes())], &[0]),
            say::describe_portal("p"),
            say::execute("p", 1),
            say::close_portal("p"),
            say::close_statement("s"),
            say::sync(),
        ]).await;
        client.send([say::extended("select 1", &[]), say::flush()]).await;
        let flushed = notation(&client.read_until(b'C').await);
        client.ask([say::sync()]).await;
        let called = client.ask([say::function_call(1598, &[])]).await; // random()

        assert_eq!(copied, "C(COPY 2) Z(I)");
        assert_eq!(abandoned, "E(57014) Z(I)");
        assert_eq!(described, "1 t T 2 T D s 3 3 Z(I)");
        assert_eq!(flushed, "1 2 T D C(SELECT 1)");
        assert_eq!(called, "V Z(I)");
    }

    async fn a_running_query_can_be_cancelled(postgres: Postgres) {
        let mut client = postgres.client().await;
        client.send([say::query("select pg_sleep(60)")]).await;
        postgres.until("select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'", "1").await;

        client.cancel().await;

        assert_eq!(notation(&client.read_until_ready().await), "T E(57014) Z(I)");
    }

    async fn a_client_can_leave_in_three_ways(postgres: Postgres) {
        let (first, second, third) = (postgres.client().await, postgres.client().await, postgres.client().await);

        first.terminate().await;
        second.close().await;
        third.reset();

        postgres.until_unused().await;
    }

    async fn tools_run_against_the_tests_database(postgres: Postgres) {
        let shown = postgres.tool("psql").args(["-XAtc", "select current_database()"]).run().await.ok();
        postgres.tool("pgbench").args(["-i", "-q", "-s", "1"]).run().await.ok();
        let bench = postgres.tool("pgbench").args(["-n", "-t", "20", "-c", "2", "-M", "prepared"]).run().await.ok();

        assert_eq!(shown.trim(), postgres.database());
        assert!(bench.contains("number of transactions actually processed: 40/40"), "{bench}");
    }

    async fn the_unix_socket_and_other_drivers_work(postgres: Postgres) {
        let mut superuser = Raw::login(&postgres.superuser()).await;
        let (driver, connection) = tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);

        let name = superuser.value("select current_user").await;
        let one: i32 = driver.query_one("select 1", &[]).await.unwrap().get(0);

        assert_eq!((name.as_str(), one), ("postgres", 1));
    }

    async fn the_schema_of_the_demo_loads_twice_and_isolates_users(postgres: Postgres) {
        postgres.load_schema().await;
        postgres.load_schema().await;
        let mut client = Raw::login(&postgres.target().user("saas_user", "saas_user")).await;

        client.rows("set app.current_user_id = '11111111-1111-1111-1111-111111111111'").await;
        let own = client.value("select string_agg(email, ' ') from users.users").await;
        client.rows("update users.users set full_name = 'Ada K. Lovelace'").await;
        client.rows("set app.current_user_id = '22222222-2222-2222-2222-222222222222'").await;
        let others = client.value("select count(*) from billing.subscriptions where user_id <> current_setting('app.current_user_id')::uuid").await;
        client.rows("set app.current_user_id = ''").await;
        let nobody = notation(&client.query("select * from users.users").await);
        let audited = postgres.value("select distinct who from audit.audit_log where action = 'UPDATE' and table_name = 'users.users'").await;

        assert_eq!(own, "ada@example.com");
        assert_eq!(others, "0");
        assert_eq!(audited, "11111111-1111-1111-1111-111111111111");
        assert!(nobody.contains("E(22P02)"), "{nobody}");
    }
}

#[tokio::test]
async fn a_private_server_is_configured_restarted_and_killed() {
    for major in MAJORS {
        let mut postgres =
            Postgres::private(major, &[("work_mem", "3MB")], "host all app 127.0.0.1/32 reject").await;
        let mut client = Raw::connect(&postgres.target().address).await;
        let rejected = client.try_login(&postgres.target()).await.unwrap_err();

        assert_eq!(rejected.to_string(), "E(28000)");
        assert_eq!(postgres.value("show work_mem").await, "3MB");

        let mut idle = Raw::login(&postgres.superuser()).await;
        postgres.restart().await;
        let farewell = notation(&idle.expect_close().await);
        assert!(farewell.contains("E(57P01)"), "{farewell}");

        postgres.kill9().await;
        postgres.start().await;
        postgres.stop(StopMode::Immediate).await;
        postgres.configure(&[("work_mem", "5MB")]);
        postgres.start().await;
        assert_eq!(postgres.value("show work_mem").await, "5MB");
        assert!(postgres.log().contains("database system is ready"), "{}", postgres.log());
    }
}

#[tokio::test]
async fn two_tests_have_two_databases_on_one_server() {
    let (one, other) = (Postgres::shared(16).await, Postgres::shared(16).await);

    assert_eq!(one.port(), other.port());
    assert_ne!(one.database(), other.database());
}

#[tokio::test]
async fn a_dropped_database_is_gone() {
    let witness = Postgres::shared(17).await;
    let name = Postgres::shared(17).await.database().to_owned();

    let left = witness.value(&format!("select count(*) from pg_database where datname = '{name}'")).await;

    assert_eq!(left, "0");
}

#[tokio::test]
async fn the_network_delays_chops_pauses_and_counts() {
    let postgres = Postgres::shared(18).await;
    let network = DelayProxy::before(postgres.address(), Duration::from_millis(30)).await;
    let mut client = Raw::login(&Target {
        address: Address::Tcp(network.address()),
        ..postgres.target().user("trusted", "")
    })
    .await;

    let before = (network.round_trips(), tokio::time::Instant::now());
    client.rows("select 1").await;
    client.rows("select 2").await;
    assert_eq!(network.round_trips() - before.0, 2);
    assert!(before.1.elapsed() >= Duration::from_millis(120), "{:?}", before.1.elapsed());

    network.set_delay(Duration::ZERO);
    network.chop(true);
    assert_eq!(client.value("select repeat('x', 1000)").await.len(), 1000);

    network.pause();
    client.send([say::query("select 3")]).await;
    client.expect_silence(Duration::from_millis(50)).await;
    network.resume();
    assert_eq!(notation(&client.read_until_ready().await), "T D C(SELECT 1) Z(I)");

    network.cut();
    client.expect_close().await;
    assert_eq!(network.connections(), 1);
}

#[tokio::test]
async fn a_fake_server_says_what_it_is_told() {
    let server = FakeServer::answering(answer::error(&[(b'M', "no code")])).await;
    let mut client = Raw::login(&Target::new(Address::Tcp(server.address()), "app", "fake")).await;

    client.send([say::query("anything")]).await;
    let error: Frame = client.read().await;

    assert_eq!((error.sqlstate().as_str(), error.message().as_str()), ("", "no code"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_fake_server_sees_every_byte_a_client_says() {
    let (heard, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let server = FakeServer::start(move |mut client| {
        let heard = heard.clone();
        async move {
            let parameters = client.let_in().await.unwrap();
            let frames = client.read_until(b'S').await.unwrap();
            heard.send((parameters, frames)).unwrap();
        }
    })
    .await;
    let target = Target::new(Address::Tcp(server.address()), "app", "fake").with("application_name", "x");
    let mut client = Raw::login(&target).await;
    let said = say::join([say::extended("select $1", &[None]), say::sync()]);

    client.send_in_bytes([said.clone()]).await;
    let (parameters, frames) = tell.recv().await.unwrap();

    assert_eq!(parameters["application_name"], "x");
    assert_eq!(say::join(frames.iter().map(Frame::encode)), said);
}

#[tokio::test]
async fn waiting_for_an_event_ends_when_it_comes() {
    let mut asked = 0;

    let answer = eventually("the third time", PATIENCE, async || {
        asked += 1;
        (asked == 3).then_some(Bytes::from_static(b"yes"))
    })
    .await;

    assert_eq!((asked, answer.as_ref()), (3, b"yes".as_slice()));
}

#[tokio::test]
async fn a_secret_in_the_output_of_a_pooler_is_noticed() {
    let server = FakeServer::start(|mut client| async move {
        client.startup().await;
        client.send([answer::error_of("FATAL", "28000", "I repeat: c0rrect-horse")]).await;
    })
    .await;
    let mut pgusher = Pgusher::before_address(server.address()).user("app", "c0rrect-horse").start().await;

    let refused = Raw::connect(&pgusher.target().address).await.try_login(&pgusher.target()).await;
    pgusher.until_logged("I repeat").await;
    pgusher.forgive_leaks();

    assert!(refused.is_err());
    assert!(pgusher.leaks().iter().any(|line| line.contains("I repeat: c0rrect-horse")), "{}", pgusher.log());
}

#[test]
fn secrets_are_told_from_names() {
    secrets::note_all_of(
        "user = \"somebody\"\npassword = \"Xyzzy-1234\"\nurl = \"postgres://u:Plugh-5678@h/d\"\n",
    );
    secrets::note("cleartext");

    for line in
        ["a Xyzzy-1234", "://u:Plugh-5678@", "SCRAM-SHA-256$4096:x", "md5a3556571e93b0d20722ba62be61e8c2d"]
    {
        assert_eq!(secrets::leaks(&format!("good\n{line}\n")), [line]);
    }
    assert_eq!(secrets::leaks("cleartext somebody SCRAM-SHA-256$<iterations> md5 md5sum"), [""; 0]);
}
