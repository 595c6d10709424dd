//! How clients prove who they are, from wherever it is known, and what strangers can find out: nothing.

use crate::harness::{Frame, Pgusher, Postgres, Raw, notation, say};
use crate::on_every_major;

/// `app` by `app`, as `pg_authid` of any version might hold it.
const METHODS: [&str; 3] = ["scram-sha-256", "md5", "password"];

on_every_major! {
    async fn each_method_lets_in_who_knows_the_password_and_nobody_else(postgres: Postgres) {
        for method in METHODS {
            let pgusher = Pgusher::before(&postgres).text("listen", "auth", method).start().await;

            assert_eq!(pgusher.client().await.value("select current_user").await, "app", "{method}");
            for (user, password) in [("app", "wrong"), ("app", ""), ("nobody", "app"), ("app", "app ")] {
                let refusal = refused(&pgusher, user, password, postgres.database()).await;
                assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "28P01".into()), "{method}");
                assert_eq!(refusal.message(), format!("password authentication failed for user \"{user}\""));
            }
        }
    }

    async fn a_scram_verifier_of_the_server_is_enough_for_both_sides(postgres: Postgres) {
        let verifier = postgres.value("select rolpassword from pg_authid where rolname = 'app'").await;
        let pgusher = Pgusher::before(&postgres)
            .text("listen", "auth", "scram-sha-256")
            .user("app", &verifier)
            .pool_size(2)
            .start()
            .await;

        let (mut first, mut second) = (pgusher.client().await, pgusher.client().await);
        first.rows("begin").await;
        second.rows("begin").await;

        assert_eq!(first.value("select current_user").await, "app");
        assert_eq!(refused(&pgusher, "app", "wrong", postgres.database()).await.sqlstate(), "28P01");
    }

    async fn an_md5_verifier_of_the_server_is_enough_for_both_sides(postgres: Postgres) {
        let verifier = postgres.value("select rolpassword from pg_authid where rolname = 'hashed'").await;
        let pgusher =
            Pgusher::before(&postgres).text("listen", "auth", "md5").user("hashed", &verifier).start().await;

        let mut client = Raw::login(&pgusher.target().user("hashed", "hashed")).await;

        assert!(verifier.starts_with("md5"), "{verifier}");
        assert_eq!(client.value("select current_user").await, "hashed");
        assert_eq!(refused(&pgusher, "hashed", "wrong", postgres.database()).await.sqlstate(), "28P01");
    }

    async fn a_userlist_is_read_in_all_its_forms_and_again_when_it_changes(postgres: Postgres) {
        let scram = postgres.value("select rolpassword from pg_authid where rolname = 'app'").await;
        let md5 = postgres.value("select rolpassword from pg_authid where rolname = 'hashed'").await;
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("userlist.txt");
        std::fs::write(&list, "; nobody yet\n").unwrap();
        let pgusher = Pgusher::before(&postgres)
            .text("listen", "auth", "md5")
            .text("listen", "auth_file", &list.display().to_string())
            .unset("users.\"app\"", "password")
            .unset("users.\"hashed\"", "password")
            .unset("users.\"other\"", "password")
            .start()
            .await;
        assert_eq!(refused(&pgusher, "app", "app", postgres.database()).await.sqlstate(), "28P01");

        std::fs::write(&list, format!("; comment\n\"app\" \"{scram}\"\n\"hashed\" \"{md5}\"\n\"other\" \"other\"\n")).unwrap();

        for user in ["app", "hashed", "other"] {
            let mut client = Raw::login(&pgusher.target().user(user, user)).await;
            assert_eq!(client.value("select current_user").await, user);
        }
        std::fs::write(&list, "\"other\" \"other\"\n").unwrap();
        assert_eq!(refused(&pgusher, "app", "app", postgres.database()).await.sqlstate(), "28P01");
    }

    async fn passwords_come_from_files_and_are_not_logged(postgres: Postgres) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "app\n").unwrap();
        let path = format!("{:?}", file.display().to_string());
        let pgusher = Pgusher::before(&postgres)
            .text("listen", "auth", "scram-sha-256")
            .text("log", "level", "trace")
            .unset("users.\"app\"", "password")
            .set("users.\"app\"", "password_file", &path)
            .of_database("user", "\"cleartext\"")
            .of_database("password", "\"cleartext\"")
            .start()
            .await;

        let mut client = pgusher.client().await;
        let refusal = refused(&pgusher, "app", "Tr0ub4dor", postgres.database()).await;

        assert_eq!(client.value("select current_user").await, "cleartext");
        assert_eq!(refusal.sqlstate(), "28P01");
        let log = pgusher.log().replace("user=cleartext", "").replace("/cleartext", "");
        assert!(!log.contains("Tr0ub4dor") && !log.contains("cleartext\""), "{log}");
    }

    async fn a_stranger_hears_what_a_wrong_password_hears(postgres: Postgres) {
        for method in METHODS {
            let pgusher = Pgusher::before(&postgres).text("listen", "auth", method).start().await;
            let wrong = conversation(&pgusher, "app", postgres.database()).await;

            let stranger = conversation(&pgusher, "nobody", postgres.database()).await;
            let elsewhere = conversation(&pgusher, "app", "no_such_database").await;

            assert_eq!(wrong, stranger, "{method}: no such user");
            assert_eq!(wrong, elsewhere, "{method}: no such database");
        }
    }

    async fn trust_asks_nothing(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).text("listen", "auth", "trust").start().await;

        assert_eq!(conversation(&pgusher, "trusted", postgres.database()).await, ["R 8"]);
        let refusal = refused(&pgusher, "trusted", "", "no_such_database").await;

        assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "3D000".into()));
    }

    async fn a_name_with_a_newline_forges_no_line_of_the_log(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).text("listen", "auth", "scram-sha-256").start().await;
        let forged = "x\n2026-01-01T00:00:00Z  INFO pgusher::app: forged\u{1b}[31m";

        refused(&pgusher, forged, "x", postgres.database()).await;
        refused(&pgusher, "app", "wrong", forged).await;
        let mut client = Raw::login(&pgusher.target().with("application_name", forged)).await;
        client.rows("select 1").await;
        client.terminate().await;
        pgusher.until_logged("client disconnected").await;

        let log = pgusher.log();
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
    }

    async fn a_connection_is_a_line_when_it_opens_and_one_when_it_closes(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).text("log", "level", "info").start().await;
        for _ in 0..3 {
            let mut client = pgusher.client().await;
            for _ in 0..10 {
                client.rows("select 1").await;
            }
            client.terminate().await;
        }
        crate::harness::eventually("three have left", crate::harness::PATIENCE, async || {
            (pgusher.log().matches("client disconnected").count() == 3).then_some(())
        })
        .await;

        assert_eq!(pgusher.log().matches("client connected").count(), 3);
        assert!(pgusher.log().lines().count() <= 3 + 3 + 5, "{}", pgusher.log());
    }
}

#[tokio::test]
async fn nonsense_before_the_login_is_refused_and_harms_nobody() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).text("listen", "auth", "scram-sha-256").start().await;
    let mut bystander = pgusher.client().await;
    let startup = pgusher.target().startup();

    for nonsense in [
        b"\x00\x00\x00\x00".to_vec(),
        b"\x00\x00\x00\x07abc".to_vec(),
        b"\x7f\xff\xff\xff\x00\x03\x00\x00".to_vec(),
        b"\x00\x00\x27\x11\x00\x03\x00\x00".to_vec(),
        b"\xff\xff\xff\xff\x00\x03\x00\x00".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        say::startup_of(2 << 16, &[("user", "app")]).to_vec(),
        say::startup(&[("database", "a")]).to_vec(),
        say::startup(&[("user", "")]).to_vec(),
        [&startup[..], &say::query("select 1")].concat(),
        [&startup[..], b"p\x7f\xff\xff\xff"].concat(),
        [&startup[..], &say::password("app")].concat(),
        [&startup[..], &say::sasl_initial_response("SCRAM-SHA-256", b"garbage")].concat(),
        [&startup[..], &say::sasl_initial_response("SCRAM-SHA-9", b"n,,n=,r=abc")].concat(),
        [&say::ssl_request()[..], &say::ssl_request()].concat(),
        vec![0x16, 3, 1, 0, 1, 0, 0, 0],
    ] {
        let mut client = Raw::connect(&pgusher.target().address).await;
        client.try_send(&nonsense).await.unwrap();

        // Some are answered by a byte, which is no frame; all are closed.
        while client.read_byte().await.is_some() {}
        assert_eq!(bystander.value("select 'served'").await, "served", "after {nonsense:?}");
    }
    assert!(!pgusher.log().contains("panicked"), "{}", pgusher.log());
}

#[tokio::test]
async fn nonsense_after_the_login_ends_that_client_only() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).pool_size(1).start().await;
    let mut bystander = pgusher.client().await;

    for nonsense in [
        b"Q\x00\x00\x00\x00".to_vec(),
        b"Q\x00\x00\x00\x03".to_vec(),
        b"Q\xff\xff\xff\xff".to_vec(),
        b"S\x7f\xff\xff\xff".to_vec(),
        b"@\x00\x00\x00\x04".to_vec(),
        say::startup(&[("user", "app")]).to_vec(),
        say::password("app").to_vec(),
        b"P\x00\x00\x00\x05x".to_vec(),
        b"B\x00\x00\x00\x06ab".to_vec(),
        b"D\x00\x00\x00\x06Xa".to_vec(),
        b"C\x00\x00\x00\x04".to_vec(),
    ] {
        let mut client = pgusher.client().await;
        client.try_send(&nonsense).await.unwrap();

        let heard = client.expect_close().await;
        assert_eq!(
            heard.last().map(|frame| (frame.severity(), frame.sqlstate())),
            Some(("FATAL".into(), "08P01".into())),
            "{nonsense:?}"
        );
        assert_eq!(bystander.value("select 'served'").await, "served", "after {nonsense:?}");
    }
    assert!(!pgusher.log().contains("panicked"), "{}", pgusher.log());
}

/// Work is counted, not timed: whoever measures how long a refusal takes measures this.
#[tokio::test]
async fn a_stranger_costs_what_a_wrong_password_costs() {
    let postgres = Postgres::shared(18).await;
    for (method, listed, each) in [("password", 0, 1), ("md5", 0, 0), ("scram-sha-256", 6, 0)] {
        let pgusher = Pgusher::before(&postgres).text("listen", "auth", method).start().await;
        let derived = || pgusher.log().matches("keys derived").count();
        crate::harness::eventually("listed users are prepared", crate::harness::PATIENCE, async || {
            (derived() == listed).then_some(())
        })
        .await;

        for (user, database) in [
            ("app", postgres.database()),
            ("nobody", postgres.database()),
            ("app", "no_such_database"),
            ("cleartext", postgres.database()),
        ] {
            let before = derived();
            refused(&pgusher, user, &format!("guess {user} {database}"), database).await;
            assert_eq!(derived() - before, each, "{method} {user} {database}");
        }
    }
}

#[tokio::test]
async fn a_strangers_salt_is_its_own_and_stays() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).text("listen", "auth", "scram-sha-256").start().await;
    let salt = async |user: &str, database: &str| {
        let mut client = Raw::connect(&pgusher.target().address).await;
        let target = pgusher.target().user(user, "x").database(database);
        client.send([target.startup(), say::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")]).await;
        let challenge = client.read_until(b'R').await;
        assert_eq!(challenge.last().map(|frame| frame.int(0)), Some(10));
        let challenge = client.read().await;
        let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
        text.split(',').skip(1).collect::<Vec<_>>().join(",")
    };
    let database = postgres.database();

    let (known, stranger, other) =
        (salt("app", database).await, salt("nobody", database).await, salt("nobody2", database).await);

    assert_eq!(stranger, salt("nobody", database).await);
    assert_eq!(stranger, salt("nobody", "no_such_database").await);
    assert_eq!(known, salt("app", "no_such_database").await);
    assert!(stranger != other && stranger != known);
    assert_eq!(known.len(), stranger.len());
    assert!(known.ends_with(",i=4096") && stranger.ends_with(",i=4096"), "{known} {stranger}");
}

/// The refusal of a login that must be refused.
async fn refused(pgusher: &Pgusher, user: &str, password: &str, database: &str) -> Frame {
    let target = pgusher.target().user(user, password).database(database);
    let mut client = Raw::connect(&target.address).await;
    client.try_login(&target).await.unwrap_err()
}

/// What a client with a wrong password is asked and told until it is let in or refused: kinds and lengths, without names.
async fn conversation(pgusher: &Pgusher, user: &str, database: &str) -> Vec<String> {
    let target = pgusher.target().user(user, "wrong").database(database);
    let mut client = Raw::connect(&target.address).await;
    client.send([target.startup()]).await;
    let _ = client.authenticate(user, "wrong").await;
    let kind = |frame: &Frame| match frame.tag {
        b'E' => format!("{} {}", notation(std::slice::from_ref(frame)), frame.message().replace(user, "?")),
        _ => format!("R {}", frame.body.len() + 4),
    };
    client.heard.iter().map(kind).collect()
}
