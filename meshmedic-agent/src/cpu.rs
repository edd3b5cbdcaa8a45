// SPDX-License-Identifier: Apache-2.0
//! What work costs: processor time, which others on the machine do not lengthen.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The processor time that this thread has used.
pub(crate) fn of_thread() -> Duration {
    used(ClockId::ThreadCPUTime)
}

/// The processor time that all threads of this process have used.
fn of_process() -> Duration {
    used(ClockId::ProcessCPUTime)
}

fn used(clock: ClockId) -> Duration {
    let used = clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(used.tv_sec)) + Duration::from_nanos(part(used.tv_nsec))
}

/// Tells what the process spends beside one kind of its work.
#[derive(Debug)]
pub(crate) struct Beside {
    /// The most that was ever seen: work counts once it is done, and what is under way looks like something else.
    seen: Duration,
}

impl Beside {
    /// Counts from now on; the work has cost so much already.
    pub(crate) fn new(work: Duration) -> Self {
        Self {
            seen: of_process().saturating_sub(work),
        }
    }

    /// What was spent beside the work since the last time; the work has cost so much altogether.
    pub(crate) fn spent(&mut self, work: Duration) -> Duration {
        let beside = of_process().saturating_sub(work);
        let spent = beside.saturating_sub(self.seen);
        self.seen += spent;
        spent
    }
}
