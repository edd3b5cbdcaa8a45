// SPDX-License-Identifier: Apache-2.0
use super::*;

use Expectation::{Exempt, Expected, Pending, Unverifiable};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn mode(value: &str) -> Labels {
    labels(&[(MODE_LABEL, value)])
}

/// A pod that its namespace's label makes ambient.
fn pod() -> PodFacts {
    PodFacts {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        enrolment: Enrolment::Enabled,
        ..PodFacts::default()
    }
}

fn with(change: impl FnOnce(&mut PodFacts)) -> PodFacts {
    let mut pod = pod();
    change(&mut pod);
    pod
}

fn judge(pod: &PodFacts) -> Expectation {
    Enablement::default().expectation(pod, Some(&mode(AMBIENT)))
}

fn config(key: &str, value: &str) -> Result<Enablement, BadSelectors> {
    Enablement::from_config(&labels(&[(key, value)]))
}

fn selectors(yaml: &str) -> Enablement {
    config("AMBIENT_ENABLEMENT_SELECTOR", yaml).unwrap()
}

/// Whether these selectors take in a pod with these labels, in a namespace with those.
fn selected(yaml: &str, on_pod: &[(&str, &str)], on_namespace: &[(&str, &str)]) -> bool {
    let pod = with(|pod| pod.labels = labels(on_pod));
    match selectors(yaml).expectation(&pod, Some(&labels(on_namespace))) {
        Expected => true,
        Exempt(Reason::NotSelected | Reason::OptedOut) => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_enrolled_pod_of_an_ambient_namespace_is_expected() {
    assert_eq!(judge(&pod()), Expected);
}

#[test]
fn the_host_network_cannot_be_captured_whatever_else_is_said() {
    let pod = with(|pod| {
        pod.host_network = true;
        pod.labels = mode(AMBIENT);
    });
    assert_eq!(judge(&pod), Exempt(Reason::HostNetwork));
}

#[test]
fn a_sidecar_takes_the_traffic() {
    let pod = with(|pod| {
        pod.sidecar = true;
        pod.labels = mode(AMBIENT);
    });
    assert_eq!(judge(&pod), Exempt(Reason::Sidecar));
}

#[test]
fn the_default_selectors_are_those_of_the_charts() {
    let cases = [
        (None, None, false),
        (None, Some(AMBIENT), true),
        (None, Some("none"), false),
        (None, Some("other"), false),
        (Some(AMBIENT), None, true),
        (Some(AMBIENT), Some(AMBIENT), true),
        (Some(AMBIENT), Some("none"), true),
        // NotIn holds for any other value, as it does where the label is missing.
        (Some("other"), Some(AMBIENT), true),
        (Some(""), Some(AMBIENT), true),
        (Some("Ambient"), None, false),
        (Some("none"), Some(AMBIENT), false),
        (Some("none"), None, false),
    ];
    for (on_pod, on_namespace, expected) in cases {
        let pod = with(|pod| pod.labels = on_pod.map(mode).unwrap_or_default());
        let namespace = on_namespace.map(mode).unwrap_or_default();
        let found = Enablement::default().expectation(&pod, Some(&namespace));
        let wanted = match (expected, on_pod) {
            (true, _) => Expected,
            (false, Some(NONE)) => Exempt(Reason::OptedOut),
            (false, _) => Exempt(Reason::NotSelected),
        };
        assert_eq!(found, wanted, "pod {on_pod:?}, namespace {on_namespace:?}");
    }
}

#[test]
fn the_annotation_outlives_the_enrolment() {
    // istio-cni takes its annotation back as the last step, so `enabled` without a mesh is no orphan.
    let mut leaving = pod();
    assert_eq!(leaving.enrolment, Enrolment::Enabled);
    let no_longer = Enablement::default().expectation(&leaving, Some(&Labels::new()));
    assert_eq!(no_longer, Exempt(Reason::NotSelected));
    leaving.labels = mode("none");
    assert_eq!(judge(&leaving), Exempt(Reason::OptedOut));
    leaving.labels = mode(AMBIENT);
    leaving.sidecar = true;
    assert_eq!(judge(&leaving), Exempt(Reason::Sidecar));
}

#[test]
fn a_pod_without_the_annotation_was_never_enrolled() {
    let pod = with(|pod| pod.enrolment = Enrolment::None);
    assert_eq!(judge(&pod), Exempt(Reason::NotAnnotated));
}

#[test]
fn pending_is_its_own_answer_only_for_a_pod_of_the_mesh() {
    let mut pod = with(|pod| pod.enrolment = Enrolment::Pending);
    assert_eq!(judge(&pod), Pending);
    assert_eq!(
        Enablement::default().expectation(&pod, Some(&Labels::new())),
        Exempt(Reason::NotSelected)
    );
    pod.labels = mode("none");
    assert_eq!(judge(&pod), Exempt(Reason::OptedOut));
}

#[test]
fn a_pod_that_ended_or_leaves_is_exempt() {
    assert_eq!(judge(&with(|pod| pod.finished = true)), Exempt(Reason::Finished));
    assert_eq!(judge(&with(|pod| pod.deleting = true)), Exempt(Reason::Deleting));
}

#[test]
fn an_unknown_namespace_proves_nothing() {
    let judge = |pod: &PodFacts| Enablement::default().expectation(pod, None);
    assert_eq!(judge(&pod()), Unverifiable(Reason::NamespaceUnknown));
    let pending = with(|pod| pod.enrolment = Enrolment::Pending);
    assert_eq!(judge(&pending), Unverifiable(Reason::NamespaceUnknown));
    // What the pod alone decides needs no namespace.
    assert_eq!(
        judge(&with(|pod| pod.host_network = true)),
        Exempt(Reason::HostNetwork)
    );
}

#[test]
fn another_kernel_shows_no_sockets() {
    for class in ["gvisor", "runsc", "kata", "kata-qemu", "kata-mshv-vm-isolation"] {
        let pod = with(|pod| pod.runtime_class = Some(class.to_owned()));
        assert_eq!(judge(&pod), Unverifiable(Reason::OtherKernel), "{class}");
    }
    for class in ["", "runc", "nvidia", "crun-vm-less"] {
        let pod = with(|pod| pod.runtime_class = Some(class.to_owned()));
        assert_eq!(judge(&pod), Expected, "{class}");
    }
    // Out of the mesh is out of the mesh, under any kernel.
    let opted_out = with(|pod| {
        pod.runtime_class = Some("kata".to_owned());
        pod.labels = mode("none");
    });
    assert_eq!(judge(&opted_out), Exempt(Reason::OptedOut));
}

#[test]
fn istio_cni_leaves_kube_system_alone_unless_told_otherwise() {
    let in_namespace = |name: &str| with(|pod| pod.namespace = name.to_owned());
    let ambient = mode(AMBIENT);
    assert_eq!(
        judge(&in_namespace("kube-system")),
        Exempt(Reason::ExcludedNamespace)
    );

    let custom = config("EXCLUDE_NAMESPACES", "istio-system, infra,,").unwrap();
    for name in ["istio-system", "infra"] {
        assert_eq!(
            custom.expectation(&in_namespace(name), Some(&ambient)),
            Exempt(Reason::ExcludedNamespace),
            "{name}"
        );
    }
    for name in ["kube-system", "infra-2", "shop"] {
        assert_eq!(
            custom.expectation(&in_namespace(name), Some(&ambient)),
            Expected,
            "{name}"
        );
    }

    let nothing = config("EXCLUDE_NAMESPACES", "").unwrap();
    assert_eq!(
        nothing.expectation(&in_namespace("kube-system"), Some(&ambient)),
        Expected
    );
}

#[test]
fn the_charts_selectors_written_out_are_the_defaults() {
    let written = selectors(
        "- podSelector:
    matchLabels:
      istio.io/dataplane-mode: ambient
- podSelector:
    matchExpressions:
    - key: istio.io/dataplane-mode
      operator: NotIn
      values: [none]
  namespaceSelector:
    matchLabels:
      istio.io/dataplane-mode: ambient
",
    );
    assert_eq!(written, Enablement::default());
    // A ConfigMap that does not mention them, or leaves them empty, changes nothing.
    assert_eq!(
        Enablement::from_config(&Labels::new()).unwrap(),
        Enablement::default()
    );
    assert_eq!(selectors(" \n"), Enablement::default());
}

#[test]
fn all_labels_of_a_selector_must_match() {
    let yaml = "[{podSelector: {matchLabels: {app: web, tier: front}}}]";
    assert!(selected(
        yaml,
        &[("app", "web"), ("tier", "front"), ("x", "y")],
        &[]
    ));
    assert!(!selected(yaml, &[("app", "web")], &[]));
    assert!(!selected(yaml, &[("app", "web"), ("tier", "back")], &[]));
}

#[test]
fn each_operator_means_what_kubernetes_means() {
    let yaml = |operator: &str, values: &str| {
        format!("[{{podSelector: {{matchExpressions: [{{key: app, operator: {operator}{values}}}]}}}}]")
    };
    let cases = [
        ("In", ", values: [web, api]", [true, false, false]),
        ("NotIn", ", values: [web, api]", [false, true, true]),
        ("Exists", "", [true, true, false]),
        ("DoesNotExist", "", [false, false, true]),
    ];
    for (operator, values, [listed, other, absent]) in cases {
        let yaml = yaml(operator, values);
        assert_eq!(
            selected(&yaml, &[("app", "web")], &[]),
            listed,
            "{operator}, listed"
        );
        assert_eq!(selected(&yaml, &[("app", "db")], &[]), other, "{operator}, other");
        assert_eq!(selected(&yaml, &[], &[]), absent, "{operator}, absent");
    }
}

#[test]
fn pod_and_namespace_must_both_match_but_one_pair_is_enough() {
    let yaml = "
- podSelector: {matchLabels: {mesh: in}}
  namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [a]}]}
- namespaceSelector: {matchLabels: {all: in}}
";
    assert!(selected(yaml, &[("mesh", "in")], &[("team", "a")]));
    assert!(!selected(yaml, &[("mesh", "in")], &[("team", "b")]));
    assert!(!selected(yaml, &[], &[("team", "a")]));
    assert!(selected(yaml, &[], &[("all", "in")]));
}

#[test]
fn an_empty_selector_takes_in_everything_and_an_empty_list_nothing() {
    for everything in [
        "[{}]",
        "[{podSelector: {}, namespaceSelector: {}}]",
        "[{podSelector: null}]",
        "[{podSelector: {matchLabels: null, matchExpressions: null}}]",
    ] {
        assert!(selected(everything, &[], &[]), "{everything}");
        assert!(selected(everything, &[(MODE_LABEL, "none")], &[]), "{everything}");
    }
    assert!(!selected(
        "[]",
        &[(MODE_LABEL, AMBIENT)],
        &[(MODE_LABEL, AMBIENT)]
    ));
}

#[test]
fn what_istio_cni_would_not_start_with_is_refused() {
    for yaml in [
        "podSelector: {}",
        "ambient",
        "- [",
        "[{podSelector: [a]}]",
        "[{podSelector: {matchLabels: {a: {b: c}}}}]",
        "[{podSelector: {matchExpressions: [{key: a}]}}]",
        "[{podSelector: {matchExpressions: [{operator: Exists}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: exists}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: In}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: In, values: null}]}}]",
        "[{namespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: []}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]",
        "[{podSelector: {matchExpressions: [{key: a, operator: DoesNotExist, values: [b]}]}}]",
    ] {
        let error = config("AMBIENT_ENABLEMENT_SELECTOR", yaml).expect_err(yaml);
        assert!(
            error.to_string().starts_with("AMBIENT_ENABLEMENT_SELECTOR"),
            "{error}"
        );
    }
}

#[test]
fn guessed_selectors_say_that_they_are() {
    let guessed = Enablement::guessed();
    assert!(!guessed.certain);
    assert!(Enablement::default().certain && selectors("[]").certain);
    assert_eq!(guessed.expectation(&pod(), Some(&mode(AMBIENT))), Expected);
}

#[test]
fn a_toggle_works_only_where_the_label_is_heeded() {
    let ambient = mode(AMBIENT);
    assert!(Enablement::default().heeds_opt_out(&pod(), &ambient));
    let by_its_own_label = with(|pod| pod.labels = mode(AMBIENT));
    assert!(Enablement::default().heeds_opt_out(&by_its_own_label, &Labels::new()));
    // Out already: nothing to take out.
    let out = with(|pod| pod.labels = mode("none"));
    assert!(!Enablement::default().heeds_opt_out(&out, &ambient));
    assert!(!selectors("[{}]").heeds_opt_out(&pod(), &ambient));
}
