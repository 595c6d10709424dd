//! The identity contract: every transaction runs with exactly the identity of the client that sent it.
//!
//! The property under test is *not executed*, rather than *undone* or *noticed*: no statement of a client's runs on a
//! server unless that client's identity was committed there after anybody else's use of it. Two users, A and B, share a
//! pool that is as small as can be, and neither ever sees, or acts as, the other.
//!
//! Every test carries the number of its line in the contract's list; 35 is in `crate::doctor`.

mod canary;
mod cancels;
mod claims;
mod deaths;
mod failures;
mod leftovers;
mod login;
mod pipelines;
mod servers;
mod stage;
mod statements;
mod tokens;
mod transactions;
mod variables;

use stage::{A, B, ME, Setting, Stage, act, first_column, is, me};

/// Makes of one scenario a test for each major, in the clear and in TLS, one for each other transport (60), and for each other form of the injection.
#[macro_export]
macro_rules! contract {
    ($( $(#[$about:meta])* async fn $name:ident($setting:ident: Setting) $scenario:block )+) => { $(
        $(#[$about])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::harness::Postgres;
            use $crate::identity::stage::{Form, Setting, Transport};

            async fn scenario($setting: Setting) $scenario

            async fn on(major: u16, transport: Transport) {
                said(major, transport, Form::Bound).await;
            }

            async fn said(major: u16, transport: Transport, form: Form) {
                let setting = Setting::new(Postgres::shared(major).await, transport, form).await;
                Box::pin(scenario(setting)).await;
            }

            #[tokio::test]
            async fn on_14() { on(14, Transport::Tcp).await }
            #[tokio::test]
            async fn on_15() { on(15, Transport::Tcp).await }
            #[tokio::test]
            async fn on_16() { on(16, Transport::Tcp).await }
            #[tokio::test]
            async fn on_17() { on(17, Transport::Tcp).await }
            #[tokio::test]
            async fn on_18() { on(18, Transport::Tcp).await }
            #[tokio::test]
            async fn over_tls_on_14() { on(14, Transport::Tls).await }
            #[tokio::test]
            async fn over_tls_on_15() { on(15, Transport::Tls).await }
            #[tokio::test]
            async fn over_tls_on_16() { on(16, Transport::Tls).await }
            #[tokio::test]
            async fn over_tls_on_17() { on(17, Transport::Tls).await }
            #[tokio::test]
            async fn over_tls_on_18() { on(18, Transport::Tls).await }
            #[tokio::test]
            async fn over_unix_sockets() { on(17, Transport::Unix).await }
            #[tokio::test]
            async fn with_random_delays() { on(18, Transport::Jittery).await }
            #[tokio::test]
            async fn said_literally() { said(16, Transport::Tcp, Form::Literal).await }
            #[tokio::test]
            async fn by_login_on_15() { said(15, Transport::Tcp, Form::Login).await }
            #[tokio::test]
            async fn by_login_on_18() { said(18, Transport::Tcp, Form::Login).await }
        }
    )+ };
}
