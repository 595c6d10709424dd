//! Debian's Prometheus, as a process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::http::{self, get};
use super::port::Port;
use super::process::{Background, tied};
use super::{PATIENCE, eventually};

/// A Prometheus that scrapes and evaluates twice a second. Killed when dropped.
pub struct Prometheus {
    port: Port,
    _process: Background,
    _directory: TempDir,
}

impl Prometheus {
    /// With these jobs and rules.
    pub async fn start(jobs: &[(&str, Vec<String>)], rules: &str) -> Self {
        let program = Path::new("/usr/bin/prometheus");
        assert!(program.exists(), "there is no {}; tests/setup.sh installs it", program.display());
        let directory = tempfile::Builder::new().prefix("prometheus-").tempdir().expect("a directory");
        let port = Port::reserve();
        let mut config = String::from(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n\
             rule_files: [rules.yaml]\nscrape_configs:\n",
        );
        for (job, targets) in jobs {
            config
                .push_str(&format!("  - {{job_name: {job}, static_configs: [{{targets: {targets:?}}}]}}\n"));
        }
        fs::write(directory.path().join("prometheus.yml"), config).expect("a configuration");
        fs::write(directory.path().join("rules.yaml"), rules).expect("rules");
        let mut command = tied(program, "KILL");
        command
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={}", port.address()))
            .current_dir(directory.path());
        let process = Background::start(command, &directory.path().join("log"));
        let mut prometheus = Self { port, _process: process, _directory: directory };
        prometheus.until_ready().await;
        prometheus
    }

    async fn until_ready(&mut self) {
        let address = self.port.address();
        eventually("Prometheus is ready", PATIENCE, async || {
            if let Some(status) = self._process.ended() {
                panic!("Prometheus ended, {status}:\n{}", self._process.log());
            }
            tokio::net::TcpStream::connect(address).await.ok()?;
            (get(address, "/-/ready").await.status == 200).then_some(())
        })
        .await;
    }

    /// What an expression is now: the JSON of its result, `[]` if there is none.
    pub async fn query(&self, expression: &str) -> String {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let http::Answer { status, body, .. } = get(self.port.address(), &path).await;
        assert_eq!(status, 200, "{expression}: {body}");
        let (_, result) = body.split_once("\"result\":").unwrap_or_else(|| panic!("{body}"));
        result.trim_end().trim_end_matches("}}").to_owned()
    }

    /// Waits until these alerts are firing, or none of them is.
    pub async fn until(&self, alerts: &[&str], are_firing: bool, patience: Duration) {
        let names = alerts.join("|");
        let what = format!("{} {names}", if are_firing { "firing:" } else { "resolved:" });
        let mut missing = Vec::new();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let firing = self.query("ALERTS{alertstate=\"firing\"}").await;
            missing.clear();
            for alert in alerts {
                if firing.contains(&format!("\"alertname\":\"{alert}\"")) != are_firing {
                    missing.push(*alert);
                }
            }
            if missing.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {what}: {missing:?}\n{firing}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
