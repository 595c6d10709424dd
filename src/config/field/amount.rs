//! Numbers, durations, sizes, permissions, and the words of a list.
//!
//! The promises are those of [`Field`].

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::field::{Field, Number, OFF, count};
use crate::config::units;
use crate::config::value::{Value, quoted};
use crate::config::word::{Choice, alternatives, chosen, word};

const DURATION: &str = "such as \"200ms\", \"5s\" or \"1h30m\"";
const MOST_BYTES: usize = 1 << 30;

pub(super) struct Count<'a, N> {
    pub(super) at: &'a mut N,
    pub(super) range: RangeInclusive<N>,
}

impl<N: Number> Field for Count<'_, N> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let number = value.integer().and_then(|number| N::try_from(number).ok());
        *self.at = number.filter(|number| self.range.contains(number)).ok_or_else(|| {
            format!("expected a whole number from {} to {}", self.range.start(), self.range.end())
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        self.at.to_string()
    }
}

pub(super) struct CountOr<'a, N> {
    pub(super) at: &'a mut Option<N>,
    pub(super) least: i128,
    pub(super) most: N,
    pub(super) absent: &'static str,
}

impl<N: Number> Field for CountOr<'_, N> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some(self.absent) {
            *self.at = None;
            return Ok(());
        }
        let number = value
            .integer()
            .filter(|number| *number >= self.least)
            .and_then(|number| N::try_from(number).ok());
        let number = number.filter(|number| *number <= self.most).ok_or_else(|| {
            format!("expected a whole number from {} to {}, or {:?}", self.least, self.most, self.absent)
        })?;
        *self.at = Some(number);
        Ok(())
    }

    fn show(&self) -> String {
        self.at.map_or_else(|| quoted(self.absent), |number| number.to_string())
    }
}

pub(super) struct Workers<'a>(pub(super) &'a mut usize);

impl Field for Workers<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some("auto") {
            // Knows about affinity and cgroup quotas, that is: the CPUs of the container.
            *self.0 = std::thread::available_parallelism().map_or(1, usize::from);
            return Ok(());
        }
        count(self.0, 1..=1024).read(value).map_err(|error| error + ", or \"auto\"")
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

pub(super) struct OneOf<'a, C>(pub(super) &'a mut C);

impl<C: Choice> Field for OneOf<'_, C> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        *self.0 = chosen(value).ok_or_else(|| format!("expected {}", alternatives::<C>(&[])))?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(word(self.0))
    }
}

pub(super) struct OneOfOr<'a, C> {
    pub(super) at: &'a mut Option<C>,
    pub(super) absent: &'static str,
}

impl<C: Choice> Field for OneOfOr<'_, C> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let is_absent = value.text() == Some(self.absent);
        if is_absent || (self.absent == OFF && *value == Value::Bool(false)) {
            *self.at = None;
            return Ok(());
        }
        let word = chosen(value).ok_or_else(|| format!("expected {}", alternatives::<C>(&[self.absent])))?;
        *self.at = Some(word);
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.at.as_ref().map_or(self.absent, word))
    }
}

pub(super) struct Span<'a> {
    pub(super) at: &'a mut Duration,
    pub(super) least: Duration,
}

impl Field for Span<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = timespan(value).filter(|duration| *duration >= self.least);
        *self.at = read.ok_or_else(|| {
            let zero = if self.least.is_zero() { ", or 0" } else { "" };
            format!("expected a duration{zero}, {DURATION}")
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&units::show_duration(*self.at))
    }
}

pub(super) struct SpanOr<'a> {
    pub(super) at: &'a mut Option<Duration>,
    pub(super) is_zero_off: bool,
}

impl Field for SpanOr<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.text() == Some(OFF) || *value == Value::Bool(false) {
            *self.at = None;
            return Ok(());
        }
        let read = timespan(value).ok_or_else(|| format!("expected \"off\" or a duration, {DURATION}"))?;
        *self.at = Some(read).filter(|duration| !(self.is_zero_off && duration.is_zero()));
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.at.map_or_else(|| OFF.into(), units::show_duration))
    }
}

/// A duration; the only number that needs no unit is 0.
fn timespan(value: &Value) -> Option<Duration> {
    match value {
        Value::Integer(0) => Some(Duration::ZERO),
        value => units::duration(value.text()?),
    }
}

pub(super) struct Size<'a> {
    pub(super) at: &'a mut usize,
    pub(super) least: usize,
}

impl Field for Size<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let read = value.text().and_then(units::size);
        *self.at = read.filter(|bytes| (self.least..=MOST_BYTES).contains(bytes)).ok_or_else(|| {
            let (least, most) = (units::show_size(self.least), units::show_size(MOST_BYTES));
            format!("expected a size from {least} to {most}, such as \"64kB\" or \"8MB\"")
        })?;
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&units::show_size(*self.at))
    }
}

pub(super) struct Permissions<'a>(pub(super) &'a mut u32);

impl Field for Permissions<'_> {
    fn read(&mut self, value: &Value) -> Result<(), String> {
        let mode = value.text().and_then(octal).filter(|mode| *mode <= 0o777);
        *self.0 = mode.ok_or("expected permissions in octal and in quotes, from \"0000\" to \"0777\"")?;
        Ok(())
    }

    fn show(&self) -> String {
        format!("\"{:04o}\"", *self.0)
    }
}

/// Digits in octal, without the sign that Rust would allow.
fn octal(text: &str) -> Option<u32> {
    let is_number = text.chars().all(|c| c.is_digit(8));
    is_number.then(|| u32::from_str_radix(text, 8).ok())?
}
