//! What is asked of a running pgusher from outside, by machines: metrics and health over HTTP.
//!
//! ```text
//!  http    bytes to requests and back, bounded
//!    └─► route    which request is for what; the answers
//!          ├─► health   alive, started, ready
//!          └─► scrape   every number there is ──► telemetry::page
//!                ├─► pgbouncer  the same under the names people have dashboards for
//!                └─► process   what the system says of us
//! ```
//!
//! # Promises
//! - Who can reach the port can read numbers and states, no names beyond databases and roles, no SQL, no identities.
//! - Whatever is sent here, clients are served.
//!
//! # Refuses
//! To change anything, but to drain when told so from the loopback.

mod health;
pub mod http;
mod pgbouncer;
mod process;
mod route;
mod scrape;
mod settings;

use std::sync::Arc;
use std::time::SystemTime;

pub use settings::{Compat, Settings};

use crate::admin::health::Health;
use crate::admin::scrape::Scraper;
use crate::proxy::Proxy;
use crate::telemetry::instruments::Counter;

/// What is asked, and of whom.
pub struct Admin {
    proxy: Arc<Proxy>,
    health: Health,
    scraper: Scraper,
    last_reload: Box<dyn Fn() -> Reload + Send + Sync>,
    /// Connections that were closed because too many were open.
    rejections: Counter,
}

/// How the configuration was read last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reload {
    /// Whether what was read is what runs.
    pub is_applied: bool,
    /// When.
    pub at: SystemTime,
}

impl Admin {
    /// Of this pooler; who reloads says how that went.
    pub fn new(
        proxy: Arc<Proxy>,
        settings: &Settings,
        last_reload: impl Fn() -> Reload + Send + Sync + 'static,
    ) -> Self {
        Self {
            health: Health::default(),
            scraper: Scraper::new(settings),
            last_reload: Box::new(last_reload),
            rejections: Counter::default(),
            proxy,
        }
    }
}
