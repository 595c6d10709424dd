//! "5s", "16kB", "1h30m": quantities as operators write them.
//!
//! PostgreSQL's own units, so that a value may be copied from `postgresql.conf` with its unit: a kilobyte is 1024
//! bytes, however it is spelled.
//!
//! # Promises
//! - No number is too large to be read: it is refused, never wrapped, rounded or panicked over.
//! - What [`show_duration`] and [`show_size`] write reads back as the same value.
//!
//! # Refuses
//! Fractions, signs, blanks inside, numbers without a unit (but 0): a guess about a unit is wrong by 1000.

use std::time::Duration;

/// The longest duration that is accepted, ten years: beyond it clocks overflow before anybody cares.
pub(super) const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Microseconds in each unit of time, longest first; `m` is PostgreSQL's `min`.
const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Bytes in each unit of size, largest first of each spelling.
const SIZES: &[(&str, usize)] = &[
    ("GB", 1 << 30),
    ("MB", 1 << 20),
    ("kB", 1 << 10),
    ("B", 1),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// A duration such as `5s`, `1h30m`, `500us` or `0`, at most ten years.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0_u64;
    let mut last_scale = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() || last_scale == u64::MAX {
        let (number, unit, after) = quantity(rest)?;
        let scale = TIMES.iter().find(|(name, _)| *name == unit)?.1;
        if scale >= last_scale {
            return None;
        }
        total = total.checked_add(number.checked_mul(scale)?)?;
        (last_scale, rest) = (scale, after);
    }
    Some(Duration::from_micros(total)).filter(|total| *total <= LONGEST)
}

/// A number of bytes such as `16kB`, `64KiB` or `0`.
pub(super) fn size(text: &str) -> Option<usize> {
    if text == "0" {
        return Some(0);
    }
    let (number, unit, after) = quantity(text)?;
    let scale = SIZES.iter().find(|(name, _)| *name == unit)?.1;
    if !after.is_empty() {
        return None;
    }
    usize::try_from(number).ok()?.checked_mul(scale)
}

/// The shortest text that [`duration`] reads as `duration`, to the microsecond.
pub(super) fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, scale) in TIMES.iter().filter(|(unit, _)| !matches!(*unit, "d" | "min")) {
        if rest >= *scale {
            text += &format!("{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    if text.is_empty() { "0".into() } else { text }
}

/// The shortest text that [`size`] reads as `bytes`.
pub(super) fn show_size(bytes: usize) -> String {
    match SIZES.iter().find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

/// The digits at the front, the letters after them, and what follows.
fn quantity(text: &str) -> Option<(u64, &str, &str)> {
    let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (unit, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
    Some((digits.parse().ok()?, unit, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, micros) in [
            ("0", 0),
            ("0s", 0),
            ("500us", 500),
            ("200ms", 200_000),
            ("5s", 5_000_000),
            ("1m", 60_000_000),
            ("1min", 60_000_000),
            ("1h30m", 5_400_000_000),
            ("2h", 7_200_000_000),
            ("1d", 86_400_000_000),
            ("1d2h3m4s5ms6us", 93_784_005_006),
            ("007s", 7_000_000),
            ("3650d", 315_360_000_000_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn durations_without_a_clear_unit_are_refused() {
        for text in [
            "", " ", "s", "5", "00", "-5s", "+5s", "1.5s", "5 s", " 5s", "5s ", "5S", "5sec", "5M", "30m1h",
            "1s1s", "1m1min", "1h30", "5µs", "5ms5", "off", "٣s",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn durations_beyond_ten_years_are_refused_and_never_wrap() {
        for text in
            ["3651d", "3650d1us", "18446744073709551615d", "18446744073709551616us", "99999999999999999999h"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615us"), None);
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1B", 1),
            ("16kB", 16 << 10),
            ("64KiB", 64 << 10),
            ("8MB", 8 << 20),
            ("8MiB", 8 << 20),
            ("1GB", 1 << 30),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_without_a_clear_unit_are_refused_and_never_wrap() {
        for text in [
            "",
            "B",
            "16",
            "16KB",
            "16kb",
            "1.5MB",
            "-1B",
            "1MB1kB",
            "8 MB",
            "8M",
            "18446744073709551615GB",
            "99999999999999999999B",
        ] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for micros in [0, 1, 999, 1_000, 200_000, 1_000_000, 5_400_000_000, 86_400_000_000, 93_784_005_006] {
            let value = Duration::from_micros(micros);
            assert_eq!(duration(&show_duration(value)), Some(value), "{micros}");
        }
        for bytes in [0, 1, 1023, 1024, 1025, 64 << 10, 8 << 20, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Some(bytes), "{bytes}");
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h30m");
        assert_eq!(show_size(8 << 20), "8MB");
    }
}
