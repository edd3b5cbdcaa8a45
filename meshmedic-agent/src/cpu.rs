// SPDX-License-Identifier: Apache-2.0
//! What work costs: processor time, which others on the machine do not lengthen.

use std::time::Duration;

/// The processor time that this thread has used.
pub(crate) fn time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(used.tv_sec)) + Duration::from_nanos(part(used.tv_nsec))
}
