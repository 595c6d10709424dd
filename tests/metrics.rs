//! `deploy/METRICS.md`, held against the catalogue of the code.
//!
//! `WRITE_METRICS=1 cargo test --test metrics` writes it anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use pgusher::telemetry::metrics::{CATALOGUE, Metric};

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
    text.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    CATALOGUE.iter().for_each(|metric| text.push_str(&row(metric)));
    text
}

fn row(metric: &Metric) -> String {
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind.word(), labels.join(", "), metric.meaning)
}
