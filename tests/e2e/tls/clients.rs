//! Clients in TLS, and those that are not.

use std::io::Write;
use std::process::Stdio;

use rustls::HandshakeKind;

use super::{Authority, Wanted, anyone, attempt, offering, outcome};
use crate::harness::process::{spawn, tied};
use crate::harness::raw::Address;
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, say};
use crate::on_every_major;

on_every_major! {
    async fn each_mode_admits_whom_it_says(postgres: Postgres) {
        let authority = Authority::new();
        let owner = authority.issue(Wanted::named("app"), "app");

        for (mode, plain, encrypted, owning) in [
            ("disable", true, false, false),
            ("allow", true, true, true),
            ("prefer", true, true, true),
            ("require", false, true, true),
            ("verify-ca", false, false, true),
            ("verify-full", false, false, true),
        ] {
            let pgusher = offering(&postgres, &authority, mode)
                .text("tls.client", "ca_file", &authority.ca_file())
                .start()
                .await;
            let in_tls = pgusher.target().in_tls(authority.ca.client());
            let in_own = pgusher.target().in_tls(authority.ca.client().owning(&owner));

            let came_in = [outcome(&pgusher.target()).await, outcome(&in_tls).await, outcome(&in_own).await];
            assert_eq!(
                came_in.clone().map(|outcome| outcome.is_ok()),
                [plain, encrypted, owning],
                "{mode}: {came_in:?}"
            );
            if let Err(reason) = &came_in[0] {
                assert!(
                    reason.starts_with("28000 TLS is required for host \"127.0.0.1\", user \"app\""),
                    "{reason}"
                );
                assert!(reason.ends_with("no encryption"), "{reason}");
            }
            if mode.starts_with("verify") {
                let line = pgusher.until_logged("login refused").await;
                assert!(line.contains("no certificate") || line.contains("no encryption"), "{line}");
                pgusher.until_logged("the peer showed no certificate").await;
            }
        }
    }
}

#[tokio::test]
async fn both_versions_are_spoken_unless_one_is_too_old() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let both = offering(&postgres, &authority, "require").start().await;
    let newest =
        offering(&postgres, &authority, "require").text("tls.client", "min_version", "TLSv1.3").start().await;
    let v12 = anyone().version(&rustls::version::TLS12);
    let v13 = anyone().version(&rustls::version::TLS13);

    for (tls, version) in [(&v12, rustls::ProtocolVersion::TLSv1_2), (&v13, rustls::ProtocolVersion::TLSv1_3)]
    {
        let mut client = Raw::login(&both.target().in_tls(tls.clone())).await;
        assert_eq!(client.session().protocol_version(), Some(version));
        assert_eq!(client.value("select 'in'").await, "in");
    }
    assert!(outcome(&newest.target().in_tls(v13)).await.is_ok());
    let refused = outcome(&newest.target().in_tls(v12)).await.unwrap_err();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
}

#[tokio::test]
async fn tls_may_come_first_if_it_is_for_postgresql() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").start().await;
    let direct = authority.ca.client().direct();

    let mut client = Raw::login(&pgusher.target().in_tls(direct.clone())).await;
    assert_eq!(client.value("select current_user").await, "app");
    let nameless = outcome(&pgusher.target().in_tls(direct.clone().alpn(&[]))).await;
    let other = outcome(&pgusher.target().in_tls(direct.alpn(&["http/1.1"]))).await;

    assert_eq!(nameless, Err("closed".into()));
    assert!(other.clone().unwrap_err().contains("NoApplicationProtocol"), "{other:?}");
    pgusher.until_logged("direct TLS connection without the ALPN protocol").await;
}

/// CVE-2021-3935.
#[tokio::test]
async fn what_comes_before_the_handshake_is_refused() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "prefer").start().await;
    let startup = pgusher.target().startup();

    let mut client = Raw::connect(&pgusher.target().address).await;
    client.send([say::ssl_request(), startup.clone()]).await;
    let heard = client.expect_close().await;
    assert_eq!(
        (heard[0].sqlstate(), heard[0].message()),
        ("08P01".into(), "received unencrypted data after SSL request".into())
    );

    // After the `S` it is taken for TLS, which it is not.
    let mut client = Raw::connect(&pgusher.target().address).await;
    client.send([say::ssl_request()]).await;
    assert_eq!(client.read_byte().await, Some(b'S'));
    client.send([startup]).await;
    while client.read_byte().await.is_some() {}
    pgusher.until_logged("the peer agreed to TLS and then spoke something else").await;
    assert!(!pgusher.log().contains("client connected"), "{}", pgusher.log());
}

#[tokio::test]
async fn a_handshake_that_breaks_off_harms_nobody() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").start().await;
    let mut bystander = Raw::login(&pgusher.target().in_tls(anyone())).await;

    for words in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x05hello"] {
        let mut client = Raw::connect(&pgusher.target().address).await;
        client.send([say::ssl_request()]).await;
        assert_eq!(client.read_byte().await, Some(b'S'));
        client.try_send(words).await.unwrap();
        client.close_write().await;
        while client.read_byte().await.is_some() {}
        assert_eq!(bystander.value("select 'served'").await, "served", "after {words:?}");
    }

    eventually("all four are told of", PATIENCE, async || {
        (pgusher.log().matches("login refused").count() == 4).then_some(())
    })
    .await;
    assert!(pgusher.log().contains("connection lost in the TLS handshake"), "{}", pgusher.log());
}

/// TLS 1.2 knows a second handshake inside the first; a server that agrees to it lets strangers spend its time
/// (CVE-2011-1473), or put words into the mouths of others (CVE-2009-3555).
#[tokio::test]
async fn a_client_that_asks_for_another_handshake_is_refused_that_alone() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").start().await;
    let target = pgusher.target().in_tls(anyone());
    let mut bystander = Raw::login(&target).await;
    let logged = async |words: &str, times: usize| {
        eventually(words, PATIENCE, async || (pgusher.log().matches(words).count() == times).then_some(()))
            .await;
    };

    let mut command = tied("openssl", "KILL");
    command.args([
        "s_client",
        "-tls1_2",
        "-starttls",
        "postgres",
        "-connect",
        &pgusher.address().to_string(),
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut renegotiating = spawn(command).unwrap();
    let mut keyboard = renegotiating.stdin.take().unwrap();
    keyboard.write_all(&pgusher.target().startup()).unwrap();
    logged("client connected", 2).await;
    keyboard.write_all(b"R\n").unwrap();
    logged("client disconnected", 1).await;
    drop(keyboard);
    let output = tokio::task::spawn_blocking(|| renegotiating.wait_with_output().unwrap()).await.unwrap();

    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    assert_eq!(bystander.value("select 'served'").await, "served");
    assert_eq!(Raw::login(&target).await.value("select 'served'").await, "served");
    assert!(!pgusher.log().contains("panicked"), "{}", pgusher.log());
}

#[tokio::test]
async fn a_silent_handshake_ends_with_the_login_timeout() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher =
        offering(&postgres, &authority, "require").text("listen", "login_timeout", "300ms").start().await;

    let mut client = Raw::connect(&pgusher.target().address).await;
    client.send([say::ssl_request()]).await;
    assert_eq!(client.read_byte().await, Some(b'S'));

    assert_eq!(client.read_byte().await, None);
    pgusher.until_logged("login_timeout").await;
}

#[tokio::test]
async fn a_session_is_resumed() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").start().await;

    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let target = pgusher.target().in_tls(authority.ca.client().version(version).remembering());
        let mut first = Raw::login(&target).await;
        first.rows("select 1").await;
        first.terminate().await;

        let mut second = Raw::login(&target).await;

        assert_eq!(second.session().handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(second.value("select current_user").await, "app");
    }
}

/// As `hostssl` in `pg_hba.conf`.
#[tokio::test]
async fn a_database_can_ask_for_more_than_the_listener() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "prefer")
        .of_database("require_tls", "\"on\"")
        .database("open", postgres.address())
        .text("databases.\"open\"", "dbname", postgres.database())
        .start()
        .await;

    let plain = outcome(&pgusher.target()).await.unwrap_err();
    let unknown = outcome(&pgusher.target().database("no_such")).await.unwrap_err();

    assert!(plain.starts_with("28000 TLS is required"), "{plain}");
    assert_eq!(
        unknown,
        plain.replace(postgres.database(), "no_such"),
        "asking must not tell which databases there are"
    );
    assert!(outcome(&pgusher.target().in_tls(anyone())).await.is_ok());
    assert!(outcome(&pgusher.target().database("open")).await.is_ok());
}

#[tokio::test]
async fn a_unix_socket_needs_no_encryption_and_has_none() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let sockets = tempfile::tempdir().unwrap();
    let pgusher = offering(&postgres, &authority, "require")
        .text("listen", "unix_socket_dir", &sockets.path().display().to_string())
        .start()
        .await;
    let socket = sockets.path().join(format!(".s.PGSQL.{}", pgusher.port()));
    eventually("the socket is there", PATIENCE, async || socket.exists().then_some(())).await;
    let mut target = pgusher.target();
    target.address = Address::Unix(socket);

    let mut asking = Raw::connect(&target.address).await;
    asking.send([say::ssl_request()]).await;

    assert_eq!(asking.read_byte().await, Some(b'N'));
    assert!(outcome(&target).await.is_ok());
}

#[tokio::test]
async fn a_query_is_cancelled_in_tls_and_by_old_clients_without() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").pool_size(1).start().await;
    let mut client = Raw::login(&pgusher.target().in_tls(anyone())).await;

    for is_encrypted in [true, false] {
        client.send([say::query("select pg_sleep(60)")]).await;
        postgres.until("select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and state = 'active'", "1").await;
        if is_encrypted {
            client.cancel().await;
        } else {
            crate::harness::raw::cancel(&pgusher.target().address, client.key.as_ref().unwrap()).await;
        }
        let answer = client.read_until_ready().await;
        assert_eq!(answer[answer.len() - 2].sqlstate(), "57014", "encrypted: {is_encrypted}");
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_connection() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher =
        offering(&postgres, &authority, "require").text("listen", "auth", "scram-sha-256").start().await;
    let target = pgusher.target().in_tls(authority.ca.client());

    // The harness binds where it can.
    let mut bound = Raw::login(&target).await;
    assert_eq!(bound.value("select current_user").await, "app");
    let offered = String::from_utf8_lossy(&bound.heard[0].body[4..]).into_owned();
    assert_eq!(offered, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");

    // One that could, and was told by somebody in between that we cannot.
    let mut downgraded = Raw::reach(&target).await.unwrap();
    downgraded.send([target.startup()]).await;
    downgraded.read().await;
    downgraded.send([say::sasl_initial_response("SCRAM-SHA-256", b"y,,n=,r=abcdefgh")]).await;
    let refusal = downgraded.read().await;
    assert_eq!(refusal.sqlstate(), "28000", "{refusal:?}");
    assert!(refusal.message().contains("channel binding was offered"), "{refusal:?}");

    // One that cannot.
    let mut plain = Raw::reach(&target).await.unwrap();
    plain.send([target.startup()]).await;
    plain.read().await;
    plain.send([say::sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdefgh")]).await;
    assert!(plain.read().await.is(b'R'));
}

#[tokio::test]
async fn rows_of_any_size_stream_both_ways() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").sslmode("require").pool_size(2).start().await;
    let mut client = Raw::login(&pgusher.target().in_tls(anyone())).await;

    for size in [1, 8_191, 16_384, 65_536, 1 << 20, 40 << 20] {
        let text = client.value(&format!("select repeat('x', {size})")).await;
        assert_eq!(text.len(), size);
    }
    let long = "y".repeat(20 << 20);
    assert_eq!(client.value(&format!("select length('{long}')")).await, long.len().to_string());
    let rows = client.rows("select i from generate_series(1, 100000) i").await;
    assert_eq!(rows.len(), 100_000);
}

/// What is left encrypted and unsent when the socket is full is sent when there is room again.
#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").pool_size(1).start().await;
    let mut slow = Raw::login(&pgusher.target().in_tls(anyone())).await;
    let mut quick = Raw::login(&pgusher.target().in_tls(anyone())).await;

    slow.send([say::query("select repeat('z', 100000) from generate_series(1, 300)")]).await;
    // Its answer is larger than all buffers in between, so its server waits; whoever comes next is served after it.
    let first = slow.read().await;
    let rest = slow.read_until_ready().await;

    assert!(first.is(b'T'));
    assert_eq!(rest.iter().filter(|frame| frame.is(b'D')).count(), 300);
    assert_eq!(quick.value("select 'served'").await, "served");
}

#[tokio::test]
async fn tls_that_cannot_be_is_a_problem_of_the_configuration() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let other = authority.issue(Wanted::loopback(), "other");
    let file = |name: &str, text: &str| {
        let path = authority.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (cert, key) = (authority.issued.certificate.display().to_string(), other.key.display().to_string());

    for (keys, said) in [
        (vec![("mode", "require")], "no client can be encrypted without tls.client.cert_file"),
        (
            vec![("mode", "require"), ("cert_file", &cert)],
            "no client can be encrypted without tls.client.key_file",
        ),
        (vec![("cert_file", &cert)], "no client is encrypted without tls.client.mode"),
        (vec![("mode", "require"), ("cert_file", &cert), ("key_file", &key)], "is not that of"),
        (vec![("mode", "require"), ("cert_file", "/gone"), ("key_file", &key)], "/gone cannot be read"),
        (
            vec![("mode", "require"), ("cert_file", &file("empty", "")), ("key_file", &key)],
            "holds no certificate in PEM",
        ),
        (
            vec![("mode", "require"), ("cert_file", &cert), ("key_file", &file("no.key", "-----\n"))],
            "holds no private key in PEM",
        ),
        (vec![("mode", "verify-ca"), ("cert_file", &cert), ("key_file", &key)], "without tls.client.ca_file"),
        (
            vec![("mode", "sometimes")],
            "expected \"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"",
        ),
    ] {
        let mut builder = Pgusher::before(&postgres);
        for (name, value) in &keys {
            builder = builder.text("tls.client", name, value);
        }
        let mut pgusher = builder.launch();
        let status = pgusher.end().await;
        assert_eq!(status.code(), Some(64), "{keys:?}");
        assert!(pgusher.log().contains(said), "{keys:?}: {}", pgusher.log());
    }
}

/// About 11 KB at the time of writing, where one that is not encrypted has 3.
#[tokio::test]
async fn an_idle_client_in_tls_is_small() {
    const CLIENTS: u64 = 200;
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").pool_size(1).start().await;
    let target = pgusher.target().in_tls(anyone());
    let mut idle = Vec::new();
    let mut come = async |count: u64| {
        for _ in 0..count {
            let mut client = Raw::login(&target).await;
            client.rows("select 1").await;
            idle.push(client);
        }
    };

    // What is made once is made by the first.
    come(20).await;
    let before = pgusher.resident();
    come(CLIENTS).await;

    let each = pgusher.resident().saturating_sub(before) / CLIENTS;
    assert!(each < 16 << 10, "{each} bytes for each");
}

#[tokio::test]
async fn many_come_at_once() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = offering(&postgres, &authority, "require").pool_size(2).start().await;
    let target = pgusher.target().in_tls(authority.ca.client());

    let mut clients = tokio::task::JoinSet::new();
    for number in 0..50 {
        let target = target.clone();
        clients.spawn(async move {
            let mut client = attempt(&target).await.unwrap();
            assert_eq!(client.value(&format!("select {number}")).await, number.to_string());
        });
    }

    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}
