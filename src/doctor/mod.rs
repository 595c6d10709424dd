//! What lets a user through, found before a user finds it.
//!
//! The pooler says for whom a transaction runs; whether that keeps users apart is up to the roles, policies, functions and grants of
//! the database. `pgusher doctor` reads them from the catalogues, with the login that the pools would use, and for everything
//! that is wrong says what it is, why it matters, and the SQL that mends it.
//!
//! ```text
//!  rounds ──► check (the logins) ──► ask: SQL and rows ──► chart: what the catalogues say
//!    │                                    └────► judge: policies tried out, as nobody and as a stranger
//!    └──► diagnosis: chart and verdicts in, findings out; text: how policies are read and rewritten
//!              └──► finding: how they are said
//! ```
//!
//! # Promises
//! - Nothing is changed: every statement runs in a transaction that is read-only and rolled back.
//! - Every named database is examined; one that cannot be reached hides none of the findings of another.
//! - The SQL of a finding, run by a superuser in that database, ends the finding.
//!
//! # Refuses
//! To need more rights than the application's own: the catalogues it reads are open to every role.

mod ask;
mod chart;
mod diagnosis;
mod finding;
mod judge;
mod rounds;
mod text;

pub(crate) use ask::Session;
pub use finding::{Finding, Report, Severity};
pub use rounds::{Visit, examine};
pub(crate) use rounds::{connect, named};
