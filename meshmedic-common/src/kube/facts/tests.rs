// SPDX-License-Identifier: Apache-2.0
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn facts(value: Value) -> PodFacts {
    pod_facts(&pod(value))
}

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

/// A pod as a real API server shows it.
fn full() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-7c9",
            "namespace": "shop",
            "uid": "0a1b2c3d-1111-2222-3333-444455556666",
            "resourceVersion": "4711",
            "creationTimestamp": "2026-08-01T10:00:00Z",
            "labels": {"app": "web", "istio.io/dataplane-mode": "ambient"},
            "annotations": {
                "ambient.istio.io/redirection": "enabled",
                "meshmedic.io/repair": "enabled",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"
            },
            "finalizers": ["example.com/slow"],
            "managedFields": [{"manager": "kubelet", "operation": "Update"}],
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "bystander", "uid": "1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "2", "controller": true}
            ]
        },
        "spec": {
            "nodeName": "worker-1",
            "runtimeClassName": "kata",
            "containers": [{"name": "web", "image": "nginx", "env": [{"name": "SECRET", "value": "x"}]}]
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
            "startTime": "2026-08-01T10:00:01Z",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-08-01T10:05:00Z", "message": "no"}
            ]
        }
    })
}

#[test]
fn a_pod_is_reduced_to_its_facts() {
    let facts = facts(full());
    let expected = PodFacts {
        namespace: "shop".to_owned(),
        name: "web-7c9".to_owned(),
        uid: "0a1b2c3d-1111-2222-3333-444455556666".to_owned(),
        node: Some("worker-1".to_owned()),
        labels: [("app", "web"), ("istio.io/dataplane-mode", "ambient")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        addresses: vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        controller: Some(Controller {
            kind: "ReplicaSet".to_owned(),
            name: "web".to_owned(),
            uid: "2".to_owned(),
        }),
        runtime_class: Some("kata".to_owned()),
        enrolment: Enrolment::Enabled,
        started: true,
        grace: Duration::from_secs(30),
        created: time("2026-08-01T10:00:00Z"),
        ready_since: time("2026-08-01T10:05:00Z"),
        repair: Some("enabled".to_owned()),
        ..PodFacts::default()
    };
    assert_eq!(facts, expected);
}

#[test]
fn an_empty_pod_says_nothing() {
    let nothing = PodFacts {
        grace: GRACE,
        ..PodFacts::default()
    };
    assert_eq!(facts(json!({})), nothing);
    assert_eq!(
        facts(json!({"metadata": {"annotations": {}}, "status": {"conditions": []}})),
        nothing
    );
}

#[test]
fn a_pod_says_how_long_it_may_take_to_end_and_whether_it_has_begun() {
    let of = |seconds: i64, phase: &str| {
        facts(
            json!({"spec": {"containers": [], "terminationGracePeriodSeconds": seconds}, "status": {"phase": phase}}),
        )
    };
    let long = of(600, "Running");
    assert_eq!((long.grace, long.started), (Duration::from_secs(600), true));
    let never = of(-5, "Pending");
    assert_eq!((never.grace, never.started), (GRACE, false));
}

#[test]
fn an_owner_is_no_controller_unless_it_says_so() {
    for owners in [
        json!([]),
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "2"}]),
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "2", "controller": false}]),
    ] {
        assert_eq!(
            facts(json!({"metadata": {"ownerReferences": owners}})).controller,
            None
        );
    }
}

#[test]
fn a_kind_of_another_group_is_not_taken_for_kubernetes_own() {
    for (api_version, kind, expected) in [
        ("apps/v1", "DaemonSet", "DaemonSet"),
        ("batch/v1", "Job", "Job"),
        ("v1", "Node", "Node"),
        ("v1", "ReplicationController", "ReplicationController"),
        ("apps.kruise.io/v1alpha1", "DaemonSet", "DaemonSet.apps.kruise.io"),
        ("v1", "DaemonSet", "DaemonSet.core"),
        ("example.com/v1", "Node", "Node.example.com"),
        ("argoproj.io/v1alpha1", "Rollout", "Rollout.argoproj.io"),
    ] {
        let owners = json!([{"apiVersion": api_version, "kind": kind, "name": "some", "uid": "2", "controller": true}]);
        let facts = facts(json!({"metadata": {"ownerReferences": owners}}));
        assert_eq!(facts.controller.unwrap().kind, expected);
    }
}

#[test]
fn only_a_mirror_has_a_config_hash() {
    let hash = "0123456789abcdef0123456789abcdef";
    let uid = "0a1b2c3d-1111-2222-3333-444455556666";
    let annotated = |annotations: Value| facts(json!({"metadata": {"uid": uid, "annotations": annotations}}));
    let mirror = annotated(json!({CONFIG_HASH: hash, MIRROR: hash}));
    assert!(mirror.mirror);
    assert_eq!(mirror.cgroup_uid().unwrap().as_str(), hash);
    // Otherwise a pod could claim the readings of another.
    let impostor = annotated(json!({CONFIG_HASH: hash}));
    assert!(!impostor.mirror);
    assert_eq!(impostor.config_hash, None);
    assert_eq!(impostor.cgroup_uid().unwrap().as_str(), uid);
}

#[test]
fn only_two_values_of_the_annotation_mean_something() {
    for (value, enrolment) in [
        ("enabled", Enrolment::Enabled),
        ("pending", Enrolment::Pending),
        ("disabled", Enrolment::None),
        ("Enabled", Enrolment::None),
        ("true", Enrolment::None),
        ("", Enrolment::None),
    ] {
        let facts = facts(json!({"metadata": {"annotations": {REDIRECTION: value}}}));
        assert_eq!(facts.enrolment, enrolment, "{value}");
    }
}

#[test]
fn a_sidecar_counts_whatever_its_annotation_says() {
    for value in ["", "{}", "injected"] {
        assert!(facts(json!({"metadata": {"annotations": {SIDECAR: value}}})).sidecar);
    }
}

#[test]
fn phases_and_deletion() {
    for (phase, finished) in [
        ("Pending", false),
        ("Running", false),
        ("Unknown", false),
        ("", false),
        ("Succeeded", true),
        ("Failed", true),
    ] {
        assert_eq!(
            facts(json!({"status": {"phase": phase}})).finished,
            finished,
            "{phase}"
        );
    }
    assert!(facts(json!({"metadata": {"deletionTimestamp": "2026-08-01T10:00:00Z"}})).deleting);
    assert!(facts(json!({"spec": {"hostNetwork": true, "containers": []}})).host_network);
    assert!(!facts(json!({"spec": {"hostNetwork": false, "containers": []}})).host_network);
}

#[test]
fn since_when_a_pod_is_not_ready_falls_back_to_what_is_known() {
    let created = "2026-08-01T10:00:00Z";
    let started = "2026-08-01T10:00:01Z";
    let changed = "2026-08-01T10:05:00Z";
    let metadata = json!({"creationTimestamp": created});
    for (status, ready, since) in [
        (
            json!({"startTime": started, "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": changed}]}),
            true,
            changed,
        ),
        (
            json!({"startTime": started, "conditions": [{"type": "Ready", "status": "Unknown"}]}),
            false,
            started,
        ),
        (json!({"startTime": started}), false, started),
        (
            json!({"conditions": [{"type": "ContainersReady", "status": "True", "lastTransitionTime": changed}]}),
            false,
            created,
        ),
        (json!({}), false, created),
    ] {
        let facts = facts(json!({"metadata": metadata, "status": status}));
        assert_eq!((facts.ready, facts.ready_since), (ready, time(since)), "{status}");
    }
}

#[test]
fn addresses_that_are_none_are_skipped() {
    let status = json!({
        "podIP": "10.0.0.8",
        "podIPs": [{"ip": "fd00::1%eth0"}, {"ip": ""}, {"ip": "10.0.0.7"}, {"ip": "10.0.0.7"}, {"ip": "nonsense"}]
    });
    let found = facts(json!({"status": status})).addresses;
    assert_eq!(
        found,
        ["10.0.0.7", "10.0.0.8"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
}

#[test]
fn what_was_toggled_and_what_was_forbidden_is_kept_word_for_word() {
    let facts = facts(json!({"metadata": {"annotations": {TOGGLE_RESTORE: "\u{1b}[2J", REPAIR: ""}}}));
    assert_eq!(facts.toggle_restore.as_deref(), Some("\u{1b}[2J"));
    assert_eq!(facts.repair.as_deref(), Some(""));
}

#[test]
fn a_namespace_is_reduced() {
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {
            "name": "shop",
            "labels": {"istio.io/dataplane-mode": "ambient"},
            "annotations": {REPAIR: "disabled", "note": "x"}
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"}
    }))
    .unwrap();
    let facts = namespace_facts(&namespace);
    assert_eq!(facts.labels["istio.io/dataplane-mode"], "ambient");
    assert_eq!(facts.repair.as_deref(), Some("disabled"));
    assert_eq!(namespace_facts(&Namespace::default()), NamespaceFacts::default());
}

#[test]
fn a_node_whose_pods_are_about_to_leave() {
    let node = |value: Value| -> Node { serde_json::from_value(value).unwrap() };
    for (value, cordoned) in [
        (json!({}), false),
        (json!({"spec": {}}), false),
        (json!({"spec": {"unschedulable": false}}), false),
        (json!({"spec": {"unschedulable": true}}), true),
        (
            json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}),
            false,
        ),
        (
            json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
            true,
        ),
        (
            json!({"spec": {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}}),
            true,
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-08-01T10:00:00Z"}}),
            true,
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-08-01T10:00:00Z"}, "spec": {}}),
            true,
        ),
    ] {
        let node = node(value);
        assert_eq!(is_cordoned(&node), cordoned, "{node:?}");
    }
}

#[test]
fn a_nodes_address_is_the_one_inside_the_cluster() {
    let node = |addresses: Value| -> Node {
        serde_json::from_value(json!({"status": {"addresses": addresses}})).unwrap()
    };
    let of = |kind: &str, address: &str| json!({"type": kind, "address": address});
    let both = node(json!([
        of("ExternalIP", "192.0.2.7"),
        of("Hostname", "node-a"),
        of("InternalIP", "10.0.0.7")
    ]));
    assert_eq!(node_facts(&both).address, Some("10.0.0.7".parse().unwrap()));
    assert_eq!(
        node_facts(&node(json!([of("InternalIP", "nonsense")]))).address,
        None
    );
    assert_eq!(
        node_facts(&Node::default()),
        NodeFacts {
            cordoned: false,
            address: None
        }
    );
}

#[test]
fn a_gate_is_known_by_its_name_its_place_and_its_state() {
    let of = |containers: &[&str], status: Value| {
        let containers: Vec<_> = containers
            .iter()
            .map(|name| json!({ "name": name, "image": "any" }))
            .collect();
        let pod = json!({
            "metadata": { "name": "cart", "namespace": "shop" },
            "spec": { "containers": [{ "name": "app", "image": "app" }], "initContainers": containers },
            "status": { "initContainerStatuses": [status] },
        });
        pod_facts(&serde_json::from_value(pod).unwrap()).gate
    };
    let status = |state: Value, last: Value| {
        json!({
            "name": GATE, "image": "any", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last,
        })
    };
    let none = json!({});
    let ended = |code: i32| json!({ "terminated": { "exitCode": code, "message": "in vain" } });
    let since = "2026-01-01T12:00:00Z";
    let running = json!({ "running": { "startedAt": since } });
    let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let gate = |first, state| Some(Gate { first, state });
    let failed = || GateState::Failed(Some("in vain".to_owned()));
    assert_eq!(of(&["migrate"], status(running.clone(), none.clone())), None);
    let since = GateState::Waiting(Some(since.parse().unwrap()));
    assert_eq!(
        of(&[GATE], status(running.clone(), none.clone())),
        gate(true, since.clone())
    );
    assert_eq!(
        of(&["migrate", GATE], status(running, ended(1))),
        gate(false, since)
    );
    assert_eq!(
        of(&[GATE], status(ended(0), none.clone())),
        gate(true, GateState::Open)
    );
    assert_eq!(of(&[GATE], status(ended(1), none.clone())), gate(true, failed()));
    // The kubelet waits before it starts it again.
    assert_eq!(
        of(&[GATE], status(waiting.clone(), ended(1))),
        gate(true, failed())
    );
    assert_eq!(of(&[GATE], status(waiting, none)), gate(true, GateState::Ahead));
}
