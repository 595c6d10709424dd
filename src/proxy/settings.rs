//! What the operator decides about clients: who may come in, how many, and into which pool.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::ident::Mapping;
use crate::auth::rules::{Demand, Rule};
use crate::auth::{Method, Secret};
use crate::names::CertificateName;
use crate::pool::{self, PasswordSource};
use crate::proxy::console;
use crate::session::{IdentitySettings, Rules};

/// `[listen]`, the part that is about clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Most clients at once; further ones are told 53300.
    pub max_clients: usize,
    /// How clients prove who they are.
    pub auth: Method,
    /// Who the owner of a certificate may log in as.
    pub certificates: CertificateUsers,
    /// Who may come in from where, and how they must prove themselves; none is: everybody, by `auth`.
    pub rules: Vec<Rule>,
    /// Which outside names may be which users, for rules that say `map=`.
    pub maps: Vec<Mapping>,
    /// A file in the format of PgBouncer's `userlist.txt`, read again when it changes.
    pub auth_file: Option<PathBuf>,
    /// Longest a login may take, from the first byte.
    pub login_timeout: Duration,
    /// Clients that say nothing for this long outside a transaction are closed (57P05); `None` is never.
    pub client_idle_timeout: Option<Duration>,
    /// Startup parameters that are accepted and not passed on.
    pub ignore_startup_parameters: Vec<String>,
    /// How long clients are still let in once the process is told to end.
    pub drain_grace: Duration,
    /// Longest the last transactions may take after that.
    pub drain_timeout: Duration,
    /// The console.
    pub console: console::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            auth: Method::default(),
            certificates: CertificateUsers::default(),
            rules: Vec::new(),
            maps: Vec::new(),
            auth_file: None,
            login_timeout: Duration::from_secs(15),
            client_idle_timeout: None,
            ignore_startup_parameters: Vec::new(),
            drain_grace: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
            console: console::Settings::default(),
        }
    }
}

impl Settings {
    /// Whether any client is asked to prove itself by this method.
    pub fn asks_for(&self, method: Method) -> bool {
        if self.rules.is_empty() {
            return self.auth == method;
        }
        self.rules.iter().any(|rule| rule.demand == Demand::Prove(method))
    }
}

/// `[tls.client]`, the part that is about users: which name of a certificate counts, and whom it may log in as.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CertificateUsers {
    /// The name that counts.
    pub user_from: CertificateName,
    /// Names and the users they may be; empty is: the user of the same name. A name may be there several times.
    pub user_map: Vec<(String, String)>,
}

impl CertificateUsers {
    /// Whether one with these names may log in as `user`.
    pub fn admit(&self, names: &[String], user: &[u8]) -> bool {
        if self.user_map.is_empty() {
            return names.iter().any(|name| name.as_bytes() == user);
        }
        self.user_map.iter().any(|(name, mapped)| mapped.as_bytes() == user && names.contains(name))
    }
}

/// One database clients may ask for, with everything inherited already filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseEntry {
    /// The name clients use; `*` is the fallback.
    pub name: String,
    /// Where its servers are.
    pub upstream: pool::Upstream,
    /// Limits of each of its pools.
    pub pool: pool::Settings,
    /// The rules of its conversations.
    pub rules: Rules,
    /// Whether clients over TCP must be encrypted.
    pub require_tls: bool,
    /// The identity of those users for whom it is another than in `rules`.
    pub identities: BTreeMap<String, IdentitySettings>,
    /// How users that are not listed are asked about; `None`: they are strangers.
    pub auth_query: Option<AuthQuerySettings>,
}

/// `auth_user` and what belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthQuerySettings {
    /// The role that asks.
    pub user: String,
    /// Its password; [`PasswordSource::Client`] is the database's own if that logs in as the same role, else none.
    pub password: PasswordSource,
    /// SQL that says, of the user that is `$1`: name, secret, and, optionally, the seconds that is still valid for.
    pub query: String,
    /// Where it is run; `None` is the database itself.
    pub dbname: Option<String>,
    /// How long an answer holds.
    pub ttl: Duration,
    /// How long it holds that there is no such user, and how often at most a user is asked about again.
    pub negative_ttl: Duration,
}

impl AuthQuerySettings {
    /// Asks `pg_shadow`, which has no roles that may not log in, and leaves out passwords that have expired
    /// (CVE-2025-2291). Qualified down to the operators: whoever can create in a schema of the `search_path` could
    /// otherwise answer instead (CVE-2025-12819).
    pub const QUERY: &str = "select usename, passwd, pg_catalog.date_part('epoch', valuntil) operator(pg_catalog.-) \
         pg_catalog.date_part('epoch', pg_catalog.now()) from pg_catalog.pg_shadow \
         where usename operator(pg_catalog.=) $1 \
         and (valuntil is null or valuntil operator(pg_catalog.>) pg_catalog.now())";
}

/// One user, and what differs for it. `None` is: as the database says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserEntry {
    /// The role's name.
    pub name: String,
    /// What it must know.
    pub secret: Option<Secret>,
    /// Its own pooling mode.
    pub mode: Option<crate::session::Mode>,
    /// Its own pool size.
    pub size: Option<usize>,
    /// Its own minimum.
    pub min: Option<usize>,
    /// Which of several hosts will do for it.
    pub target_session_attrs: Option<pool::TargetSessionAttrs>,
    /// Most clients of this user; `None` is no bound.
    pub max_clients: Option<usize>,
    /// Most servers of this user over all databases; `None` is no bound.
    pub max_servers: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_good_for_the_users_it_is_mapped_to() {
        let names = ["spiffe://a/b".to_owned(), "ann".to_owned()];
        let mapped = |map: &[(&str, &str)]| CertificateUsers {
            user_map: map.iter().map(|(name, user)| ((*name).into(), (*user).into())).collect(),
            ..CertificateUsers::default()
        };
        for (map, user, admitted) in [
            (&[][..], "ann", true),
            (&[], "Ann", false),
            (&[], "", false),
            (&[("spiffe://a/b", "app"), ("spiffe://a/b", "other")], "other", true),
            (&[("spiffe://a/b", "app")], "ann", false),
            (&[("ann", "app"), ("bob", "boss")], "boss", false),
        ] {
            assert_eq!(mapped(map).admit(&names, user.as_bytes()), admitted, "{map:?} {user}");
        }
    }
}
