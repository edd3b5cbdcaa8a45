// SPDX-License-Identifier: Apache-2.0
//! The Gateway API: whether it is there, and of a release that istiod reads.

use crate::doctor::checks::version::Release;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::kind::GATEWAY;
use crate::doctor::snapshot::{Part, Unknown};
use crate::doctor::view::gateways::asked;
use crate::doctor::view::{View, name, namespace};

/// From which release of a kind's CRD on an istiod from some release on reads it; older ones it passes over silently.
const WANTED: [(&str, Release, Release); 3] = [
    (
        "grpcroutes.gateway.networking.k8s.io",
        Release(1, 22, 0),
        Release(1, 1, 0),
    ),
    (
        "tcproutes.gateway.networking.k8s.io",
        Release(1, 31, 0),
        Release(1, 6, 0),
    ),
    (
        "tlsroutes.gateway.networking.k8s.io",
        Release(1, 30, 0),
        Release(1, 5, 0),
    ),
];

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    // What the API serves is there, wherever it is defined; the CRDs say only of which release it is.
    let served = view.snapshot.custom.get(GATEWAY);
    if let Some(Unknown::Absent(_)) = served.and_then(Part::unknown) {
        return missing(view).into_iter().collect();
    }
    let Some(installed) = view.snapshot.gateway_api.had() else {
        return Vec::new();
    };
    let istiod = view
        .istiods()
        .filter_map(|pod| Release::of_pod(pod, "/pilot"))
        .max();
    let found = WANTED.iter().filter_map(|(kind, since, wanted)| {
        let istiod = istiod.filter(|istiod| istiod >= since)?;
        let is = Release::of_text(installed.get(*kind)?)?;
        let object = view.custom(kind).first()?;
        (is < *wanted).then(|| {
            Finding::on(ObjectRef::cluster("CustomResourceDefinition", kind), "istiod passes over all objects of this kind")
                .because(format!("it is of release {is} of the Gateway API, and istiod {istiod} reads it from {wanted} on"))
                .because(format!("{}/{} is one that it does not read", object.namespace(), object.name()))
                .so("They are in force nowhere, and nothing says so: their status stays empty.")
                .by_hand(format!(
                    "Install the CRDs of the Gateway API in release {wanted} or later, of the channel that is installed now."
                ))
        })
    });
    found.collect()
}

/// Only a mesh that asks for a waypoint needs it.
fn missing(view: &View<'_>) -> Option<Finding> {
    let own = |labels: Option<&std::collections::BTreeMap<String, String>>, of: &str| {
        labels.is_some_and(|labels| asked(view, labels, of).is_some())
    };
    let of_namespace = view
        .namespaces()
        .find(|(called, of)| own(of.metadata.labels.as_ref(), called));
    let asker = of_namespace
        .map(|(called, _)| format!("namespace {called}"))
        .or_else(|| {
            let mut services = view.snapshot.services.all().iter();
            let service = services
                .find(|service| own(service.metadata.labels.as_ref(), namespace(&service.metadata)))?;
            Some(format!(
                "Service {}/{}",
                namespace(&service.metadata),
                name(&service.metadata)
            ))
        })?;
    Some(
        Finding::on(
            ObjectRef::cluster("CustomResourceDefinition", GATEWAY),
            "the Gateway API is not installed",
        )
        .because(format!(
            "{asker} asks for a waypoint, and a waypoint is a Gateway"
        ))
        .so("There is no waypoint: no route, no policy and no check of HTTP is in force in ambient mode.")
        .by_hand("Install the CRDs of the Gateway API, of the standard channel, and then the waypoint."),
    )
}
