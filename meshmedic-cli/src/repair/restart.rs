// SPDX-License-Identifier: Apache-2.0
//! The usual repair: the pod is evicted, and the pod that takes its place is followed until it is captured.

use meshmedic_common::facts::PodFacts;
use meshmedic_common::policy::Withheld;
use meshmedic_common::repair::ledger::Conclusion;
use meshmedic_common::repair::{Acted, Answer, PodRef, Presence, Request};
use meshmedic_common::verdict::State;

use super::follow::Followed;
use super::plan::forbids;
use super::records::Held;
use super::{Action, Item, Planned, Shop, Strategy};

/// What an act came to.
enum Done {
    /// The pod is going.
    Happened,
    /// It was not done, for certain.
    Refused(Withheld, String),
    /// Nobody knows, and the pod is still there.
    Doubtful(String),
}

impl Shop<'_> {
    /// Repairs one pod by having it started anew.
    pub(super) async fn restart(&self, plan: &Planned) -> Item {
        let item = plan.item();
        let Some(facts) = &plan.facts else { return item };
        let Some(controller) = &facts.controller else {
            return item.withheld(Withheld::NothingRecreates, None);
        };
        let held = match self.records.claim(facts).await {
            Ok(held) => held,
            Err((why, detail)) => return item.withheld(why, detail.as_deref()),
        };
        if let Err((why, detail)) = self.recheck(plan, facts).await {
            self.records.conclude(facts, held, Conclusion::NotDone).await;
            return item.withheld(why, detail.as_deref());
        }
        if self.stop.is_set() {
            self.records.conclude(facts, held, Conclusion::NotDone).await;
            return item.ended(Action::NotDone, "interrupted before it was done");
        }
        let before = match self.before(facts).await {
            Ok(before) => before,
            Err(failure) => {
                self.records.conclude(facts, held, Conclusion::NotDone).await;
                return item.withheld(Withheld::NotFetched, Some(&failure.short()));
            }
        };
        match self.evict(facts).await {
            Done::Happened => {}
            Done::Refused(why, detail) => {
                self.records.conclude(facts, held, Conclusion::NotDone).await;
                return item.withheld(why, Some(&detail));
            }
            Done::Doubtful(why) => {
                self.records.conclude(facts, held, Conclusion::InDoubt).await;
                return item.ended(Action::Failed, why);
            }
        }
        let mut held = held;
        self.records.acted(facts, &held).await;
        let followed = self.follow(facts, controller, &before, &mut held).await;
        self.end(item, facts, held, followed).await
    }

    /// Writes down and tells what became of the successor.
    async fn end(&self, item: Item, facts: &PodFacts, held: Held, followed: Followed) -> Item {
        let verb = if self.risks.delete_past_disruption_budgets {
            "deleted"
        } else {
            "evicted"
        };
        match followed {
            Followed::Captured(seen) => {
                let conclusion = Conclusion::Succeeded(self.records.proof(&seen));
                self.records.conclude(facts, held, conclusion).await;
                let name = seen.display_name();
                let detail = format!("{verb}; its successor {name} is captured");
                Item {
                    successor: Some(name),
                    ..item.ended(Action::Restarted, detail)
                }
            }
            Followed::Lost(seen) => {
                self.records.conclude(facts, held, Conclusion::Failed).await;
                let name = seen.display_name();
                let detail = format!("{verb}; but of its successor {name}: {}", seen.sentence());
                Item {
                    successor: Some(name),
                    ..item.ended(Action::Failed, detail)
                }
            }
            Followed::Late(why) => {
                self.records.conclude(facts, held, Conclusion::Unproven).await;
                item.ended(Action::Failed, format!("{verb}; but not verified in time: {why}"))
            }
            Followed::Interrupted(why) => {
                self.records.conclude(facts, held, Conclusion::Released).await;
                item.ended(
                    Action::Failed,
                    format!("{verb}; interrupted before it was verified: {why}"),
                )
            }
        }
    }

    /// Fetches everything again on which the act depends, and reads the pod again.
    pub(super) async fn recheck(
        &self,
        plan: &Planned,
        facts: &PodFacts,
    ) -> Result<(), (Withheld, Option<String>)> {
        let Some(pod) = pod_ref(facts) else {
            return Err((Withheld::Untrusted, Some("its UID is none".to_owned())));
        };
        let acts = self.records.acts(facts);
        let enablement = self.world.enablement();
        let check = match acts.perform(Request::Check(pod), facts.ready, &enablement).await {
            Answer::Checked(Ok(Some(check))) => check,
            Answer::Checked(Ok(None)) => return Err((Withheld::OtherPod, None)),
            Answer::Checked(Err(why)) => return Err((Withheld::NotFetched, Some(why))),
            _ => return Err((Withheld::NotFetched, None)),
        };
        let strategy = self.how.strategy;
        let state = plan.pod.state;
        if let Some(why) = forbids(
            strategy,
            self.risks,
            state,
            &check.standing,
            &facts.uid,
            check.gates,
        ) {
            return Err(why);
        }
        // The controller that was shown in the plan must be the one that recreates it.
        if strategy == Strategy::Restart && check.standing.facts.controller != facts.controller {
            return Err((Withheld::OtherPod, None));
        }
        let seen = self
            .verifier
            .verify(&facts.namespace, &facts.name, std::time::Duration::ZERO)
            .await;
        match seen {
            Ok(seen) if seen.uid != facts.uid => Err((Withheld::OtherPod, None)),
            Ok(seen) if matches!(seen.state, State::Orphan | State::Partial) => Ok(()),
            Ok(seen) if seen.state == State::Imposter => Err((Withheld::Imposter, None)),
            Ok(seen) => Err((
                Withheld::NotProved,
                Some(format!("now it is {}: {}", seen.state, seen.sentence())),
            )),
            Err(error) => Err((
                Withheld::NotProved,
                Some(format!("it could not be read again: {error:#}")),
            )),
        }
    }

    async fn evict(&self, facts: &PodFacts) -> Done {
        let Some(pod) = pod_ref(facts) else {
            return Done::Refused(Withheld::Untrusted, "its UID is none".to_owned());
        };
        let acts = self.records.acts(facts);
        let enablement = self.world.enablement();
        let request = Request::Act {
            pod: pod.clone(),
            delete: self.risks.delete_past_disruption_budgets,
        };
        match acts.perform(request, facts.ready, &enablement).await {
            Answer::Acted(Acted::Accepted) => Done::Happened,
            Answer::Acted(Acted::Gone) => Done::Refused(Withheld::OtherPod, String::new()),
            Answer::Acted(Acted::Refused(why, detail)) => Done::Refused(why, detail),
            Answer::Acted(Acted::InDoubt(why)) => {
                // It may have happened: look before anybody asks again.
                match acts.perform(Request::Find(pod), facts.ready, &enablement).await {
                    Answer::Found(Ok(Presence::Leaving)) => Done::Happened,
                    Answer::Found(Ok(Presence::There)) => {
                        Done::Doubtful(format!("the answer was lost, and the pod is still there: {why}"))
                    }
                    _ => Done::Doubtful(format!("whether it was done is not known: {why}")),
                }
            }
            _ => Done::Doubtful("another question was answered".to_owned()),
        }
    }
}

fn pod_ref(facts: &PodFacts) -> Option<PodRef> {
    Some(PodRef {
        namespace: facts.namespace.clone(),
        name: facts.name.clone(),
        uid: facts.uid.clone(),
        cgroup_uid: facts.cgroup_uid()?,
    })
}
