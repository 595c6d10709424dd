//! What operators see: the log and the metrics.
//!
//! ```text
//!  metrics      what there is to be measured, each with its name and meaning
//!  instruments  what counts, kept by the rooms that know
//!  page         the text a scraper reads
//! ```

pub mod instruments;
pub mod log;
pub mod metrics;
pub mod page;
