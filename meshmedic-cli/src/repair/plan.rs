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
use meshmedic_common::facts::{Controller, Labels, PodFacts, STRATEGY};
use meshmedic_common::kube::acts::{Known, Named};
use meshmedic_common::kube::control::Pause;
use meshmedic_common::kube::facts::{NamespaceFacts, is_cordoned, namespace_facts, standing};
use meshmedic_common::kube::identity;
use meshmedic_common::policy::{Gates, Means, Rungs, Standing, Withheld, forbids};
use meshmedic_common::repair::gate_detail;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::{Reason, State};
use serde::Serialize;

use super::records::Records;
use super::{Action, How, Item, Risks};
use crate::connection::{Connection, Failure};
use crate::scan::ScannedPod;
use crate::selection::{Mesh, Selection, again, list, select};

/// What holds above the pods.
pub(crate) struct World {
    pub(super) mesh: Mesh,
    settle: Duration,
    namespaces: BTreeMap<String, NamespaceFacts>,
    /// Nodes that are cordoned, or that the API does not know.
    cordoned: BTreeSet<String>,
    pub(crate) paused: Option<Pause>,
    /// Why a successor would get no identity.
    pub(super) mesh_fault: Option<String>,
    /// istiod's slices, by namespace and name.
    slices: Vec<(String, String)>,
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
    /// What is done, and what comes after where that does not take.
    pub(super) steps: Vec<Step>,
    /// The gentler ways that cannot help it.
    pub(super) passed_over: Vec<PassedOver>,
    /// What was tried in vain.
    pub(super) tried: Option<String>,
}

/// How it stands with a pod before anything is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// istio-cni may be asked for it.
    May,
    /// It may not, and nothing harsher is to be done instead.
    Waits(Withheld, Option<String>),
    /// This way cannot help it.
    Over(Withheld, Option<String>),
}

/// One way to bring a pod back that nothing forbids.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) means: Means,
    /// For people.
    act: String,
    /// Whether a disruption budget refuses it as it is now.
    refused: bool,
}

impl Step {
    /// Puts back what a toggle left.
    pub(super) fn restore() -> Self {
        Self {
            means: Means::Restore,
            act: "a toggle was left half done: its label is put back".to_owned(),
            refused: false,
        }
    }
}

/// A way that cannot help a pod, or is forbidden, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PassedOver {
    pub(crate) means: Means,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Withheld>,
    pub(crate) detail: String,
}

impl PassedOver {
    /// The way, for a sentence that begins with "No".
    pub(crate) const fn way(&self) -> &'static str {
        match self.means {
            Means::Heal => "heal in place",
            Means::Toggle => "toggle",
            Means::Restore => "restoring",
            Means::Evict | Means::Delete => "restart",
        }
    }
}

/// How much of an annotation is shown.
const MAX_WAYS: usize = 60;

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
            steps: vec![Step::restore()],
            passed_over: Vec::new(),
            tried: None,
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
        let read = || identity::istiod_and_slices(&connection.client, &connection.istio.identity);
        let (istiod, slices) = connection.ask(what, read).await?;
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
            slices,
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

    /// What an act on a pod depends on, by the names that are known.
    pub(super) fn known(&self, pod: &PodFacts) -> Known {
        let parts = self.mesh.names(pod.node.as_deref().unwrap_or_default());
        Known {
            enablement: self.enablement(pod),
            named: parts.map(|parts| Named {
                parts,
                slices: self.slices.clone(),
            }),
        }
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

    /// What forbids to act by these means, by the rules and by the agents' records.
    async fn forbids(
        &self,
        connection: &Connection,
        records: &Records,
        means: Means,
        facts: &PodFacts,
        state: State,
    ) -> Option<(Withheld, Option<String>)> {
        let standing = self.standing(facts);
        let gates = self.gates(connection, facts.node.as_deref().unwrap_or_default());
        let (mandate, now) = (records.mandate(), records.moment().server);
        let why = forbids(mandate, means, Some(state), &standing, &facts.uid, &gates, now);
        if let Some(why) = why {
            return Some((why, gate_detail(&gates, why)));
        }
        let labels = self.labels(&facts.namespace);
        if means == Means::Toggle && !self.enablement(facts).heeds_opt_out(facts, &labels) {
            return Some((Withheld::NoToggle, None));
        }
        records.forbids(facts, means).await
    }

    /// What is known of a namespace.
    pub(super) fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.namespaces.get(name)
    }

    /// The pod as the rules look at it.
    pub(crate) fn standing(&self, facts: &PodFacts) -> Standing {
        let namespace = self.namespaces.get(&facts.namespace);
        standing(facts.clone(), namespace, &self.enablement(facts))
    }

    /// How much room the budgets of a pod leave, for people, and whether one refuses its eviction now.
    fn headroom(&self, facts: &PodFacts) -> (String, bool) {
        let budgets = match self.budgets.get(&facts.namespace) {
            Some(Ok(budgets)) => budgets,
            Some(Err(why)) => return (format!("its disruption budgets cannot be read ({why})"), false),
            None => return (String::new(), false),
        };
        let of_pod: Vec<&Budget> = budgets
            .iter()
            .filter(|budget| budget.selector.matches(&facts.labels))
            .collect();
        match of_pod.as_slice() {
            [] => ("no disruption budget covers it".to_owned(), false),
            [budget] => {
                let Budget { name, allowed, .. } = budget;
                let refused = *allowed <= 0 && (facts.ready || !budget.frees_unready);
                let words = if refused { ": it would be refused" } else { "" };
                (format!("budget {name} allows {allowed} now{words}"), refused)
            }
            several => (
                format!(
                    "{} disruption budgets cover it: it would be refused",
                    several.len()
                ),
                true,
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
    /// Plans for one pod. `heal` is what the rulebook of heals makes of it.
    pub(super) async fn of(
        connection: &Connection,
        world: &World,
        records: &Records,
        (how, risks): (&How, Risks),
        pod: ScannedPod,
        heal: Option<Outlook>,
    ) -> anyhow::Result<Self> {
        let now = again(connection, &pod.namespace, &pod.name).await?;
        let facts = now.map(|now| now.facts).filter(|facts| facts.uid == pod.uid);
        let mut plan = Self {
            withheld: None,
            steps: Vec::new(),
            passed_over: Vec::new(),
            tried: None,
            pod,
            facts,
        };
        let Some(facts) = plan.facts.clone() else {
            plan.withheld = Some((Withheld::OtherPod, None));
            return Ok(plan);
        };
        for means in means(how.strategy, risks) {
            let forbidden = match (means, &heal) {
                (Means::Heal, Some(Outlook::May)) => None,
                (Means::Heal, Some(Outlook::Over(why, detail))) => Some((*why, detail.clone())),
                // Nothing harsher is done instead.
                (Means::Heal, Some(Outlook::Waits(why, detail))) => {
                    plan.withheld = Some((*why, detail.clone()));
                    return Ok(plan);
                }
                (Means::Heal, None) => {
                    plan.passed_over.push(PassedOver {
                        means,
                        reason: None,
                        detail: "its proof needs a reading every second, and each by a probe would stay in the pod"
                            .to_owned(),
                    });
                    continue;
                }
                _ => {
                    world
                        .forbids(connection, records, means, &facts, plan.pod.state)
                        .await
                }
            };
            match forbidden {
                None => plan.steps.push(step(world, means, &facts, &plan.pod)),
                Some((why, detail)) => plan.pass_over(world, means, why, detail),
            }
        }
        if plan.steps.is_empty() {
            plan.withheld = Some(plan.last_resort());
        }
        Ok(plan)
    }

    fn pass_over(&mut self, world: &World, means: Means, why: Withheld, detail: Option<String>) {
        self.passed_over.push(PassedOver {
            means,
            reason: Some(why),
            detail: match (why, detail) {
                // Of one way of several it is no answer that none is left.
                (Withheld::Strategy, _) => self.allowed(world),
                (_, Some(detail)) => format!("{}: {detail}", why.sentence()),
                (_, None) => why.sentence().to_owned(),
            },
        });
    }

    /// Who allows only other ways: what --strategy does not name was not thought of at all.
    fn allowed(&self, world: &World) -> String {
        let own = self.facts.as_ref().and_then(|facts| facts.strategy.as_deref());
        let (whose, ways) = match own {
            Some(ways) => ("its", Some(ways)),
            None => {
                let namespace = world.namespaces.get(&self.pod.namespace);
                (
                    "its namespace's",
                    namespace.and_then(|known| known.strategy.as_deref()),
                )
            }
        };
        let ways = clean(ways.unwrap_or_default(), MAX_WAYS);
        format!("{whose} annotation {STRATEGY} allows only \"{ways}\"")
    }

    /// Why it is left alone for which no way is left: what forbids the last one, and of the gentler ones why they
    /// cannot help.
    fn last_resort(&mut self) -> (Withheld, Option<String>) {
        let Some(last) = self.passed_over.pop() else {
            return (Withheld::Strategy, None);
        };
        let why = last.reason.unwrap_or(Withheld::Strategy);
        let detail = last.detail.strip_prefix(why.sentence()).unwrap_or(&last.detail);
        let detail = detail.trim_start_matches(": ");
        (why, Some(detail.to_owned()).filter(|detail| !detail.is_empty()))
    }

    /// Whether this is done first.
    pub(super) fn begins_with(&self, means: Means) -> bool {
        self.withheld.is_none() && self.steps.first().is_some_and(|step| step.means == means)
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
            detail: self.act(),
            uid: self.pod.uid.clone(),
            state: self.pod.state,
            owner: owner_name(controller),
            rule: None,
            reason: None,
            successor: None,
            means: self.steps.first().map(|step| step.means),
            passed_over: self.passed_over.clone(),
            refused: self.steps.first().is_some_and(|step| step.refused),
        };
        match &self.withheld {
            Some((why, detail)) => item.withheld(*why, detail.as_deref()),
            None => item,
        }
    }

    /// What is done, for people.
    fn act(&self) -> String {
        let acts: Vec<&str> = self.steps.iter().map(|step| step.act.as_str()).collect();
        acts.join(". If that fails: ")
    }
}

/// The means of the ways that may be used, gentlest first.
fn means(strategy: Rungs, risks: Risks) -> impl Iterator<Item = Means> {
    let restart = if risks.delete_past_disruption_budgets {
        Means::Delete
    } else {
        Means::Evict
    };
    let ways = [
        strategy.heal.then_some(Means::Heal),
        strategy.toggle.then_some(Means::Toggle),
        strategy.restart.then_some(restart),
    ];
    ways.into_iter().flatten()
}

/// What is done by these means, and what it costs, for people.
fn step(world: &World, means: Means, facts: &PodFacts, pod: &ScannedPod) -> Step {
    let mut refused = false;
    let act = match means {
        Means::Heal => {
            let cost = match pod.grounds.connections {
                None => "resets its open connections".to_owned(),
                Some(0) => "no connection of it is open".to_owned(),
                Some(1) => "resets its one open connection".to_owned(),
                Some(count) => format!("resets its {count} open connections"),
            };
            format!("istio-cni is asked to enrol it again: {cost}; no restart")
        }
        Means::Toggle => "its label is toggled: plain text meanwhile; no restart".to_owned(),
        Means::Evict | Means::Delete | Means::Restore => {
            let owner = owner_name(facts.controller.as_ref()).unwrap_or_default();
            let (headroom, refuses) = world.headroom(facts);
            refused = refuses && means == Means::Evict;
            format!("{}; {owner} recreates it; {headroom}", means.sentence())
        }
    };
    Step { means, act, refused }
}

/// `ReplicaSet cart-7d4b`.
fn owner_name(controller: Option<&Controller>) -> Option<String> {
    controller.map(|controller| format!("{} {}", controller.kind, controller.name))
}
