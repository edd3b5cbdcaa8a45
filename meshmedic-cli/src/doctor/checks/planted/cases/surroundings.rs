// SPDX-License-Identifier: Apache-2.0
//! Faults of what is underneath and around: certificates, platforms, reboots, proxies.

use crate::doctor::kind::GRPC_ROUTE;
use serde_json::json;

use super::{Case, case, nothing};
use crate::doctor::checks::reboots::tests::restarted;
use crate::doctor::fixtures::{had, object};
use crate::doctor::snapshot::{Part, Snapshot};

const FELIX: &str = "felixconfigurations.crd.projectcalico.org";

fn gated(snapshot: &mut Snapshot, state: &serde_json::Value) {
    snapshot.with_pod("till", "pay-7d4b-a", |pod| {
        let gate = json!({ "name": "meshmedic-gate", "image": "ghcr.io/meshmedic/meshmedic:0.1.0" });
        pod.spec.as_mut().unwrap().init_containers = Some(vec![object(gate)]);
        let status = json!({
            "name": "meshmedic-gate", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state,
        });
        pod.status.as_mut().unwrap().init_container_statuses = Some(vec![object(status)]);
    });
}

fn root_ends(snapshot: &mut Snapshot, at: &str) {
    let at: jiff::Timestamp = at.parse().unwrap();
    for istiod in had(&mut snapshot.istiods) {
        #[expect(clippy::cast_precision_loss, reason = "no time is so far away")]
        had(&mut istiod.metrics).insert(
            "citadel_server_root_cert_expiry_timestamp".to_owned(),
            at.as_second() as f64,
        );
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
        snapshot.cilium_config = Part::Had(
            right
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        );
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
    node.metadata
        .labels
        .get_or_insert_default()
        .insert(key.to_owned(), "x".to_owned());
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
        |snapshot| {
            had(&mut had(&mut snapshot.ztunnels)[1].dump).certificates[0].roots[0].serial = "2".to_owned()
        },
        |snapshot| {
            had(&mut had(&mut snapshot.ztunnels)[1].dump).certificates[0].roots[0].serial = "1".to_owned()
        },
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
            snapshot.add_custom(
                "securitygrouppolicies.vpcresources.k8s.aws",
                "shop",
                "all",
                json!({ "podSelector": {} }),
            );
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
                node.status
                    .as_mut()
                    .unwrap()
                    .node_info
                    .as_mut()
                    .unwrap()
                    .kubelet_version = "v1.34.1+k3s1".to_owned();
                snapshot.agents = Part::not_asked("no agent runs here");
                snapshot.mount("/etc/cni/net.d", "/opt/cni/bin");
            },
            |snapshot| {
                snapshot.mount(
                    "/var/lib/rancher/k3s/agent/etc/cni/net.d",
                    "/var/lib/rancher/k3s/data/cni",
                );
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
                labels.insert(
                    "pod-security.kubernetes.io/enforce".to_owned(),
                    "baseline".to_owned(),
                );
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
    case(
        "MM1604",
        "Deployment istio-system/istiod",
        |snapshot| untaint(snapshot, "false"),
        |snapshot| untaint(snapshot, "true"),
    ),
    Case {
        // Where nobody has looked, none of what is seen in pods is known.
        mixes: false,
        ..case(
            "MM1605",
            "Node node-b",
            |snapshot| restarted(snapshot, "node-b"),
            |snapshot| {
                for pod in had(&mut snapshot.pods) {
                    for status in pod
                        .status
                        .as_mut()
                        .unwrap()
                        .container_statuses
                        .iter_mut()
                        .flatten()
                    {
                        status.last_state = None;
                    }
                }
            },
        )
    },
    case(
        // istio-cni was restarted where it found the legacy tables in the host's namespace first.
        "MM1606",
        "Pod till/pay-7d4b-a",
        |snapshot| {
            let mut states = had(&mut snapshot.scan).iter_mut();
            let found = states.find(|one| one.name == "pay-7d4b-a").unwrap();
            found.rules = serde_json::from_value(json!({
                "verdict": "present",
                "ipv4": { "verdict": "present", "backend": "both", "hooks": [3, 4] },
                "ipv6": { "verdict": "present", "backend": "nft", "hooks": [2, 3] },
            }))
            .unwrap();
        },
        |snapshot| {
            let mut states = had(&mut snapshot.scan).iter_mut();
            states.find(|one| one.name == "pay-7d4b-a").unwrap().rules = None;
        },
    ),
    case(
        // After a reboot istio-cni has forgotten it, and no agent heals here.
        "MM1607",
        "Pod till/pay-7d4b-a",
        |snapshot| gated(snapshot, &json!({ "terminated": { "exitCode": 1 } })),
        |snapshot| gated(snapshot, &json!({ "terminated": { "exitCode": 0 } })),
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
                snapshot.with_pod("legacy", "orders-7d4b-a", |pod| {
                    drop(pod.spec.as_mut().unwrap().containers.pop())
                });
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
        |snapshot| image(snapshot, "1.28.9"),
        |snapshot| image(snapshot, "1.28.10"),
    ),
];
