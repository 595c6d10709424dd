//! pgusher
pub mod app;
pub mod auth;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod drain;
pub mod names;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod session;
pub mod telemetry;
pub mod wire;
