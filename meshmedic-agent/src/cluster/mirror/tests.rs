// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use meshmedic_common::eligibility::{Expectation, MODE_LABEL};
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::{Controller, Enrolment};
use meshmedic_common::identity::Endpoint;
use meshmedic_common::kube::control::pause_reason;
use meshmedic_common::verdict::Reason;

use super::*;
use crate::cluster::Delta;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const MINUTE: Duration = Duration::from_secs(60);

fn at() -> Time {
    Time::from_nanos(0) + MINUTE * 60
}

const ZTUNNEL: (&str, &str) = ("app", "ztunnel");
const ISTIO_CNI: (&str, &str) = ("k8s-app", "istio-cni-node");

fn pod(name: &str, part: (&str, &str), owner: Option<&str>) -> PodFacts {
    let number: usize = name.bytes().map(usize::from).sum();
    PodFacts {
        namespace: "istio-system".to_owned(),
        name: name.to_owned(),
        uid: format!("{number:08x}-0000-0000-0000-000000000000"),
        labels: [(part.0.to_owned(), part.1.to_owned())].into(),
        controller: owner.map(|kind| Controller {
            kind: kind.to_owned(),
            name: "some".to_owned(),
            uid: "some".to_owned(),
        }),
        ready: true,
        ready_since: Some(NOW - MINUTE),
        ..PodFacts::default()
    }
}

#[test]
fn whatever_repairs_wait_for_must_not_fall_silent() {
    let mirror = Mirror::new(Identity::default(), true);
    assert!(mirror.pending().eq(crate::cluster::WATCHED));
}

#[test]
fn an_istio_cni_that_starts_again_in_its_pod_is_another_one() {
    let cni = |container: &str| {
        let mut pod = pod("istio-cni", ISTIO_CNI, Some("DaemonSet"));
        pod.container = Some(meshmedic_common::facts::Container {
            id: Some(container.to_owned()),
            ..Default::default()
        });
        told([pod], Labels::default()).cnis().collect::<Vec<_>>()
    };
    assert_eq!(cni("containerd://a").len(), 1);
    assert_eq!(cni("containerd://a"), cni("containerd://a"));
    assert_ne!(cni("containerd://a"), cni("containerd://b"));
}

/// A mirror that was told of these pods, and of one namespace with these labels.
fn told(pods: impl IntoIterator<Item = PodFacts>, labels: Labels) -> Mirror {
    let mut mirror = Mirror::new(Identity::default(), false);
    let mut tell = |seen| {
        mirror.take(seen);
    };
    tell(Seen::Pod(Box::new(Delta::Begin)));
    for pod in pods {
        tell(Seen::Pod(Box::new(Delta::Is(pod.uid.clone(), pod))));
    }
    tell(Seen::Pod(Box::new(Delta::End)));
    tell(Seen::Namespace(Delta::Begin));
    let facts = NamespaceFacts {
        labels,
        ..NamespaceFacts::default()
    };
    tell(Seen::Namespace(Delta::Is("istio-system".to_owned(), facts)));
    tell(Seen::Namespace(Delta::End));
    mirror
}

fn health(pods: impl IntoIterator<Item = PodFacts>) -> Health {
    told(pods, Labels::new()).health(at(), NOW).unwrap()
}

#[test]
fn ztunnel_is_ready_since_its_youngest_pod_is() {
    let old = pod("ztunnel-a", ZTUNNEL, Some("DaemonSet"));
    let mut young = pod("ztunnel-b", ZTUNNEL, Some("DaemonSet"));
    young.ready_since = Some(NOW - MINUTE / 2);
    assert_eq!(health([old.clone()]).ztunnel_ready, Some(at() - MINUTE));
    assert_eq!(health([old, young]).ztunnel_ready, Some(at() - MINUTE / 2));
}

#[test]
fn one_ztunnel_that_is_not_ready_is_enough_for_a_fault() {
    let good = pod("ztunnel-a", ZTUNNEL, Some("DaemonSet"));
    let mut bad = pod("ztunnel-b", ZTUNNEL, Some("DaemonSet"));
    bad.ready = false;
    assert_eq!(health([good.clone(), bad.clone()]).ztunnel_ready, None);
    // One that is leaving is on its way out in an upgrade.
    bad.deleting = true;
    assert!(health([good.clone(), bad]).ztunnel_ready.is_some());
    let mut gone = good;
    gone.deleting = true;
    assert_eq!(health([gone]).ztunnel_ready, None);
    assert_eq!(health([]).ztunnel_ready, None);
}

#[test]
fn a_label_alone_makes_no_ztunnel() {
    for owner in [None, Some("ReplicaSet")] {
        let fake = pod("ztunnel-x", ZTUNNEL, owner);
        assert_eq!(health([fake.clone()]).ztunnel_ready, None, "{owner:?}");
        let declared = told([fake], Labels::new()).declared();
        assert!(declared.values().all(|pod| !pod.ztunnel), "{owner:?}");
    }
}

#[test]
fn a_node_needs_both_parts() {
    let ztunnel = || pod("ztunnel-a", ZTUNNEL, Some("DaemonSet"));
    let cni = || pod("istio-cni-a", ISTIO_CNI, Some("DaemonSet"));
    let fault = |pods: Vec<PodFacts>| health(pods).fault.map(|fault| fault.to_string());
    assert_eq!(fault(vec![ztunnel(), cni()]), None);
    assert_eq!(
        fault(vec![ztunnel()]).as_deref(),
        Some("no istio-cni runs on the node")
    );
    assert_eq!(fault(vec![cni()]).as_deref(), Some("no ztunnel runs on the node"));
}

#[test]
fn a_stranger_is_told_of_and_changes_nothing() {
    let mut fake = pod("ztunnel-fake", ZTUNNEL, Some("DaemonSet"));
    fake.namespace = "shop".to_owned();
    fake.ready = false;
    let mirror = told(
        [
            pod("ztunnel-a", ZTUNNEL, Some("DaemonSet")),
            fake,
            pod("istio-cni-a", ISTIO_CNI, Some("DaemonSet")),
        ],
        Labels::new(),
    );
    assert_eq!(mirror.health(at(), NOW).unwrap().fault, None);
    assert_eq!(mirror.declared().values().filter(|pod| pod.ztunnel).count(), 1);
    let strangers: Vec<String> = mirror.strangers().iter().map(Claimant::sentence).collect();
    assert_eq!(strangers, ["DaemonSet shop/some claims to be ztunnel"]);
}

#[test]
fn a_ztunnel_that_is_not_ready_has_no_process_that_counts() {
    let mut ztunnel = pod("ztunnel-a", ZTUNNEL, Some("DaemonSet"));
    ztunnel.ready = false;
    assert!(
        told([ztunnel], Labels::new())
            .declared()
            .values()
            .all(|pod| !pod.ztunnel)
    );
}

#[test]
fn nothing_is_said_of_the_node_before_its_pods_were_told() {
    assert_eq!(Mirror::new(Identity::default(), false).health(at(), NOW), None);
    assert!(Mirror::new(Identity::default(), false).mesh_fault().is_some());
    assert!(
        Mirror::new(Identity::default(), false).is_cordoned(),
        "a node that nobody knows is left alone"
    );
}

#[test]
fn a_mesh_without_istiod_is_at_fault() {
    let mut mirror = told([], Labels::new());
    let node = NodeFacts {
        cordoned: false,
        address: None,
    };
    for seen in [Delta::Begin, Delta::Is("node-a".to_owned(), node), Delta::End] {
        mirror.take(Seen::Node(seen));
    }
    mirror.take(Seen::Control(Delta::Begin));
    mirror.take(Seen::Control(Delta::End));
    assert_eq!(
        mirror.mesh_fault().as_deref(),
        Some("the API has not listed endpointslices yet")
    );
    let key = PodKey {
        namespace: "istio-system".to_owned(),
        name: "istiod-1".to_owned(),
        uid: "1".to_owned(),
    };
    let slice = |ready| Slice {
        namespace: "istio-system".to_owned(),
        service: Some("istiod".to_owned()),
        endpoints: vec![Endpoint {
            ready,
            pod: Some(key.clone()),
        }],
    };
    mirror.take(Seen::Slice(1, Delta::Begin));
    mirror.take(Seen::Slice(1, Delta::End));
    mirror.take(Seen::Slice(0, Delta::Begin));
    mirror.take(Seen::Slice(0, Delta::Is("istiod-1".to_owned(), slice(false))));
    mirror.take(Seen::Slice(0, Delta::End));
    assert_eq!(
        mirror.mesh_fault().as_deref(),
        Some("istiod has no ready endpoint")
    );
    mirror.take(Seen::Slice(0, Delta::Is("istiod-1".to_owned(), slice(true))));
    assert!(mirror.mesh_fault().unwrap().contains("is not known yet"));
    assert_eq!(mirror.istiod_pods(), [key.clone()].into());
    mirror.trace([(key, Traced::Deployment)].into());
    assert_eq!(mirror.mesh_fault(), None);
    assert!(!mirror.is_cordoned());
}

#[test]
fn slices_are_watched_in_istios_namespaces_alone() {
    let external = Identity {
        external_istiod: true,
        ..Identity::default()
    };
    let watched: Vec<_> = watches::slices(&external).collect();
    let all = || "kubernetes.io/service-name".to_owned();
    assert_eq!(
        watched,
        [("istio-system", all()), ("kube-system", all())],
        "of an external istiod all"
    );
    let watched: Vec<_> = watches::slices(&Identity::default())
        .map(|(_, labels)| labels)
        .collect();
    assert_eq!(watched, ["app=istiod", "app=istiod"]);
}

#[test]
fn the_namespaces_label_decides_again_when_it_changes() {
    let mut enrolled = pod("app", ("app", "web"), Some("ReplicaSet"));
    enrolled.enrolment = Enrolment::Enabled;
    let uid = enrolled.cgroup_uid().unwrap();
    let ambient: Labels = [(MODE_LABEL.to_owned(), "ambient".to_owned())].into();
    let mut mirror = told([enrolled], ambient);
    assert_eq!(mirror.standings()[&uid].expectation, Expectation::Expected);
    assert!(
        !mirror.standings()[&uid].certain,
        "istio-cni's own words were not read yet"
    );
    assert!(mirror.enable(Enablement::default()));
    assert!(mirror.standings()[&uid].certain);
    let none = NamespaceFacts::default();
    mirror.take(Seen::Namespace(Delta::Is("istio-system".to_owned(), none)));
    let exempt = Expectation::Exempt(Reason::NotSelected);
    assert_eq!(mirror.standings()[&uid].expectation, exempt);
}

#[test]
fn only_the_word_paused_pauses() {
    let control = |data: &[(&str, &str)]| ConfigMap {
        data: Some(
            data.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        ),
        ..ConfigMap::default()
    };
    assert_eq!(pause_reason(&ConfigMap::default()), None);
    assert_eq!(pause_reason(&control(&[("repairs", "on")])), None);
    assert_eq!(
        pause_reason(&control(&[("repairs", " paused\n")])),
        Some(String::new())
    );
    let told = control(&[("repairs", "paused"), ("reason", "upgrade")]);
    assert_eq!(pause_reason(&told), Some("upgrade".to_owned()));
}
