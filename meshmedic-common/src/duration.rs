// SPDX-License-Identifier: Apache-2.0
//! Durations as Go writes them: `90s`, `5m`, `1h30m`, `1.5h`, `250ms`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DurationError {
    /// There is nothing between the quotes.
    #[error("a duration cannot be empty; write for example 90s, 5m or 1h30m")]
    Empty,
    /// Time does not run backwards here.
    #[error("a duration cannot be negative: {0}")]
    Negative(String),
    /// A number has no unit.
    #[error("{0} has no unit; write for example {0}s or {0}m")]
    NoUnit(String),
    /// Not a number followed by a unit.
    #[error("{0} is no duration; write for example 90s, 5m or 1h30m (units: h, m, s, ms, us, ns)")]
    Malformed(String),
    /// More than the years that nanoseconds can count.
    #[error("{0} is too long")]
    TooLong(String),
}

/// Reads a duration as Go's `time.ParseDuration` does, but for negative ones.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err(DurationError::Negative(text.to_owned()));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if !number.bytes().any(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let nanoseconds: u64 = match unit {
            "" => return Err(DurationError::NoUnit(text.to_owned())),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(malformed()),
        };
        let part = scaled(number, nanoseconds).ok_or_else(malformed)?;
        let part = part.ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        total = total
            .checked_add(Duration::from_nanos(part))
            .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        rest = tail;
    }
    Ok(total)
}

/// `number` times `unit`: outer `None` for a malformed number, inner `None` for one too big.
fn scaled(number: &str, unit: u64) -> Option<Option<u64>> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') {
        return None;
    }
    let mut total = if whole.is_empty() {
        Some(0)
    } else {
        whole.parse::<u64>().ok()?.checked_mul(unit)
    };
    let mut step = unit;
    for digit in fraction.bytes() {
        step /= 10;
        total = total.and_then(|t| t.checked_add(u64::from(digit - b'0') * step));
    }
    Some(total)
}

/// Writes a duration for people: the two largest units that are not zero.
#[must_use]
pub fn show(duration: Duration) -> String {
    let ns = duration.as_nanos();
    match ns {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}µs", ns / 1_000),
        1_000_000..10_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        1_000_000_000..60_000_000_000 => {
            let seconds = format!("{:.1}", ns as f64 / 1e9);
            format!("{}s", seconds.strip_suffix(".0").unwrap_or(&seconds))
        }
        _ => {
            let seconds = duration.as_secs();
            let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
            let first = units.iter().position(|&(unit, _)| seconds >= unit).unwrap_or(3);
            let mut left = seconds;
            let mut text = String::new();
            for (unit, name) in units.iter().skip(first).take(2) {
                if left / unit > 0 {
                    text += &format!("{}{name}", left / unit);
                }
                left %= unit;
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases = [
            ("0", 0),
            ("90s", 90_000_000_000),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("250ms", 250_000_000),
            (".5s", 500_000_000),
            ("1m0.5s", 60_500_000_000),
        ];
        for (text, ns) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(parse(""), Err(DurationError::Empty));
        assert_eq!(parse("90"), Err(DurationError::NoUnit("90".into())));
        assert_eq!(parse("-5m"), Err(DurationError::Negative("-5m".into())));
        for text in ["m", "5x", "5 m", "1..5s", "five", "1h30", "."] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("9999999999h"),
            Err(DurationError::TooLong("9999999999h".into()))
        );
    }

    #[test]
    fn shows_two_units_at_most() {
        let cases = [
            (0, "0s"),
            (180_000, "180µs"),
            (2_345_678, "2.3ms"),
            (45_000_000, "45ms"),
            (10_000_000_000, "10s"),
            (10_250_000_000, "10.2s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h"),
            (90_061_000_000_000, "1d1h"),
        ];
        for (ns, text) in cases {
            assert_eq!(show(Duration::from_nanos(ns)), text);
        }
    }
}
