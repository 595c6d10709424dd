//! What is written about encryption, held against itself and its files.
//!
//! # Promises
//! - A contradiction is a problem at start, not a client that cannot come in or a server that cannot be reached.
//! - Files are read as they will be: a key that is not its certificate's is known before anybody is encrypted with it.
//!
//! # Refuses
//! To keep what it has read.

use std::path::PathBuf;

use crate::auth::Method;
use crate::config::keys::{Database, Section, TlsClient, TlsServer};
use crate::config::resolve::Resolve;
use crate::net::tls::{Acceptor, Connector, FileError, Negotiation, RootCertificates, SslMode};
use crate::proxy::DatabaseEntry;
use crate::session::login::BindingPolicy;

impl Resolve<'_> {
    /// What a URL says of encryption holds where no key of the database says otherwise.
    pub(super) fn take_encryption(&mut self, name: &str, written: &mut Database) {
        let Some(url) = written.url.as_ref().map(|url| url.encryption.clone()) else { return };
        let is_free = |key| !self.is_written(Section::Databases, name, key);
        let TlsServer { tls, channel_binding } = &mut written.encryption;
        if let Some(mode) = url.sslmode.filter(|_| is_free("sslmode")) {
            tls.sslmode = mode;
        }
        if let Some(path) = url.sslrootcert.filter(|_| is_free("sslrootcert")) {
            tls.sslrootcert = Some(path);
        }
        if let Some(path) = url.sslcert.filter(|_| is_free("sslcert")) {
            tls.sslcert = Some(path);
        }
        if let Some(path) = url.sslkey.filter(|_| is_free("sslkey")) {
            tls.sslkey = Some(path);
        }
        if let Some(negotiation) = url.sslnegotiation.filter(|_| is_free("sslnegotiation")) {
            tls.sslnegotiation = negotiation;
        }
        if let Some(version) = url.ssl_min_protocol_version.filter(|_| is_free("ssl_min_protocol_version")) {
            tls.ssl_min_protocol_version = version;
        }
        if let Some(policy) = url.channel_binding.filter(|_| is_free("channel_binding")) {
            *channel_binding = policy;
        }
    }

    /// Whether clients can be encrypted as they are to be.
    pub(super) fn check_clients(&mut self, written: &TlsClient, auth: Method) {
        let tls = &written.tls;
        let section = Section::TlsClient;
        let wants_owner = tls.wants_certificate() || auth == Method::Cert;
        if auth == Method::Cert && tls.mode == SslMode::Disable {
            self.blame(
                Section::Listen,
                "",
                "auth",
                "certificates are shown in TLS, and tls.client.mode is \"disable\"",
            );
        }
        if tls.mode == SslMode::Disable {
            let is_chosen = self.is_written(section, "", "mode");
            if tls.cert_file.is_some() && !is_chosen {
                self.blame(
                    section,
                    "",
                    "cert_file",
                    "no client is encrypted without tls.client.mode: say which",
                );
            }
            return;
        }
        for (key, file) in [("cert_file", &tls.cert_file), ("key_file", &tls.key_file)] {
            if file.is_none() && !self.is_refused(section, "", key) {
                self.blame(
                    section,
                    "",
                    "mode",
                    &format!("no client can be encrypted without tls.client.{key}"),
                );
            }
        }
        if wants_owner && tls.ca_file.is_none() {
            let key = if tls.wants_certificate() { (section, "mode") } else { (Section::Listen, "auth") };
            self.blame(
                key.0,
                "",
                key.1,
                "no client's certificate can be believed without tls.client.ca_file",
            );
        }
        if tls.cert_file.is_some()
            && tls.key_file.is_some()
            && let Err(error) = Acceptor::check(tls, self.read_file)
        {
            let files = [("ca_file", &tls.ca_file), ("key_file", &tls.key_file)];
            self.blame_file(section, "", error, &files, "cert_file");
        }
    }

    /// No database can ask for what there is not.
    pub(super) fn check_required(&mut self, databases: &[DatabaseEntry]) {
        for entry in databases.iter().filter(|entry| entry.require_tls) {
            let reason = "no client could come in: tls.client.mode is \"disable\"";
            self.blame(Section::Databases, &entry.name, "require_tls", reason);
        }
    }

    /// Whether servers can be encrypted as they are to be: libpq's own rules.
    pub(super) fn check_servers(&mut self, name: &str, written: &TlsServer) {
        let tls = &written.tls;
        let roots = tls.root_certificates();
        let mut blame = |key, reason: &str| self.blame_encryption(name, key, reason);
        if tls.sslmode >= SslMode::VerifyCa && roots.is_none() {
            blame("sslmode", "nothing can be verified without sslrootcert: a file, or \"system\"");
        }
        if roots == Some(RootCertificates::System) && tls.sslmode != SslMode::VerifyFull {
            blame(
                "sslrootcert",
                "\"system\" is for sslmode = \"verify-full\": anybody can have a certificate of a public CA",
            );
        }
        if tls.sslnegotiation == Negotiation::Direct && tls.sslmode < SslMode::Require {
            blame("sslnegotiation", "\"direct\" is for sslmode = \"require\" and stronger: nobody is asked");
        }
        if written.channel_binding == BindingPolicy::Require && tls.sslmode == SslMode::Disable {
            blame("channel_binding", "there is nothing to bind to: sslmode is \"disable\"");
        }
        if tls.sslcert.is_some() != tls.sslkey.is_some() {
            let key = if tls.sslcert.is_some() { "sslcert" } else { "sslkey" };
            return blame(
                key,
                "a certificate needs its key, and a key its certificate: give sslcert and sslkey",
            );
        }
        if tls.sslmode != SslMode::Disable
            && let Err(error) = Connector::check(tls, self.read_file)
        {
            let files = [("sslrootcert", &tls.sslrootcert), ("sslkey", &tls.sslkey)];
            let (section, name) = self.where_written(name, "sslcert");
            self.blame_file(section, &name, error, &files, "sslcert");
        }
    }

    /// Where a key of a database's encryption was written: there, in its URL, or for all of them.
    fn where_written(&self, name: &str, key: &'static str) -> (Section, String) {
        match self.is_written(Section::TlsServer, "", key) && !self.is_written(Section::Databases, name, key)
        {
            true => (Section::TlsServer, String::new()),
            false => (Section::Databases, name.to_owned()),
        }
    }

    fn blame_encryption(&mut self, name: &str, key: &'static str, reason: &str) {
        let (section, name) = self.where_written(name, key);
        if !self.is_refused(section, &name, key) {
            self.blame(section, &name, key, reason);
        }
    }

    /// Blames the key that names the file, or else `other`.
    fn blame_file(
        &mut self,
        section: Section,
        name: &str,
        error: FileError,
        files: &[(&'static str, &Option<PathBuf>)],
        other: &'static str,
    ) {
        let of = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| error.path() == Some(path));
        let key = files.iter().find(|(_, path)| of(path)).map_or(other, |(key, _)| key);
        if !self.is_refused(section, name, key) {
            self.blame(section, name, key, &error.to_string());
        }
    }
}
