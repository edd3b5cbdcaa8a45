// SPDX-License-Identifier: Apache-2.0
//! What is known of a pod leg by leg, each with its evidence and with what could not be seen.

use meshmedic_common::eligibility::MODE_LABEL;
use meshmedic_common::facts::{Enrolment, REDIRECTION};
use meshmedic_common::rules::Rules;
use meshmedic_common::text::clean;
use meshmedic_common::traffic::Passage;
use meshmedic_common::verdict::{Owner, State};
use serde::Serialize;

use super::story::{Known, MAX_WORDS};
use crate::doctor::{Part, ZtunnelDump};
use crate::ways::Way;

/// What a leg comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The evidence shows it.
    Proved,
    /// The evidence shows the contrary.
    Disproved,
    /// Somebody says so, which proves nothing.
    Believed,
    /// Somebody says the contrary, which proves nothing either.
    Doubted,
    /// Nothing tells.
    Unknown,
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Proved => "proved",
            Self::Disproved => "disproved",
            Self::Believed => "believed",
            Self::Doubted => "doubted",
            Self::Unknown => "unknown",
        }
    }
}

/// One leg of a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leg {
    /// Its stable name.
    pub(crate) leg: &'static str,
    /// What is asked.
    pub(crate) question: &'static str,
    pub(crate) verdict: Verdict,
    /// What was seen, and who saw it.
    pub(crate) evidence: Vec<String>,
    /// What could not be seen.
    pub(crate) unseen: Vec<String>,
}

/// Said wherever only the agent of a node could look.
const ONLY_AGENTS: &str =
    "No agent reported it: only one with eBPF reads it, on the pod's node (meshmedic status).";

impl Known {
    /// Whether ztunnel listens there.
    pub(super) fn listeners(&self) -> Leg {
        let pod = &self.pod;
        let mut evidence = Vec::new();
        if let Some(ports) = pod.ports {
            let ports = if ports.is_empty() {
                "none".to_owned()
            } else {
                ports.to_string()
            };
            evidence.push(format!(
                "Capture ports that listen (15001, 15006, 15008 are needed): {ports}."
            ));
        }
        evidence.extend(pod.owner.map(|owner| format!("These are {}.", owner.sentence())));
        for holder in self.report().iter().flat_map(|report| &report.held_by) {
            let name = clean(&holder.name, MAX_WORDS);
            evidence.push(format!("Process {} ({name}) holds {}.", holder.pid, holder.ports));
        }
        evidence.push(match pod.via {
            Some(Way::Agent) => "Read by the agent of its node.".to_owned(),
            Some(Way::Exec) => {
                let container = pod.container.as_deref().unwrap_or("a container");
                format!("Read by cat in its container {container}: the pod's own word.")
            }
            Some(Way::Probe) => "Read by a probe, an ephemeral container.".to_owned(),
            None if pod.state == State::Pending => {
                "istio-cni is enrolling it; its sockets are read once that is done.".to_owned()
            }
            None => "Its sockets were not read.".to_owned(),
        });
        let mut unseen = Vec::new();
        if pod.owner == Some(Owner::Unproven) {
            unseen.push("Whose the listeners are: an agent on its node could tell.".to_owned());
        }
        if pod.state.is_held() {
            unseen.push("Whether ztunnel answers on them.".to_owned());
        }
        Leg {
            leg: "listeners",
            question: "Does ztunnel listen in it?",
            verdict: match (pod.state, pod.owner) {
                (State::Captured | State::Bypassing, Some(Owner::Ztunnel)) => Verdict::Proved,
                (State::Captured | State::Bypassing, _) => Verdict::Believed,
                (State::Orphan | State::Partial | State::Stalled | State::Imposter, _) => Verdict::Disproved,
                _ => Verdict::Unknown,
            },
            evidence,
            unseen,
        }
    }

    /// Whether rules lead to it.
    pub(super) fn rules(&self) -> Leg {
        let pod = &self.pod;
        let mut evidence: Vec<String> = Vec::new();
        evidence.extend(
            pod.redirection
                .map(|found| format!("Redirection: {}.", found.sentence())),
        );
        evidence.extend(pod.rules.map(|rules| format!("Rules: {}.", rules.told())));
        let unseen = match &pod.rules {
            Some(rules) if rules.verdict == Rules::Present => vec!["What the rules match.".to_owned()],
            Some(_) => Vec::new(),
            None => vec![ONLY_AGENTS.to_owned()],
        };
        Leg {
            leg: "rules",
            question: "Do rules lead its traffic to ztunnel?",
            verdict: match pod.rules.map(|rules| rules.verdict) {
                Some(Rules::Present) => Verdict::Proved,
                Some(Rules::Absent) => Verdict::Disproved,
                _ => Verdict::Unknown,
            },
            evidence,
            unseen,
        }
    }

    /// Whether its connections take that way.
    pub(super) fn traffic(&self) -> Leg {
        let found = self.pod.connections;
        let mut evidence = Vec::new();
        if let Some(found) = found {
            evidence.push(format!("Connections: {}.", found.told()));
            if found.opened > 0 || found.accepted > 0 {
                evidence.push(format!(
                    "Counted: {} opened, of which ztunnel took {}; {} accepted; ztunnel accepted {} from outside.",
                    found.opened, found.taken_outbound, found.accepted, found.taken_inbound
                ));
            }
        }
        let unseen = if found.is_some() {
            "Connections that are older than the count, and UDP.".to_owned()
        } else {
            ONLY_AGENTS.to_owned()
        };
        Leg {
            leg: "traffic",
            question: "Do its connections go through ztunnel?",
            verdict: match found.map(|found| found.verdict) {
                Some(Passage::Through) => Verdict::Proved,
                Some(Passage::Past) => Verdict::Disproved,
                _ => Verdict::Unknown,
            },
            evidence,
            unseen: vec![unseen],
        }
    }

    /// What ztunnel believes of it.
    fn ztunnel(&self, belief: &Part<ZtunnelDump>) -> Leg {
        let mut evidence = Vec::new();
        let mut unseen = Vec::new();
        let mut verdict = Verdict::Unknown;
        match belief {
            Part::Unknown(why) => unseen.push(format!("ztunnel's dump: {}.", clean(why.why(), MAX_WORDS))),
            Part::Had(dump) => {
                let proxy = dump.proxies.get(&self.pod.uid);
                evidence.push(match proxy {
                    Some(state) => format!("It runs a proxy for it: {}.", clean(state, MAX_WORDS)),
                    None => "It runs no proxy for it.".to_owned(),
                });
                verdict = if proxy.is_some() {
                    Verdict::Believed
                } else {
                    Verdict::Doubted
                };
                let workload = dump.workloads.iter().find(|workload| {
                    (&workload.namespace, &workload.name) == (&self.pod.namespace, &self.pod.name)
                });
                evidence.push(match workload {
                    Some(workload) => format!(
                        "istiod told it to speak {} with it.",
                        clean(&workload.protocol, MAX_WORDS)
                    ),
                    None => "istiod told it nothing of it.".to_owned(),
                });
            }
        }
        Leg {
            leg: "ztunnel",
            question: "Does ztunnel believe that it serves it?",
            verdict,
            evidence,
            unseen,
        }
    }

    /// What the API says of it.
    fn api(&self) -> Leg {
        let facts = &self.facts;
        let said = match facts.enrolment {
            Enrolment::Enabled => "enabled",
            Enrolment::Pending => "pending",
            Enrolment::None => "absent",
        };
        let ready = if facts.ready { "Ready" } else { "not Ready" };
        let mut evidence = vec![
            format!("Its annotation {REDIRECTION} is {said}; it is {ready}."),
            facts.labels.get(MODE_LABEL).map_or_else(
                || format!("It has no label {MODE_LABEL} of its own."),
                |mode| format!("Its own label {MODE_LABEL} is {}.", clean(mode, MAX_WORDS)),
            ),
        ];
        evidence.extend(self.eligibility().pop());
        Leg {
            leg: "api",
            question: "Does the API say that it is enrolled?",
            verdict: match facts.enrolment {
                Enrolment::Enabled => Verdict::Believed,
                Enrolment::Pending | Enrolment::None => Verdict::Doubted,
            },
            evidence,
            unseen: Vec::new(),
        }
    }

    /// Whose successor it is.
    fn succession(&self) -> Leg {
        let mut evidence = vec![self.facts.controller.as_ref().map_or_else(
            || "No controller made it: nothing would make another.".to_owned(),
            |owner| {
                format!(
                    "{} {} made it and would make another.",
                    clean(&owner.kind, MAX_WORDS),
                    clean(&owner.name, MAX_WORDS)
                )
            },
        )];
        let since = |what: &str, at: Option<jiff::Timestamp>| {
            at.map(|at| format!("{what} {}.", crate::status::ago(at, self.now)))
        };
        evidence.extend(since("It was created", self.facts.created));
        evidence.extend(since("Its sandbox was made", self.facts.sandbox_since));
        let repaired = self.repairs();
        let unseen = match &self.agent {
            Ok(_) if repaired.is_empty() => {
                vec!["Its agent has repaired nothing of this name; another node's agent may have.".to_owned()]
            }
            Ok(_) => Vec::new(),
            Err(why) => vec![format!("Repairs: {}.", clean(why, MAX_WORDS))],
        };
        evidence.extend(repaired);
        Leg {
            leg: "successor",
            question: "Whose successor is it?",
            verdict: Verdict::Believed,
            evidence,
            unseen,
        }
    }

    /// All of them.
    pub(crate) fn legs(&self, belief: &Part<ZtunnelDump>) -> Vec<Leg> {
        vec![
            self.listeners(),
            self.rules(),
            self.traffic(),
            self.ztunnel(belief),
            self.api(),
            self.succession(),
        ]
    }
}
