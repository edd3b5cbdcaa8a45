// SPDX-License-Identifier: Apache-2.0
//! What is shown on a node that may be disturbed.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::cluster::{Cluster, Pod, WAY_BACK};
use super::scenes::{done_to, repair};

const APP: &str = "shelf";
const PODS: usize = 3;

/// A node whose owner agreed.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    hostname: String,
}

/// Looks whether anyone else's work is on the node, and has the user type its name.
pub(super) fn agreed(cluster: &Cluster, name: &str) -> Result<Node> {
    let node = cluster.kubectl(&["get", "node", name, "--output", "json"])?;
    let node: Value = serde_json::from_str(&node).context("kubectl does not print JSON")?;
    let hostname = node["metadata"]["labels"]["kubernetes.io/hostname"].as_str();
    let hostname =
        hostname.with_context(|| format!("the node {name} has no label kubernetes.io/hostname"))?;
    let field = format!("spec.nodeName={name}");
    let list = [
        "get",
        "pods",
        "--all-namespaces",
        "--field-selector",
        &field,
        "--output",
        "json",
    ];
    let list: Value =
        serde_json::from_str(&cluster.kubectl(&list)?).context("kubectl does not print JSON")?;
    let others = strangers(&list, &cluster.istio);
    ensure!(
        others.is_empty(),
        "the node {name} has work of others, which ztunnel's absence would cut off: {}",
        others.join(", ")
    );
    confirm(name, &mut io::stdin().lock())?;
    Ok(Node {
        name: name.to_owned(),
        hostname: hostname.to_owned(),
    })
}

/// Pods that are neither a DaemonSet's, nor the node's own, nor Istio's, which is in no mesh.
fn strangers(list: &Value, istio: &str) -> Vec<String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_stranger = |pod: &&Value| {
        let owner = &pod["metadata"]["ownerReferences"][0]["kind"];
        !["DaemonSet", "Node"].iter().any(|kind| owner == kind) && pod["metadata"]["namespace"] != istio
    };
    let name = |pod: &Value| {
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    };
    items.iter().filter(is_stranger).map(name).collect()
}

fn confirm(name: &str, input: &mut dyn io::BufRead) -> Result<()> {
    print!("ztunnel and istio-cni of {name} will be away for minutes. Type the node's name to go on: ");
    io::stdout().flush().context("cannot write")?;
    let mut typed = String::new();
    input
        .read_line(&mut typed)
        .context("cannot read what was typed")?;
    if typed.trim() != name {
        bail!("{:?} is not the name of the node: nothing was done", typed.trim());
    }
    Ok(())
}

impl Node {
    pub(super) fn show(&self, cluster: &Cluster) -> Result<()> {
        cluster.deploy(APP, PODS, Some(&self.hostname))?;
        let pods = cluster.enrolled(APP, PODS)?;
        cluster.proved(&pods, "captured")?;
        cluster.say(&format!("{PODS} pods are enrolled on {}", self.name));
        self.many(cluster, &pods)?;
        self.deleted(cluster, &pods, "istio-cni-node")?;
        self.deleted(cluster, &pods, "ztunnel")?;
        self.away(cluster, &pods)
    }

    /// All pods of the node at once, as after a reboot.
    fn many(&self, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
        for pod in pods {
            cluster.orphan(APP, pod)?;
        }
        cluster.proved(pods, "orphan")?;
        done_to(&repair(cluster, "heal")?, pods, "repaired")?;
        self.all_well(cluster, pods)?;
        cluster.say("all of them were outside the mesh, and were healed in place");
        Ok(())
    }

    /// One of Istio's pods is deleted, and its DaemonSet makes another.
    fn deleted(&self, cluster: &Cluster, pods: &[Pod], component: &str) -> Result<()> {
        let before = self
            .component(cluster, component)?
            .context("it is not on the node")?;
        cluster.kubectl(&["--namespace", &cluster.istio, "delete", "pod", &before, "--wait"])?;
        self.returned(cluster, component, &before)?;
        self.all_well(cluster, pods)?;
        cluster.say(&format!(
            "{component} was deleted and is back, and no pod was touched"
        ));
        Ok(())
    }

    /// ztunnel is kept from the node: a scan says so, and nothing is repaired.
    fn away(&self, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
        let get = ["get", "daemonset", "ztunnel", "--output", "json"];
        let get = cluster.kubectl(&[&["--namespace", &cluster.istio][..], &get].concat())?;
        let found: Value = serde_json::from_str(&get).context("kubectl does not print JSON")?;
        let patch = keep_away(&found["spec"]["template"]["spec"]["affinity"], &self.hostname).to_string();
        let patch = [
            "patch",
            "daemonset",
            "ztunnel",
            "--type",
            "merge",
            "--patch",
            &patch,
        ];
        cluster.kubectl(&[&["--namespace", &cluster.istio][..], &patch].concat())?;
        cluster.until("ztunnel to leave the node", || {
            Ok(self.all_of(cluster, "ztunnel")?.is_empty().then_some(()))
        })?;
        cluster.say("ztunnel is kept from the node");
        let pods_now = cluster.pods(APP)?;
        // Their listeners went with ztunnel, and nothing of that is theirs to mend.
        cluster.proved(&pods_now, "suspect")?;
        done_to(&repair(cluster, "heal")?, &[], "repaired")?;
        cluster.unasked(APP, &pods_now)?;
        cluster.say("a repair asks for no pod meanwhile");
        cluster.give_back_ztunnel()?;
        self.returned(cluster, "ztunnel", "")?;
        self.all_well(cluster, pods)?;
        cluster.say("ztunnel is back, and no pod was touched");
        Ok(())
    }

    /// The pod of one of Istio's DaemonSets on this node.
    fn component(&self, cluster: &Cluster, name: &str) -> Result<Option<String>> {
        Ok(self.find(cluster, name)?.map(|(name, _)| name))
    }

    /// Its name, and whether it is Ready; none while it is leaving.
    fn find(&self, cluster: &Cluster, name: &str) -> Result<Option<(String, bool)>> {
        let all = self.all_of(cluster, name)?;
        let found = all
            .iter()
            .find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(found.and_then(|pod| {
            let conditions = pod["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
            let name = pod["metadata"]["name"].as_str()?;
            Some((name.to_owned(), conditions.iter().any(ready)))
        }))
    }

    /// The pods of one of Istio's DaemonSets on this node, also those that are leaving.
    fn all_of(&self, cluster: &Cluster, name: &str) -> Result<Vec<Value>> {
        let field = format!("spec.nodeName={}", self.name);
        let get = ["get", "pods", "--field-selector", &field, "--output", "json"];
        let list = cluster.kubectl(&[&["--namespace", &cluster.istio][..], &get].concat())?;
        let list: Value = serde_json::from_str(&list).context("kubectl does not print JSON")?;
        let mut items = list["items"].as_array().cloned().unwrap_or_default();
        items.retain(|pod| pod["metadata"]["ownerReferences"][0]["name"] == name);
        Ok(items)
    }

    fn returned(&self, cluster: &Cluster, component: &str, before: &str) -> Result<()> {
        cluster.until(&format!("{component} to be Ready again"), || {
            let found = self.find(cluster, component)?;
            Ok(found
                .is_some_and(|(name, ready)| ready && name != before)
                .then_some(()))
        })
    }

    /// Every pod is in the mesh and was never started anew.
    fn all_well(&self, cluster: &Cluster, pods: &[Pod]) -> Result<()> {
        cluster.proved(pods, "captured")?;
        pods.iter().try_for_each(|pod| cluster.untouched(APP, pod))
    }
}

/// The change that keeps ztunnel from a node, with what undoes it in the same change.
fn keep_away(affinity: &Value, hostname: &str) -> Value {
    let not_here = json!({ "key": "kubernetes.io/hostname", "operator": "NotIn", "values": [hostname] });
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut terms = affinity["nodeAffinity"][required]["nodeSelectorTerms"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if terms.is_empty() {
        terms.push(json!({}));
    }
    // One term is enough for the scheduler, so each has to say it.
    for term in &mut terms {
        let mut all = term["matchExpressions"].as_array().cloned().unwrap_or_default();
        all.push(not_here.clone());
        term["matchExpressions"] = all.into();
    }
    json!({
        "metadata": { "annotations": { WAY_BACK: affinity.to_string() } },
        "spec": { "template": { "spec": {
            "affinity": { "nodeAffinity": { required: { "nodeSelectorTerms": terms } } },
        } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_name_is_a_yes() {
        for (typed, yes) in [
            ("worker-1\n", true),
            ("yes\n", false),
            ("", false),
            ("worker-11\n", false),
        ] {
            assert_eq!(
                confirm("worker-1", &mut typed.as_bytes()).is_ok(),
                yes,
                "{typed:?}"
            );
        }
    }

    #[test]
    fn a_node_with_work_of_others_is_refused() {
        let pod = |name: &str, owner: Value| json!({ "metadata": { "namespace": "shop", "name": name, "ownerReferences": owner } });
        let of = |kind: &str| json!([{ "kind": kind }]);
        let list = json!({ "items": [
            pod("log", of("DaemonSet")),
            pod("mirror", of("Node")),
            pod("cart", of("ReplicaSet")),
            pod("bare", Value::Null),
        ] });
        assert_eq!(strangers(&list, "istio-system"), ["shop/cart", "shop/bare"]);
        assert!(strangers(&list, "shop").is_empty());
    }

    #[test]
    fn every_way_onto_the_node_is_closed_and_what_was_is_kept() {
        let here = |change: &Value| {
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            change["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
                .clone()
        };
        let change = keep_away(&Value::Null, "worker-1");
        assert_eq!(change["metadata"]["annotations"][WAY_BACK], "null");
        assert_eq!(here(&change)[0]["matchExpressions"][0]["values"][0], "worker-1");
        let was = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "zone", "operator": "Exists" }] },
                { "matchFields": [] },
            ],
        } } });
        let change = keep_away(&was, "worker-1");
        let kept = change["metadata"]["annotations"][WAY_BACK].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), was);
        let terms = here(&change);
        assert_eq!(terms[0]["matchExpressions"].as_array().unwrap().len(), 2);
        assert_eq!(terms[1]["matchExpressions"][0]["operator"], "NotIn");
    }
}
