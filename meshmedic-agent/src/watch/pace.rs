// SPDX-License-Identifier: Apache-2.0
//! One account for all the work of looking, so that nothing a pod does costs more than a share of one processor.
//!
//! Records of the kernel, censuses and readings of /proc are charged alike, whatever asked for them. What is spent is
//! paid for by waiting. How deep the debt may grow depends on what hangs on the next piece of work: routine stops
//! early, and evidence goes on until every pod of the node could have been confirmed once.
//!
//! What causes much looking causes reports, log lines and requests too. Looking makes room for them, but never for more
//! than it spends itself: a busy client of the endpoints halves its pace and cannot stop it.

use std::time::Duration;

use crate::engine::Urgency;
use crate::time::Time;

/// Of so much time one part at most is spent on looking.
const SHARE: u32 = 8;
/// The same where a census shows every loss, and readings have less to find.
const SHARE_BESIDE_A_CENSUS: u32 = 10;
/// Routine may be ahead by this much processor time: a loss, and all the records of one, are taken as they come.
const ROUTINE_AHEAD: Duration = Duration::from_millis(20);
/// A confirmation takes so many readings, one more than it needs.
const READINGS: u32 = 4;
/// What a reading costs until one was measured: two walks of a hash table of common size.
const FIRST_GUESS: Duration = Duration::from_millis(5);
/// A reading weighs this much against those before it.
const WEIGHT: u32 = 8;

/// Owes rest for the processor time that was spent.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all that was spent is paid for.
    paid_at: Time,
    spent_at: Time,
    /// What the process spent beside looking, and looking has not made room for yet.
    beside: Duration,
    /// What a reading costs lately.
    reading: Duration,
    /// How many pods may have to be confirmed at once.
    pods: u32,
    /// Of so much time one part is spent.
    share: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            paid_at: Time::default(),
            spent_at: Time::default(),
            beside: Duration::ZERO,
            reading: FIRST_GUESS,
            pods: 0,
            share: SHARE,
        }
    }
}

impl Pace {
    /// Says how many pods are judged, and whether a census shows their losses.
    pub(super) fn expect(&mut self, pods: usize, census: bool) {
        self.pods = u32::try_from(pods).unwrap_or(u32::MAX);
        self.share = if census { SHARE_BESIDE_A_CENSUS } else { SHARE };
    }

    /// Charges processor time that was spent by now.
    pub(super) fn spent(&mut self, now: Time, cost: Duration) {
        let beside = self.beside.min(cost);
        self.beside -= beside;
        self.paid_at = self.paid_at.max(now - cost) + (cost + beside) * self.share;
        self.spent_at = now;
    }

    /// Takes what the process spent on other work. It is charged as soon as there is looking beside it, and forgotten
    /// where it was more than a burst.
    pub(super) fn spent_beside(&mut self, cost: Duration) {
        self.beside = (self.beside + cost).min(ROUTINE_AHEAD);
    }

    /// Charges a reading of /proc.
    pub(super) fn read(&mut self, now: Time, cost: Duration) {
        self.reading = (self.reading * (WEIGHT - 1) + cost) / WEIGHT;
        self.spent(now, cost);
    }

    /// Whether nothing is owed.
    pub(super) fn is_paid(&self, now: Time) -> bool {
        self.paid_at <= now
    }

    /// When the next piece of such work may begin.
    pub(super) fn ready_at(&self, urgency: Urgency) -> Time {
        let ahead = match urgency {
            Urgency::Routine => ROUTINE_AHEAD,
            Urgency::Evidence => {
                ROUTINE_AHEAD.saturating_add((self.reading * READINGS).saturating_mul(self.pods))
            }
        };
        (self.paid_at - ahead.saturating_mul(self.share)).max(self.spent_at)
    }

    /// The least urgent work that may begin now, if any may.
    pub(super) fn affords(&self, now: Time) -> Option<Urgency> {
        let ready = |urgency: &Urgency| self.ready_at(*urgency) <= now;
        [Urgency::Routine, Urgency::Evidence].into_iter().find(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const START: Time = Time::from_nanos(1_000_000_000_000);

    /// Works for a while as hard as it may; gives the share of one processor that it took.
    fn share(pace: &mut Pace, urgency: Urgency, now: &mut Time, span: Duration) -> f64 {
        let begun = *now;
        let mut spent = Duration::ZERO;
        while now.since(begun) < span {
            *now = (*now).max(pace.ready_at(urgency)) + MILLISECOND;
            pace.read(*now, MILLISECOND);
            spent += MILLISECOND;
        }
        spent.as_secs_f64() / now.since(begun).as_secs_f64()
    }

    #[test]
    fn a_loss_is_taken_as_it_comes_and_a_storm_an_eighth_of_the_time() {
        let mut pace = Pace::default();
        let mut now = START;
        for _ in 0..20 {
            assert!(
                pace.ready_at(Urgency::Routine) <= now,
                "a burst waits for nothing"
            );
            now = now + MILLISECOND;
            pace.spent(now, MILLISECOND);
        }
        let share = share(&mut pace, Urgency::Routine, &mut now, Duration::from_secs(10));
        assert!((0.12..0.14).contains(&share), "{share}");
        assert!(
            !pace.is_paid(now) && pace.is_paid(now + Duration::from_secs(1)),
            "rest pays"
        );
    }

    #[test]
    fn beside_a_census_it_is_a_tenth() {
        let (mut pace, mut now) = (Pace::default(), START);
        pace.expect(0, true);
        share(&mut pace, Urgency::Routine, &mut now, Duration::from_secs(10));
        let share = share(&mut pace, Urgency::Routine, &mut now, Duration::from_secs(10));
        assert!((0.09..0.11).contains(&share), "{share}");
    }

    #[test]
    fn other_work_is_made_room_for_and_stops_nothing() {
        for (other, expected) in [(0.25, 0.10), (1.0, 0.0625), (50.0, 0.0625)] {
            let (mut pace, mut now) = (Pace::default(), START);
            let (mut spent, mut begun) = (Duration::ZERO, now);
            for round in 0..2_000 {
                if round == 1_000 {
                    (spent, begun) = (Duration::ZERO, now);
                }
                now = now.max(pace.ready_at(Urgency::Routine)) + MILLISECOND;
                pace.spent_beside(MILLISECOND.mul_f64(other));
                pace.read(now, MILLISECOND);
                spent += MILLISECOND;
            }
            let share = spent.as_secs_f64() / now.since(begun).as_secs_f64();
            assert!(
                (share - expected).abs() < 0.005,
                "{share} beside {other} times as much"
            );
        }
    }

    #[test]
    fn evidence_waits_for_nothing_until_each_pod_could_have_been_confirmed() {
        let mut pace = Pace::default();
        pace.expect(250, false);
        let mut now = START;
        for reading in 0..250 * READINGS {
            assert!(pace.ready_at(Urgency::Evidence) <= now, "reading {reading} waits");
            now = now + MILLISECOND * 8;
            pace.read(now, MILLISECOND * 8);
        }
        assert_eq!(
            pace.affords(now),
            Some(Urgency::Evidence),
            "the first readings are as dear as the last"
        );
        let share = share(&mut pace, Urgency::Evidence, &mut now, Duration::from_secs(600));
        assert!(share < 0.14, "and from then on an eighth: {share}");
    }

    #[test]
    fn routine_does_not_use_up_what_evidence_needs() {
        let mut pace = Pace::default();
        pace.expect(10, false);
        let mut now = START;
        share(&mut pace, Urgency::Routine, &mut now, Duration::from_secs(10));
        assert_eq!(pace.affords(now), Some(Urgency::Evidence));
    }
}
