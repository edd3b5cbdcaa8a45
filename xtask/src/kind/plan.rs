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
    kubeconfig: String,
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
            kubeconfig: folder.join(format!("{name}.kubeconfig")).display().to_string(),
            folder: folder.to_owned(),
        }
    }

    pub(super) fn workspace(&self) -> &Path {
        self.workspace
    }

    pub(super) fn up(&self) -> Vec<Step> {
        let mut steps = vec![
            say("A cluster of three nodes"),
            Step::Run(Line::new([
                "kind",
                "create",
                "cluster",
                "--name",
                self.name,
                "--config",
                CLUSTER,
                "--kubeconfig",
                &self.kubeconfig,
                "--wait",
                "3m",
            ])),
            say("Istio in ambient mode"),
        ];
        steps.extend(self.istio());
        steps.extend([
            say("An application in the mesh"),
            self.kubectl(&["apply", "--filename", APPLICATION]),
            self.kubectl(&[
                "rollout",
                "status",
                "deployment/echo",
                "--namespace",
                SAMPLE,
                "--timeout",
                "3m",
            ]),
            self.kubectl(&[
                "wait",
                "pod",
                "--namespace",
                SAMPLE,
                "--selector",
                APP,
                "--for",
                &format!("{REDIRECTION}=enabled"),
                "--timeout",
                "2m",
            ]),
            say(&format!(
                "To look at it yourself: export KUBECONFIG={}",
                self.kubeconfig
            )),
        ]);
        steps
    }

    fn istio(&self) -> Vec<Step> {
        match self.installer {
            Installer::Istioctl => vec![Step::Run(Line::new([
                "istioctl",
                "install",
                "--set",
                "profile=ambient",
                "--skip-confirmation",
                "--kubeconfig",
                &self.kubeconfig,
            ]))],
            Installer::Helm => [
                ("istio-base", "base"),
                ("istiod", "istiod"),
                ("istio-cni", "cni"),
                ("ztunnel", "ztunnel"),
            ]
            .map(|(release, chart)| {
                Step::Run(Line::new([
                    "helm",
                    "upgrade",
                    "--install",
                    release,
                    chart,
                    "--repo",
                    CHARTS,
                    "--version",
                    ISTIO,
                    "--namespace",
                    "istio-system",
                    "--create-namespace",
                    "--set",
                    "profile=ambient",
                    "--wait",
                    "--kubeconfig",
                    &self.kubeconfig,
                ]))
            })
            .into(),
        }
    }

    pub(super) fn load(&self) -> Vec<Step> {
        let folder = self.folder.display().to_string();
        let machine = if ARCH == "aarch64" { "arm64" } else { "amd64" };
        let archive = format!(
            "{folder}/meshmedic-{}-linux-{machine}.tar",
            env!("CARGO_PKG_VERSION")
        );
        vec![
            say("The image, onto every node"),
            Step::Run(Line::new(["cargo", "xtask", "image", "--out", &folder])),
            Step::Run(Line::new([
                "kind",
                "load",
                "image-archive",
                &archive,
                "--name",
                self.name,
            ])),
            say("An agent on every node, which detects and changes nothing"),
            self.kubectl(&["apply", "--filename", DETECT]),
            // Its image may have changed under the same name.
            self.kubectl(&["rollout", "restart", "daemonset/meshmedic", "--namespace", AGENTS]),
            self.agents_ready(),
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
        let mut steps = vec![
            say("A pod of the application, out of the mesh: ztunnel closes its listeners"),
            self.remember(
                "POD",
                &[
                    "--selector",
                    APP,
                    "--output",
                    "jsonpath={.items[0].metadata.name}",
                ],
            ),
            self.kubectl(&[
                "label",
                "pod",
                "$POD",
                "--namespace",
                SAMPLE,
                "istio.io/dataplane-mode=none",
            ]),
            self.until(
                "",
                &[
                    "get",
                    "pod",
                    "$POD",
                    "--namespace",
                    SAMPLE,
                    "--output",
                    REDIRECTION,
                ],
                Shows::Nothing,
                MINUTES,
            ),
            say("And istio-cni believes that it is in: an orphan"),
        ];
        steps.push(self.kubectl(&[
            "patch",
            "pod",
            "$POD",
            "--namespace",
            SAMPLE,
            "--type",
            "merge",
            "--patch",
            r#"{"metadata":{"labels":{"istio.io/dataplane-mode":null},"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#,
        ]));
        steps
    }

    fn restart_node(&self) -> Vec<Step> {
        vec![
            say("A node that hosts the application goes down hard, and comes back"),
            self.remember(
                "NODE",
                &[
                    "--selector",
                    APP,
                    "--output",
                    "jsonpath={.items[0].spec.nodeName}",
                ],
            ),
            Step::Run(Line::new(["docker", "restart", "-t", "0", "$NODE"])),
            say("Its pods start anew. Which of them istio-cni misses is a race: some, all, or none"),
            // What the API says of the node and its pods is stale for a while; the node's own runtime knows.
            Step::Until {
                what: "",
                line: Line::new([
                    "docker",
                    "exec",
                    "$NODE",
                    "crictl",
                    "pods",
                    "--namespace",
                    SAMPLE,
                    "--state",
                    "Ready",
                    "--quiet",
                ]),
                shows: Shows::Something,
                within: MINUTES,
            },
            self.kubectl(&[
                "wait",
                "node",
                "$NODE",
                "--for",
                "condition=Ready",
                "--timeout",
                "3m",
            ]),
            self.kubectl(&[
                "rollout",
                "status",
                "daemonset/ztunnel",
                "--namespace",
                "istio-system",
                "--timeout",
                "3m",
            ]),
            self.kubectl(&[
                "rollout",
                "status",
                "deployment/echo",
                "--namespace",
                SAMPLE,
                "--timeout",
                "3m",
            ]),
            say(&format!(
                "Who fell out: cargo run --package meshmedic-cli -- scan --kubeconfig {}",
                self.kubeconfig
            )),
        ]
    }

    pub(super) fn e2e(&self) -> Vec<Step> {
        let mut steps = vec![
            say("Nobody is out of the mesh"),
            self.meshmedic(&["scan", "--namespace", SAMPLE], 0),
        ];
        steps.extend(self.close_listeners());
        steps.extend([
            Step::Mark("the loss of the pod's capture"),
            say("Found, and told of: an Event, the metrics of the node's agent, the scan and its exit code"),
            self.until(
                "an Event tells of it",
                &[
                    "get",
                    "events",
                    "--namespace",
                    SAMPLE,
                    "--field-selector",
                    "involvedObject.name=$POD,reason=MeshCaptureLost",
                    "--output",
                    "name",
                ],
                Shows::Something,
                VERDICT,
            ),
            self.remember(
                "NODE",
                &[
                    "--field-selector",
                    "metadata.name=$POD",
                    "--output",
                    "jsonpath={.items[0].spec.nodeName}",
                ],
            ),
            self.agent_of_the_node(),
            self.until(
                "a metric tells of it",
                &METRICS,
                Shows::Text("meshmedic_orphans_total 1".to_owned()),
                VERDICT,
            ),
            self.meshmedic(&["scan", "--namespace", SAMPLE, "--output", "wide"], 1),
            self.meshmedic(&["repair", "--namespace", SAMPLE], 1),
            say("Healed, once the agents may: by eviction, and only after the successor was proved captured"),
            self.kubectl(&["apply", "--kustomize", REPAIR]),
            Step::Mark("the permission to repair"),
            self.agents_ready(),
            self.until(
                "the pod is evicted",
                &[
                    "get",
                    "pod",
                    "$POD",
                    "--namespace",
                    SAMPLE,
                    "--ignore-not-found",
                    "--output",
                    "name",
                ],
                Shows::Nothing,
                MINUTES,
            ),
            self.until(
                "an Event tells that its successor is captured",
                &[
                    "get",
                    "events",
                    "--namespace",
                    SAMPLE,
                    "--field-selector",
                    "involvedObject.name=$POD,reason=MeshRepairSucceeded",
                    "--output",
                    "name",
                ],
                Shows::Something,
                MINUTES,
            ),
            self.agent_of_the_node(),
            self.until(
                "a metric tells of the repair",
                &METRICS,
                Shows::Text(r#"meshmedic_repairs_total{action="evict",result="succeeded"} 1"#.to_owned()),
                VERDICT,
            ),
            self.meshmedic(&["scan", "--namespace", SAMPLE], 0),
            self.meshmedic(&["status"], 0),
            say("Back to detection alone"),
            self.kubectl(&["delete", "--kustomize", REPAIR]),
            self.kubectl(&["apply", "--filename", DETECT]),
        ]);
        steps
    }

    pub(super) fn down(&self) -> Vec<Step> {
        vec![Step::Run(Line::new([
            "kind",
            "delete",
            "cluster",
            "--name",
            self.name,
            "--kubeconfig",
            &self.kubeconfig,
        ]))]
    }

    fn agents_ready(&self) -> Step {
        self.kubectl(&[
            "rollout",
            "status",
            "daemonset/meshmedic",
            "--namespace",
            AGENTS,
            "--timeout",
            "3m",
        ])
    }

    /// The agent on `$NODE`, as `$AGENT`.
    fn agent_of_the_node(&self) -> Step {
        Step::Remember(
            "AGENT",
            self.line(&[
                "get",
                "pods",
                "--namespace",
                AGENTS,
                "--selector",
                "app.kubernetes.io/name=meshmedic",
                "--field-selector",
                "spec.nodeName=$NODE,status.phase=Running",
                "--output",
                "jsonpath={.items[0].metadata.name}",
            ]),
        )
    }

    /// Something of the application's pods.
    fn remember(&self, name: &'static str, what: &[&str]) -> Step {
        Step::Remember(
            name,
            self.line(&[&["get", "pods", "--namespace", SAMPLE], what].concat()),
        )
    }

    fn until(&self, what: &'static str, words: &[&str], shows: Shows, within: Duration) -> Step {
        Step::Until {
            what,
            line: self.line(words),
            shows,
            within,
        }
    }

    fn kubectl(&self, words: &[&str]) -> Step {
        Step::Run(self.line(words))
    }

    fn line(&self, words: &[&str]) -> Line {
        let start = ["kubectl", "--kubeconfig", &self.kubeconfig];
        Line(start.iter().chain(words).map(|&word| word.to_owned()).collect())
    }

    /// The command, from a workstation's view, with the exit code that it must have.
    fn meshmedic(&self, words: &[&str], code: i32) -> Step {
        let start = [
            "cargo",
            "run",
            "--quiet",
            "--locked",
            "--package",
            "meshmedic-cli",
            "--",
        ];
        let end = ["--kubeconfig", &self.kubeconfig];
        let words = start.iter().chain(words).chain(&end);
        Step::Expect(
            Line(words.map(|&word| word.to_owned()).collect()),
            Shows::Exit(code),
        )
    }
}

/// The metrics of `$AGENT`, through the API server.
const METRICS: [&str; 3] = [
    "get",
    "--raw",
    "/api/v1/namespaces/meshmedic/pods/$AGENT:9100/proxy/metrics",
];

fn say(text: &str) -> Step {
    Step::Say(text.to_owned())
}
