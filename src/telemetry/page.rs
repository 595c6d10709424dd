//! The text a scraper reads: Prometheus' own format, or OpenMetrics.
//!
//! # Promises
//! - Nothing is on it that is not in a catalogue, each family once, with its meaning, type and the labels it is said to have.
//! - Label values come from strangers: they are escaped and cut, and cannot end a line.
//!
//! # Refuses
//! To know what is measured.

use std::fmt::Display;

use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};

use crate::telemetry::instruments::Distribution;
use crate::telemetry::metrics::{Kind, Metric};

/// Longest a label value may be, in characters. PostgreSQL cuts names at 63 bytes.
const LONGEST_VALUE: usize = 128;

/// In which format a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format, 0.0.4.
    Text,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics if it is named and plain text is not wanted more.
    pub fn asked_for(accept: &str) -> Self {
        let (openmetrics, text) =
            (quality(accept, "application/openmetrics-text"), quality(accept, "text/plain"));
        if openmetrics > 0.0 && openmetrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How much a media type is wanted, from 0 (not named) to 1 (RFC 9110, 12.5.1).
fn quality(accept: &str, media: &str) -> f32 {
    let of_range = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media));
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        is_it.then(|| quality.unwrap_or(1.0))
    };
    accept.split(',').filter_map(of_range).fold(0.0, f32::max)
}

/// A label value, no longer than it may be.
pub fn cut(value: &str) -> String {
    value.chars().take(LONGEST_VALUE).collect()
}

/// The labels of one series.
pub struct Labels(LabelSet);

impl Labels {
    /// These, as names and values.
    pub fn of(labels: &[(&'static str, &str)]) -> Self {
        let labels: Vec<_> = labels.iter().map(|(name, value)| Label::new(*name, cut(value))).collect();
        let key = Key::from_parts("", labels);
        Self(LabelSet::from_key_and_global(&key, &Default::default()))
    }

    /// None.
    pub fn none() -> Self {
        Self::of(&[])
    }
}

/// A page being written.
pub struct Page {
    text: String,
    format: Format,
}

impl Page {
    /// Nothing yet.
    pub fn new(format: Format) -> Self {
        Self { text: String::new(), format }
    }

    /// Begins a family; its samples follow, and nothing else may come between.
    pub fn family<'a>(&'a mut self, metric: &'a Metric) -> Family<'a> {
        let name = match self.format {
            Format::OpenMetrics => metric.name.strip_suffix("_total").unwrap_or(metric.name),
            Format::Text => metric.name,
        };
        write_help_line(&mut self.text, name, None, None, metric.meaning);
        write_type_line(&mut self.text, name, None, None, metric.kind.word());
        if self.format == Format::OpenMetrics && !metric.unit.is_empty() && name.ends_with(metric.unit) {
            self.text.push_str(&format!("# UNIT {name} {}\n", metric.unit));
        }
        Family { page: self, metric }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The samples of one metric.
pub struct Family<'a> {
    page: &'a mut Page,
    metric: &'a Metric,
}

impl Family<'_> {
    /// A counter's or a gauge's value.
    pub fn value(&mut self, labels: &Labels, value: impl Display) -> &mut Self {
        debug_assert_ne!(self.metric.kind, Kind::Histogram);
        let name = self.metric.name;
        write_metric_line(&mut self.page.text, name, None, &labels.0, None::<(_, &str)>, value, None);
        self
    }

    /// A value for one word of the metric's last label.
    pub fn word(&mut self, labels: &Labels, word: &'static str, value: impl Display) -> &mut Self {
        let label = self.metric.labels.last().copied().unwrap_or("word");
        let name = self.metric.name;
        write_metric_line(&mut self.page.text, name, None, &labels.0, Some((label, word)), value, None);
        self
    }

    /// A value for each word of the metric's last label.
    pub fn words<V: Display>(
        &mut self,
        labels: &Labels,
        words: &[&'static str],
        values: impl IntoIterator<Item = V>,
    ) -> &mut Self {
        for (word, value) in words.iter().zip(values) {
            self.word(labels, word, value);
        }
        self
    }

    /// A histogram.
    pub fn distribution(&mut self, labels: &Labels, read: &Distribution) -> &mut Self {
        let (name, labels, format) = (self.metric.name, &labels.0, self.page.format);
        let text = &mut self.page.text;
        for (end, count) in read.cumulative() {
            // OpenMetrics has "1.0" where Prometheus has "1".
            let end = match format {
                Format::OpenMetrics => format!("{:?}", end.as_secs_f64()),
                Format::Text => end.as_secs_f64().to_string(),
            };
            write_metric_line(text, name, Some("bucket"), labels, Some(("le", end)), count, None);
        }
        let count = read.count();
        write_metric_line(text, name, Some("bucket"), labels, Some(("le", "+Inf")), count, None);
        write_metric_line(text, name, Some("sum"), labels, None::<(_, &str)>, read.sum.as_secs_f64(), None);
        write_metric_line(text, name, Some("count"), labels, None::<(_, &str)>, count, None);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::instruments::Latency;

    const EVENTS: Metric = Metric {
        name: "x_events_total",
        kind: Kind::Counter,
        unit: "",
        labels: &["user"],
        meaning: "Events.",
    };
    const WAIT: Metric = Metric {
        name: "x_wait_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "Waits.",
    };

    fn page(format: Format) -> String {
        let latency = Latency::default();
        latency.observe(Duration::from_millis(1_500));
        let mut page = Page::new(format);
        page.family(&EVENTS).value(&Labels::of(&[("user", "a\"\nb")]), 3);
        page.family(&WAIT).distribution(&Labels::none(), &latency.read());
        page.finish()
    }

    #[test]
    fn text_has_a_counters_whole_name_in_its_type() {
        let text = page(Format::Text);

        assert!(text.starts_with(
            "# HELP x_events_total Events.\n# TYPE x_events_total counter\nx_events_total{user=\"a\\\"\\nb\"} 3\n"
        ), "{text}");
        assert!(
            text.contains("x_wait_seconds_bucket{le=\"1\"} 0\nx_wait_seconds_bucket{le=\"2.5\"} 1\n"),
            "{text}"
        );
        assert!(text.ends_with("x_wait_seconds_sum 1.5\nx_wait_seconds_count 1\n"), "{text}");
    }

    #[test]
    fn openmetrics_has_units_and_an_end() {
        let text = page(Format::OpenMetrics);

        assert!(text.contains("# TYPE x_events counter\nx_events_total{"), "{text}");
        assert!(text.contains("# UNIT x_wait_seconds seconds\n"), "{text}");
        assert!(text.contains("{le=\"1.0\"} 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn the_format_is_the_one_that_is_wanted_most() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text; q=0.2, text/plain; q=0.9", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("text/html", Format::Text),
            ("*/*", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(Format::asked_for(accept), expected, "{accept}");
        }
    }
}
