// SPDX-License-Identifier: Apache-2.0
//! What would be done to each pod, or which rule forbids it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::ListParams;
use kube::core::{Selector, SelectorExt as _};
use meshmedic_common::eligibility::Enablement;
use meshmedic_common::facts::Labels;
use meshmedic_common::facts::{Controller, PodFacts};
use meshmedic_common::kube::control::Pause;
use meshmedic_common::kube::facts::{NamespaceFacts, is_cordoned, namespace_facts, standing};
use meshmedic_common::kube::identity;
use meshmedic_common::policy::{Gates, Means, Standing, Withheld, forbids};
use meshmedic_common::repair::gate_detail;
use meshmedic_common::verdict::{Reason, State};

use super::records::Records;
use super::{Action, How, Item, Risks, Strategy};
use crate::connection::{Connection, Failure};
use crate::scan::ScannedPod;
use crate::selection::{Mesh, Selection, again, list, select};

/// What holds above the pods.
pub(crate) struct World {
    mesh: Mesh,
    settle: Duration,
    namespaces: BTreeMap<String, NamespaceFacts>,
    /// Nodes that are cordoned, or that the API does not know.
    cordoned: BTreeSet<String>,
    pub(crate) paused: Option<Pause>,
    /// Why a successor would get no identity.
    mesh_fault: Option<String>,
    budgets: BTreeMap<String, Result<Vec<Budget>, String>>,
    /// What the scan proved orphans, by UID.
    pub(super) orphans: BTreeSet<String>,
}

/// A PodDisruptionBudget.
struct Budget {
    name: String,
    selector: Selector,
    allowed: i32,
    /// Whether it lets a pod go that is not Ready.
    frees_unready: bool,
}

/// A pod that is out of the mesh, and what is to be done.
pub(crate) struct Planned {
    pub(crate) pod: ScannedPod,
    /// As the API shows it; none if it is gone or another by now.
    pub(crate) facts: Option<PodFacts>,
    /// Why it is left alone.
    pub(crate) withheld: Option<(Withheld, Option<String>)>,
    /// What is done, for people.
    pub(crate) act: String,
    /// Whether somebody left a toggle of it half done.
    pub(crate) left: bool,
}

/// Pods of which a toggle was left half done: out of the mesh by the label, which is to be put back.
pub(super) async fn left_behind(
    connection: &Connection,
    selection: &Selection,
) -> anyhow::Result<Vec<Planned>> {
    let selected = select(connection, selection).await?;
    let left = selected.pods.into_values().filter(|target| {
        let facts = &target.facts;
        facts.toggle_restore.is_some() && !facts.deleting && !facts.finished
    });
    Ok(left
        .map(|target| Planned {
            pod: ScannedPod::unread(&target, State::Exempt, Some(Reason::OptedOut), None),
            withheld: None,
            act: "a toggle was left half done: its label is put back".to_owned(),
            left: true,
            facts: Some(target.facts),
        })
        .collect())
}

impl World {
    /// Reads it. What a rule depends on must be readable.
    pub(crate) async fn read(
        connection: &Connection,
        selection: &Selection,
        agents: &str,
        settle: Duration,
        lost: &[ScannedPod],
    ) -> anyhow::Result<Self> {
        let mesh = Mesh::read(connection, selection).await?;
        let paused = crate::control::read(connection, agents).await?;
        let what = "reading istiod's endpoints and the pods behind them";
        let read = || identity::istiod(&connection.client, &connection.istio.identity);
        let istiod = connection.ask(what, read).await?;
        let mut namespaces = BTreeMap::new();
        let mut budgets = BTreeMap::new();
        for name in lost.iter().map(|pod| &pod.namespace).collect::<BTreeSet<_>>() {
            let api: Api<Namespace> = Api::all(connection.client.clone());
            let what = format!("reading namespace {name}");
            let found = connection.ask(&what, || api.get(name)).await?;
            namespaces.insert(name.clone(), namespace_facts(&found));
            let found = budgets_of(connection, name).await;
            budgets.insert(name.clone(), found.map_err(|failure| failure.short()));
        }
        let mut cordoned = BTreeSet::new();
        for name in lost
            .iter()
            .filter_map(|pod| pod.node.as_ref())
            .collect::<BTreeSet<_>>()
        {
            let api: Api<Node> = Api::all(connection.client.clone());
            let what = format!("reading node {name}");
            let found = connection.ask(&what, || api.get_opt(name)).await?;
            if found.as_ref().is_none_or(is_cordoned) {
                cordoned.insert(name.clone());
            }
        }
        Ok(Self {
            mesh,
            settle,
            namespaces,
            cordoned,
            paused,
            mesh_fault: istiod.fault(),
            budgets,
            orphans: lost
                .iter()
                .filter(|pod| pod.state == State::Orphan)
                .map(|pod| pod.uid.clone())
                .collect(),
        })
    }

    /// Whom the istio-cni of a pod's node enrols.
    pub(super) fn enablement(&self, pod: &PodFacts) -> Enablement {
        self.mesh.enablement(pod)
    }

    /// The labels of a namespace.
    pub(super) fn labels(&self, namespace: &str) -> Labels {
        let known = self.namespaces.get(namespace);
        known.map(|known| known.labels.clone()).unwrap_or_default()
    }

    /// What holds above a pod of this node.
    pub(crate) fn gates(&self, connection: &Connection, node: &str) -> Gates {
        let fault = self.mesh.node_fault(node, self.settle, connection.clock.now());
        Gates {
            node_fault: fault.map(|fault| fault.to_string()),
            mesh_fault: self.mesh_fault.clone(),
            cordoned: self.cordoned.contains(node),
            paused: self.paused.as_ref().map(|pause| pause.reason.clone()),
        }
    }

    /// The pod as the rules look at it.
    pub(crate) fn standing(&self, facts: &PodFacts) -> Standing {
        let namespace = self.namespaces.get(&facts.namespace);
        standing(facts.clone(), namespace, &self.enablement(facts))
    }

    /// How much room the budgets of a pod leave, for people.
    fn headroom(&self, facts: &PodFacts) -> String {
        let budgets = match self.budgets.get(&facts.namespace) {
            Some(Ok(budgets)) => budgets,
            Some(Err(why)) => return format!("its disruption budgets cannot be read ({why})"),
            None => return String::new(),
        };
        let of_pod: Vec<&Budget> = budgets
            .iter()
            .filter(|budget| budget.selector.matches(&facts.labels))
            .collect();
        match of_pod.as_slice() {
            [] => "no disruption budget covers it".to_owned(),
            [budget] => {
                let Budget { name, allowed, .. } = budget;
                let refused = *allowed <= 0 && (facts.ready || !budget.frees_unready);
                let refused = if refused { ": it would be refused" } else { "" };
                format!("budget {name} allows {allowed} now{refused}")
            }
            several => format!(
                "{} disruption budgets cover it: it would be refused",
                several.len()
            ),
        }
    }
}

async fn budgets_of(connection: &Connection, namespace: &str) -> Result<Vec<Budget>, Failure> {
    let api: Api<PodDisruptionBudget> = Api::namespaced(connection.client.clone(), namespace);
    let what = format!("listing disruption budgets in namespace {namespace}");
    let reduce = |budget: &PodDisruptionBudget| {
        let spec = budget.spec.as_ref()?;
        let status = budget.status.as_ref();
        let policy = spec.unhealthy_pod_eviction_policy.as_deref();
        let healthy = status.is_some_and(|status| {
            status.desired_healthy > Some(0) && status.current_healthy >= status.desired_healthy
        });
        Some(Budget {
            name: budget.metadata.name.clone()?,
            // No selector selects nothing, an empty one everything.
            selector: Selector::try_from(spec.selector.clone()?).ok()?,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            frees_unready: policy == Some("AlwaysAllow") || healthy,
        })
    };
    let all = list(connection, &what, &api, &ListParams::default(), reduce).await?;
    Ok(all.into_iter().flatten().collect())
}

impl Planned {
    /// Plans for one pod.
    pub(super) async fn of(
        connection: &Connection,
        world: &World,
        records: &Records,
        how: &How,
        risks: Risks,
        pod: ScannedPod,
    ) -> anyhow::Result<Self> {
        let now = again(connection, &pod.namespace, &pod.name).await?;
        let facts = now.map(|now| now.facts).filter(|facts| facts.uid == pod.uid);
        let Some(facts) = facts else {
            return Ok(Self {
                pod,
                facts: None,
                withheld: Some((Withheld::OtherPod, None)),
                act: String::new(),
                left: false,
            });
        };
        let standing = world.standing(&facts);
        let gates = world.gates(connection, facts.node.as_deref().unwrap_or_default());
        let labels = world.labels(&facts.namespace);
        let means = means(how.strategy, risks);
        let (mandate, state, now) = (records.mandate(), Some(pod.state), records.moment().server);
        let why = forbids(mandate, means, state, &standing, &facts.uid, &gates, now);
        let mut withheld = why.map(|why| (why, gate_detail(&gates, why)));
        if withheld.is_none()
            && how.strategy == Strategy::Toggle
            && !world.enablement(&facts).heeds_opt_out(&facts, &labels)
        {
            withheld = Some((Withheld::NoToggle, None));
        }
        if withheld.is_none() {
            withheld = records.forbids(&facts, means).await;
        }
        let act = match how.strategy {
            Strategy::Toggle => "its label is toggled; no container restarts".to_owned(),
            Strategy::Restart => {
                let verb = if risks.delete_past_disruption_budgets {
                    "deleted"
                } else {
                    "evicted"
                };
                let owner = owner_name(facts.controller.as_ref());
                format!(
                    "{verb}; {} recreates it; {}",
                    owner.unwrap_or_default(),
                    world.headroom(&facts)
                )
            }
        };
        Ok(Self {
            pod,
            facts: Some(facts),
            withheld,
            act,
            left: false,
        })
    }

    /// By what means it is repaired.
    pub(super) const fn means(&self, how: &How, risks: Risks) -> Means {
        if self.left {
            return Means::Restore;
        }
        means(how.strategy, risks)
    }

    /// Pods with the same are repaired one after the other.
    pub(super) fn queue(&self) -> String {
        let controller = self.facts.as_ref().and_then(|facts| facts.controller.as_ref());
        controller.map_or_else(|| self.pod.uid.clone(), |controller| controller.uid.clone())
    }

    /// What is told of it before anything is done.
    pub(crate) fn item(&self) -> Item {
        let controller = self.facts.as_ref().and_then(|facts| facts.controller.as_ref());
        let item = Item {
            pod: self.pod.display_name(),
            node: self.pod.node.clone().unwrap_or_default(),
            action: Action::WouldRepair,
            detail: self.act.clone(),
            uid: self.pod.uid.clone(),
            state: self.pod.state,
            owner: owner_name(controller),
            rule: None,
            reason: None,
            successor: None,
        };
        match &self.withheld {
            Some((why, detail)) => item.withheld(*why, detail.as_deref()),
            None => item,
        }
    }
}

const fn means(strategy: Strategy, risks: Risks) -> Means {
    match strategy {
        Strategy::Toggle => Means::Toggle,
        Strategy::Restart if risks.delete_past_disruption_budgets => Means::Delete,
        Strategy::Restart => Means::Evict,
    }
}

/// `ReplicaSet cart-7d4b`.
fn owner_name(controller: Option<&Controller>) -> Option<String> {
    controller.map(|controller| format!("{} {}", controller.kind, controller.name))
}
