// SPDX-License-Identifier: Apache-2.0
//! Tells of heals in place.

use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::kube::event::{EventReason, Subject};
use meshmedic_common::policy::Means;
use meshmedic_common::repair::PodRef;
use meshmedic_common::repair::heal;
use meshmedic_common::report::{RepairReport, RepairResult};

use super::{Teller, audit, in_millis, of};

impl Teller {
    /// What became of heals in place.
    pub(in crate::agent) fn heals(&mut self, notices: &[heal::Notice], server: Timestamp) {
        for notice in notices {
            self.metrics.heal(notice);
            self.heal(notice, server);
        }
    }

    fn heal(&mut self, notice: &heal::Notice, server: Timestamp) {
        let node = self.node.clone();
        let audit = |pod: &PodRef, act: &str, result: Option<&str>, detail: Option<&str>| {
            audit(&node, pod, act, result, None, detail, false);
        };
        match notice {
            heal::Notice::Withheld {
                pod,
                why,
                detail,
                shadow,
            } => {
                let detail = detail.as_deref();
                if matches!(heal::Below::of(*why), heal::Below::May(_)) {
                    // What the ways below make of the pod is theirs to say in Events.
                    let (reason, rule) = (Some(why.as_str()), Some(why.rule()));
                    self::audit(&self.node, pod, "withheld", reason, rule, detail, *shadow);
                } else {
                    self.withheld(pod, *why, detail, *shadow);
                }
            }
            heal::Notice::Would { pod } => self::audit(&self.node, pod, "would-heal", None, None, None, true),
            heal::Notice::Asked { pod, attempt } => {
                let second = *attempt == heal::Attempt::Second;
                audit(
                    pod,
                    "heal",
                    Some(if second { "asked-again" } else { "asked" }),
                    None,
                );
                if !second {
                    let note = "asking istio-cni to enrol it again: it fell out of the mesh. Nothing restarts; its open \
                                connections are reset once"
                        .to_owned();
                    self.tell_of(pod.into(), EventReason::RepairStarted, note);
                }
            }
            heal::Notice::Healed { pod, took, .. } => {
                audit(pod, "healed", Some("succeeded"), None);
                let took_text = meshmedic_common::duration::show(in_millis(*took));
                let note = format!(
                    "it is captured again in its own network namespace, {took_text} after istio-cni was asked"
                );
                self.remember_end(Means::Heal, pod, RepairResult::Succeeded, &note, *took, server);
                self.tell_of(pod.into(), EventReason::RepairSucceeded, note);
            }
            heal::Notice::Failed { pod, why, took } => {
                audit(pod, "healed", Some("failed"), Some(why.as_str()));
                // Until istio-cni says that it is captured, istiod tells callers to speak plain text to it.
                let note = format!(
                    "istio-cni was asked to enrol it again, and that failed: {}",
                    why.sentence()
                );
                self.remember_end(Means::Heal, pod, RepairResult::Failed, &note, *took, server);
                self.tell_of(pod.into(), EventReason::RepairFailed, note);
            }
            heal::Notice::Toggling { pod } => {
                audit(pod, "toggle", Some("started"), None);
                let note =
                    "the heal failed, so its label takes it out of the mesh and in again: its traffic is \
                            plain text meanwhile, and nothing restarts"
                        .to_owned();
                self.tell_of(pod.into(), EventReason::RepairStarted, note);
            }
            heal::Notice::Toggled { pod, took } => {
                audit(pod, "toggled", Some("succeeded"), None);
                let took_text = meshmedic_common::duration::show(in_millis(*took));
                let note = format!(
                    "it is captured again in its own network namespace, {took_text} after its label was taken away"
                );
                self.remember_end(Means::Toggle, pod, RepairResult::Succeeded, &note, *took, server);
                self.tell_of(pod.into(), EventReason::RepairSucceeded, note);
            }
            heal::Notice::ToggleFailed { pod, detail } => {
                audit(pod, "toggled", Some("failed"), detail.as_deref());
                let note = match detail {
                    Some(detail) => format!("its label could not be toggled: {detail}"),
                    None => "its label was toggled, and it is not captured in time; the label is as it was"
                        .to_owned(),
                };
                self.remember_end(
                    Means::Toggle,
                    pod,
                    RepairResult::Failed,
                    &note,
                    Duration::ZERO,
                    server,
                );
                self.tell_of(pod.into(), EventReason::RepairFailed, note);
            }
            // What was made worse is told of each, however many there are.
            heal::Notice::Undone { pod } => {
                audit(pod, "undo", Some("succeeded"), None);
                let note = format!(
                    "{}; its label is put back once ztunnel is proved to serve",
                    heal::UNDONE
                );
                self.publish(EventReason::RepairFailed, of(pod), note);
            }
            heal::Notice::MadeUnreachable { pod, detail } => {
                audit(pod, "undo", Some("failed"), Some(detail));
                let note = heal::made_unreachable(pod, detail);
                tracing::error!(namespace = pod.namespace, pod = pod.name, uid = pod.uid, "{note}");
                self.publish(EventReason::RepairFailed, of(pod), note);
            }
            heal::Notice::Stopped => {
                let note = "heals in place of pods of different owners and namespaces failed: no more start \
                            on this node until its istio-cni or ztunnel is another, or an hour has passed";
                tracing::warn!(node = self.node, "{note}");
                self.publish(
                    EventReason::NodeFault,
                    Subject::Node(self.node.clone()),
                    note.to_owned(),
                );
            }
            heal::Notice::Permitted {
                namespace,
                permitted: Ok(()),
            } => {
                tracing::info!(namespace, "pods can be healed in place again");
            }
            heal::Notice::Permitted {
                namespace,
                permitted: Err(why),
            } => {
                let note = format!(
                    "pods of {namespace} cannot be healed in place, and are not restarted instead: {why}"
                );
                tracing::warn!(node = self.node, "{note}");
                self.publish(EventReason::RepairBlocked, Subject::Node(self.node.clone()), note);
            }
        }
    }

    fn remember_end(
        &mut self,
        means: Means,
        pod: &PodRef,
        result: RepairResult,
        note: &str,
        took: Duration,
        server: Timestamp,
    ) {
        self.repairs.push(RepairReport {
            at: server,
            pod: pod.display_name(),
            uid: pod.uid.clone(),
            action: Some(means),
            result: Some(result),
            detail: Some(note.to_owned()),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }
}
