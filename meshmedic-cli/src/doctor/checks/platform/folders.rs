// SPDX-License-Identifier: Apache-2.0
//! The folders of nodes into which istio-cni writes.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;

use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{View, name, namespace};

/// A platform whose CNI folders are elsewhere.
struct Platform {
    /// What Istio's charts call it.
    name: &'static str,
    is_it: fn(&Node) -> bool,
    /// Where it reads configuration; none where that is the usual place.
    configuration: Option<&'static str>,
    /// How the places begin from which it runs plugins.
    programs: &'static [&'static str],
}

/// Those that Istio's charts know, the more special before the more general.
const PLATFORMS: [Platform; 5] = [
    Platform {
        name: "k3d",
        is_it: |node| is_k3s(node) && name(&node.metadata).starts_with("k3d-"),
        configuration: Some("/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        programs: &["/bin"],
    },
    Platform {
        name: "k3s",
        is_it: is_k3s,
        configuration: Some("/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        programs: &["/var/lib/rancher/k3s/data/"],
    },
    Platform {
        name: "microk8s",
        is_it: |node| has_label(node, "microk8s.io/cluster"),
        configuration: Some("/var/snap/microk8s/current/args/cni-network"),
        programs: &["/var/snap/microk8s/current/opt/cni/bin"],
    },
    Platform {
        name: "openshift",
        is_it: |node| has_label(node, "node.openshift.io/os_id"),
        configuration: Some("/etc/cni/multus/net.d"),
        programs: &["/var/lib/cni/bin"],
    },
    Platform {
        name: "gke",
        is_it: |node| has_label(node, "cloud.google.com/gke-nodepool"),
        configuration: None,
        programs: &["/home/kubernetes/bin"],
    },
];

fn is_k3s(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| info.kubelet_version.contains("+k3s"))
}

fn has_label(node: &Node, key: &str) -> bool {
    node.metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(key))
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    // What agents see in the folders that the runtime reads goes before what a platform usually is.
    let mut folders = view
        .snapshot
        .reports()
        .filter_map(|(_, report)| report.cni_folder.as_ref())
        .peekable();
    if folders.peek().is_some() && folders.all(|folder| folder.calls_istio_cni) {
        return Vec::new();
    }
    let nodes = view.snapshot.nodes.all();
    let platform = PLATFORMS
        .iter()
        .find_map(|platform| Some((platform, nodes.iter().find(|node| (platform.is_it)(node))?)));
    let Some((platform, node)) = platform else {
        return Vec::new();
    };
    view.cni_sets()
        .filter_map(|set| finding(set, platform, node))
        .collect()
}

fn finding(set: &DaemonSet, platform: &Platform, node: &Node) -> Option<Finding> {
    let folder = |volume: &str| {
        let spec = set.spec.as_ref()?.template.spec.as_ref()?;
        let found = spec.volumes.iter().flatten().find(|one| one.name == volume)?;
        Some(found.host_path.as_ref()?.path.trim_end_matches('/').to_owned())
    };
    let mut wrong = Vec::new();
    if let (Some(is), Some(wanted)) = (folder("cni-net-dir"), platform.configuration)
        && is != wanted
    {
        wrong.push(format!("cniConfDir is {is}, and the runtime reads {wanted}"));
    }
    if let Some(is) = folder("cni-bin-dir")
        && !platform
            .programs
            .iter()
            .any(|wanted| is.starts_with(wanted.trim_end_matches('/')))
    {
        wrong.push(format!(
            "cniBinDir is {is}, and the runtime runs what is below {}",
            platform.programs.join(" or ")
        ));
    }
    if wrong.is_empty() {
        return None;
    }
    let object = ObjectRef::new("DaemonSet", namespace(&set.metadata), name(&set.metadata));
    let mut finding = Finding::on(object, "it writes into folders that nothing reads here").because(format!(
        "node {} is one of {}",
        name(&node.metadata),
        platform.name
    ));
    for one in wrong {
        finding = finding.because(one);
    }
    Some(
        finding
            .so(
                "The container runtime does not call it: pods are enrolled late, after they have started, or not at all, and \
                 after a reboot none is.",
            )
            .by_hand(format!(
                "Set global.platform: {} in the values of Istio's charts, where they are kept. Where the runtime was set to \
                 other folders by hand, set cniConfDir and cniBinDir to those.",
                platform.name
            )),
    )
}
