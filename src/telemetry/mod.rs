//! What operators see: the log, and later the metrics.

pub mod log;
