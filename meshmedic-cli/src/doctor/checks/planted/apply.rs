// SPDX-License-Identifier: Apache-2.0
//! Does to a snapshot what a printed remedy does to a cluster, as far as a command or a patch does it alone.

use crate::doctor::kind::GATEWAY;
use serde_json::Value;

use super::anew;
use crate::doctor::finding::Remedy;
use crate::doctor::fixtures::{had, object};
use crate::doctor::snapshot::{CUSTOM_KINDS, Custom, Part, Snapshot};

/// Those that only show are passed over; one that is not known here is a mistake.
pub(super) fn apply(snapshot: &mut Snapshot, remedy: &Remedy) {
    match remedy {
        Remedy::ByHand(_) => {}
        Remedy::Apply(yaml) => make(snapshot, &serde_saphyr::from_str(yaml).unwrap()),
        Remedy::Commands(commands) => commands.iter().for_each(|command| run(snapshot, command.argv())),
    }
}

fn run(snapshot: &mut Snapshot, argv: &[String]) {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let after = |option: &str| {
        words
            .iter()
            .position(|word| *word == option)
            .and_then(|at| words.get(at + 1))
            .copied()
    };
    // Names are what is neither a command, nor an option or its value, nor a label.
    let of = after("-n").unwrap_or_default();
    match words.as_slice() {
        ["kubectl", "get" | "describe" | "logs" | "top", ..] => {}
        [
            "istioctl",
            "analyze" | "proxy-status" | "tag" | "ztunnel-config",
            ..,
        ]
        | ["meshmedic", "explain" | "doctor", ..] => {}
        // The network's own agents, and istiod: what a fresh one does is said where the fault is.
        [
            "kubectl",
            "rollout",
            "restart",
            "-n",
            "kube-system" | "istio-system",
            _,
        ] => {}
        ["kubectl", "rollout", "restart", "-n", of, workload] => anew::workload(snapshot, of, workload),
        ["kubectl", "delete", "pod", "-n", of, name] => anew::pod(snapshot, of, name),
        ["kubectl", "set", "env", ..] | ["kubectl", "exec", ..] => {}
        ["kubectl", "scale", "--replicas", ..] => {}
        ["kubectl", "label", kind, "--overwrite", rest @ ..] => label(snapshot, kind, of, rest),
        ["kubectl", "label", "namespace", name, change] => unlabel(snapshot, name, change),
        ["kubectl", "patch", "service", "-n", of, name, .., "-p", patch] => {
            patch_service(snapshot, of, name, patch)
        }
        ["kubectl", "patch", "deployment", "-n", of, name, ..] => anew::workload(snapshot, of, name),
        ["meshmedic", "repair", .., path] => {
            let (of, name) = path.split_once('/').unwrap();
            anew::pod(snapshot, of, name);
        }
        ["kubectl", "scale", "deployment", ..] => {
            let name = words.last().unwrap();
            snapshot.add_gateway_pod(of, name, "istio.io-mesh-controller");
        }
        [
            "kubectl",
            "patch",
            "felixconfigurations.crd.projectcalico.org",
            ..,
        ] => {
            let patch: Value = serde_json::from_str(after("-p").unwrap()).unwrap();
            let name = words.iter().find(|word| **word == "default").unwrap();
            let config = find(snapshot, "felixconfigurations.crd.projectcalico.org", "", name);
            for (key, value) in patch["spec"].as_object().unwrap() {
                config.spec[key] = value.clone();
            }
        }
        ["istioctl", "waypoint", "apply", ..] => {
            let name = after("--name").unwrap_or("waypoint");
            let there = matches!(snapshot.custom.get(GATEWAY), Some(Part::Had(all))
                if all.iter().any(|one| one.namespace() == of && one.name() == name));
            if !there {
                snapshot.add_waypoint(of, name);
            }
            if words.contains(&"--enroll-namespace") {
                set(snapshot, of, "istio.io/use-waypoint", name);
            }
            // istiod binds what asked for it.
            for service in had(&mut snapshot.services) {
                let labels = service.metadata.labels.iter().flatten();
                if labels
                    .into_iter()
                    .any(|(key, value)| key == "istio.io/use-waypoint" && value == name)
                {
                    service.status = None;
                }
            }
        }
        other => panic!("nobody knows what this does: {other:?}"),
    }
}

/// Only taken away.
fn unlabel(snapshot: &mut Snapshot, name: &str, change: &str) {
    let key = change.strip_suffix('-').unwrap();
    snapshot.with_namespace(name, |namespace| {
        namespace.metadata.labels.get_or_insert_default().remove(key);
    });
}

/// A list of changes that each add a port, or ports to be merged by their numbers.
fn patch_service(snapshot: &mut Snapshot, of: &str, name: &str, patch: &str) {
    let patch: Value = serde_json::from_str(patch).unwrap();
    let mut services = had(&mut snapshot.services).iter_mut();
    let service = services
        .find(|one| {
            one.metadata.namespace.as_deref() == Some(of) && one.metadata.name.as_deref() == Some(name)
        })
        .unwrap();
    let ports = service.spec.as_mut().unwrap().ports.get_or_insert_default();
    for change in patch.as_array().into_iter().flatten() {
        assert_eq!(
            (&change["op"], &change["path"]),
            (&"add".into(), &"/spec/ports/-".into())
        );
        ports.push(object(change["value"].clone()));
    }
    for change in patch
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let port = ports.iter_mut().find(|port| change["port"] == port.port).unwrap();
        port.app_protocol = change["appProtocol"].as_str().map(str::to_owned);
    }
}

fn label(snapshot: &mut Snapshot, kind: &str, of: &str, rest: &[&str]) {
    let pair = rest.iter().find(|word| word.contains('=')).unwrap();
    let (key, value) = pair.split_once('=').unwrap();
    let name = rest
        .iter()
        .rev()
        .find(|word| !word.contains('=') && **word != of)
        .copied()
        .unwrap_or(of);
    match kind {
        "service" => {
            snapshot.label_service(of, name, key, value);
        }
        "namespace" => set(snapshot, name, key, value),
        GATEWAY => {
            let gateway = find(snapshot, GATEWAY, of, name);
            gateway
                .metadata
                .labels
                .get_or_insert_default()
                .insert(key.to_owned(), value.to_owned());
        }
        other => panic!("nobody knows how to label a {other}"),
    }
}

fn set(snapshot: &mut Snapshot, of: &str, key: &str, value: &str) {
    snapshot.with_namespace(of, |namespace| {
        namespace
            .metadata
            .labels
            .get_or_insert_default()
            .insert(key.to_owned(), value.to_owned());
    });
}

fn find<'s>(snapshot: &'s mut Snapshot, key: &str, of: &str, name: &str) -> &'s mut Custom {
    let Some(Part::Had(all)) = snapshot.custom.get_mut(key) else {
        panic!("{key} is not installed")
    };
    all.iter_mut()
        .find(|one| one.namespace() == of && one.name() == name)
        .unwrap()
}

fn make(snapshot: &mut Snapshot, value: &Value) {
    let kind = value["kind"].as_str().unwrap();
    if kind == "NetworkPolicy" {
        let policy: k8s_openapi::api::networking::v1::NetworkPolicy = object(value.clone());
        let all = had(&mut snapshot.network_policies);
        all.retain(|one| {
            (&one.metadata.namespace, &one.metadata.name)
                != (&policy.metadata.namespace, &policy.metadata.name)
        });
        all.push(policy);
        return;
    }
    if kind == "ResourceQuota" {
        had(&mut snapshot.resource_quotas).push(object(value.clone()));
        return;
    }
    let known = CUSTOM_KINDS
        .iter()
        .find(|one| one.kind == kind && value["apiVersion"].as_str().unwrap().starts_with(one.group));
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap().to_owned();
    let (of, name) = (text("/metadata/namespace"), text("/metadata/name"));
    snapshot.add_custom(&known.unwrap().key(), &of, &name, value["spec"].clone());
}
