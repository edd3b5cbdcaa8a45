// SPDX-License-Identifier: Apache-2.0
//! One repair, from its claims to the proof of its successor.

mod claims;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::facts::Controller;
use crate::policy::{Gates, Withheld, gates_forbid, permissions_forbid, pod_forbids};
use crate::uid::PodUid;
use jiff::Timestamp;

use super::ledger::{Change, Conclusion, LEASE, Record, Step, signed};
use super::{
    Acted, Answer, Check, LeaseKey, Moment, Outcome, Patient, PodRef, Presence, Refusal, Request, RequestId,
    Settings, finding_forbids,
};
use crate::repair::sabotage::{Defence, is_out, stands};
use crate::time::Time;

/// The reading that an act hangs on must come within this time.
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

/// What a repair came to is written down even after a long outage: the breakers live on it. What was not
/// done is not worth that, since what it holds runs out by itself.
const OUTCOME: Duration = Duration::from_secs(60 * 60);

/// How a repair ended, as far as others are told.
#[derive(Debug)]
pub(super) enum Ended {
    Withheld(Withheld, Option<String>),
    Done(Outcome),
}

#[derive(Debug)]
enum Stage {
    /// Taking one Lease after the other.
    Claiming(Claim),
    /// Fetching everything again.
    Checking,
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
    /// Writing down how it ended.
    Ending {
        conclusion: Conclusion,
        until: Time,
    },
    Over,
}

/// First it is only looked whether each Lease would allow one more, then they are claimed: a slot before what
/// everybody watches, and an hour's budget last, by whoever has everything else.
///
/// In a big cluster there mostly is no room. Whoever wrote claims into Leases that every agent follows, to take them
/// back, would make each agent's load grow with the number of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    of: Claimed,
    /// Nothing is written yet.
    look: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimed {
    Cluster,
    Slot { tried: u32 },
    Owner,
    Node,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) pod: PodRef,
    /// The controller's UID.
    pub(super) owner: String,
    pub(super) stuck: bool,
    /// The request under way.
    pub(super) asked: Option<RequestId>,
    node: String,
    holder: String,
    stage: Stage,
    held: Vec<LeaseKey>,
    slot: Option<u32>,
    /// By the API server's clock.
    claimed_at: Timestamp,
    deadline: Timestamp,
    /// By this machine's.
    began: Time,
    late_at: Time,
    /// Until then a request whose answer was lost may still have its effect.
    doubt_until: Time,
    not_before: Time,
    acted: bool,
    /// Whether another process began it.
    adopted: bool,
    /// Whether it must be alone on its node, since no other was proved.
    alone: bool,
    /// Whether a failure opens the node's breaker at once.
    trip: bool,
    stopping: bool,
    /// Its owner's record could not be set right: it is to be taken up again.
    pub(super) unfinished: bool,
    ended: Option<Ended>,
}

impl Attempt {
    pub(super) fn new(
        settings: &Settings,
        at: Moment,
        id: String,
        pod: PodRef,
        controller: Controller,
        stuck: bool,
    ) -> Self {
        let deadline = at.server.checked_add(signed(settings.limits.successor_deadline));
        Self {
            id,
            pod,
            owner: controller.uid,
            stuck,
            asked: None,
            node: settings.node.clone(),
            holder: settings.holder.clone(),
            stage: Stage::Claiming(Claim::FIRST),
            held: Vec::new(),
            slot: None,
            claimed_at: at.server,
            deadline: deadline.unwrap_or(Timestamp::MAX),
            began: at.now,
            late_at: at.now + settings.limits.successor_deadline,
            doubt_until: at.now,
            not_before: at.now,
            acted: false,
            adopted: false,
            alone: false,
            trip: false,
            stopping: false,
            unfinished: false,
            ended: None,
        }
    }

    /// Nothing else may be under way on the node, whoever began it.
    pub(super) fn must_be_alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// A failure of this one opens the node's breaker, whatever the count.
    pub(super) fn must_succeed(mut self) -> Self {
        self.trip = true;
        self
    }

    /// Goes on where the world, not an answer, decides.
    pub(super) fn proceed(
        &mut self,
        settings: &Settings,
        at: Moment,
        gates: &Gates,
        patients: &BTreeMap<PodUid, Patient<'_>>,
        record: Option<&Record>,
    ) {
        match self.stage {
            Stage::Looking { since, .. } => {
                if let Some(why) = self.forbidden(settings, at, gates, patients).filter(stands) {
                    self.undone(at, why, None);
                } else if patients
                    .get(&self.pod.cgroup_uid)
                    .is_some_and(|patient| patient.read_at > since)
                {
                    self.stage = Stage::Acting;
                } else if at.now.since(since) > LOOK {
                    self.undone(
                        at,
                        Withheld::NotProved,
                        Some("no fresh reading could be had".to_owned()),
                    );
                }
            }
            Stage::Following { .. } if self.asked.is_none() => {
                let proof = record.and_then(|record| record.entry(&self.id)?.proof.clone());
                match proof {
                    Some(proof) if proof.captured => {
                        self.done(
                            at,
                            Conclusion::Succeeded(proof.clone()),
                            Outcome::Succeeded(proof),
                        );
                    }
                    Some(proof) => self.done(at, Conclusion::Failed, Outcome::Failed(proof)),
                    None if self.is_late(at) => {
                        self.done(at, Conclusion::Unproven, Outcome::Unproven);
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    /// What this node knows by itself that forbids the act, at the last moment.
    fn forbidden(
        &self,
        settings: &Settings,
        at: Moment,
        gates: &Gates,
        patients: &BTreeMap<PodUid, Patient<'_>>,
    ) -> Option<Withheld> {
        let Some(patient) = patients.get(&self.pod.cgroup_uid) else {
            return Some(Withheld::OtherPod);
        };
        let stale = at.server.duration_since(self.claimed_at) > signed(CLAIMS_LAST)
            || at.now.since(self.began) > CLAIMS_LAST;
        gates_forbid(gates)
            .or_else(|| finding_forbids(patient))
            .or_else(|| pod_forbids(patient.standing, &self.pod.uid, settings.permissions.jobs))
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
        settings: &Settings,
        at: Moment,
        numbers: &mut u64,
    ) -> Option<(RequestId, Request)> {
        if self.asked.is_some() || at.now < self.not_before {
            return None;
        }
        let request = self.request(settings, at)?;
        *numbers += 1;
        self.asked = Some(*numbers);
        Some((*numbers, request))
    }

    fn request(&mut self, settings: &Settings, at: Moment) -> Option<Request> {
        let update = |lease: &LeaseKey, step| {
            Some(Request::Update {
                lease: lease.clone(),
                change: self.change(step),
                allowance: settings.limits.allowance(lease),
            })
        };
        match &self.stage {
            Stage::Claiming(claim) => {
                let (lease, change, allowance) = self.claim(settings, *claim);
                Some(Request::Update {
                    lease,
                    change,
                    allowance,
                })
            }
            Stage::Checking => Some(Request::Check(self.pod.clone())),
            Stage::Acting => Some(Request::Act {
                pod: self.pod.clone(),
                delete: settings.delete,
            }),
            Stage::Adopting => update(&self.owner_key(), Step::Adopt(self.holder.clone())),
            Stage::Resolving => Some(Request::Find(self.pod.clone())),
            Stage::Recording => update(&self.owner_key(), Step::Acted(self.slot)),
            Stage::Following { renewed, next } if at.now.since(*renewed) >= RENEW => {
                update(self.held.get(*next)?, Step::Renew)
            }
            Stage::Ending { conclusion, .. } => {
                let conclusion = conclusion.clone();
                let lease = self.held.last()?;
                let canary = self.trip && matches!(lease, LeaseKey::Node(_));
                update(
                    lease,
                    if canary {
                        Step::ConcludeCanary(conclusion)
                    } else {
                        Step::Conclude(conclusion)
                    },
                )
            }
            Stage::Looking { .. } | Stage::Following { .. } | Stage::Over => None,
        }
    }

    fn change(&self, step: Step) -> Box<Change> {
        let id = self.id.clone();
        Box::new(Change { id, step })
    }

    fn owner_key(&self) -> LeaseKey {
        LeaseKey::Owner(self.owner.clone())
    }

    pub(super) fn answer(&mut self, settings: &Settings, at: Moment, answer: Answer) {
        self.asked = None;
        match (&self.stage, answer) {
            (Stage::Claiming(claim), Answer::Updated(result)) => self.claimed(settings, at, *claim, result),
            (Stage::Checking, Answer::Checked(result)) => self.checked(settings, at, result),
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
            (Stage::Adopting, Answer::Updated(result)) => self.adopted(settings, at, &result),
            (Stage::Resolving, Answer::Found(found)) => match found {
                Ok(Presence::Leaving) => self.happened(),
                Ok(Presence::There) if self.acted => self.follow(at),
                Ok(Presence::There) if at.now < self.doubt_until && !is_out(Defence::Doubt) => {
                    self.not_before = at.now + ASK_AGAIN;
                }
                Ok(Presence::There) => {
                    let why = "the API's answer was lost, and the pod is still there".to_owned();
                    self.done(at, Conclusion::InDoubt, Outcome::InDoubt(why));
                }
                Err(_) if self.is_late(at) => {
                    self.done(at, Conclusion::Unproven, Outcome::Unproven);
                }
                Err(_) => self.not_before = at.now + ASK_AGAIN,
            },
            (Stage::Recording, Answer::Updated(result)) => match result {
                Ok(_) => self.follow(at),
                Err(Refusal::Failed(_)) if !self.is_late(at) => {
                    self.not_before = at.now + ASK_AGAIN;
                }
                Err(_) => self.done(at, Conclusion::Unproven, Outcome::Unproven),
            },
            (Stage::Following { .. }, Answer::Updated(result)) => self.renewed(at, &result),
            (Stage::Ending { until, .. }, Answer::Updated(result)) => match result {
                Err(Refusal::Failed(_)) if at.now < *until => {
                    // One that cannot be written must not keep the others.
                    self.held.rotate_right(1);
                    self.not_before = at.now + ASK_AGAIN;
                }
                result => {
                    let failed = matches!(result, Err(Refusal::Failed(_)));
                    self.unfinished |= failed && matches!(self.held.last(), Some(LeaseKey::Owner(_)));
                    self.held.pop();
                    if self.held.is_empty() {
                        self.stage = Stage::Over;
                    }
                }
            },
            // An answer to a question that nobody asked.
            _ => {}
        }
        if self.stopping {
            self.stop(at);
        }
    }

    fn checked(&mut self, settings: &Settings, at: Moment, result: Result<Option<Box<Check>>, String>) {
        let check = match result {
            Ok(Some(check)) => check,
            Ok(None) => return self.undone(at, Withheld::OtherPod, None),
            Err(detail) => return self.undone(at, Withheld::NotFetched, Some(detail)),
        };
        let facts = &check.standing.facts;
        let owned = facts
            .controller
            .as_ref()
            .is_some_and(|controller| controller.uid == self.owner);
        let forbidden = pod_forbids(&check.standing, &self.pod.uid, settings.permissions.jobs)
            .or_else(|| permissions_forbid(&settings.permissions, facts, at.server))
            .or_else(|| gates_forbid(&check.gates))
            .or((!owned).then_some(Withheld::OtherPod));
        match forbidden.filter(stands) {
            Some(why) => self.undone(at, why, super::gate_detail(&check.gates, why)),
            None if is_out(Defence::Look) => self.stage = Stage::Acting,
            None => {
                self.stage = Stage::Looking {
                    since: at.now,
                    asked_for: false,
                }
            }
        }
    }

    fn happened(&mut self) {
        self.acted = true;
        self.stage = Stage::Recording;
    }

    fn follow(&mut self, at: Moment) {
        // Of the cluster only the hour's budget is taken; nothing there is held.
        self.held.retain(|lease| *lease != LeaseKey::Cluster);
        self.stage = Stage::Following {
            renewed: at.now,
            next: 0,
        };
    }

    fn renewed(&mut self, at: Moment, result: &Result<Record, Refusal>) {
        let Stage::Following { renewed, next } = &mut self.stage else {
            return;
        };
        match result {
            Ok(_) => *next += 1,
            Err(Refusal::Failed(_)) => self.not_before = at.now + ASK_AGAIN,
            // It was silent for too long, and somebody else has it now.
            Err(Refusal::Withheld(_)) => {
                let lost = self.held.remove(*next);
                if matches!(lost, LeaseKey::Owner(_)) {
                    // No proof can come any more.
                    return self.done(at, Conclusion::Unproven, Outcome::Unproven);
                }
            }
        }
        if *next >= self.held.len() {
            (*renewed, *next) = (at.now, 0);
        }
    }

    /// Ends with nothing done, for certain.
    fn undone(&mut self, at: Moment, why: Withheld, detail: Option<String>) {
        self.end(at, Conclusion::NotDone, Some(Ended::Withheld(why, detail)));
    }

    fn done(&mut self, at: Moment, conclusion: Conclusion, outcome: Outcome) {
        self.end(at, conclusion, Some(Ended::Done(outcome)));
    }

    fn end(&mut self, at: Moment, conclusion: Conclusion, ended: Option<Ended>) {
        self.ended = ended;
        let counts = matches!(
            conclusion,
            Conclusion::Succeeded(_) | Conclusion::Failed | Conclusion::Unproven
        );
        if counts && !self.held.contains(&LeaseKey::Cluster) {
            self.held.push(LeaseKey::Cluster);
        }
        self.not_before = at.now;
        self.stage = if self.held.is_empty() {
            Stage::Over
        } else {
            Stage::Ending {
                conclusion,
                until: at.now + if counts { OUTCOME } else { LEASE },
            }
        };
    }

    /// Ends as soon as nothing is at the API any more.
    pub(super) fn stop(&mut self, at: Moment) {
        self.stopping = true;
        if self.asked.is_some() {
            return;
        }
        let conclusion = match self.stage {
            Stage::Claiming(_) | Stage::Checking | Stage::Looking { .. } => Conclusion::NotDone,
            Stage::Acting if !self.acted => Conclusion::NotDone,
            // First it is written down that it happened.
            Stage::Recording | Stage::Ending { .. } | Stage::Over => return,
            Stage::Adopting => {
                self.stage = Stage::Over;
                return;
            }
            Stage::Acting | Stage::Resolving | Stage::Following { .. } => Conclusion::Released,
        };
        self.end(at, conclusion, None);
    }

    pub(super) fn take_ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    pub(super) const fn acted(&self) -> bool {
        self.acted
    }

    /// Whether it held its claims for long, so that others may have been withheld because of it.
    pub(super) const fn kept_others_waiting(&self) -> bool {
        self.acted || self.adopted
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
            Stage::Over => None,
            _ => Some(self.not_before.max(at.now)),
        }
    }
}
