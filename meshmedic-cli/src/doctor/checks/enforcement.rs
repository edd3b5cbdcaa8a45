// SPDX-License-Identifier: Apache-2.0
//! Protection that nothing enforces, and settings that nobody reads.
//!
//! ztunnel judges connections, by AuthorizationPolicies without a target. What needs HTTP is enforced by sidecars and
//! gateways, by selectors, and by waypoints, by targets.

mod annotations;
mod behind;
mod requests;
mod targets;
mod unread;

use crate::doctor::kind::{
    AUTHORIZATION, DESTINATION_RULE, ENVOY_FILTER, GATEWAY, REQUEST, SIDECAR, WASM_PLUGIN,
};
use std::borrow::Cow;

use meshmedic_common::facts::Labels;

use super::security::authorization;
use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::need::Need;
use crate::doctor::snapshot::Custom;
use crate::doctor::view::{PodView, View, endpoints};

/// What those who move from sidecars leave behind.
const UNREAD: &[&str] = &[DESTINATION_RULE, ENVOY_FILTER, SIDECAR, WASM_PLUGIN];

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1201",
        category: Category::Enforcement,
        title: "policies target what has a waypoint to enforce them",
        severity: Severity::Error,
        needs: &[
            Need::Namespaces,
            Need::Services,
            Need::Custom(GATEWAY),
            Need::AnyOf(&[AUTHORIZATION, REQUEST, WASM_PLUGIN]),
            Need::Ambient,
        ],
        run: targets::run,
    },
    Check {
        code: "MM1202",
        category: Category::Enforcement,
        title: "RequestAuthentications select pods whose requests are checked",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::Custom(REQUEST), Need::Ambient],
        run: requests::run,
    },
    Check {
        code: "MM1203",
        category: Category::Enforcement,
        title: "settings of proxies are where a proxy reads them",
        severity: Severity::Warning,
        needs: &[
            Need::Pods,
            Need::Namespaces,
            Need::Services,
            Need::AnyOf(UNREAD),
            Need::Ambient,
        ],
        run: unread::run,
    },
    Check {
        code: "MM1204",
        category: Category::Enforcement,
        title: "policies that allow by identity let the waypoint before their pods in",
        severity: Severity::Error,
        needs: BEHIND,
        run: behind::shut_out,
    },
    Check {
        code: "MM1205",
        category: Category::Enforcement,
        title: "policies that deny by identity have no waypoint before their pods",
        severity: Severity::Warning,
        needs: BEHIND,
        run: behind::disguised,
    },
    Check {
        code: "MM1206",
        category: Category::Enforcement,
        title: "annotations for sidecars are on pods that have one",
        severity: Severity::Info,
        needs: &[Need::Pods, Need::Namespaces, Need::Ambient],
        run: annotations::run,
    },
];

const BEHIND: &[Need] = &[
    Need::Pods,
    Need::Namespaces,
    Need::Services,
    Need::Custom(AUTHORIZATION),
    Need::Custom(GATEWAY),
    Need::Ambient,
];

/// The labels that an object of Istio selects, by whichever field; none if it is for all pods.
fn selected(object: &Custom) -> Option<Labels> {
    let labels = object.spec.pointer("/workloadSelector/labels");
    let labels = labels
        .or_else(|| object.spec.pointer("/selector/matchLabels"))?
        .as_object()?;
    let text = |(key, value): (&String, &serde_json::Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let labels: Option<Labels> = labels.iter().map(text).collect();
    labels.filter(|labels| !labels.is_empty())
}

/// Those under an object: how many ztunnel captures, and whether any has a proxy of its own that reads it.
pub(super) fn under(view: &View<'_>, object: &Custom) -> (usize, bool) {
    let labels = selected(object);
    let everywhere = object.namespace() == view.root;
    let pods: Box<dyn Iterator<Item = &PodView<'_>>> = if everywhere {
        Box::new(view.pods().iter())
    } else {
        Box::new(view.pods_in(object.namespace()))
    };
    let over = pods.filter(|pod| authorization::is_over(view, object, labels.as_ref(), pod));
    let (mut captured, mut read) = (0, false);
    for pod in over {
        captured += usize::from(endpoints::is_captured(pod));
        read |= reads(pod);
    }
    (captured, read)
}

/// Whether it is, or has, a proxy that reads what selects pods: a sidecar or a gateway, and no waypoint.
fn reads(pod: &PodView<'_>) -> bool {
    pod.is_live() && endpoints::has_proxy(pod.pod) && !endpoints::is_waypoint(&pod.facts.labels)
}

/// The waypoint that a namespace has, or else the name that one would get.
fn waypoint_at_hand<'v>(view: &'v View<'_>, namespace: &str) -> Cow<'v, str> {
    use crate::doctor::view::gateways::is_waypoint;
    let mut there = view.custom(GATEWAY).iter();
    let there = there.find(|gateway| gateway.namespace() == namespace && is_waypoint(view, gateway));
    there.map_or(Cow::Borrowed("waypoint"), |gateway| Cow::Borrowed(gateway.name()))
}

#[cfg(test)]
mod tests;
