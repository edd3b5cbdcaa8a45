// SPDX-License-Identifier: Apache-2.0
//! Durations and times on the command line, each with the shortest that makes sense.

use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::duration;

/// A shorter confirmation would believe what a restarting ztunnel does in passing.
const SHORTEST_CONFIRM: Duration = Duration::from_millis(100);
/// A shorter interval would keep a processor busy for nothing.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn confirm(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_CONFIRM)
}

pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_INTERVAL)
}

pub(crate) fn at_least(text: &str, least: Duration) -> Result<Duration, String> {
    let value = duration::parse(text).map_err(|error| error.to_string())?;
    if value < least {
        Err(format!("must be {} at least", duration::show(least)))
    } else {
        Ok(value)
    }
}

/// A time, or how long ago it was.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = duration::parse(text).ok();
    ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .ok_or_else(|| "neither a time such as 2026-01-01T10:00:00Z nor a duration such as 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_by_itself_or_by_how_long_ago_it_was() {
        assert_eq!(
            instant("2026-01-01T10:00:00Z"),
            "2026-01-01T10:00:00Z".parse().map_err(|_| String::new())
        );
        let ago = Timestamp::now().duration_since(instant("10m").unwrap());
        assert!((590..700).contains(&ago.as_secs()), "{ago}");
        for odd in ["yesterday", "", "10", "-5m"] {
            assert!(instant(odd).unwrap_err().contains("10m"), "{odd}");
        }
    }
}
