// SPDX-License-Identifier: Apache-2.0
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::doctor::fixtures::{
    ambient_pod, assert_finds, assert_passes, assert_skipped, had, healthy, object, uid,
};
use crate::doctor::snapshot::{EventFact, Part, Snapshot};

const NO_ZTUNNEL: &str = "Failed to create pod sandbox: plugin type=\"istio-cni\" failed (add): unable to push CNI event \
                          (status code 500): partial add error: no ztunnel connection";
const NO_AGENT: &str = "Failed to create pod sandbox: plugin type=\"istio-cni\" failed (add): istio-cni cmdAdd failed to \
                        contact node Istio CNI agent: connection refused";

/// A pod that has no network yet, and what an Event says of it.
fn stuck(message: &str) -> Snapshot {
    let mut snapshot = healthy();
    let mut pod = ambient_pod("shop", "new", "node-b", "10.244.1.60");
    pod.metadata.annotations = None;
    pod.status = Some(object(json!({ "phase": "Pending" })));
    snapshot.add_pod(pod);
    had(&mut snapshot.events).push(EventFact {
        kind: "Pod".to_owned(),
        namespace: "shop".to_owned(),
        name: "new-7d4b-b".to_owned(),
        uid: uid("shop", "new-7d4b-b"),
        reason: "FailedCreatePodSandBox".to_owned(),
        message: message.to_owned(),
        count: 17,
        last: None,
    });
    snapshot
}

fn got_over_it(pod: &mut Pod) {
    pod.status = Some(object(json!({ "phase": "Running", "podIP": "10.244.1.60" })));
}

#[test]
fn a_pod_that_waits_for_ztunnel_is_told_from_one_that_waits_for_istio_cni() {
    let snapshot = stuck(NO_ZTUNNEL);
    let finding = assert_finds("MM0302", &snapshot, "Pod shop/new-7d4b-b");
    assert!(finding.evidence[0].contains("17 times"), "{finding:?}");
    assert!(
        finding.evidence[1].contains("ztunnel-b on node node-b is Ready"),
        "{finding:?}"
    );
    assert_passes("MM0301", &snapshot);
    let snapshot = stuck(NO_AGENT);
    let finding = assert_finds("MM0301", &snapshot, "Pod shop/new-7d4b-b");
    assert!(
        finding.commands().concat().contains("istio-cni-node-b"),
        "{finding:?}"
    );
    assert_passes("MM0302", &snapshot);
}

#[test]
fn a_pod_that_got_over_it_is_well() {
    for message in [NO_ZTUNNEL, NO_AGENT] {
        let mut snapshot = stuck(message);
        snapshot.with_pod("shop", "new-7d4b-b", got_over_it);
        assert_passes("MM0301", &snapshot);
        assert_passes("MM0302", &snapshot);
    }
}

#[test]
fn what_other_plugins_say_and_what_was_said_of_a_predecessor_do_not_count() {
    let other = stuck("plugin type=\"flannel\" failed (add): no such file");
    assert_passes("MM0301", &other);
    assert_passes("MM0302", &other);
    let mut snapshot = stuck(NO_ZTUNNEL);
    had(&mut snapshot.events)[0].uid = "another".to_owned();
    assert_passes("MM0302", &snapshot);
}

fn cni_folder<'s>(
    snapshot: &'s mut Snapshot,
    node: &str,
) -> &'s mut Option<meshmedic_common::report::CniFolder> {
    &mut had(had(&mut snapshot.agents).get_mut(node).unwrap()).cni_folder
}

#[test]
fn a_node_whose_configuration_lost_istio_cni_is_found() {
    let mut snapshot = healthy();
    let folder = cni_folder(&mut snapshot, "node-c").as_mut().unwrap();
    folder.calls_istio_cni = false;
    folder.plugins.pop();
    let finding = assert_finds("MM0303", &snapshot, "Node node-c");
    assert!(
        finding.evidence[0].contains("10-flannel.conflist, with the plugins flannel, portmap"),
        "{finding:?}"
    );
}

#[test]
fn without_the_folder_nothing_is_said_of_it() {
    let mut snapshot = healthy();
    for node in ["node-a", "node-b", "node-c"] {
        *cni_folder(&mut snapshot, node) = None;
    }
    assert!(assert_skipped("MM0303", &snapshot).contains("--host-cni-dir"));
    snapshot.agents = Part::not_asked("it needs MeshMedic's agents");
    assert!(assert_skipped("MM0303", &snapshot).contains("agents"));
}
