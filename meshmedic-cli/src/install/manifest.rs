// SPDX-License-Identifier: Apache-2.0
//! The manifest as a text: the files of `deploy`, with what this cluster needs put in. Their comments stay.

use std::fmt::Write as _;

use clap::ValueEnum;
use meshmedic_common::identity::Identity;

/// What the files name, and what is run where nobody says otherwise.
pub(super) const IMAGE: &str = concat!("ghcr.io/meshmedic/meshmedic:", env!("CARGO_PKG_VERSION"));

const BASE: &str = include_str!("../../../deploy/meshmedic-daemonset.yaml");
const HEAL: &str = include_str!("../../../deploy/kustomize/repair/rights-heal.yaml");
const RESTART: &str = include_str!("../../../deploy/kustomize/repair/rights-restart.yaml");
const POLICIES: &str = include_str!("../../../deploy/kustomize/repair/policies.yaml");
const POD_MONITOR: &str = include_str!("../../../deploy/kustomize/monitoring/pod-monitor.yaml");
const RULES: &str = include_str!("../../../deploy/kustomize/monitoring/prometheus-rule.yaml");
/// After this line of the DaemonSet more variables can stand.
const VARIABLES_END: &str = "                  fieldPath: metadata.uid\n";

/// OpenShift lets a pod see the node only by a constraint that its ServiceAccount may use.
const OPENSHIFT: &str = "\
# OpenShift: the agent looks at the node's processes (hostPID, /proc).
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: meshmedic-privileged
  namespace: meshmedic
  labels:
    app.kubernetes.io/name: meshmedic
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:openshift:scc:privileged
subjects:
  - kind: ServiceAccount
    name: meshmedic
    namespace: meshmedic
";

/// GKE admits this class outside kube-system only where a quota names it.
const GKE: &str = "\
# GKE: the agents' priority class is allowed outside kube-system only where a quota names it.
apiVersion: v1
kind: ResourceQuota
metadata:
  name: meshmedic-priority
  namespace: meshmedic
  labels:
    app.kubernetes.io/name: meshmedic
spec:
  hard:
    pods: 1G
  scopeSelector:
    matchExpressions:
      - operator: In
        scopeName: PriorityClass
        values: [system-node-critical]
";

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) istio: Identity,
    pub(super) version: String,
    pub(super) openshift: bool,
    pub(super) gke: bool,
    /// The Prometheus operator's kinds are there.
    pub(super) monitoring: bool,
    /// Admission policies can narrow the agents' rights.
    pub(super) policies: bool,
}

/// What the agents may do with pods that fell out of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Repair {
    /// Report them, and change nothing
    #[default]
    None,
    /// Heal them in place; never restart a pod
    Heal,
    /// Heal them in place, and restart those for which that does not help
    Restart,
}

/// A name that can stand in the manifest as it is.
pub(super) fn image(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("an image is REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST".to_owned())
    }
}

/// The right to write the status of every pod is granted only where something narrows it, or somebody accepts it.
pub(super) fn may_be_granted(cluster: &Cluster, repair: Repair, accepted: bool) -> Result<(), String> {
    if repair == Repair::None || cluster.policies || accepted {
        return Ok(());
    }
    Err(format!(
        "heals need the right to patch the status of pods, and nothing would narrow it: Kubernetes {} serves no \
         ValidatingAdmissionPolicy (1.30 or later does). Pass --accept-unrestricted-pod-status if a stolen token of an \
         agent may write the status of any pod, or leave --repair out",
        cluster.version
    ))
}

pub(super) fn manifest(cluster: &Cluster, repair: Repair, image: &str) -> String {
    let mut text = header(cluster, repair);
    let base = BASE.replacen(IMAGE, image, 1);
    let variables = variables(cluster, repair);
    text += &base.replacen(VARIABLES_END, &format!("{VARIABLES_END}{variables}"), 1);
    let parts = [
        (repair != Repair::None, HEAL),
        (repair == Repair::Restart, RESTART),
        (repair != Repair::None && cluster.policies, POLICIES),
        (cluster.openshift, OPENSHIFT),
        (cluster.gke, GKE),
        (cluster.monitoring, POD_MONITOR),
        (cluster.monitoring, RULES),
    ];
    for (_, part) in parts.iter().filter(|(wanted, _)| *wanted) {
        text += "---\n";
        text += part;
    }
    text
}

/// What it was made from, so that one who reads it later can tell whether it still fits.
fn header(cluster: &Cluster, repair: Repair) -> String {
    let does = match repair {
        Repair::None => "report, and change nothing",
        Repair::Heal => "heal pods in place, and never restart one",
        Repair::Restart => "heal pods in place, and restart those for which that does not help",
    };
    let mut found = vec![format!("Istio in {}", cluster.istio.places())];
    if cluster.istio.external_istiod {
        found.push("istiod outside the cluster".to_owned());
    }
    let also = [
        (cluster.openshift, "OpenShift"),
        (cluster.gke, "GKE"),
        (cluster.monitoring, "the Prometheus operator"),
        (cluster.policies, "admission policies"),
    ];
    found.extend(
        also.iter()
            .filter(|(there, _)| *there)
            .map(|(_, name)| (*name).to_owned()),
    );
    format!(
        "# MeshMedic {}, for Kubernetes {} with {}.\n# Its agents {does}. No tenant may write in the namespaces of Istio.\n",
        env!("CARGO_PKG_VERSION"),
        cluster.version,
        found.join(", ")
    )
}

/// The agent's flags that differ from its defaults.
fn variables(cluster: &Cluster, repair: Repair) -> String {
    let default = Identity::default();
    let mut set = Vec::new();
    if cluster.istio.namespaces != default.namespaces {
        set.push(("ISTIO_NAMESPACE", cluster.istio.namespaces.join(",")));
    }
    if cluster.istio.external_istiod {
        set.push(("EXTERNAL_ISTIOD", "true".to_owned()));
    }
    if repair != Repair::None {
        set.push(("AUTO_REPAIR", "true".to_owned()));
        set.push(("REPAIR_STUCK", "true".to_owned()));
    }
    if repair == Repair::Heal {
        set.push(("STRATEGY", "heal".to_owned()));
    }
    set.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = write!(
            text,
            "            - name: MESHMEDIC_{name}\n              value: \"{value}\"\n"
        );
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const TURNED_ON: &str = include_str!("../../../deploy/kustomize/repair/turn-on.yaml");

    fn plain() -> Cluster {
        Cluster {
            istio: Identity::default(),
            version: "v1.36.2".to_owned(),
            openshift: false,
            gke: false,
            monitoring: false,
            policies: true,
        }
    }

    fn objects(text: &str) -> Vec<Value> {
        serde_saphyr::from_multiple(text).unwrap()
    }

    fn names(text: &str) -> BTreeSet<String> {
        let name = |object: Value| format!("{}/{}", object["kind"], object["metadata"]["name"]);
        objects(text).into_iter().map(name).collect()
    }

    fn agent(text: &str) -> Value {
        let set = objects(text)
            .into_iter()
            .find(|object| object["kind"] == "DaemonSet");
        set.unwrap()["spec"]["template"]["spec"]["containers"][0].clone()
    }

    #[test]
    fn detection_in_a_plain_cluster_is_the_file_of_deploy() {
        let text = manifest(&plain(), Repair::None, IMAGE);
        let head = "# MeshMedic 0.1.0, for Kubernetes v1.36.2 with Istio in istio-system, kube-system, admission policies.\n\
                    # Its agents report, and change nothing. No tenant may write in the namespaces of Istio.\n";
        assert_eq!(text, format!("{head}{BASE}"));
    }

    #[test]
    fn a_restart_is_what_the_kustomization_has() {
        let text = manifest(&plain(), Repair::Restart, IMAGE);
        for variable in agent(TURNED_ON)["env"].as_array().unwrap() {
            let has = agent(&text)["env"].as_array().unwrap().contains(variable);
            assert!(has, "{variable}");
        }
        let parts = [BASE, HEAL, RESTART, POLICIES].map(names);
        assert_eq!(names(&text), parts.into_iter().flatten().collect());
    }

    #[test]
    fn heals_come_without_the_right_to_evict() {
        let text = manifest(&plain(), Repair::Heal, IMAGE);
        assert!(!text.contains("pods/eviction\"]") && names(&text).is_disjoint(&names(RESTART)));
        let strategy = serde_json::json!({ "name": "MESHMEDIC_STRATEGY", "value": "heal" });
        assert!(agent(&text)["env"].as_array().unwrap().contains(&strategy));
    }

    #[test]
    fn what_the_cluster_has_is_put_in() {
        let cluster = Cluster {
            istio: Identity::new(vec!["istio-cni".to_owned(), "mesh".to_owned()], true),
            openshift: true,
            gke: true,
            monitoring: true,
            policies: false,
            ..plain()
        };
        let text = manifest(&cluster, Repair::Restart, "registry.example.com/m@sha256:00");
        let found = names(&text);
        for name in [
            "\"RoleBinding\"/\"meshmedic-privileged\"",
            "\"ResourceQuota\"/\"meshmedic-priority\"",
            "\"PodMonitor\"/\"meshmedic\"",
            "\"PrometheusRule\"/\"meshmedic\"",
        ] {
            assert!(found.contains(name), "{name} is not in {found:?}");
        }
        assert!(found.is_disjoint(&names(POLICIES)));
        let agent = agent(&text);
        assert_eq!(agent["image"], "registry.example.com/m@sha256:00");
        let namespaces =
            serde_json::json!({ "name": "MESHMEDIC_ISTIO_NAMESPACE", "value": "istio-cni,mesh" });
        let external = serde_json::json!({ "name": "MESHMEDIC_EXTERNAL_ISTIOD", "value": "true" });
        for variable in [namespaces, external] {
            assert!(agent["env"].as_array().unwrap().contains(&variable), "{variable}");
        }
    }

    #[test]
    fn heals_that_nothing_narrows_are_granted_only_where_one_says_so() {
        let old = Cluster {
            policies: false,
            ..plain()
        };
        for repair in [Repair::Heal, Repair::Restart] {
            let why = may_be_granted(&old, repair, false).unwrap_err();
            assert!(why.contains("--accept-unrestricted-pod-status"), "{why}");
            assert_eq!(may_be_granted(&old, repair, true), Ok(()));
            assert_eq!(may_be_granted(&plain(), repair, false), Ok(()));
        }
        assert_eq!(may_be_granted(&old, Repair::None, false), Ok(()));
    }

    #[test]
    fn an_image_cannot_bring_lines_of_its_own() {
        for bad in ["", "a b", "a\nb", "a\"b", "-a", "a#b"] {
            assert!(image(bad).is_err(), "{bad:?}");
        }
        for good in [IMAGE, "registry.example.com:5000/a/b@sha256:0a"] {
            assert_eq!(image(good).as_deref(), Ok(good));
        }
    }
}
