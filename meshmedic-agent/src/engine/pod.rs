// SPDX-License-Identifier: Apache-2.0
//! What is known of one pod, and how a loss is confirmed.

mod pending;
mod rules;
mod view;

use std::time::Duration;

use meshmedic_common::eligibility::Expectation;
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::Streak;
use meshmedic_common::report::Holder;
use meshmedic_common::rules::PodRules;
use meshmedic_common::traffic::Tally;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Owner, Reason, Redirection, State};

use super::assess::{Look, Seen};
use super::sabotage::{Defence, is_out};
use super::turn::{Place, Turn};
use super::{Notice, Settings, Transition};
use crate::time::Time;
pub use rules::RulesRead;
pub use view::PodView;

/// A confirmation is cut into this many equal parts, with a reading at each end of each part.
const STEPS: u32 = 3;
/// No loss is believed on fewer readings.
const LEAST_READINGS: u32 = 3;
/// A confirmation whose readings lie further apart than it is long has seen too little between them;
/// on a busy machine a short one may still be late by this much.
const LEAST_GAP: Duration = Duration::from_secs(1);

/// What a loss looks like. A confirmation holds for one kind only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    All,
    Some,
    Imposter,
}

impl Loss {
    const fn verdict(self) -> State {
        match self {
            Self::All => State::Orphan,
            Self::Some => State::Partial,
            Self::Imposter => State::Imposter,
        }
    }
}

/// Readings that agree so far.
#[derive(Clone, Copy, Debug)]
struct Confirmation {
    loss: Loss,
    first: Time,
    last: Time,
    readings: u32,
}

#[derive(Debug)]
pub(super) struct Track {
    expectation: Expectation,
    state: State,
    reason: Option<Reason>,
    detail: Option<String>,
    /// When the state began, and what set it off.
    since: Time,
    /// When the kernel, or failing that the first look, showed the change that is being judged.
    onset: Option<Time>,
    /// When it is to be read.
    turn: Turn,
    /// When the last reading that bore the state out began.
    read_at: Time,
    confirmation: Option<Confirmation>,
    /// The readings in a row that found no listener, whatever they were worth for a verdict.
    streak: Option<Streak>,
    /// When the last reading began that found all listeners to be ztunnel's.
    proved_at: Option<Time>,
    was_captured: bool,
    captured_at: Time,
    /// When its network namespace was last found to be another one.
    replaced_at: Time,
    owner: Option<Owner>,
    holders: Vec<Holder>,
    ports: PortSet,
    redirection: Redirection,
    /// Whether Istio's rules are there: by the last census that met the pod, or beside the last look that found a loss.
    rules: Option<PodRules>,
    /// What its connections came to, once they are counted.
    tally: Option<Tally>,
    /// The censuses in a row that found all listeners and no rules.
    bare: Option<Streak>,
    flaps: u32,
    /// Since when istio-cni has been trying to enrol it while the node is well.
    pending: Option<Time>,
    /// Whether it has had its time for that: then readings judge the pod, as if it were enrolled.
    overdue: bool,
}

/// The state of a pod that no reading would change.
const fn settled(expectation: Expectation) -> Option<(State, Option<Reason>)> {
    match expectation {
        Expectation::Exempt(reason) => Some((State::Exempt, Some(reason))),
        Expectation::Pending => Some((State::Pending, None)),
        Expectation::Unverifiable(reason) => Some((State::Unverifiable, Some(reason))),
        Expectation::Expected | Expectation::Undeclared => None,
    }
}

impl Track {
    pub(super) fn new(now: Time, expectation: Expectation) -> Self {
        let (state, reason) = settled(expectation).unwrap_or((State::Unverifiable, Some(Reason::NotRead)));
        Self {
            expectation,
            state,
            reason,
            detail: None,
            since: now,
            onset: None,
            turn: Turn::new(settled(expectation).is_none().then_some(now)),
            read_at: Time::default(),
            confirmation: None,
            streak: None,
            proved_at: None,
            was_captured: false,
            captured_at: Time::default(),
            replaced_at: Time::default(),
            owner: None,
            holders: Vec::new(),
            ports: PortSet::EMPTY,
            redirection: Redirection::Unknown,
            rules: None,
            tally: None,
            bare: None,
            flaps: 0,
            pending: (expectation == Expectation::Pending).then_some(now),
            overdue: false,
        }
    }

    pub(super) fn begin(&mut self, now: Time, uid: &PodUid) -> Option<Notice> {
        let reason = self.reason;
        Some(Notice::Pod(Transition {
            uid: uid.clone(),
            from: None,
            to: self.state,
            reason,
            at: now,
            since: now,
        }))
    }

    pub(super) fn expect(&mut self, now: Time, uid: &PodUid, expectation: Expectation) -> Option<Notice> {
        if self.expectation == expectation {
            return None;
        }
        self.expectation = expectation;
        let asked = expectation == Expectation::Expected && self.overdue && self.state.is_lost();
        self.pending = (expectation == Expectation::Pending).then_some(now);
        if asked {
            // Who asked istio-cni once more, and what it says of that, brought no listener back yet.
            self.turn.schedule(now);
            return None;
        }
        self.overdue = false;
        self.confirmation = None;
        self.streak = None;
        self.bare = None;
        if let Some((state, reason)) = settled(expectation) {
            self.rules = None;
            self.turn.cancel();
            return self.enter(now, uid, state, reason);
        }
        self.turn.schedule(now);
        self.enter(now, uid, State::Unverifiable, Some(Reason::NotRead))
    }

    /// Its network namespace is another one, or none, since then. Nothing that was seen holds for what is there now.
    pub(super) fn replaced(&mut self, now: Time, uid: &PodUid, since: Time) -> Option<Notice> {
        if self.is_settled() {
            return None;
        }
        self.confirmation = None;
        (self.streak, self.proved_at) = (None, None);
        (self.rules, self.bare, self.tally) = (None, None, None);
        self.onset = Some(since);
        self.replaced_at = now;
        self.detail = None;
        self.owner = None;
        self.holders.clear();
        self.ports = PortSet::EMPTY;
        self.redirection = Redirection::Unknown;
        self.turn.hint(now);
        self.enter(now, uid, State::Unverifiable, Some(Reason::Replaced))
    }

    pub(super) fn node_fault(&mut self, now: Time, uid: &PodUid, fault: bool) -> Option<Notice> {
        self.confirmation = None;
        if self.state != State::Suspect {
            return None;
        }
        if fault {
            self.turn.cancel();
            return self.enter(now, uid, State::Suspect, Some(Reason::NodeFault));
        }
        self.turn.schedule(now);
        self.enter(now, uid, State::Suspect, Some(Reason::Confirming))
    }

    pub(super) fn reported(&mut self, at: Time) {
        if self.is_expected() {
            self.onset.get_or_insert(at);
        }
    }

    pub(super) fn census(&mut self, now: Time, uid: &PodUid, complete: bool, fault: bool) -> Option<Notice> {
        if self.is_settled() {
            return None;
        }
        if complete {
            self.ports = PortSet::REQUIRED.union(self.ports);
            // A loss that is over needs no reading any more; a pod new to us still gets its first.
            if self.state == State::Suspect {
                self.turn.cancel();
            }
            if self.state.lacks_listeners() && self.redirection == Redirection::Absent {
                // What a look at the loss missed came back with the listeners, or the next look misses it.
                self.redirection = Redirection::Unknown;
            }
            return self.captured(now, uid, true);
        }
        match self.state {
            // What was held by ztunnel is not any more. The reading that follows tells what is there.
            State::Captured | State::Bypassing if self.owner == Some(Owner::Ztunnel) => {
                self.onset.get_or_insert(now);
                self.ports = PortSet::EMPTY;
                self.rules = None;
                self.suspect(now, uid, fault)
            }
            State::Unverifiable if self.reason == Some(Reason::NotRead) => {
                self.turn.schedule(now);
                None
            }
            _ => None,
        }
    }

    pub(super) fn look(
        &mut self,
        now: Time,
        uid: &PodUid,
        look: Look,
        settings: &Settings,
        fault: bool,
    ) -> Option<Notice> {
        self.turn.end(look.started);
        self.count(&look);
        if self.is_settled() {
            return None;
        }
        if look.started < self.replaced_at {
            // It saw a namespace that is not the pod's any more.
            self.turn.schedule(now);
            return None;
        }
        if !matches!(look.seen, Seen::Unreadable(..)) {
            self.redirection = look.redirection;
            if is_out(Defence::Agreement) {
                self.read_at = look.started;
            }
        }
        let (loss, holders) = match look.seen {
            Seen::Unreadable(reason, detail) => return self.unreadable(now, uid, reason, detail, settings),
            Seen::Complete { .. }
                if self.state == State::Suspect && self.onset.is_some_and(|onset| look.started < onset) =>
            {
                // It began before the loss that is being judged: what it saw is no recovery.
                self.turn.schedule(now);
                return None;
            }
            Seen::Complete { proved } => {
                self.ports = look.ports;
                return self.captured(now, uid, proved);
            }
            Seen::Imposter(holders) => (Loss::Imposter, holders),
            Seen::Incomplete(ports) if ports.is_empty() => (Loss::All, Vec::new()),
            Seen::Incomplete(_) => (Loss::Some, Vec::new()),
        };
        if self.state == State::Captured && look.started < self.captured_at {
            // It was seen captured after this look had begun.
            self.turn.schedule(now);
            return None;
        }
        self.ports = look.ports;
        // What was read while ztunnel listened says nothing of a pod that it let go of.
        self.rules = look.rules;
        self.holders = holders;
        self.owner = None;
        if !self.is_expected() {
            self.onset = None;
            return self.enter(now, uid, State::Exempt, Some(Reason::NotEnrolled));
        }
        self.onset.get_or_insert(look.started);
        if fault {
            self.confirmation = None;
            self.turn.cancel();
            return self.suspect(now, uid, fault);
        }
        self.confirm(now, uid, loss, (look.started, look.finished), settings)
    }

    /// Counts the readings in a row that found nothing, in one place.
    fn count(&mut self, look: &Look) {
        let Some(place) = look
            .place
            .filter(|_| look.seen == Seen::Incomplete(PortSet::EMPTY))
        else {
            self.streak = None;
            if look.seen == (Seen::Complete { proved: true }) {
                self.proved_at = Some(look.started);
            }
            return;
        };
        let before = self.streak.filter(|streak| streak.place == place);
        self.streak = Some(Streak {
            place,
            readings: before.map_or(1, |streak| streak.readings.saturating_add(1)),
            first: before.map_or(look.started, |streak| streak.first),
            last: look.started,
        });
    }

    /// Believes a loss once every reading across the confirmation agreed.
    fn confirm(
        &mut self,
        now: Time,
        uid: &PodUid,
        loss: Loss,
        (started, finished): (Time, Time),
        settings: &Settings,
    ) -> Option<Notice> {
        if self.state == self.named(loss.verdict()) {
            self.confirmation = None;
            self.read_at = started;
            self.turn.schedule(now + settings.reread);
            return None;
        }
        let patience = settings.confirm.max(LEAST_GAP);
        let agreeing = self
            .confirmation
            .filter(|c| c.loss == loss && started.since(c.last) <= patience);
        let confirmation = match agreeing {
            Some(so_far) => Confirmation {
                last: finished,
                readings: so_far.readings + 1,
                ..so_far
            },
            None => Confirmation {
                loss,
                first: finished,
                last: finished,
                readings: 1,
            },
        };
        self.confirmation = Some(confirmation);
        let long_enough = started >= confirmation.first + settings.confirm;
        let confirmed = long_enough && confirmation.readings >= LEAST_READINGS;
        if confirmed || is_out(Defence::Confirmation) {
            self.confirmation = None;
            self.read_at = started;
            self.turn.schedule(now + settings.reread);
            return self.enter(now, uid, loss.verdict(), None);
        }
        let steps = (1..=STEPS).map(|step| confirmation.first + settings.confirm * step / STEPS);
        let next = steps.into_iter().find(|&step| step > finished);
        self.turn
            .schedule(next.unwrap_or(finished + settings.confirm / STEPS));
        self.suspect(now, uid, false)
    }

    fn unreadable(
        &mut self,
        now: Time,
        uid: &PodUid,
        reason: Reason,
        detail: String,
        settings: &Settings,
    ) -> Option<Notice> {
        self.confirmation = None;
        self.turn.schedule(now + settings.reread);
        if (reason, self.reason) == (Reason::NoProcess, Some(Reason::Replaced)) {
            // It says no more than what is known: the new namespace is still to come.
            return None;
        }
        self.detail = Some(detail);
        let state = if reason == Reason::HostNetwork {
            State::Exempt
        } else {
            State::Unverifiable
        };
        let notice = self.enter(now, uid, state, Some(reason));
        self.onset = None;
        notice
    }

    fn captured(&mut self, now: Time, uid: &PodUid, proved: bool) -> Option<Notice> {
        self.confirmation = None;
        self.streak = None;
        self.was_captured = true;
        // It is enrolled, and what befalls it now is a loss like any other.
        self.overdue &= self.expectation == Expectation::Pending;
        self.holders.clear();
        if self.state == State::Bypassing {
            // Listeners alone lead no traffic to them: only the rules end it.
            self.owner = Some(if proved { Owner::Ztunnel } else { Owner::Unproven });
            return None;
        }
        if self.bare.is_none() {
            // While its rules are missing, listeners show no capture: a heal hangs on what was seen since.
            self.captured_at = now;
        }
        if self.state == State::Suspect {
            self.flaps = self.flaps.saturating_add(1);
        }
        let notice = self.enter(now, uid, State::Captured, None);
        self.owner = Some(if proved { Owner::Ztunnel } else { Owner::Unproven });
        self.onset = None;
        notice
    }

    fn suspect(&mut self, now: Time, uid: &PodUid, fault: bool) -> Option<Notice> {
        if !fault && self.confirmation.is_none() {
            self.turn.hint(now);
        }
        // A loss that stands stays what it is until a different one is confirmed or the pod recovers.
        if self.state.is_finding() {
            return None;
        }
        if fault {
            return self.enter(now, uid, State::Suspect, Some(Reason::NodeFault));
        }
        self.enter(now, uid, State::Suspect, Some(Reason::Confirming))
    }

    /// Changes the state, and tells so if it changed.
    fn enter(&mut self, now: Time, uid: &PodUid, to: State, reason: Option<Reason>) -> Option<Notice> {
        let to = self.named(to);
        let reason = reason.filter(|_| to != State::Pending);
        if (self.state, self.reason) == (to, reason) {
            return None;
        }
        let from = self.state;
        if !matches!(to, State::Unverifiable | State::Exempt) {
            self.detail = None;
        }
        if from != to {
            self.since = now;
        }
        (self.state, self.reason) = (to, reason);
        let since = self.onset.unwrap_or(now);
        Some(Notice::Pod(Transition {
            uid: uid.clone(),
            from: Some(from),
            to,
            reason,
            at: now,
            since,
        }))
    }

    /// Something may have changed: it is read again, at once unless that happens very often.
    pub(super) fn hint(&mut self, now: Time) {
        if !self.is_settled() {
            self.turn.hint(now);
        }
    }

    /// It is read again at a time of somebody's choice.
    pub(super) fn read_at(&mut self, at: Time) {
        if !self.is_settled() {
            self.turn.schedule(at);
        }
    }

    /// A reading could not be had through one process, and there may be another.
    pub(super) fn retry(&mut self, at: Time) {
        self.turn.abandon();
        self.hint(at);
    }

    pub(super) fn begin_reading(&mut self, now: Time) {
        self.turn.begin(now);
    }

    /// From when on it is to be read.
    pub(super) fn due(&self) -> Option<Time> {
        self.turn.due()
    }

    /// Its place among those that are due.
    pub(super) fn place(&self) -> Place {
        let undecided = matches!(
            self.reason,
            Some(Reason::NotRead | Reason::Replaced | Reason::Confirming)
        );
        match self.confirmation {
            Some(confirmation) => Place::Confirming(confirmation.first),
            None if undecided => Place::Undecided(self.turn.last()),
            None => Place::Known(self.turn.last()),
        }
    }

    /// Whether its listeners are known to be gone, confirmed or not.
    pub(super) const fn is_lost(&self) -> bool {
        self.state.is_lost()
    }

    /// When the last reading that came back began.
    pub(super) const fn last_read(&self) -> Option<Time> {
        self.turn.last()
    }

    pub(super) fn is_expected(&self) -> bool {
        match self.expectation {
            Expectation::Expected => true,
            Expectation::Pending => self.overdue,
            Expectation::Exempt(_) | Expectation::Unverifiable(_) => false,
            Expectation::Undeclared => self.was_captured || self.redirection == Redirection::Routed,
        }
    }

    fn is_settled(&self) -> bool {
        settled(self.expectation).is_some() && !self.overdue
    }

    pub(super) const fn expectation(&self) -> Expectation {
        self.expectation
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// A pod is decided once /proc was read of it and no loss is being confirmed.
    pub(super) fn undecided(&self) -> bool {
        let waits = matches!(
            self.reason,
            Some(Reason::NotRead | Reason::Replaced | Reason::Confirming)
        );
        let unread =
            self.turn.last().is_none() && !self.is_settled() && self.reason != Some(Reason::NodeFault);
        waits || unread || self.confirmation.is_some()
    }
}
