// SPDX-License-Identifier: Apache-2.0
//! Probes of the kubelet that a policy may cut off, now that istio-cni has given them an address of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshmedic_common::eligibility::Expectation;

use super::remedy::{Change, Fault, address, because, names, pods};
use crate::doctor::finding::Finding;
use crate::doctor::policy::{Direction, NetworkPolicies, Peer, Protocol};
use crate::doctor::snapshot::EventFact;
use crate::doctor::view::{PodView, View};

/// What istio-cni makes of the node's address in the probes of an ambient pod.
const PROBE: [&str; 2] = ["169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"];

/// A port that the kubelet asks in vain.
struct Cut {
    pod: usize,
    port: u16,
    isolating: Vec<usize>,
    /// What the kubelet said of it.
    event: Option<String>,
}

/// Only of pods whose probes fail: many network plugins let the kubelet through, whatever the policies say.
pub(super) fn faults<'v>(view: &'v View<'_>) -> Vec<Fault<'v>> {
    let mut by_policy: BTreeMap<usize, Vec<Cut>> = BTreeMap::new();
    for (place, pod) in view.pods().iter().enumerate() {
        if !pod.is_live() || pod.expectation != Expectation::Expected {
            continue;
        }
        if let Some(cut) = cut_off(view, place, pod)
            && let Some(policy) = view.network_policies().narrowest(&cut.isolating)
        {
            by_policy.entry(policy).or_default().push(cut);
        }
    }
    let faults = by_policy.into_iter();
    faults
        .map(|(policy, cuts)| fault(view, policy, cuts.into()))
        .collect()
}

fn fault<'v>(view: &'v View<'_>, policy: usize, cuts: Rc<[Cut]>) -> Fault<'v> {
    let ports: BTreeSet<u16> = cuts.iter().map(|cut| cut.port).collect();
    let same = Rc::clone(&cuts);
    Fault {
        policy,
        problem: "it does not admit the kubelet's probes, which come from 169.254.7.127 in the ambient mesh, and the \
                  probes of its pods fail",
        change: Change::AddRule {
            direction: Direction::Ingress,
            peers: probe_addresses().map(address).collect(),
            ports: ports.into_iter().collect(),
        },
        cured: Box::new(move |changed| {
            let mut cuts = cuts.iter();
            cuts.all(|cut| denied(changed, view, cut.pod, cut.port).is_none())
        }),
        finding: Box::new(move |finding| words(finding, view, &same)),
    }
}

fn words(finding: Finding, view: &View<'_>, cuts: &[Cut]) -> Finding {
    let mut by_port: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for cut in cuts {
        by_port.entry(cut.port).or_default().push(cut.pod);
    }
    let sentences = by_port.iter().map(|(port, places)| {
        format!(
            "{} {} not Ready, and asked on port {port}",
            pods(view, places.iter().copied()),
            if places.len() == 1 { "is" } else { "are" }
        )
    });
    let mut finding = because(finding, sentences);
    if let Some(event) = cuts.iter().find_map(|cut| cut.event.as_ref()) {
        finding = finding.because(format!("the kubelet says: {event}"));
    }
    let isolating = cuts.first().map_or(&[][..], |cut| cut.isolating.as_slice());
    finding
        .because(format!("no rule of {} admits {}", names(view, isolating), PROBE[0]))
        .so(
            "istio-cni gives the kubelet's probes this address, so that ztunnel tells them from the traffic of apps. \
             Where the network plugin holds it against the policy, as Cilium does, the pods never become Ready, or \
             are killed for it.",
        )
}

fn probe_addresses() -> impl Iterator<Item = IpAddr> {
    PROBE.iter().filter_map(|probe| probe.parse().ok())
}

fn cut_off(view: &View<'_>, place: usize, pod: &PodView<'_>) -> Option<Cut> {
    let spec = pod.pod.spec.as_ref()?;
    let statuses = pod
        .pod
        .status
        .as_ref()?
        .container_statuses
        .as_deref()
        .unwrap_or_default();
    let events: Vec<&EventFact> = unhealthy(view, pod).collect();
    // Who answers is reached.
    let answers = |event: &&EventFact| {
        let message = &event.message;
        message.contains("statuscode") || message.contains("refused") || message.contains("status code")
    };
    if events.iter().any(answers) {
        return None;
    }
    for container in &spec.containers {
        let waits = statuses
            .iter()
            .any(|status| status.name == container.name && waits(status));
        let killed = events.iter().any(|event| event.message.starts_with("Liveness"));
        let probes = [
            (&container.startup_probe, waits),
            (&container.readiness_probe, waits),
            (&container.liveness_probe, killed),
        ];
        for probe in probes
            .iter()
            .filter(|(_, fails)| *fails)
            .filter_map(|(probe, _)| probe.as_ref())
        {
            if let Some(port) = port(probe, container)
                && let Some(isolating) = denied(view.network_policies(), view, place, port)
            {
                let event = events.first().map(|event| event.message.clone());
                return Some(Cut {
                    pod: place,
                    port,
                    isolating,
                    event,
                });
            }
        }
    }
    None
}

/// Whether it runs and its probes have not succeeded.
fn waits(status: &ContainerStatus) -> bool {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    running && (!status.ready || status.started == Some(false))
}

fn unhealthy<'v>(view: &'v View<'_>, pod: &'v PodView<'_>) -> impl Iterator<Item = &'v EventFact> {
    let events = view.snapshot.events.all().iter();
    events.filter(|event| {
        let of_pod = event.namespace == pod.facts.namespace && event.name == pod.facts.name;
        event.reason == "Unhealthy" && event.kind == "Pod" && of_pod
    })
}

/// The port of a probe that comes over the network.
fn port(probe: &Probe, container: &Container) -> Option<u16> {
    let of_http = probe.http_get.as_ref().map(|get| &get.port);
    let port = of_http.or_else(|| probe.tcp_socket.as_ref().map(|socket| &socket.port));
    match port {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let mut declared = container.ports.iter().flatten();
            let named = declared.find(|port| port.name.as_ref() == Some(name))?;
            u16::try_from(named.container_port).ok()
        }
        None => u16::try_from(probe.grpc.as_ref()?.port).ok(),
    }
}

/// The policies that do not let probes in, in one of the families in which the pod has an address.
fn denied(policies: &NetworkPolicies, view: &View<'_>, place: usize, port: u16) -> Option<Vec<usize>> {
    let addresses = &view.pods().get(place)?.facts.addresses;
    // The kubelet asks the first address.
    let wide = addresses.first().is_some_and(IpAddr::is_ipv6);
    let probe = probe_addresses().find(|address| address.is_ipv6() == wide)?;
    policies
        .decide(
            Direction::Ingress,
            place,
            Peer::Address(probe),
            port,
            Protocol::Tcp,
        )
        .denied()
}
