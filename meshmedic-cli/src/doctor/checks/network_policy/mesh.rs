// SPDX-License-Identifier: Apache-2.0
//! Policies that cut istiod from its proxies and from the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::remedy::{Change, Fault, names, peers_of, pods, unreached};
use crate::doctor::policy::{Direction, NetworkPolicies, Peer, Protocol};
use crate::doctor::view::View;
use crate::doctor::view::endpoints::{self, WEBHOOK, XDS};

/// A connection of the mesh that a policy forbids.
#[derive(Clone, Copy)]
pub(super) struct Forbidden {
    pub(super) direction: Direction,
    pub(super) source: usize,
    pub(super) destination: usize,
    pub(super) port: u16,
}

impl Forbidden {
    /// The policies that forbid it, on the side that it is about.
    pub(super) fn denied_by(&self, policies: &NetworkPolicies) -> Option<Vec<usize>> {
        let (pod, peer) = match self.direction {
            Direction::Ingress => (self.destination, self.source),
            Direction::Egress => (self.source, self.destination),
        };
        policies
            .decide(self.direction, pod, Peer::Pod(peer), self.port, Protocol::Tcp)
            .denied()
    }
}

/// istiod's port for proxies, and its port for webhooks.
pub(super) fn istiod<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    let mut istiods: Vec<usize> = view.istiods().filter_map(|pod| view.place(pod)).collect();
    let mut clients = proxies(view);
    if let Some((istiod, ztunnel)) = view.planned() {
        istiods.push(istiod);
        clients.push(ztunnel);
    }
    let mut cuts = Vec::new();
    for client in clients.into_iter().filter(|_| !istiods.is_empty()) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let to = |&destination: &usize| Forbidden {
                direction,
                source: client,
                destination,
                port: XDS,
            };
            // A proxy needs one istiod, and another revision's may be none of its business.
            let all: Vec<Forbidden> = istiods.iter().map(to).collect();
            if all
                .iter()
                .all(|cut| cut.denied_by(view.network_policies()).is_some())
            {
                cuts.extend(all);
            }
        }
    }
    let mut faults = by_policy(
        view,
        cuts,
        &Words {
            problem: "it keeps proxies from istiod's port 15012",
            effect: "These proxies get neither certificates nor the mesh's configuration: they never become Ready, or go \
                     on with what they had until their certificates end.",
        },
        |_, ends| peers_of(view, ends),
    );
    faults.extend(webhook(view, istiods));
    faults
}

/// ztunnels, sidecars, gateways and waypoints: all that ask istiod.
fn proxies(view: &View<'_>) -> Vec<usize> {
    let others = view.pods().iter().filter(|pod| {
        let gateway = pod.facts.labels.contains_key(endpoints::GATEWAY_NAME);
        pod.is_live() && (pod.facts.sidecar || gateway && endpoints::has_proxy(pod.pod))
    });
    let all = view.ztunnels().chain(others);
    all.filter_map(|pod| view.place(pod)).collect()
}

/// The API server's address is no pod's and may be any, so only a port that is closed to everybody is a fault.
fn webhook<'v>(view: &'v View<'_>, istiods: Vec<usize>) -> Option<Fault<'v>> {
    let policies = view.network_policies();
    let istiod = *istiods.first()?;
    if istiods.iter().any(|pod| policies.admits_anybody(*pod, WEBHOOK)) {
        return None;
    }
    let isolating = policies.isolating(istiod, Direction::Ingress);
    let policy = policies.narrowest(&isolating)?;
    let evidence = format!(
        "no rule of {} admits TCP {WEBHOOK} to {}",
        names(view, &isolating),
        pods(view, istiods.iter().copied())
    );
    Some(Fault {
        policy,
        problem: "it keeps the API server from istiod's port 15017",
        change: Change::AddRule {
            direction: Direction::Ingress,
            peers: Vec::new(),
            ports: vec![WEBHOOK],
        },
        cured: Box::new(move |changed| istiods.iter().all(|pod| changed.admits_anybody(*pod, WEBHOOK))),
        finding: Box::new(move |finding| {
            finding.because(evidence.clone()).so(
                "The API server cannot ask istiod's webhooks: sidecars are not injected, or no pod can be made where \
                 injection is demanded, and Istio's objects cannot be changed.",
            )
        }),
    })
}

pub(super) struct Words {
    pub(super) problem: &'static str,
    pub(super) effect: &'static str,
}

/// One fault for each policy that stands in the way, cured by a rule for these connections. `peers` writes the pods at
/// the other end of a policy of that direction as its peers.
pub(super) fn by_policy<'v>(
    view: &'v View<'_>,
    cuts: Vec<Forbidden>,
    words: &Words,
    peers: impl Fn(Direction, &BTreeSet<usize>) -> Vec<k8s_openapi::api::networking::v1::NetworkPolicyPeer>,
) -> Vec<Fault<'v>> {
    let policies = view.network_policies();
    let mut grouped: BTreeMap<(usize, Direction, u16), Vec<Forbidden>> = BTreeMap::new();
    for cut in cuts {
        let isolating = cut.denied_by(policies).unwrap_or_default();
        if let Some(narrowest) = policies.narrowest(&isolating) {
            let key = (narrowest, cut.direction, cut.port);
            grouped.entry(key).or_default().push(cut);
        }
    }
    let faults = grouped.into_iter().map(|((policy, direction, port), cuts)| {
        let cuts: Rc<[Forbidden]> = cuts.into();
        let sources: BTreeSet<usize> = cuts.iter().map(|cut| cut.source).collect();
        let destinations: BTreeSet<usize> = cuts.iter().map(|cut| cut.destination).collect();
        let ends = match direction {
            Direction::Ingress => &sources,
            Direction::Egress => &destinations,
        };
        let change = Change::AddRule {
            direction,
            peers: peers(direction, ends),
            ports: vec![port],
        };
        let (effect, first) = (words.effect, cuts.first().copied());
        Fault {
            policy,
            problem: words.problem,
            change,
            cured: Box::new(move |changed| cuts.iter().all(|cut| cut.denied_by(changed).is_none())),
            finding: Box::new(move |finding| {
                let isolating = first.and_then(|cut| cut.denied_by(view.network_policies()));
                let evidence = format!(
                    "no rule of {} admits TCP {port} from {} to {}",
                    names(view, &isolating.unwrap_or_default()),
                    pods(view, sources.iter().copied()),
                    pods(view, destinations.iter().copied()),
                );
                let cuts = unreached(view, [(sources.clone(), destinations.clone())]);
                finding.because(evidence).cutting(cuts).so(effect)
            }),
        }
    });
    faults.collect()
}
