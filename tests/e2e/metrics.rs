//! Metrics and health, as Prometheus and a kubelet ask for them, and as nobody should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::http::{self, Answer, converse};
use crate::harness::port::Port;
use crate::harness::tls::{Tls, Wanted};
use crate::harness::{Ca, DelayProxy, PATIENCE, Pgusher, Postgres, Raw, eventually, notation, say};

async fn get(pgusher: &Pgusher, path: &str) -> Answer {
    http::get(pgusher.metrics(), path).await
}

/// The numbers, by series as it is written.
async fn scrape(pgusher: &Pgusher) -> BTreeMap<String, f64> {
    let answer = get(pgusher, "/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.header);
    let series = answer.body.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    series
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// A number of the pool of the test's database and `app`.
fn of_pool(numbers: &BTreeMap<String, f64>, postgres: &Postgres, name: &str, more: &str) -> f64 {
    let series = format!("pgusher_{name}{{database=\"{}\",user=\"app\"{more}}}", postgres.database());
    *numbers.get(&series).unwrap_or_else(|| panic!("no {series} in {:#?}", numbers.keys()))
}

#[tokio::test]
async fn every_metric_of_the_catalogue_is_served_and_no_other() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).metrics().start().await;
    pgusher.client().await.rows("select 1").await;

    let page = get(&pgusher, "/metrics").await;

    let served: Vec<_> = page.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let catalogue: Vec<_> = pgusher::telemetry::metrics::CATALOGUE
        .iter()
        .map(|metric| format!("{} {}", metric.name, metric.kind.word()))
        .collect();
    assert_eq!(served, catalogue);
    assert!(page.header.contains("text/plain; version=0.0.4"), "{}", page.header);
}

#[tokio::test]
async fn a_saturated_pool_shows_who_has_servers_and_who_waits() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).pool_size(2).metrics().start().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(pgusher.client().await);
    }
    let gate = postgres.gate().await;
    for client in &mut clients {
        client.send([say::query("select count(*) from gate")]).await;
    }
    postgres.until_at_gate(2).await;
    let began = Instant::now();

    let during = eventually("three wait", PATIENCE, async || {
        let numbers = scrape(&pgusher).await;
        let is_full = of_pool(&numbers, &postgres, "pool_waiting_clients", "") == 3.0;
        let is_old = of_pool(&numbers, &postgres, "pool_oldest_wait_seconds", "") > 0.5;
        (is_full && is_old).then_some(numbers)
    })
    .await;
    let held = began.elapsed().as_secs_f64();
    gate.open().await;
    for client in &mut clients {
        client.read_until_ready().await;
    }
    let after = scrape(&pgusher).await;

    let of = |numbers, name, more| of_pool(numbers, &postgres, name, more);
    assert_eq!(of(&during, "pool_size", ""), 2.0);
    assert_eq!(of(&during, "pool_servers", ",state=\"active\""), 2.0);
    assert_eq!(of(&during, "pool_utilization_ratio", ""), 1.0);
    assert_eq!(of(&during, "clients", ",state=\"active\""), 2.0);
    assert_eq!(of(&during, "clients", ",state=\"waiting\""), 3.0);
    assert!((0.5..10.0).contains(&of(&during, "pool_oldest_wait_seconds", "")));
    assert_eq!(of(&after, "pool_waiting_clients", ""), 0.0);
    assert_eq!(of(&after, "pool_oldest_wait_seconds", ""), 0.0);
    assert_eq!(of(&after, "pool_servers", ",state=\"idle\""), 2.0);
    assert_eq!(of(&after, "clients", ",state=\"idle\""), 5.0);
    let exhausted = of(&after, "pool_exhausted_seconds_total", "");
    assert!((0.5..held + 10.0).contains(&exhausted), "{exhausted}");
    assert_eq!(of(&after, "pool_wait_seconds_count", ",outcome=\"served\""), 6.0, "and one to log in");
    assert_eq!(of(&after, "transaction_seconds_count", ""), 5.0);
    assert!(of(&after, "transaction_seconds_sum", "") >= 2.0 * held);
    assert_eq!(of(&after, "server_connects_total", ",result=\"ok\""), 2.0);
}

#[tokio::test]
async fn a_burst_between_two_scrapes_is_not_missed() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .set("admin", "users", "[\"postgres\"]")
        .pool_size(3)
        .metrics()
        .start()
        .await;
    let mut console = Raw::login(&pgusher.target().user("postgres", "postgres").database("pgusher")).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(pgusher.client().await);
    }
    for _ in ["servers are opened", "they are there"] {
        scrape(&pgusher).await;
        scrape(&pgusher).await;
        let gate = postgres.gate().await;
        for client in &mut clients {
            client.send([say::query("select count(*) from gate")]).await;
        }
        postgres.until_at_gate(3).await;
        // Asked of the console: it is not one that scrapes.
        eventually("two wait", PATIENCE, async || {
            let pools = console.rows("SHOW POOLS").await;
            pools.iter().any(|pool| pool[3].as_deref() == Some("2")).then_some(())
        })
        .await;
        gate.open().await;
        for client in &mut clients {
            client.read_until_ready().await;
        }
    }

    let mut seen = Vec::new();
    for _ in 0..3 {
        let numbers = scrape(&pgusher).await;
        seen.push(
            ["pool_waiting_clients_peak", "pool_servers_in_use_peak"]
                .map(|name| of_pool(&numbers, &postgres, name, "")),
        );
    }

    assert_eq!(seen, [[2.0, 3.0], [2.0, 3.0], [0.0, 0.0]], "both of two scrapers see it, then it is over");
}

#[tokio::test]
async fn those_who_get_no_server_are_counted_by_why() {
    let postgres = Postgres::shared(17).await;
    let mut pgusher =
        Pgusher::before(&postgres).pool_size(1).set("pool", "max_waiting", "1").metrics().start().await;
    let (mut holder, mut late, mut refused) =
        (pgusher.client().await, pgusher.client().await, pgusher.client().await);
    holder.rows("begin").await;
    // Only now: on a busy machine it takes longer than that to log in to a server.
    pgusher.reloaded(|it| it.text("pool", "acquire_timeout", "500ms")).await;

    late.send([say::query("select 1")]).await;
    eventually("one waits", PATIENCE, async || {
        (of_pool(&scrape(&pgusher).await, &postgres, "pool_waiting_clients", "") == 1.0).then_some(())
    })
    .await;
    let at_once = notation(&refused.query("select 1").await);
    let too_late = notation(&late.read_until_ready().await);
    let numbers = scrape(&pgusher).await;

    assert_eq!((at_once.as_str(), too_late.as_str()), ("E(53300) Z(I)", "E(53300) Z(I)"));
    let of = |name, more| of_pool(&numbers, &postgres, name, more);
    assert_eq!(of("pool_wait_timeouts_total", ""), 1.0);
    assert_eq!(of("pool_rejections_total", ",reason=\"queue_full\""), 1.0);
    assert_eq!(of("pool_wait_seconds_count", ",outcome=\"timed_out\""), 1.0);
}

#[tokio::test]
async fn a_database_that_is_away_is_not_a_pool_that_is_full() {
    let postgres = Postgres::shared(17).await;
    let nobody = Port::reserve();
    let pgusher = Pgusher::before(&postgres)
        .database("away", nobody.address())
        .text("pool", "acquire_timeout", "500ms")
        .metrics()
        .start()
        .await;

    let away = pgusher.target().database("away");
    let refused = Raw::connect(&away.address).await.try_login(&away).await;
    let numbers = eventually("the attempt has failed", PATIENCE, async || {
        let numbers = scrape(&pgusher).await;
        let timed_out = numbers.get("pgusher_pool_wait_timeouts_total{database=\"away\",user=\"app\"}");
        (timed_out == Some(&1.0)).then_some(numbers)
    })
    .await;
    let (ready, alive) = (get(&pgusher, "/readyz").await, get(&pgusher, "/livez").await);

    assert!(refused.is_err());
    let of = |name: &str| numbers[&format!("pgusher_{name}")];
    assert_eq!(of("pool_exhausted_seconds_total{database=\"away\",user=\"app\"}"), 0.0);
    assert!(of("server_connects_total{database=\"away\",user=\"app\",result=\"unreachable\"}") >= 1.0);
    assert_eq!((ready.status, alive.status), (200, 200), "the pod stays");
}

#[tokio::test]
async fn logins_and_farewells_are_counted_by_how_they_went() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).text("listen", "auth", "scram-sha-256").metrics().start().await;
    pgusher.client().await.terminate().await;
    drop(pgusher.client().await);
    let wrong = pgusher.target().user("app", "wrong");
    let refused = Raw::connect(&wrong.address).await.try_login(&wrong).await;

    let numbers = eventually("all are gone", PATIENCE, async || {
        let numbers = scrape(&pgusher).await;
        let gone = |reason| numbers[&format!("pgusher_client_disconnects_total{{reason=\"{reason}\"}}")];
        (gone("client_left") == 1.0 && gone("client_gone") == 1.0).then_some(numbers)
    })
    .await;

    assert!(refused.is_err());
    assert_eq!(numbers["pgusher_client_logins_total{result=\"ok\"}"], 2.0);
    assert_eq!(numbers["pgusher_client_logins_total{result=\"auth_failed\"}"], 1.0);
    assert_eq!(numbers["pgusher_client_login_seconds_count"], 2.0);
}

#[tokio::test]
async fn openmetrics_is_served_to_those_who_ask_for_it() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).metrics().start().await;
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    let page = converse(
        pgusher.metrics(),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n").as_bytes(),
    )
    .await;

    assert!(page.header.contains("application/openmetrics-text; version=1.0.0"), "{}", page.header);
    assert!(page.body.ends_with("# EOF\n"), "{}", page.body);
    assert!(page.body.contains("# TYPE pgusher_client_logins counter\n"), "{}", page.body);
}

#[tokio::test]
async fn the_names_of_pgbouncers_exporter_are_served_on_demand() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .set("pool", "min", "0")
        .text("metrics", "compat", "pgbouncer")
        .metrics()
        .start()
        .await;
    let mut client = pgusher.client().await;
    client.value("select 1").await;
    client.rows("begin").await;

    let numbers = scrape(&pgusher).await;

    let own = postgres.database();
    let address = postgres.address();
    let of_database = format!(
        "{{name=\"{own}\",host=\"127.0.0.1\",port=\"{}\",database=\"{own}\",force_user=\"\",pool_mode=\"transaction\"}}",
        address.port()
    );
    let expected = [
        ("pgbouncer_up".to_owned(), 1.0),
        (format!("pgbouncer_pools_client_active_connections{{database=\"{own}\",user=\"app\"}}"), 1.0),
        (format!("pgbouncer_pools_server_active_connections{{database=\"{own}\",user=\"app\"}}"), 1.0),
        (format!("pgbouncer_pools_client_waiting_connections{{database=\"{own}\",user=\"app\"}}"), 0.0),
        (format!("pgbouncer_databases_pool_size{of_database}"), 20.0),
        (format!("pgbouncer_databases_current_connections{of_database}"), 1.0),
        (format!("pgbouncer_stats_totals_sql_transactions_pooled_total{{database=\"{own}\"}}"), 1.0),
    ];
    for (series, value) in expected {
        assert_eq!(numbers.get(&series), Some(&value), "{series} in {:#?}", numbers.keys());
    }
    assert!(numbers.contains_key("pgusher_draining"), "besides our own");
}

#[tokio::test]
async fn what_is_paused_and_disabled_is_so_under_pgbouncers_names_too() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .database("unused", postgres.address())
        .set("admin", "users", "[\"postgres\"]")
        .text("metrics", "compat", "pgbouncer")
        .metrics()
        .start()
        .await;
    let mut admin = Raw::login(&pgusher.target().user("postgres", "postgres").database("pgusher")).await;
    let mut client = pgusher.client().await;
    client.value("select 1").await;
    let own = postgres.database();
    let states = async || {
        let numbers = scrape(&pgusher).await;
        let of = |metric: &str, name: &str| {
            let start = format!("pgbouncer_databases_{metric}{{name=\"{name}\",");
            numbers.iter().find(|(series, _)| series.starts_with(&start)).map(|(_, value)| *value)
        };
        let all = [of("paused", own), of("disabled", own), of("paused", "unused"), of("disabled", "unused")];
        (all.map(Option::unwrap), numbers["pgbouncer_databases"], numbers["pgbouncer_users"])
    };

    let before = states().await;
    admin.rows(&format!("PAUSE \"{own}\"")).await;
    admin.rows("DISABLE unused").await;
    let steered = states().await;
    admin.rows(&format!("RESUME \"{own}\"")).await;
    admin.rows("ENABLE unused").await;
    admin.rows("PAUSE").await;
    let paused = states().await;

    assert_eq!(before, ([0.0; 4], 2.0, 6.0));
    assert_eq!(steered.0, [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(paused.0, [1.0, 0.0, 1.0, 0.0]);
}

#[tokio::test]
async fn bytes_are_counted_on_both_sides() {
    let postgres = Postgres::shared(17).await;
    let proxy = DelayProxy::before(postgres.address(), Duration::ZERO).await;
    let pgusher =
        Pgusher::before(&postgres).via(proxy.address()).pool_size(1).no_identity().metrics().start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;
    client.rows("select repeat('x', 100000)").await;
    client.rows("commit").await;

    let bytes = async || {
        let numbers = scrape(&pgusher).await;
        let of = |side, direction| {
            let more = format!(",side=\"{side}\",direction=\"{direction}\"");
            of_pool(&numbers, &postgres, "bytes_total", &more)
        };
        [of("client", "received"), of("client", "sent"), of("server", "received"), of("server", "sent")]
    };
    // The client's last answer is counted once it has been sent.
    client.value("select 1").await;
    // As the network saw it: nothing between us and the server is missing, the login included.
    let [from_client, to_client, from_server, _] = eventually("all is counted", PATIENCE, async || {
        let seen = bytes().await;
        (seen[2..] == [proxy.downward() as f64, proxy.upward() as f64]).then_some(seen)
    })
    .await;

    assert!(to_client > 100_000.0 && from_server > 100_000.0, "{to_client} {from_server}");
    assert!(from_client > 50.0 && from_client < 1_000.0, "{from_client}");
}

#[tokio::test]
async fn the_cache_of_prepared_statements_is_counted() {
    let postgres = Postgres::shared(17).await;
    let pgusher =
        Pgusher::before(&postgres).pool_size(1).set("pool", "server_statements", "2").metrics().start().await;
    let mut client = pgusher.client().await;
    let prepared = |name: &str| [say::parse(name, &format!("select '{name}'")), say::sync()];
    let bound = |name: &str| [say::bind("", name, &[]), say::execute("", 0), say::sync()];

    for name in ["a", "b"] {
        client.ask(prepared(name)).await;
        client.ask(bound(name)).await;
    }
    let two = scrape(&pgusher).await;
    client.ask(prepared("c")).await; // in the place of one of them
    client.ask(bound("c")).await;
    let three = scrape(&pgusher).await;

    let of = |numbers: &_| {
        ["hits", "misses", "evictions"]
            .map(|what| of_pool(numbers, &postgres, &format!("prepared_cache_{what}_total"), ""))
    };
    assert_eq!(of(&two), [2.0, 2.0, 0.0]);
    assert_eq!(of(&three), [3.0, 3.0, 1.0]);
}

/// What the words of a client did not show, found when the server is given back.
#[tokio::test]
async fn state_that_slips_through_a_refusal_is_counted() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres)
        .pool_size(1)
        .text("pool", "session_state", "refuse")
        .metrics()
        .start()
        .await;
    let mut client = pgusher.client().await;

    client.rows("do $$ begin perform pg_advisory_lock(7); end $$").await;
    let numbers = eventually("it is removed", PATIENCE, async || {
        client.value("select 1").await;
        let numbers = scrape(&pgusher).await;
        let slips = of_pool(&numbers, &postgres, "session_slips_total", ",reason=\"advisory_lock\"");
        (slips > 0.0).then_some(numbers)
    })
    .await;

    assert_eq!(of_pool(&numbers, &postgres, "session_slips_total", ",reason=\"advisory_lock\""), 1.0);
    assert_eq!(of_pool(&numbers, &postgres, "session_slips_total", ",reason=\"listen\""), 0.0);
}

#[tokio::test]
async fn handshakes_and_certificates_are_counted() {
    let postgres = Postgres::shared(17).await;
    let directory = tempfile::tempdir().expect("a directory");
    let issued = Ca::new("a CA of this test").issue(Wanted::loopback(), directory.path(), "pgusher");
    let pgusher = Pgusher::before(&postgres).tls("require", &issued).metrics().start().await;
    let target = pgusher.target().in_tls(Tls::anyone());
    Raw::login(&target).await.value("select 1").await;
    let mut broken = TcpStream::connect(pgusher.address()).await.expect("it listens");
    broken.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.expect("an SSLRequest");
    assert_eq!(broken.read_u8().await.expect("an answer"), b'S');
    broken.write_all(b"nothing like a handshake").await.expect("anything");

    let numbers = eventually("it has failed", PATIENCE, async || {
        let numbers = scrape(&pgusher).await;
        let failed = "pgusher_tls_handshakes_total{side=\"client\",result=\"failed\",resumed=\"false\"}";
        (numbers[failed] == 1.0).then_some(numbers)
    })
    .await;

    assert_eq!(numbers["pgusher_tls_handshakes_total{side=\"client\",result=\"ok\",resumed=\"false\"}"], 1.0);
    assert_eq!(numbers["pgusher_client_logins_total{result=\"tls_failed\"}"], 1.0);
    let file = issued.certificate.display();
    assert!(numbers[&format!("pgusher_tls_certificate_expiry_timestamp_seconds{{file=\"{file}\"}}")] > 2e9);
}

#[tokio::test]
async fn it_has_started_when_its_minimum_is_there_and_is_ready_until_it_drains() {
    let postgres = Postgres::shared(17).await;
    let proxy = DelayProxy::before(postgres.address(), Duration::ZERO).await;
    proxy.pause();
    let mut pgusher = Pgusher::before(&postgres)
        .via(proxy.address())
        .of_database("user", "\"app\"")
        .of_database("password", "\"app\"")
        .set("pool", "min", "2")
        .text("pool", "connect_timeout", "20s")
        .metrics()
        .start()
        .await;

    let starting = get(&pgusher, "/startupz").await;
    proxy.resume();
    let started = eventually("it has started", PATIENCE, async || {
        Some(get(&pgusher, "/startupz").await).filter(|answer| answer.status == 200)
    })
    .await;
    let ready = get(&pgusher, "/readyz").await;
    let mut inside = pgusher.client().await;
    inside.rows("begin").await;
    pgusher.terminate();
    let draining = eventually("it drains", PATIENCE, async || {
        Some(get(&pgusher, "/readyz").await).filter(|answer| answer.status == 503)
    })
    .await;
    let numbers = scrape(&pgusher).await;
    let alive = get(&pgusher, "/livez").await;
    inside.query("commit").await;

    assert_eq!(starting.status, 503);
    assert!(starting.body.contains("has 0 of 2 servers"), "{}", starting.body);
    assert_eq!((started.body.as_str(), ready.status), ("started\n", 200));
    assert!(draining.body.contains("draining"), "{}", draining.body);
    assert_eq!((numbers["pgusher_draining"], numbers["pgusher_ready"], alive.status), (1.0, 0.0, 200));
    assert!(pgusher.end().await.success());
}

#[tokio::test]
async fn it_is_told_to_drain_over_http_from_the_loopback() {
    let postgres = Postgres::shared(17).await;
    let mut pgusher = Pgusher::before(&postgres).metrics().start().await;
    let mut client = pgusher.client().await;
    client.rows("begin").await;
    let foreign = b"POST /drain HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n";

    let asked = get(&pgusher, "/drain").await;
    let from_browser = converse(pgusher.metrics(), foreign).await;
    let still = get(&pgusher, "/readyz").await;
    let mut order = std::process::Command::new(env!("CARGO_BIN_EXE_pgusher"));
    order.arg("drain").arg("--wait").arg("--config").arg(pgusher.config_file());
    order.env("PGUSHER_METRICS_LISTEN", pgusher.metrics().to_string()).env_remove("PGUSHER_E2E_IDENTITY");
    let waiting = tokio::spawn(crate::harness::process::run(order));
    pgusher.until_logged("told over HTTP to drain").await;
    let committed = notation(&client.query("commit").await);
    let output = waiting.await.expect("it ends");

    assert_eq!((asked.status, from_browser.status, still.status), (405, 403, 200));
    assert_eq!(committed, "C(COMMIT) Z(I)");
    assert!(output.status.success(), "{output:?}");
    assert!(pgusher.end().await.success());
}

#[tokio::test]
async fn nonsense_is_refused_and_clients_are_served() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).metrics().start().await;
    let mut client = pgusher.client().await;
    let huge = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many: String = (0..1_000).map(|number| format!("X-{number}: y\r\n")).collect();
    let many = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    let mut random = vec![0; 64 << 10];
    getrandom::fill(&mut random).expect("random bytes");

    for (request, expected) in [
        (&b"GET /metrics\r\n\r\n"[..], &[400][..]),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", &[400, 0]), // an SSLRequest
        (huge.as_bytes(), &[431, 0]),
        (many.as_bytes(), &[431, 0]),
        (&random, &[400, 431, 0]),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", &[404]),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", &[404]),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", &[405]),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\nx", &[405]),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", &[200]),
        (b"GET /livez HTTP/1.0\r\n\r\n", &[200]),
    ] {
        let answer = converse(pgusher.metrics(), request).await;
        let shown = String::from_utf8_lossy(&request[..request.len().min(40)]).into_owned();
        assert!(expected.contains(&answer.status), "{shown:?}: {answer:?}");
    }

    assert_eq!(client.value("select 1").await, "1");
    assert_eq!(get(&pgusher, "/livez").await.status, 200);
}

#[tokio::test]
async fn those_who_hold_connections_open_keep_nobody_out() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).metrics().start().await;
    let mut client = pgusher.client().await;
    let mut idlers = Vec::new();
    for number in 0..200 {
        let mut idler = TcpStream::connect(pgusher.metrics()).await.expect("it listens");
        if number % 2 == 0 {
            let _ = idler.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await;
        }
        idlers.push(idler);
    }

    let began = Instant::now();
    let numbers = scrape(&pgusher).await;
    let answered = began.elapsed();
    let sockets = pgusher.sockets();

    assert!(answered < Duration::from_secs(2), "{answered:?}");
    assert!(numbers["pgusher_http_rejections_total"] >= 100.0);
    assert!(sockets < 60, "{sockets}");
    assert_eq!(client.value("select 1").await, "1");
    drop(idlers);
}

#[tokio::test]
async fn one_who_speaks_slowly_is_cut_off() {
    let postgres = Postgres::shared(17).await;
    let pgusher = Pgusher::before(&postgres).metrics().start().await;
    let mut slow = TcpStream::connect(pgusher.metrics()).await.expect("it listens");
    let began = Instant::now();

    let cut = async {
        let mut said = [0; 1];
        loop {
            let wrote = slow.write_all(b"G").await;
            match tokio::time::timeout(Duration::from_millis(100), slow.read(&mut said)).await {
                Ok(_) => break,
                Err(_) if wrote.is_err() => break,
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("it is cut off");

    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_at_start() {
    let postgres = Postgres::shared(17).await;
    let first = Pgusher::before(&postgres).metrics().start().await;

    let address = first.metrics().to_string();
    let mut second = Pgusher::before(&postgres).env("PGUSHER_METRICS_LISTEN", &address).launch();
    let status = second.end().await;

    assert_eq!(status.code(), Some(1));
    let said = second.log();
    assert!(
        said.contains(&format!("cannot serve metrics on {address}: another process listens there")),
        "{said}"
    );
    assert!(said.contains("PGUSHER_METRICS_LISTEN"), "{said}");
}

#[tokio::test]
async fn identities_pins_and_errors_are_counted_by_why() {
    let postgres = Postgres::shared(17).await;
    let pgusher =
        Pgusher::before(&postgres).identity().text("identity", "missing", "deny").metrics().start().await;
    let mut client = pgusher.client().await;

    let refused = notation(&client.query("select 1").await);
    let wrong = notation(&client.query("set app.current_user_id = 'nobody'").await);
    let mut counted_at_once = scrape(&pgusher).await;
    counted_at_once.retain(|series, count| series.contains("identity_refusals") && *count > 0.0);
    client.query("set app.current_user_id = '00000000-0000-0000-0000-000000000001'").await;
    client.value("select 1").await;
    let failed = notation(&client.query("select 1/0").await);
    client.query("listen here").await;
    client.query("unlisten *").await;
    // The server is asked and cleaned after the client has its answer.
    let numbers = eventually("the server is clean", PATIENCE, async || {
        let numbers = scrape(&pgusher).await;
        (of_pool(&numbers, &postgres, "session_cleans_total", "") == 1.0).then_some(numbers)
    })
    .await;

    assert_eq!(
        (refused.as_str(), wrong.as_str(), failed.as_str()),
        ("E(28000) Z(I)", "E(22023) Z(I)", "E(22012) Z(I)")
    );
    assert_eq!(counted_at_once.values().copied().collect::<Vec<_>>(), [1.0, 1.0], "{counted_at_once:?}");
    let of = |name, more| of_pool(&numbers, &postgres, name, more);
    assert_eq!(of("identity_refusals_total", ",reason=\"missing\""), 1.0);
    assert_eq!(of("identity_refusals_total", ",reason=\"pattern\""), 1.0);
    assert_eq!(of("identity_injections_total", ",result=\"ok\""), 4.0);
    assert_eq!(of("identity_injections_total", ",result=\"failed\""), 0.0);
    assert_eq!(of("server_errors_total", ",sqlstate_class=\"22\""), 1.0);
    assert_eq!(of("session_pins_total", ",reason=\"listen\""), 1.0);
    assert_eq!(of("session_cleans_total", ""), 1.0);
}
