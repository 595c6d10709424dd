//! `deploy/alerts.yaml` and what goes with it: the same alerts in both forms, a case for each, nothing asked for that is not there.
//!
//! `WRITE_ALERTS=1 cargo test --test alerts` writes what follows from the rest anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgusher::telemetry::metrics::{CATALOGUE, Kind};

#[test]
fn the_rules_of_the_operator_are_the_plain_rules() {
    let rules = read("alerts.yaml");
    let (_, groups) = rules.split_once("\ngroups:\n").unwrap();
    let mut expected = String::from(
        "# alerts.yaml for the Prometheus operator; made from it and held against it by a test.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: pgusher\n  labels:\n    \
         app.kubernetes.io/name: pgusher\nspec:\n  groups:\n",
    );
    groups.lines().for_each(|line| expected.push_str(&format!("  {line}\n")));
    if std::env::var_os("WRITE_ALERTS").is_some() {
        fs::write(path("prometheusrule.yaml"), &expected).unwrap();
    }

    let written = read("prometheusrule.yaml");

    assert!(written == expected, "prometheusrule.yaml is not alerts.yaml; WRITE_ALERTS=1 writes it anew");
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases = read("alerts-test.yaml");
    for alert in alerts() {
        let fires = cases
            .contains(&format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels"));
        let does_not = cases.contains(&format!("alertname: {alert}, exp_alerts: []"));
        assert!(fires && does_not, "{alert}: {fires} {does_not}");
    }
}

#[test]
fn the_cases_hold() {
    let output =
        Command::new("promtool").args(["test", "rules", "alerts-test.yaml"]).current_dir(path("")).output();

    let output = output.unwrap_or_else(|error| panic!("promtool: {error}; tests/setup.sh installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_alerts_and_dashboard_ask_for_is_there() {
    let texts = [read("alerts.yaml"), read("dashboard.json")];
    let mut found = 0;
    for word in texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')) {
        if !word.starts_with("pgusher_") {
            continue;
        }
        found += 1;
        let is_known = CATALOGUE.iter().any(|metric| {
            let parts = ["_bucket", "_sum", "_count"];
            let of_histogram = || {
                parts.iter().any(|part| word.strip_suffix(part) == Some(metric.name))
                    && metric.kind == Kind::Histogram
            };
            (word == metric.name && metric.kind != Kind::Histogram) || of_histogram()
        });
        assert!(is_known, "there is no metric {word}");
    }
    assert!(found > 30, "{found}");
}

/// The names of the alerts.
fn alerts() -> Vec<String> {
    let rules = read("alerts.yaml");
    let names: Vec<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect();
    assert!(names.len() > 8, "{names:?}");
    names
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}
