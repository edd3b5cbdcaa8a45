// SPDX-License-Identifier: Apache-2.0
//! Whether nodes reach each other: each agent tries the agents of a few other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::{StreamExt as _, stream};
use meshmedic_common::facts::PodFacts;
use meshmedic_common::report::Reach;
use meshmedic_common::text::clean;

use super::{Plan, says};
use crate::connection::Connection;
use crate::doctor::snapshot::{Part, Reached, Snapshot};
use crate::doctor::view::View;

/// How many others each agent tries.
const TRIES: usize = 2;
/// How many agents try: of more than this, the first by name.
const MOST: usize = 200;
const MAX_ANSWER: usize = 4096;
const MAX_WORDS: usize = 200;
/// The label of MeshMedic's pods.
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "meshmedic");

/// Lets them try.
pub(super) async fn ask(connection: &Connection, plan: &Plan, snapshot: &mut Snapshot) {
    let agents = match (&snapshot.agents, &snapshot.pods) {
        (Part::Unknown(why), _) | (_, Part::Unknown(why)) => {
            snapshot.reach = Part::Unknown(why.clone());
            return;
        }
        _ => agents(snapshot, &plan.ways.agents().agent_namespace),
    };
    if agents.len() < 2 {
        snapshot.reach = Part::absent("it takes agents on two nodes at least");
        return;
    }
    let tries: Vec<_> = pairs(&agents)
        .into_iter()
        .map(|(from, to, address)| one(connection, plan, from, to, address))
        .collect();
    let mut all: Vec<Reached> = stream::iter(tries)
        .buffer_unordered(plan.ways.concurrency())
        .collect()
        .await;
    all.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
    snapshot.reach = Part::Had(all);
}

/// The agents that answer, by node: whoever does not has no part in this.
fn agents(snapshot: &Snapshot, namespace: &str) -> Vec<(PodFacts, IpAddr)> {
    let view = View::new(snapshot);
    let answering: BTreeSet<&str> = snapshot.reports().map(|(node, _)| node).collect();
    let mut by_node = BTreeMap::new();
    for pod in view
        .pods_in(namespace)
        .filter(|pod| pod.is_live() && pod.facts.ready)
    {
        let labelled = pod
            .facts
            .labels
            .get(LABEL.0)
            .is_some_and(|value| value == LABEL.1);
        let node = pod
            .facts
            .node
            .clone()
            .filter(|node| labelled && answering.contains(node.as_str()));
        if let (Some(node), Some(address)) = (node, pod.facts.addresses.first()) {
            by_node
                .entry(node)
                .or_insert_with(|| (pod.facts.clone(), *address));
        }
    }
    by_node.into_values().take(MOST).collect()
}

/// Each with the next few in a ring, so that each is also tried by a few.
fn pairs(agents: &[(PodFacts, IpAddr)]) -> Vec<(&PodFacts, &PodFacts, IpAddr)> {
    let others = TRIES.min(agents.len().saturating_sub(1));
    let mut pairs = Vec::new();
    for (at, (from, _)) in agents.iter().enumerate() {
        for (to, address) in agents.iter().cycle().skip(at + 1).take(others) {
            pairs.push((from, to, *address));
        }
    }
    pairs
}

async fn one(
    connection: &Connection,
    plan: &Plan,
    from: &PodFacts,
    to: &PodFacts,
    address: IpAddr,
) -> Reached {
    let path = format!("/v1/reach/{address}");
    let port = plan.ways.agents().agent_port;
    let answer = says::get(connection, plan, from, port, &path, MAX_ANSWER).await;
    let node = |pod: &PodFacts| pod.node.clone().unwrap_or_default();
    let (reached, detail) = match answer {
        // An agent that does not know the question answers with an error.
        Part::Had(body) => match serde_json::from_slice::<Reach>(&body) {
            Ok(reach) => (
                Some(reach.reached),
                reach.detail.map(|detail| clean(&detail, MAX_WORDS)),
            ),
            Err(_) => (
                None,
                Some(
                    "its agent gives no answer that can be read: an older version does not know how, and one without \
                     --metrics-addr does not look"
                        .to_owned(),
                ),
            ),
        },
        Part::Unknown(why) => (None, Some(why.why().to_owned())),
    };
    Reached {
        from: node(from),
        to: node(to),
        reached,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tries_a_few_others_and_never_itself() {
        let agent = |at: u8| {
            let facts = PodFacts {
                node: Some(format!("node-{at}")),
                ..PodFacts::default()
            };
            (facts, IpAddr::from([10, 0, 0, at]))
        };
        for count in 0..6_u8 {
            let agents: Vec<_> = (0..count).map(agent).collect();
            let pairs = pairs(&agents);
            let others = TRIES.min(usize::from(count).saturating_sub(1));
            assert_eq!(pairs.len(), usize::from(count) * others);
            assert!(
                pairs.iter().all(|(from, to, _)| from.node != to.node),
                "{pairs:?}"
            );
        }
    }
}
