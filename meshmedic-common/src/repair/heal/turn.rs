// SPDX-License-Identifier: Apache-2.0
//! Whose turn it is: which pods are asked for next, and why the others wait.

use std::collections::BTreeMap;

use super::case::{Case, Stage, is_worse};
use super::evidence::{Candidate, NodeView};
use super::healer::{GAPS, tell};
use super::pace::Whose;
use super::{Below, Healer, Healing, Notice};
use crate::policy::{Permissions, Withheld};
use crate::repair::sabotage::stands;
use crate::repair::{Moment, PodRef};
use crate::spread::share;
use crate::uid::PodUid;
use crate::verdict::State;

/// So many pods are read ahead, so that the next ones are proved when their turn comes.
const PREPARED: usize = 16;

impl Healer {
    /// Begins what may begin, and says of the others why not.
    pub(super) fn begin(&mut self, at: Moment, view: &NodeView, pods: &BTreeMap<PodUid, Candidate<'_>>) {
        let siblings = Siblings::count(pods);
        for (uid, candidate) in pods.iter().filter(|(_, candidate)| candidate.state.is_lost()) {
            if !self.cases.contains_key(uid) {
                let facts = &candidate.standing.facts;
                let pod = PodRef {
                    namespace: facts.namespace.clone(),
                    name: facts.name.clone(),
                    uid: facts.uid.clone(),
                    cgroup_uid: uid.clone(),
                };
                self.cases
                    .insert(uid.clone(), Case::new(pod, siblings.whose(candidate)));
            }
        }
        let forbidden = self.begin_forbids(at, view);
        if forbidden.is_none() {
            self.pace.width.is_free(at);
        }
        let settles = forbidden.is_some() && self.settles_soon(at, view);
        let proved = self.pace.is_proved(at.now);
        let shadow = !self.may_act();
        let mut order: Vec<(&PodUid, &Candidate<'_>)> = pods
            .iter()
            .filter(|(uid, _)| self.cases.get(*uid).is_some_and(|case| !case.is_outstanding()))
            .collect();
        // The canary is the one with least to lose: others stand in for it.
        order.sort_by_key(|(uid, candidate)| {
            (
                !proved && !siblings.stand_in(candidate),
                !matches!(candidate.state, State::Orphan | State::Stalled),
                *uid,
            )
        });
        let mut prepared = 0;
        for (uid, candidate) in order {
            let against = self.against(candidate);
            let outstanding = self.cases.values().filter(|case| case.is_outstanding()).count();
            let not_permitted = self.api_forbids(&candidate.standing.facts.namespace);
            let Some(case) = self.cases.get_mut(uid) else {
                continue;
            };
            case.whose = siblings.whose(candidate);
            if let Stage::Spent {
                against: tried,
                why,
                ours,
                toggled,
                ..
            } = &case.stage
            {
                let (tried, why, toggled) = (tried.clone(), *why, *toggled);
                if *ours && is_worse(candidate) {
                    // istio-cni took it up after all, when nobody waited any more.
                    case.stage = Stage::Undoing { against: tried, why };
                    continue;
                }
                if against.as_ref() == Some(&tried) {
                    case.below = Below::May(Some(why));
                    if !toggled {
                        let above = not_permitted.or_else(|| forbidden.clone()).map(|(why, _)| why);
                        let paced = || {
                            self.pace
                                .forbids(at.now, &self.healing.care, outstanding, &case.whose)
                        };
                        let above = above.or_else(paced);
                        case.after_ask(at, &self.healing, candidate, above, (&tried, why));
                        if case.is_outstanding() {
                            self.pace
                                .asked(at.now, &case.whose.owner, self.healing.care.owner_gap);
                        }
                    }
                    continue;
                }
                case.stage = Stage::Watching;
            }
            // It came back a moment ago, and nobody waits for anything.
            if !candidate.state.is_lost() {
                continue;
            }
            let adopted = case.adopts(at, candidate, against.as_ref());
            if let Some(waiting) = adopted.filter(|_| !shadow && !view.watches_only) {
                case.stage = Stage::Waiting(waiting);
                continue;
            }
            if at.now < case.not_before {
                continue;
            }
            let of_pod = case.forbids(&self.healing.in_shadow(shadow), at, candidate);
            // Where no other node lost its pods there is nobody to keep apart from.
            let others = self.pace.width.nodes() != Some(1);
            let spread = self
                .pace
                .width
                .since()
                .filter(|_| proved && others)
                .is_some_and(|since| at.now.since(since) < self.healing.care.owner_gap * slot(uid));
            let reason = of_pod
                .map(|why| (why, None))
                .or_else(|| not_permitted.or_else(|| forbidden.clone()))
                .or_else(|| {
                    let why = self
                        .pace
                        .forbids(at.now, &self.healing.care, outstanding, &case.whose);
                    why.filter(stands).map(|why| {
                        let detail = self.pace.detail(at.now, &self.healing.care, why, &case.whose);
                        (why, detail)
                    })
                })
                .or_else(|| spread.then_some((Withheld::HealOwnerShare, None)));
            let agrees = case.agrees(&self.healing.care, candidate, None);
            let settling = |why| settles && matches!(why, Withheld::NodeFault | Withheld::ZtunnelUnproven);
            let read_ahead = reason
                .as_ref()
                .is_none_or(|(why, _)| waits_for_its_turn(*why) || settling(*why));
            if read_ahead && !agrees && prepared < PREPARED {
                prepared += 1;
                case.look(at.now, self.healing.care.confirm / 2);
            }
            if let Some((why, detail)) = reason {
                case.below = Below::of(why);
                // A pod that is being confirmed is no finding yet: nobody is told why nothing is done.
                if candidate.state != State::Suspect || why == Withheld::HealNotPermitted {
                    tell(&mut self.notices, case, why, detail, shadow);
                }
                continue;
            }
            case.below = Below::Waits(Withheld::Healing);
            if !agrees {
                continue;
            }
            if shadow {
                if !std::mem::replace(&mut case.would, true) {
                    self.notices.push(Notice::Would {
                        pod: case.pod.clone(),
                    });
                }
                continue;
            }
            // Its turn counts from here: several may be on their way before the first is asked.
            let gap = self.healing.care.owner_gap;
            self.pace.asked(at.now, &case.whose.owner, gap);
            case.stage = Stage::Fetching { first: None };
        }
    }
}

/// Whether nothing but other heals holds a pod back: then it is read while it waits, and asked for when its turn comes.
const fn waits_for_its_turn(why: Withheld) -> bool {
    matches!(
        why,
        Withheld::HealPace | Withheld::HealCanary | Withheld::HealOwnerShare
    )
}

impl Healing {
    /// The same with repairs on, where what would be done is wanted.
    const fn in_shadow(self, shadow: bool) -> Self {
        let permissions = Permissions {
            ready: self.permissions.ready || shadow,
            ..self.permissions
        };
        Self { permissions, ..self }
    }
}

/// Of each owner's pods on this node: all, and those that are Ready.
struct Siblings<'a>(BTreeMap<&'a str, (usize, usize)>);

impl<'a> Siblings<'a> {
    fn count(pods: &'a BTreeMap<PodUid, Candidate<'_>>) -> Self {
        let mut owners: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for candidate in pods.values() {
            let (all, ready) = owners.entry(owner(candidate)).or_default();
            *all += 1;
            *ready += usize::from(candidate.standing.facts.ready);
        }
        Self(owners)
    }

    fn whose(&self, candidate: &Candidate<'_>) -> Whose {
        let owner = owner(candidate);
        Whose {
            owner: owner.to_owned(),
            namespace: candidate.standing.facts.namespace.clone(),
            siblings: self.0.get(owner).map_or(1, |(all, _)| *all),
        }
    }

    /// Whether others of its owner do its work meanwhile, as far as this node shows.
    fn stand_in(&self, candidate: &Candidate<'_>) -> bool {
        let (_, ready) = self.0.get(owner(candidate)).copied().unwrap_or_default();
        ready > usize::from(candidate.standing.facts.ready)
    }
}

fn owner<'a>(candidate: &'a Candidate<'_>) -> &'a str {
    let facts = &candidate.standing.facts;
    facts
        .controller
        .as_ref()
        .map_or(&facts.uid, |controller| &controller.uid)
}

/// Which gap of a mass loss is a pod's, the same for every agent and on every run: a likelihood, no promise, that the
/// pods of one owner on many nodes are not asked for at once.
fn slot(uid: &PodUid) -> u32 {
    u32::try_from(share(uid.as_str(), GAPS.into())).unwrap_or(0)
}
