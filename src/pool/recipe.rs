//! What a pool is made of, and what it means when that changes.
//!
//! # Promises
//! - What changes nothing about the servers there are leaves every one of them alone.
//! - Recipes have editions: one that is older than what a pool has already changes nothing.
//!
//! # Refuses
//! To act: [`Pool::reconfigure`](crate::pool::Pool::reconfigure) does.

use std::sync::Arc;

use crate::pool::cap::Cap;
use crate::pool::settings::{Settings, Upstream};

/// What a pool is made of.
#[derive(Clone)]
pub struct Recipe {
    /// Which reading of the configuration says so.
    pub edition: u64,
    /// Where its servers are.
    pub upstream: Arc<Upstream>,
    /// Its limits.
    pub settings: Arc<Settings>,
    /// The variables of the identities that are injected.
    pub identity_variables: Arc<[String]>,
    /// Whether statements are kept on its servers under names of ours.
    pub keeps_statements: bool,
    /// The caps it counts against besides the total.
    pub caps: Vec<Arc<Cap>>,
}

/// What another recipe asks of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// Other limits, on the same servers.
    Limits,
    /// Other servers: those there are must go.
    Servers,
}

impl Recipe {
    /// What it takes to get from this recipe to that one.
    pub(super) fn change_to(&self, next: &Self) -> Change {
        if next.edition < self.edition {
            return Change::None;
        }
        let is_capped_anew =
            next.caps.iter().any(|cap| !self.caps.iter().any(|known| Arc::ptr_eq(known, cap)));
        if !is_same_place(&self.upstream, &next.upstream)
            || self.identity_variables != next.identity_variables
            || self.keeps_statements != next.keeps_statements
            || is_capped_anew
        {
            return Change::Servers;
        }
        let is_same = self.settings == next.settings
            && self.upstream == next.upstream
            && self.caps.len() == next.caps.len();
        if is_same { Change::None } else { Change::Limits }
    }
}

/// Whether servers of one are as good as servers of the other. What is counted, or said for each client, is not about servers.
fn is_same_place(one: &Arc<Upstream>, other: &Arc<Upstream>) -> bool {
    let bare = |upstream: &Upstream| Upstream {
        max_servers: None,
        max_clients: None,
        application_name_add_client: false,
        ..upstream.clone()
    };
    Arc::ptr_eq(one, other) || bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::{ServerSettings, SslMode};
    use crate::pool::settings::{Host, PasswordSource};
    use crate::session::login::BindingPolicy;

    fn upstream(port: u16) -> Upstream {
        Upstream {
            hosts: vec![Host::Tcp { host: "h".into(), port }],
            dbname: None,
            user: None,
            password: PasswordSource::Client,
            tls: ServerSettings::default(),
            channel_binding: BindingPolicy::default(),
            application_name: None,
            application_name_add_client: false,
            settings: Vec::new(),
            connect_query: None,
            max_servers: None,
            max_clients: None,
        }
    }

    fn recipe() -> Recipe {
        Recipe {
            edition: 1,
            upstream: Arc::new(upstream(1)),
            settings: Arc::default(),
            identity_variables: Arc::new(["app.a".into()]),
            keeps_statements: true,
            caps: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_about_servers_asks_for_others() {
        let (now, next) = (recipe(), || Recipe { edition: 2, ..recipe() });
        let limits = Settings { size: 3, ..Settings::default() };
        let tls = ServerSettings { sslmode: SslMode::Require, ..ServerSettings::default() };
        let encrypted = Upstream { tls, ..upstream(1) };
        let counted = Upstream { max_clients: Some(1), application_name_add_client: true, ..upstream(1) };

        for (next, expected) in [
            (next(), Change::None),
            (Recipe { settings: Arc::new(limits), ..next() }, Change::Limits),
            (Recipe { upstream: Arc::new(counted), ..next() }, Change::Limits),
            (Recipe { upstream: Arc::new(upstream(2)), ..next() }, Change::Servers),
            (Recipe { upstream: Arc::new(encrypted), ..next() }, Change::Servers),
            (Recipe { identity_variables: Arc::default(), ..next() }, Change::Servers),
            (Recipe { keeps_statements: false, ..next() }, Change::Servers),
            (Recipe { caps: vec![Arc::new(Cap::new(1))], ..next() }, Change::Servers),
            (Recipe { edition: 0, upstream: Arc::new(upstream(2)), ..next() }, Change::None),
        ] {
            assert_eq!(now.change_to(&next), expected);
        }
    }
}
