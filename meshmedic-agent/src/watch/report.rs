// SPDX-License-Identifier: Apache-2.0
//! What is known of a node, in the words that are shared.

use meshmedic_common::report::{API_VERSION, ConditionReport, NODE_REPORT, NodeReport, PodReport, Recent};
use meshmedic_common::rules::PodRules;
use meshmedic_common::traffic::Connections;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Condition, State};

use super::Watch;

impl Watch {
    /// The node and its pods as they are known now.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        let mut conditions = Vec::new();
        if let Some(fault) = self.engine.node_fault() {
            conditions.push(ConditionReport {
                condition: Condition::NodeFault,
                detail: fault.to_owned(),
            });
        }
        if self.engine.mass_loss() {
            let detail = Condition::MassLoss.sentence().to_owned();
            conditions.push(ConditionReport {
                condition: Condition::MassLoss,
                detail,
            });
        }
        if let Some(detail) = self.sources.census_failure() {
            conditions.push(ConditionReport {
                condition: Condition::CensusDegraded,
                detail: detail.to_owned(),
            });
        }
        let mut pods: Vec<PodReport> = self.engine.views().map(|(uid, _)| self.pod_report(uid)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        NodeReport {
            api_version: API_VERSION.to_owned(),
            kind: NODE_REPORT.to_owned(),
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trigger: self.trigger(),
            conditions,
            ztunnel: self.sources.ztunnel.iter().map(|&(pid, _)| pid).collect(),
            serves: None,
            at: None,
            booted: None,
            budgets: None,
            breakers: Vec::new(),
            repairs: Recent::default(),
            confinement: None,
            cni_folder: None,
            overlay: None,
            istio: None,
            strangers: Vec::new(),
            pods,
        }
    }

    /// What is said of the rules of a pod of which they were not read.
    fn unread_rules(&self, state: State) -> Option<PodRules> {
        let unknown = || PodRules::unknown(self.sources.unread());
        (state == State::Captured || state.is_finding()).then(unknown)
    }

    fn pod_report(&self, uid: &PodUid) -> PodReport {
        let view = self
            .engine
            .view(uid)
            .expect("the engine knows the pods that it lists");
        let name = self.name(uid);
        let mapping = self.index.get(uid).ok();
        PodReport {
            namespace: name.map(|name| name.namespace.clone()),
            name: name.map(|name| name.name.clone()),
            uid: uid.clone(),
            state: view.state,
            reason: view.reason,
            detail: view.detail.map(str::to_owned),
            ports: view.ports,
            owner: view.owner,
            held_by: view.holders.to_vec(),
            redirection: view.redirection,
            rules: view
                .rules
                // Nobody judges it.
                .filter(|_| view.state != State::Exempt)
                .or_else(|| self.unread_rules(view.state)),
            connections: view.connections.or_else(|| {
                view.state
                    .is_held()
                    .then(|| Connections::unknown(self.sources.uncounted()))
            }),
            traffic: view.traffic,
            flaps: view.flaps,
            netns: mapping.and_then(|mapping| mapping.netns_inode),
            sandbox: None,
            pid: mapping.map(|mapping| mapping.pid),
            since: None,
            read_at: None,
            expectation: None,
            ready: None,
            stuck: false,
            transitions: Recent::default(),
            repair: None,
            heal: None,
        }
    }
}
