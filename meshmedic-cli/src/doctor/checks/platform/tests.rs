// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::{FELIX, SECURITY_GROUPS};
use crate::doctor::fixtures::{assert_finds, assert_passes, assert_skipped, had, healthy, object};
use crate::doctor::snapshot::{Part, Snapshot};

fn cilium(settings: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = healthy();
    let settings = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    snapshot.cilium_config = Part::Had(settings.collect());
    snapshot
}

#[test]
fn settings_of_cilium_that_ambient_mode_does_not_live_with_are_found() {
    let on = "ConfigMap kube-system/cilium-config";
    assert_passes("MM1501", &cilium(&[]));
    assert_passes(
        "MM1501",
        &cilium(&[("cni-exclusive", "true"), ("custom-cni-conf", "true")]),
    );
    assert_finds("MM1501", &cilium(&[("cni-exclusive", "true")]), on);
    assert_passes("MM1501", &cilium(&[("cni-exclusive", "false")]));
    assert_finds("MM1502", &cilium(&[("enable-bpf-masquerade", "true")]), on);
    assert_passes("MM1502", &cilium(&[]));
    let none = [
        ("enable-bpf-masquerade", "true"),
        ("enable-ipv4-masquerade", "false"),
    ];
    assert_passes("MM1502", &cilium(&none));
    for (replaces, only, found) in [
        ("true", "false", true),
        ("true", "true", false),
        ("false", "false", false),
    ] {
        let snapshot = cilium(&[
            ("kube-proxy-replacement", replaces),
            ("bpf-lb-sock-hostns-only", only),
        ]);
        if found {
            assert_finds("MM1503", &snapshot, on);
        } else {
            assert_passes("MM1503", &snapshot);
        }
    }
    for code in ["MM1501", "MM1502", "MM1503"] {
        assert!(assert_skipped(code, &healthy()).contains("not installed"));
    }
}

fn eks(env: Value, selector: Value) -> Snapshot {
    let mut snapshot = healthy();
    had(&mut snapshot.daemon_sets).push(object(json!({
        "metadata": { "namespace": "kube-system", "name": "aws-node" },
        "spec": { "selector": {}, "template": { "spec": { "containers": [{ "name": "aws-node", "env": env }] } } },
    })));
    snapshot.add_custom(SECURITY_GROUPS, "shop", "one", json!({ "podSelector": selector }));
    snapshot
}

#[test]
fn security_groups_of_captured_pods_are_not_held_to_strictly() {
    let env = |mode: &str| {
        json!([
            { "name": "ENABLE_POD_ENI", "value": "true" }, { "name": "POD_SECURITY_GROUP_ENFORCING_MODE", "value": mode },
        ])
    };
    let on = "DaemonSet kube-system/aws-node";
    assert_finds("MM1504", &eks(env("strict"), json!({})), on);
    assert_finds(
        "MM1504",
        &eks(json!([{ "name": "ENABLE_POD_ENI", "value": "true" }]), json!({})),
        on,
    );
    assert_passes("MM1504", &eks(env("standard"), json!({})));
    assert_passes("MM1504", &eks(json!([]), json!({})));
    assert_passes(
        "MM1504",
        &eks(env("strict"), json!({ "matchLabels": { "app": "database" } })),
    );
}

#[test]
fn calico_leaves_the_choice_of_a_pod_to_the_mesh() {
    let felix = |spec: Value| {
        let mut snapshot = healthy();
        snapshot.add_custom(FELIX, "", "default", spec);
        snapshot
    };
    for spec in [
        json!({ "bpfEnabled": true }),
        json!({ "bpfEnabled": true, "bpfConnectTimeLoadBalancing": "TCP" }),
    ] {
        assert_finds("MM1505", &felix(spec), "FelixConfiguration default");
    }
    for spec in [
        json!({}),
        json!({ "bpfEnabled": false }),
        json!({ "bpfEnabled": true, "bpfConnectTimeLoadBalancing": "Disabled" }),
        json!({ "bpfEnabled": true, "bpfConnectTimeLoadBalancingEnabled": false }),
    ] {
        assert_passes("MM1505", &felix(spec));
    }
}

/// A cluster of GKE in which two of istio-cni's three pods are made.
fn short(gke: bool) -> Snapshot {
    let mut snapshot = healthy();
    for set in had(&mut snapshot.daemon_sets) {
        if set.metadata.name.as_deref() == Some("istio-cni-node") {
            set.status.as_mut().unwrap().current_number_scheduled = 2;
            let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
            spec.priority_class_name = Some("system-node-critical".to_owned());
        }
    }
    if gke {
        let labels = had(&mut snapshot.nodes)[0]
            .metadata
            .labels
            .get_or_insert_default();
        labels.insert("cloud.google.com/gke-nodepool".to_owned(), "x".to_owned());
    }
    snapshot
}

fn quota(used: &str) -> Value {
    json!({
        "metadata": { "namespace": "istio-system", "name": "critical" },
        "spec": { "scopeSelector": { "matchExpressions": [
            { "operator": "In", "scopeName": "PriorityClass", "values": ["system-node-critical"] },
        ] } },
        "status": { "hard": { "pods": "5" }, "used": { "pods": used } },
    })
}

#[test]
fn quotas_that_keep_pods_from_being_made_are_found() {
    let on = "DaemonSet istio-system/istio-cni-node";
    assert_finds("MM1506", &short(true), on);
    assert_passes("MM1506", &short(false));
    for gke in [true, false] {
        let mut full = short(gke);
        had(&mut full.resource_quotas).push(object(quota("5")));
        let found = assert_finds("MM1506", &full, on);
        assert_eq!(
            found.evidence[1],
            "ResourceQuota istio-system/critical: pods: 5 of 5 are used"
        );
        let mut room = short(gke);
        had(&mut room.resource_quotas).push(object(quota("4")));
        assert_passes("MM1506", &room);
    }
}

#[test]
fn pod_security_that_keeps_pods_from_being_made_is_found() {
    let level = |level: Option<&str>, talos: bool| {
        let mut snapshot = short(false);
        if let Some(level) = level {
            snapshot.with_namespace("istio-system", |of| {
                let labels = of.metadata.labels.get_or_insert_default();
                labels.insert("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
            });
        }
        if talos {
            let node = &mut had(&mut snapshot.nodes)[0];
            node.status.as_mut().unwrap().node_info.as_mut().unwrap().os_image = "Talos (v1.11.1)".to_owned();
        }
        snapshot
    };
    let on = "DaemonSet istio-system/istio-cni-node";
    assert_finds("MM1509", &level(Some("baseline"), false), on);
    assert_finds("MM1509", &level(Some("restricted"), false), on);
    assert_finds("MM1509", &level(None, true), on);
    assert_passes("MM1509", &level(Some("privileged"), true));
    assert_passes("MM1509", &level(None, false));
}

/// Nodes of a platform, and the folders that istio-cni mounts; no agent has looked.
fn folders(
    change: impl Fn(&mut k8s_openapi::api::core::v1::Node),
    configuration: &str,
    programs: &str,
) -> Snapshot {
    let mut snapshot = healthy();
    had(&mut snapshot.nodes).iter_mut().for_each(change);
    snapshot.agents = Part::not_asked("no agent runs here");
    snapshot.mount(configuration, programs);
    snapshot
}

#[test]
fn each_platform_has_its_folders() {
    type Change = fn(&mut k8s_openapi::api::core::v1::Node);
    let k3s: Change = |node| {
        node.status
            .as_mut()
            .unwrap()
            .node_info
            .as_mut()
            .unwrap()
            .kubelet_version = "v1.34.1+k3s1".to_owned();
    };
    let microk8s: Change = |node| {
        drop(
            node.metadata
                .labels
                .get_or_insert_default()
                .insert("microk8s.io/cluster".to_owned(), "true".to_owned()),
        )
    };
    let openshift: Change = |node| {
        drop(
            node.metadata
                .labels
                .get_or_insert_default()
                .insert("node.openshift.io/os_id".to_owned(), "rhel".to_owned()),
        )
    };
    let gke: Change = |node| {
        drop(
            node.metadata
                .labels
                .get_or_insert_default()
                .insert("cloud.google.com/gke-nodepool".to_owned(), "a".to_owned()),
        )
    };
    let none: Change = |_| {};
    let usual = ("/etc/cni/net.d", "/opt/cni/bin");
    for (change, right) in [
        (
            k3s,
            (
                "/var/lib/rancher/k3s/agent/etc/cni/net.d",
                "/var/lib/rancher/k3s/data/cni",
            ),
        ),
        (
            k3s,
            (
                "/var/lib/rancher/k3s/agent/etc/cni/net.d/",
                "/var/lib/rancher/k3s/data/current/bin/",
            ),
        ),
        (
            microk8s,
            (
                "/var/snap/microk8s/current/args/cni-network",
                "/var/snap/microk8s/current/opt/cni/bin",
            ),
        ),
        (openshift, ("/etc/cni/multus/net.d", "/var/lib/cni/bin")),
        (gke, ("/etc/cni/net.d", "/home/kubernetes/bin")),
    ] {
        assert_finds(
            "MM1507",
            &folders(change, usual.0, usual.1),
            "DaemonSet istio-system/istio-cni-node",
        );
        assert_passes("MM1507", &folders(change, right.0, right.1));
    }
    assert_passes("MM1507", &folders(none, usual.0, usual.1));
}

#[test]
fn what_agents_see_in_the_folders_goes_before_what_a_platform_usually_is() {
    let mut snapshot = healthy();
    let node = &mut had(&mut snapshot.nodes)[0];
    node.status
        .as_mut()
        .unwrap()
        .node_info
        .as_mut()
        .unwrap()
        .kubelet_version = "v1.34.1+k3s1".to_owned();
    snapshot.mount("/etc/cni/net.d", "/opt/cni/bin");
    assert_passes("MM1507", &snapshot);
}

#[test]
fn the_gateway_api_is_needed_by_those_who_ask_for_a_waypoint() {
    let mut snapshot = healthy();
    let gateways = "gateways.gateway.networking.k8s.io";
    snapshot.gateway_api = Part::Had(std::collections::BTreeMap::new());
    snapshot.label_service("shop", "cart", "istio.io/use-waypoint", "wp");
    // Whoever serves the kind need not define it by a CRD.
    assert_passes("MM1508", &snapshot);
    snapshot
        .custom
        .insert(gateways.to_owned(), Part::absent("not installed"));
    assert_finds(
        "MM1508",
        &snapshot,
        &format!("CustomResourceDefinition {gateways}"),
    );
    let mut snapshot = healthy();
    snapshot
        .custom
        .insert(gateways.to_owned(), Part::absent("not installed"));
    assert_passes("MM1508", &snapshot);
}

#[test]
fn a_kind_that_is_too_old_matters_where_there_are_objects_of_it() {
    let tls = "tlsroutes.gateway.networking.k8s.io";
    let mut snapshot = healthy();
    had(&mut snapshot.gateway_api).insert(tls.to_owned(), "v1.4.1".to_owned());
    assert_passes("MM1508", &snapshot);
    snapshot.add_custom(tls, "shop", "one", json!({}));
    // An istiod of 1.28 asks for less.
    assert_passes("MM1508", &snapshot);
    for letter in ["a", "b"] {
        snapshot.with_pod("istio-system", &format!("istiod-5f6c-{letter}"), |pod| {
            pod.spec.as_mut().unwrap().containers[0].image = Some("docker.io/istio/pilot:1.30.4".to_owned());
        });
    }
    assert_finds("MM1508", &snapshot, &format!("CustomResourceDefinition {tls}"));
    had(&mut snapshot.gateway_api).insert(tls.to_owned(), "v1.5.0".to_owned());
    assert_passes("MM1508", &snapshot);
}

#[test]
fn what_is_not_captured_is_not_probed_from_there() {
    let mut snapshot = eks(json!([{ "name": "ENABLE_POD_ENI", "value": "true" }]), json!({}));
    let groups = "securitygrouppolicies.vpcresources.k8s.aws";
    had(snapshot.custom.get_mut(groups).unwrap()).clear();
    snapshot.add_custom(groups, "legacy", "all", json!({ "podSelector": {} }));
    assert_passes("MM1504", &snapshot);
    snapshot.add_custom(groups, "shop", "all", json!({ "podSelector": {} }));
    assert_finds("MM1504", &snapshot, "DaemonSet kube-system/aws-node");
}

#[test]
fn a_quota_is_asked_for_by_gke_for_critical_pods_outside_its_own_namespace() {
    let changed = |change: &dyn Fn(&mut k8s_openapi::api::apps::v1::DaemonSet)| {
        let mut snapshot = short(true);
        let sets = had(&mut snapshot.daemon_sets).iter_mut();
        sets.filter(|set| set.metadata.name.as_deref() == Some("istio-cni-node"))
            .for_each(change);
        snapshot
    };
    assert_finds(
        "MM1506",
        &changed(&|_| ()),
        "DaemonSet istio-system/istio-cni-node",
    );
    assert_passes(
        "MM1506",
        &changed(&|set| {
            let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
            spec.priority_class_name = None;
        }),
    );
    let of_cluster = changed(&|set| set.metadata.namespace = Some("kube-system".to_owned()));
    assert_passes("MM1506", &of_cluster);
    let mut talos = of_cluster;
    let node = &mut had(&mut talos.nodes)[0];
    node.status.as_mut().unwrap().node_info.as_mut().unwrap().os_image = "Talos (v1.11.1)".to_owned();
    assert_passes("MM1509", &talos);
}

#[test]
fn a_quota_for_all_pods_counts_and_one_for_other_things_does_not() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut quota = quota("5");
        change(&mut quota);
        let mut snapshot = short(false);
        had(&mut snapshot.resource_quotas).push(object(quota));
        snapshot
    };
    let on = "DaemonSet istio-system/istio-cni-node";
    assert_finds("MM1506", &with(&|quota| quota["spec"] = json!({})), on);
    let secrets = |quota: &mut Value| {
        quota["status"] = json!({ "hard": { "secrets": "5" }, "used": { "secrets": "5" } });
    };
    assert_passes("MM1506", &with(&secrets));
}

#[test]
fn each_of_the_two_folders_may_be_wrong_alone() {
    let k3s = |node: &mut k8s_openapi::api::core::v1::Node| {
        let info = node.status.as_mut().unwrap().node_info.as_mut().unwrap();
        info.kubelet_version = "v1.34.1+k3s1".to_owned();
    };
    let (read, run) = (
        "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "/var/lib/rancher/k3s/data/cni",
    );
    let on = "DaemonSet istio-system/istio-cni-node";
    for (configuration, programs, word) in [
        ("/etc/cni/net.d", run, "cniConfDir"),
        (read, "/opt/cni/bin", "cniBinDir"),
    ] {
        let found = assert_finds("MM1507", &folders(k3s, configuration, programs), on);
        assert!(
            found.evidence.iter().skip(1).all(|line| line.starts_with(word)),
            "{found:#?}"
        );
    }
}
