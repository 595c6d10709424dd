//! What the tests stand on: real PostgreSQL servers, the pooler as a process, and peers that speak raw protocol.
//!
//! ```text
//!  Raw ──► DelayProxy ──► Pgusher ──► DelayProxy ──► Postgres | FakeServer
//!   └──────────── the same script, directly ────────────┘        (compare)
//! ```
//!
//! # Promises
//! - Nothing outlives the test process: not when it panics, not when it is killed.
//! - Whatever is missing fails the test and says what to run.
//! - No pooler ends with a secret of a test in its output.
//! - No test waits longer than [`PATIENCE`] without failing.

pub mod activity;
pub mod answer;
pub mod compare;
pub mod delay_proxy;
pub mod dice;
pub mod fake_server;
pub mod frame;
pub mod http;
pub mod issuer;
pub mod pgusher;
pub mod port;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod raw;
pub mod say;
pub mod secrets;
pub mod service;
pub mod tls;

use std::time::Duration;

use tokio::time::Instant;

pub use compare::{Comparison, same_answers};
pub use delay_proxy::DelayProxy;
pub use dice::Dice;
pub use fake_server::FakeServer;
pub use frame::{Frame, notation};
pub use pgusher::Pgusher;
pub use postgres::{MAJORS, Postgres, StopMode};
pub use prometheus::Prometheus;
pub use raw::{Raw, Target};
pub use service::Service;
pub use tls::{Ca, Issued};

/// How long an event may take before its test fails. Generous: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is `Some`, and fails after `patience`.
pub async fn eventually<T>(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes of one scenario a test for each major: `a_name::on_14` … `a_name::on_18`.
///
/// ```ignore
/// on_every_major! {
///     async fn an_empty_query_is_answered(postgres: Postgres) { … }
/// }
/// ```
#[macro_export]
macro_rules! on_every_major {
    ($( $(#[$about:meta])* async fn $name:ident($postgres:ident: Postgres) $scenario:block )+) => { $(
        $(#[$about])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::harness::Postgres;

            async fn scenario($postgres: Postgres) $scenario

            #[tokio::test]
            async fn on_14() { Box::pin(scenario(Postgres::shared(14).await)).await }
            #[tokio::test]
            async fn on_15() { Box::pin(scenario(Postgres::shared(15).await)).await }
            #[tokio::test]
            async fn on_16() { Box::pin(scenario(Postgres::shared(16).await)).await }
            #[tokio::test]
            async fn on_17() { Box::pin(scenario(Postgres::shared(17).await)).await }
            #[tokio::test]
            async fn on_18() { Box::pin(scenario(Postgres::shared(18).await)).await }
        }
    )+ };
}
