// SPDX-License-Identifier: Apache-2.0
//! Tells what holds for the whole node.

use std::time::Duration;

use meshmedic_common::kube::event::{EventReason, Subject};
use meshmedic_common::time::Time;
use meshmedic_common::verdict::Condition;

use super::Teller;
use crate::watch::Watch;

/// A node's fault becomes an Event after this: longer than a ztunnel that restarts takes to settle.
const FAULT_LASTS: Duration = Duration::from_secs(60);

/// What is wrong with the node.
pub(super) struct Fault {
    since: Time,
    note: String,
    told: bool,
}

/// A loss of most pods that no Event tells of yet.
pub(super) struct Untold {
    since: Time,
    note: String,
    /// How long it waits for those of other nodes, the longest that was known.
    wait: Option<Duration>,
}

impl Teller {
    pub(super) fn condition(&mut self, now: Time, watch: &Watch, condition: Condition, detail: Option<&str>) {
        match detail {
            Some(detail) => tracing::warn!(
                node = self.node,
                condition = condition.as_str(),
                detail,
                "{}",
                condition.sentence()
            ),
            None => tracing::info!(node = self.node, condition = condition.as_str(), "over"),
        }
        // A node without pods of the mesh has nothing to be at fault about.
        let concerned = watch.engine().views().any(|(_, view)| !view.state.is_open());
        let note = detail
            .filter(|_| concerned)
            .map(|detail| format!("{}: {detail}", condition.sentence()));
        if condition == Condition::MassLoss {
            self.mass_loss = detail.is_some();
            if note.is_some() {
                self.few.tell_of_node(now);
            }
        }
        match (condition, note) {
            (Condition::NodeFault, None) => self.fault = None,
            (Condition::NodeFault, Some(note)) => {
                let since = self.fault.as_ref().map_or(now, |fault| fault.since);
                let told = self.fault.as_ref().is_some_and(|fault| fault.told);
                self.fault = Some(Fault { since, note, told });
            }
            // Of a node among many it is told as such.
            (Condition::MassLoss, Some(_)) if self.wide => {}
            // Told once it is known how many other nodes have the same to say.
            (Condition::MassLoss, Some(note)) => self.owe(now, note),
            (_, Some(note)) => {
                self.publish(EventReason::NodeFault, Subject::Node(self.node.clone()), note);
            }
            (_, None) => {}
        }
    }

    /// A fault that lasts becomes an Event. One that is over before is in the log and the metrics: an upgrade of
    /// ztunnel makes one on every node.
    pub(super) fn tell_fault(&mut self, now: Time) {
        let lasts = |fault: &&mut Fault| !fault.told && now.since(fault.since) >= FAULT_LASTS;
        let Some(fault) = self.fault.as_mut().filter(lasts) else {
            return;
        };
        fault.told = true;
        let note = fault.note.clone();
        self.publish(EventReason::NodeFault, Subject::Node(self.node.clone()), note);
    }

    /// Takes how many nodes lost their pods at once. Where there are others, no Event tells of a pod, and one of the
    /// node.
    pub(in crate::agent) fn wide(&mut self, now: Time, nodes: Option<u32>) {
        let others = nodes.filter(|nodes| *nodes > 1);
        let was = std::mem::replace(&mut self.wide, others.is_some());
        if let Some(nodes) = others.filter(|_| !was) {
            tracing::info!(
                nodes,
                "about so many nodes lost their pods at once: heals and Events of all of them are spread out"
            );
            self.few.tell_of_node(now);
            let note = format!(
                "most of its pods fell out of the mesh, as on about {nodes} nodes: `meshmedic status` counts them, and \
                 `meshmedic scan --node {}` names them",
                self.node
            );
            if self.untold.is_some() || !self.mass_loss {
                self.owe(now, note);
            }
        }
    }

    /// What an Event is to say of a loss of most pods, once.
    fn owe(&mut self, now: Time, note: String) {
        let known = self.untold.take();
        self.untold = Some(Untold {
            since: known.as_ref().map_or(now, |untold| untold.since),
            note,
            wait: known.and_then(|untold| untold.wait),
        });
    }

    /// A loss of most pods becomes an Event after this wait, if that is known by now: also where all is well again.
    pub(in crate::agent) fn tell_mass_loss(&mut self, now: Time, wait: Option<Duration>) {
        let due = |untold: &mut Untold| {
            untold.wait = untold.wait.max(wait);
            untold.wait.is_some_and(|wait| now.since(untold.since) >= wait)
        };
        if let Some(Untold { note, .. }) = self.untold.take_if(due) {
            self.publish(EventReason::NodeFault, Subject::Node(self.node.clone()), note);
        }
    }
}
