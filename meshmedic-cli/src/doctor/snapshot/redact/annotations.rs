// SPDX-License-Identifier: Apache-2.0
//! Metadata without payloads.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meshmedic_common::facts::{CONFIG_HASH, MIRROR, REDIRECTION, REPAIR, SIDECAR, TOGGLE_RESTORE};

/// What the value of an annotation may look like to be kept. Whatever looks otherwise may be anything.
#[derive(Clone, Copy)]
enum Shape {
    /// One of these words.
    Word(&'static [&'static str]),
    /// An amount, such as `100m` or `1Gi`.
    Quantity,
    /// Ports and their like: `15020,9000-9100`, or `*`.
    Numbers,
    /// A name that an object may have.
    Name,
}

const SWITCH: Shape = Shape::Word(&["true", "false", "enabled", "disabled"]);

/// The annotations whose values are kept.
const KEPT: [(&str, Shape); 22] = [
    (REDIRECTION, Shape::Word(&["enabled", "pending", "disabled"])),
    (REPAIR, SWITCH),
    (CONFIG_HASH, Shape::Name),
    (MIRROR, Shape::Name),
    ("ambient.istio.io/bypass-inbound-capture", SWITCH),
    ("ambient.istio.io/dns-capture", SWITCH),
    ("istio.io/reroute-virtual-interfaces", Shape::Name),
    ("istio.io/rev", Shape::Name),
    ("meta.helm.sh/release-name", Shape::Name),
    ("meta.helm.sh/release-namespace", Shape::Name),
    ("istio.io/use-waypoint", Shape::Name),
    ("sidecar.istio.io/inject", SWITCH),
    (
        "sidecar.istio.io/interceptionMode",
        Shape::Word(&["REDIRECT", "TPROXY", "NONE"]),
    ),
    ("sidecar.istio.io/nativeSidecar", SWITCH),
    ("sidecar.istio.io/proxyCPU", Shape::Quantity),
    ("sidecar.istio.io/proxyCPULimit", Shape::Quantity),
    ("sidecar.istio.io/proxyMemory", Shape::Quantity),
    ("sidecar.istio.io/proxyMemoryLimit", Shape::Quantity),
    ("sidecar.istio.io/rewriteAppHTTPProbers", SWITCH),
    ("traffic.sidecar.istio.io/excludeInboundPorts", Shape::Numbers),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", Shape::Numbers),
    ("traffic.sidecar.istio.io/includeInboundPorts", Shape::Numbers),
];
/// No name of an object that these hold is longer.
const LONGEST: usize = 63;
/// A number with its unit is no longer.
const LONGEST_QUANTITY: usize = 12;
/// That a toggle left something matters, and not what.
const LEFT_BY_TOGGLE: &str = "left out";
/// Settings of a proxy, as YAML or JSON: of them one is kept.
const PROXY_CONFIG: &str = "proxy.istio.io/config";
const HOLD: &str = "holdApplicationUntilProxyStarts";
/// How many keys are kept; the API allows 256 KiB of them.
const MOST: usize = 64;

impl Shape {
    fn has(self, value: &str) -> bool {
        let bytes = || value.bytes();
        match self {
            Self::Word(words) => words.contains(&value),
            Self::Quantity => {
                let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
                let unit = value.len() - number.len();
                let digits = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                value.len() <= LONGEST_QUANTITY && unit <= 2 && !number.is_empty() && digits
            }
            Self::Numbers => bytes().all(|b| b.is_ascii_digit() || b"*,- ".contains(&b)),
            Self::Name => {
                value.len() <= LONGEST
                    && bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.,".contains(&b))
            }
        }
    }
}

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
    let ours = |key: &str| shape(key).is_some() || [SIDECAR, PROXY_CONFIG, TOGGLE_RESTORE].contains(&key);
    let (first, rest): (Vec<_>, Vec<_>) = all.iter().partition(|(key, _)| ours(key));
    first
        .into_iter()
        .chain(rest)
        .take(MOST)
        .map(|(key, value)| (key.clone(), kept(key, value)))
        .collect()
}

fn shape(key: &str) -> Option<Shape> {
    KEPT.iter()
        .find(|(kept, _)| *kept == key)
        .map(|(_, shape)| *shape)
}

fn kept(key: &str, value: &str) -> String {
    match key {
        PROXY_CONFIG => hold(value),
        TOGGLE_RESTORE => LEFT_BY_TOGGLE.to_owned(),
        _ if shape(key).is_some_and(|shape| shape.has(value)) => value.to_owned(),
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
