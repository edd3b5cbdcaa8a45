// SPDX-License-Identifier: Apache-2.0
//! Telling the lab's API server what its pods answer.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use super::{ApiServer, Ephemeral, Exec, Log, Order, PodRef};
use crate::error::Result;

impl ApiServer {
    /// Sets how pods answer to `exec`.
    pub fn set_exec(&self, pods: impl Into<PodRef>, exec: Exec) -> Result<()> {
        self.order(&Order::Exec(pods.into(), Box::new(exec))).map(drop)
    }

    /// Sets what is in the log of pods.
    pub fn set_log(&self, pods: impl Into<PodRef>, log: Log) -> Result<()> {
        self.order(&Order::Log(pods.into(), Box::new(log))).map(drop)
    }

    /// Adds lines to the log of pods, which whoever follows it is shown.
    pub fn append_log(&self, pods: impl Into<PodRef>, text: &str) -> Result<()> {
        self.order(&Order::AppendLog(pods.into(), text.to_owned()))
            .map(drop)
    }

    /// Sets what becomes of ephemeral containers.
    pub fn set_ephemeral(&self, pods: impl Into<PodRef>, ephemeral: Ephemeral) -> Result<()> {
        self.order(&Order::Ephemeral(pods.into(), Box::new(ephemeral)))
            .map(drop)
    }

    /// Forwards a port of pods to an address of the machine, where something stands for what the pod runs.
    pub fn set_forward(&self, pods: impl Into<PodRef>, port: u16, to: SocketAddr) -> Result<()> {
        self.order(&Order::Forward(pods.into(), port, to)).map(drop)
    }

    /// Names the file behind a program that containers start, and behind the entry point of images of that name.
    pub fn set_program(&self, name: &str, path: &Path) -> Result<()> {
        self.order(&Order::Program(name.to_owned(), path.to_owned()))
            .map(drop)
    }

    pub(crate) fn locate(&self, pod: PodRef, pid: u32, logs: Option<&Path>) -> Result<()> {
        let logs = logs.map(Path::to_owned);
        // A real one leads into no pod.
        if self.is_real() {
            return Ok(());
        }
        self.order(&Order::Locate { pod, pid, logs }).map(drop)
    }

    /// Makes many running and ready pods for which nothing runs: `<name>-00000` and so on, after a pod without
    /// status. Unless it says otherwise, they are on a node that no [`crate::Cluster`] has.
    pub fn populate(&self, pod: &Value, count: usize) -> Result<()> {
        let pod = pod.clone();
        self.order(&Order::Populate { pod, count }).map(drop)
    }

    /// Sets whether `exec` and `portforward` over WebSocket need the verb `create` beside `get`. They do since
    /// Kubernetes 1.35, and here unless this says otherwise; earlier they did not.
    pub fn need_create_for_websockets(&self, on: bool) -> Result<()> {
        self.order(&Order::WebSocketsNeedCreate(on)).map(drop)
    }

    /// Installs Istio's CRDs and the Gateway API's. Before that the server knows none of their kinds.
    pub fn install_istio(&self) -> Result<()> {
        self.order(&Order::InstallIstio).map(drop)
    }

    /// How many `exec` sessions run.
    pub fn sessions(&self) -> Result<u64> {
        self.number(&Order::Sessions)
    }

    /// How many ran at once at most, since the requests were last forgotten.
    pub fn peak_sessions(&self) -> Result<u64> {
        self.number(&Order::PeakSessions)
    }
}
