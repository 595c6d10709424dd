//! Somebody in between, with a certificate of their own and a key that belongs to it.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::{Authority, Wanted, anyone, offering, outcome};
use crate::harness::fake_server::{FakeClient, Greeting};
use crate::harness::raw::{Address, take_frame};
use crate::harness::{Ca, FakeServer, Issued, Pgusher, Postgres, Raw, answer, say};

/// What is done to what passes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meddling {
    /// Nothing: it is read only.
    Listening,
    /// The offer of channel binding is taken out.
    Downgrading,
}

/// In front of `server`, in TLS on both sides.
async fn interceptor(server: SocketAddr, issued: &Issued, meddling: Meddling) -> FakeServer {
    let config = std::sync::Arc::new(issued.server_config());
    FakeServer::start(move |mut client: FakeClient| {
        let config = config.clone();
        async move {
            let Some(Greeting::Encrypt(_)) = client.greeting().await else { return };
            if client.encrypt(&config).await.is_err() {
                return;
            }
            let mut behind = TcpStream::connect(server).await.expect("what it is in front of");
            behind.write_all(&say::ssl_request()).await.expect("a listener");
            assert_eq!(behind.read_u8().await.ok(), Some(b'S'));
            let mut behind = anyone().connect(behind).await.expect("TLS");
            let mut before = client.into_io();
            if meddling == Meddling::Downgrading {
                let mut startup = BytesMut::new();
                let _ = before.read_buf(&mut startup).await;
                behind.write_all(&startup).await.expect("somebody who listens");
                behind.flush().await.expect("somebody who listens");
                let mut said = BytesMut::new();
                let offer = loop {
                    behind.read_buf(&mut said).await.expect("an offer");
                    // Servers before 18 negotiate the version first; that passes.
                    if said.first() == Some(&b'v') {
                        let length = said.len().min(13);
                        before.write_all(&said.split_to(length)).await.expect("a client");
                    }
                    if let Some(offer) = take_frame(&mut said) {
                        break offer;
                    }
                };
                assert!(offer.body.ends_with(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), "{offer:?}");
                before.write_all(&answer::authentication(10, b"SCRAM-SHA-256\0\0")).await.expect("a client");
                before.flush().await.expect("a client");
            }
            let _ = copy_bidirectional(&mut before, &mut behind).await;
        }
    })
    .await
}

/// The harness binds to the certificate it was shown, which is not ours.
#[tokio::test]
async fn a_client_behind_an_interceptor_is_refused() {
    let postgres = Postgres::shared(18).await;
    let authority = Authority::new();
    let other = authority.issue(Wanted::loopback(), "other");
    let pgusher =
        offering(&postgres, &authority, "require").text("listen", "auth", "scram-sha-256").start().await;
    let mut target = pgusher.target().in_tls(authority.ca.client());
    assert_eq!(Raw::login(&target).await.value("select current_user").await, "app");

    for (meddling, said) in [
        (Meddling::Listening, "channel binding check failed"),
        (Meddling::Downgrading, "channel binding was offered, and the client was told it was not"),
    ] {
        let between = interceptor(pgusher.address(), &other, meddling).await;
        target.address = Address::Tcp(between.address());
        let refusal = Raw::reach(&target).await.unwrap().try_login(&target).await.unwrap_err();

        assert_eq!(refusal.sqlstate(), "28000", "{refusal:?}");
        assert!(refusal.message().contains(said), "{said}: {refusal:?}");
    }
}

/// Encrypted without being verified: what SCRAM is bound to tells.
#[tokio::test]
async fn a_server_behind_an_interceptor_refuses_us_and_we_it() {
    let directory = tempfile::tempdir().unwrap();
    let strange = Ca::new("a strange CA").issue(Wanted::loopback(), directory.path(), "strange");
    for major in [14, 18] {
        let postgres = Postgres::shared(major).await;
        for (policy, meddling, is_in) in [
            ("prefer", Meddling::Listening, false),
            ("prefer", Meddling::Downgrading, false),
            ("require", Meddling::Listening, false),
            ("require", Meddling::Downgrading, false),
            // Who asks for nothing gets nothing.
            ("disable", Meddling::Listening, true),
        ] {
            let between = interceptor(postgres.address(), &strange, meddling).await;
            let pgusher = Pgusher::before(&postgres)
                .via(between.address())
                .sslmode("require")
                .text("tls.server", "channel_binding", policy)
                .pool_size(1)
                .start()
                .await;

            let came = outcome(&pgusher.target()).await;

            assert_eq!(came.is_ok(), is_in, "{policy}: {came:?}");
            if let Err(refused) = came {
                assert!(
                    refused.contains("channel binding") || refused.contains("channel_binding"),
                    "{refused}"
                );
            }
        }
        let between = interceptor(postgres.address(), &strange, Meddling::Listening).await;
        let pgusher = Pgusher::before(&postgres)
            .via(between.address())
            .sslmode("verify-full")
            .text("tls.server", "sslrootcert", &postgres.ca().file(directory.path()).display().to_string())
            .start()
            .await;
        let refused = outcome(&pgusher.target()).await.unwrap_err();
        assert!(refused.contains("not signed by a CA that is believed"), "{refused}");
    }
}
