//! Signed tokens: what one proves, how long, and that where they are asked for nothing else will do.

use super::{A, B, Stage, act, is, me};
use crate::contract;
use crate::harness::issuer::{Issuer, Published, claims, encoded, mac, now};
use crate::harness::pgusher::Builder;
use crate::harness::raw::Address;
use crate::harness::tls::Wanted;
use crate::harness::{Ca, PATIENCE, Pgusher, Postgres, Raw, Target, eventually, notation, say};

/// Who issues, and the file with the keys.
struct Keys {
    issuer: Issuer,
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        let keys = Self { issuer: Issuer::new(), directory: tempfile::tempdir().expect("a directory") };
        keys.write(&keys.issuer.jwks());
        keys
    }

    fn file(&self) -> String {
        self.directory.path().join("keys.json").display().to_string()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.file(), text).expect("a file of keys");
    }

    /// A pooler that knows the keys and minds every second.
    fn configure(&self, pgusher: Builder) -> Builder {
        pgusher.text("identity", "jwt_keys_file", &self.file()).text("identity", "jwt_leeway", "0s")
    }

    fn token(&self, user: &str) -> String {
        self.issuer.token("ed", &claims(user, 600, ""))
    }
}

fn set(token: &str) -> String {
    format!("set app.jwt = '{token}'")
}

/// Gives a token and asserts that it is refused, in both protocols, and that nothing has changed.
async fn is_refused(client: &mut Raw, token: &str, who: &str) {
    for extended in [false, true] {
        let sql = set(token);
        let unit =
            if extended { vec![say::extended(&sql, &[]), say::sync()] } else { vec![say::query(&sql)] };
        let answer = client.ask(unit).await;
        assert!(answer.ends_with("E(28000) Z(I)"), "{answer}");
        assert_eq!(me(client).await, who);
    }
}

/// The parts of a token, or of something like it, are nowhere in the log.
fn is_not_logged(stage: &Stage, tokens: &[String]) {
    let log = stage.pgusher.log();
    for part in tokens.iter().flat_map(|token| token.split('.')).filter(|part| part.len() > 20) {
        assert!(!log.contains(part), "the log has a part of a token: {part}");
    }
}

contract! {
    /// Section 2, tokens: by SET in both protocols, at startup, of all four algorithms.
    async fn a_token_says_who_the_user_is(setting: Setting) {
        let keys = Keys::new();
        let stage = setting.stage_with(|pgusher| keys.configure(pgusher)).await;
        let mut b = Raw::login(&stage.target.clone().with("app.jwt", &keys.token(B))).await;
        let mut a = stage.client().await;
        assert_eq!(me(&mut a).await, "");

        let mut tokens = Vec::new();
        for kid in ["ed", "es", "rs", "hs"] {
            let token = keys.issuer.token(kid, &claims(A, 600, ""));
            assert_eq!(a.ask([say::query(&set(&token))]).await, "C(SET) Z(I)", "{kid}");
            is(&mut a, A).await;
            is(&mut b, B).await;
            assert_eq!(a.ask([say::query("reset app.jwt")]).await, "C(RESET) Z(I)");
            assert_eq!(me(&mut a).await, "");
            let unit = [say::extended("select set_config('app.jwt', $1, false)", &[Some(&token)]), say::sync()];
            assert_eq!(a.ask(unit).await, "1 2 T D C(SELECT 1) Z(I)", "{kid}");
            is(&mut a, A).await;
            assert_eq!(a.ask([say::extended(&set(""), &[]), say::sync()]).await, "1 2 n C(SET) Z(I)");
            assert_eq!(me(&mut a).await, "");
            let mut c = Raw::login(&stage.target.clone().with("options", &format!("-c app.jwt={token}"))).await;
            is(&mut c, A).await;
            tokens.push(token);
        }
        // One connection for many users, its tokens in one write with what they are for.
        let batch = [A, B, A].map(|who| [say::query(&set(&keys.token(who))), say::query(&act(who))]);
        a.send(batch.into_iter().flatten()).await;
        assert_eq!(notation(&a.read_until_ready_times(6).await).matches("C(INSERT 0 1)").count(), 3);
        b.rows("discard all").await;
        is(&mut b, B).await;

        assert!(stage.nobody_acted_as_another().await > 0);
        is_not_logged(&stage, &tokens);
    }

    /// 55: expired, wrong aud, alg=none, HS256 with the RSA public key, unknown kid, replay after exp.
    async fn a_token_that_proves_nothing_changes_nothing(setting: Setting) {
        let keys = Keys::new();
        let stage = setting
            .stage_with(|pgusher| keys.configure(pgusher).set("identity", "jwt_audience", r#"["db"]"#).text("identity", "jwt_issuer", "us"))
            .await;
        let issuer = &keys.issuer;
        let right = r#","aud":["web","db"],"iss":"us""#;
        let good = claims(B, 600, right);
        let mut a = Raw::login(&stage.target.clone().with("app.jwt", &issuer.token("ed", &claims(A, 600, right)))).await;

        let none = |header: &str| format!("{}.{}.", encoded(header), encoded(&good));
        let confused = |secret: &[u8]| {
            let message = format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"rs"}"#), encoded(&good));
            format!("{message}.{}", encoded(mac(secret, &message)))
        };
        let mut altered = issuer.token("ed", &good);
        altered.replace_range(altered.rfind('.').unwrap_or(0) + 5..altered.len() - 5, &"A".repeat(64));
        let tokens = [
            issuer.token("ed", &claims(B, -1, right)),
            issuer.token("ed", &claims(B, 600, r#","aud":"web","iss":"us""#)),
            issuer.token("ed", &claims(B, 600, r#","aud":"db","iss":"them""#)),
            issuer.token("ed", &claims(B, 600, r#","iss":"us""#)),
            issuer.token("ed", &claims(B, 600, &format!(r#"{right},"nbf":{}"#, now() + 300))),
            issuer.token("ed", &claims("not a uuid", 600, right)),
            issuer.token("ed", &format!(r#"{{"sub":"{B}"{right}}}"#)),
            issuer.token("ed", &format!(r#"{{"exp":{}{right}}}"#, now() + 600)),
            none(r#"{"alg":"none"}"#),
            none(r#"{"alg":"none","kid":"ed"}"#),
            none(r#"{"alg":"EdDSA","kid":"ed"}"#),
            confused(&issuer.rsa_public()),
            confused(issuer.jwk("rs").as_bytes()),
            issuer.token_as(r#"{"alg":"HS256","kid":"es"}"#, "hs", &good),
            issuer.token_as(r#"{"alg":"EdDSA","kid":"unknown"}"#, "ed", &good),
            issuer.token_as(r#"{"alg":"EdDSA","kid":"es"}"#, "ed", &good),
            issuer.token_as(r#"{"alg":"EdDSA","kid":"ed","crit":["exp"]}"#, "ed", &good),
            Issuer::new().token("ed", &good),
            altered,
            "x.y.z".to_owned(),
            "x".repeat(9000),
        ];
        for token in &tokens {
            is_refused(&mut a, token, A).await;
            let mut stranger = Raw::reach(&stage.target).await.unwrap();
            let report = stranger.try_login(&stage.target.clone().with("app.jwt", token)).await.unwrap_err();
            assert_eq!((report.severity().as_str(), report.sqlstate().as_str()), ("FATAL", "28000"));
        }
        is(&mut a, A).await;
        assert_eq!(a.ask([say::query(&set(&issuer.token("ed", &good)))]).await, "C(SET) Z(I)");
        is(&mut a, B).await;

        stage.nobody_acted_as_another().await;
        is_not_logged(&stage, &tokens);
    }

    /// 55, the life of the connection: the identity ends, the session does not, and a fresh token goes on.
    async fn an_identity_ends_with_its_token(setting: Setting) {
        let keys = Keys::new();
        let stage = setting.stage_with(|pgusher| keys.configure(pgusher)).await;
        let short = keys.issuer.token("ed", &claims(A, 2, ""));
        let mut a = Raw::login(&stage.target.clone().with("app.jwt", &keys.token(A))).await;
        let mut b = Raw::login(&stage.target.clone().with("app.jwt", &keys.token(B))).await;
        a.rows(&set(&short)).await;
        a.rows("begin").await;

        let deadline = now() + 3;
        let outlived = eventually("the token expires", PATIENCE, async || {
            let answer = a.ask([say::query(&act(A))]).await;
            (now() > deadline).then_some(answer)
        })
        .await;
        assert_eq!(outlived, "C(INSERT 0 1) Z(T)", "a transaction that has begun is not cut off");
        assert_eq!(a.ask([say::query("commit")]).await, "C(COMMIT) Z(I)");
        assert_eq!(a.ask([say::query(&act(A))]).await, "E(28000) Z(I)");
        assert_eq!(a.ask([say::extended(&act(A), &[]), say::sync()]).await, "E(28000) Z(I)");
        assert_eq!(a.ask([say::query("begin")]).await, "E(28000) Z(I)");
        is(&mut b, B).await;
        assert_eq!(a.ask([say::query(&set(&short))]).await, "E(28000) Z(I)", "a replay");
        assert_eq!(a.ask([say::query(&act(A))]).await, "E(28000) Z(I)");
        a.rows(&set(&keys.token(A))).await;
        is(&mut a, A).await;

        stage.nobody_acted_as_another().await;
    }

    /// 56: JWT mode, plain SET.
    async fn where_tokens_say_who_the_user_is_nothing_else_does(setting: Setting) {
        let keys = Keys::new();
        let stage = setting
            .stage_with(|pgusher| {
                keys.configure(pgusher)
                    .set("identity", "variables", r#"{ "app.tenant_id" = "any" }"#)
                    .set("identity", "jwt_claims", r#"{ sub = "app.current_user_id", "/app/tenant" = "app.tenant_id" }"#)
            })
            .await;
        let tenant = "select current_setting('app.tenant_id')";
        let mut a = Raw::login(&stage.target.clone().with("app.jwt", &keys.issuer.token("es", &claims(A, 600, r#","app":{"tenant":"t1"}"#)))).await;
        let fresh = keys.issuer.token("ed", &claims(B, 600, r#","app":{"tenant":"t2"}"#));

        for sql in [
            format!("set app.current_user_id = '{B}'"),
            format!("set session app.current_user_id to '{B}'"),
            "set app.tenant_id = 't2'".to_owned(),
            "reset app.current_user_id".to_owned(),
            "set app.current_user_id to default".to_owned(),
            format!("select set_config('app.current_user_id', '{B}', false)"),
            format!("set local app.current_user_id = '{B}'"),
            format!("select set_config('app.current_user_id', '{B}', true)"),
        ] {
            for extended in [false, true] {
                let unit = || if extended { vec![say::extended(&sql, &[]), say::sync()] } else { vec![say::query(&sql)] };
                let answer = a.ask(unit()).await;
                assert!(answer.ends_with("E(42501) Z(I)"), "{sql}: {answer}");
                a.rows("begin").await;
                let answer = a.ask(unit()).await;
                assert!(answer.ends_with("E(42501) Z(E)"), "{sql}: {answer}");
                a.rows("rollback").await;
                is(&mut a, A).await;
            }
        }
        // By whatever of it is bound, too.
        let variable = "app.current_user_id";
        for (sql, bound) in [
            ("select set_config($1, $2, true)", &[Some(variable), Some(B)][..]),
            ("select set_config($1, $2, $3)", &[Some(variable), Some(B), Some("t")]),
            ("select set_config(lower($1), $2, true)", &[Some("APP.current_user_id"), Some(B)]),
            ("select set_config('app.current_user_id', $1, true)", &[Some(B)]),
        ] {
            for (before, end) in [("select 1", "Z(I)"), ("begin", "Z(E)")] {
                a.rows(before).await;
                let answer = a.ask([say::extended(sql, bound), say::sync()]).await;
                assert!(answer.ends_with(&format!("E(42501) {end}")), "{sql}: {answer}");
                a.rows("rollback").await;
                is(&mut a, A).await;
            }
        }
        let other = [say::extended("select set_config($1, $2, true)", &[Some("work_mem"), Some("1MB")]), say::sync()];
        assert_eq!(a.ask(other).await, "1 2 T D C(SELECT 1) Z(I)");
        assert_eq!(a.value(tenant).await, "t1");
        // A token never reaches the server: inside a transaction, or among other statements, it is refused.
        for (before, sql) in [("begin", set(&fresh)), ("begin", format!("select 1; {}", set(&fresh))), ("select 1", format!("select 1; {}", set(&fresh)))] {
            a.rows(before).await;
            let answer = a.ask([say::query(&sql)]).await;
            assert!(answer.starts_with("E(0A000)"), "{answer}");
            a.rows("rollback").await;
        }
        assert_eq!(a.value("select current_setting('app.jwt', true) is null").await, "t");
        let mut stranger = Raw::reach(&stage.target).await.unwrap();
        let report = stranger.try_login(&stage.target.clone().with("app.current_user_id", B)).await.unwrap_err();
        assert_eq!((report.severity().as_str(), report.sqlstate().as_str()), ("FATAL", "42501"));
        // What is prepared outside a transaction and bound inside is judged again.
        a.ask([say::parse("give", "select set_config('app.jwt', $1, false)"), say::sync()]).await;
        a.rows("begin").await;
        let answer = a.ask([say::bind("", "give", &[Some(&fresh)]), say::execute("", 0), say::sync()]).await;
        assert!(answer.contains("E(0A000)"), "{answer}");
        a.rows("rollback").await;
        assert_eq!(a.ask([say::bind("", "give", &[Some(&fresh)]), say::execute("", 0), say::sync()]).await, "2 D C(SELECT 1) Z(I)");
        is(&mut a, B).await;
        assert_eq!(a.value(tenant).await, "t2");
        a.rows("reset all").await;
        is(&mut a, A).await;
        assert_eq!(a.value(tenant).await, "t1");

        stage.nobody_acted_as_another().await;
        is_not_logged(&stage, &[fresh]);
    }
}

/// Keys by URL: fetched, refreshed for a key that is not known, and not for every stranger who says so.
#[tokio::test]
async fn a_new_key_is_fetched_once_it_is_used() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let published = Published::new(old.jwks()).await;
    let postgres = Postgres::shared(17).await;
    let pgusher =
        Pgusher::before(&postgres).pool_size(1).identity().text("identity", "jwt_keys_url", &published.url);
    let pgusher = pgusher.start().await;
    let mut client = pgusher.client().await;
    let token = |issuer: &Issuer, kid: &str, user: &str| {
        issuer.token_as(&format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), "ed", &claims(user, 600, ""))
    };

    client.rows(&set(&token(&old, "ed", A))).await;
    assert_eq!(me(&mut client).await, A);
    assert_eq!(published.asked(), 1);
    // A secret that is published is none.
    let by_secret = old.token_as(r#"{"alg":"HS256"}"#, "hs", &claims(B, 600, ""));
    assert_eq!(client.ask([say::query(&set(&by_secret))]).await, "E(28000) Z(I)");
    let before = published.asked();
    published
        .publish(format!(r#"{{"keys":[{}]}}"#, new.jwk("ed").replace(r#""kid":"ed""#, r#""kid":"ed2""#)));
    let mut crowd = Vec::new();
    for _ in 0..5 {
        crowd.push(pgusher.client().await);
    }
    let first = token(&new, "ed2", B);
    for client in &mut crowd {
        client.send([say::query(&set(&first))]).await;
    }
    for client in &mut crowd {
        assert_eq!(notation(&client.read_until_ready().await), "C(SET) Z(I)");
        assert_eq!(me(client).await, B);
    }
    assert_eq!(published.asked(), before + 1);
    for stranger in 0..20 {
        let token = token(&new, &format!("stranger {stranger}"), B);
        assert_eq!(client.ask([say::query(&set(&token))]).await, "E(28000) Z(I)");
    }
    assert_eq!(published.asked(), before + 1, "strangers make it fetch");
    // A token that was good is not, once its key is gone; who was let in by it stays until it expires.
    assert_eq!(crowd[0].ask([say::query(&set(&token(&old, "ed", A)))]).await, "E(28000) Z(I)");
    assert_eq!(me(&mut client).await, A);
}

/// Keys by HTTPS: from a host that the file of certificates vouches for, and from no other.
#[tokio::test]
async fn keys_are_fetched_over_https_from_a_host_that_proves_itself() {
    let (issuer, directory) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let (ca, other) = (Ca::new("a CA"), Ca::new("another CA"));
    let file = |ca: &Ca, name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, ca.pem()).expect("a file");
        path.display().to_string()
    };
    let (right, wrong) = (file(&ca, "right.crt"), file(&other, "wrong.crt"));
    let issued = |wanted: Wanted, name: &str| ca.issue(wanted, directory.path(), name);
    let named_otherwise = Wanted::named("elsewhere").dns("elsewhere.example");
    let published = Published::in_tls(issuer.jwks(), &issued(Wanted::loopback(), "host")).await;
    let strange = Published::in_tls(issuer.jwks(), &issued(named_otherwise, "strange")).await;
    let postgres = Postgres::shared(17).await;
    let give = set(&issuer.token("ed", &claims(A, 600, "")));
    let believing = |published: &Published, ca: &str| {
        let pgusher = Pgusher::before(&postgres).pool_size(1).identity();
        pgusher.text("identity", "jwt_keys_url", &published.url).text("identity", "jwt_ca_file", ca)
    };
    let refused = [(&published, &wrong, "UnknownIssuer"), (&strange, &right, "not valid for name")];

    for (published, ca, why) in refused {
        let pgusher = believing(published, ca).start().await;
        let mut client = pgusher.client().await;
        assert_eq!(client.ask([say::query(&give)]).await, "E(28000) Z(I)", "{why}");
        assert_eq!(me(&mut client).await, "");
        assert_eq!(published.asked(), 0, "nothing is asked of a host that has not proved itself");
        let log = pgusher.log();
        for words in [why, published.url.as_str(), "jwt_ca_file"] {
            assert!(log.contains(words), "{words:?} is not in {log}");
        }
    }
    let pgusher = believing(&published, &right).start().await;
    let mut client = pgusher.client().await;
    assert_eq!(client.ask([say::query(&give)]).await, "C(SET) Z(I)");
    assert_eq!(me(&mut client).await, A);
    assert_eq!(published.asked(), 1);
}

/// A file in which there is no certificate would refuse every host, so it is refused itself.
#[tokio::test]
async fn a_file_that_vouches_for_nobody_is_refused_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ca.crt");
    std::fs::write(&path, "not a certificate").expect("a file");
    let postgres = Postgres::shared(17).await;
    let mut process = Pgusher::before(&postgres)
        .identity()
        .text("identity", "jwt_keys_url", "https://127.0.0.1:1/keys.json")
        .text("identity", "jwt_ca_file", &path.display().to_string())
        .launch();

    assert!(!process.end().await.success());

    let log = process.log();
    assert!(log.contains("identity.jwt_ca_file") && log.contains("BEGIN CERTIFICATE"), "{log}");
}

/// Keys that cannot be fetched refuse tokens, not clients; what comes back works again.
#[tokio::test]
async fn without_keys_tokens_are_refused_until_there_are_some() {
    let issuer = Issuer::new();
    let published = Published::new("not keys".into()).await;
    let postgres = Postgres::shared(17).await;
    let pgusher =
        Pgusher::before(&postgres).pool_size(1).identity().text("identity", "jwt_keys_url", &published.url);
    let pgusher = pgusher.start().await;
    let mut client = pgusher.client().await;
    let give = set(&issuer.token("ed", &claims(A, 600, "")));

    assert_eq!(client.ask([say::query(&give)]).await, "E(28000) Z(I)");
    assert_eq!(client.ask([say::query("select 1")]).await, "T D C(SELECT 1) Z(I)");
    published.publish(issuer.jwks());
    eventually("the keys are fetched", PATIENCE, async || {
        (client.ask([say::query(&give)]).await == "C(SET) Z(I)").then_some(())
    })
    .await;

    assert_eq!(me(&mut client).await, A);
}

/// Keys by file, and a secret by file: read again when they change, the old ones kept while the new are broken.
#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let keys = Keys::new();
    let postgres = Postgres::shared(17).await;
    let pgusher = keys.configure(Pgusher::before(&postgres).pool_size(1).identity()).start().await;
    let mut client = pgusher.client().await;
    let other = Issuer::new();
    let (first, second) = (keys.token(A), other.token("es", &claims(B, 600, "")));

    client.rows(&set(&first)).await;
    assert_eq!(client.ask([say::query(&set(&second))]).await, "E(28000) Z(I)");
    keys.write("{");
    assert_eq!(client.ask([say::query(&set(&first))]).await, "C(SET) Z(I)");
    keys.write(&other.jwk("es"));

    assert_eq!(client.ask([say::query(&set(&second))]).await, "C(SET) Z(I)");
    assert_eq!(me(&mut client).await, B);
    assert_eq!(client.ask([say::query(&set(&first))]).await, "E(28000) Z(I)", "its key is gone");
}

/// The console is nobody's database: a token proves a user of one, and no operator.
#[tokio::test]
async fn a_token_opens_no_console() {
    let issuer = Issuer::new();
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .identity()
        .text("listen", "auth", "scram-sha-256")
        .env("PGUSHER_IDENTITY_JWT_KEY", &issuer.jwk("ed"))
        .database("*", postgres.address())
        .text("databases.\"*\"", "password", "app")
        .text("identity", "jwt_from_password", "on")
        .set("admin", "users", "[\"app\"]")
        .set("admin", "readers", "[\"other\"]")
        .start()
        .await;
    let token = issuer.token("ed", &claims(A, 600, ""));
    let target = pgusher.target().user("app", &token);
    let mut client = Raw::login(&target).await;
    assert_eq!(me(&mut client).await, A, "elsewhere it is the password");

    for (name, password) in
        [("pgusher", &*token), ("pgbouncer", &*token), ("pgusher", "wrong"), ("pgbouncer", "other")]
    {
        let console = target.clone().user("app", password).database(name);
        let mut stranger = Raw::connect(&console.address).await;
        let report = stranger.try_login(&console).await.unwrap_err();
        assert_eq!(report.sqlstate(), "28P01", "{name}");
    }
    for (user, role) in [("app", "C(PAUSE) Z(I)"), ("other", "E(42501) Z(I)")] {
        let mut console = Raw::login(&target.clone().user(user, user).database("pgusher")).await;
        assert!(!console.rows("SHOW POOLS").await.is_empty(), "{user}");
        assert_eq!(notation(&console.query("PAUSE").await), role, "{user}");
    }
}

/// Nor is there a user behind a name with an identity in it.
#[tokio::test]
async fn an_identity_in_the_name_opens_no_console() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .identity()
        .text("listen", "auth", "scram-sha-256")
        .database("*", postgres.address())
        .text("identity", "from_user_suffix", "on")
        .set("admin", "users", "[\"app\"]")
        .start()
        .await;
    let target = pgusher.target().user(&format!("app.{A}"), "app");
    assert_eq!(me(&mut Raw::login(&target).await).await, A, "elsewhere it is one");

    let target = target.database("pgusher");
    let refused = Raw::connect(&target.address).await.try_login(&target).await.unwrap_err();

    assert_eq!(refused.sqlstate(), "28P01");
}

/// Section 2: a token as the password, for the roles that it is switched on for.
#[tokio::test]
async fn a_token_may_be_the_password() {
    let issuer = Issuer::new();
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(1)
        .identity()
        .text("listen", "auth", "scram-sha-256")
        .env("PGUSHER_IDENTITY_JWT_KEY", &issuer.jwk("ed"))
        .of_database("password", "\"app\"")
        .text("users.\"app\"", "identity_jwt_from_password", "on")
        .start()
        .await;
    let target = pgusher.target();
    let token = issuer.token("ed", &claims(A, 600, ""));

    let mut client = Raw::login(&target.clone().user("app", &token)).await;
    assert_eq!(me(&mut client).await, A);
    assert_eq!(client.value("select session_user").await, "app");
    client.rows("discard all").await;
    assert_eq!(me(&mut client).await, A);
    for (user, password) in [
        ("app", "app".to_owned()),
        ("app", issuer.token("ed", &claims(A, -60, ""))),
        ("other", token.clone()),
        ("nobody", token.clone()),
    ] {
        let mut stranger = Raw::connect(&target.address).await;
        let report = stranger.try_login(&target.clone().user(user, &password)).await.unwrap_err();
        assert_eq!((report.severity().as_str(), report.sqlstate().as_str()), ("FATAL", "28P01"), "{user}");
    }
    assert!(!pgusher.log().contains(token.split('.').nth(2).unwrap_or_default()));
}

/// What a rule says is about the connection: a token says who the user is, and is asked for all the same.
#[tokio::test]
async fn a_rule_that_asks_for_no_proof_does_not_stand_in_for_a_token() {
    let issuer = Issuer::new();
    let postgres = Postgres::shared(17).await;
    let me_at_the_system = rustix::process::geteuid().as_raw();
    let directory = tempfile::tempdir().unwrap();
    let asker = format!("asker_{}", postgres.database());
    let ann = format!("ann_{}", postgres.database());
    postgres
        .sql(&format!(
            "create role {asker} login password 'asks'; grant select on pg_catalog.pg_shadow to {asker};
             create role {ann} login password 'unused-here'"
        ))
        .await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(1)
        .identity()
        .set("listen", "rules", "[\"local all all peer map=m\", \"host all all all trust\"]")
        .set("listen", "maps", &format!("[\"m {me_at_the_system} app\", \"m {me_at_the_system} other\"]"))
        .text("listen", "unix_socket_dir", &directory.path().display().to_string())
        .env("PGUSHER_IDENTITY_JWT_KEY", &issuer.jwk("ed"))
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"")
        .of_database("identity_jwt_from_password", "\"on\"")
        .of_database("auth_user", &format!("{asker:?}"))
        .of_database("auth_password", "\"asks\"")
        .start()
        .await;
    let socket = Address::Unix(directory.path().join(format!(".s.PGSQL.{}", pgusher.port())));
    let (over_tcp, local) = (pgusher.target(), Target { address: socket, ..pgusher.target() });
    let token = issuer.token("ed", &claims(A, 600, ""));

    // One who is listed, and one whom only the server knows.
    for target in [
        over_tcp.clone().user("app", &token),
        local.clone().user("app", &token),
        over_tcp.clone().user(&ann, &token),
    ] {
        let mut client = Raw::login(&target).await;
        assert_eq!(me(&mut client).await, A);
    }
    for target in [over_tcp.clone(), local, over_tcp.clone().user("nobody_at_all", &token)] {
        let mut stranger = Raw::reach(&target).await.unwrap();
        let report = stranger.try_login(&target).await.unwrap_err();
        assert_eq!(
            (report.severity().as_str(), report.sqlstate().as_str()),
            ("FATAL", "28P01"),
            "{target:?}"
        );
    }
}

/// Nothing is injected there, and nothing of ours goes along.
#[tokio::test]
async fn a_token_does_not_reach_the_server_by_a_replication_connection() {
    let issuer = Issuer::new();
    let postgres = Postgres::shared(17).await;
    let role = format!("role_{}", postgres.database());
    postgres.sql(&format!("create role {role} login replication password 'replicates'")).await;
    let pgusher = Pgusher::before(&postgres)
        .identity()
        .user(&role, "replicates")
        .env("PGUSHER_IDENTITY_JWT_KEY", &issuer.jwk("ed"))
        .start()
        .await;
    let target = pgusher.target().user(&role, "replicates").with("replication", "database");
    let token = issuer.token("ed", &claims(A, 600, ""));

    let mut client = Raw::login(&target.clone().with("app.jwt", &token)).await;
    assert_eq!(client.value("select current_setting('app.jwt', true) is null").await, "t");
    for (name, value, sqlstate) in [("app.current_user_id", B, "42501"), ("app.jwt", "forged", "28000")] {
        let mut stranger = Raw::connect(&target.address).await;
        let report = stranger.try_login(&target.clone().with(name, value)).await.unwrap_err();
        assert_eq!((report.severity().as_str(), report.sqlstate().as_str()), ("FATAL", sqlstate));
    }
}

/// Work is counted, not timed: whoever measures how long a refusal takes measures this.
#[tokio::test]
async fn a_strangers_token_costs_what_a_users_does() {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let postgres = Postgres::shared(17).await;
    for user in ["app", "nobody"] {
        let published = Published::new(issuer.jwks()).await;
        let pgusher = Pgusher::before(&postgres)
            .pool_size(1)
            .identity()
            .text("identity", "jwt_keys_url", &published.url)
            .text("identity", "jwt_from_password", "on")
            .of_database("user", "\"app\"")
            .of_database("password", "\"app\"")
            .start()
            .await;
        Raw::login(&pgusher.target().user("app", &issuer.token("ed", &claims(A, 600, "")))).await;
        let before = published.asked();

        let unknown = other.token_as(r#"{"alg":"EdDSA","kid":"unknown"}"#, "ed", &claims(A, 600, ""));
        let target = pgusher.target().user(user, &unknown);
        let report = Raw::connect(&target.address).await.try_login(&target).await.unwrap_err();

        assert_eq!(report.sqlstate(), "28P01");
        assert_eq!(published.asked() - before, 1, "{user}");
    }
}
