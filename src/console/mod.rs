//! The console: a person with `psql`, or a tool made for PgBouncer, sees what happens and steers it.
//!
//! ```text
//!  session   messages, and the simple protocol
//!    ├─► extended   Parse, Bind, Describe, Execute
//!    ├─► command   what is meant by a text
//!    ├─► show      tables, column by column PgBouncer's
//!    │     ├─► sockets    those of connections
//!    │     └─► averages   what happened in the last minute
//!    └─► steer     PAUSE, RESUME, RELOAD …
//! ```
//!
//! # Promises
//! - Columns are those of PgBouncer 1.25.2 in name, order, count and type: exporters parse by name or by position. What is
//!   ours alone is in commands of its own.
//! - What drivers say at the start is answered; what nobody knows is an error, and the connection stays.
//! - A reader can only see.
//!
//! # Refuses
//! - To show a secret, a statement or an identity: there are counts of them, no values. So there is no SHOW FDS.
//! - SUSPEND, which is for PgBouncer's own online restart.

mod averages;
mod command;
mod extended;
mod session;
mod show;
mod sockets;
mod steer;
mod table;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::console::averages::Averages;
use crate::proxy::Proxy;
use crate::proxy::console::Visitor;
use crate::reload::Reloader;

/// What is shown, and what steers.
pub struct Console {
    proxy: Arc<Proxy>,
    reloader: Arc<Reloader>,
    averages: Averages,
}

impl Console {
    /// Of this pooler.
    pub fn new(proxy: Arc<Proxy>, reloader: Arc<Reloader>) -> Self {
        Self { proxy, reloader, averages: Averages::default() }
    }

    /// Takes the averages, for ever.
    ///
    /// Cancel safe.
    pub async fn measure(self: Arc<Self>) {
        let mut round = tokio::time::interval(averages::PERIOD);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            round.tick().await;
            self.averages.take(show::sums(&self.proxy));
        }
    }
}

impl crate::proxy::console::Console for Console {
    fn serve(self: Arc<Self>, visitor: Visitor) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(session::serve(self, visitor))
    }
}
