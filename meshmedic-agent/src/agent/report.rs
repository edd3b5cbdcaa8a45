// SPDX-License-Identifier: Apache-2.0
//! What the agent reports over `/v1/node`: what the watch knows, and what the API and the planner add.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use meshmedic_common::identity::Claimant;
use meshmedic_common::policy::{Withheld, is_stuck};
use meshmedic_common::repair::heal::Below;
use meshmedic_common::report::{
    BreakerReport, BreakerScope, Budgets, ConditionReport, HealStanding, NodeReport, PodReport,
    RepairStanding,
};
use meshmedic_common::verdict::Condition;

use super::Agent;
use meshmedic_common::time::{Time, Uptime};

/// How many strangers the condition names.
const NAMED: usize = 3;
/// How many the report lists: whoever may make one may make thousands.
const STRANGERS_MOST: usize = 64;

impl Agent {
    /// Everything that is known of this node now.
    pub(super) fn report(&self, now: Time) -> NodeReport {
        let mut report = self.watch.report();
        let server = self.clock.now();
        report.at = server;
        report.booted = server.and_then(|server| server.checked_sub(span(Uptime::now().since_boot())).ok());
        report.serves = self.heal.serves();
        if let Some(fault) = &self.gates.mesh_fault {
            report.conditions.push(condition(Condition::MeshFault, fault));
        }
        if self.gates.cordoned {
            report
                .conditions
                .push(condition(Condition::Cordoned, Condition::Cordoned.sentence()));
        }
        if let Some(reason) = &self.gates.paused {
            report.conditions.push(condition(Condition::Paused, reason));
        }
        let not_permitted: Vec<_> = self.heal.healer().not_permitted().collect();
        if let Some((_, why)) = not_permitted.first() {
            let namespaces = not_permitted.iter().take(NAMED).map(|(namespace, _)| *namespace);
            let detail = format!("in {}: {why}", namespaces.collect::<Vec<_>>().join(", "));
            report
                .conditions
                .push(condition(Condition::HealNotPermitted, &detail));
        }
        if let Some(detail) = self.heal.breaker() {
            report.conditions.push(condition(Condition::HealBreaker, detail));
        }
        report.confinement = Some(self.confinement.clone());
        let unreachable = self.heal.healer().made_unreachable().take(NAMED);
        let unreachable: Vec<String> = unreachable
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .collect();
        if !unreachable.is_empty() {
            report
                .conditions
                .push(condition(Condition::HealMadeUnreachable, &unreachable.join(", ")));
        }
        report.istio = Some(self.mirror.identity().clone());
        let strangers = self.mirror.strangers();
        if !strangers.is_empty() {
            let named = strangers.iter().take(NAMED).map(Claimant::sentence);
            let mut named: Vec<String> = named.collect();
            if let more @ 1.. = strangers.len().saturating_sub(named.len()) {
                named.push(format!("and {more} more"));
            }
            report
                .conditions
                .push(condition(Condition::IdentityConflict, &named.join("; ")));
        }
        report.strangers = strangers.into_iter().take(STRANGERS_MOST).collect();
        for pod in &mut report.pods {
            self.complete(pod, now, server);
        }
        report.budgets = Some(self.budgets(now));
        report.breakers = self.breakers(server);
        report.repairs = self.teller.last_repairs().clone();
        report
    }

    fn complete(&self, pod: &mut PodReport, now: Time, server: Option<Timestamp>) {
        let view = self.watch.engine().view(&pod.uid);
        pod.sandbox = self.watch.place(&pod.uid).map(|place| place.to_string());
        pod.read_at = view
            .as_ref()
            .and_then(|view| Some(instant(server?, now, view.last_read?)));
        pod.since = view.and_then(|view| Some(instant(server?, now, view.since)));
        pod.transitions = self.teller.transitions(&pod.uid).cloned().unwrap_or_default();
        if let Some(standing) = self.mirror.standings().get(&pod.uid) {
            pod.expectation = Some(standing.expectation.into());
            pod.ready = Some(standing.facts.ready);
            let stuck = |server| is_stuck(self.grace_period, &standing.facts, server);
            pod.stuck = server.is_some_and(stuck);
        }
        let healer = self.heal.healer();
        pod.heal = healer.progress(&pod.uid).map(HealStanding::from);
        if pod.heal.is_none() && healer.would_heal(&pod.uid) && pod.state.is_finding() {
            pod.heal = Some(HealStanding::WouldHeal);
        }
        if pod.heal.is_none()
            && pod.state.is_finding()
            && let Below::Waits(why) = healer.below(&pod.uid)
            && why != Withheld::Healing
        {
            pod.heal = Some(HealStanding::withheld(why));
        }
        let acted = self
            .planner
            .under_way()
            .find_map(|(under_way, acted)| (under_way.cgroup_uid == pod.uid).then_some(acted));
        pod.repair = match acted {
            Some(acted) => Some(RepairStanding::UnderWay { acted }),
            None if self.planner.would_repair(&pod.uid) => Some(RepairStanding::WouldRepair),
            None => self
                .planner
                .withheld(&pod.uid)
                .map(|(why, shadow)| RepairStanding::withheld(why, None, shadow)),
        };
        // Where no other way is allowed it stays at why it is not healed.
        if pod.heal.is_none() && pod.repair.is_none() && pod.state.is_finding() {
            pod.heal = healer.withheld(&pod.uid).map(HealStanding::withheld);
        }
    }

    fn budgets(&self, now: Time) -> Budgets {
        let repairer = self.planner.repairer();
        let permissions = repairer.permissions();
        Budgets {
            repairs_ready: permissions.ready,
            repairs_stuck: permissions.stuck,
            acts_this_hour: self.planner.acts_this_hour(now) as u64,
            acts_an_hour: repairer.limits.per_hour_node as u64,
            in_flight: self.planner.under_way().count() as u64,
            in_flight_most: repairer.limits.in_flight_node as u64,
        }
    }

    /// The owners' breakers from their Leases; those of the node and the cluster as they were last met.
    fn breakers(&self, server: Option<Timestamp>) -> Vec<BreakerReport> {
        let limits = &self.planner.repairer().limits;
        let mut breakers = Vec::new();
        for lease in self.mirror.leases().filter(|lease| lease.owner.is_some()) {
            let Some(record) = lease
                .record
                .as_ref()
                .filter(|record| record.failures >= limits.breaker_failures)
            else {
                continue;
            };
            let until = record
                .last_failure
                .and_then(|last| last.checked_add(span(limits.breaker_open)).ok());
            if until.zip(server).is_some_and(|(until, server)| until > server) {
                breakers.push(BreakerReport {
                    scope: BreakerScope::Owner,
                    name: lease.owner.clone(),
                    failures: record.failures,
                    until,
                });
            }
        }
        for (why, scope, failures) in [
            (Withheld::BreakerNode, BreakerScope::Node, limits.breaker_failures),
            (
                Withheld::BreakerCluster,
                BreakerScope::Cluster,
                limits.breaker_failures_cluster,
            ),
        ] {
            if self.planner.is_withheld_by(why) {
                breakers.push(BreakerReport {
                    scope,
                    name: None,
                    failures,
                    until: None,
                });
            }
        }
        breakers
    }
}

fn condition(condition: Condition, detail: &str) -> ConditionReport {
    ConditionReport {
        condition,
        detail: detail.to_owned(),
    }
}

/// An instant of this machine's monotonic clock by the API server's.
fn instant(server: Timestamp, now: Time, then: Time) -> Timestamp {
    server.checked_sub(span(now.since(then))).unwrap_or(server)
}

fn span(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
