//! What clients with the same startup settings are told: made once, shared by all of them.
//!
//! # Promises
//! - The tables and the words of a greeting are one allocation each, however many clients have been greeted with it.
//!
//! # Refuses
//! To know whether it still holds: a [`crate::pool::Pool`] makes it anew when its servers report something else.

use bytes::{Bytes, BytesMut};

use crate::session::opening;
use crate::session::{Parameters, Values};

/// Startup settings that a server has accepted, and what follows from them.
#[derive(Debug)]
pub struct Greeting {
    /// The settings, in the server's words.
    pub values: Values,
    /// What a client with them is told.
    pub told: Parameters,
    /// The same as bytes, one ParameterStatus after the other.
    pub words: Bytes,
    /// What servers report without them.
    baseline: Parameters,
}

impl Greeting {
    /// What servers that report this will report with these settings.
    pub(super) fn new(values: Values, baseline: Parameters) -> Self {
        let mut told = baseline.clone();
        for (name, value) in values.iter() {
            if told.value(name).is_some() {
                told.set(name, value);
            }
        }
        let mut words = BytesMut::new();
        opening::tell(&mut words, told.iter());
        Self { values, told, words: words.freeze(), baseline }
    }

    /// Whether it was made of this.
    pub(super) fn is_of(&self, baseline: &Parameters) -> bool {
        self.baseline.is_same(baseline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_report_is_told_as_the_client_wants_it() {
        let table = |entries: &[(&'static str, &'static str)]| -> Vec<(&[u8], &[u8])> {
            entries.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
        };
        let baseline: Parameters =
            table(&[("TimeZone", "UTC"), ("is_superuser", "off")]).into_iter().collect();
        let values: Values = table(&[("timezone", "CET"), ("work_mem", "8MB")]).into_iter().collect();

        let greeting = Greeting::new(values, baseline.clone());

        let told: Parameters = table(&[("TimeZone", "CET"), ("is_superuser", "off")]).into_iter().collect();
        let mut words = BytesMut::new();
        opening::tell(&mut words, told.iter());
        assert_eq!((&greeting.told, &greeting.words[..]), (&told, &words[..]));
        assert!(greeting.is_of(&baseline) && !greeting.is_of(&told));
    }
}
