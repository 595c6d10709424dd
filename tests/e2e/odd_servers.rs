//! Servers that are not quite PostgreSQL: what they say reaches the client, and breaks nothing.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::harness::{FakeServer, Pgusher, answer, notation, say};

#[tokio::test]
async fn notices_parameters_and_notifications_pass_in_the_middle_of_a_result() {
    let server = FakeServer::answering(say::join([
        answer::notice("before"),
        answer::row_description(&["a"]),
        answer::parameter_status("in_hot_standby", "on"),
        answer::data_row(&[Some(b"1")]),
        answer::notification(1, "news", "hello"),
        answer::data_row(&[None]),
        answer::notice("within"),
        answer::command_complete("SELECT 2"),
        answer::notification(1, "news", ""),
        answer::ready(b'I'),
    ]))
    .await;
    let pgusher = Pgusher::before_address(server.address()).start().await;
    let mut client = pgusher.client().await;

    let heard = notation(&client.query("select a").await);

    assert_eq!(
        heard,
        "N(NOTICE 00000) T S(in_hot_standby=on) D A(news) D N(NOTICE 00000) C(SELECT 2) A(news) Z(I)"
    );
}

#[tokio::test]
async fn a_server_that_gives_no_cancel_key_serves_all_the_same() {
    let server = FakeServer::start(|mut peer| async move {
        if peer.startup().await.is_none() {
            return;
        }
        peer.send([answer::authentication_ok(), answer::parameter_status("server_version", "18.0")]).await;
        peer.send([answer::ready(b'I')]).await;
        while let Some(frame) = peer.read().await {
            if frame.is(b'Q') {
                peer.send([answer::one_value("a", "served")]).await;
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).start().await;
    let mut client = pgusher.client().await;

    assert_eq!(client.value("select a").await, "served");
}

#[tokio::test]
async fn an_error_without_an_sqlstate_passes() {
    let server =
        FakeServer::answering(say::join([answer::error(&[(b'M', "no code")]), answer::ready(b'I')])).await;
    let pgusher = Pgusher::before_address(server.address()).start().await;
    let mut client = pgusher.client().await;

    let heard = client.query("anything").await;

    assert_eq!(notation(&heard), "E() Z(I)");
    assert_eq!(heard[0].message(), "no code");
}

#[tokio::test]
async fn an_answer_cut_anywhere_is_the_same_answer() {
    let whole = say::join([answer::notice("n"), answer::one_value("a", "1")]);
    let length = whole.len();
    let server = FakeServer::start(move |mut peer| {
        let whole: Bytes = whole.clone();
        async move {
            if peer.let_in().await.is_none() {
                return;
            }
            let mut at = 0;
            while let Some(frame) = peer.read().await {
                if frame.is(b'Q') {
                    peer.send_cut(&whole, at % whole.len()).await;
                    at += 1;
                }
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let mut client = pgusher.client().await;

    for at in 0..length {
        assert_eq!(notation(&client.query("a").await), "N(NOTICE 00000) T D C(SELECT 1) Z(I)", "cut at {at}");
    }
}

#[tokio::test]
async fn a_server_that_dies_in_the_middle_of_a_row_ends_that_query_only() {
    let server = FakeServer::start(|mut peer| async move {
        if peer.let_in().await.is_none() {
            return;
        }
        while let Some(frame) = peer.read().await {
            if !frame.is(b'Q') {
                continue;
            }
            if frame.body.starts_with(b"die") {
                let row = answer::data_row(&[Some(&[b'x'; 1000])]);
                peer.send([answer::row_description(&["a"]), row.slice(..500)]).await;
                return;
            }
            peer.send([answer::one_value("a", "served")]).await;
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let (mut victim, mut other) = (pgusher.client().await, pgusher.client().await);

    victim.send([say::query("die")]).await;
    let description = victim.read().await;

    assert_eq!(notation(&[description]), "T");
    assert_eq!(other.value("select a").await, "served");
}

/// PostgreSQL says none between transactions but with its last words; a proxy before it may.
#[tokio::test]
async fn an_error_that_nobody_asked_for_costs_its_server_and_no_client() {
    for is_late in [false, true] {
        let (release, released) = watch::channel(false);
        let (saying, mut said) = watch::channel(false);
        let server = FakeServer::start(move |mut peer| {
            let (mut released, saying) = (released.clone(), saying.clone());
            async move {
                if peer.let_in().await.is_none() {
                    return;
                }
                if peer.number > 0 {
                    while peer.read_until(b'Q').await.is_some() {
                        peer.send([answer::one_value("a", "second")]).await;
                    }
                    return;
                }
                peer.read_until(b'Q').await;
                let unasked = [too_late(), answer::ready(b'I')];
                if is_late {
                    peer.send([answer::one_value("a", "first")]).await;
                    released.wait_for(|it| *it).await.unwrap();
                    peer.send(unasked).await;
                } else {
                    peer.send([answer::one_value("a", "first")].into_iter().chain(unasked)).await;
                }
                saying.send_replace(true);
                peer.until_gone().await;
            }
        })
        .await;
        let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
        let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);

        assert_eq!(one.value("select a").await, "first");
        release.send_replace(true);
        said.wait_for(|it| *it).await.unwrap();

        assert_eq!(other.value("select a").await, "second", "late: {is_late}");
        assert_eq!(one.value("select a").await, "second", "late: {is_late}");
    }
}

/// An error that was said unasked is taken for the answer of what was sent meanwhile; the answer itself must be nobody's.
#[tokio::test]
async fn an_answer_too_many_reaches_nobody() {
    let server = FakeServer::start(|mut peer| async move {
        if peer.let_in().await.is_none() {
            return;
        }
        peer.hear_checks();
        let is_first = peer.number == 0;
        let mut owed = None;
        while let Some(frame) = peer.read().await {
            match frame.tag {
                b'Q' if is_first && owed.is_none() => {
                    owed = Some(answer::one_value("a", "late"));
                    peer.send([too_late(), answer::ready(b'I')]).await;
                }
                b'Q' if is_first => peer.send(owed.clone()).await,
                b'Q' => peer.send([answer::one_value("a", "served")]).await,
                b'S' => peer.send(owed.clone().into_iter().chain([answer::ready(b'I')])).await,
                _ => {}
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);

    assert_eq!(notation(&one.query("select a").await), "E(57014) Z(I)");

    assert_eq!(other.value("select a").await, "served");
    assert_eq!(one.value("select a").await, "served");
}

/// PostgreSQL raises a timeout that runs out behind a statement's last look for interrupts with the next message it reads.
#[tokio::test]
async fn a_timeout_that_runs_out_as_a_statement_ends_is_no_other_client_s_error() {
    let server = FakeServer::start(|mut peer| async move {
        if peer.let_in().await.is_none() {
            return;
        }
        peer.hear_checks();
        let mut is_pending = false;
        while let Some(frame) = peer.read().await {
            let is_late = std::mem::take(&mut is_pending);
            match frame.tag {
                b'Q' | b'S' if is_late => peer.send([too_late(), answer::ready(b'I')]).await,
                b'S' => peer.send([answer::ready(b'I')]).await,
                b'Q' if frame.body.starts_with(b"slow") => {
                    tokio::time::sleep(Duration::from_millis(120)).await; // what the statement takes
                    is_pending = true;
                    peer.send([answer::one_value("a", "slow")]).await;
                }
                b'Q' => peer.send([answer::one_value("a", "served")]).await,
                _ => {}
            }
        }
    })
    .await;
    let pgusher = Pgusher::before_address(server.address()).pool_size(1).start().await;
    let (mut one, mut other) = (pgusher.client().await, pgusher.client().await);

    assert_eq!(one.value("slow").await, "slow");

    assert_eq!(other.value("select a").await, "served");
    assert_eq!(server.connections(), 1);
}

fn too_late() -> Bytes {
    answer::error_of("ERROR", "57014", "canceling statement due to statement timeout")
}
