// SPDX-License-Identifier: Apache-2.0
//! Routes of the Gateway API that istiod does not accept, or whose references it does not find.

use crate::doctor::command::Command;
use crate::doctor::finding::Finding;
use crate::doctor::kind::ROUTES;
use crate::doctor::snapshot::{Condition, Custom, StatusPart};
use crate::doctor::view::View;
use crate::doctor::view::gateways::{OF_ISTIO, reference};

/// How many conditions are shown of one route.
const SHOWN: usize = 4;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let routes = ROUTES.iter().flat_map(|kind| view.custom(kind));
    routes.filter_map(finding).collect()
}

/// Whether istiod denies a route anything.
pub(in crate::doctor::checks) fn is_denied(route: &Custom) -> bool {
    denied(route).next().is_some()
}

fn denied(route: &Custom) -> impl Iterator<Item = (&StatusPart, &Condition)> {
    let generation = route.metadata.generation;
    // What other controllers say of their own parents is not about the mesh.
    let ours = route
        .status
        .parts
        .iter()
        .filter(|parent| parent.controller.starts_with(OF_ISTIO));
    ours.flat_map(move |parent| {
        let bad = parent.conditions.iter();
        let bad = bad.filter(move |one| ["Accepted", "ResolvedRefs"].contains(&one.kind.as_str()));
        bad.filter(move |one| one.is_false(generation))
            .map(move |one| (parent, one))
    })
}

fn finding(route: &Custom) -> Option<Finding> {
    let all: Vec<(&StatusPart, &Condition)> = denied(route).collect();
    let refused = all.iter().any(|(_, condition)| condition.kind == "Accepted");
    all.first()?;
    let (problem, effect) = if refused {
        (
            "istiod does not accept it",
            "It is not in force at that parent: requests take another route, or none.",
        )
    } else {
        (
            "istiod does not find, or may not use, what it refers to",
            "Requests that are to go there are answered with status 500.",
        )
    };
    let mut finding = Finding::on(reference(route), problem);
    for (parent, condition) in all.iter().take(SHOWN) {
        finding = finding.because(format!("at {}: {}", parent.of, condition.words()));
    }
    let helps = all.iter().map(|(_, condition)| help(&condition.reason));
    let helps: std::collections::BTreeSet<&str> = helps.collect();
    finding = finding.so(effect);
    for help in helps {
        finding = finding.by_hand(help);
    }
    // The kinds of routes have plurals of their own: one that only Istio's group has is not among them.
    let show = match route.kind.as_str() {
        "HTTPRoute" => Command::new("kubectl describe httproute"),
        "GRPCRoute" => Command::new("kubectl describe grpcroute"),
        "TCPRoute" => Command::new("kubectl describe tcproute"),
        _ => Command::new("kubectl describe tlsroute"),
    };
    Some(finding.run(show.namespace(route.namespace()).name(route.name())))
}

fn help(reason: &str) -> &'static str {
    match reason {
        "BackendNotFound" => "Correct the name or the port in spec.rules[].backendRefs, or make the Service.",
        "RefNotPermitted" => {
            "Where a backend is in another namespace, that one has to allow it by a ReferenceGrant from this kind of \
             route in this namespace to its Service."
        }
        "InvalidKind" => "Refer to a Service: of the kind that is named Istio makes nothing.",
        "NotAllowedByListeners" => {
            "Let the Gateway's listener take routes of this namespace and this kind: allowedRoutes.namespaces and \
             allowedRoutes.kinds."
        }
        "NoMatchingListenerHostname" => {
            "Let spec.hostnames and the hostname of the listener have one in common."
        }
        "NoMatchingParent" => "Name in parentRefs a listener and a port that the Gateway has.",
        _ => "Correct what the message names.",
    }
}
