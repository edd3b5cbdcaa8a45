// SPDX-License-Identifier: Apache-2.0
//! Settings of the mesh, and Events.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Event;
use meshmedic_common::text::clean;
use serde_json::Value;

use crate::doctor::snapshot::{EventFact, MeshConfig};

/// The reasons of Events that checks look at.
const REASONS: [&str; 5] = [
    "FailedCreatePodSandBox",
    "FailedCreate",
    "Unhealthy",
    "BackOff",
    "OOMKilling",
];
/// What is kept of an Event's message.
const MAX_WORDS: usize = 600;
/// What is kept of istio-cni's settings.
const CNI_KEYS: [&str; 11] = [
    "AMBIENT_ENABLED",
    "AMBIENT_ENABLEMENT_SELECTOR",
    "AMBIENT_DNS_CAPTURE",
    "AMBIENT_IPV6",
    "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP",
    "CHAINED_CNI_PLUGIN",
    "CURRENT_AGENT_VERSION",
    "ENABLE_AMBIENT_DETECTION_RETRY",
    "EXCLUDE_NAMESPACES",
    "ISTIO_OWNED_CNI_CONFIG",
    "NATIVE_NFTABLES",
];

/// What is kept of Cilium's settings.
const CILIUM_KEYS: [&str; 6] = [
    "bpf-lb-sock-hostns-only",
    "cni-exclusive",
    "custom-cni-conf",
    "enable-bpf-masquerade",
    "enable-ipv4-masquerade",
    "kube-proxy-replacement",
];

/// What matters of the key `mesh` of istiod's ConfigMap.
pub(crate) fn mesh_config(text: &str) -> Option<MeshConfig> {
    let config: Value = serde_saphyr::from_str(text).ok()?;
    let text = |pointer: &str| {
        config
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(|text| clean(text, 253))
    };
    Some(MeshConfig {
        root_namespace: text("/rootNamespace"),
        trust_domain: text("/trustDomain"),
        trust_domain_aliases: {
            let aliases = config.pointer("/trustDomainAliases").and_then(Value::as_array);
            let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
            aliases.map(|alias| clean(alias, 253)).collect()
        },
        hold_application_until_proxy_starts: config
            .pointer("/defaultConfig/holdApplicationUntilProxyStarts")
            .and_then(Value::as_bool),
    })
}

/// What matters of istio-cni's ConfigMap.
pub(crate) fn cni_config(data: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    of_keys(data, &CNI_KEYS)
}

/// What matters of Cilium's ConfigMap.
pub(crate) fn cilium_config(data: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    of_keys(data, &CILIUM_KEYS)
}

fn of_keys(data: &BTreeMap<String, String>, keys: &[&str]) -> BTreeMap<String, String> {
    let mut kept = data.clone();
    kept.retain(|key, _| keys.contains(&key.as_str()));
    kept
}

/// An Event that a check looks at; none of the others.
pub(crate) fn event(event: &Event) -> Option<EventFact> {
    let reason = event
        .reason
        .as_deref()
        .filter(|reason| REASONS.contains(reason))?;
    let about = &event.involved_object;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let series = event.series.as_ref();
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let last = last.or_else(|| Some(series?.last_observed_time.as_ref()?.0));
    Some(EventFact {
        kind: text(&about.kind),
        namespace: text(&about.namespace),
        name: text(&about.name),
        uid: text(&about.uid),
        reason: reason.to_owned(),
        message: clean(event.message.as_deref().unwrap_or_default(), MAX_WORDS),
        count: event.count.or_else(|| series?.count).unwrap_or(1),
        last: last.or_else(|| Some(event.event_time.as_ref()?.0)),
    })
}
