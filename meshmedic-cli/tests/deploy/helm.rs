// SPDX-License-Identifier: Apache-2.0
//! The chart's life on a real API server, by a real Helm.

use std::process::Command;

use meshmedic_lab::{ApiServer, need};
use serde_json::Value;
use tempfile::TempDir;

use crate::files::root;

const RELEASE: &str = "meshmedic";
const NAMESPACE: &str = "meshmedic";
/// What the chart makes under any values of this test.
const KINDS: [&str; 10] = [
    "clusterrolebindings",
    "clusterroles",
    "configmaps",
    "daemonsets",
    "rolebindings",
    "roles",
    "serviceaccounts",
    "services",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
];

struct Helm {
    api: ApiServer,
    home: TempDir,
}

impl Helm {
    /// Runs Helm in the release's namespace, and says what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("helm")
            .current_dir(root())
            .args(arguments)
            .args(["--namespace", NAMESPACE, "--kubeconfig"])
            .arg(self.api.kubeconfig())
            // Its caches and settings are nobody else's.
            .env("HOME", self.home.path())
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "helm {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of what the release has in the cluster, each after its kind.
    fn objects(&self) -> Vec<String> {
        let of_the_release =
            |object: &&Value| object["metadata"]["annotations"]["meta.helm.sh/release-name"] == RELEASE;
        let names = |kind: &str| -> Vec<String> {
            let objects = self.api.list(kind, "").unwrap();
            let ours = objects.iter().filter(of_the_release);
            ours.map(|object| format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap()))
                .collect()
        };
        KINDS.iter().flat_map(|kind| names(kind)).collect()
    }

    /// Whether the agents are told to repair.
    fn repairs(&self) -> bool {
        let set = self.api.get("daemonsets", NAMESPACE, "meshmedic").unwrap();
        let variables = &set["spec"]["template"]["spec"]["containers"][0]["env"];
        let variables = variables.as_array().unwrap();
        let told =
            |variable: &Value| variable["name"] == "MESHMEDIC_AUTO_REPAIR" && variable["value"] == "true";
        variables.iter().any(told)
    }
}

#[test]
fn helm_tries_installs_upgrades_takes_back_and_removes() {
    let test = "helm_tries_installs_upgrades_takes_back_and_removes";
    if !need::real_apiserver(test) || !need::helm(test) {
        return;
    }
    let helm = Helm {
        api: ApiServer::real().unwrap(),
        home: tempfile::tempdir().unwrap(),
    };
    let chart = "deploy/helm/meshmedic";
    let install = ["install", RELEASE, chart, "--create-namespace"];

    // The server looks at every object, and keeps none.
    helm.run(&[&install[..], &["--dry-run=server"]].concat());
    assert_eq!(helm.objects(), [] as [String; 0]);

    helm.run(&install);
    let detecting = helm.objects();
    assert!(
        detecting.contains(&"daemonsets/meshmedic".to_owned()),
        "{detecting:?}"
    );
    let repair_rights = |objects: &[String]| objects.iter().any(|name| name.ends_with("/meshmedic-heal"));
    assert!(!repair_rights(&detecting), "{detecting:?}");
    assert!(!helm.repairs());

    // Rights follow the flags, both ways.
    helm.run(&["upgrade", RELEASE, chart, "--set", "agent.autoRepair=true"]);
    assert!(repair_rights(&helm.objects()));
    assert!(helm.repairs());
    helm.run(&["rollback", RELEASE, "1"]);
    assert_eq!(helm.objects(), detecting);
    assert!(!helm.repairs());

    helm.run(&["uninstall", RELEASE]);
    assert_eq!(helm.objects(), [] as [String; 0]);
}

/// What helm makes of the chart with these arguments, or why it makes nothing.
fn template(more: &[&str]) -> Result<String, String> {
    let output = Command::new("helm")
        .current_dir(root())
        .args(["template", RELEASE, "deploy/helm/meshmedic"])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

#[test]
fn the_chart_grants_no_unrestricted_right_to_heal_unasked() {
    if !need::helm("the_chart_grants_no_unrestricted_right_to_heal_unasked") {
        return;
    }
    let template = |more: &[&str]| template(&[&["--set", "agent.autoRepair=true"], more].concat());
    let policy = "kind: ValidatingAdmissionPolicy\n";
    let old = ["--kube-version", "1.29"];
    let accepted = ["--set", "acceptUnrestrictedPodStatus=true"];
    let off = ["--set", "admissionPolicies.enabled=false"];
    let restart = ["--set", "agent.strategy=restart"];
    assert!(template(&["--kube-version", "1.30"]).unwrap().contains(policy));
    for unnarrowed in [&old, &off] {
        let refused = template(unnarrowed).unwrap_err();
        assert!(refused.contains("acceptUnrestrictedPodStatus=true"), "{refused}");
        let granted = template(&[&unnarrowed[..], &accepted].concat()).unwrap();
        assert!(granted.contains("pods/status") && !granted.contains(policy));
        let restarts = template(&[&unnarrowed[..], &restart].concat()).unwrap();
        assert!(!restarts.contains("pods/status"));
    }
}

#[test]
fn the_chart_refuses_what_nothing_narrows_and_what_is_not_served() {
    if !need::helm("the_chart_refuses_what_nothing_narrows_and_what_is_not_served") {
        return;
    }
    let template = |more: &[&str]| template(&[&["--namespace", "elsewhere"], more].concat());
    let condition = ["--set", "agent.nodeCondition=true", "--kube-version"];
    for more in [
        &["1.29.0"][..],
        &["1.36.0", "--set", "admissionPolicies.enabled=false"],
    ] {
        let why = template(&[&condition[..], more].concat()).unwrap_err();
        assert!(why.contains("status of nodes"), "{more:?}: {why}");
    }
    let text = template(&[&condition[..], &["1.30.0"]].concat()).unwrap();
    assert!(text.contains("nodes/status"), "{text}");
    // The policy is about the release's own account.
    assert!(
        text.contains("system:serviceaccount:elsewhere:meshmedic"),
        "{text}"
    );
    assert!(
        !text.contains("system:serviceaccount:meshmedic:meshmedic"),
        "{text}"
    );

    let gate = ["--set", "gatePolicy.enabled=true", "--kube-version"];
    let why = template(&[&gate[..], &["1.35.0"]].concat()).unwrap_err();
    assert!(why.contains("from 1.36 on"), "{why}");
    let text = template(
        &[
            &gate[..],
            &[
                "1.36.0",
                "--set",
                "gatePolicy.timeout=9m",
                "--set",
                "image.tag=v7",
            ],
        ]
        .concat(),
    )
    .unwrap();
    for part in [
        "kind: MutatingAdmissionPolicy",
        "timeout: 9m",
        "meshmedic:v7",
        "namespace: elsewhere",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = template(&[]).unwrap();
    assert!(
        !text.contains("MutatingAdmissionPolicy") && !text.contains("nodes/status"),
        "{text}"
    );
}
