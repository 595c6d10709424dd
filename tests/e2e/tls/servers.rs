//! Servers in TLS, those without, and those that are not who they should be.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Authority, Wanted, attempt, outcome};
use crate::harness::fake_server::{FakeClient, Greeting};
use crate::harness::pgusher::Builder;
use crate::harness::{Ca, FakeServer, Issued, PATIENCE, Pgusher, Postgres, Raw, answer, eventually, say};
use crate::on_every_major;

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

const SSL: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

on_every_major! {
    /// `app` may come either way, `encrypted` only in TLS, `plain` only without.
    async fn every_sslmode_means_what_it_means_to_libpq(postgres: Postgres) {
        let directory = tempfile::tempdir().unwrap();
        let ca = postgres.ca().file(directory.path()).display().to_string();
        for (mode, app, encrypted, plain) in [
            ("disable", Some("f"), None, Some("f")),
            ("allow", Some("f"), Some("t"), Some("f")),
            ("prefer", Some("t"), Some("t"), Some("f")),
            ("require", Some("t"), Some("t"), None),
            ("verify-ca", Some("t"), Some("t"), None),
            ("verify-full", Some("t"), Some("t"), None),
        ] {
            let pgusher = Pgusher::before(&postgres)
                .user("encrypted", "encrypted")
                .user("plain", "plain")
                .sslmode(mode)
                .text("tls.server", "sslrootcert", &ca)
                .pool_size(1)
                .start()
                .await;

            for (user, expected) in [("app", app), ("encrypted", encrypted), ("plain", plain)] {
                let target = pgusher.target().user(user, user);
                let came = attempt(&target).await;
                match (came, expected) {
                    (Ok(mut client), Some(expected)) => {
                        assert_eq!(client.value(SSL).await, expected, "{mode} {user}");
                    }
                    (Err(refused), None) => {
                        assert!(refused.starts_with("28000 pg_hba.conf rejects connection"), "{mode} {user}: {refused}");
                    }
                    (came, _) => panic!("{mode} {user}: {:?}", came.map(drop)),
                }
            }
        }
    }

    async fn a_client_certificate_logs_us_in(postgres: Postgres) {
        let directory = tempfile::tempdir().unwrap();
        let ours = postgres.ca().issue(Wanted::named("certified"), directory.path(), "ours");
        let other = postgres.ca().issue(Wanted::named("somebody"), directory.path(), "other");
        let strange = Ca::new("a strange CA").issue(Wanted::named("certified"), directory.path(), "strange");

        for (issued, expected) in [
            (Some(&ours), Ok(())),
            (Some(&other), Err("28000 certificate authentication failed for user \"certified\"")),
            (Some(&strange), Err("the peer ended the TLS handshake: UnknownCA")),
            (None, Err("28000 connection requires a valid client certificate")),
        ] {
            let builder = Pgusher::before(&postgres).user("certified", "unused").sslmode("require").pool_size(1);
            let builder = match issued {
                Some(issued) => owning(builder, issued),
                None => builder,
            };
            let pgusher = builder.start().await;

            let came = outcome(&pgusher.target().user("certified", "")).await;

            match expected {
                Ok(()) => assert_eq!(came, Ok(())),
                Err(words) => {
                    let refused = came.unwrap_err();
                    assert!(refused.contains(words), "{words}: {refused}");
                    pgusher.until_logged(words.split_once(' ').map_or(words, |(_, rest)| rest)).await;
                }
            }
        }
    }

    async fn scram_is_bound_to_the_server(postgres: Postgres) {
        for (policy, user, is_in) in [
            ("require", "app", true),
            ("prefer", "app", true),
            ("disable", "app", true),
            ("require", "hashed", false),
            ("require", "cleartext", false),
            ("require", "trusted", false),
            ("prefer", "hashed", true),
        ] {
            let pgusher = Pgusher::before(&postgres)
                .sslmode("require")
                .text("tls.server", "channel_binding", policy)
                .pool_size(1)
                .start()
                .await;

            let came = outcome(&pgusher.target().user(user, user)).await;

            assert_eq!(came.is_ok(), is_in, "{policy} {user}: {came:?}");
            if let Err(refused) = came {
                assert!(refused.contains("channel_binding is \"require\""), "{refused}");
                assert!(!postgres.log().contains(&format!("{user}@{} ERROR", postgres.database())));
            }
        }
    }
}

fn owning(builder: Builder, issued: &Issued) -> Builder {
    builder.text("tls.server", "sslcert", &issued.certificate.display().to_string()).text(
        "tls.server",
        "sslkey",
        &issued.key.display().to_string(),
    )
}

#[tokio::test]
async fn tls_comes_first_where_the_server_knows_that() {
    for (major, is_known) in [(16, false), (17, true), (18, true)] {
        let postgres = Postgres::shared(major).await;
        let directory = tempfile::tempdir().unwrap();
        let pgusher = Pgusher::before(&postgres)
            .sslmode("verify-full")
            .text("tls.server", "sslrootcert", &postgres.ca().file(directory.path()).display().to_string())
            .text("tls.server", "sslnegotiation", "direct")
            .text("pool", "acquire_timeout", "2s")
            .pool_size(1)
            .start()
            .await;

        let came = attempt(&pgusher.target()).await;

        match came {
            Ok(mut client) => {
                assert!(is_known, "{major}");
                assert_eq!(client.value(SSL).await, "t");
                let sleeping = client.cancel();
                client.send([say::query("select pg_sleep(60)")]).await;
                postgres.until("select count(*) from pg_stat_activity where query like 'select pg_sleep(60)%' and state = 'active'", "1").await;
                sleeping.await;
                let heard = client.read_until_ready().await;
                assert_eq!(heard[heard.len() - 2].sqlstate(), "57014", "a cancel goes the same way");
            }
            Err(refused) => assert!(!is_known && refused.contains("in TLS"), "{major}: {refused}"),
        }
    }
}

/// A server that lets everyone in, in TLS, with the certificate given; and what it was asked outside and inside.
struct Impostor {
    server: FakeServer,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Impostor {
    async fn with(issued: &Issued) -> Self {
        Self::on("127.0.0.1:0", issued).await
    }

    async fn on(address: &str, issued: &Issued) -> Self {
        let config = Arc::new(issued.server_config());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let server =
            FakeServer::start_on(address, move |client| serve(client, config.clone(), hears.clone())).await;
        Self { server, heard }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

async fn serve(mut client: FakeClient, config: Arc<rustls::ServerConfig>, hears: Arc<Mutex<Vec<String>>>) {
    let hear = |what: String| hears.lock().unwrap().push(what);
    if let Some(Greeting::Encrypt(_)) = client.greeting().await {
        let name = match client.encrypt(&config).await {
            Ok(session) => format!(
                "{:?} by {:?}",
                session.handshake_kind().expect("it is over"),
                session.server_name().unwrap_or("nobody")
            ),
            Err(error) => return hear(format!("broken: {error}")),
        };
        hear(name);
    } else {
        return hear("plain".into());
    }
    match client.greeting().await {
        Some(Greeting::Startup(..)) => {
            hear("startup".into());
            client.send([answer::welcome()]).await;
            while let Some(frame) = client.read().await {
                if frame.is(b'Q') {
                    client.send([answer::command_complete("SELECT 0"), answer::ready(b'I')]).await;
                } else if frame.is(b'S') {
                    client.send([answer::ready(b'I')]).await;
                }
            }
        }
        Some(Greeting::Cancel(_)) => hear("cancel".into()),
        Some(Greeting::Encrypt(_)) | None => hear("nothing".into()),
    }
}

/// A pool before an impostor, verifying as `mode` says by the CA of the authority.
fn before(server: SocketAddr, authority: &Authority, mode: &str) -> Builder {
    Pgusher::before_address(server)
        .sslmode(mode)
        .text("tls.server", "sslrootcert", &authority.ca_file())
        .text("pool", "acquire_timeout", "2s")
        .pool_size(1)
}

#[tokio::test]
async fn a_server_is_believed_for_what_its_certificate_says() {
    let authority = Authority::new();
    let strange = Ca::new("a strange CA");
    let own = authority.directory.path();
    let wanted = Wanted::loopback;

    // The certificate; the worst of the modes that takes it; why the next one does not.
    for (issued, is_any, is_chain, is_full, reason) in [
        (authority.issue(wanted(), "good"), true, true, true, ""),
        (strange.issue(wanted(), own, "strange"), true, false, false, "not signed by a CA that is believed"),
        (authority.issue(wanted().expired(), "old"), true, false, false, "certificate expired"),
        (authority.issue(wanted().not_yet_valid(), "new"), true, false, false, "certificate not valid yet"),
        (
            authority.issue(Wanted::named("127.0.0.1").dns("db.internal"), "other"),
            true,
            true,
            false,
            "certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"db.internal\")",
        ),
        (authority.issue(Wanted::named("x").ip("127.0.0.2"), "ip"), true, true, false, "127.0.0.2"),
        (authority.issue(Wanted::named("127.0.0.1"), "cn"), true, true, false, "not valid for any names"),
    ] {
        let impostor = Impostor::with(&issued).await;
        for (mode, is_in) in [("require", is_any), ("verify-ca", is_chain), ("verify-full", is_full)] {
            let mut builder = before(impostor.server.address(), &authority, mode);
            if mode == "require" {
                // With it, require would verify.
                builder = builder.unset("tls.server", "sslrootcert");
            }
            let pgusher = builder.start().await;

            let came = outcome(&pgusher.target()).await;

            assert_eq!(came.is_ok(), is_in, "{mode}, {:?}: {came:?}", issued.certificate);
            if let Err(refused) = came {
                assert!(refused.starts_with("08001 ") && refused.contains(reason), "{mode}: {refused}");
                pgusher.until_logged(reason).await;
                eventually("nothing was said to it", PATIENCE, async || {
                    impostor.heard().last()?.starts_with("broken").then_some(())
                })
                .await;
            }
        }
        if !is_chain {
            let pgusher = before(impostor.server.address(), &authority, "prefer").start().await;
            assert!(outcome(&pgusher.target()).await.is_err(), "prefer does not go on in plain");
            assert!(!impostor.heard().contains(&"plain".into()));
        }
    }
}

#[tokio::test]
async fn a_name_is_said_and_verified_and_an_address_is_verified() {
    let authority = Authority::new();
    let (v4, v6) = (
        Impostor::on("127.0.0.1:0", &authority.issued).await,
        Impostor::on("[::1]:0", &authority.issued).await,
    );

    for (impostor, host, name) in
        [(&v4, "localhost", "localhost"), (&v4, "127.0.0.1", "nobody"), (&v6, "::1", "nobody")]
    {
        let pgusher = before(impostor.server.address(), &authority, "verify-full")
            .text("databases.\"fake\"", "host", host)
            .start()
            .await;

        assert_eq!(outcome(&pgusher.target()).await, Ok(()), "{host}");
        assert_eq!(impostor.heard()[impostor.heard().len() - 2], format!("Full by {name:?}"), "{host}");
    }
    let elsewhere = authority.issue(Wanted::named("x").ip("::2"), "elsewhere");
    let elsewhere = Impostor::on("[::1]:0", &elsewhere).await;
    let pgusher = before(elsewhere.server.address(), &authority, "verify-full")
        .text("databases.\"fake\"", "host", "::1")
        .start()
        .await;
    let refused = outcome(&pgusher.target()).await.unwrap_err();
    assert!(refused.contains("::1") && refused.contains("::2"), "{refused}");
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_believed_if_it_is_the_one() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = Wanted::loopback().signed_by_itself(directory.path(), "own");
    let other = Wanted::loopback().signed_by_itself(directory.path(), "other");
    let impostor = Impostor::with(&own).await;

    for (believed, is_in) in [(&own, true), (&other, false)] {
        let pgusher = before(impostor.server.address(), &authority, "verify-full")
            .text("tls.server", "sslrootcert", &believed.certificate.display().to_string())
            .start()
            .await;

        assert_eq!(outcome(&pgusher.target()).await.is_ok(), is_in);
    }
}

#[tokio::test]
async fn the_systems_bundle_is_believed_if_that_is_said() {
    let authority = Authority::new();
    let impostor = Impostor::with(&authority.issued).await;
    let start = |bundle: String| {
        before(impostor.server.address(), &authority, "verify-full")
            .text("tls.server", "sslrootcert", "system")
            .env("SSL_CERT_FILE", &bundle)
            .start()
    };

    let (known, unknown) = (start(authority.ca_file()).await, {
        let strange = tempfile::tempdir().unwrap();
        start(Ca::new("strange").file(strange.path()).display().to_string()).await
    });

    assert_eq!(outcome(&known.target()).await, Ok(()));
    let refused = outcome(&unknown.target()).await.unwrap_err();
    assert!(refused.contains("not signed by a CA that is believed"), "{refused}");
}

#[tokio::test]
async fn sessions_with_servers_are_resumed() {
    let authority = Authority::new();
    let impostor = Impostor::with(&authority.issued).await;
    // A server serves once, so each client opens one.
    let pgusher = before(impostor.server.address(), &authority, "verify-full")
        .set("pool", "max_uses", "1")
        .start()
        .await;

    for _ in 0..3 {
        let mut client = pgusher.client().await;
        client.query("select 1").await;
        client.terminate().await;
    }

    let heard = impostor.heard();
    assert_eq!(heard[0], "Full by \"nobody\"");
    assert!(heard[1..].iter().any(|line| line.starts_with("Resumed")), "{heard:?}");
}

#[tokio::test]
async fn a_cancel_goes_in_tls_where_its_session_did() {
    let authority = Authority::new();
    let config = authority.server_config();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let server = FakeServer::start(move |mut client| {
        let (config, hears) = (config.clone(), hears.clone());
        async move {
            let Some(Greeting::Encrypt(_)) = client.greeting().await else {
                return hears.lock().unwrap().push("plain");
            };
            if client.encrypt(&config).await.is_err() {
                return;
            }
            match client.greeting().await {
                Some(Greeting::Cancel(_)) => hears.lock().unwrap().push("cancel in TLS"),
                Some(Greeting::Startup(..)) => {
                    client.send([answer::welcome()]).await;
                    // The query waits for its cancel.
                    client.read_until(b'Q').await;
                    hears.lock().unwrap().push("query");
                    while !hears.lock().unwrap().contains(&"cancel in TLS") {
                        tokio::task::yield_now().await;
                    }
                    client.send([answer::error_of("ERROR", "57014", "cancelled"), answer::ready(b'I')]).await;
                    client.until_gone().await;
                }
                _ => {}
            }
        }
    })
    .await;
    let pgusher = before(server.address(), &authority, "verify-full").start().await;
    let mut client = pgusher.client().await;

    client.send([say::query("select wait()")]).await;
    eventually("the query is there", PATIENCE, async || {
        heard.lock().unwrap().contains(&"query").then_some(())
    })
    .await;
    client.cancel().await;

    assert_eq!(client.read().await.sqlstate(), "57014");
    assert_eq!(*heard.lock().unwrap(), ["query", "cancel in TLS"]);
}

/// What a server may say in answer to SSLRequest, and what is made of it.
#[tokio::test]
async fn an_answer_that_is_none_is_refused_on_that_side_only() {
    let authority = Authority::new();
    let good = Impostor::with(&authority.issued).await;
    let welcome = answer::welcome();
    let injected = [b"S", &welcome[..]].concat();

    for (words, mode, said) in [
        (&b"N"[..], "require", "server does not support TLS, and sslmode is require"),
        (b"N", "verify-full", "server does not support TLS, and sslmode is verify-full"),
        (&injected, "prefer", "with something else, or with more than an answer"),
        (b"E\0\0\0\x0cSFATAL\0\0", "prefer", "with something else, or with more than an answer"),
        (b"x", "require", "with something else, or with more than an answer"),
        (b"", "require", "closed the connection during login"),
    ] {
        let words = Bytes::copy_from_slice(words);
        let server = FakeServer::start(move |mut client| {
            let words = words.clone();
            async move {
                client.greeting().await;
                client.send([words.clone()]).await;
                if !words.is_empty() {
                    client.until_gone().await;
                }
            }
        })
        .await;
        let pgusher =
            before(server.address(), &authority, mode).database("good", good.server.address()).start().await;

        let refused = outcome(&pgusher.target()).await.unwrap_err();

        assert!(refused.contains(said), "{mode}: {refused}");
        assert_eq!(outcome(&pgusher.target().database("good")).await, Ok(()));
    }
}

/// It says `S` and then speaks plain, or breaks off in the middle.
#[tokio::test]
async fn a_server_that_agrees_and_then_does_not_is_left() {
    let authority = Authority::new();
    for (words, said) in [
        (answer::welcome(), "the peer agreed to TLS and then spoke something else"),
        (Bytes::from_static(b"\x16\x03\x03\x00\x50\x02"), "connection lost in the TLS handshake"),
        (Bytes::new(), "connection lost in the TLS handshake"),
    ] {
        let server = FakeServer::start(move |mut client| {
            let words = words.clone();
            async move {
                client.greeting().await;
                client.send([Bytes::from_static(b"S")]).await;
                client.read_some().await;
                client.send([words]).await;
            }
        })
        .await;
        let pgusher = before(server.address(), &authority, "prefer").start().await;

        let refused = outcome(&pgusher.target()).await.unwrap_err();

        assert!(refused.contains(said), "{refused}");
    }
}

#[tokio::test]
async fn a_huge_iteration_count_is_refused_at_once() {
    let server = FakeServer::start(|mut client| async move {
        client.startup().await;
        client.send([answer::authentication(10, b"SCRAM-SHA-256\0\0")]).await;
        let Some(frame) = client.read().await else { return };
        let first = String::from_utf8_lossy(&frame.body).into_owned();
        let nonce = first.rsplit_once("r=").map(|(_, nonce)| nonce.to_owned()).unwrap_or_default();
        let challenge = format!("r={nonce}abc,s=c2FsdA==,i=2000000000");
        client.send([answer::authentication(11, challenge.as_bytes())]).await;
        client.until_gone().await;
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;

    let refused = tokio::time::timeout(std::time::Duration::from_secs(5), outcome(&pgusher.target())).await;

    let refused = refused.expect("at once").unwrap_err();
    assert!(refused.contains("iteration"), "{refused}");
}

#[tokio::test]
async fn a_url_says_how_a_server_is_encrypted() {
    let postgres = Postgres::shared(18).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = postgres.ca().file(directory.path()).display().to_string();
    let url = |parameters: &str| {
        format!("postgres://app:app@{}/{}?{parameters}", postgres.address(), postgres.database())
    };
    let start = |url: String| {
        Pgusher::configured(postgres.target())
            .unset("tls.server", "sslmode")
            .of_database("url", &format!("{url:?}"))
            .pool_size(1)
            .start()
    };

    for (parameters, encrypted) in [
        (String::new(), "t"),
        ("sslmode=disable".into(), "f"),
        (
            format!(
                "sslmode=verify-full&sslrootcert={ca}&sslnegotiation=direct&channel_binding=require&ssl_min_protocol_version=TLSv1.3"
            ),
            "t",
        ),
    ] {
        let pgusher = start(url(&parameters)).await;
        assert_eq!(pgusher.client().await.value(SSL).await, encrypted, "{parameters}");
    }
    // The keys of the database are stronger.
    let stronger = Pgusher::configured(postgres.target())
        .of_database("url", &format!("{:?}", url("sslmode=require")))
        .of_database("sslmode", "\"disable\"")
        .start()
        .await;
    assert_eq!(stronger.client().await.value(SSL).await, "f");
}

#[tokio::test]
async fn encryption_that_contradicts_itself_is_a_problem_of_the_configuration() {
    let authority = Authority::new();
    let (cert, ca) = (authority.issued.certificate.display().to_string(), authority.ca_file());
    let elsewhere: SocketAddr = "127.0.0.1:1".parse().unwrap();

    for (keys, said) in [
        (vec![("sslmode", "verify-ca")], "nothing can be verified without sslrootcert"),
        (
            vec![("sslmode", "require"), ("sslrootcert", "system")],
            "\"system\" is for sslmode = \"verify-full\"",
        ),
        (vec![("sslnegotiation", "direct")], "\"direct\" is for sslmode = \"require\""),
        (vec![("channel_binding", "require"), ("sslmode", "disable")], "there is nothing to bind to"),
        (vec![("sslmode", "require"), ("sslcert", &cert)], "a certificate needs its key"),
        (vec![("sslmode", "require"), ("sslcert", &cert), ("sslkey", &ca)], "holds no private key"),
        (vec![("sslmode", "verify-full"), ("sslrootcert", "/gone")], "/gone cannot be read"),
        (vec![("sslmode", "on")], "expected \"disable\""),
    ] {
        let mut builder = Pgusher::before_address(elsewhere).unset("tls.server", "sslmode");
        for (name, value) in &keys {
            builder = builder.text("tls.server", name, value);
        }
        let mut pgusher = builder.launch();
        let status = pgusher.end().await;
        assert_eq!(status.code(), Some(64), "{keys:?}");
        assert!(pgusher.log().contains(said), "{keys:?}: {}", pgusher.log());
    }
}

/// The default: what a server has.
#[tokio::test]
async fn a_server_without_tls_is_served_unless_it_is_required() {
    for mode in MODES {
        let server = FakeServer::answering(
            [answer::command_complete("SELECT 0"), answer::ready(b'I')].concat().into(),
        )
        .await;
        let authority = Authority::new();
        let pgusher = before(server.address(), &authority, mode).start().await;

        let came = outcome(&pgusher.target()).await;

        assert_eq!(came.is_ok(), matches!(mode, "disable" | "allow" | "prefer"), "{mode}: {came:?}");
    }
}

/// What a server said before it closed, or that it closed, is noticed while it is idle, without reading what is inside TLS.
#[tokio::test]
async fn a_server_that_went_away_while_idle_is_replaced_unseen() {
    let postgres = Postgres::shared(18).await;
    let pgusher = Pgusher::before(&postgres).sslmode("require").pool_size(1).start().await;
    let mut client = Raw::login(&pgusher.target()).await;
    let first = client.server_pid().await;

    postgres.sql(&format!("select pg_terminate_backend({first})")).await;
    postgres.until(&format!("select count(*) from pg_stat_activity where pid = {first}"), "0").await;

    assert_ne!(client.server_pid().await, first);
}
