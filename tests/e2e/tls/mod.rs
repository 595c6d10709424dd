//! TLS on both sides: who is encrypted, who is believed, and what is refused.

mod certificates;
mod clients;
mod interceptors;
mod reload;
mod servers;

use std::sync::Arc;

use crate::harness::pgusher::Builder;
use crate::harness::raw::Target;
use crate::harness::tls::{Tls, Wanted};
use crate::harness::{Ca, Issued, Pgusher, Postgres, Raw};

/// A CA, its file, and what it has issued for the loopback.
struct Authority {
    ca: Ca,
    directory: tempfile::TempDir,
    issued: Issued,
}

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = Ca::new("a CA of this test");
        let issued = ca.issue(Wanted::loopback(), directory.path(), "pgusher");
        Self { ca, directory, issued }
    }

    fn issue(&self, wanted: Wanted, name: &str) -> Issued {
        self.ca.issue(wanted, self.directory.path(), name)
    }

    fn ca_file(&self) -> String {
        self.ca.file(self.directory.path()).display().to_string()
    }

    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        Arc::new(self.issued.server_config())
    }
}

/// Offers TLS to clients in front of a server.
fn offering(postgres: &Postgres, authority: &Authority, mode: &str) -> Builder {
    Pgusher::before(postgres).tls(mode, &authority.issued)
}

/// Logs in without a password, or says why not: the server's words, the handshake's, or that it was closed without any.
async fn attempt(target: &Target) -> Result<Raw, String> {
    let mut raw = Raw::reach(target).await.map_err(|error| format!("handshake: {error}"))?;
    raw.try_send(&target.startup()).await.map_err(|_| "closed".to_owned())?;
    loop {
        match raw.try_read().await {
            None => return Err("closed".into()),
            Some(frame) if frame.is(b'E') => {
                return Err(format!("{} {}", frame.sqlstate(), frame.message()));
            }
            Some(frame) if frame.is(b'Z') => return Ok(raw),
            Some(_) => {}
        }
    }
}

/// What came of an attempt, without the connection.
async fn outcome(target: &Target) -> Result<(), String> {
    attempt(target).await.map(drop)
}

fn anyone() -> Tls {
    Tls::anyone()
}
