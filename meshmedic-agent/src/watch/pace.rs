// SPDX-License-Identifier: Apache-2.0
//! How often records of the kernel are taken, so that a storm of them costs a share of one processor at most.

use std::time::Duration;

use crate::time::Time;

/// Of so much time one part is spent on records.
const SHARE: u32 = 5;
/// So much rest may be owed: a loss, and all the records of one, are taken as they come.
const CREDIT: Duration = Duration::from_millis(200);

/// Owes rest for the time that was spent.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that was spent is paid for.
    paid_at: Time,
    taken_at: Time,
}

impl Pace {
    /// Records were taken from then until then.
    pub(super) fn took(&mut self, began: Time, ended: Time) {
        self.paid_at = self.paid_at.max(began) + ended.since(began) * SHARE;
        self.taken_at = ended;
    }

    /// Whether nothing is owed: the whole credit is there.
    pub(super) fn is_paid(&self, now: Time) -> bool {
        self.paid_at <= now
    }

    /// When the next may be taken.
    pub(super) fn ready_at(&self) -> Time {
        (self.paid_at - CREDIT).max(self.taken_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_loss_is_taken_as_it_comes_and_a_storm_a_fifth_of_the_time() {
        let mut pace = Pace::default();
        let mut now = Time::from_nanos(1_000_000_000);
        for _ in 0..50 {
            assert!(pace.ready_at() <= now, "a burst waits for nothing");
            pace.took(now, now + MILLISECOND);
            now = now + MILLISECOND;
        }
        let begun = now;
        let mut spent = Duration::ZERO;
        while now.since(begun) < Duration::from_secs(10) {
            now = now.max(pace.ready_at());
            pace.took(now, now + MILLISECOND);
            now = now + MILLISECOND;
            spent += MILLISECOND;
        }
        let share = spent.as_secs_f64() / now.since(begun).as_secs_f64();
        assert!((0.19..0.22).contains(&share), "{share}");
        assert!(!pace.is_paid(now) && pace.is_paid(now + CREDIT * 2), "rest pays");
    }
}
