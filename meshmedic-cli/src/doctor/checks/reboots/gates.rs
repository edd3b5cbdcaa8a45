// SPDX-License-Identifier: Apache-2.0
//! Pods that have a gate and do not get through it, or start something before it.

use jiff::SignedDuration;
use meshmedic_common::facts::GateState;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::View;

/// A new pod is through within seconds; an agent that heals needs no longer than this.
const LONG: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in view.pods().iter().filter(|pod| pod.is_live()) {
        let Some(gate) = &pod.facts.gate else { continue };
        let on = |problem: &str| {
            let object = ObjectRef::new("Pod", &pod.facts.namespace, &pod.facts.name);
            Finding::on(object, problem).of(pod.workload.clone())
        };
        let waits = match &gate.state {
            GateState::Waiting(since) => since.filter(|since| view.now.duration_since(*since) > LONG),
            GateState::Failed(_) | GateState::Ahead | GateState::Open => None,
        };
        let shut = match (&gate.state, waits) {
            (GateState::Failed(_), _) => Some("its gate waited in vain".to_owned()),
            (_, Some(since)) => Some(format!("its gate has been waiting since {since}")),
            _ => None,
        };
        if let Some(shut) = shut {
            let explain =
                Command::new("meshmedic explain").joined(&pod.facts.namespace, "/", &pod.facts.name);
            findings.push(
                on("it waits in its gate: ztunnel does not listen in it")
                    .because(shut)
                    .so("Its containers do not start. Without the gate they would speak plaintext past the mesh.")
                    .by_hand("Where MeshMedic's agents heal, wait for them. What keeps ztunnel from it:")
                    .run(explain),
            );
        }
        if !gate.first {
            findings.push(
                on("its gate is not the first init container")
                    .because("another init container stands before meshmedic-gate")
                    .so("What comes before the gate starts whether or not ztunnel listens, and speaks plaintext past the mesh.")
                    .by_hand("put meshmedic-gate first in the workload's initContainers"),
            );
        }
    }
    findings
}
