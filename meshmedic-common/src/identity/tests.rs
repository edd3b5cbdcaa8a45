// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use jiff::Timestamp;

use super::*;

const NOW: i64 = 1_000;

fn pod(namespace: &str, component: Component, made_by: &str, name: &str) -> PodFacts {
    let (key, value) = component.label();
    PodFacts {
        namespace: namespace.to_owned(),
        name: format!("{name}-x"),
        uid: format!("uid-of-{namespace}-{name}"),
        labels: [(key.to_owned(), value.to_owned())].into(),
        controller: (!made_by.is_empty()).then(|| Controller {
            kind: made_by.to_owned(),
            name: name.to_owned(),
            uid: format!("set-{namespace}-{name}"),
        }),
        ready: true,
        ready_since: Timestamp::from_second(NOW - 100).ok(),
        ..PodFacts::default()
    }
}

fn ztunnel(namespace: &str) -> PodFacts {
    pod(namespace, Component::Ztunnel, "DaemonSet", "ztunnel")
}

fn cni(namespace: &str) -> PodFacts {
    pod(namespace, Component::Cni, "DaemonSet", "istio-cni-node")
}

fn of(namespaces: &[&str]) -> Identity {
    Identity::new(namespaces.iter().map(|&name| name.to_owned()).collect(), false)
}

fn plane(identity: &Identity, pods: &[PodFacts]) -> DataPlane {
    DataPlane::of(identity, pods.iter())
}

fn fault(identity: &Identity, pods: &[PodFacts]) -> Option<String> {
    plane(identity, pods).fault(None).map(|fault| fault.to_string())
}

#[test]
fn a_label_is_a_claim_and_namespace_and_daemon_set_prove_it() {
    let identity = Identity::default();
    for namespace in DEFAULT_NAMESPACES {
        assert!(identity.proves(&ztunnel(namespace), Component::Ztunnel));
        assert!(identity.proves(&cni(namespace), Component::Cni));
        assert!(!identity.proves(&cni(namespace), Component::Ztunnel));
    }
    let elsewhere = ztunnel("shop");
    let bare = pod("istio-system", Component::Ztunnel, "", "ztunnel");
    let deployed = pod("istio-system", Component::Ztunnel, "ReplicaSet", "ztunnel-7d4b");
    // What the kind of another group is called, see `kube::facts`.
    let foreign = pod(
        "istio-system",
        Component::Cni,
        "DaemonSet.apps.kruise.io",
        "istio-cni-node",
    );
    let pods = [elsewhere, bare, deployed, foreign];
    for pod in &pods {
        assert!(
            !identity.proves(pod, Component::Ztunnel) && !identity.proves(pod, Component::Cni),
            "{pod:?}"
        );
    }
    let sentences: Vec<String> = identity
        .strangers(pods.iter())
        .map(|stranger| stranger.sentence())
        .collect();
    assert_eq!(
        sentences,
        [
            "DaemonSet shop/ztunnel claims to be ztunnel",
            "Pod istio-system/ztunnel-x claims to be ztunnel",
            "ReplicaSet istio-system/ztunnel-7d4b claims to be ztunnel",
            "DaemonSet.apps.kruise.io istio-system/istio-cni-node claims to be istio-cni",
        ]
    );
    assert_eq!(identity.claim(&PodFacts::default()), None);
    assert_eq!(
        of(&[]).claim(&ztunnel("istio-system")),
        Some(Claim::Stranger(claimant(
            Component::Ztunnel,
            &ztunnel("istio-system")
        )))
    );
}

#[test]
fn openshift_keeps_its_parts_in_namespaces_of_their_own() {
    let pods = [ztunnel("ztunnel"), cni("istio-cni")];
    let identity = of(&["istio-system", "istio-cni", "ztunnel"]);
    assert_eq!(fault(&identity, &pods), None);
    assert_eq!(identity.strangers(pods.iter()).count(), 0);
    // The list replaces the default.
    assert!(!identity.proves(&ztunnel("kube-system"), Component::Ztunnel));

    let default = Identity::default();
    assert_eq!(
        fault(&default, &pods).as_deref(),
        Some("no ztunnel runs on the node")
    );
    let strangers: Vec<Claimant> = default.strangers(pods.iter()).collect();
    assert_eq!(
        default.hint(Component::Ztunnel, &strangers).as_deref(),
        Some(
            "no ztunnel is in istio-system, kube-system (--istio-namespace), but DaemonSet ztunnel/ztunnel claims to be \
             ztunnel: if that is your Istio, pass --istio-namespace ztunnel, beside those of its other parts"
        )
    );
    assert_eq!(default.hint(Component::Istiod, &strangers), None);
    let bare = pod("istio-system", Component::Cni, "", "istio-cni");
    let strangers: Vec<Claimant> = default.strangers([bare].iter()).collect();
    let hint = default.hint(Component::Cni, &strangers).unwrap();
    assert!(hint.ends_with("is made by a DaemonSet"), "{hint}");
}

#[test]
fn a_stranger_neither_faults_a_node_nor_keeps_it_well() {
    let identity = Identity::default();
    let mut sick = ztunnel("shop");
    sick.ready = false;
    let well = vec![ztunnel("istio-system"), cni("istio-system")];
    assert_eq!(
        fault(&identity, &[&well[..], &[sick, cni("shop")]].concat()),
        None
    );
    let mut dead = well.clone();
    dead[0].ready = false;
    dead.push(pod("istio-system", Component::Ztunnel, "", "fake"));
    dead.push(ztunnel("shop"));
    assert_eq!(
        fault(&identity, &dead).as_deref(),
        Some("ztunnel is not Ready on the node")
    );
    dead.remove(0);
    assert_eq!(
        fault(&identity, &dead).as_deref(),
        Some("no ztunnel runs on the node")
    );
}

#[test]
fn two_trusted_claims_to_one_node_are_a_fault_whichever_comes_first() {
    let identity = Identity::default();
    let mut pods = vec![
        cni("istio-system"),
        ztunnel("kube-system"),
        ztunnel("istio-system"),
    ];
    let said =
        Some("DaemonSet istio-system/ztunnel and DaemonSet kube-system/ztunnel are both ztunnel on the node");
    assert_eq!(fault(&identity, &pods).as_deref(), said);
    pods.reverse();
    assert_eq!(fault(&identity, &pods).as_deref(), said);
    // One that is leaving claims nothing any more.
    pods[0].deleting = true;
    assert_eq!(fault(&identity, &pods), None);
    let cnis = [ztunnel("istio-system"), cni("istio-system"), cni("kube-system")];
    assert!(
        matches!(plane(&identity, &cnis).fault(None), Some(NodeFault::Disputed(Component::Cni, sets)) if sets.len() == 2)
    );
}

#[test]
fn while_one_set_replaces_its_pod_the_younger_one_decides() {
    let identity = Identity::default();
    let mut next = ztunnel("istio-system");
    next.uid = "next".to_owned();
    next.ready_since = Timestamp::from_second(NOW - 3).ok();
    let mut pods = vec![ztunnel("istio-system"), next, cni("istio-system")];
    let settled = |pods: &[PodFacts]| {
        let now = Timestamp::from_second(NOW).unwrap();
        let fault = plane(&identity, pods).fault(Some((Duration::from_secs(30), now)));
        fault.map(|fault| fault.to_string())
    };
    assert_eq!(
        settled(&pods).as_deref(),
        Some("ztunnel on the node has been Ready for 3s only")
    );
    assert_eq!(fault(&identity, &pods), None, "an agent knows from the process");
    pods[1].ready = false;
    assert_eq!(
        fault(&identity, &pods).as_deref(),
        Some("ztunnel is not Ready on the node")
    );
    pods[1].finished = true;
    assert_eq!(settled(&pods), None);
}

#[test]
fn a_ztunnel_process_counts_while_its_own_pod_is_ready_and_stays() {
    let identity = Identity::default();
    let pod = ztunnel("istio-system");
    assert!(identity.serves_as_ztunnel(&pod));
    for change in [
        |pod: &mut PodFacts| pod.ready = false,
        |pod: &mut PodFacts| pod.deleting = true,
        |pod: &mut PodFacts| pod.finished = true,
        |pod: &mut PodFacts| pod.namespace = "shop".to_owned(),
        |pod: &mut PodFacts| pod.controller = None,
    ] {
        let mut pod = pod.clone();
        change(&mut pod);
        assert!(!identity.serves_as_ztunnel(&pod), "{pod:?}");
    }
}

#[test]
fn sets_on_disjoint_pools_are_each_right_on_their_nodes() {
    let identity = Identity::default();
    for namespace in ["istio-system", "kube-system"] {
        let pods = [ztunnel(namespace), cni(namespace)];
        assert_eq!(fault(&identity, &pods), None);
    }
}

fn key(namespace: &str, name: &str) -> PodKey {
    PodKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
    }
}

fn slice(namespace: &str, service: &str, pods: &[Option<PodKey>]) -> Slice {
    Slice {
        namespace: namespace.to_owned(),
        service: Some(service.to_owned()),
        endpoints: pods
            .iter()
            .map(|pod| Endpoint {
                ready: true,
                pod: pod.clone(),
            })
            .collect(),
    }
}

fn own(pod: &PodKey) -> Option<Traced> {
    match pod.name.as_str() {
        "istiod" => Some(Traced::Deployment),
        "fake" => Some(Traced::Other),
        _ => None,
    }
}

#[test]
fn istiod_is_what_a_deployment_of_a_trusted_namespace_runs() {
    let identity = Identity::default();
    let fault = |slices: &[Slice]| identity.istiod(slices.iter(), own).fault();
    let real = |service| slice("istio-system", service, &[Some(key("istio-system", "istiod"))]);
    for service in ["istiod", "istiod-canary"] {
        assert_eq!(fault(&[real(service)]), None);
    }
    let none = "istiod has no ready endpoint";
    for service in ["istiodine", "web"] {
        assert_eq!(fault(&[real(service)]).as_deref(), Some(none));
    }
    let mut away = real("istiod");
    away.endpoints[0].ready = false;
    let forged = slice("shop", "istiod", &[Some(key("istio-system", "istiod")), None]);
    assert_eq!(fault(&[away, forged.clone()]).as_deref(), Some(none));
    let strangers = identity.istiod([forged].iter(), own).strangers;
    let sentences: Vec<_> = strangers.iter().map(Claimant::sentence).collect();
    assert_eq!(sentences, ["Service shop/istiod claims to be istiod"]);
    for (pod, why) in [
        (
            Some(key("istio-system", "fake")),
            ": no Deployment made the pods behind its endpoints",
        ),
        (
            Some(key("shop", "istiod")),
            ": no Deployment made the pods behind its endpoints",
        ),
        (
            Some(key("istio-system", "new")),
            ": whether a Deployment made the pods behind its endpoints is not known yet",
        ),
        (
            None,
            ": its endpoints have no pods, which counts only with --external-istiod",
        ),
    ] {
        assert_eq!(
            fault(&[slice("istio-system", "istiod", &[pod])]),
            Some(format!("{none}{why}"))
        );
    }
}

#[test]
fn an_external_istiod_has_no_pods() {
    let external = Identity {
        external_istiod: true,
        ..Identity::default()
    };
    let outside = slice("istio-system", "istiod", &[None]);
    assert_eq!(external.istiod([outside].iter(), own).fault(), None);
    let stranger = slice("shop", "istiod", &[None]);
    assert!(external.istiod([stranger].iter(), own).fault().is_some());
    // Its slices are the copies of Endpoints that somebody wrote, and have no labels of Istio's.
    assert_eq!(external.slice_selector(), "kubernetes.io/service-name");
    assert_eq!(Identity::default().slice_selector(), "app=istiod");
}

#[test]
fn the_trace_leads_from_the_pod_through_its_set_to_a_deployment() {
    let identity = Identity::default();
    let istiod = |namespace: &str, kind: &str| pod(namespace, Component::Istiod, kind, "istiod-5f6c");
    let above = |kind: &str| Controller {
        kind: kind.to_owned(),
        name: "istiod".to_owned(),
        uid: "d".to_owned(),
    };
    let (deployment, rollout) = (above("Deployment"), above("Rollout.argoproj.io"));
    let pod = istiod("istio-system", "ReplicaSet");
    assert_eq!(identity.trace(&pod, Some(&deployment)), Traced::Deployment);
    assert_eq!(identity.trace(&pod, Some(&rollout)), Traced::Other);
    assert_eq!(identity.trace(&pod, None), Traced::Other);
    assert_eq!(
        identity.trace(&istiod("shop", "ReplicaSet"), Some(&deployment)),
        Traced::Other
    );
    assert_eq!(
        identity.trace(&istiod("istio-system", "DaemonSet"), Some(&deployment)),
        Traced::Other
    );
}

#[test]
fn what_is_no_namespace_is_refused() {
    assert_eq!(check_namespace(" istio-system ").as_deref(), Ok("istio-system"));
    for text in ["", "-a", "a-", "Istio", "a/b", "a.b", "*", &"a".repeat(64)] {
        assert!(
            check_namespace(text).unwrap_err().contains("is no namespace"),
            "{text}"
        );
    }
}

#[test]
fn names_of_others_are_cleaned() {
    let mut fake = ztunnel("shop");
    fake.controller.as_mut().unwrap().name = "z\u{1b}[2J".to_owned();
    let identity = Identity::default();
    let strangers: Vec<_> = identity.strangers([fake].iter()).collect();
    assert_eq!(
        strangers[0].sentence(),
        "DaemonSet shop/z [2J claims to be ztunnel"
    );
}
