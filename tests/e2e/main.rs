//! The pooler between real clients and real servers, PostgreSQL 14 to 18.
//!
//! `make test` installs what this needs; `tests/setup.sh` does so without running anything. A module is a behaviour,
//! a test is a sentence about it. Most compare what a client hears through the pooler with what it hears without.

// Tests speak by panicking, and the harness offers more than every build of it uses.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]
// A test's future is awaited once, on a thread of its own.
#![allow(clippy::large_futures)]

mod half_open;
mod harness;

mod harness_selftest;

mod affinity;
mod alerts;
mod auth;
mod auth_query;
mod cancel;
mod check;
mod console;
mod copy;
mod crowds;
mod demo;
mod doctor;
mod drain;
mod drivers;
mod example_app;
mod extended;
mod failover;
mod hidden_state;
mod identity;
mod limits;
mod listening;
mod metrics;
mod odd_servers;
mod passwords;
mod preludes;
mod prepared;
mod reload;
mod replication;
mod rolling;
mod rules;
mod server_trouble;
mod session_state;
mod simple;
mod storm;
mod timeouts;
mod tls;
mod transaction_mode;
