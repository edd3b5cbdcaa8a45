// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition instead of for a time.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(1);

/// A condition did not come about in time.
#[derive(Debug)]
pub struct TimedOut {
    what: String,
    after: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:?} in vain for {}", self.after, self.what)
    }
}

impl std::error::Error for TimedOut {}

/// Waits until a condition holds; says what it was if it does not within `deadline`.
pub fn until(what: &str, deadline: Duration, condition: impl FnMut() -> bool) -> Result<(), TimedOut> {
    until_every(STEP, what, deadline, condition)
}

/// The same, with so much time between two looks: for a condition that costs whoever is looked at.
pub fn until_every(
    step: Duration,
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<(), TimedOut> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(());
        }
        if start.elapsed() >= deadline {
            return Err(TimedOut {
                what: what.to_owned(),
                after: deadline,
            });
        }
        thread::sleep(step);
    }
}
