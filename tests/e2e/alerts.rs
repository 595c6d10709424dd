//! `deploy/alerts.yaml` and `deploy/dashboard.json` in front of a real Prometheus, which scrapes poolers in real trouble.
//!
//! The test's copy of the rules waits for seconds where the original waits for minutes; nothing else of it is changed.

use std::fs;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::harness::http;
use crate::harness::port::Port;
use crate::harness::process::{Background, root};
use crate::harness::tls::Wanted;
use crate::harness::{Ca, Issued, Pgusher, Postgres, Prometheus, Raw, say};

/// Longest until an alert has fired or resolved: `for` is a second, and what is looked back at six.
const SOON: Duration = Duration::from_secs(45);

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// Everything that can be wrong, at once.
struct Trouble {
    /// Its pool `hot` is saturated by pgbench, and others have troubles of their own.
    pgusher: Pgusher,
    postgres: Postgres,
    pgbench: Vec<Background>,
    /// What postgres_exporter would tell: PostgreSQL's limit.
    facts: watch::Sender<String>,
    /// Where a pooler should be, and is not.
    empty: Port,
    prometheus: Prometheus,
    /// What it shows to clients has ended long ago; and what it could show.
    certificates: [Issued; 2],
    _directory: tempfile::TempDir,
}

const BAD_FACTS: &str = "pg_settings_max_connections 2\n";
const GOOD_FACTS: &str = "pg_settings_max_connections 500\n";

/// The rules, impatient.
fn rules() -> String {
    let rules = fs::read_to_string(root().join("deploy/alerts.yaml")).expect("the alerts");
    let impatient = |line: &str| match line.trim_start().strip_prefix("for: ") {
        Some(_) => "        for: 1s".to_owned(),
        None => line.replace("[1m]", "[6s]").replace("[5m]", "[6s]"),
    };
    rules.lines().map(impatient).collect::<Vec<_>>().join("\n")
}

impl Trouble {
    async fn brew() -> Self {
        let postgres = Postgres::shared(17).await;
        let broken = format!("{}_broken", postgres.database());
        postgres.create_database(&broken).await;
        let nobody = Port::reserve();
        let directory = tempfile::tempdir().expect("a directory");
        let ca = Ca::new("a CA of this test");
        let old = ca.issue(Wanted::loopback().expired(), directory.path(), "old");
        let fresh = ca.issue(Wanted::loopback(), directory.path(), "fresh");
        let (own, tight) = (postgres.database().to_owned(), "databases.\"tight\"");
        let pgusher = Pgusher::before(&postgres)
            .pool_size(2)
            .tls("allow", &old)
            .identity()
            .text("identity", "missing", "deny")
            .database("tight", postgres.address())
            .text(tight, "dbname", &own)
            .set(tight, "size", "1")
            .set(tight, "max_waiting", "1")
            .text(tight, "acquire_timeout", "300ms")
            .database("brief", postgres.address())
            .text("databases.\"brief\"", "dbname", &own)
            .set("databases.\"brief\"", "max_uses", "1")
            .database("away", nobody.address())
            .text("databases.\"away\"", "acquire_timeout", "1s")
            .database("broken", postgres.address())
            .text("databases.\"broken\"", "dbname", &broken)
            .metrics()
            .start()
            .await;
        let (facts, told) = watch::channel(BAD_FACTS.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let informant = listener.local_addr().expect("an address");
        tokio::spawn(http::serve(listener, told));
        let empty = Port::reserve();
        let jobs = [
            ("pgusher", vec![pgusher.metrics().to_string(), empty.address().to_string()]),
            ("facts", vec![informant.to_string()]),
        ];
        let prometheus = Prometheus::start(&jobs, &rules()).await;
        // What can no longer be said to a server of this pool: who may not ask for a setting may not set one.
        let target = pgusher.target().database("broken").with("app.current_user_id", NOBODY);
        let mut broken = Raw::login(&target).await;
        broken.value("select 1").await;
        let superuser = postgres.superuser().database(&format!("{own}_broken"));
        Raw::login(&superuser)
            .await
            .rows("revoke execute on function set_config(text, text, bool) from public")
            .await;
        let mut trouble = Self {
            pgusher,
            postgres,
            pgbench: Vec::new(),
            facts,
            empty,
            prometheus,
            certificates: [old, fresh],
            _directory: directory,
        };
        trouble.saturate();
        trouble
    }

    /// Ten clients for two servers, for as long as it is let.
    fn saturate(&mut self) {
        let script = self.pgusher.directory().join("slow.sql");
        fs::write(&script, "select pg_sleep(0.3), count(*) from pg_class;\n").expect("a script");
        let arguments = ["-n", "-c", "10", "-j", "1", "-T", "120", "-M", "prepared", "-f"];
        let tool = self.postgres.tool("pgbench").aim(&self.pgusher.target()).args(arguments).arg(script);
        let tool = tool.env("PGOPTIONS", &format!("-c app.current_user_id={NOBODY}"));
        self.pgbench.push(tool.start(&self.pgusher.directory().join("pgbench.log")));
    }

    /// The other troubles, over and over: what is counted is seen as an increase only after it has been seen before.
    async fn stir(&self) {
        let known =
            |database: &str| self.pgusher.target().database(database).with("app.current_user_id", NOBODY);
        let (tight, away, brief) = (known("tight"), known("away"), known("brief"));
        let mut holder = Raw::login(&tight).await;
        let (mut late, mut refused) = (Raw::login(&tight).await, Raw::login(&tight).await);
        let mut broken = Raw::login(&known("broken")).await;
        let mut stranger = self.pgusher.client().await;
        holder.rows("begin").await;
        let crowding = async {
            loop {
                late.send([say::query("select 1")]).await;
                refused.query("select 1").await;
                late.read_until_ready().await;
            }
        };
        let failing = async {
            loop {
                broken.query("select 1").await;
                stranger.query("select 1").await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let knocking = async {
            loop {
                let _ = Raw::connect(&away.address).await.try_login(&away).await;
            }
        };
        let coming_and_going = async {
            loop {
                let mut guest = Raw::login(&brief).await;
                guest.query("select 1").await;
                guest.terminate().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::join!(crowding, failing, knocking, coming_and_going);
    }
}

#[tokio::test]
async fn every_alert_fires_when_it_should_and_resolves_when_all_is_well_again() {
    let mut trouble = Trouble::brew().await;
    let rules = rules();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    trouble.pgusher.reload(|builder| builder.text("pool", "size", "many"));

    tokio::select! {
        () = trouble.prometheus.until(&alerts, true, SOON) => {}
        () = trouble.stir() => unreachable!("trouble does not end by itself"),
    }
    trouble.pgbench.clear();
    trouble.facts.send(GOOD_FACTS.into()).expect("somebody asks");
    let [old, fresh] = &trouble.certificates;
    fresh.replace(old);
    trouble.pgusher.reload(|builder| builder.set("pool", "size", "2"));
    let own = trouble.empty.address().to_string();
    let _there = Pgusher::before(&trouble.postgres).env("PGUSHER_METRICS_LISTEN", &own).start().await;
    trouble.prometheus.until(&alerts, false, SOON).await;

    assert!(alerts.len() > 10, "{alerts:?}");
}

#[tokio::test]
async fn every_panel_of_the_dashboard_has_something_to_show() {
    let trouble = Trouble::brew().await;
    let dashboard = fs::read_to_string(root().join("deploy/dashboard.json")).expect("the dashboard");
    let expressions: Vec<_> = dashboard
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"expr\": \"")?.strip_suffix("\","))
        .map(|text| text.replace("\\\"", "\"").replace("$__rate_interval", "10s"))
        .map(|text| {
            ["job", "instance", "database", "user"]
                .iter()
                .fold(text, |text, name| text.replace(&format!("${name}"), ".*"))
        })
        .collect();

    let mut empty = expressions.clone();
    let all_shown = async {
        while !empty.is_empty() {
            let mut still = Vec::new();
            for expression in std::mem::take(&mut empty) {
                let result = trouble.prometheus.query(&expression).await;
                if result.starts_with("[]") || result.contains("\"NaN\"") {
                    still.push(expression);
                }
            }
            empty = still;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let in_time = tokio::select! {
        in_time = tokio::time::timeout(SOON, all_shown) => in_time.is_ok(),
        () = trouble.stir() => unreachable!("trouble does not end by itself"),
    };

    assert!(in_time, "nothing to show for {empty:#?}");
    assert!(expressions.len() > 40, "{}", expressions.len());
}
