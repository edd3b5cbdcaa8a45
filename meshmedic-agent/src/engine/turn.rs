// SPDX-License-Identifier: Apache-2.0
//! When a pod's turn to be read has come, and which of several pods comes first.

use std::time::Duration;

use crate::time::Time;

/// A reading takes milliseconds. One that has not come back after this long is taken for lost, so that no pod waits
/// for it for ever.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// A pod that changes again and again is read at once so many times...
const AT_ONCE: u32 = 8;
/// ...and then once in this time: its namespace is its own, and it may make it change as often as it likes.
const SPACING: Duration = Duration::from_secs(1);

/// How much hangs on a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// The pod's state is known.
    Routine,
    /// The pod was never read, or a loss is being confirmed.
    Evidence,
}

/// Which pod is read before another: the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A loss is being confirmed, since then. What was begun is ended first: a machine on which all readings are late
    /// still finishes one after the other.
    Confirming(Time),
    /// Nothing is known of it yet, or not any more. Last read then.
    Undecided(Option<Time>),
    /// Last read then.
    Known(Option<Time>),
}

impl Place {
    pub(super) const fn urgency(self) -> Urgency {
        match self {
            Self::Confirming(_) | Self::Undecided(_) | Self::Known(None) => Urgency::Evidence,
            Self::Known(Some(_)) => Urgency::Routine,
        }
    }
}

/// Whether a pod is to be read.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// Nothing asks for it.
    Rests,
    /// From then on.
    Due(Time),
    /// It is being read since the first, and will be due from the second on.
    Reading(Time, Option<Time>),
}

/// A pod's turn.
#[derive(Debug)]
pub(super) struct Turn {
    stand: Stand,
    /// When the last reading that came back began.
    last: Option<Time>,
    /// When the readings so far are paid for, at one each [`SPACING`].
    paid_at: Time,
}

impl Turn {
    /// Due at once, or not at all.
    pub(super) fn new(due: Option<Time>) -> Self {
        Self {
            stand: due.map_or(Stand::Rests, Stand::Due),
            last: None,
            paid_at: Time::default(),
        }
    }

    /// When the last reading that came back began.
    pub(super) const fn last(&self) -> Option<Time> {
        self.last
    }

    /// Asks for a reading from then on, or sooner if one was asked for already.
    pub(super) fn schedule(&mut self, at: Time) {
        let sooner = |due: Option<Time>| due.map_or(at, |due| due.min(at));
        self.stand = match self.stand {
            Stand::Rests => Stand::Due(at),
            Stand::Due(due) => Stand::Due(due.min(at)),
            Stand::Reading(since, again) => Stand::Reading(since, Some(sooner(again))),
        };
    }

    /// Asks for a reading because something changed: at once, unless that happened very often lately.
    pub(super) fn hint(&mut self, now: Time) {
        self.schedule(now.max(self.paid_at - SPACING * AT_ONCE));
    }

    /// Asks for nothing any more.
    pub(super) fn cancel(&mut self) {
        self.stand = match self.stand {
            Stand::Reading(since, _) => Stand::Reading(since, None),
            Stand::Rests | Stand::Due(_) => Stand::Rests,
        };
    }

    /// From when on it is due.
    pub(super) fn due(&self) -> Option<Time> {
        match self.stand {
            Stand::Rests => None,
            Stand::Due(at) => Some(at),
            Stand::Reading(since, _) => Some(since + LOST_AFTER),
        }
    }

    /// It is being read.
    pub(super) fn begin(&mut self, now: Time) {
        self.stand = Stand::Reading(now, None);
        self.paid_at = self.paid_at.clamp(now, now + SPACING * AT_ONCE) + SPACING;
    }

    /// A reading came back, which had begun then.
    pub(super) fn end(&mut self, started: Time) {
        self.last = self.last.max(Some(started));
        self.abandon();
    }

    /// A reading ended without an answer.
    pub(super) fn abandon(&mut self) {
        if let Stand::Reading(_, again) = self.stand {
            self.stand = again.map_or(Stand::Rests, Stand::Due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_was_never_read_waits_for_no_storm() {
        assert_eq!(
            Place::Known(None).urgency(),
            Urgency::Evidence,
            "a census alone knows it"
        );
        assert_eq!(Place::Known(Some(Time::default())).urgency(), Urgency::Routine);
    }

    const START: Time = Time::from_nanos(1_000_000_000_000);

    #[test]
    fn a_change_during_a_reading_asks_for_another_one() {
        let mut turn = Turn::new(Some(START));
        turn.begin(START);
        turn.hint(START);
        turn.end(START);
        assert_eq!(turn.due(), Some(START));
        turn.begin(START);
        turn.end(START);
        assert_eq!((turn.due(), turn.last()), (None, Some(START)));
    }

    #[test]
    fn a_reading_that_never_comes_back_is_asked_for_again() {
        let mut turn = Turn::new(Some(START));
        turn.begin(START);
        assert_eq!(turn.due(), Some(START + LOST_AFTER));
        turn.begin(START + LOST_AFTER);
        // The first one comes back after all: it is as good as any, and the second is still under way.
        turn.end(START);
        turn.end(START + LOST_AFTER);
        assert_eq!(turn.last(), Some(START + LOST_AFTER));
    }

    #[test]
    fn a_pod_that_changes_without_end_is_read_once_a_second() {
        let mut turn = Turn::new(None);
        let mut now = START;
        let mut read = 0;
        while now.since(START) < Duration::from_secs(20) {
            turn.hint(now);
            if turn.due().is_some_and(|due| due <= now) {
                turn.begin(now);
                turn.end(now);
                read += 1;
            }
            now = now + Duration::from_millis(1);
        }
        assert!((25..30).contains(&read), "{read}");
        // A timer does not wait for that.
        turn.schedule(now);
        assert_eq!(turn.due(), Some(now));
        // And after a rest, neither does a change.
        turn.begin(now);
        turn.end(now);
        let rested = now + SPACING * (AT_ONCE + 1);
        turn.hint(rested);
        assert_eq!(turn.due(), Some(rested));
    }
}
