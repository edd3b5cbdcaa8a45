// SPDX-License-Identifier: Apache-2.0
//! Whom a command takes for Istio in the cluster that it speaks with.

use std::sync::{Arc, Mutex, PoisonError};

use meshmedic_common::identity::Identity;
use meshmedic_common::report::NodeReport;

/// Whom a command takes for Istio.
#[derive(Clone, Debug, Default)]
pub(crate) struct Istio {
    /// Who may speak for it.
    pub(crate) identity: Identity,
    /// What people should know about that.
    pub(crate) notes: Vec<String>,
    /// The report of the agent that was asked; whoever wants it next need not ask again.
    pub(crate) heard: Arc<Mutex<Option<Heard>>>,
}

/// What an agent reported.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The UID of its pod.
    pub(crate) agent: String,
    pub(crate) report: NodeReport,
}

impl Istio {
    /// The report of this agent, once, if it was heard already.
    pub(crate) fn take_heard(&self, agent: &str) -> Option<NodeReport> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_agent = heard.take_if(|heard| heard.agent == agent);
        of_agent.map(|heard| heard.report)
    }
}
