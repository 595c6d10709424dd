//! Passwords for the server that change while pgusher runs: from files, and from programs.

use std::fs;
use std::path::PathBuf;

use crate::harness::http;
use crate::harness::pgusher::Builder;
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, secrets};
use crate::on_every_major;

/// A role whose password is known to the server, and to a file.
struct Role<'a> {
    postgres: &'a Postgres,
    name: String,
    directory: tempfile::TempDir,
}

impl<'a> Role<'a> {
    async fn new(postgres: &'a Postgres, password: &str) -> Self {
        let name = format!("role_{}", postgres.database());
        postgres.sql(&format!("create role {name} login")).await;
        let role = Self { postgres, name, directory: tempfile::tempdir().unwrap() };
        role.alter(password).await;
        role.write(password);
        role
    }

    /// The server knows another password.
    async fn alter(&self, password: &str) {
        secrets::note(password);
        self.postgres.sql(&format!("alter role {} password '{password}'", self.name)).await;
    }

    /// The file has another password.
    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    /// A pooler that logs in as this role, and is told where the password is.
    fn pooler(&self, key: &str, toml: &str) -> Builder {
        Pgusher::before(self.postgres)
            .pool_size(10)
            .of_database("user", &format!("{:?}", self.name))
            .of_database(key, toml)
    }

    fn with_file(&self) -> Builder {
        self.pooler("password_file", &format!("{:?}", self.file().display().to_string()))
    }

    /// With a program that counts its runs.
    fn with_command(&self, script: &str) -> Builder {
        self.pooler("password_command", &self.command(script))
    }

    fn command(&self, script: &str) -> String {
        format!(
            "{:?}",
            ["/bin/sh", "-c", &format!("cd {} && echo >> runs && {script}", self.directory.path().display())]
        )
    }

    fn runs(&self) -> usize {
        fs::read(self.directory.path().join("runs")).unwrap_or_default().len()
    }
}

/// A transaction of a client that is new, on a server that is new.
async fn served(pgusher: &Pgusher) -> Option<Raw> {
    let mut client = pgusher.client().await;
    let answer = client.query("begin").await;
    answer.iter().all(|frame| !frame.is(b'E')).then_some(client)
}

on_every_major! {
    async fn a_changed_password_is_had_anew_and_running_sessions_are_left_alone(postgres: Postgres) {
        let role = Role::new(&postgres, "The-1st-password").await;
        for builder in [role.with_file(), role.with_command("cat password")] {
            let pgusher = builder.start().await;
            let mut early = served(&pgusher).await.unwrap();

            role.alter("The-2nd-password").await;
            // As long as the first, and as old: only the server tells.
            let modified = fs::metadata(role.file()).unwrap().modified().unwrap();
            role.write("The-2nd-password");
            fs::File::options().write(true).open(role.file()).unwrap().set_modified(modified).unwrap();

            let mut late = eventually("the new password is used", PATIENCE, async || served(&pgusher).await).await;
            assert_eq!(late.value("select current_user").await, role.name);
            assert_eq!(early.value("select 'still here'").await, "still here");
            assert_ne!(early.server_pid().await, late.server_pid().await);
            role.alter("The-1st-password").await;
            role.write("The-1st-password");
        }
    }
}

#[tokio::test]
async fn a_file_that_changes_is_read_before_the_server_has_to_say_so() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role.with_file().start().await;
    let _early = served(&pgusher).await.unwrap();

    role.alter("The-second-password").await;
    role.write("The-second-password\n");

    assert!(served(&pgusher).await.is_some());
    assert!(!pgusher.log().contains("authentication failed"), "{}", pgusher.log());
}

#[tokio::test]
async fn a_command_runs_once_for_all_who_come_at_once() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role.with_command("sleep 0.3; echo $(cat password); echo and a second line").start().await;

    let clients = (0..50).map(|_| {
        let target = pgusher.target();
        tokio::spawn(async move { Raw::login(&target).await.value("select current_user").await })
    });

    for client in clients.collect::<Vec<_>>() {
        assert_eq!(client.await.unwrap(), role.name);
    }
    assert_eq!(role.runs(), 1);
}

#[tokio::test]
async fn a_refused_password_is_had_anew_once_for_all_and_not_all_the_time() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role.with_command("cat password").start().await;
    let mut early = served(&pgusher).await.unwrap();
    role.alter("The-2nd-password").await;

    let began = std::time::Instant::now();
    for _ in 0..3 {
        let clients: Vec<_> = (0..20)
            .map(|_| {
                let target = pgusher.target();
                tokio::spawn(async move { Raw::login(&target).await.query("select 1").await })
            })
            .collect();
        for client in clients {
            let answer = client.await.unwrap();
            assert_eq!(answer[0].sqlstate(), "28P01", "{answer:?}");
        }
    }

    let most = 2 + began.elapsed().as_secs() as usize;
    assert!(role.runs() <= most, "{} runs in {:?}", role.runs(), began.elapsed());
    role.write("The-2nd-password");
    eventually("the new password is used", PATIENCE, async || served(&pgusher).await).await;
    assert_eq!(early.value("select 'still here'").await, "still here");
}

#[tokio::test]
async fn a_command_of_no_use_is_an_error_that_says_why_and_nothing_of_what_it_printed() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let script = role.directory.path().join("script");
    let pgusher = role
        .with_command(". ./script")
        .of_database("password_timeout", "\"500ms\"")
        .env("PGUSHER_LOG", "trace")
        .metrics()
        .start()
        .await;

    for (text, said) in [
        ("cat password; sleep 600", "it was not done within password_timeout (500ms)"),
        ("cat password; cat password >&2; exit 7", "it exited with 7"),
        ("", "what it printed is no password: the first line is empty"),
        ("yes $(cat password)", "it printed more than 65535 bytes"),
        ("no-such-program", "it exited with 127"),
    ] {
        fs::write(&script, text).unwrap();
        let refusal = eventually(said, PATIENCE, async || {
            let target = pgusher.target();
            let refusal = Raw::connect(&target.address).await.try_login(&target).await.unwrap_err();
            Some(refusal).filter(|refusal| refusal.message().contains(said))
        })
        .await;

        assert_eq!((refusal.severity(), refusal.sqlstate()), ("FATAL".into(), "58000".into()), "{text}");
        assert!(refusal.message().contains("password_command"), "{}", refusal.message());
        assert!(pgusher.log().contains("password_command failed"), "{}", pgusher.log());
    }
    let page = http::get(pgusher.metrics(), "/metrics").await.body;
    let mut connects = page.lines().filter(|line| line.starts_with("pgusher_server_connects_total{"));
    let failed = connects.find(|line| line.contains("result=\"failed\"")).unwrap();
    assert!(!failed.ends_with(" 0"), "{failed}");
    fs::write(&script, "echo $(cat password); echo; echo The-1st-password").unwrap();
    eventually("it is of use again", PATIENCE, async || {
        let target = pgusher.target();
        Raw::connect(&target.address).await.try_login(&target).await.ok()
    })
    .await;
}

#[tokio::test]
async fn the_password_that_holds_is_used_while_the_command_fails() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role
        .with_command("test $(wc -l < runs) = 1 && cat password")
        .of_database("password_ttl", "\"off\"")
        .start()
        .await;
    let mut early = served(&pgusher).await.unwrap();

    role.alter("The-2nd-password").await;
    eventually("it is run again, and fails", PATIENCE, async || {
        let answer = pgusher.client().await.query("select 1").await;
        assert_eq!(answer[0].sqlstate(), "28P01", "{answer:?}");
        pgusher.log().contains("password_command failed").then_some(())
    })
    .await;
    role.alter("The-1st-password").await;

    assert!(served(&pgusher).await.is_some());
    assert_eq!(early.value("select 'still here'").await, "still here");
}

#[tokio::test]
async fn a_command_is_run_again_before_its_password_is_too_old() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role
        .with_command("cat password")
        .of_database("password_ttl", "\"200ms\"")
        .of_database("max_uses", "1")
        .start()
        .await;
    let mut client = pgusher.client().await;

    eventually("it has been run several times", PATIENCE, async || {
        assert_eq!(client.value("select current_user").await, role.name);
        (role.runs() > 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_variables_of_pgusher_are_not_the_commands() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    let pgusher = role
        .with_command("test -z \"$PGUSHER_USERS_ELSE_PASSWORD$(env | grep ^PGUSHER_)\" && test \"$AGENT\" = here && cat password")
        .env("PGUSHER_USERS_ELSE_PASSWORD", "Nobody-elses-1")
        .env("AGENT", "here")
        .start()
        .await;

    assert!(served(&pgusher).await.is_some(), "{}", pgusher.log());
}

#[tokio::test]
async fn the_role_that_asks_has_a_command_too() {
    let postgres = Postgres::shared(18).await;
    let role = Role::new(&postgres, "The-1st-password").await;
    postgres.sql(&format!("grant select on pg_catalog.pg_shadow to {}", role.name)).await;
    let pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "scram-sha-256")
        .unset("users.\"app\"", "password")
        .of_database("auth_user", &format!("{:?}", role.name))
        .of_database("auth_password_command", &role.command("cat password"))
        .of_database("auth_ttl", "\"1ms\"")
        .of_database("auth_negative_ttl", "\"1ms\"")
        .start()
        .await;
    Raw::login(&pgusher.target()).await;

    role.alter("The-2nd-password").await;
    role.write("The-2nd-password");
    postgres
        .sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgusher auth_query' and datname = current_database()")
        .await;

    eventually("it asks with the new password", PATIENCE, async || {
        let target = pgusher.target();
        Raw::connect(&target.address).await.try_login(&target).await.ok()
    })
    .await;
}
