// SPDX-License-Identifier: Apache-2.0
//! The cluster, by kubectl and by the command that is shown.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::E2eArgs;
use crate::interrupt::Interrupt;

pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
const MODE: &str = "istio.io/dataplane-mode";
/// By this label a later run knows a namespace as one of its own.
const OURS: &str = "meshmedic.io/e2e";
/// On ztunnel's DaemonSet while it is kept from a node: what its pods' affinity was.
pub(super) const WAY_BACK: &str = "meshmedic.io/e2e-affinity-before";
/// How long a step may take on a slow cluster that first pulls an image.
const PATIENCE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(500);

pub(super) struct Cluster {
    /// By what every program is told which cluster it is.
    which: Vec<OsString>,
    program: PathBuf,
    pub(super) namespace: String,
    pub(super) istio: String,
    image: String,
    begun: Instant,
    interrupt: Interrupt,
}

/// A pod as it is now.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: String,
    restarts: u64,
    redirection: String,
    /// What was asked for it last.
    asked: String,
    ready: bool,
}

impl Pod {
    fn read(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
        let (metadata, status) = (&object["metadata"], &object["status"]);
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let restarts = |container: &Value| container["restartCount"].as_u64();
        Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            restarts: of(&status["containerStatuses"]).iter().filter_map(restarts).sum(),
            redirection: text(&metadata["annotations"][REDIRECTION]),
            asked: text(&metadata["annotations"]["meshmedic.io/heal"]),
            ready: of(&status["conditions"]).iter().any(ready),
        }
    }
}

impl Cluster {
    pub(super) fn new(args: &E2eArgs, program: PathBuf, interrupt: Interrupt) -> Self {
        let mut which: Vec<OsString> = vec!["--kubeconfig".into(), args.kubeconfig.clone().into()];
        if let Some(context) = &args.context {
            which.extend(["--context".into(), context.into()]);
        }
        Self {
            which,
            program,
            namespace: args.namespace.clone(),
            istio: args.istio_namespace.clone(),
            image: args.image.clone(),
            begun: Instant::now(),
            interrupt,
        }
    }

    pub(super) fn say(&self, what: &str) {
        println!("{:>6.1} s  {what}", self.begun.elapsed().as_secs_f32());
    }

    /// Whether there is a mesh to show anything in.
    pub(super) fn check(&self) -> Result<()> {
        for component in ["ztunnel", "istio-cni-node"] {
            let ready = self.kubectl(&[
                "--namespace",
                &self.istio,
                "get",
                "daemonset",
                component,
                "--output",
                "jsonpath={.status.numberReady}",
            ]);
            let ready = ready.with_context(|| {
                format!(
                    "there is no DaemonSet {component} in {}: name its namespace by --istio-namespace",
                    self.istio
                )
            })?;
            ensure!(
                !["", "0"].contains(&ready.trim()),
                "no pod of the DaemonSet {component} is Ready: look at it first"
            );
        }
        Ok(())
    }

    /// Removes what this or an earlier run made. It begins nothing that Ctrl-C would have to stop.
    pub(super) fn clear(&self) -> Result<()> {
        self.give_back_ztunnel()?;
        let found = self.kubectl(&[
            "get",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
            "--output",
            "json",
        ])?;
        if found.trim().is_empty() {
            return Ok(());
        }
        let found: Value = serde_json::from_str(&found).context("kubectl does not print JSON")?;
        ensure!(
            found["metadata"]["labels"][OURS] == "true",
            "there is a namespace {} that is not of this task: remove it, or choose another by --namespace",
            self.namespace
        );
        self.kubectl(&[
            "delete",
            "namespace",
            &self.namespace,
            "--wait",
            "--timeout",
            "300s",
        ])?;
        Ok(())
    }

    /// Lets ztunnel run again where it ran before.
    pub(super) fn give_back_ztunnel(&self) -> Result<()> {
        let get = [
            "get",
            "daemonset",
            "ztunnel",
            "--ignore-not-found",
            "--output",
            "json",
        ];
        let found = self.kubectl(&[&["--namespace", &self.istio][..], &get].concat())?;
        if found.trim().is_empty() {
            return Ok(());
        }
        let found: Value = serde_json::from_str(&found).context("kubectl does not print JSON")?;
        let Some(before) = found["metadata"]["annotations"][WAY_BACK].as_str() else {
            return Ok(());
        };
        let before: Value = serde_json::from_str(before)
            .with_context(|| format!("the annotation {WAY_BACK} of the DaemonSet ztunnel is no JSON"))?;
        let affinity = match before {
            Value::Null => json!({ "op": "remove", "path": "/spec/template/spec/affinity" }),
            before => json!({ "op": "replace", "path": "/spec/template/spec/affinity", "value": before }),
        };
        let path = format!("/metadata/annotations/{}", WAY_BACK.replace('/', "~1"));
        let patch = json!([affinity, { "op": "remove", "path": path }]).to_string();
        let patch = [
            "patch",
            "daemonset",
            "ztunnel",
            "--type",
            "json",
            "--patch",
            &patch,
        ];
        self.kubectl(&[&["--namespace", &self.istio][..], &patch].concat())?;
        Ok(())
    }

    /// The namespace, in the mesh. Agents of the cluster leave it alone: what is shown is what this task does.
    pub(super) fn make_namespace(&self) -> Result<()> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": self.namespace,
                "labels": { MODE: "ambient", OURS: "true" },
                "annotations": { "meshmedic.io/repair": "disabled" },
            },
        }))
    }

    /// An application, wherever the scheduler has room or on one node.
    pub(super) fn deploy(&self, name: &str, replicas: usize, node: Option<&str>) -> Result<()> {
        let labels = json!({ "app": name });
        let selector = node.map(|node| json!({ "kubernetes.io/hostname": node }));
        self.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "nodeSelector": selector,
                        "containers": [{
                            "name": name,
                            "image": self.image,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["sleep", "2147483647"],
                        }],
                    },
                },
            },
        }))
    }

    /// Waits for an application whose pods are all Ready, and enrolled as istio-cni says.
    pub(super) fn enrolled(&self, name: &str, count: usize) -> Result<Vec<Pod>> {
        self.until(&format!("{count} enrolled pods of {name}"), || {
            let pods = self.pods(name)?;
            let enrolled = |pod: &Pod| pod.ready && pod.redirection == "enabled";
            Ok((pods.len() == count && pods.iter().all(enrolled)).then_some(pods))
        })
    }

    /// The pods of an application that are not leaving.
    pub(super) fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let selector = format!("app={name}");
        let list = self.in_namespace(&["get", "pods", "--selector", &selector, "--output", "json"])?;
        let list: Value = serde_json::from_str(&list).context("kubectl does not print JSON")?;
        let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        Ok(items.iter().filter(stays).map(Pod::read).collect())
    }

    /// Fails unless this very pod is there and was never started anew.
    pub(super) fn untouched(&self, app: &str, pod: &Pod) -> Result<()> {
        let pods = self.pods(app)?;
        let now = pods.iter().find(|now| now.uid == pod.uid);
        let now = now.with_context(|| format!("the pod {} was replaced", pod.name))?;
        ensure!(
            now.restarts == pod.restarts,
            "the pod {} was started anew",
            pod.name
        );
        Ok(())
    }

    /// Fails if istio-cni was asked for one of these since.
    pub(super) fn unasked(&self, app: &str, pods: &[Pod]) -> Result<()> {
        let now = self.pods(app)?;
        for pod in pods {
            let same = now.iter().any(|now| now.uid == pod.uid && now.asked == pod.asked);
            ensure!(same, "istio-cni was asked for {}", pod.name);
        }
        Ok(())
    }

    /// Takes a pod out of the mesh in the regular way, and puts back only what istio-cni wrote about it: label and
    /// annotation in one change, so that istio-cni never sees a difference to act upon.
    pub(super) fn orphan(&self, app: &str, pod: &Pod) -> Result<()> {
        self.in_namespace(&["label", "pod", &pod.name, &format!("{MODE}=none")])?;
        self.until("istio-cni to let the pod go", || {
            let pods = self.pods(app)?;
            let now = pods.iter().find(|now| now.uid == pod.uid);
            Ok(now.is_some_and(|now| now.redirection.is_empty()).then_some(()))
        })?;
        let back = json!({ "metadata": {
            "labels": { MODE: null },
            "annotations": { REDIRECTION: "enabled" },
        } });
        let back = back.to_string();
        self.in_namespace(&["patch", "pod", &pod.name, "--type", "merge", "--patch", &back])?;
        Ok(())
    }

    /// Runs the command that is shown, and holds it to its exit code.
    pub(super) fn meshmedic(&self, words: &[&str], code: i32) -> Result<String> {
        self.interrupt.check()?;
        let mut command = Command::new(&self.program);
        command.args(words).args(&self.which).stdin(Stdio::null());
        let output = command.output();
        let output = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        self.interrupt.check()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.code() == Some(code),
            "meshmedic {} should end with {code}, and did with {}:\n{text}{}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// The same for programs, whatever it ends with.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        self.interrupt.check()?;
        let mut command = Command::new(&self.program);
        command.args(words).args(["--output", "json"]).args(&self.which);
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        self.interrupt.check()?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "meshmedic {} wrote no JSON, and this besides: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    /// Waits until a scan says this of every one of these pods. Agents that started just now, and a ztunnel that did,
    /// let nothing be proved yet: then a pod is neither well nor lost.
    pub(super) fn proved(&self, pods: &[Pod], state: &str) -> Result<()> {
        let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
        self.until(&format!("a scan to say {state} of {}", names.join(", ")), || {
            let found = self.ask(&["scan", "--namespace", &self.namespace])?;
            let found = found["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_so = |pod: &Pod| {
                found
                    .iter()
                    .any(|one| one["uid"] == *pod.uid && one["state"] == state)
            };
            Ok(pods.iter().all(is_so).then_some(()))
        })
    }

    pub(super) fn apply(&self, object: &Value) -> Result<()> {
        let mut child = self
            .command(&["apply", "--filename", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        let mut input = child.stdin.take().context("kubectl has no input")?;
        // What is wrong with it, kubectl says itself.
        let written = input.write_all(object.to_string().as_bytes());
        drop(input);
        let output = child.wait_with_output().context("cannot wait for kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl apply failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        written.context("cannot give kubectl an object")
    }

    pub(super) fn in_namespace(&self, words: &[&str]) -> Result<String> {
        self.kubectl(&[&["--namespace", &self.namespace], words].concat())
    }

    pub(super) fn kubectl(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("cannot run kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl {} failed: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(words)
            .args(&self.which)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for this task, which then clears up by kubectl.
            .process_group(0);
        command
    }

    /// Asks again and again until there is an answer.
    pub(super) fn until<T>(&self, what: &str, answer: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            self.interrupt.check()?;
            if let Some(answer) = answer()? {
                return Ok(answer);
            }
            if begun.elapsed() >= PATIENCE {
                bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
            }
            thread::sleep(STEP);
        }
    }
}
