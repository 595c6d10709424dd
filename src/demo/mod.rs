//! The main job, shown in a minute.
//!
//! A pooler is judged by what one would have to set up first: a server, a schema with policies, many clients. So the
//! program brings all of it along, and shows itself: it runs its own pooler as a user would, and asserts what it says.
//!
//! ```text
//!  show ──► terminal (psql), pgbench ──► sidecar (pgusher, another process) ──► postgres (of our own)
//!    └────────── programs: where PostgreSQL's are · process: what ends with us ──────┘
//! ```
//!
//! # Promises
//! - Nothing of yours is touched: a PostgreSQL of its own in a directory of its own, loopback, ports that are free.
//! - Whatever was started ends with us, also when we are killed; the directory goes too, unless it was SIGKILL.
//! - Success means that everything shown was as it should be: each step checks what it prints.
//!
//! # Refuses
//! To link a driver, or to call the pooler from inside: what is shown is what a user's processes would see.

mod failure;
mod postgres;
mod process;
mod programs;
mod show;
mod sidecar;
mod stop;
mod terminal;

pub use failure::Failure;
pub use show::run;
