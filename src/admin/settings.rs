//! What the operator decides about metrics and health.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::net::SocketAddr;

/// Names of others that are served besides our own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compat {
    /// None.
    #[default]
    Off,
    /// Those of prometheus-community's pgbouncer_exporter.
    PgBouncer,
}

/// `[metrics]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where metrics and health are served; `None` is nowhere.
    pub listen: Option<SocketAddr>,
    /// Names of others.
    pub compat: Compat,
    /// Pools that are labelled with their own names; the rest is `other`.
    pub max_pools: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9930))),
            compat: Compat::default(),
            max_pools: 200,
        }
    }
}
