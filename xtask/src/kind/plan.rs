// SPDX-License-Identifier: Apache-2.0
//! The plans: which commands make a cluster, load the image, break a pod, and show that it heals.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Way;
use super::step::{Line, Shows, Step};
use crate::ebpf::target_dir;

/// Of the charts; istioctl installs its own version.
const ISTIO: &str = "1.30.1";
const CHARTS: &str = "https://istio-release.storage.googleapis.com/charts";
/// The application, in deploy/kind/sample.yaml.
const SAMPLE: &str = "meshmedic-sample";
const APP: &str = "app=echo";
/// The agents, in deploy.
const AGENTS: &str = "meshmedic";

/// What the plans apply, from the workspace.
pub(super) const CLUSTER: &str = "deploy/kind/cluster.yaml";
pub(super) const APPLICATION: &str = "deploy/kind/sample.yaml";
pub(super) const DETECT: &str = "deploy/meshmedic-daemonset.yaml";
pub(super) const REPAIR: &str = "deploy/kustomize/repair";

/// istio-cni writes here that a pod is captured.
const REDIRECTION: &str = r"jsonpath={.metadata.annotations.ambient\.istio\.io/redirection}";

/// No label that keeps the pod out, and the word that it is in.
const BELIEF: &str = r#"{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#;
/// The metrics of `$AGENT`, through the API server.
const METRICS: &str = "get --raw /api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics";

/// What a busy machine may need to start a handful of pods.
const MINUTES: Duration = Duration::from_secs(300);
/// Confirmation takes ten seconds, and an agent that has just started lets ztunnel settle for thirty.
const VERDICT: Duration = Duration::from_secs(120);

/// What brings Istio into the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installer {
    Istioctl,
    Helm,
}

/// Plans for one cluster.
pub(super) struct Plan<'a> {
    workspace: &'a Path,
    name: &'a str,
    installer: Installer,
    /// Of this cluster alone, so that the user's own stays as it is.
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl<'a> Plan<'a> {
    pub(super) fn new(workspace: &'a Path, name: &'a str, installer: Installer) -> Self {
        Self::in_folder(workspace, &target_dir(workspace).join("kind"), name, installer)
    }

    pub(super) fn in_folder(workspace: &'a Path, folder: &Path, name: &'a str, installer: Installer) -> Self {
        Self {
            workspace,
            name,
            installer,
            kubeconfig: folder.join(format!("{name}.kubeconfig")),
            folder: folder.to_owned(),
        }
    }

    pub(super) fn workspace(&self) -> &Path {
        self.workspace
    }

    pub(super) fn up(&self) -> Vec<Step> {
        let create = format!(
            "kind create cluster --name {} --config {CLUSTER} --wait 3m",
            self.name
        );
        let mut steps = vec![
            say("A cluster of three nodes"),
            Step::Run(self.in_cluster(&create)),
            say("Istio in ambient mode"),
        ];
        steps.extend(self.istio());
        steps.extend([
            say("An application in the mesh"),
            self.kubectl(&format!("apply --filename {APPLICATION}")),
            self.rolled_out("deployment/echo", SAMPLE),
            self.kubectl(&format!(
                "wait pod --namespace {SAMPLE} --selector {APP} --for {REDIRECTION}=enabled --timeout 2m"
            )),
            say(&format!(
                "To look at it yourself: export KUBECONFIG={}",
                self.kubeconfig.display()
            )),
        ]);
        steps
    }

    fn istio(&self) -> Vec<Step> {
        let install = match self.installer {
            Installer::Istioctl => {
                vec!["istioctl install --set profile=ambient --skip-confirmation".to_owned()]
            }
            Installer::Helm => [
                "istio-base base",
                "istiod istiod",
                "istio-cni cni",
                "ztunnel ztunnel",
            ]
            .map(|release_and_chart| {
                format!(
                    "helm upgrade --install {release_and_chart} --repo {CHARTS} --version {ISTIO} \
                         --namespace istio-system --create-namespace --set profile=ambient --wait"
                )
            })
            .into(),
        };
        install
            .iter()
            .map(|command| Step::Run(self.in_cluster(command)))
            .collect()
    }

    pub(super) fn load(&self) -> Vec<Step> {
        let machine = if ARCH == "aarch64" { "arm64" } else { "amd64" };
        let archive = format!("meshmedic-{}-linux-{machine}.tar", env!("CARGO_PKG_VERSION"));
        let archive = self.folder.join(archive);
        let load = format!("kind load image-archive --name {}", self.name);
        vec![
            say("The image, onto every node"),
            Step::Run(Line::new("cargo xtask image --out").path(&self.folder)),
            Step::Run(Line::new(&load).path(&archive)),
            say("An agent on every node, which detects and changes nothing"),
            self.kubectl(&format!("apply --filename {DETECT}")),
            // Its image may have changed under the same name.
            self.kubectl(&format!(
                "rollout restart daemonset/meshmedic --namespace {AGENTS}"
            )),
            self.rolled_out("daemonset/meshmedic", AGENTS),
        ]
    }

    pub(super) fn break_pod(&self, by: Way) -> Vec<Step> {
        match by {
            Way::Listeners => self.close_listeners(),
            Way::Restart => self.restart_node(),
        }
    }

    /// Takes a pod out of the mesh in the regular way, and puts back only what istio-cni wrote about it: label and
    /// annotation in one change, so that there is never a difference between the two for istio-cni to act upon.
    fn close_listeners(&self) -> Vec<Step> {
        vec![
            say("A pod of the application, out of the mesh: ztunnel closes its listeners"),
            self.remember("POD", SAMPLE, &format!("--selector {APP}"), ".metadata.name"),
            self.kubectl(&format!(
                "label pod $POD --namespace {SAMPLE} istio.io/dataplane-mode=none"
            )),
            self.until(
                "",
                &format!("get pod $POD --namespace {SAMPLE} --output {REDIRECTION}"),
                Shows::Nothing,
                MINUTES,
            ),
            say("And istio-cni believes that it is in: an orphan"),
            self.kubectl(&format!(
                "patch pod $POD --namespace {SAMPLE} --type merge --patch {BELIEF}"
            )),
        ]
    }

    fn restart_node(&self) -> Vec<Step> {
        vec![
            say("A node that hosts the application goes down hard, and comes back"),
            self.remember("NODE", SAMPLE, &format!("--selector {APP}"), ".spec.nodeName"),
            Step::Run(Line::new("docker restart -t 0 $NODE")),
            say("Its pods start anew. Which of them istio-cni misses is a race: some, all, or none"),
            // What the API says of the node and its pods is stale for a while; the node's own runtime knows.
            Step::Until {
                what: "",
                line: Line::new(&format!(
                    "docker exec $NODE crictl pods --namespace {SAMPLE} --state Ready --quiet"
                )),
                shows: Shows::Something,
                within: MINUTES,
            },
            self.kubectl("wait node $NODE --for condition=Ready --timeout 3m"),
            self.rolled_out("daemonset/ztunnel", "istio-system"),
            self.rolled_out("deployment/echo", SAMPLE),
            say(&format!(
                "Who fell out: cargo run --package meshmedic-cli -- scan --kubeconfig {}",
                self.kubeconfig.display()
            )),
        ]
    }

    pub(super) fn e2e(&self) -> Vec<Step> {
        let scan = format!("scan --namespace {SAMPLE}");
        let mut steps = vec![say("Nobody is out of the mesh"), self.meshmedic(&scan, 0)];
        steps.extend(self.close_listeners());
        steps.extend([
            Step::Mark("the loss of the pod's capture"),
            say("Found, and told of: an Event, the metrics of the node's agent, the scan and its exit code"),
            self.until(
                "an Event tells of it",
                &event("MeshCaptureLost"),
                Shows::Something,
                VERDICT,
            ),
            self.remember(
                "NODE",
                SAMPLE,
                "--field-selector metadata.name=$POD",
                ".spec.nodeName",
            ),
            self.agent_of_the_node(),
            self.until(
                "a metric tells of it",
                METRICS,
                Shows::Text("meshmedic_orphans_total 1".to_owned()),
                VERDICT,
            ),
            self.meshmedic(&format!("{scan} --output wide"), 1),
            self.meshmedic(&format!("repair --namespace {SAMPLE}"), 1),
            say("Healed, once the agents may: by eviction, and only after the successor was proved captured"),
            self.kubectl(&format!("apply --kustomize {REPAIR}")),
            Step::Mark("the permission to repair"),
            self.rolled_out("daemonset/meshmedic", AGENTS),
            self.until(
                "the pod is evicted",
                &format!("get pod $POD --namespace {SAMPLE} --ignore-not-found --output name"),
                Shows::Nothing,
                MINUTES,
            ),
            self.until(
                "an Event tells that its successor is captured",
                &event("MeshRepairSucceeded"),
                Shows::Something,
                MINUTES,
            ),
            self.agent_of_the_node(),
            self.until(
                "a metric tells of the repair",
                METRICS,
                Shows::Text(r#"meshmedic_repairs_total{action="evict",result="succeeded"} 1"#.to_owned()),
                VERDICT,
            ),
            self.meshmedic(&scan, 0),
            self.meshmedic("status", 0),
            say("Back to detection alone"),
            self.kubectl(&format!("delete --kustomize {REPAIR}")),
            self.kubectl(&format!("apply --filename {DETECT}")),
        ]);
        steps
    }

    pub(super) fn down(&self) -> Vec<Step> {
        let delete = format!("kind delete cluster --name {}", self.name);
        vec![Step::Run(self.in_cluster(&delete))]
    }

    fn rolled_out(&self, what: &str, namespace: &str) -> Step {
        self.kubectl(&format!(
            "rollout status {what} --namespace {namespace} --timeout 3m"
        ))
    }

    /// The agent on `$NODE`, as `$AGENT`.
    fn agent_of_the_node(&self) -> Step {
        let selector = "--selector app.kubernetes.io/name=meshmedic \
                        --field-selector spec.nodeName=$NODE,status.phase=Running";
        self.remember("AGENT", AGENTS, selector, ".metadata.name")
    }

    /// Something of the first of these pods.
    fn remember(&self, name: &'static str, namespace: &str, selector: &str, what: &str) -> Step {
        let get = format!(
            "kubectl get pods --namespace {namespace} {selector} --output jsonpath={{.items[0]{what}}}"
        );
        Step::Remember(name, self.in_cluster(&get))
    }

    fn until(&self, what: &'static str, arguments: &str, shows: Shows, within: Duration) -> Step {
        Step::Until {
            what,
            line: self.in_cluster(&format!("kubectl {arguments}")),
            shows,
            within,
        }
    }

    fn kubectl(&self, arguments: &str) -> Step {
        Step::Run(self.in_cluster(&format!("kubectl {arguments}")))
    }

    /// The command, from a workstation's view, with the exit code that it must have.
    fn meshmedic(&self, arguments: &str, code: i32) -> Step {
        let run = format!("cargo run --quiet --locked --package meshmedic-cli -- {arguments}");
        Step::Expect(self.in_cluster(&run), Shows::Exit(code))
    }

    /// A command that takes the cluster from a flag, as all of these do.
    fn in_cluster(&self, command: &str) -> Line {
        Line::new(&format!("{command} --kubeconfig")).path(&self.kubeconfig)
    }
}

/// An Event of `$POD`.
fn event(reason: &str) -> String {
    format!(
        "get events --namespace {SAMPLE} --field-selector involvedObject.name=$POD,reason={reason} --output name"
    )
}

fn say(text: &str) -> Step {
    Step::Say(text.to_owned())
}
