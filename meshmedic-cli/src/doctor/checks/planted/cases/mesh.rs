// SPDX-License-Identifier: Apache-2.0
//! Faults of the mesh itself: istiod, ztunnel and istio-cni, pods that do not start, pods in and out of the mesh.

use meshmedic_common::verdict::State;
use serde_json::{Value, json};

use super::super::anew;
use super::{Case, case, nothing};
use crate::doctor::fixtures::{ambient_pod, annotate, had, healthy, namespace, object, pod, uid};
use crate::doctor::snapshot::{EventFact, Sighting, Snapshot, ZtunnelDump};

const CNI_IS_GONE: &str = "Failed to create pod sandbox: plugin type=\"istio-cni\" failed (add): istio-cni cmdAdd failed \
                           to contact node Istio CNI agent: connection refused";
const NO_ZTUNNEL: &str = "Failed to create pod sandbox: plugin type=\"istio-cni\" failed (add): unable to push CNI event \
                          (status code 500): partial add error: no ztunnel connection";
const MODE: &str = "istio.io/dataplane-mode";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const TEN_MINUTES_AGO: &str = "2026-01-01T23:50:00Z";

fn is_of_istiod(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    pod.metadata
        .name
        .as_deref()
        .is_some_and(|name| name.starts_with("istiod"))
}

/// So many of istiod's replicas are wanted, and so many are ready.
fn replicas(snapshot: &mut Snapshot, wanted: i32, ready: i32) {
    let deployment = &mut had(&mut snapshot.deployments)[0];
    deployment.spec.as_mut().unwrap().replicas = Some(wanted);
    deployment.status.as_mut().unwrap().ready_replicas = Some(ready);
}

fn not_ready(snapshot: &mut Snapshot, name: &str) {
    snapshot.with_pod("istio-system", name, |pod| {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".to_owned();
    });
}

/// A container that ended so, a while ago.
fn ended(snapshot: &mut Snapshot, name: &str, reason: &str) {
    snapshot.with_pod("istio-system", name, |pod| {
        pod.status.as_mut().unwrap().container_statuses = Some(vec![object(json!({
            "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 6, "state": { "running": {} },
            "lastState": { "terminated": { "exitCode": 137, "reason": reason, "finishedAt": TEN_MINUTES_AGO } },
        }))]);
    });
}

fn image(snapshot: &mut Snapshot, tag: &str) {
    snapshot.with_pod("istio-system", "ztunnel-b", |pod| {
        pod.spec.as_mut().unwrap().containers[0].image = Some(format!("docker.io/istio/ztunnel:{tag}"));
    });
}

fn dump(snapshot: &mut Snapshot, at: usize) -> &mut ZtunnelDump {
    had(&mut had(&mut snapshot.ztunnels)[at].dump)
}

fn seen(count: u64, sample: &str) -> Sighting {
    Sighting {
        count,
        last: "2026-01-01T23:59:55Z".parse().unwrap(),
        sample: sample.to_owned(),
    }
}

/// A pod of the mesh that waits for its network, and what the kubelet says of it.
fn waits(snapshot: &mut Snapshot, app: &str, message: &str) {
    let mut pod = ambient_pod("till", app, "node-a", "10.244.0.60");
    pod.metadata.annotations = None;
    pod.status = Some(object(json!({ "phase": "Pending" })));
    let name = pod.metadata.name.clone().unwrap();
    snapshot.add_pod(pod);
    had(&mut snapshot.events).push(EventFact {
        kind: "Pod".to_owned(),
        namespace: "till".to_owned(),
        uid: uid("till", &name),
        name,
        reason: "FailedCreatePodSandBox".to_owned(),
        message: message.to_owned(),
        count: 9,
        last: None,
    });
}

fn labelled(snapshot: &mut Snapshot, name: &str, key: &str, value: &str) {
    snapshot.with_pod("till", name, |pod| {
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(key.to_owned(), value.to_owned());
    });
}

/// What an agent says of a pod of the catalog.
fn said(snapshot: &mut Snapshot, letter: &str, state: State, redirection: &str) {
    let name = format!("catalog-7d4b-{letter}");
    let mut states = had(&mut snapshot.scan).iter_mut();
    let one = states.find(|one| one.name == name).unwrap();
    (one.state, one.redirection) = (state, Some(redirection.to_owned()));
}

/// What an agent says of one pod of the cart.
fn said_of_cart(snapshot: &mut Snapshot, which: &str, state: State) {
    let mut states = had(&mut snapshot.scan).iter_mut();
    let name = format!("cart-7d4b-{which}");
    states.find(|one| one.name == name).unwrap().state = state;
}

fn hook_bundle(snapshot: &mut Snapshot, bundle: Value) {
    let hook = &mut had(&mut snapshot.validating_webhooks)[0]
        .webhooks
        .as_mut()
        .unwrap()[0];
    hook.client_config.ca_bundle = object(bundle);
}

pub(super) const CASES: &[Case] = &[
    Case {
        // Scaled to nothing, to quiet a mesh in an emergency, and forgotten.
        mixes: false,
        ..case(
            "MM0101",
            "Deployment istio-system/istiod",
            |snapshot| {
                replicas(snapshot, 0, 0);
                snapshot.drop_pods(is_of_istiod);
                had(&mut snapshot.endpoint_slices)[0].endpoints = None;
            },
            |snapshot| {
                replicas(snapshot, 2, 2);
                let mut well = healthy();
                let istiods = std::mem::take(had(&mut well.pods));
                had(&mut snapshot.pods).extend(istiods.into_iter().filter(is_of_istiod));
                snapshot.endpoint_slices = well.endpoint_slices;
            },
        )
    },
    case(
        "MM0102",
        "Deployment istio-system/istiod",
        |snapshot| {
            not_ready(snapshot, "istiod-5f6c-b");
            replicas(snapshot, 2, 1);
        },
        |snapshot| {
            replicas(snapshot, 2, 2);
            snapshot.with_pod("istio-system", "istiod-5f6c-b", |pod| {
                pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".to_owned();
            });
        },
    ),
    case(
        "MM0103",
        "Service istio-system/istiod",
        |snapshot| {
            let spec = had(&mut snapshot.services)[0].spec.as_mut().unwrap();
            spec.ports.as_mut().unwrap().retain(|port| port.port != 15012);
        },
        nothing,
    ),
    case(
        "MM0104",
        "ValidatingWebhookConfiguration istio-validator-istio-system",
        |snapshot| hook_bundle(snapshot, json!(null)),
        // A fresh istiod writes the bundle.
        |snapshot| hook_bundle(snapshot, json!("bm90IGVtcHR5")),
    ),
    Case {
        // Without any webhook none of them can be the second.
        mixes: false,
        ..case(
            "MM0105",
            "Namespace legacy",
            |snapshot| had(&mut snapshot.mutating_webhooks).clear(),
            |snapshot| snapshot.mutating_webhooks = healthy().mutating_webhooks,
        )
    },
    case(
        "MM0106",
        "Pod istio-system/istiod-5f6c-b",
        |snapshot| {
            let metrics = had(&mut had(&mut snapshot.istiods)[1].metrics);
            metrics.insert("pilot_total_xds_rejects{type=rds}".to_owned(), 12.0);
        },
        |snapshot| {
            let metrics = had(&mut had(&mut snapshot.istiods)[1].metrics);
            metrics.remove("pilot_total_xds_rejects{type=rds}");
        },
    ),
    case(
        // ztunnel was upgraded before istiod.
        "MM0107",
        "Pod istio-system/ztunnel-b",
        |snapshot| image(snapshot, "1.29.9"),
        |snapshot| image(snapshot, "1.28.10"),
    ),
    case(
        "MM0108",
        "Namespace istio-system",
        |snapshot| {
            drop(had(&mut snapshot.cni_config).insert("AMBIENT_ENABLED".to_owned(), "false".to_owned()))
        },
        |snapshot| drop(had(&mut snapshot.cni_config).remove("AMBIENT_ENABLED")),
    ),
    case(
        "MM0201",
        "Node node-b",
        |snapshot| not_ready(snapshot, "ztunnel-b"),
        nothing,
    ),
    case(
        "MM0202",
        "Node node-c",
        |snapshot| not_ready(snapshot, "istio-cni-node-c"),
        nothing,
    ),
    case(
        "MM0203",
        "Pod istio-system/ztunnel-a",
        |snapshot| ended(snapshot, "ztunnel-a", "OOMKilled"),
        |snapshot| anew::pod(snapshot, "istio-system", "ztunnel-a"),
    ),
    case(
        "MM0204",
        "Pod istio-system/istio-cni-node-a",
        |snapshot| ended(snapshot, "istio-cni-node-a", "Error"),
        |snapshot| anew::pod(snapshot, "istio-system", "istio-cni-node-a"),
    ),
    case(
        "MM0205",
        "Pod istio-system/ztunnel-c",
        |snapshot| {
            let why = "XDS client connection error: gRPC connection error: deadline has elapsed";
            let log = had(&mut had(&mut snapshot.ztunnels)[2].log);
            log.events.insert("xds-failed".to_owned(), seen(40, why));
        },
        |snapshot| had(&mut had(&mut snapshot.ztunnels)[2].log).events.clear(),
    ),
    case(
        "MM0206",
        "Pod istio-system/ztunnel-c",
        |snapshot| dump(snapshot, 2).certificates[0].state = "Unavailable: signing refused".to_owned(),
        |snapshot| dump(snapshot, 2).certificates[0].state = "Available".to_owned(),
    ),
    case(
        "MM0207",
        "Pod istio-system/ztunnel-a",
        |snapshot| dump(snapshot, 0).workloads_known = 0,
        |snapshot| dump(snapshot, 0).workloads_known = 30,
    ),
    case(
        // The app holds a port of ztunnel's own.
        "MM0208",
        "Pod till/pay-7d4b-a",
        |snapshot| {
            let pod = uid("till", "pay-7d4b-a");
            dump(snapshot, 0)
                .proxies
                .insert(pod.clone(), "Pending".to_owned());
            let why = "failed to start proxy: Bind([::]:15008, Os { code: 98, kind: AddrInUse })";
            let log = had(&mut had(&mut snapshot.ztunnels)[0].log);
            log.start_failures.insert(pod, seen(12, why));
        },
        |snapshot| {
            dump(snapshot, 0)
                .proxies
                .insert(uid("till", "pay-7d4b-a"), "Up".to_owned());
        },
    ),
    case(
        "MM0209",
        "Pod shop/cart-7d4b-c",
        |snapshot| drop(dump(snapshot, 2).proxies.remove(&uid("shop", "cart-7d4b-c"))),
        nothing,
    ),
    case(
        "MM0301",
        "Pod till/early-7d4b-a",
        |snapshot| waits(snapshot, "early", CNI_IS_GONE),
        |snapshot| anew::pod(snapshot, "till", "early-7d4b-a"),
    ),
    case(
        "MM0302",
        "Pod till/late-7d4b-a",
        |snapshot| waits(snapshot, "late", NO_ZTUNNEL),
        |snapshot| anew::pod(snapshot, "till", "late-7d4b-a"),
    ),
    case(
        // The network's own plugin wrote its configuration anew.
        "MM0303",
        "Node node-c",
        |snapshot| {
            let report = had(had(&mut snapshot.agents).get_mut("node-c").unwrap());
            let folder = report.cni_folder.as_mut().unwrap();
            folder.calls_istio_cni = false;
            folder.plugins.pop();
        },
        |snapshot| snapshot.agents = healthy().agents,
    ),
    case(
        "MM0401",
        "Pod shop/catalog-7d4b-a",
        |snapshot| said(snapshot, "a", State::Orphan, "absent"),
        |snapshot| said(snapshot, "a", State::Captured, "routed"),
    ),
    case(
        "MM0402",
        "Pod shop/catalog-7d4b-b",
        |snapshot| said(snapshot, "b", State::Partial, "routed"),
        |snapshot| said(snapshot, "b", State::Captured, "routed"),
    ),
    case(
        "MM0403",
        "Pod shop/catalog-7d4b-c",
        |snapshot| said(snapshot, "c", State::Imposter, "routed"),
        |snapshot| said(snapshot, "c", State::Captured, "routed"),
    ),
    case(
        "MM0413",
        "Pod shop/cart-7d4b-c",
        |snapshot| said_of_cart(snapshot, "c", State::Bypassing),
        |snapshot| said_of_cart(snapshot, "c", State::Captured),
    ),
    case(
        "MM0414",
        "Pod shop/cart-7d4b-b",
        |snapshot| said_of_cart(snapshot, "b", State::Stalled),
        |snapshot| said_of_cart(snapshot, "b", State::Captured),
    ),
    case(
        "MM0404",
        "Pod shop/cart-7d4b-a",
        |snapshot| {
            let mut states = had(&mut snapshot.scan).iter_mut();
            states.find(|one| one.name == "cart-7d4b-a").unwrap().redirection = Some("absent".to_owned());
        },
        nothing,
    ),
    case(
        // The namespace was labelled, and its pods are from before.
        "MM0405",
        "Pod till/pay-7d4b-b",
        |snapshot| {
            snapshot.with_pod("till", "pay-7d4b-b", |pod| pod.metadata.annotations = None);
        },
        nothing,
    ),
    case(
        "MM0406",
        "Pod shop/cart-7d4b-b",
        |snapshot| {
            snapshot.with_pod("shop", "cart-7d4b-b", |pod| annotate(pod, REDIRECTION, "pending"));
        },
        |snapshot| {
            snapshot.with_pod("shop", "cart-7d4b-b", |pod| annotate(pod, REDIRECTION, "enabled"));
        },
    ),
    case(
        "MM0407",
        "Pod till/left-7d4b-a",
        |snapshot| {
            snapshot.add_ambient(ambient_pod("till", "left", "node-a", "10.244.0.61"));
            labelled(snapshot, "left-7d4b-a", MODE, "none");
        },
        nothing,
    ),
    case(
        "MM0408",
        "Pod legacy/orders-7d4b-c",
        |snapshot| {
            snapshot.with_pod("legacy", "orders-7d4b-c", |pod| {
                annotate(pod, REDIRECTION, "enabled")
            });
        },
        |snapshot| {
            snapshot.with_pod("legacy", "orders-7d4b-c", |pod| {
                drop(pod.metadata.annotations.as_mut().unwrap().remove(REDIRECTION));
            });
        },
    ),
    case(
        // Moved to ambient mode, with the old label left.
        "MM0409",
        "Namespace moved",
        |snapshot| {
            let labels = json!({ "istio-injection": "enabled", "istio.io/dataplane-mode": "ambient" });
            had(&mut snapshot.namespaces).push(namespace("moved", labels));
        },
        nothing,
    ),
    case(
        "MM0410",
        "Pod till/toggled-7d4b-b",
        |snapshot| {
            snapshot.add_ambient(ambient_pod("till", "toggled", "node-b", "10.244.1.61"));
            labelled(snapshot, "toggled-7d4b-b", MODE, "none");
            snapshot.with_pod("till", "toggled-7d4b-b", |pod| {
                annotate(pod, "meshmedic.io/toggle-restore", "absent");
            });
        },
        nothing,
    ),
    case(
        "MM0411",
        "Pod shop/exporter-a",
        |snapshot| {
            let owner = ("DaemonSet", "exporter");
            let mut exporter = pod(
                "shop",
                "exporter-a",
                "node-a",
                "192.168.0.10",
                json!({ "app": "exporter" }),
                owner,
            );
            exporter.spec.as_mut().unwrap().host_network = Some(true);
            snapshot.add_pod(exporter);
        },
        |snapshot| {
            snapshot.with_pod("shop", "exporter-a", |pod| {
                let labels = pod.metadata.labels.as_mut().unwrap();
                labels.insert(MODE.to_owned(), "none".to_owned());
            });
        },
    ),
    case(
        "MM0412",
        "Pod shop/catalog-7d4b-c",
        |snapshot| {
            let mut known = dump(snapshot, 2).workloads.iter_mut();
            known.find(|one| one.name == "catalog-7d4b-c").unwrap().protocol = "TCP".to_owned();
        },
        nothing,
    ),
];
