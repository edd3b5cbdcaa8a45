// SPDX-License-Identifier: Apache-2.0
//! One repair, from its claims to the proof of its successor. Agents and people go through it alike; what differs
//! between them is data: what is claimed, what they may go past, and by what means they repair.

mod aftermath;
mod care;
mod checking;
mod claims;
mod ending;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::ledger::{Change, Conclusion, Entry, LEASE, Proof, Record, Step, signed};
use super::sabotage::{Defence, is_out, stands};
use super::{
    Acted, Answer, LeaseKey, Moment, Outcome, Patient, PodRef, Presence, Refusal, Repairer, Request,
    RequestId, gate_detail,
};
use crate::facts::{Controller, PodFacts};
use crate::policy::{Gates, Mandate, Withheld, forbids};
use crate::time::Time;
use crate::uid::PodUid;
pub(super) use care::Care;
use claims::Place;
pub use claims::{Claim, Claims};

/// The reading that an agent's act hangs on must come within this time, and what was fetched before is no older then.
const LOOK: Duration = Duration::from_secs(15);
/// A question that the API did not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// An eviction whose answer was lost may still be on its way for so long; until then what was claimed for it
/// is kept.
const DOUBT: Duration = Duration::from_secs(20);
/// What is held is renewed this often: three tries before it is lost.
const RENEW: Duration = Duration::from_secs(LEASE.as_secs() / 4);
/// Claims older than this are not acted on: others may already take them for abandoned.
const CLAIMS_LAST: Duration = Duration::from_secs(LEASE.as_secs() / 2);

/// How a repair ended, as far as others are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was done, and why.
    Withheld(Withheld, Option<String>),
    /// Something was done, or may have been.
    Done(Outcome),
}

/// Who began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process; `stuck` if the pod was not Ready for the grace period.
    Begun { stuck: bool },
    /// A process that is gone, and this one took it over.
    Adopted,
}

/// Whether it is the one that others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Canary {
    /// Another was proved lately.
    No,
    /// None was: it must be alone on its node, whoever began the others.
    Alone,
    /// The same after a mass loss: its failure opens the node's breaker, whatever the count.
    MustSucceed,
}

/// How far the act has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Nothing was asked of the API.
    Unsent,
    /// It was asked for, or may have been.
    Sent,
    /// It happened.
    Happened,
}

#[derive(Debug)]
enum Stage {
    /// Taking one Lease after the other.
    Claiming(Place),
    /// Asking the API whether it would refuse, before anything is written for it.
    Rehearsing(Place),
    /// Fetching everything again.
    Checking,
    /// Writing down that the act is about to be sent.
    Announcing,
    /// Waiting for one more reading of the pod.
    Looking {
        since: Time,
        asked_for: bool,
    },
    /// The act is at the API.
    Acting,
    /// Taking over what another process began.
    Adopting,
    /// The answer was lost, or the agent: did it happen?
    Resolving,
    /// Writing down that it happened.
    Recording,
    /// Waiting for the successor.
    Following {
        renewed: Time,
        next: usize,
    },
    /// Without a proof: what does its owner want and have?
    Surveying,
    /// Writing down how it ended.
    Ending {
        conclusion: Conclusion,
        until: Time,
        left: Left,
    },
    Over(Left),
}

/// Whether the records say how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// They do.
    Nothing,
    /// Its owner's could not be set right: it is to be taken up again.
    Unfinished,
}

/// One repair of one pod.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) pod: PodRef,
    /// The controller's UID.
    pub(super) owner: String,
    pub(super) origin: Origin,
    /// The request under way.
    pub(super) asked: Option<RequestId>,
    /// Whether it goes to its owner's Lease.
    asks_owner: bool,
    node: String,
    holder: String,
    stage: Stage,
    held: Vec<LeaseKey>,
    slot: Option<u32>,
    /// The pods of its controller that were there before, by UID: none of them is a successor.
    before: Vec<String>,
    /// Who is to recreate the pod, as seen just before the act.
    controller: Option<Controller>,
    /// How long after the act its proof may come.
    patience: Duration,
    /// What was written down of the act.
    sent: Option<Box<Entry>>,
    /// Its owner's record, as last read.
    owner_record: Record,
    /// Whether nothing else was under way on its node when that was claimed.
    alone: bool,
    /// The proved orphans among the pods that were shown last, by UID, and those that a scan proved before.
    proved: BTreeSet<String>,
    scanned: BTreeSet<String>,
    /// By the API server's clock.
    claimed_at: Timestamp,
    deadline: Timestamp,
    /// By this machine's.
    began: Time,
    checked_at: Time,
    late_at: Time,
    /// Until then a request whose answer was lost may still have its effect.
    doubt_until: Time,
    not_before: Time,
    act: Act,
    canary: Canary,
    stopping: bool,
    ended: Option<Ended>,
}

impl Attempt {
    pub(super) fn new(
        repairer: &Repairer,
        at: Moment,
        id: String,
        pod: PodRef,
        owner: String,
        stuck: bool,
    ) -> Self {
        let patience = repairer.limits.successor_deadline;
        let deadline = at.server.checked_add(signed(patience));
        Self {
            id,
            pod,
            owner,
            origin: Origin::Begun { stuck },
            asked: None,
            asks_owner: false,
            node: repairer.node.clone(),
            holder: repairer.holder.clone(),
            stage: Stage::Claiming(Place::FIRST),
            held: Vec::new(),
            slot: None,
            before: Vec::new(),
            controller: None,
            patience,
            sent: None,
            owner_record: Record::default(),
            alone: false,
            proved: BTreeSet::new(),
            scanned: BTreeSet::new(),
            claimed_at: at.server,
            deadline: deadline.unwrap_or(Timestamp::MAX),
            began: at.now,
            checked_at: at.now,
            late_at: at.now + patience,
            doubt_until: at.now,
            not_before: at.now,
            act: Act::Unsent,
            canary: Canary::No,
            stopping: false,
            ended: None,
        }
    }

    /// The same as a canary, or not as one.
    pub(super) fn with_canary(mut self, canary: Canary) -> Self {
        self.canary = canary;
        self
    }

    /// Goes on where the world, not an answer, decides.
    pub(super) fn proceed(
        &mut self,
        repairer: &Repairer,
        at: Moment,
        gates: &Gates,
        patients: &BTreeMap<PodUid, Patient<'_>>,
        record: Option<&Record>,
        care: &Care,
    ) {
        match self.stage {
            Stage::Checking => self.note_proved(patients),
            Stage::Announcing if self.asked.is_none() => match self.careless(care).filter(stands) {
                Some(why) => self.undone(at, why, None),
                None => self.canary = care.canary,
            },
            Stage::Looking { since, .. } => {
                let patient = patients.get(&self.pod.cgroup_uid);
                let forbidden = self.forbidden(repairer, at, gates, patient);
                if let Some(why) = forbidden.or(self.careless(care)).filter(stands) {
                    self.undone(at, why, gate_detail(gates, why));
                } else if patient.is_some_and(|patient| patient.read_at > since) {
                    self.stage = Stage::Acting;
                } else if at.now.since(self.checked_at) > look_within(&repairer.mandate) {
                    let detail = "no fresh reading could be had".to_owned();
                    self.undone(at, Withheld::NotProved, Some(detail));
                }
            }
            Stage::Following { .. } if self.asked.is_none() => {
                let proof = record.and_then(|record| record.entry(&self.id)?.proof.clone());
                match proof {
                    Some(proof) => self.proved(at, proof),
                    None if self.is_late(at) => self.unproved(at),
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn proved(&mut self, at: Moment, proof: Proof) {
        if proof.captured {
            let conclusion = Conclusion::Succeeded(proof.clone());
            self.done(at, conclusion, Outcome::Succeeded(proof));
        } else {
            self.done(at, Conclusion::Failed, Outcome::Failed(proof));
        }
    }

    /// What is known without asking the API that forbids the act, at the last moment.
    fn forbidden(
        &self,
        repairer: &Repairer,
        at: Moment,
        gates: &Gates,
        patient: Option<&Patient<'_>>,
    ) -> Option<Withheld> {
        let Some(patient) = patient else {
            return Some(Withheld::OtherPod);
        };
        let stale = at.server.duration_since(self.claimed_at) > signed(CLAIMS_LAST)
            || at.now.since(self.began) > CLAIMS_LAST;
        let (mandate, means, uid) = (&repairer.mandate, repairer.means, self.pod.uid.as_str());
        let state = Some(patient.state);
        forbids(mandate, means, state, patient.standing, uid, gates, at.server)
            .or(stale.then_some(Withheld::NoLedger))
    }

    /// By this machine's clock: what the server's does meanwhile makes nobody wait less.
    fn is_late(&self, at: Moment) -> bool {
        at.now > self.late_at
    }

    /// A reading to be had now.
    pub(super) fn take_look(&mut self) -> Option<PodUid> {
        let Stage::Looking { asked_for, .. } = &mut self.stage else {
            return None;
        };
        (!std::mem::replace(asked_for, true)).then(|| self.pod.cgroup_uid.clone())
    }

    pub(super) fn take_request(
        &mut self,
        repairer: &Repairer,
        at: Moment,
        numbers: &mut u64,
    ) -> Option<(RequestId, Request)> {
        if self.asked.is_some() || at.now < self.not_before {
            return None;
        }
        let request = self.request(repairer, at)?;
        if matches!(request, Request::Act { .. }) {
            self.act = Act::Sent;
            self.late_at = at.now + self.patience;
        }
        self.asks_owner =
            matches!(&request, Request::Update { lease: LeaseKey::Owner(owner), .. } if *owner == self.owner);
        *numbers += 1;
        self.asked = Some(*numbers);
        Some((*numbers, request))
    }

    /// The owner's record, where the answer under way brings it.
    pub(super) fn brings(&self, answer: &Answer) -> Option<Record> {
        match answer {
            Answer::Updated(Ok(record)) if self.asks_owner => Some(record.clone()),
            _ => None,
        }
    }

    fn request(&mut self, repairer: &Repairer, at: Moment) -> Option<Request> {
        let update = |lease: &LeaseKey, step| {
            Some(Request::Update {
                lease: lease.clone(),
                change: self.change(step),
                allowance: repairer.limits.allowance(lease),
            })
        };
        match &self.stage {
            Stage::Claiming(place) => {
                let (lease, change, allowance) = self.claim(repairer, *place)?;
                Some(Request::Update {
                    lease,
                    change,
                    allowance,
                })
            }
            Stage::Rehearsing(_) => Some(Request::Rehearse {
                pod: self.pod.clone(),
                means: repairer.means,
            }),
            Stage::Checking => Some(Request::Check(self.pod.clone())),
            Stage::Announcing => update(
                &self.owner_key(),
                Step::Send {
                    holder: self.holder.clone(),
                    slot: self.slot,
                    before: self.before.clone(),
                    canary: self.canary == Canary::MustSucceed,
                    controller: self.controller.clone(),
                    patience: self.patience,
                },
            ),
            Stage::Acting => Some(Request::Act {
                pod: self.pod.clone(),
                means: repairer.means,
            }),
            Stage::Adopting => update(&self.owner_key(), Step::Adopt(self.holder.clone())),
            Stage::Resolving => Some(Request::Find(self.pod.clone())),
            Stage::Surveying => self.survey(),
            Stage::Recording => update(&self.owner_key(), Step::Acted),
            Stage::Following { renewed, next } if at.now.since(*renewed) >= RENEW => {
                update(self.held.get(*next)?, Step::Renew)
            }
            Stage::Ending { conclusion, .. } => {
                let conclusion = conclusion.clone();
                let lease = self.held.last()?;
                let trips = self.canary == Canary::MustSucceed && matches!(lease, LeaseKey::Node(_));
                update(
                    lease,
                    if trips {
                        Step::ConcludeCanary(conclusion)
                    } else {
                        Step::Conclude(conclusion)
                    },
                )
            }
            Stage::Looking { .. } | Stage::Following { .. } | Stage::Over(_) => None,
        }
    }

    fn change(&self, step: Step) -> Box<Change> {
        let id = self.id.clone();
        Box::new(Change { id, step })
    }

    pub(super) fn owner_key(&self) -> LeaseKey {
        LeaseKey::Owner(self.owner.clone())
    }

    pub(super) fn answer(&mut self, repairer: &Repairer, at: Moment, answer: Answer) {
        self.asked = None;
        match (&self.stage, answer) {
            (Stage::Claiming(place), Answer::Updated(result)) => self.claimed(repairer, at, *place, result),
            (Stage::Rehearsing(place), Answer::Acted(acted)) => self.rehearsed(repairer, at, *place, acted),
            (Stage::Checking, Answer::Checked(result)) => self.checked(repairer, at, result),
            (Stage::Announcing, Answer::Updated(result)) => match result {
                Ok(record) => {
                    self.note_sent(&record);
                    self.stage = if is_out(Defence::Look) || !repairer.means.needs_reading() {
                        Stage::Acting
                    } else {
                        Stage::Looking {
                            since: at.now,
                            asked_for: false,
                        }
                    };
                }
                // Whether it was written or not: nothing was sent, and nothing will be.
                Err(Refusal::Withheld(why, detail)) => self.undone(at, why, detail),
                Err(Refusal::Failed(detail)) => self.undone(at, Withheld::NoLedger, Some(detail)),
            },
            (Stage::Acting, Answer::Acted(acted)) => match acted {
                Acted::Accepted => self.happened(),
                Acted::Gone => self.undone(at, Withheld::OtherPod, None),
                Acted::Refused(..) if is_out(Defence::Refusal) => self.not_before = at.now + ASK_AGAIN,
                Acted::Refused(why, detail) => self.undone(at, why, Some(detail)),
                Acted::InDoubt(_) => {
                    self.doubt_until = at.now + DOUBT;
                    self.stage = Stage::Resolving;
                }
            },
            (Stage::Adopting, Answer::Updated(result)) => self.adopted(repairer, at, &result),
            (Stage::Resolving, Answer::Found(found)) => match found {
                Ok(Presence::Leaving) => self.happened(),
                Ok(Presence::There) if self.act == Act::Happened => self.follow(at),
                Ok(Presence::There) if at.now < self.doubt_until && !is_out(Defence::Doubt) => {
                    self.not_before = at.now + ASK_AGAIN;
                }
                Ok(Presence::There) => {
                    let why = "the API's answer was lost, and the pod is still there".to_owned();
                    self.done(at, Conclusion::InDoubt, Outcome::InDoubt(why));
                }
                Err(_) if self.is_late(at) => self.unproved(at),
                Err(_) => self.not_before = at.now + ASK_AGAIN,
            },
            (Stage::Recording, Answer::Updated(result)) => match result {
                Ok(_) => self.follow(at),
                Err(Refusal::Failed(_)) if !self.is_late(at) => {
                    self.not_before = at.now + ASK_AGAIN;
                }
                Err(_) => self.unproved(at),
            },
            (Stage::Following { .. }, Answer::Updated(result)) => self.renewed(at, &result),
            (Stage::Surveying, Answer::Surveyed(result)) => self.surveyed(at, result),
            (Stage::Ending { .. }, Answer::Updated(result)) => self.concluded(at, &result),
            // An answer to a question that nobody asked.
            _ => {}
        }
        if self.stopping {
            self.stop(at);
        }
    }

    fn happened(&mut self) {
        self.act = Act::Happened;
        self.stage = Stage::Recording;
    }

    pub(super) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// What the records lack, once it is over.
    pub(super) const fn over(&self) -> Option<Left> {
        match self.stage {
            Stage::Over(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the act happened.
    pub(super) fn acted(&self) -> bool {
        self.act == Act::Happened
    }

    const fn is_announcing(&self) -> bool {
        matches!(self.stage, Stage::Announcing)
    }

    /// Whether it waits for the proof.
    pub(super) const fn is_following(&self) -> bool {
        matches!(self.stage, Stage::Following { .. })
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.origin == Origin::Begun { stuck: true }
    }

    /// Whether it held its claims for long, so that others may have been withheld because of it.
    pub(super) fn kept_others_waiting(&self) -> bool {
        self.acted() || self.origin == Origin::Adopted
    }

    pub(super) fn took(&self, at: Moment) -> Duration {
        at.now.since(self.began)
    }

    pub(super) fn next_wake(&self, at: Moment) -> Option<Time> {
        if self.asked.is_some() {
            return None;
        }
        match self.stage {
            Stage::Looking { since, .. } => Some(since + LOOK + Duration::from_millis(1)),
            Stage::Following { renewed, .. } => {
                let late = self.late_at + Duration::from_millis(1);
                Some((renewed + RENEW).max(self.not_before).min(late).max(at.now))
            }
            Stage::Over(_) => None,
            _ => Some(self.not_before.max(at.now)),
        }
    }
}

/// How old what was fetched may be at the act. A person's reading may take longer.
const fn look_within(mandate: &Mandate) -> Duration {
    match mandate {
        Mandate::Agent(_) => LOOK,
        Mandate::Person(_) => CLAIMS_LAST,
    }
}

/// Whose Lease guards a pod: its controller's; of a pod that nobody controls, its own.
pub(super) fn owner_of(facts: &PodFacts) -> &str {
    facts
        .controller
        .as_ref()
        .map_or(facts.uid.as_str(), |controller| controller.uid.as_str())
}
