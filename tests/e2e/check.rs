//! `pgusher check` says everything that is wrong, with the configuration and, asked to, with the databases.

use crate::harness::pgusher::Builder;
use crate::harness::port::Port;
use crate::harness::{Pgusher, Postgres};
use crate::on_every_major;

/// What `check` says and its exit code.
async fn check(builder: Builder, arguments: &[&str]) -> (i32, String) {
    let builder = arguments.iter().fold(builder.arg("check"), |builder, argument| builder.arg(argument));
    let mut process = builder.launch();
    let code = process.end().await.code().expect("an exit code");
    (code, process.log())
}

#[tokio::test]
async fn every_mistake_is_reported_at_once() {
    let postgres = Postgres::shared(15).await;
    let builder = Pgusher::before(&postgres)
        .set("pool", "size", "\"lots\"")
        .set("pool", "sise", "3")
        .text("identity", "pattern", "uid");

    let (code, said) = check(builder, &[]).await;

    assert_eq!(code, 64, "{said}");
    assert!(said.ends_with("3 problems with the configuration\n"), "{said}");
    for key in ["pool.size", "pool.sise", "identity.pattern"] {
        assert!(said.contains(key), "{key} is missing from:\n{said}");
    }
}

#[tokio::test]
async fn without_being_asked_to_it_does_not_connect() {
    let postgres = Postgres::shared(15).await;
    let nobody = Port::reserve();

    let (code, said) = check(Pgusher::before(&postgres).via(nobody.address()), &[]).await;

    assert_eq!((code, said.as_str()), (0, "configuration is valid\n"));
}

#[tokio::test]
async fn a_password_command_is_run_and_what_is_wrong_with_it_is_said() {
    let postgres = Postgres::shared(15).await;
    let with = |words: &str| {
        Pgusher::before(&postgres).of_database("user", "\"cleartext\"").of_database("password_command", words)
    };

    let good = check(with("[\"printf\", \"cleartext\"]"), &["--connect"]).await;
    let bad = check(with("[\"false\"]"), &["--connect"]).await;
    let none = check(with("[\"/no/such/program\"]"), &["--connect"]).await;
    let unasked = check(with("[\"/no/such/program\"]"), &[]).await;

    assert_eq!(good.0, 0, "{}", good.1);
    assert!(bad.0 == 1 && bad.1.contains("its password_command failed: it exited with 1"), "{}", bad.1);
    assert!(none.0 == 1 && none.1.contains("it could not be run: No such file"), "{}", none.1);
    assert_eq!(unasked.0, 0, "{}", unasked.1);
}

#[tokio::test]
async fn an_auth_query_is_asked_once() {
    let postgres = Postgres::shared(18).await;
    let asking = |user: &str| Pgusher::before(&postgres).of_database("auth_user", &format!("{user:?}"));

    let good = check(asking("postgres"), &["--connect"]).await;
    let bad = check(asking("trusted"), &["--connect"]).await;

    let database = postgres.database();
    assert!(good.0 == 0 && good.1.contains(&format!("{database} auth_query: answers\n")), "{}", good.1);
    assert!(
        bad.0 == 1 && bad.1.contains(&format!("{database} auth_query: ERROR: permission denied")),
        "{}",
        bad.1
    );
}

on_every_major! {
    async fn a_database_without_a_user_is_tried_as_each_user_whose_password_is_known(postgres: Postgres) {
        let builder = Pgusher::before(&postgres).user("verified", VERIFIER);

        let (code, said) = check(builder, &["--connect"]).await;

        assert_eq!(code, 0, "{said}");
        for user in ["app", "other", "trusted", "hashed", "cleartext", "postgres"] {
            let line = format!("{} as {user}: logged in to PostgreSQL {}", postgres.database(), postgres.major());
            assert!(said.contains(&line), "{line:?} is missing from:\n{said}");
        }
        assert!(!said.contains("verified"), "{said}");
    }

    async fn each_failure_is_reported_in_the_servers_own_words(postgres: Postgres) {
        let nobody = Port::reserve();
        let at = |name: &str, user: &str, password: &str, port: u16| format!(
            "[databases.{name}]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"{}\"\nuser = \"{user}\"\npassword = \"{password}\"\n",
            postgres.database()
        );
        let toml = [
            at("good", "app", "app", postgres.port()),
            at("wrong", "app", "not this", postgres.port()),
            at("stranger", "nobody_we_know", "x", postgres.port()),
            at("silent", "app", "app", nobody.number),
            at("gone", "app", "app", postgres.port()).replace(postgres.database(), "no_such_database"),
        ]
        .join("\n");

        let (code, said) = check(Pgusher::configured(postgres.target()).append(&toml), &["--connect"]).await;

        assert_eq!(code, 1, "{said}");
        for words in [
            "good as app: logged in to PostgreSQL",
            "wrong as app: server login failed: FATAL: password authentication failed for user \"app\" (28P01)",
            "stranger as nobody_we_know: server login failed: FATAL: password authentication failed",
            "silent as app: could not connect to server: Connection refused",
            "gone as app: server login failed: FATAL: database \"no_such_database\" does not exist (3D000)",
        ] {
            assert!(said.contains(words), "{words:?} is missing from:\n{said}");
        }
        assert!(!said.contains("not this"), "{said}");
    }

    async fn an_upstream_without_a_database_is_tried_all_the_same(postgres: Postgres) {
        let upstream = |password| format!("postgres://app:{password}@127.0.0.1:{}", postgres.port());
        let builder = || Pgusher::configured(postgres.target());

        let right = check(builder().env("PGUSHER_UPSTREAM", &upstream("app")), &["--connect"]).await;
        let wrong = check(builder().env("PGUSHER_UPSTREAM", &upstream("wrong")), &["--connect"]).await;

        assert_eq!(right.0, 0, "{}", right.1);
        assert!(right.1.contains("* as app: logged in"), "{}", right.1);
        assert_eq!(wrong.0, 1, "{}", wrong.1);
        assert!(wrong.1.contains("28P01"), "{}", wrong.1);
    }

    async fn what_only_a_client_can_prove_is_not_tried(postgres: Postgres) {
        let builder = Pgusher::before(&postgres).of_database("user", "\"verified\"").user("verified", VERIFIER);

        let (code, said) = check(builder, &["--connect"]).await;

        assert_eq!(code, 0, "{said}");
        assert!(said.contains("as verified: not tried"), "{said}");
    }
}

/// Of some password.
const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
