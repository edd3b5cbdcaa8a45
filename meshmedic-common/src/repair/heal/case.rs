// SPDX-License-Identifier: Apache-2.0
//! One pod, from the first thought of an ask to its proof or the reason why there is none.

use std::time::Duration;

use super::evidence::{Candidate, Place};
use super::pace::Whose;
use super::{Below, Care, Diagnosis, Healing, Progress};
use crate::ask::{Against, Ask, Attempt};
use crate::facts::Enrolment;
use crate::policy::{Withheld, heal_forbidden, heal_not_permitted};
use crate::repair::sabotage::{Defence, is_out, stands};
use crate::repair::{Moment, PodRef, RequestId};
use crate::time::Time;
use crate::verdict::{Redirection, State};

/// So many readings must agree.
const READINGS: u32 = 3;
/// The reading that an ask hangs on must come within this time.
pub(super) const LOOK: Duration = Duration::from_secs(15);
/// While istio-cni is asked the pod is read this often: a census may tell earlier.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// And this often, once its listeners are back: its rules follow within a moment, and others wait for its proof.
const LOOK_SOON: Duration = Duration::from_millis(200);
/// A pod that stays pending for so long has met what the first ask clears.
pub(super) const SECOND_AFTER: Duration = Duration::from_secs(3);

/// An ask that istio-cni says it did is another process's unfinished one for so long.
const LATELY: Duration = Duration::from_secs(120);

/// How far a pod's heal is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Nothing was asked.
    Watching,
    /// The pod is being fetched again.
    Fetching { first: Option<Waiting> },
    /// One more reading, the last before the ask.
    Looking {
        since: Time,
        ask: Ask,
        version: String,
        first: Option<Waiting>,
    },
    /// The ask is at the API.
    Asking {
        ask: Ask,
        version: String,
        first: Option<Waiting>,
        before: Redirection,
    },
    /// istio-cni has it.
    Waiting(Waiting),
    /// What was made worse is being taken back.
    Undoing { against: Against, why: Diagnosis },
    /// Another ask would change nothing.
    Spent {
        against: Against,
        why: Diagnosis,
        unreachable: bool,
        /// Whether rules that istio-cni writes yet are our doing.
        ours: bool,
        /// Whether the second rung was tried as well.
        toggled: bool,
    },
    /// It is on its way out of the mesh and in again.
    Toggling(Toggle),
}

/// A toggle under way.
#[derive(Clone, Debug)]
pub(super) struct Toggle {
    /// What was asked in vain before, and why it did not take.
    pub(super) against: Against,
    pub(super) why: Diagnosis,
    pub(super) place: Option<Place>,
    pub(super) began: Time,
    pub(super) step: Step,
}

/// How far a toggle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its label is being taken away.
    TakingOut,
    /// It is away, and istio-cni lets the pod go.
    Out,
    /// The label is being put back.
    PuttingBack,
    /// It is back since then, and the proof is waited for.
    Back(Time),
}

/// An ask that is outstanding.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) ask: Ask,
    pub(super) place: Option<Place>,
    /// When the first ask was accepted, and this one.
    pub(super) began: Time,
    pub(super) asked: Time,
    /// Since when no older ask is outstanding.
    pub(super) turn: Option<Time>,
    /// Whether Istio's routing was there before the first ask; `None` where another process made that.
    pub(super) before: Option<Redirection>,
    /// Whether istio-cni was seen to have done it.
    pub(super) answered: bool,
    /// Whether the pod is captured by now, be it proved or not.
    pub(super) captured: bool,
}

#[derive(Debug)]
pub(super) struct Case {
    pub(super) pod: PodRef,
    pub(super) whose: Whose,
    pub(super) stage: Stage,
    /// The request under way.
    pub(super) request: Option<RequestId>,
    pub(super) not_before: Time,
    /// How often the pod changed under an ask.
    pub(super) conflicts: u32,
    pub(super) told: Option<(Withheld, bool)>,
    pub(super) would: bool,
    pub(super) below: Below,
    /// When a reading was last wished for, and whether one is.
    pub(super) looked: Option<Time>,
    pub(super) wants_look: bool,
}

impl Case {
    pub(super) fn new(pod: PodRef, whose: Whose) -> Self {
        Self {
            pod,
            whose,
            stage: Stage::Watching,
            request: None,
            not_before: Time::default(),
            conflicts: 0,
            told: None,
            would: false,
            below: Below::Waits(Withheld::NotProved),
            looked: None,
            wants_look: false,
        }
    }

    /// Whether it counts among those that are asked for now.
    pub(super) const fn is_outstanding(&self) -> bool {
        !matches!(self.stage, Stage::Watching | Stage::Spent { .. })
    }

    /// Whether something was asked for it that must not be forgotten.
    pub(super) const fn is_in_hand(&self) -> bool {
        self.is_outstanding() || self.request.is_some()
    }

    /// When istio-cni was first asked for it, while that is outstanding.
    pub(super) fn asked_since(&self) -> Option<Time> {
        match &self.stage {
            Stage::Waiting(waiting)
            | Stage::Fetching { first: Some(waiting) }
            | Stage::Looking {
                first: Some(waiting), ..
            }
            | Stage::Asking {
                first: Some(waiting), ..
            } => Some(waiting.began),
            _ => None,
        }
    }

    /// Wishes for a reading, unless that was done a moment ago.
    pub(super) fn look(&mut self, now: Time, at_most_every: Duration) {
        if self
            .looked
            .is_none_or(|looked| now.since(looked) >= at_most_every)
        {
            self.looked = Some(now);
            self.wants_look = true;
        }
    }

    /// What this very pod forbids, now.
    pub(super) fn forbids(
        &self,
        healing: &Healing,
        at: Moment,
        candidate: &Candidate<'_>,
    ) -> Option<Withheld> {
        if candidate.taken {
            return Some(Withheld::InFlightNode);
        }
        let facts = &candidate.standing.facts;
        if !matches!(
            candidate.state,
            State::Suspect | State::Orphan | State::Bypassing | State::Stalled
        ) {
            return Some(match candidate.state {
                State::Imposter => Withheld::Imposter,
                State::Partial => Withheld::ByHand,
                _ => Withheld::NotProved,
            });
        }
        let of_pod = heal_forbidden(candidate.standing, &self.pod.uid, healing.permissions.jobs);
        let unready = facts.sandbox_ready == Some(false);
        // The listeners of a bypassing pod are ztunnel's own.
        let held = !candidate.ports.is_empty() && candidate.state != State::Bypassing;
        let unplaced = candidate.place.is_none() || facts.addresses.is_empty() || unready;
        of_pod
            .or_else(|| heal_not_permitted(&healing.permissions, facts, at.server))
            .or_else(|| unplaced.then_some(Withheld::NoAddress))
            .or_else(|| held.then_some(Withheld::PortHeld))
            .filter(stands)
    }

    /// The ask of another process of this node of which nothing came yet. Whoever comes after it waits for its proof,
    /// and takes back what it made worse, whatever forbids a new one.
    pub(super) fn adopts(
        &self,
        at: Moment,
        candidate: &Candidate<'_>,
        against: Option<&Against>,
    ) -> Option<Waiting> {
        if !matches!(self.stage, Stage::Watching) {
            return None;
        }
        let facts = &candidate.standing.facts;
        let ask = facts.heal.as_deref().and_then(Ask::parse)?;
        if against.is_none_or(|against| against.sandbox != ask.against.sandbox) {
            return None;
        }
        let lately = at.server.duration_since(ask.at).unsigned_abs() < LATELY;
        // What this process has seen captured is no longer as the ask left it.
        let unproved = candidate.captured_at.is_none() && candidate.leads == Redirection::Routed;
        let open = match facts.enrolment {
            Enrolment::Pending => against == Some(&ask.against) || unproved,
            Enrolment::Enabled => lately && unproved,
            Enrolment::None => false,
        };
        open.then(|| Waiting::adopted(ask, candidate.place, at.now))
    }

    /// Whether the readings agree for long enough; with `after`, whether one began since then, too.
    pub(super) fn agrees(&self, care: &Care, candidate: &Candidate<'_>, after: Option<Time>) -> bool {
        let Some(streak) = candidate.streak else {
            return false;
        };
        let long = streak.readings >= READINGS && streak.last.since(streak.first) >= care.confirm;
        let here = Some(streak.place) == candidate.place;
        let lost = candidate
            .captured_at
            .is_none_or(|captured| captured < streak.first);
        let fresh = after.is_none_or(|after| streak.last > after) || is_out(Defence::LastLook);
        (long || is_out(Defence::HealConfirm)) && here && lost && fresh
    }

    /// What this shows of the heal, for reports.
    pub(super) const fn progress(&self) -> Option<Progress> {
        match &self.stage {
            Stage::Watching => None,
            Stage::Fetching { first: None } | Stage::Looking { first: None, .. } => None,
            Stage::Fetching { .. } | Stage::Looking { .. } | Stage::Asking { .. } | Stage::Waiting(_) => {
                Some(Progress::Asked)
            }
            Stage::Undoing { why, .. } => Some(Progress::Failed(*why)),
            Stage::Toggling(_) => Some(Progress::Asked),
            Stage::Spent { why, unreachable, .. } => Some(if *unreachable {
                Progress::MadeUnreachable
            } else {
                Progress::Failed(*why)
            }),
        }
    }
}

impl Waiting {
    /// For the proof of an ask that another process made.
    pub(super) const fn adopted(ask: Ask, place: Option<Place>, now: Time) -> Self {
        Self {
            ask,
            place,
            began: now,
            asked: now,
            turn: None,
            before: None,
            answered: false,
            captured: false,
        }
    }

    /// Whether the pod is proved captured where it lived when istio-cni was asked.
    pub(super) fn is_proved(&self, candidate: &Candidate<'_>) -> bool {
        let here = candidate.place.is_some() && candidate.place == self.place;
        candidate.state == State::Captured
            && here
            && candidate.proved_at.is_some_and(|proved| proved > self.asked)
    }

    /// How often its pod is read.
    pub(super) const fn look_again(&self) -> Duration {
        if self.captured { LOOK_SOON } else { LOOK_AGAIN }
    }

    /// Whether what the API shows is later than the ask.
    pub(super) fn is_seen(&self, candidate: &Candidate<'_>) -> bool {
        let heal = candidate.standing.facts.heal.as_deref();
        heal.is_some_and(|text| text == self.ask.to_string())
    }

    /// Whether istio-cni says that it is done.
    pub(super) fn is_answered(&self, candidate: &Candidate<'_>) -> bool {
        self.is_seen(candidate) && candidate.standing.facts.enrolment == Enrolment::Enabled
    }

    /// Whether a second ask may help: the first changed nothing that is seen, and thereby cleared a stale cache.
    pub(super) fn wants_second(&self, now: Time, care: &Care, candidate: &Candidate<'_>) -> bool {
        let pending = self.is_seen(candidate) && candidate.standing.facts.enrolment == Enrolment::Pending;
        let waited = self
            .turn
            .is_some_and(|turn| now.since(turn) >= SECOND_AFTER.min(care.deadline));
        self.ask.attempt == Attempt::First && pending && waited && !is_out(Defence::SecondAsk)
    }

    /// Whether it has had its time.
    pub(super) fn is_late(&self, now: Time, care: &Care) -> bool {
        self.turn.is_some_and(|turn| now.since(turn) >= care.deadline)
    }

    /// Why it did not take.
    pub(super) fn diagnose(&self, candidate: &Candidate<'_>) -> Diagnosis {
        match candidate.state {
            State::Imposter => return Diagnosis::PortHeld,
            State::Partial => return Diagnosis::InPart,
            _ => {}
        }
        match candidate.standing.facts.enrolment {
            Enrolment::Enabled if self.is_seen(candidate) => Diagnosis::Believed,
            Enrolment::None => Diagnosis::Unenrolled,
            _ if candidate.leads == Redirection::Routed && candidate.state != State::Bypassing => {
                Diagnosis::Refused
            }
            _ => Diagnosis::NotTakenUp,
        }
    }

    /// Whether the ask left rules without listeners where there were no rules.
    pub(super) fn made_it_worse(&self, candidate: &Candidate<'_>) -> bool {
        self.before != Some(Redirection::Routed) && is_worse(candidate)
    }
}

/// Whether a pod's rules lead nowhere: what was a bypass is then an outage.
pub(super) fn is_worse(candidate: &Candidate<'_>) -> bool {
    candidate.leads == Redirection::Routed
        && !matches!(candidate.state, State::Captured | State::Bypassing)
        && !is_out(Defence::Undo)
}
