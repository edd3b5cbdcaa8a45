// SPDX-License-Identifier: Apache-2.0
//! `--wait`: looks again until all is well, or time is up.

use std::time::{Duration, Instant};

use meshmedic_common::duration::show;

use crate::exit::Usage;
use crate::output::say;

/// How long it waits between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// Somebody broke it off.
#[derive(Debug)]
pub(super) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted before everything was read")
    }
}

impl std::error::Error for Interrupted {}

/// The first look at which all is well, or the last. An error counts as not well, unless a further look would give it
/// again; `again` tells whether there is time for one.
pub(super) fn until<T>(
    mut look: impl FnMut() -> anyhow::Result<T>,
    is_well: impl Fn(&T) -> bool,
    mut again: impl FnMut(&anyhow::Result<T>) -> anyhow::Result<bool>,
) -> anyhow::Result<T> {
    loop {
        let seen = look();
        let over = match &seen {
            Ok(one) => is_well(one),
            Err(error) => error.is::<Usage>() || error.is::<Interrupted>(),
        };
        if over || !again(&seen)? {
            return seen;
        }
    }
}

/// Pauses until the next look; false where none is left before this time.
pub(super) fn pause(deadline: Instant, what: &str) -> anyhow::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    say(&format!(
        "{what} Looking again, for {} at most.",
        show(Duration::from_secs(left.as_secs().max(1)))
    ));
    crate::connection::runtime()?.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(PAUSE.min(left)) => Ok(true),
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                Err(Interrupted.into())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at these one after the other, with time for so many more looks.
    fn looks(seen: Vec<anyhow::Result<u8>>, mut more: usize) -> (anyhow::Result<u8>, usize) {
        let mut left = seen.into_iter();
        let mut count = 0;
        let last = until(
            || {
                count += 1;
                left.next().unwrap()
            },
            |code| *code == 0,
            |_| {
                let time = more > 0;
                more = more.saturating_sub(1);
                Ok(time)
            },
        );
        (last, count)
    }

    #[test]
    fn it_looks_until_all_is_well_or_time_is_up() {
        let refused = || Err(anyhow::anyhow!("connection refused"));
        let (last, count) = looks(vec![refused(), Ok(1), Ok(0), Ok(1)], 9);
        assert_eq!((last.unwrap(), count), (0, 3));
        let (last, count) = looks(vec![Ok(3), Ok(1), Ok(0)], 1);
        assert_eq!((last.unwrap(), count), (1, 2));
        let (last, count) = looks(vec![Ok(1), refused()], 1);
        assert_eq!(
            (last.unwrap_err().to_string().as_str(), count),
            ("connection refused", 2)
        );
    }

    #[test]
    fn what_a_further_look_would_not_change_ends_it() {
        for error in [Usage("no such flag".to_owned()).into(), Interrupted.into()] {
            let (last, count) = looks(vec![Err(error), Ok(0)], 9);
            assert!(last.is_err());
            assert_eq!(count, 1);
        }
    }
}
