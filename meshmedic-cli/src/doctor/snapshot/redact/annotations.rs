// SPDX-License-Identifier: Apache-2.0
//! Metadata without payloads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::facts::{CONFIG_HASH, MIRROR, REDIRECTION, REPAIR, SIDECAR};
use meshmedic_common::text::clean;

/// The annotations whose values are kept as they are, if they are as short as what belongs there.
const KEPT: [&str; 24] = [
    REDIRECTION,
    REPAIR,
    CONFIG_HASH,
    MIRROR,
    "ambient.istio.io/bypass-inbound-capture",
    "ambient.istio.io/dns-capture",
    "ambient.istio.io/waypoint-inbound-binding",
    "istio.io/reroute-virtual-interfaces",
    "istio.io/rev",
    "istio.io/use-waypoint",
    "sidecar.istio.io/inject",
    "sidecar.istio.io/interceptionMode",
    "sidecar.istio.io/nativeSidecar",
    "sidecar.istio.io/proxyCPU",
    "sidecar.istio.io/proxyCPULimit",
    "sidecar.istio.io/proxyMemory",
    "sidecar.istio.io/proxyMemoryLimit",
    "sidecar.istio.io/rewriteAppHTTPProbers",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "kubernetes.io/service-account.name",
    "deployment.kubernetes.io/revision",
    "kubectl.kubernetes.io/restartedAt",
];
/// A value of those is a word, a number or a list of ports.
const LONGEST: usize = 64;
/// What a toggle left: whether it is there matters, and its value is short as well.
const TOGGLE_RESTORE: &str = meshmedic_common::facts::TOGGLE_RESTORE;
/// Settings of a proxy, as YAML or JSON: of them one is kept.
const PROXY_CONFIG: &str = "proxy.istio.io/config";
const HOLD: &str = "holdApplicationUntilProxyStarts";
/// How many keys are kept; the API allows 256 KiB of them.
const MOST: usize = 64;

/// What identifies an object, its labels, its owners; of annotations the keys, and few values.
pub(crate) fn metadata(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp.clone(),
        deletion_timestamp: metadata.deletion_timestamp.clone(),
        generate_name: metadata.generate_name.clone(),
        labels: metadata.labels.clone(),
        owner_references: metadata.owner_references.clone(),
        annotations: metadata.annotations.as_ref().map(annotations),
        ..ObjectMeta::default()
    }
}

/// The value of one that is left out is empty.
fn annotations(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let ours =
        |key: &str| KEPT.contains(&key) || key == SIDECAR || key == PROXY_CONFIG || key == TOGGLE_RESTORE;
    let (first, rest): (Vec<_>, Vec<_>) = all.iter().partition(|(key, _)| ours(key));
    first
        .into_iter()
        .chain(rest)
        .take(MOST)
        .map(|(key, value)| (key.clone(), kept(key, value)))
        .collect()
}

fn kept(key: &str, value: &str) -> String {
    let plain = value.len() <= LONGEST
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.,:/*+ ".contains(c));
    match key {
        PROXY_CONFIG => hold(value),
        _ if plain && KEPT.contains(&key) => value.to_owned(),
        TOGGLE_RESTORE if plain => clean(value, LONGEST),
        _ => String::new(),
    }
}

/// Of a proxy's settings only whether the app waits for it.
fn hold(value: &str) -> String {
    let settings: Option<serde_json::Value> = serde_saphyr::from_str(value).ok();
    match settings
        .as_ref()
        .and_then(|settings| settings.get(HOLD)?.as_bool())
    {
        Some(hold) => format!("{{\"{HOLD}\": {hold}}}"),
        None => String::new(),
    }
}
