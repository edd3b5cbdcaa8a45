// SPDX-License-Identifier: Apache-2.0
//! What the census reads of a pod's redirection rules, what was counted beside them, and how their loss is confirmed.

use meshmedic_common::repair::heal::{Place, Streak};
use meshmedic_common::rules::{PodRules, Rules};
use meshmedic_common::traffic::{Counted, Passage, Tally};
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;

use super::Track;
use crate::engine::sabotage::{Defence, is_out};
use crate::engine::{Notice, Settings};
use crate::time::Time;

/// No rules are believed gone on fewer censuses.
const LEAST_CENSUSES: u32 = 2;

/// What a census read of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulesRead {
    /// Where.
    pub place: Place,
    /// Whether ztunnel holds all required listeners there.
    pub complete: bool,
    /// Whether the rules are there, by this census alone.
    pub rules: PodRules,
}

impl Track {
    /// Takes what was counted of its connections; `None` where nobody counts.
    pub(in crate::engine) fn traffic(&mut self, now: Time, counted: Option<Counted>) {
        let counted = counted.filter(|_| !self.is_settled());
        match (&mut self.tally, counted) {
            (Some(tally), Some(counted)) => tally.take(now, counted),
            (tally, counted) => *tally = counted.map(|counted| Tally::begin(now, counted)),
        }
    }

    /// Whether its connections are proved to go past ztunnel.
    fn goes_past(&self) -> bool {
        let past = |tally: Tally| tally.connections().verdict == Passage::Past;
        self.tally.is_some_and(past)
    }

    /// Takes what a census read of the rules; `None` where it met no listener, or nothing may be concluded.
    pub(in crate::engine) fn rules(
        &mut self,
        now: Time,
        uid: &PodUid,
        read: Option<&RulesRead>,
        settings: &Settings,
    ) -> Option<Notice> {
        let Some(read) = read.filter(|_| !self.is_settled()) else {
            // What stands is not disproved by not looking.
            if self.state != State::Bypassing {
                self.bare = None;
            }
            return None;
        };
        let rules = match self.rules {
            Some(before) => read.rules.after(&before),
            None => read.rules,
        };
        if self.rules.is_some_and(|before| !rules.are_as(&before))
            && let Some(tally) = &mut self.tally
        {
            // What went past other rules says nothing of these.
            tally.forget_past();
        }
        self.rules = Some(rules);
        match rules.verdict {
            Rules::Absent if read.complete => {}
            // By themselves they prove nothing.
            Rules::Fell | Rules::Differs if read.complete && self.goes_past() => {}
            // No proof of anything.
            Rules::Unknown if self.state == State::Bypassing => return None,
            _ => {
                self.bare = None;
                if self.state == State::Bypassing && read.complete {
                    self.captured_at = now;
                    return self.enter(now, uid, State::Captured, None);
                }
                return None;
            }
        }
        let before = self.bare.filter(|bare| bare.place == read.place);
        let bare = Streak {
            place: read.place,
            readings: before.map_or(1, |bare| bare.readings.saturating_add(1)),
            first: before.map_or(now, |bare| bare.first),
            last: now,
        };
        self.bare = Some(bare);
        let long = bare.readings >= LEAST_CENSUSES && bare.last.since(bare.first) >= settings.confirm;
        if self.state == State::Captured && (long || is_out(Defence::Confirmation)) {
            self.onset = Some(bare.first);
            let notice = self.enter(now, uid, State::Bypassing, None);
            self.onset = None;
            return notice;
        }
        None
    }

    /// When the census is wanted again, to confirm that the rules are gone.
    pub(in crate::engine) fn wants_rules_at(&self, settings: &Settings) -> Option<Time> {
        let bare = self.bare.filter(|_| self.state == State::Captured)?;
        Some(bare.first + settings.confirm)
    }
}
