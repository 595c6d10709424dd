//! What is said to the operator's log, and in which form.
//!
//! # Promises
//! - One subscriber, set once by `app`; everything else only emits events.
//! - Text or JSON, one line per event. Values from strangers go through [`crate::names::Printable`].
//!
//! # Refuses
//! To log SQL, bound values, identities or secrets.

use std::fmt;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// `time level target: message field=value`.
    #[default]
    Text,
}

/// `[log]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A level, or filters such as `info,pgusher::pool=debug`.
    pub level: String,
    /// How lines look.
    pub format: Format,
    /// Whether each connection opened and closed is a line.
    pub connections: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::default(), connections: true }
    }
}

/// Whether `level` can be understood; the text says why not.
///
/// # Errors
/// What tracing's own filter says of it.
pub fn check_level(level: &str) -> Result<(), String> {
    EnvFilter::from_str(level).map(drop).map_err(|error| error.to_string())
}

/// The log that was started: its level can change.
pub struct Log(Box<dyn Fn(&str) -> bool + Send + Sync>);

impl Log {
    /// Logs at this level from now on; says whether it could be understood.
    pub fn set_level(&self, level: &str) -> bool {
        (self.0)(level)
    }

    /// A log that was started by somebody else.
    pub fn none() -> Self {
        Self(Box::new(|_| true))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// Starts logging to standard error. Called once.
pub fn start(settings: &Settings) -> Log {
    let filter = EnvFilter::from_str(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match settings.format {
        Format::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Log(Box::new(move |level| EnvFilter::from_str(level).is_ok_and(|it| handle.reload(it).is_ok())))
        }
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Log(Box::new(move |level| EnvFilter::from_str(level).is_ok_and(|it| handle.reload(it).is_ok())))
        }
    }
}
