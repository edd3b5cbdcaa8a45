// SPDX-License-Identifier: Apache-2.0
//! The condition `MeshCaptureReady` of this node, for those who act on nodes: whether pods here come into the mesh.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use meshmedic_common::text::clean;
use meshmedic_common::time::Time;
use serde_json::json;
use tokio::task::JoinSet;

/// The condition's type.
const MESH_CAPTURE_READY: &str = "MeshCaptureReady";
/// It is written at least this often, so that a reader can see whether somebody still watches.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// After a write that failed the next one waits for this.
const AGAIN: Duration = Duration::from_secs(30);
/// The longest message, which the admission policy holds an agent to as well.
const MESSAGE_MOST: usize = 400;
/// The API's answer to those who may not.
const FORBIDDEN: u16 = 403;

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capture {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Capture {
    /// As the node stands. `fault` is what keeps ztunnel or istio-cni of this node from its work.
    fn of(decided: bool, fault: Option<&str>, mass_loss: bool) -> Self {
        let capture = |status, reason, message: &str| Self {
            status,
            reason,
            message: clean(message, MESSAGE_MOST),
        };
        match fault {
            Some(fault) => capture("False", "NodeFault", fault),
            None if mass_loss => capture(
                "False",
                "MassLoss",
                "ztunnel is well, and most pods of this node lost their capture",
            ),
            None if decided => capture("True", "Captures", "ztunnel and istio-cni of this node are well"),
            None => capture(
                "Unknown",
                "Starting",
                "the agent has not read the pods of this node yet",
            ),
        }
    }
}

/// What stands at the API: its status, and since when.
type Standing = (String, Option<Timestamp>);

/// Keeps the condition.
pub(super) struct NodeCondition {
    /// None where it is not to be kept.
    client: Option<Client>,
    node: String,
    /// What was written last, and when.
    written: Option<(Capture, Time)>,
    standing: Option<Standing>,
    running: JoinSet<(Capture, kube::Result<Standing>)>,
    not_before: Option<Time>,
    complained: bool,
    /// Whether all pods were read once: from then on what is not at fault is well.
    decided: bool,
}

impl NodeCondition {
    pub(super) fn new(client: Option<Client>, node: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            written: None,
            standing: None,
            running: JoinSet::new(),
            not_before: None,
            complained: false,
            decided: false,
        }
    }

    /// Writes it if it changed, or if nothing was written for long. `server` is the API server's time, `decided` says
    /// whether every pod was read and no loss is being confirmed.
    pub(super) fn keep(
        &mut self,
        now: Time,
        server: Timestamp,
        decided: impl FnOnce() -> bool,
        fault: Option<&str>,
        mass_loss: bool,
    ) {
        let Some(client) = self.client.clone() else {
            return;
        };
        while let Some(Ok((capture, result))) = self.running.try_join_next() {
            self.take(now, capture, result);
        }
        self.decided = self.decided || decided();
        if !self.running.is_empty() {
            return;
        }
        let capture = Capture::of(self.decided, fault, mass_loss);
        let waits = self.not_before.is_some_and(|at| now < at);
        let stands = self
            .written
            .as_ref()
            .is_some_and(|(written, at)| *written == capture && now.since(*at) < HEARTBEAT);
        if waits || stands {
            return;
        }
        let (node, standing) = (self.node.clone(), self.standing.clone());
        self.running.spawn(async move {
            let result = write(client, &node, &capture, standing, server).await;
            (capture, result)
        });
    }

    fn take(&mut self, now: Time, capture: Capture, result: kube::Result<Standing>) {
        match result {
            Ok(standing) => {
                if self
                    .written
                    .as_ref()
                    .is_none_or(|(written, _)| *written != capture)
                {
                    tracing::info!(
                        status = capture.status,
                        reason = capture.reason,
                        "the node's condition {MESH_CAPTURE_READY} is written"
                    );
                }
                (self.written, self.standing) = (Some((capture, now)), Some(standing));
                (self.not_before, self.complained) = (None, false);
            }
            Err(error) => {
                self.not_before = Some(now + AGAIN);
                let remedy = match &error {
                    kube::Error::Api(status) if status.code == FORBIDDEN => {
                        "apply deploy/kustomize/node-condition, or leave out --node-condition"
                    }
                    _ => "it is tried again",
                };
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(node = self.node, %error, "the node's condition {MESH_CAPTURE_READY} cannot be written: {remedy}");
                }
            }
        }
    }
}

/// Writes it, and says what stands then. What stands before is read once, since it says when the status last changed.
async fn write(
    client: Client,
    node: &str,
    capture: &Capture,
    standing: Option<Standing>,
    now: Timestamp,
) -> kube::Result<Standing> {
    let nodes: Api<Node> = Api::all(client);
    let standing = match standing {
        Some(standing) => Some(standing),
        None => {
            let own = ListParams::default().fields(&format!("metadata.name={node}"));
            let found = nodes.list(&own).await?;
            let own = found.items.iter().find(|found| found.name_any() == node);
            own.and_then(read)
        }
    };
    let since = standing
        .filter(|(status, _)| status == capture.status)
        .and_then(|(_, since)| since)
        .unwrap_or(now);
    let condition = json!({
        "type": MESH_CAPTURE_READY,
        "status": capture.status,
        "reason": capture.reason,
        "message": capture.message,
        "lastHeartbeatTime": seconds(now),
        "lastTransitionTime": seconds(since),
    });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
    nodes.patch_status(node, &PatchParams::default(), &patch).await?;
    Ok((capture.status.to_owned(), Some(since)))
}

fn read(node: &Node) -> Option<Standing> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ours = conditions
        .iter()
        .find(|condition| condition.type_ == MESH_CAPTURE_READY)?;
    let since = ours.last_transition_time.as_ref().map(|time| time.0);
    Some((ours.status.clone(), since))
}

/// As the API has times.
fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_to_capture_only_once_its_pods_were_read_and_nothing_is_at_fault() {
        let told = |decided, fault, mass_loss| {
            let capture = Capture::of(decided, fault, mass_loss);
            (capture.status, capture.reason)
        };
        assert_eq!(told(true, None, false), ("True", "Captures"));
        assert_eq!(told(false, None, false), ("Unknown", "Starting"));
        assert_eq!(told(true, None, true), ("False", "MassLoss"));
        for decided in [false, true] {
            assert_eq!(told(decided, Some("no ztunnel"), false), ("False", "NodeFault"));
        }
    }

    #[test]
    fn what_a_fault_says_is_cut_and_cleaned() {
        let long = format!("\u{1b}[2J{}", "x".repeat(2000));
        let message = Capture::of(true, Some(&long), false).message;
        assert!(message.len() <= 512 && !message.contains('\u{1b}'), "{message}");
    }
}
