//! Rules as in `pg_hba.conf`: who may come in from where, and what those hear who may not.

use crate::harness::pgusher::Builder;
use crate::harness::raw::Address;
use crate::harness::{Frame, Pgusher, Postgres, Raw, Target};
use crate::on_every_major;

on_every_major! {
    async fn the_first_rule_decides_how_a_client_proves_itself(postgres: Postgres) {
        let pgusher = ruled(&postgres, &[
            "host all trusted 127.0.0.1/32 trust",
            "host all other all password",
            "host all hashed 127.0.0.0 255.0.0.0 md5",
            "host all app samehost scram-sha-256",
            "host all cleartext all reject",
        ]).start().await;

        for (user, asked) in [("trusted", "R 8"), ("other", "R 8"), ("hashed", "R 12"), ("app", "R 23")] {
            let mut client = Raw::connect(&pgusher.target().address).await;
            let target = pgusher.target().user(user, user);
            client.try_login(&target).await.unwrap_or_else(|refusal| panic!("{user}: {refusal:?}"));
            let first = client.heard.iter().find(|frame| frame.is(b'R')).unwrap();
            assert!(format!("R {}", first.body.len() + 4).starts_with(asked), "{user}: {first:?}");
            assert_eq!(client.value("select current_user").await, user);
        }
        for (user, words) in [
            ("cleartext", "pg_hba.conf rejects connection for host"),
            ("postgres", "no pg_hba.conf entry for host"),
        ] {
            let refusal = refused(&pgusher.target().user(user, user)).await;
            assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "28000".into()));
            let database = postgres.database();
            assert_eq!(
                refusal.message(),
                format!("{words} \"127.0.0.1\", user \"{user}\", database \"{database}\", no encryption")
            );
        }
    }
}

#[tokio::test]
async fn who_is_turned_away_does_not_learn_who_exists() {
    let postgres = Postgres::shared(18).await;
    let pgusher =
        ruled(&postgres, &["host all app all scram-sha-256", "host shop all all reject"]).start().await;
    let said = async |user: &str, database: &str| {
        let refusal = refused(&pgusher.target().user(user, "x").database(database)).await;
        refusal.message().replace(user, "USER").replace(database, "DATABASE")
    };

    let (known, stranger) =
        (said("other", postgres.database()).await, said("nobody", postgres.database()).await);
    assert_eq!(known, stranger);
    assert_eq!(known, said("nobody", "no_such_database").await);
    assert_eq!(said("other", "shop").await, said("nobody", "shop").await);
}

#[tokio::test]
async fn the_kernel_says_who_is_at_the_other_end_of_a_socket() {
    let postgres = Postgres::shared(18).await;
    let me = rustix::process::geteuid().as_raw();
    let directory = tempfile::tempdir().unwrap();
    let pgusher = ruled(
        &postgres,
        &[
            "local all trusted peer map=by_number",
            "local all app,other peer map=by_name",
            "local all all peer",
        ],
    )
    .set("listen", "maps", &format!("[\"by_number {me} trusted\", \"by_name somebody_else app\"]"))
    .text("listen", "unix_socket_dir", &directory.path().display().to_string())
    .start()
    .await;
    let socket = Address::Unix(directory.path().join(format!(".s.PGSQL.{}", pgusher.port())));
    let at = |user: &str| Target { address: socket.clone(), ..pgusher.target().user(user, user) };

    assert_eq!(Raw::login(&at("trusted")).await.value("select current_user").await, "trusted");
    for user in ["app", "other", "postgres", "nobody"] {
        let refusal = refused(&at(user)).await;
        assert_eq!(refusal.sqlstate(), "28000");
        assert_eq!(refusal.message(), format!("Peer authentication failed for user \"{user}\""));
    }
    let over_tcp = refused(&pgusher.target().user("trusted", "trusted")).await;
    assert!(over_tcp.message().starts_with("no pg_hba.conf entry"), "{over_tcp:?}");
}

#[tokio::test]
async fn an_identity_behind_the_name_does_not_pass_by_a_rule() {
    let postgres = Postgres::shared(18).await;
    let pgusher = ruled(&postgres, &["host all app all reject", "host all all all trust"])
        .identity()
        .text("identity", "from_user_suffix", "on")
        .start()
        .await;

    let refusal = refused(&pgusher.target().user("app.11111111-1111-1111-1111-111111111111", "x")).await;

    assert!(refusal.message().starts_with("pg_hba.conf rejects connection"), "{refusal:?}");
}

/// Whether there is a user of the whole name is not told to who is turned away.
#[tokio::test]
async fn who_is_turned_away_hears_the_name_as_it_was_said() {
    let postgres = Postgres::shared(18).await;
    let pgusher = ruled(&postgres, &["host all nobody all trust"])
        .user("known.name", "x")
        .identity()
        .text("identity", "from_user_suffix", "on")
        .start()
        .await;

    for user in ["known.name", "other.name"] {
        let refusal = refused(&pgusher.target().user(user, "x")).await;

        assert!(refusal.message().contains(&format!("user \"{user}\"")), "{}", refusal.message());
    }
}

#[tokio::test]
async fn replication_has_a_rule_of_its_own() {
    let postgres = Postgres::shared(18).await;
    let pgusher = ruled(&postgres, &["host all all all trust"]).start().await;

    let refusal = refused(&pgusher.target().user("postgres", "x").with("replication", "true")).await;

    assert_eq!(
        refusal.message(),
        "no pg_hba.conf entry for replication connection from host \"127.0.0.1\", user \"postgres\", no encryption"
    );
}

fn ruled(postgres: &Postgres, rules: &[&str]) -> Builder {
    Pgusher::before(postgres).set("listen", "rules", &format!("{rules:?}"))
}

async fn refused(target: &Target) -> Frame {
    Raw::connect(&target.address).await.try_login(target).await.unwrap_err()
}
