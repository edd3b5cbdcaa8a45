// SPDX-License-Identifier: Apache-2.0
//! The faults.

use serde_json::{Value, json};

use crate::doctor::checks::reboots::tests::restarted;
use crate::doctor::fixtures::{had, object};
use crate::doctor::snapshot::{Custom, Part, Snapshot};

/// A fault.
pub(super) struct Case {
    pub(super) code: &'static str,
    /// What it is found on.
    pub(super) on: &'static str,
    pub(super) plant: fn(&mut Snapshot),
    /// What the remedy asks a person to do.
    pub(super) by_hand: fn(&mut Snapshot),
    /// Codes of what follows from it.
    pub(super) along: &'static [&'static str],
    /// Whether it can stand beside all others; not, if it is of the same setting as another.
    pub(super) mixes: bool,
}

const AUTHORIZATION: &str = "authorizationpolicies.security.istio.io";
const RULE: &str = "destinationrules.networking.istio.io";
const FELIX: &str = "felixconfigurations.crd.projectcalico.org";
const GATEWAY: &str = "gateways.gateway.networking.k8s.io";
const GRPC_ROUTE: &str = "grpcroutes.gateway.networking.k8s.io";
const HTTP_ROUTE: &str = "httproutes.gateway.networking.k8s.io";
const REQUEST: &str = "requestauthentications.security.istio.io";
const VIRTUAL_SERVICE: &str = "virtualservices.networking.istio.io";

const fn case(code: &'static str, on: &'static str, plant: fn(&mut Snapshot), by_hand: fn(&mut Snapshot)) -> Case {
    Case { code, on, plant, by_hand, along: &[], mixes: true }
}

const fn nothing(_: &mut Snapshot) {}

fn objects<'s>(snapshot: &'s mut Snapshot, key: &str) -> &'s mut Vec<Custom> {
    had(snapshot.custom.get_mut(key).unwrap())
}

fn one<'s>(snapshot: &'s mut Snapshot, key: &str, name: &str) -> &'s mut Custom {
    objects(snapshot, key).iter_mut().find(|one| one.name() == name).unwrap()
}

fn away(snapshot: &mut Snapshot, key: &str, name: &str) {
    objects(snapshot, key).retain(|one| one.name() != name);
}

/// A condition on a Service.
fn bound(snapshot: &mut Snapshot, name: &str, said: Value) {
    let mut services = had(&mut snapshot.services).iter_mut();
    let service = services.find(|one| one.metadata.name.as_deref() == Some(name)).unwrap();
    service.status = Some(object(json!({ "conditions": [said] })));
}

fn targets(name: &str) -> Value {
    json!([{ "group": "", "kind": "Service", "name": name }])
}

fn get_only() -> Value {
    json!([{ "to": [{ "operation": { "methods": ["GET"] } }] }])
}

fn parent(kind: &str, name: &str) -> Value {
    json!([{ "kind": kind, "name": name, "namespace": "istio-system" }])
}

fn orders(host: &str, port: u16) -> Value {
    json!({
        "hosts": ["orders"],
        "http": [{ "route": [{ "destination": { "host": host, "port": { "number": port } } }] }],
    })
}

fn root_ends(snapshot: &mut Snapshot, at: &str) {
    let at: jiff::Timestamp = at.parse().unwrap();
    for istiod in had(&mut snapshot.istiods) {
        #[expect(clippy::cast_precision_loss, reason = "no time is so far away")]
        had(&mut istiod.metrics).insert("citadel_server_root_cert_expiry_timestamp".to_owned(), at.as_second() as f64);
    }
}

fn cilium(snapshot: &mut Snapshot, key: &str, value: &str) {
    if snapshot.cilium_config.had().is_none() {
        let right = [
            ("bpf-lb-sock-hostns-only", "true"),
            ("cni-exclusive", "false"),
            ("enable-bpf-masquerade", "false"),
            ("kube-proxy-replacement", "true"),
        ];
        snapshot.cilium_config = Part::Had(right.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
    had(&mut snapshot.cilium_config).insert(key.to_owned(), value.to_owned());
}

fn setting(snapshot: &mut Snapshot, key: &str, value: &str) {
    had(&mut snapshot.cni_config).insert(key.to_owned(), value.to_owned());
}

/// Only so many of istio-cni's pods are made.
fn made(snapshot: &mut Snapshot, count: i32) {
    let sets = had(&mut snapshot.daemon_sets).iter_mut();
    for set in sets.filter(|set| set.metadata.name.as_deref() == Some("istio-cni-node")) {
        set.status.as_mut().unwrap().current_number_scheduled = count;
        let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.priority_class_name = Some("system-node-critical".to_owned());
    }
}

fn untaint(snapshot: &mut Snapshot, value: &str) {
    for letter in ["a", "b"] {
        snapshot.with_pod("istio-system", &format!("istiod-5f6c-{letter}"), |pod| {
            let variables = pod.spec.as_mut().unwrap().containers[0].env.iter_mut().flatten();
            for variable in variables.filter(|one| one.name == "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS") {
                variable.value = Some(value.to_owned());
            }
        });
    }
}

fn label_node(snapshot: &mut Snapshot, key: &str) {
    let node = &mut had(&mut snapshot.nodes)[0];
    node.metadata.labels.get_or_insert_default().insert(key.to_owned(), "x".to_owned());
}

fn aws(snapshot: &mut Snapshot, mode: &str) {
    let sets = had(&mut snapshot.daemon_sets);
    sets.retain(|set| set.metadata.name.as_deref() != Some("aws-node"));
    sets.push(object(json!({
        "metadata": { "namespace": "kube-system", "name": "aws-node" },
        "spec": {
            "selector": {},
            "template": { "spec": { "containers": [{ "name": "aws-node", "env": [
                { "name": "ENABLE_POD_ENI", "value": "true" },
                { "name": "POD_SECURITY_GROUP_ENFORCING_MODE", "value": mode },
            ] }] } },
        },
    })));
}

fn image(snapshot: &mut Snapshot, tag: &str) {
    snapshot.with_pod("legacy", "orders-7d4b-b", |pod| {
        for container in pod.spec.as_mut().unwrap().init_containers.iter_mut().flatten() {
            container.image = Some(format!("docker.io/istio/proxyv2:{tag}"));
        }
    });
}

pub(super) const CASES: &[Case] = &[
    case(
        "MM1001",
        "Service shop/cart",
        |snapshot| {
            snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "old");
            bound(snapshot, "cart", json!({
                "type": "istio.io/WaypointBound", "status": "False", "reason": "WaypointIsNotReady",
                "message": "waypoint \"shop/old\" is not ready", "lastTransitionTime": "2026-01-01T01:00:00Z",
            }));
        },
        nothing,
    ),
    case(
        "MM1002",
        "AuthorizationPolicy till/pay",
        |snapshot| {
            snapshot.add_custom(AUTHORIZATION, "till", "pay", json!({ "targetRefs": targets("pay"), "rules": get_only() }));
            snapshot.say(AUTHORIZATION, "till", "pay", json!({ "conditions": [{
                "type": "WaypointAccepted", "status": "False", "reason": "AncestorNotBound",
                "message": "Service till/pay is not bound to a waypoint",
            }] }));
        },
        |snapshot| {
            snapshot.add_waypoint("till", "waypoint").label_service("till", "pay", "istio.io/use-waypoint", "waypoint");
            one(snapshot, AUTHORIZATION, "pay").status.conditions.clear();
        },
    ),
    case(
        "MM1003",
        "AuthorizationPolicy shop/trial",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["till"] } }] }]);
            snapshot.add_custom(AUTHORIZATION, "shop", "trial", json!({ "action": "DENY", "rules": rules }));
            snapshot.say(AUTHORIZATION, "shop", "trial", json!({ "conditions": [{
                "type": "ZtunnelAccepted", "status": "False", "reason": "UnsupportedValue",
                "message": "found policy \"shop/trial\" using dry-run annotation, but support is not enabled",
            }] }));
            let policy = one(snapshot, AUTHORIZATION, "trial");
            policy.metadata.annotations = Some([("istio.io/dry-run".to_owned(), "true".to_owned())].into());
        },
        |snapshot| away(snapshot, AUTHORIZATION, "trial"),
    ),
    case(
        "MM1004",
        "Gateway istio-system/public",
        |snapshot| {
            one(snapshot, GATEWAY, "public").status.parts = vec![object(json!({ "of": "https", "conditions": [{
                "type": "ResolvedRefs", "status": "False", "reason": "InvalidCertificateRef",
                "message": "invalid certificate reference, secret istio-system/tls not found",
            }] }))];
        },
        |snapshot| one(snapshot, GATEWAY, "public").status.parts.clear(),
    ),
    case(
        "MM1005",
        "HTTPRoute shop/catalog",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "catalogue", "port": 80 }] }]);
            snapshot.add_custom(HTTP_ROUTE, "shop", "catalog", json!({ "parentRefs": parent("Gateway", "public"), "rules": rules }));
            snapshot.say(HTTP_ROUTE, "shop", "catalog", json!({ "parts": [{
                "of": "Gateway istio-system/public", "controller": "istio.io/gateway-controller",
                "conditions": [
                    { "type": "Accepted", "status": "True", "reason": "Accepted" },
                    { "type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
                      "message": "backend(catalogue.shop.svc.cluster.local) not found" },
                ],
            }] }));
        },
        |snapshot| away(snapshot, HTTP_ROUTE, "catalog"),
    ),
    case(
        "MM1006",
        "Gateway istio-system/edge",
        |snapshot| {
            snapshot.add_ingress("istio-system", "edge");
            one(snapshot, GATEWAY, "edge").status = object(json!({ "conditions": [{
                "type": "Programmed", "status": "False", "reason": "AddressNotAssigned", "observedGeneration": 1,
                "message": "Assigned to service(s) edge:80, but failed to assign to all requested addresses",
            }] }));
        },
        |snapshot| one(snapshot, GATEWAY, "edge").status.conditions.clear(),
    ),
    case(
        "MM1101",
        "Gateway till/down",
        |snapshot| {
            snapshot.add_waypoint("till", "down").label_service("till", "pay", "istio.io/use-waypoint", "down");
            snapshot.drop_pods(|pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with("down-")));
        },
        nothing,
    ),
    case(
        "MM1102",
        "Namespace plain",
        |snapshot| {
            snapshot.with_namespace("plain", |of| {
                of.metadata.labels.get_or_insert_default().insert("istio.io/use-waypoint".to_owned(), "gone".to_owned());
            });
        },
        nothing,
    ),
    case(
        "MM1103",
        "Service legacy/orders",
        |snapshot| {
            snapshot.add_waypoint("legacy", "pods").label_service("legacy", "orders", "istio.io/use-waypoint", "pods");
            let labels = [("istio.io/waypoint-for".to_owned(), "workload".to_owned())];
            one(snapshot, GATEWAY, "pods").metadata.labels = Some(labels.into());
        },
        nothing,
    ),
    case(
        "MM1104",
        "Service plain/far",
        |snapshot| {
            had(&mut snapshot.services).push(object(json!({ "metadata": { "namespace": "plain", "name": "far" } })));
            snapshot.label_service("plain", "far", "istio.io/use-waypoint", "wp");
            snapshot.label_service("plain", "far", "istio.io/use-waypoint-namespace", "shop");
        },
        |snapshot| {
            let listener = &mut one(snapshot, GATEWAY, "wp").spec["listeners"][0];
            listener["allowedRoutes"] = json!({ "namespaces": { "from": "All" } });
        },
    ),
    case(
        "MM1105",
        "Service shop/catalog",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "catalog", "port": 80 }] }]);
            snapshot.add_custom(HTTP_ROUTE, "shop", "in", json!({ "parentRefs": parent("Gateway", "public"), "rules": rules }));
            snapshot.add_custom(AUTHORIZATION, "shop", "read", json!({ "targetRefs": targets("catalog"), "rules": get_only() }));
        },
        nothing,
    ),
    case(
        "MM1201",
        "AuthorizationPolicy shop/cart",
        |snapshot| {
            snapshot.add_custom(AUTHORIZATION, "shop", "cart", json!({ "targetRefs": targets("cart2"), "rules": get_only() }));
            had(&mut snapshot.services).push(object(json!({ "metadata": { "namespace": "shop", "name": "cart2" } })));
        },
        nothing,
    ),
    case(
        "MM1202",
        "RequestAuthentication shop/tokens",
        |snapshot| {
            let spec = json!({
                "selector": { "matchLabels": { "app": "cart" } }, "jwtRules": [{ "issuer": "https://id.example.com" }],
            });
            snapshot.add_custom(REQUEST, "shop", "tokens", spec);
        },
        |snapshot| {
            one(snapshot, REQUEST, "tokens").spec = json!({ "targetRefs": targets("cart") });
            away(snapshot, GATEWAY, "waypoint");
        },
    ),
    case(
        "MM1203",
        "EnvoyFilter till/lua",
        |snapshot| {
            let spec = json!({ "workloadSelector": { "labels": { "app": "pay" } } });
            snapshot.add_custom("envoyfilters.networking.istio.io", "till", "lua", spec);
        },
        |snapshot| away(snapshot, "envoyfilters.networking.istio.io", "lua"),
    ),
    case(
        "MM1204",
        "AuthorizationPolicy shop/callers",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/till/sa/default"] } }] }]);
            snapshot.add_custom(AUTHORIZATION, "shop", "callers", json!({
                "selector": { "matchLabels": { "app": "catalog" } }, "action": "ALLOW", "rules": rules,
            }));
        },
        nothing,
    ),
    case(
        "MM1205",
        "AuthorizationPolicy shop/banned",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["plain"] } }] }]);
            snapshot.add_custom(AUTHORIZATION, "shop", "banned", json!({
                "selector": { "matchLabels": { "app": "catalog" } }, "action": "DENY", "rules": rules,
            }));
        },
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "namespaces": ["plain"] } }] }]);
            snapshot.add_custom(AUTHORIZATION, "shop", "banned-too", json!({
                "targetRefs": targets("catalog"), "action": "DENY", "rules": rules,
            }));
        },
    ),
    case(
        "MM1301",
        "VirtualService legacy/away",
        |snapshot| {
            let mut spec = orders("ordrs", 80);
            spec["hosts"] = json!(["away.example.com"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "away", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "away"),
    ),
    case(
        "MM1302",
        "VirtualService legacy/port",
        |snapshot| {
            let mut spec = orders("orders", 8080);
            spec["hosts"] = json!(["port.example.com"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "port", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "port"),
    ),
    case(
        "MM1303",
        "HTTPRoute shop/lent",
        |snapshot| {
            let rules = json!([{ "backendRefs": [{ "name": "pay", "namespace": "till", "port": 80 }] }]);
            let parents = json!([{ "group": "", "kind": "Service", "name": "catalog" }]);
            snapshot.add_custom(HTTP_ROUTE, "shop", "lent", json!({ "parentRefs": parents, "rules": rules }));
        },
        nothing,
    ),
    case(
        "MM1304",
        "HTTPRoute shop/lost",
        |snapshot| {
            snapshot.add_custom(HTTP_ROUTE, "shop", "lost", json!({ "parentRefs": parent("Gateway", "pubic") }));
        },
        |snapshot| away(snapshot, HTTP_ROUTE, "lost"),
    ),
    case(
        "MM1305",
        "DestinationRule legacy/exported",
        |snapshot| {
            snapshot.add_custom(RULE, "legacy", "exported", json!({ "host": "orders", "exportTo": ["legcy"] }));
        },
        |snapshot| away(snapshot, RULE, "exported"),
    ),
    case(
        "MM1306",
        "VirtualService legacy/two",
        |snapshot| {
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "one", orders("orders", 80));
            let mut spec = orders("orders", 80);
            spec["hosts"] = json!(["orders.legacy.svc.cluster.local"]);
            snapshot.add_custom(VIRTUAL_SERVICE, "legacy", "two", spec);
        },
        |snapshot| away(snapshot, VIRTUAL_SERVICE, "two"),
    ),
    case(
        "MM1307",
        "Service shop/kart",
        |snapshot| {
            had(&mut snapshot.services).push(object(json!({
                "metadata": { "namespace": "shop", "name": "kart" },
                "spec": { "selector": { "app": "kart" }, "ports": [{ "name": "http", "port": 80 }] },
            })));
        },
        |snapshot| had(&mut snapshot.services).retain(|one| one.metadata.name.as_deref() != Some("kart")),
    ),
    case(
        "MM1308",
        "AuthorizationPolicy till/misspelt",
        |snapshot| {
            let rules = json!([{ "from": [{ "source": { "principals": ["cluster.local/ns/shop/sa/defalt"] } }] }]);
            snapshot.add_custom(AUTHORIZATION, "till", "misspelt", json!({ "action": "DENY", "rules": rules }));
        },
        |snapshot| away(snapshot, AUTHORIZATION, "misspelt"),
    ),
    Case {
        mixes: false,
        ..case(
            "MM1401",
            "Namespace istio-system",
            |snapshot| root_ends(snapshot, "2026-01-08T00:00:00Z"),
            |snapshot| root_ends(snapshot, "2035-01-01T00:00:00Z"),
        )
    },
    case(
        "MM1402",
        "Namespace istio-system",
        |snapshot| root_ends(snapshot, "2026-02-15T00:00:00Z"),
        |snapshot| root_ends(snapshot, "2035-01-01T00:00:00Z"),
    ),
    case(
        "MM1403",
        "Pod istio-system/ztunnel-b",
        |snapshot| had(&mut had(&mut snapshot.ztunnels)[1].dump).certificates[0].roots[0].serial = "2".to_owned(),
        |snapshot| had(&mut had(&mut snapshot.ztunnels)[1].dump).certificates[0].roots[0].serial = "1".to_owned(),
    ),
    case(
        "MM1501",
        "ConfigMap kube-system/cilium-config",
        |snapshot| cilium(snapshot, "cni-exclusive", "true"),
        |snapshot| cilium(snapshot, "cni-exclusive", "false"),
    ),
    case(
        "MM1502",
        "ConfigMap kube-system/cilium-config",
        |snapshot| cilium(snapshot, "enable-bpf-masquerade", "true"),
        |snapshot| cilium(snapshot, "enable-bpf-masquerade", "false"),
    ),
    case(
        "MM1503",
        "ConfigMap kube-system/cilium-config",
        |snapshot| cilium(snapshot, "bpf-lb-sock-hostns-only", "false"),
        |snapshot| cilium(snapshot, "bpf-lb-sock-hostns-only", "true"),
    ),
    case(
        "MM1504",
        "DaemonSet kube-system/aws-node",
        |snapshot| {
            aws(snapshot, "strict");
            snapshot.add_custom("securitygrouppolicies.vpcresources.k8s.aws", "shop", "all", json!({ "podSelector": {} }));
        },
        |snapshot| aws(snapshot, "standard"),
    ),
    case(
        "MM1505",
        "FelixConfiguration default",
        |snapshot| {
            snapshot.add_custom(FELIX, "", "default", json!({ "bpfEnabled": true }));
        },
        nothing,
    ),
    case(
        "MM1506",
        "DaemonSet istio-system/istio-cni-node",
        |snapshot| {
            label_node(snapshot, "cloud.google.com/gke-nodepool");
            made(snapshot, 2);
        },
        |snapshot| made(snapshot, 3),
    ),
    Case {
        mixes: false,
        ..case(
            "MM1507",
            "DaemonSet istio-system/istio-cni-node",
            |snapshot| {
                let node = &mut had(&mut snapshot.nodes)[0];
                node.status.as_mut().unwrap().node_info.as_mut().unwrap().kubelet_version = "v1.34.1+k3s1".to_owned();
                snapshot.agents = Part::not_asked("no agent runs here");
                snapshot.mount("/etc/cni/net.d", "/opt/cni/bin");
            },
            |snapshot| {
                snapshot.mount("/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni");
            },
        )
    },
    case(
        "MM1508",
        "CustomResourceDefinition grpcroutes.gateway.networking.k8s.io",
        |snapshot| {
            had(&mut snapshot.gateway_api).insert(GRPC_ROUTE.to_owned(), "v1.0.0".to_owned());
            let parents = json!([{ "group": "", "kind": "Service", "name": "catalog" }]);
            snapshot.add_custom(GRPC_ROUTE, "shop", "grpc", json!({ "parentRefs": parents }));
        },
        |snapshot| drop(had(&mut snapshot.gateway_api).insert(GRPC_ROUTE.to_owned(), "v1.6.0".to_owned())),
    ),
    case(
        "MM1509",
        "DaemonSet istio-system/istio-cni-node",
        |snapshot| {
            made(snapshot, 2);
            snapshot.with_namespace("istio-system", |of| {
                let labels = of.metadata.labels.get_or_insert_default();
                labels.insert("pod-security.kubernetes.io/enforce".to_owned(), "baseline".to_owned());
            });
        },
        |snapshot| made(snapshot, 3),
    ),
    case(
        "MM1601",
        "DaemonSet istio-system/istio-cni-node",
        |snapshot| setting(snapshot, "ISTIO_OWNED_CNI_CONFIG", "false"),
        |snapshot| setting(snapshot, "ISTIO_OWNED_CNI_CONFIG", "true"),
    ),
    case(
        "MM1602",
        "DaemonSet istio-system/istio-cni-node",
        |snapshot| setting(snapshot, "ENABLE_AMBIENT_DETECTION_RETRY", "false"),
        |snapshot| setting(snapshot, "ENABLE_AMBIENT_DETECTION_RETRY", "true"),
    ),
    case(
        "MM1603",
        "DaemonSet istio-system/istio-cni-node",
        |snapshot| setting(snapshot, "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "false"),
        |snapshot| setting(snapshot, "AMBIENT_RECONCILE_POD_RULES_ON_STARTUP", "true"),
    ),
    case("MM1604", "Deployment istio-system/istiod", |snapshot| untaint(snapshot, "false"), |snapshot| untaint(snapshot, "true")),
    case(
        "MM1605",
        "Node node-b",
        |snapshot| restarted(snapshot, "node-b"),
        |snapshot| {
            for pod in had(&mut snapshot.pods) {
                for status in pod.status.as_mut().unwrap().container_statuses.iter_mut().flatten() {
                    status.last_state = None;
                }
            }
        },
    ),
    Case {
        // A second proxy is not among what a sidecar needs.
        along: &["MM0806"],
        ..case(
            "MM1701",
            "Pod legacy/orders-7d4b-a",
            |snapshot| {
                snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
                    let linkerd = json!({ "name": "linkerd-proxy", "image": "cr.l5d.io/linkerd/proxy:edge" });
                    pod.spec.as_mut().unwrap().containers.push(object(linkerd));
                });
            },
            |snapshot| {
                snapshot.with_pod("legacy", "orders-7d4b-a", |pod| drop(pod.spec.as_mut().unwrap().containers.pop()));
            },
        )
    },
    case(
        "MM1702",
        "Namespace legacy",
        |snapshot| {
            let mut left = had(&mut snapshot.mutating_webhooks)[0].clone();
            left.metadata.name = Some("istio-sidecar-injector-1-29".to_owned());
            had(&mut snapshot.mutating_webhooks).push(left);
        },
        |snapshot| had(&mut snapshot.mutating_webhooks).truncate(1),
    ),
    case(
        "MM1703",
        "Pod legacy/orders-7d4b-b",
        |snapshot| image(snapshot, "1.30.3"),
        |snapshot| image(snapshot, "1.31.0"),
    ),
];
