// SPDX-License-Identifier: Apache-2.0
//! Faults on the way of requests: NetworkPolicies, mTLS and policies of Istio, routes, sidecars, the network underneath.

use crate::doctor::kind::{AUTHORIZATION, PEER, VIRTUAL_SERVICE};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Case, case, nothing};
use crate::doctor::fixtures::{NOW, ambient_pod, had, healthy, namespace, object, pod, sidecar_pod};
use crate::doctor::snapshot::{Link, LinkKind, Sighting, Snapshot};

const CILIUM: &str = "ciliumnetworkpolicies.cilium.io";

/// An app of an ambient namespace of its own, behind a Service.
fn depot(snapshot: &mut Snapshot, app: &str, last: u8) {
    let known = had(&mut snapshot.namespaces);
    if !known
        .iter()
        .any(|one| one.metadata.name.as_deref() == Some("depot"))
    {
        known.push(namespace(
            "depot",
            json!({ "istio.io/dataplane-mode": "ambient" }),
        ));
        let account = json!({ "metadata": { "namespace": "depot", "name": "default" } });
        had(&mut snapshot.service_accounts).push(object(account));
    }
    service(snapshot, "depot", app, app, "http");
    snapshot.add_ambient(ambient_pod("depot", app, "node-a", &format!("10.244.0.{last}")));
}

fn service(snapshot: &mut Snapshot, of: &str, name: &str, app: &str, port: &str) {
    had(&mut snapshot.services).push(object(json!({
        "metadata": { "namespace": of, "name": name },
        "spec": {
            "selector": { "app": app }, "clusterIP": "10.96.0.60",
            "ports": [{ "name": port, "port": 80, "targetPort": 8080 }],
        },
    })));
}

fn policy(snapshot: &mut Snapshot, of: &str, name: &str, spec: Value) {
    let policy = json!({ "metadata": { "namespace": of, "name": name }, "spec": spec });
    had(&mut snapshot.network_policies).push(object(policy));
}

fn app(name: &str) -> Value {
    json!({ "matchLabels": { "app": name } })
}

fn everybody() -> Value {
    json!([{ "namespaceSelector": {} }])
}

fn away(snapshot: &mut Snapshot, key: &str, name: &str) {
    had(snapshot.custom.get_mut(key).unwrap()).retain(|one| one.name() != name);
}

fn link(snapshot: &mut Snapshot, kind: LinkKind, source: &str, destination: &str) {
    had(&mut had(&mut snapshot.ztunnels)[0].log).links.push(Link {
        kind,
        source: source.to_owned(),
        destination: destination.to_owned(),
        seen: Sighting {
            count: 12,
            last: NOW.parse().unwrap(),
            sample: "as ztunnel logs it".to_owned(),
        },
    });
}

fn no_links(snapshot: &mut Snapshot) {
    had(&mut had(&mut snapshot.ztunnels)[0].log).links.clear();
}

fn to(host: &str, more: Value) -> Value {
    let mut share = json!({ "destination": { "host": host } });
    for (key, value) in more.as_object().unwrap() {
        share[key] = value.clone();
    }
    share
}

fn ways(host: &str, route: Value) -> Value {
    json!({ "hosts": [host], "http": [{ "route": route }] })
}

/// A pod of namespace legacy whose sidecar is a container among the others, as before there were native ones.
fn classic(snapshot: &mut Snapshot, name: &str, change: impl FnOnce(&mut Pod)) {
    let mut pod = sidecar_pod("legacy", name, "node-a", "10.244.0.62");
    let spec = pod.spec.as_mut().unwrap();
    let mut sidecar = spec.init_containers.take().unwrap().remove(1);
    sidecar.restart_policy = None;
    spec.containers.push(sidecar);
    let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
    statuses.push(object(json!({
        "name": "istio-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} },
    })));
    change(&mut pod);
    snapshot.add_pod(pod);
}

fn limits(snapshot: &mut Snapshot, cpu: &str, memory: &str) {
    snapshot.with_pod("legacy", "orders-7d4b-b", |pod| {
        let sidecar = &mut pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[1];
        sidecar.resources = Some(object(json!({ "limits": { "cpu": cpu, "memory": memory } })));
    });
}

fn drop_pod(snapshot: &mut Snapshot, beginning: &str) {
    snapshot.drop_pods(|pod| {
        pod.metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with(beginning))
    });
}

fn overlay<'s>(snapshot: &'s mut Snapshot, node: &str) -> &'s mut meshmedic_common::report::Overlay {
    let report = had(had(&mut snapshot.agents).get_mut(node).unwrap());
    report.overlay.as_mut().unwrap()
}

fn reached(snapshot: &mut Snapshot, reached: bool) {
    let mut tries = had(&mut snapshot.reach).iter_mut();
    let one = tries.find(|one| (one.from.as_str(), one.to.as_str()) == ("node-a", "node-c"));
    one.unwrap().reached = Some(reached);
}

pub(super) const CASES: &[Case] = &[
    case(
        // Written before the mesh came: the app's port, and not the one by which the mesh comes.
        "MM0501",
        "NetworkPolicy depot/stock",
        |snapshot| {
            depot(snapshot, "stock", 201);
            let ports = json!([{ "port": 8080 }]);
            let rule = json!([{ "from": everybody(), "ports": ports }]);
            policy(
                snapshot,
                "depot",
                "stock",
                json!({ "podSelector": app("stock"), "ingress": rule }),
            );
        },
        nothing,
    ),
    case(
        "MM0502",
        "NetworkPolicy depot/buyer",
        |snapshot| {
            depot(snapshot, "buyer", 202);
            depot(snapshot, "seller", 207);
            let egress = json!([
                { "to": everybody(), "ports": [{ "port": 53, "protocol": "UDP" }] },
                { "to": [{ "podSelector": app("seller") }], "ports": [{ "port": 8080 }] },
            ]);
            let spec = json!({ "podSelector": app("buyer"), "policyTypes": ["Egress"], "egress": egress });
            policy(snapshot, "depot", "buyer", spec);
        },
        nothing,
    ),
    case(
        "MM0503",
        "NetworkPolicy depot/probed",
        |snapshot| {
            depot(snapshot, "probed", 203);
            let rule = json!([{ "ports": [{ "port": 15008 }] }]);
            policy(
                snapshot,
                "depot",
                "probed",
                json!({ "podSelector": app("probed"), "ingress": rule }),
            );
            snapshot.with_pod("depot", "probed-7d4b-a", |pod| {
                let container = &mut pod.spec.as_mut().unwrap().containers[0];
                container.readiness_probe =
                    Some(object(json!({ "httpGet": { "path": "/", "port": "http" } })));
                let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut();
                statuses.unwrap()[0].ready = false;
            });
        },
        nothing,
    ),
    case(
        "MM0504",
        "NetworkPolicy istio-system/guard",
        |snapshot| {
            let rule = json!([{ "from": everybody(), "ports": [{ "port": 15017 }] }]);
            policy(
                snapshot,
                "istio-system",
                "guard",
                json!({ "podSelector": app("istiod"), "ingress": rule }),
            );
        },
        nothing,
    ),
    case(
        "MM0505",
        "NetworkPolicy shop/catalog",
        |snapshot| {
            let rule = json!([{
                "from": [{ "podSelector": app("cart") }], "ports": [{ "port": 8080 }, { "port": 15008 }],
            }]);
            policy(
                snapshot,
                "shop",
                "catalog",
                json!({ "podSelector": app("catalog"), "ingress": rule }),
            );
        },
        nothing,
    ),
    case(
        "MM0506",
        "Pod till/pay-7d4b-a",
        |snapshot| {
            link(
                snapshot,
                LinkKind::HboneTimeout,
                "shop/catalog-7d4b-a",
                "till/pay-7d4b-a",
            )
        },
        no_links,
    ),
    case(
        "MM0507",
        "CustomResourceDefinition ciliumnetworkpolicies.cilium.io",
        |snapshot| {
            snapshot
                .custom
                .insert(CILIUM.to_owned(), crate::doctor::snapshot::Part::Had(Vec::new()));
            snapshot.add_custom(CILIUM, "shop", "cart", json!(null));
        },
        |snapshot| away(snapshot, CILIUM, "cart"),
    ),
    Case {
        // Whoever takes plaintext is said to do so, too.
        along: &["MM0606"],
        ..case(
            "MM0601",
            "Pod depot/open-7d4b-a",
            |snapshot| {
                depot(snapshot, "open", 204);
                let spec = json!({ "selector": app("open"), "mtls": { "mode": "PERMISSIVE" } });
                snapshot.add_custom(PEER, "depot", "open", spec);
                link(snapshot, LinkKind::Plaintext, "192.0.2.1", "depot/open-7d4b-a");
            },
            |snapshot| {
                away(snapshot, PEER, "open");
                no_links(snapshot);
            },
        )
    },
    case(
        "MM0602",
        "AuthorizationPolicy depot/read",
        |snapshot| {
            depot(snapshot, "shelf", 205);
            let rules = json!([{ "to": [{ "operation": { "methods": ["GET"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "depot",
                "read",
                json!({ "selector": app("shelf"), "rules": rules }),
            );
        },
        |snapshot| {
            let all = had(snapshot.custom.get_mut(AUTHORIZATION).unwrap());
            let read = all.iter_mut().find(|one| one.name() == "read").unwrap();
            read.spec["targetRefs"] = json!([{ "kind": "Service", "group": "", "name": "shelf" }]);
            read.spec.as_object_mut().unwrap().remove("selector");
        },
    ),
    case(
        "MM0603",
        "AuthorizationPolicy till/typo",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["shop"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "till",
                "typo",
                json!({ "selector": app("pya"), "rules": rules }),
            );
        },
        |snapshot| away(snapshot, AUTHORIZATION, "typo"),
    ),
    case(
        "MM0604",
        "Pod legacy/orders-7d4b-a",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["shop"] } }] }]);
            snapshot.add_custom(
                AUTHORIZATION,
                "legacy",
                "guests",
                json!({ "selector": app("orders"), "rules": rules }),
            );
            snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
                let app = &mut pod.spec.as_mut().unwrap().containers[0];
                app.readiness_probe =
                    Some(object(json!({ "httpGet": { "path": "/ready", "port": "http" } })));
            });
        },
        nothing,
    ),
    Case {
        along: &["MM0606"],
        ..case(
            "MM0605",
            "PeerAuthentication till/default",
            |snapshot| {
                snapshot.add_custom(PEER, "till", "default", json!({ "mtls": { "mode": "DISABLE" } }));
            },
            |snapshot| {
                let all = had(snapshot.custom.get_mut(PEER).unwrap());
                all.retain(|one| one.namespace() != "till");
            },
        )
    },
    case(
        "MM0606",
        "Namespace shop",
        |snapshot| {
            let ports = json!({ "9090": { "mode": "PERMISSIVE" } });
            let spec = json!({ "selector": app("cart"), "portLevelMtls": ports });
            snapshot.add_custom(PEER, "shop", "scraped", spec);
        },
        |snapshot| away(snapshot, PEER, "scraped"),
    ),
    case(
        "MM0607",
        "DaemonSet plain/other",
        |snapshot| {
            let owner = ("DaemonSet", "other");
            snapshot.add_pod(pod(
                "plain",
                "other-a",
                "node-a",
                "10.244.0.63",
                json!({ "app": "ztunnel" }),
                owner,
            ));
        },
        |snapshot| drop_pod(snapshot, "other-a"),
    ),
    case(
        "MM0701",
        "Service legacy/tcp",
        |snapshot| {
            service(snapshot, "legacy", "tcp", "orders", "tcp-web");
            snapshot.add_custom(
                VIRTUAL_SERVICE,
                "legacy",
                "tcp",
                ways("tcp", json!([to("tcp", json!({}))])),
            );
        },
        nothing,
    ),
    case(
        "MM0702",
        "Service legacy/nameless",
        |snapshot| {
            service(snapshot, "legacy", "nameless", "orders", "web");
            let route = ways("nameless", json!([to("nameless", json!({}))]));
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "nameless", route);
        },
        nothing,
    ),
    case(
        "MM0703",
        "VirtualService depot/lane",
        |snapshot| {
            depot(snapshot, "lane", 206);
            snapshot.add_custom(
                VIRTUAL_SERVICE,
                "depot",
                "lane",
                ways("lane", json!([to("lane", json!({}))])),
            );
        },
        nothing,
    ),
    case(
        "MM0704",
        "VirtualService legacy/zero",
        |snapshot| {
            let shares = json!([
                to("orders", json!({ "weight": 0 })),
                to("orders", json!({ "weight": 0 }))
            ]);
            snapshot.add_custom(
                VIRTUAL_SERVICE,
                "legacy",
                "zero",
                ways("zero.example.com", shares),
            );
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "zero"),
    ),
    case(
        "MM0705",
        "VirtualService legacy/canary",
        |snapshot| {
            let shares = json!([{ "destination": { "host": "orders", "subset": "v2" } }]);
            snapshot.add_custom(
                VIRTUAL_SERVICE,
                "legacy",
                "canary",
                ways("canary.example.com", shares),
            );
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "canary"),
    ),
    case(
        "MM0801",
        "Pod legacy/bare-0",
        |snapshot| {
            let owner = ("StatefulSet", "bare");
            snapshot.add_pod(pod(
                "legacy",
                "bare-0",
                "node-a",
                "10.244.0.64",
                json!({ "app": "bare" }),
                owner,
            ));
        },
        // The webhook injects the next one.
        |snapshot| {
            drop_pod(snapshot, "bare-0");
            snapshot.add_pod(sidecar_pod("legacy", "bare", "node-a", "10.244.0.64"));
        },
    ),
    case(
        "MM0802",
        "Pod legacy/orders-7d4b-c",
        |snapshot| {
            snapshot.with_pod("legacy", "orders-7d4b-c", |pod| {
                pod.status.as_mut().unwrap().init_container_statuses = Some(vec![object(json!({
                    "name": "istio-proxy", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                    "state": { "running": {} }, "lastState": { "terminated": {
                        "exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T20:00:00Z",
                    } },
                }))]);
            });
        },
        nothing,
    ),
    case(
        "MM0803",
        "Pod legacy/orders-7d4b-b",
        |snapshot| limits(snapshot, "50m", "32Mi"),
        |snapshot| limits(snapshot, "2", "1Gi"),
    ),
    case(
        "MM0804",
        "Pod legacy/hasty-7d4b-a",
        |snapshot| {
            classic(snapshot, "hasty", |pod| {
                let status = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
                status.restart_count = 1;
                let ended = json!({ "terminated": { "exitCode": 1, "finishedAt": "2026-01-01T00:00:05Z" } });
                status.last_state = Some(object(ended));
            });
        },
        |snapshot| drop_pod(snapshot, "hasty"),
    ),
    case(
        "MM0805",
        "Pod legacy/nightly-7d4b-a",
        |snapshot| {
            classic(snapshot, "nightly", |pod| {
                let owner = &mut pod.metadata.owner_references.as_mut().unwrap()[0];
                owner.api_version = "batch/v1".to_owned();
                (owner.kind, owner.name) = ("Job".to_owned(), "nightly".to_owned());
                let status = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
                status.state = Some(object(json!({ "terminated": { "exitCode": 0 } })));
            });
        },
        |snapshot| drop_pod(snapshot, "nightly"),
    ),
    case(
        "MM0806",
        "Mesh istio-system",
        |snapshot| {
            for number in 0..17 {
                let mut one = sidecar_pod("legacy", "crowd", "node-b", &format!("10.244.1.{}", 100 + number));
                one.metadata.name = Some(format!("crowd-{number}"));
                snapshot.add_pod(one);
            }
        },
        |snapshot| drop_pod(snapshot, "crowd-"),
    ),
    case(
        "MM0901",
        "Node node-b",
        |snapshot| *overlay(snapshot, "node-b") = meshmedic_common::report::Overlay::default(),
        |snapshot| snapshot.agents = healthy().agents,
    ),
    Case {
        // Two nodes of three agree on nothing where one has no interface and one no port.
        mixes: false,
        ..case(
            "MM0902",
            "Node node-c",
            |snapshot| overlay(snapshot, "node-c").udp_ports.clear(),
            |snapshot| snapshot.agents = healthy().agents,
        )
    },
    case(
        "MM0903",
        "Node node-a",
        |snapshot| reached(snapshot, false),
        |snapshot| reached(snapshot, true),
    ),
];
