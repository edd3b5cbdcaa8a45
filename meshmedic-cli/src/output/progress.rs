// SPDX-License-Identifier: Apache-2.0
//! How far a long scan is: a bar on stderr, and only on a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is over sooner needs no bar.
const SHORT: Duration = Duration::from_secs(1);
const TEMPLATE: &str = "{msg} {wide_bar} {pos}/{len} {elapsed}";
/// How often the time is written anew.
const TICK: Duration = Duration::from_secs(1);

/// How far something is; it is wiped away when this is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    pub(crate) fn start(what: &'static str, count: usize) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self {
            bar,
            begun: Instant::now(),
        }
    }

    /// One more is done.
    pub(crate) fn step(&self) {
        if self.bar.is_hidden() && self.begun.elapsed() >= SHORT {
            // Where stderr is no terminal it stays hidden.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
