//! `deploy/METRICS.md`, held against the catalogue of the code.
//!
//! `WRITE_METRICS=1 cargo test --test metrics` writes it anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use pgusher::telemetry::metrics::{CATALOGUE, Metric, pgbouncer};

#[test]
fn the_documentation_has_every_metric_as_the_code_has_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/METRICS.md");
    let expected = documentation();
    if std::env::var_os("WRITE_METRICS").is_some() {
        fs::write(&path, &expected).unwrap();
    }

    let written = fs::read_to_string(&path).unwrap();

    assert!(
        written == expected,
        "deploy/METRICS.md is not what the code says; WRITE_METRICS=1 writes it anew"
    );
}

fn documentation() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What `/metrics` serves, made from `src/telemetry/metrics.rs` and held against it by a test. The buckets of all histograms end\n\
         at 100 us, 250 us, 500 us, 1 ms, … 60 s. `database` and `user` name a pool; the pools beyond `metrics.max_pools` are `other`.\n\n",
    );
    text.push_str(&table(CATALOGUE));
    text.push_str(
        "\n## PgBouncer's names\n\n\
         With `metrics.compat = \"pgbouncer\"` the same page has the names of prometheus-community's pgbouncer_exporter (0.11), so that\n\
         dashboards and alerts go on working; that exporter itself can also be pointed at the console. What PgBouncer has and pgusher has not is\n\
         0: a cancel request is not a client that waits, and servers are tested when they are lent (`pool.check_delay`), not beforehand. Not there are\n\
         `pgbouncer_cached_dns_names`, `_cached_dns_zones` and `_in_flight_dns_queries`: names are resolved for each connection, by the\n\
         system, and nothing is kept that could be counted; and what the exporter says of itself (`pgbouncer_exporter_build_info`, its `process_*`).\n\n",
    );
    text.push_str(&table(pgbouncer::CATALOGUE));
    text
}

fn table(catalogue: &[Metric]) -> String {
    let head = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    catalogue.iter().fold(head.to_owned(), |table, metric| table + &row(metric))
}

fn row(metric: &Metric) -> String {
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind.word(), labels.join(", "), metric.meaning)
}
