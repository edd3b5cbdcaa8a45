// SPDX-License-Identifier: Apache-2.0
//! What a kubelet does with an ephemeral container.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::object::{is_deleted, list, map, meta, text};
use super::super::pods::narrowest;
use super::super::resources::known;
use super::super::server::{Server, rfc3339};
use super::super::store::Key;
use super::produce::{Ending, Job, Piece, WAITING, no_program};
use crate::api::pods::PodRef;
use crate::api::pods::{Ephemeral, Exec, Fortune, Log};
use crate::pod::hex;

/// What a container that was not started ends with.
const NOT_STARTED: u8 = 128;
/// When it was started, then.
const NEVER: &str = "1970-01-01T00:00:00Z";

/// One ephemeral container of one pod.
struct Container {
    server: Arc<Server>,
    key: Key,
    uid: String,
    spec: Value,
}

/// Starts the ephemeral containers of a pod that were not started yet.
pub(crate) fn start(server: &Arc<Server>, pod: &Value) {
    if is_deleted(pod) || text(pod, "/status/phase") != "Running" {
        return;
    }
    let started = list(pod, "/status/ephemeralContainerStatuses");
    for spec in list(pod, "/spec/ephemeralContainers") {
        if started.iter().any(|status| status["name"] == spec["name"]) {
            continue;
        }
        let container = Container {
            server: Arc::clone(server),
            key: Key::new(known("pods"), meta(pod, "namespace"), meta(pod, "name")),
            uid: meta(pod, "uid").to_owned(),
            spec: spec.clone(),
        };
        // Told at once, so that nobody starts it twice.
        container.report(json!({ "waiting": { "reason": "ContainerCreating" } }));
        tokio::spawn(container.live());
    }
}

impl Container {
    fn name(&self) -> &str {
        text(&self.spec, "/name")
    }

    fn target(&self) -> PodRef {
        PodRef::new(&self.key.namespace, &self.key.name).container(self.name())
    }

    /// The command; that of an image which is not there to be looked into is its name.
    fn command(&self) -> Vec<String> {
        let words = |field: &str| list(&self.spec, field).iter().filter_map(Value::as_str);
        let image = text(&self.spec, "/image").rsplit('/').next().unwrap_or_default();
        let image = image.split([':', '@']).next().unwrap_or_default();
        let mut command: Vec<_> = words("/command").map(str::to_owned).collect();
        if command.is_empty() {
            command.push(image.to_owned());
        }
        command.extend(words("/args").map(str::to_owned));
        command
    }

    async fn live(self) {
        let target = self.target();
        let (fortune, job) = {
            let mut state = self.server.state();
            let now = state.now();
            state.pods.set_log(target.clone(), Log::text(""), now);
            let fortune = narrowest(&state.pods.ephemeral, &target).cloned();
            let fortune = fortune.map_or_else(
                || {
                    let exec = narrowest(&state.pods.exec, &target).cloned();
                    // What the pod's own containers lack is no concern of another image.
                    let exec = exec.filter(|_| state.pods.place(&target).is_none());
                    Fortune::Runs(Box::new(exec.unwrap_or_else(Exec::run)))
                },
                |Ephemeral(fortune)| fortune,
            );
            let exec = match &fortune {
                Fortune::Runs(exec) => Some((**exec).clone()),
                _ => None,
            };
            let job = Job::new(&state.pods, &target, exec, self.command());
            (fortune, job)
        };
        match fortune {
            Fortune::Waits => {}
            Fortune::NoImage => self.lack_image(),
            Fortune::NoStart(program) => self.not_started(&program),
            Fortune::Runs(_) => self.run(job).await,
        }
    }

    fn lack_image(&self) {
        let image = text(&self.spec, "/image");
        let why = format!(
            "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": pull access \
             denied, repository does not exist or may require authorization"
        );
        self.report(json!({ "waiting": { "reason": "ErrImagePull", "message": why } }));
        let why = format!("Back-off pulling image \"{image}\": ErrImagePull: {why}");
        self.report(json!({ "waiting": { "reason": "ImagePullBackOff", "message": why } }));
    }

    fn not_started(&self, program: &str) {
        let why = format!(
            "failed to create containerd task: failed to create shim task: {}",
            no_program("create", program)
        );
        self.ended(NOT_STARTED, "StartError", &why, NEVER);
    }

    async fn run(&self, job: Job) {
        let (pieces, mut produced) = mpsc::channel(WAITING);
        let mut producer = JoinSet::new();
        producer.spawn(job.produce(pieces));
        let mut began = String::new();
        // Lines are what a log has; what comes after the last end of a line waits for it.
        let mut rest = Vec::new();
        let mut changes = self.server.changes();
        loop {
            let piece = tokio::select! {
                piece = produced.recv() => piece,
                changed = changes.changed() => {
                    if changed.is_err() || !self.has_pod() {
                        return;
                    }
                    continue;
                }
            };
            match piece {
                None => return,
                Some(Piece::Started) => {
                    began = self.now();
                    self.report(json!({ "running": { "startedAt": began } }));
                }
                Some(Piece::Out(bytes) | Piece::Err(bytes)) => {
                    rest.extend_from_slice(&bytes);
                    let end = rest.iter().rposition(|byte| *byte == b'\n');
                    let whole: Vec<_> = rest.drain(..end.map_or(0, |end| end + 1)).collect();
                    self.write(&whole);
                }
                Some(Piece::End(ending)) => {
                    self.write(&rest);
                    match ending {
                        Ending::Exit(0) => self.ended(0, "Completed", "", &began),
                        Ending::Exit(code) => self.ended(code, "Error", "", &began),
                        Ending::NoProgram(program) => self.not_started(&program),
                        // Nothing runs for this pod, so nothing is started.
                        Ending::NoContainer | Ending::Status(_) => {}
                    }
                    return;
                }
            }
        }
    }

    /// Whether the pod is still there.
    fn has_pod(&self) -> bool {
        let state = self.server.state();
        let pod = state.store.get(&self.key);
        pod.is_some_and(|pod| meta(pod, "uid") == self.uid)
    }

    fn write(&self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let mut state = self.server.state();
        let now = state.now();
        state.pods.add_log(self.target(), text, now);
        drop(state);
        self.server.changed();
    }

    fn now(&self) -> String {
        rfc3339(self.server.state().now())
    }

    fn ended(&self, code: u8, reason: &str, message: &str, began: &str) {
        let mut ended = json!({
            "exitCode": code,
            "reason": reason,
            "startedAt": began,
            "finishedAt": self.now(),
            "containerID": self.id(),
        });
        if !message.is_empty() {
            ended["message"] = message.into();
        }
        self.report(json!({ "terminated": ended }));
    }

    fn id(&self) -> String {
        format!(
            "containerd://{}",
            hex(&format!("{}/{}", self.uid, self.name()), 64)
        )
    }

    /// Tells a state, unless the pod is gone.
    fn report(&self, is: Value) {
        let mut state = self.server.state();
        let found = state.store.get(&self.key).cloned();
        let Some(pod) = found.filter(|pod| meta(pod, "uid") == self.uid) else {
            return;
        };
        let mut pod = (*pod).clone();
        let entry = json!({
            "name": self.name(),
            "image": self.spec["image"],
            "imageID": "",
            "containerID": if is["waiting"].is_null() { self.id() } else { String::new() },
            "ready": false,
            "restartCount": 0,
            "lastState": {},
            "state": is,
        });
        let statuses = map(&mut pod["status"])
            .entry("ephemeralContainerStatuses")
            .or_insert(json!([]));
        if let Value::Array(statuses) = statuses {
            match statuses
                .iter_mut()
                .find(|other| other["name"] == self.spec["name"])
            {
                Some(other) => *other = entry,
                None => statuses.push(entry),
            }
        }
        state.store.put(self.key.clone(), pod);
        drop(state);
        self.server.changed();
    }
}
