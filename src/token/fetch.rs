//! Fetching a JWK set.
//!
//! # Promises
//! - Ends within [`LIMIT`], and reads no more than [`MOST`] bytes.
//! - The host is verified: by the certificates of a file, or else by the system's.
//!
//! # Refuses
//! To follow a redirection, and plain HTTP but to this machine: whoever can answer can make tokens.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// The longest a fetch may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest answer.
const MOST: u64 = 1 << 20;

/// Whether keys may be fetched from there.
///
/// # Errors
/// Why not.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "expected https://host/path (http:// only to this machine itself)";
    let uri: Uri = url.parse().map_err(|_| EXPECTED)?;
    let host = uri.host().ok_or(EXPECTED)?.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_here => Ok(()),
        _ => Err(EXPECTED),
    }
}

/// Something that can fetch one URL.
pub(super) struct Fetcher {
    agent: Agent,
    url: String,
}

impl Fetcher {
    /// Fetches from `url`, whose host is vouched for by the certificates in `ca_file`.
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::Specific(Arc::new(roots(ca_file)?)))
            .build();
        let config: Config = Agent::config_builder()
            .timeout_global(Some(LIMIT))
            .max_redirects(0)
            .https_only(url.starts_with("https:"))
            .user_agent("pgusher")
            .tls_config(tls)
            .build();
        Ok(Self { agent: config.new_agent(), url: url.to_owned() })
    }

    /// Where from.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Fetches. Blocks.
    pub(super) fn fetch(&self) -> Result<Vec<u8>, ureq::Error> {
        let mut response = self.agent.get(&self.url).call()?;
        if !response.status().is_success() {
            return Err(ureq::Error::StatusCode(response.status().as_u16()));
        }
        response.body_mut().with_config().limit(MOST).read_to_vec()
    }
}

/// Whether a file of certificates vouches for anybody.
///
/// # Errors
/// Why not.
pub fn check_certificates(pem: &[u8]) -> Result<(), &'static str> {
    if certificates(pem).next().is_some() {
        return Ok(());
    }
    Err("there is no certificate in it: expected PEM (BEGIN CERTIFICATE)")
}

fn certificates(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

fn roots(ca_file: Option<&Path>) -> io::Result<Vec<Certificate<'static>>> {
    let Some(path) = ca_file else {
        let native = rustls_native_certs::load_native_certs().certs;
        return Ok(native.into_iter().map(|der| Certificate::from_der(&der).to_owned()).collect());
    };
    Ok(certificates(&std::fs::read(path)?).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in [
            "https://issuer.example/jwks.json",
            "http://127.0.0.1:8080/keys",
            "http://localhost/x",
            "http://[::1]:1/",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in
            ["http://issuer.example/jwks.json", "http://10.0.0.1/", "ftp://localhost/x", "/x", "", "jwks"]
        {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
