//! Where clients come in, with how many threads, and what is said when it cannot be.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use crate::harness::raw::Address;
use crate::harness::{Pgusher, Postgres, Raw, Target};
use crate::on_every_major;

on_every_major! {
    async fn a_unix_socket_lets_clients_in_and_a_stale_one_is_replaced(postgres: Postgres) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display().to_string();
        let builder = || {
            Pgusher::before(&postgres)
                .text("listen", "unix_socket_dir", &path)
                .text("listen", "unix_socket_mode", "0700")
        };
        let mut first = builder().start().await;
        let socket = directory.path().join(format!(".s.PGSQL.{}", first.port()));
        let target = Target { address: Address::Unix(socket.clone()), ..first.target() };

        let mut client = Raw::login(&target).await;

        assert_eq!(client.value("select current_user").await, "app");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o700);
        client.terminate().await;
        first.terminate();
        first.end().await;
        assert!(!socket.exists(), "left behind");

        let mut second = builder().launch();
        let socket = directory.path().join(format!(".s.PGSQL.{}", second.port()));
        second.signal(rustix::process::Signal::KILL);
        second.end().await;
        drop(UnixListener::bind(&socket)); // what a killed process leaves
        assert!(socket.exists());
    }

    async fn two_threads_serve_as_one_does(postgres: Postgres) {
        let pgusher = Pgusher::before(&postgres).pool_size(3).set("listen", "workers", "2").start().await;

        let clients: Vec<_> = (0..20)
            .map(|number| {
                let target = pgusher.target();
                tokio::spawn(async move {
                    let mut client = Raw::login(&target).await;
                    for round in 0..20 {
                        let mark = format!("{number}-{round}");
                        assert_eq!(client.value(&format!("select '{mark}'")).await, mark);
                    }
                })
            })
            .collect();

        for client in clients {
            client.await.unwrap();
        }
        assert!(postgres.servers_of("app").await <= 3);
    }
}

#[tokio::test]
async fn every_mistake_of_a_configuration_is_listed_at_once() {
    let postgres = Postgres::shared(18).await;
    let mut pgusher = Pgusher::before(&postgres)
        .text("listen", "auth", "guessing")
        .text("pool", "acquire_timeout", "soon")
        .set("pool", "sise", "3")
        .launch();

    let status = pgusher.end().await;

    assert_eq!(status.code(), Some(64));
    let said = pgusher.log();
    for mistake in ["guessing", "soon", "sise"] {
        assert!(said.contains(mistake), "{mistake} is not in: {said}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_said_and_is_the_end() {
    let postgres = Postgres::shared(18).await;
    let first = Pgusher::before(&postgres).start().await;
    let address = first.address().to_string();

    let mut second = Pgusher::before(&postgres).arg("--listen").arg(&address).launch();
    let status = second.end().await;

    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains(&address) && second.log().contains("another process"), "{}", second.log());
}
