// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;

mod cases;
mod reference;
mod same;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    pairs.iter().map(owned).collect()
}

/// A policy of namespace `shop` with this spec.
fn policy(spec: serde_json::Value) -> NetworkPolicy {
    serde_json::from_value(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "policy", "namespace": "shop"},
        "spec": spec,
    }))
    .unwrap()
}

fn namespaces() -> BTreeMap<String, Labels> {
    ["shop", "pay", "outside"]
        .map(|name| {
            let mut of = labels(&[("kubernetes.io/metadata.name", name)]);
            if name != "outside" {
                of.insert("team".to_owned(), "blue".to_owned());
            }
            (name.to_owned(), of)
        })
        .into()
}

/// A pod with label `app`, one address, and a port `web` of number 8080.
fn endpoint(namespace: &str, app: &str, address: &str) -> Endpoint {
    Endpoint {
        namespace: namespace.to_owned(),
        labels: labels(&[("app", app)]),
        addresses: vec![address.parse().unwrap()],
        named_ports: [((Protocol::Tcp, "web".to_owned()), 8080)].into(),
        serves: [8080].into(),
        apart: false,
        sends: Sends::Ztunnel,
        takes: Takes::Hbone,
    }
}
