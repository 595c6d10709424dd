//! What the operator decides about metrics and health.
//!
//! # Refuses
//! To parse: `config` makes these from what was written.

use std::net::SocketAddr;

/// `[metrics]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where metrics and health are served; `None` is nowhere.
    pub listen: Option<SocketAddr>,
    /// Pools that are labelled with their own names; the rest is `other`.
    pub max_pools: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9930))), max_pools: 200 }
    }
}
