//! `pgusher import pgbouncer.ini`: a configuration of PgBouncer 1.25, said again in ours.
//!
//! Whoever comes from PgBouncer has a file that works, and should neither translate it by hand nor find out in
//! production what was lost on the way. A room of its own because it is the only one that knows PgBouncer's keys.
//!
//! ```text
//!  pgbouncer.ini ─► ini ─► entries ─► translate ─► document ─► TOML
//!                    │                   │   ▲                   │
//!                    │         settings: every key of [pgbouncer]│
//!                    └───────────────────┴─► remarks ◄───────────┘ held against config
//! ```
//!
//! # Promises
//! - Text in, text out: the file is read as PgBouncer reads it (`cfparser.c`, `loader.c`), `%include` too.
//! - Every key of PgBouncer is carried over, or said to be what happens anyway, or named with the reason why not.
//! - Where a default of PgBouncer is not ours, it is written out: what nobody wrote means the same as before.
//! - What is returned without an error is a configuration that `pgusher check` accepts.
//!
//! # Refuses
//! To connect, to write files, to repeat a password in a remark, to open `auth_file` (it is carried over by its path).

mod document;
mod ini;
mod pairs;
mod remark;
mod settings;
mod translate;

pub use crate::import::remark::{Kind, Remark, Remarks};
pub use crate::import::settings::known;
pub use crate::import::translate::{Imported, Sources, import};
