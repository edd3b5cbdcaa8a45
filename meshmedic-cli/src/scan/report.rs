// SPDX-License-Identifier: Apache-2.0
//! What a scan found. Its JSON keeps the original's keys and adds ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::Place;
use meshmedic_common::report::API_VERSION;
use meshmedic_common::rules::{PodRules, Rules};
use meshmedic_common::traffic::Connections;
use meshmedic_common::verdict::{Owner, Reason, Redirection, State, Traffic};
use serde::Serialize;

use super::accused::{Accused, Logs};
use crate::selection::Target;
use crate::ways::{Way, Words};

/// The kind of [`ScanReport`].
const KIND: &str = "ScanReport";

/// A scan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScanReport {
    api_version: &'static str,
    kind: &'static str,
    /// How many pods should be captured.
    pub(crate) checked: usize,
    /// How many of them are.
    pub(crate) healthy: usize,
    orphans: Vec<Orphan>,
    unverifiable: BTreeMap<String, String>,
    /// How many pods are in each state.
    pub(crate) states: BTreeMap<State, usize>,
    /// How many pods have a probe of this scan in their spec from now on.
    pub(crate) probed: usize,
    /// Why it is not certain that nothing else is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) undetermined: Option<String>,
    /// What could not be known, for people.
    pub(crate) notes: Vec<String>,
    /// With --behavioral: the pods that logs accuse, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) candidates: Option<Vec<Accused>>,
    /// With --behavioral: which logs were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<Logs>,
    /// All pods, by namespace and name.
    pub(crate) pods: Vec<ScannedPod>,
    /// What agents said of their nodes, for whoever repairs.
    #[serde(skip)]
    pub(crate) words: BTreeMap<String, Words>,
}

/// A finding, as the original has it, and the evidence for it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Orphan {
    namespace: String,
    name: String,
    node: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    present_ztunnel_ports: PortSet,
    reason: String,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<Way>,
}

/// A pod and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScannedPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) ready: bool,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
    /// More about the reason, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// The capture ports that listen; none where nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<PortSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    /// Which way answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<Way>,
    /// The container that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// Whether the pod itself says so, which may lie.
    pub(crate) own_word: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redirection: Option<Redirection>,
    /// Only an agent with eBPF can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<PodRules>,
    /// Which way its connections go; only an agent with eBPF counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<Connections>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traffic: Option<Traffic>,
    /// For whoever repairs it.
    #[serde(skip)]
    pub(crate) grounds: Grounds,
}

/// What a look showed beside the state, on which an ask to istio-cni hangs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grounds {
    /// Where it lives; `None` where that has none of the addresses that the API gives the pod.
    pub(crate) place: Option<Place>,
    /// Its open connections, where they were counted.
    pub(crate) connections: Option<u32>,
    /// Whether its node's agent is at work on it by another way.
    pub(crate) taken: bool,
    /// Why its agent's word was not enough, where it had one.
    pub(crate) instead: Option<String>,
}

impl ScannedPod {
    /// A pod that nobody read.
    pub(crate) fn unread(
        target: &Target,
        state: State,
        reason: Option<Reason>,
        detail: Option<String>,
    ) -> Self {
        let facts = &target.facts;
        Self {
            uid: facts.uid.clone(),
            node: facts.node.clone(),
            pod_ip: target.address(),
            ready: facts.ready,
            state,
            reason,
            detail: detail.filter(|detail| !detail.is_empty()),
            ..Self::missing(&facts.namespace, &facts.name)
        }
    }

    /// A pod that was named and is not there.
    pub(crate) fn missing(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            node: None,
            pod_ip: None,
            ready: false,
            state: State::Unverifiable,
            reason: Some(Reason::NotFound),
            detail: None,
            ports: None,
            owner: None,
            via: None,
            container: None,
            own_word: false,
            redirection: None,
            rules: None,
            connections: None,
            traffic: None,
            grounds: Grounds::default(),
        }
    }

    /// `namespace/name`.
    pub(crate) fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it needs somebody's look.
    pub(crate) fn needs_a_look(&self) -> bool {
        self.state.is_finding()
            || matches!(self.state, State::Suspect | State::Unverifiable | State::Pending)
            || self.is_unredirected()
    }

    /// Whether ztunnel listens and the traffic goes past it all the same.
    pub(crate) fn is_unredirected(&self) -> bool {
        let read = self.rules.is_some_and(|rules| rules.verdict == Rules::Present);
        self.state == State::Captured && self.redirection == Some(Redirection::Absent) && !read
    }

    /// What is to be said of it, for people.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = self.state.sentence().to_owned();
        match self.rules.map(|rules| rules.verdict) {
            Some(found @ (Rules::Present | Rules::Differs | Rules::Fell))
                if self.state == State::Captured =>
            {
                sentence = format!("{sentence}, {}", found.sentence());
            }
            _ => {}
        }
        if let Some(told) = self.connections.and_then(|found| found.told_beside(self.state)) {
            sentence = format!("{sentence}, {told}");
        }
        if self.is_unredirected() {
            sentence += ", but Istio's routing table is missing: its traffic bypasses the mesh";
        }
        // Of what nobody could read, the reason alone says it.
        match self.reason {
            Some(reason) if self.state == State::Unverifiable => reason.sentence().clone_into(&mut sentence),
            Some(reason) => sentence = format!("{sentence}, {}", reason.sentence()),
            None => {}
        }
        if let Some(detail) = &self.detail {
            sentence = format!("{sentence} ({detail})");
        }
        if let Some(traffic) = self.traffic.filter(|traffic| *traffic != Traffic::Unknown) {
            sentence = format!("{sentence}; {}", traffic.sentence());
        }
        sentence
    }
}

impl ScanReport {
    pub(crate) fn new(mut pods: Vec<ScannedPod>, probed: usize, notes: Vec<String>) -> Self {
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut states = BTreeMap::new();
        for pod in &pods {
            *states.entry(pod.state).or_default() += 1;
        }
        let count = |state: State| states.get(&state).copied().unwrap_or_default();
        let open = pods.iter().filter(|pod| pod.state.is_open()).count();
        let orphans = pods
            .iter()
            .filter(|pod| pod.state.is_finding())
            .map(Orphan::of)
            .collect();
        let unverifiable = pods.iter().filter(|pod| pod.state == State::Unverifiable);
        Self {
            api_version: API_VERSION,
            kind: KIND,
            checked: pods.len().saturating_sub(open),
            healthy: count(State::Captured),
            orphans,
            unverifiable: unverifiable
                .map(|pod| (pod.display_name(), pod.sentence()))
                .collect(),
            states,
            probed,
            undetermined: None,
            notes,
            candidates: None,
            logs: None,
            pods,
            words: BTreeMap::new(),
        }
    }
}

impl ScanReport {
    /// The pods that are out of the mesh.
    pub(crate) fn findings(&self) -> Vec<ScannedPod> {
        let lost = self.pods.iter().filter(|pod| pod.state.is_finding());
        lost.cloned().collect()
    }
}

impl Orphan {
    fn of(pod: &ScannedPod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            node: pod.node.clone().unwrap_or_default(),
            pod_ip: pod.pod_ip.map(|address| address.to_string()).unwrap_or_default(),
            present_ztunnel_ports: pod.ports.unwrap_or_default(),
            reason: pod.sentence(),
            state: pod.state,
            traffic: pod.traffic,
            ready: pod.ready,
            via: pod.via,
        }
    }
}

#[cfg(test)]
mod tests {
    use meshmedic_common::traffic::{Passage, Untold};

    use super::*;

    fn pod(name: &str, state: State) -> ScannedPod {
        ScannedPod {
            state,
            reason: None,
            ..ScannedPod::missing("shop", name)
        }
    }

    #[test]
    fn connections_are_told_of_a_pod_that_ztunnel_holds_and_only_if_they_prove_something() {
        let told = |state, verdict, reason| {
            let found = Connections {
                verdict,
                taken_outbound: 200,
                taken_inbound: 14,
                untaken: 40,
                untaken_seconds: 30,
                ..Connections::unknown(reason)
            };
            let connections = Some(found);
            let pod = ScannedPod {
                connections,
                ..pod("cart", state)
            };
            pod.sentence()
        };
        let none = Untold::NoTraffic;
        assert_eq!(
            told(State::Captured, Passage::Through, none),
            "ztunnel's listeners are there, 214 connections through ztunnel"
        );
        assert!(
            told(State::Bypassing, Passage::Past, none)
                .ends_with(", 40 connections past ztunnel in 30 s, none through it")
        );
        assert_eq!(
            told(State::Captured, Passage::Unknown, none),
            State::Captured.sentence()
        );
        assert_eq!(told(State::Orphan, Passage::Past, none), State::Orphan.sentence());
    }

    #[test]
    fn the_originals_keys_keep_their_meaning() {
        let mut orphan = pod("cart-1", State::Orphan);
        orphan.node = Some("node-a".to_owned());
        orphan.pod_ip = Some("10.0.0.7".parse().unwrap());
        orphan.ports = Some(PortSet::EMPTY.with(15008));
        let pods = vec![
            pod("z", State::Captured),
            orphan,
            pod("job", State::Exempt),
            ScannedPod::missing("shop", "gone"),
        ];
        let json = serde_json::to_value(ScanReport::new(pods, 0, Vec::new())).unwrap();
        assert_eq!(
            (json["checked"].as_u64(), json["healthy"].as_u64()),
            (Some(3), Some(1))
        );
        let orphan = &json["orphans"][0];
        for (key, value) in [
            ("namespace", serde_json::json!("shop")),
            ("name", "cart-1".into()),
            ("node", "node-a".into()),
            ("podIP", "10.0.0.7".into()),
            ("presentZtunnelPorts", serde_json::json!([15008])),
        ] {
            assert_eq!(orphan[key], value, "{key}");
        }
        assert!(
            orphan["reason"]
                .as_str()
                .is_some_and(|reason| reason.starts_with("fell out"))
        );
        assert_eq!(
            json["unverifiable"],
            serde_json::json!({ "shop/gone": "there is no such pod" })
        );
        let order: Vec<_> = json["pods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["name"].clone())
            .collect();
        assert_eq!(order, ["cart-1", "gone", "job", "z"]);
    }
}
