// SPDX-License-Identifier: Apache-2.0
//! What proves of captured pods that their traffic is led to ztunnel.

use meshmedic_common::report::PodReport;
use meshmedic_common::rules::{Rules, RulesProof};
use meshmedic_common::traffic::{Connections, Passage};
use meshmedic_common::verdict::State;
use serde::Serialize;

/// Of the captured pods, how many have more than ztunnel's listeners to show, by kind of proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FleetProof {
    /// Captured, by their listeners.
    pub(crate) captured: usize,
    /// Istio's chains were read by name.
    pub(crate) names: usize,
    /// The same, by an earlier census since which nothing changed.
    pub(crate) fingerprint: usize,
    /// Connections went through ztunnel.
    pub(crate) traffic: usize,
    /// Neither rules nor connections prove it: their listeners alone are known.
    pub(crate) listeners_only: usize,
}

impl FleetProof {
    pub(super) fn add(&mut self, pod: &PodReport) {
        if pod.state != State::Captured {
            return;
        }
        self.captured += 1;
        let rules = pod.rules.as_ref().filter(|rules| rules.verdict == Rules::Present);
        // An agent that does not say how it knows read the names.
        match rules.map(|rules| rules.proof().unwrap_or(RulesProof::Names)) {
            Some(RulesProof::Names) => self.names += 1,
            Some(RulesProof::Fingerprint) => self.fingerprint += 1,
            None => {}
        }
        let through = |found: &Connections| found.verdict == Passage::Through;
        let through = pod.connections.as_ref().is_some_and(through);
        self.traffic += usize::from(through);
        self.listeners_only += usize::from(rules.is_none() && !through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_proof_are_counted_for_captured_pods() {
        let family = |proof: &str| serde_json::json!({ "verdict": "present", "proof": proof });
        let rules = |proof| serde_json::json!({ "verdict": "present", "ipv4": family(proof), "ipv6": { "verdict": "absent" } });
        let unknown = serde_json::json!({ "verdict": "unknown", "ipv4": { "verdict": "unknown" }, "ipv6": { "verdict": "unknown" } });
        let connections = |verdict: &str| serde_json::json!({ "verdict": verdict, "opened": 9, "takenOutbound": 9, "accepted": 0, "takenInbound": 0, "untaken": 0, "untakenSeconds": 0 });
        let pods = [
            ("captured", rules("names"), connections("through")),
            ("captured", rules("fingerprint"), connections("unknown")),
            ("captured", rules("fingerprint"), connections("unknown")),
            ("captured", unknown.clone(), connections("through")),
            ("captured", unknown, connections("unknown")),
            ("orphan", rules("names"), connections("through")),
        ];
        let mut proof = FleetProof::default();
        for (state, rules, connections) in pods {
            let pod = serde_json::json!({
                "namespace": "shop", "name": "cart", "uid": "0a1b2c3d-1111-2222-3333-444455556666", "state": state,
                "ports": [], "redirection": "unknown", "flaps": 0, "rules": rules, "connections": connections,
            });
            proof.add(&serde_json::from_value(pod).unwrap());
        }
        let expected = FleetProof {
            captured: 5,
            names: 1,
            fingerprint: 2,
            traffic: 2,
            listeners_only: 1,
        };
        assert_eq!(proof, expected);
    }
}
