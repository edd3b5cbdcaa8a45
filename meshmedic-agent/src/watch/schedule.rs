// SPDX-License-Identifier: Apache-2.0
//! What a watch does by the clock, and when.

use std::time::Duration;

use crate::time::Time;

/// A safety net this often at least, however long `--interval` is.
const CENSUS_AT_MOST: Duration = Duration::from_secs(30);
/// New processes are looked for this often at least while `--interval` is long.
const REFRESH_AT_MOST: Duration = Duration::from_secs(30);
/// With eBPF and the API, and every pod's namespace known, a new process tells nothing that is waited for: then they
/// are looked for this often, so that a node of many processes costs no more than one of few.
const REFRESH_AT_REST: Duration = Duration::from_secs(30 * 60);
/// While no ztunnel is known, look for one this often.
const SEARCH: Duration = Duration::from_secs(1);

/// Something that is done by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// Look at all pods: by census, or by reading each.
    Sweep,
    /// Look for new processes.
    Refresh,
    /// Look for ztunnel, or after it.
    Search,
    /// Read one of the pods that are lost while ztunnel settles.
    Sample,
}

/// When each chore is next.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    sweep: Time,
    refresh: Time,
    search: Time,
    sample: Time,
}

impl Schedule {
    /// Everything is due now.
    pub(super) const fn new(now: Time, interval: Duration) -> Self {
        Self {
            interval,
            sweep: now,
            refresh: now,
            search: now,
            sample: now,
        }
    }

    const fn entry(&mut self, chore: Chore) -> &mut Time {
        match chore {
            Chore::Sweep => &mut self.sweep,
            Chore::Refresh => &mut self.refresh,
            Chore::Search => &mut self.search,
            Chore::Sample => &mut self.sample,
        }
    }

    /// When a chore is next.
    pub(super) const fn next(&self, chore: Chore) -> Time {
        match chore {
            Chore::Sweep => self.sweep,
            Chore::Refresh => self.refresh,
            Chore::Search => self.search,
            Chore::Sample => self.sample,
        }
    }

    /// Whether it is time for a chore; if so, the next time is this much later.
    pub(super) fn take(&mut self, chore: Chore, now: Time, pause: Duration) -> bool {
        let entry = self.entry(chore);
        let due = *entry <= now;
        if due {
            *entry = now + pause;
        }
        due
    }

    pub(super) const fn set(&mut self, chore: Chore, at: Time) {
        *self.entry(chore) = at;
    }

    /// At this time at the latest.
    pub(super) fn by(&mut self, chore: Chore, at: Time) {
        let entry = self.entry(chore);
        *entry = at.min(*entry);
    }

    /// Between two sweeps. A census costs next to nothing.
    pub(super) fn sweep_pause(&self, census: bool) -> Duration {
        match census {
            true => (self.interval / 2).min(CENSUS_AT_MOST),
            false => self.interval,
        }
    }

    /// Between two searches for ztunnel, and between two samples.
    pub(super) fn search_pause(&self) -> Duration {
        SEARCH.min(self.interval)
    }

    /// Between two looks for new processes: `rests` while none is waited for.
    pub(super) fn refresh_pause(&self, census: bool, rests: bool) -> Duration {
        match (census, rests) {
            (true, true) => REFRESH_AT_REST,
            (true, false) => self.interval.min(REFRESH_AT_MOST),
            (false, _) => self.interval,
        }
    }
}
