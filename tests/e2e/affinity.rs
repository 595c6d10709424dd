//! A client gets the server it had last while that is idle, so that it need not be cleaned; whom others get.

use std::time::{Duration, Instant};

use crate::harness::pgusher::Builder;
use crate::harness::{PATIENCE, Pgusher, Postgres, Raw, eventually, http};

/// A function that leaves a mark on its server, and shows it in no text; and one that reads it.
const MARKS: &str = "
    create function mark(what text) returns text language sql as $$ select set_config('my.mark', what, false) $$;
    create function marked() returns text language sql as $$ select coalesce(current_setting('my.mark', true), '') $$;
    create function intrude(who text) returns text language sql as
        $$ select set_config('app.current_user_id', who, false) $$";

/// How long a server awaits its client.
const AWAITED: Duration = Duration::from_secs(1);

async fn pooler(postgres: &Postgres, size: usize) -> Builder {
    postgres.sql(MARKS).await;
    Pgusher::before(postgres).pool_size(size).set("pool", "min", "0").set("pool", "canary", "\"off\"")
}

/// Clients, each with a server that was opened for it, and which.
async fn each_with_a_server(pgusher: &Pgusher, count: usize) -> (Vec<Raw>, Vec<String>) {
    let (mut clients, mut pids) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut client = pgusher.client().await;
        client.rows("begin").await;
        pids.push(client.server_pid().await);
        clients.push(client);
    }
    for client in &mut clients {
        client.rows("commit").await;
    }
    (clients, pids)
}

/// What a scenario came to that no server was too impatient for: on a busy machine one may be.
async fn soon<T>(mut scenario: impl AsyncFnMut() -> T) -> T {
    eventually("all of it within a second", PATIENCE, async || {
        let began = Instant::now();
        let outcome = scenario().await;
        (began.elapsed() < AWAITED).then_some(outcome)
    })
    .await
}

async fn affinity_hits(pgusher: &Pgusher) -> u64 {
    let page = http::get(pgusher.metrics(), "/metrics").await.body;
    let line = page.lines().find(|line| line.starts_with("pgusher_server_affinity_hits_total{"));
    line.map_or(0, |line| line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a count"))
}

#[tokio::test]
async fn clients_that_are_no_more_than_servers_keep_each_its_own_and_find_it_as_they_left_it() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 5).await.metrics().start().await;

    let (found, expected, hits) = soon(async || {
        let (mut clients, pids) = each_with_a_server(&pgusher, 4).await;
        let before = affinity_hits(&pgusher).await; // a login may have tried its settings
        for (client, pid) in clients.iter_mut().zip(&pids) {
            client.value(&format!("select mark('{pid}')")).await;
        }
        let mut found = Vec::new();
        for at in [0, 1, 2, 3, 3, 2, 1, 0, 2, 0, 3, 1] {
            let client = &mut clients[at];
            found.push((pids[at].clone(), client.server_pid().await, client.value("select marked()").await));
        }
        let expected: Vec<_> =
            found.iter().map(|(pid, ..)| (pid.clone(), pid.clone(), pid.clone())).collect();
        (found, expected, affinity_hits(&pgusher).await - before)
    })
    .await;

    assert_eq!(found, expected);
    assert_eq!(hits, 4 + 2 * 12);
}

#[tokio::test]
async fn a_pool_of_one_is_cleaned_whenever_its_client_is_another() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 1).await.metrics().start().await;
    let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);
    a.value("select mark('a')").await;
    let before = affinity_hits(&pgusher).await;

    assert_eq!(a.value("select marked()").await, "a");
    let of_b = b.value("select marked()").await;
    let of_a = a.value("select marked()").await;

    assert_eq!([of_b, of_a], ["", ""]);
    assert_eq!(affinity_hits(&pgusher).await - before, 1);
}

#[tokio::test]
async fn its_own_server_is_told_the_identity_all_the_same() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 2).await.identity().text("identity", "pattern", "any").start().await;
    const WHO: &str = "select current_setting('app.current_user_id') || ' ' || marked()";

    let found = soon(async || {
        let mut clients = [pgusher.client_for("anna").await, pgusher.client_for("bert").await];
        for client in &mut clients {
            client.rows("begin").await;
        }
        for client in &mut clients {
            client.rows("commit").await;
        }
        let mut found = Vec::new();
        for at in [0, 1, 0] {
            let client = &mut clients[at];
            client.value("select mark('mine')").await;
            client.value("select intrude('eve')").await;
            found.push(client.value(WHO).await);
        }
        found
    })
    .await;

    assert_eq!(found, ["anna mine", "bert mine", "anna mine"]);
}

#[tokio::test]
async fn one_whose_server_is_gone_gets_another_and_the_others_keep_theirs() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 3).await.start().await;

    let (pids, after) = soon(async || {
        let (mut clients, pids) = each_with_a_server(&pgusher, 3).await;
        let gone = &pids[1];
        postgres.sql(&format!("select pg_terminate_backend({gone})")).await;
        postgres.until(&format!("select count(*) from pg_stat_activity where pid = {gone}"), "0").await;
        let mut after = Vec::new();
        for at in [0, 2, 1, 0, 2] {
            after.push(clients[at].server_pid().await);
        }
        (pids, after)
    })
    .await;

    assert_ne!(after[2], pids[1]);
    assert_eq!([&after[0], &after[1], &after[3]], [&pids[0], &pids[2], &pids[0]]);
}

#[tokio::test]
async fn a_server_that_has_been_used_enough_is_not_kept_for_its_client() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 2).await.set("pool", "max_uses", "3").start().await;
    let (mut a, mut b) = (pgusher.client().await, pgusher.client().await);

    let mut pids = Vec::new();
    for _ in 0..6 {
        pids.push(a.server_pid().await);
        pids.push(b.server_pid().await);
    }

    let mut known = pids.clone();
    known.sort();
    known.dedup();
    assert!(known.len() >= 4, "{pids:?}");
    assert!(known.iter().all(|pid| pids.iter().filter(|it| *it == pid).count() <= 3), "{pids:?}");
}

#[tokio::test]
async fn a_newcomer_gets_the_server_of_who_has_left_and_finds_it_clean() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 3).await.start().await;

    let (pids, after) = soon(async || {
        let (mut clients, pids) = each_with_a_server(&pgusher, 3).await;
        clients[1].value("select mark('left')").await;
        clients.remove(1).terminate().await;
        clients.push(pgusher.client().await);
        let mut after = Vec::new();
        for at in [2, 0, 1] {
            after.push(clients[at].value("select pg_backend_pid() || marked()").await);
        }
        (pids, after)
    })
    .await;

    assert_eq!(after, [&pids[1], &pids[0], &pids[2]].map(String::as_str));
}

#[tokio::test]
async fn servers_that_clients_have_left_idle_out_although_others_come_and_go() {
    let postgres = Postgres::shared(18).await;
    let pgusher = pooler(&postgres, 4).await.text("pool", "idle_timeout", "300ms").start().await;
    drop(each_with_a_server(&pgusher, 4).await);
    postgres.until_servers_of("app", 4).await;

    eventually("one is left", PATIENCE, async || {
        let mut client = pgusher.client().await;
        client.rows("select 1").await;
        client.terminate().await;
        (postgres.servers_of("app").await == 1).then_some(())
    })
    .await;
}
