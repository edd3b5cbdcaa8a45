// SPDX-License-Identifier: Apache-2.0
//! What a check needs to know before it can say anything.

use meshmedic_common::report::NodeReport;

use super::snapshot::{Part, Unknown};
use super::view::View;

/// What a check needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Pods,
    Namespaces,
    Nodes,
    Services,
    ServiceAccounts,
    ResourceQuotas,
    EndpointSlices,
    DaemonSets,
    Deployments,
    StatefulSets,
    Jobs,
    CronJobs,
    MutatingWebhooks,
    ValidatingWebhooks,
    NetworkPolicies,
    Events,
    MeshConfig,
    /// The settings of istio-cni.
    CniConfig,
    /// The settings of Cilium, where it is.
    CiliumConfig,
    /// Which release of the Gateway API is installed.
    GatewayApi,
    /// Objects of a kind in [`super::snapshot::CUSTOM_KINDS`], by `plural.group`.
    Custom(&'static str),
    /// Objects of one of these kinds at least; of those that are installed, all.
    AnyOf(&'static [&'static str]),
    /// That any part of Istio is installed.
    Istio,
    /// That any ztunnel is installed.
    Ambient,
    /// The `config_dump` of ztunnels, one at least.
    Dumps,
    /// The logs of ztunnels, one at least.
    Logs,
    /// The metrics of istiods, one at least.
    IstiodMetrics,
    /// The reports of agents, one at least.
    Agents,
    /// What agents see of their nodes' CNI folders, one at least.
    CniFolders,
    /// What agents see of their nodes' overlay network, one at least.
    Overlays,
    /// Which nodes' agents reach which others', one try at least.
    Reach,
    /// What a scan or the agents say of pods.
    Scan,
}

/// Why a check cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It is skipped; `true` where that leaves something open.
    Skip(String, bool),
    Failed(String),
}

impl Need {
    /// Whether it is there; gives what of it is not.
    pub(super) fn lack(self, view: &View<'_>) -> Result<Vec<String>, Lack> {
        let snapshot = view.snapshot;
        match self {
            Self::Pods => whole(&snapshot.pods),
            Self::Namespaces => whole(&snapshot.namespaces),
            Self::Nodes => whole(&snapshot.nodes),
            Self::Services => whole(&snapshot.services),
            Self::ServiceAccounts => whole(&snapshot.service_accounts),
            Self::ResourceQuotas => whole(&snapshot.resource_quotas),
            Self::EndpointSlices => whole(&snapshot.endpoint_slices),
            Self::DaemonSets => whole(&snapshot.daemon_sets),
            Self::Deployments => whole(&snapshot.deployments),
            Self::StatefulSets => whole(&snapshot.stateful_sets),
            Self::Jobs => whole(&snapshot.jobs),
            Self::CronJobs => whole(&snapshot.cron_jobs),
            Self::MutatingWebhooks => whole(&snapshot.mutating_webhooks),
            Self::ValidatingWebhooks => whole(&snapshot.validating_webhooks),
            Self::NetworkPolicies => whole(&snapshot.network_policies),
            Self::Events => whole(&snapshot.events),
            Self::MeshConfig => whole(&snapshot.mesh_config),
            Self::CniConfig => whole(&snapshot.cni_config),
            Self::CiliumConfig => whole(&snapshot.cilium_config),
            Self::GatewayApi => whole(&snapshot.gateway_api),
            Self::AnyOf(kinds) => any_of(view, kinds),
            Self::Custom(kind) => match snapshot.custom.get(kind) {
                Some(part) => whole(part),
                None => Err(Lack::Skip(format!("the snapshot has no {kind}"), false)),
            },
            Self::Istio => {
                whole(&snapshot.pods)?;
                if view.is_istio_installed() {
                    Ok(Vec::new())
                } else {
                    Err(Lack::Skip("Istio is not installed here".to_owned(), false))
                }
            }
            Self::Ambient => {
                whole(&snapshot.pods)?;
                if view.ztunnels().next().is_some() || view.ztunnel_sets().next().is_some() {
                    Ok(Vec::new())
                } else {
                    Err(Lack::Skip("no ztunnel is installed here".to_owned(), false))
                }
            }
            Self::Dumps => some(&snapshot.ztunnels, |one| (&one.name, one.dump.unknown())),
            Self::Logs => some(&snapshot.ztunnels, |one| (&one.name, one.log.unknown())),
            Self::IstiodMetrics => some(&snapshot.istiods, |one| (&one.name, one.metrics.unknown())),
            Self::Agents => {
                whole(&snapshot.agents)?;
                let agents = snapshot.agents.had().into_iter().flatten();
                parts(agents.map(|(node, report)| (node.as_str(), report.unknown())))
            }
            Self::CniFolders => {
                let missing = "the agents do not see the folder: mount it and start them with --host-cni-dir";
                of_agents(view, missing, |report| report.cni_folder.is_some())
            }
            Self::Overlays => {
                let missing = "the agents do not report it: upgrade them to this version of MeshMedic";
                of_agents(view, missing, |report| report.overlay.is_some())
            }
            Self::Reach => {
                whole(&snapshot.reach)?;
                let tries = snapshot.reach.all();
                let gaps = tries.iter().filter(|one| one.reached.is_none());
                let told = |one: &super::snapshot::Reached| {
                    format!(
                        "{} to {}: {}",
                        one.from,
                        one.to,
                        one.detail.as_deref().unwrap_or("not tried")
                    )
                };
                let gaps: Vec<String> = gaps.map(told).collect();
                match gaps.first() {
                    Some(first) if gaps.len() == tries.len() => Err(Lack::Skip(first.clone(), false)),
                    _ => Ok(gaps),
                }
            }
            Self::Scan => whole(&snapshot.scan),
        }
    }
}

/// Some reports must have it; those that have not are gaps.
fn of_agents(view: &View<'_>, missing: &str, has: impl Fn(&NodeReport) -> bool) -> Result<Vec<String>, Lack> {
    let mut gaps = Need::Agents.lack(view)?;
    let (had, lacking): (Vec<_>, Vec<_>) = view.snapshot.reports().partition(|(_, report)| has(report));
    if had.is_empty() {
        return Err(Lack::Skip(missing.to_owned(), false));
    }
    gaps.extend(lacking.into_iter().map(|(node, _)| format!("{node}: {missing}")));
    Ok(gaps)
}

/// A kind that is not installed is none that is missing, unless all are.
fn any_of(view: &View<'_>, kinds: &[&str]) -> Result<Vec<String>, Lack> {
    let mut absent = None;
    let mut had = false;
    for kind in kinds {
        match view.snapshot.custom.get(*kind) {
            None => {}
            Some(part) => match part.unknown() {
                None => had = true,
                Some(Unknown::Absent(why)) => absent = absent.or(Some(why.clone())),
                Some(why) => return Err(why.lack()),
            },
        }
    }
    match absent {
        _ if had => Ok(Vec::new()),
        Some(why) => Err(Lack::Skip(why, false)),
        None => Err(Lack::Skip(
            format!("the snapshot has no {}", kinds.join(", ")),
            false,
        )),
    }
}

fn whole<T>(part: &Part<T>) -> Result<Vec<String>, Lack> {
    part.unknown().map_or(Ok(Vec::new()), |why| Err(why.lack()))
}

fn some<T>(
    all: &Part<Vec<T>>,
    each: impl Fn(&T) -> (&String, Option<&Unknown>),
) -> Result<Vec<String>, Lack> {
    whole(all)?;
    parts(all.all().iter().map(|one| {
        let (name, unknown) = each(one);
        (name.as_str(), unknown)
    }))
}

/// Of several of a kind one at least must be there; of the others it is said why they are not.
fn parts<'a>(all: impl Iterator<Item = (&'a str, Option<&'a Unknown>)>) -> Result<Vec<String>, Lack> {
    let (mut gaps, mut first, mut had) = (Vec::new(), None, false);
    for (name, unknown) in all {
        match unknown {
            None => had = true,
            Some(unknown) => {
                first.get_or_insert(unknown);
                gaps.push(format!("{name}: {}", unknown.why()));
            }
        }
    }
    match first {
        _ if had => Ok(gaps),
        Some(unknown) => Err(unknown.lack()),
        None => Err(Lack::Skip("there is none here".to_owned(), false)),
    }
}

impl Unknown {
    fn lack(&self) -> Lack {
        match self {
            Self::Forbidden(rule) => Lack::Skip(rule.clone(), true),
            Self::Absent(why) | Self::NotAsked(why) => Lack::Skip(why.clone(), false),
            Self::Failed(why) => Lack::Failed(why.clone()),
        }
    }
}
