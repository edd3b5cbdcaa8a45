// SPDX-License-Identifier: Apache-2.0
//! Gateways of Istio that istiod does not accept, or does not bring about.

use crate::doctor::kind::GATEWAY;
use jiff::SignedDuration;

use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::{Condition, Custom};
use crate::doctor::view::View;
use crate::doctor::view::gateways::{is_of_istio, reference};

/// A Gateway that was just made may still become what it should be.
const SETTLING: SignedDuration = SignedDuration::from_mins(5);
/// Reasons of `Programmed` that mean that only the address is not there.
const NO_ADDRESS: [&str; 2] = ["AddressNotAssigned", "Pending"];
/// How many conditions are shown of one Gateway.
const SHOWN: usize = 4;

fn settled<'v, 's>(view: &'v View<'s>) -> impl Iterator<Item = &'s Custom> + use<'v, 's> {
    let settled = |gateway: &&Custom| {
        let made = gateway.metadata.creation_timestamp.as_ref().map(|time| time.0);
        made.is_none_or(|made| view.now.duration_since(made) > SETTLING)
    };
    view.custom(GATEWAY)
        .iter()
        .filter(|gateway| is_of_istio(view, gateway))
        .filter(settled)
}

pub(super) fn programmed(view: &View<'_>) -> Vec<Finding> {
    settled(view).filter_map(not_programmed).collect()
}

pub(super) fn addressed(view: &View<'_>) -> Vec<Finding> {
    settled(view).filter_map(without_address).collect()
}

/// The conditions that deny something of the Gateway itself.
fn denied(gateway: &Custom) -> impl Iterator<Item = &Condition> {
    let generation = gateway.metadata.generation;
    let kinds = ["Accepted", "Programmed", "ResolvedRefs"];
    let conditions = gateway.status.conditions.iter();
    conditions.filter(move |one| kinds.contains(&one.kind.as_str()) && one.is_false(generation))
}

fn is_of_address(condition: &Condition) -> bool {
    condition.kind == "Programmed" && NO_ADDRESS.contains(&condition.reason.as_str())
}

fn not_programmed(gateway: &Custom) -> Option<Finding> {
    let generation = gateway.metadata.generation;
    let own = denied(gateway)
        .filter(|one| !is_of_address(one))
        .map(Condition::words);
    let listeners = gateway.status.parts.iter().flat_map(|listener| {
        let bad = listener.conditions.iter().filter(move |one| {
            let conflicted = one.kind == "Conflicted" && one.status == "True" && one.is_current(generation);
            let kinds = ["Accepted", "Programmed", "ResolvedRefs"];
            conflicted || (kinds.contains(&one.kind.as_str()) && one.is_false(generation))
        });
        bad.map(move |one| format!("listener {}: {}", listener.of, one.words()))
    });
    let words: Vec<String> = own.chain(listeners).take(SHOWN).collect();
    if words.is_empty() {
        return None;
    }
    let mut finding = Finding::on(reference(gateway), "istiod does not bring it about as it stands");
    for word in words {
        finding = finding.because(word);
    }
    let show =
        Command::new("kubectl describe gateways.gateway.networking.k8s.io").namespace(gateway.namespace());
    Some(
        finding
            .so(
                "What it should let in is refused, or nothing listens for it; behind a waypoint, nothing of HTTP is in \
                 force.",
            )
            .by_hand(
                "Correct what the message names: a Secret of TLS that is not there or not granted, two listeners of one \
                 port, a class or a field that Istio does not know.",
            )
            .run(show.name(gateway.name())),
    )
}

fn without_address(gateway: &Custom) -> Option<Finding> {
    let condition = denied(gateway).find(|one| is_of_address(one))?;
    let show = Command::new("kubectl get services").namespace(gateway.namespace());
    Some(
        Finding::on(reference(gateway), "it has no address")
            .because(condition.words())
            .so("Nothing outside the cluster reaches it by an address of its own; a waypoint without one serves no traffic.")
            .by_hand(
                "Where no load balancer is given out here, annotate the Gateway with \
                 networking.istio.io/service-type: ClusterIP or NodePort; else see what its Service and its pods lack.",
            )
            .run(show.option("-l", &format!("gateway.networking.k8s.io/gateway-name={}", gateway.name()))),
    )
}
