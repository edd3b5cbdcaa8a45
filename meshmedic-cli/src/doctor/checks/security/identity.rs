// SPDX-License-Identifier: Apache-2.0
//! Who claims to be ztunnel, istio-cni or istiod and is not; and whether all agree on who is.

use std::collections::BTreeSet;

use meshmedic_common::identity::{Claimant, Component, FLAG, Slice};
use meshmedic_common::kube::identity::slice;

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::View;
use crate::istio::difference;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let identity = view.identity();
    let mut strangers: BTreeSet<Claimant> = identity
        .strangers(view.pods().iter().map(|pod| &pod.facts))
        .collect();
    let claims = |found: &&k8s_openapi::api::discovery::v1::EndpointSlice| {
        let labels = found.metadata.labels.as_ref();
        labels.and_then(Component::claimed) == Some(Component::Istiod)
    };
    let slices = view.snapshot.endpoint_slices.all().iter().filter(claims);
    let slices: Vec<Slice> = slices.map(slice).collect();
    strangers.extend(identity.istiod(slices.iter(), |_| None).strangers);
    let mut findings: Vec<Finding> = strangers.iter().map(|stranger| of(view, stranger)).collect();
    findings.extend(view.snapshot.reports().filter_map(|(node, report)| {
        let why = difference(identity, report.istio.as_ref()?)?;
        Some(
            Finding::on(
                ObjectRef::cluster("Node", node),
                "its agent takes others for Istio",
            )
            .because(why)
            .so("agent and command may come to other verdicts")
            .by_hand(format!(
                "give the agents and this command the same {FLAG} and --external-istiod"
            )),
        )
    }));
    findings
}

fn of(view: &View<'_>, stranger: &Claimant) -> Finding {
    let Claimant {
        component,
        namespace,
        kind,
        name,
    } = stranger;
    let problem = format!("it claims to be {component}, and is ignored");
    let finding = Finding::on(ObjectRef::new(kind, namespace, name), problem)
        .because(format!("it, or its pods, have the label {}", component.selector()))
        .so("no verdict and no repair depends on it; where it is your Istio, its node or the mesh counts as faulty");
    if view.identity().trusts(namespace) {
        return finding.by_hand(format!(
            "{component} is made by Istio's chart: look who made this beside it"
        ));
    }
    finding
        .because(format!("Istio's namespaces are {}", view.identity().places()))
        .by_hand(format!(
            "if {namespace} is one of Istio's, add it: {FLAG} {namespace}, here and for the agents"
        ))
        .by_hand(format!(
            "if not, ask the owner of {namespace} why: only an attack or a mistake needs that label"
        ))
}
