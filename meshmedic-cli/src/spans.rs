// SPDX-License-Identifier: Apache-2.0
//! Durations on the command line, each with the shortest that makes sense.

use std::time::Duration;

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
