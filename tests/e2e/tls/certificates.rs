//! Clients that prove who they are by a certificate.

use super::{Authority, Wanted, anyone, attempt, offering, outcome};
use crate::harness::pgusher::Builder;
use crate::harness::{Ca, Pgusher, Postgres, Raw};

const A: &str = "0a0a0a0a-0000-4000-8000-00000000000a";
const B: &str = "0b0b0b0b-0000-4000-8000-00000000000b";

fn verifying(postgres: &Postgres, authority: &Authority, mode: &str) -> Builder {
    offering(postgres, authority, mode).text("tls.client", "ca_file", &authority.ca_file())
}

#[tokio::test]
async fn a_certificate_is_a_login() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = verifying(&postgres, &authority, "prefer").text("listen", "auth", "cert").start().await;
    let owning = |name: &str| {
        let issued = authority.issue(Wanted::named(name), name);
        pgusher.target().in_tls(authority.ca.client().owning(&issued))
    };

    let mut app = attempt(&owning("app")).await.unwrap();
    assert_eq!(app.value("select current_user").await, "app");
    let other = outcome(&owning("other")).await.unwrap_err();
    let nobody = outcome(&pgusher.target().in_tls(anyone())).await.unwrap_err();
    let plain = outcome(&pgusher.target()).await.unwrap_err();

    assert_eq!(other, "28000 certificate authentication failed for user \"app\"");
    assert_eq!(nobody, "28000 connection requires a valid client certificate");
    assert_eq!(plain, nobody);
}

#[tokio::test]
async fn the_user_is_taken_from_the_name_that_counts_through_the_map() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let wanted = || {
        Wanted::named("other")
            .dns("app")
            .dns("shop.internal")
            .uri("spiffe://prod/shop")
            .email("app@example.com")
    };
    let issued = authority.issue(wanted(), "all");
    let map = "{ \"shop.internal\" = \"app\", \"spiffe://prod/shop\" = [\"app\", \"other\"], \"app@example.com\" = \"trusted\" }";

    for (from, map, users) in [
        ("cn", "{}", ["other"].as_slice()),
        ("san-dns", "{}", &["app"]),
        ("san-dns", map, &["app"]),
        ("san-uri", map, &["app", "other"]),
        ("san-uri", "{}", &[]),
        ("san-email", map, &["trusted"]),
    ] {
        let pgusher = verifying(&postgres, &authority, "verify-ca")
            .text("listen", "auth", "cert")
            .text("tls.client", "user_from", from)
            .set("tls.client", "user_map", map)
            .start()
            .await;
        for user in ["app", "other", "trusted"] {
            let target = pgusher.target().user(user, "").in_tls(authority.ca.client().owning(&issued));
            assert_eq!(outcome(&target).await.is_ok(), users.contains(&user), "{from} {map} {user}");
        }
    }
}

#[tokio::test]
async fn a_rule_asks_for_a_certificate_and_reads_it_through_its_map() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let rules =
        ["hostssl all app all cert map=m", "hostssl all other all cert", "hostnossl all trusted all trust"];
    let pgusher = verifying(&postgres, &authority, "prefer")
        .set("listen", "rules", &format!("{rules:?}"))
        .set("listen", "maps", r#"["m *.shop \\1"]"#)
        .start()
        .await;
    let owning = |name: &str, user: &str| {
        let issued = authority.issue(Wanted::named(name), name);
        pgusher.target().user(user, "").in_tls(authority.ca.client().owning(&issued))
    };

    for (name, user, is_let_in) in [
        ("app.shop", "app", true),
        ("app", "app", false),
        ("other.shop", "app", false),
        ("other", "other", true),
        ("other.shop", "other", false),
        ("trusted", "trusted", false),
    ] {
        assert_eq!(outcome(&owning(name, user)).await.is_ok(), is_let_in, "{name} as {user}");
    }
    let nobody = outcome(&pgusher.target().in_tls(anyone())).await.unwrap_err();
    let plain = outcome(&pgusher.target()).await.unwrap_err();
    assert_eq!(nobody, "28000 connection requires a valid client certificate");
    assert!(plain.starts_with("28000 no pg_hba.conf entry") && plain.ends_with("no encryption"), "{plain}");
    assert_eq!(outcome(&pgusher.target().user("trusted", "")).await, Ok(()));
    let encrypted = outcome(&pgusher.target().user("trusted", "").in_tls(anyone())).await.unwrap_err();
    assert!(encrypted.ends_with("SSL encryption"), "{encrypted}");
}

/// `clientcert=verify-full` beside a password.
#[tokio::test]
async fn verify_full_wants_the_password_and_the_name() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher =
        verifying(&postgres, &authority, "verify-full").text("listen", "auth", "scram-sha-256").start().await;
    let issued = authority.issue(Wanted::named("app"), "app");
    let tls = authority.ca.client().owning(&issued);

    let mut app = Raw::login(&pgusher.target().in_tls(tls.clone())).await;
    assert_eq!(app.value("select current_user").await, "app");
    let wrong = pgusher.target().user("app", "wrong").in_tls(tls.clone());
    let refusal = Raw::reach(&wrong).await.unwrap().try_login(&wrong).await.unwrap_err();
    assert_eq!(refusal.sqlstate(), "28P01");
    let other = pgusher.target().user("other", "other").in_tls(tls);
    assert_eq!(
        outcome(&other).await.unwrap_err(),
        "28000 certificate authentication failed for user \"other\""
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_refused_with_the_reason_in_the_log() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = verifying(&postgres, &authority, "prefer").text("listen", "auth", "trust").start().await;
    let stranger = Ca::new("somebody else's CA");
    let own = authority.directory.path();

    for (issued, alert, reason) in [
        (stranger.issue(Wanted::named("app"), own, "a"), "UnknownCA", "not signed by a CA that is believed"),
        (authority.issue(Wanted::named("app").expired(), "b"), "CertificateExpired", "certificate expired"),
        (
            authority.issue(Wanted::named("app").not_yet_valid(), "c"),
            "CertificateExpired",
            "certificate not valid yet",
        ),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let tls = authority.ca.client().owning(&issued).version(version);

            let refused = outcome(&pgusher.target().in_tls(tls)).await.unwrap_err();

            // In TLS 1.3 a client hears of it only after it has begun to speak.
            assert!(refused == "closed" || refused.contains(alert), "{reason}: {refused}");
        }
        pgusher.until_logged(reason).await;
    }
    assert!(!pgusher.log().contains("client connected"), "{}", pgusher.log());
}

/// The identity of a machine: no SET, no startup parameter, only what its certificate says.
#[tokio::test]
async fn an_identity_can_be_that_of_the_certificate() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let pgusher = verifying(&postgres, &authority, "verify-ca")
        .identity()
        .text("identity", "from_certificate", "san-dns")
        .text("identity", "missing", "deny")
        .text("identity", "pattern", "any")
        .pool_size(1)
        .start()
        .await;
    let owning = |name: &str, dns: Option<&str>| {
        let wanted = dns.map_or(Wanted::named(name), |dns| Wanted::named(name).dns(dns));
        pgusher.target().in_tls(authority.ca.client().owning(&authority.issue(wanted, name)))
    };
    let me = "select current_setting('app.current_user_id')";

    let mut shop = Raw::login(&owning("shop", Some("shop.internal"))).await;
    let mut mail = Raw::login(&owning("mail", Some("mail.internal"))).await;
    let mut none = Raw::login(&owning("none", None)).await;
    for _ in 0..3 {
        assert_eq!(shop.value(me).await, "shop.internal");
        assert_eq!(mail.value(me).await, "mail.internal");
    }
    let denied = none.query(me).await;

    assert_eq!(denied[0].sqlstate(), "28000");
    let stated = owning("stated", Some("shop.internal")).with("app.current_user_id", B);
    let mut stated = Raw::login(&stated).await;
    assert_eq!(stated.value(me).await, B, "what is stated is stronger, unless from_startup is off");
    stated.rows(&format!("set app.current_user_id = '{A}'")).await;
    assert_eq!(stated.value(me).await, A);
    stated.rows("reset app.current_user_id").await;
    assert_eq!(stated.value(me).await, B);
}

#[tokio::test]
async fn certificates_that_cannot_be_asked_for_are_a_problem_of_the_configuration() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();

    for (mode, said) in [
        ("disable", "certificates are shown in TLS, and tls.client.mode is \"disable\""),
        ("require", "no client's certificate can be believed without tls.client.ca_file"),
    ] {
        let mut pgusher = offering(&postgres, &authority, mode).text("listen", "auth", "cert").launch();
        let status = pgusher.end().await;
        assert_eq!(status.code(), Some(64), "{mode}");
        assert!(pgusher.log().contains(said), "{mode}: {}", pgusher.log());
    }
    let mut pgusher = Pgusher::before(&postgres).of_database("require_tls", "\"on\"").launch();
    pgusher.end().await;
    assert!(pgusher.log().contains("no client could come in"), "{}", pgusher.log());
}
