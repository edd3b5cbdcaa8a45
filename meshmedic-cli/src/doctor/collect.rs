// SPDX-License-Identifier: Apache-2.0
//! Takes a snapshot of a cluster: each kind once, page by page, side by side. What is forbidden or absent is written
//! down as such, and nothing is changed in the cluster.

mod api;
mod budget;
mod exposition;
mod reach;
mod recheck;
mod says;
mod ztunnel;

use std::time::Duration;

use anyhow::bail;
use jiff::Timestamp;
use meshmedic_common::facts::PodFacts;

pub(crate) use budget::Budget;
#[cfg(fuzzing)]
pub(super) use ztunnel::read_dump;

use super::snapshot::{Part, Scope, Snapshot, Unknown, ZtunnelDump};
use crate::connection::Connection;
use crate::selection::{self, Selection};
use crate::ways::WayArgs;

/// How a snapshot is taken.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What was asked about.
    pub(crate) selection: Selection,
    /// How pods and agents are asked.
    pub(crate) ways: WayArgs,
    /// How far back logs are read.
    pub(crate) since: Duration,
    /// What may be kept of all that pods say.
    pub(crate) budget: Budget,
}

/// Takes it. An API server that answers nothing at all is an error: there is nothing to judge.
pub(crate) async fn collect(connection: &Connection, plan: &Plan) -> anyhow::Result<Snapshot> {
    let mut snapshot = api::read(connection).await;
    if let Some(why) = silence(&snapshot) {
        bail!("{why}");
    }
    snapshot.scope = scope(&plan.selection);
    snapshot.istio = connection.istio.identity.clone();
    says::settings(connection, &mut snapshot).await;
    says::scan(connection, plan, &mut snapshot).await;
    reach::ask(connection, plan, &mut snapshot).await;
    ztunnel::ask(connection, plan, &mut snapshot).await;
    recheck::drop_ended(connection, plan, &mut snapshot).await;
    says::istiods(connection, plan, &mut snapshot).await;
    snapshot.taken = connection.clock.now().unwrap_or_else(Timestamp::now);
    Ok(snapshot)
}

/// Why the first question failed, if all of these did. Everyone may ask for the version.
fn silence(snapshot: &Snapshot) -> Option<&str> {
    let failed = |unknown: Option<&Unknown>| matches!(unknown, Some(Unknown::Failed(_)));
    let all = failed(snapshot.server_version.unknown())
        && failed(snapshot.nodes.unknown())
        && failed(snapshot.namespaces.unknown());
    match snapshot.pods.unknown() {
        Some(Unknown::Failed(why)) if all => Some(why),
        _ => None,
    }
}

/// Asks one ztunnel what it believes.
pub(crate) async fn ask_ztunnel(
    connection: &Connection,
    selection: Selection,
    ways: &WayArgs,
    ztunnel: &PodFacts,
) -> Part<ZtunnelDump> {
    let plan = Plan {
        selection,
        ways: ways.clone(),
        since: Duration::ZERO,
        budget: Budget::default(),
    };
    ztunnel::dump_of(connection, &plan, ztunnel).await
}

fn scope(selection: &Selection) -> Scope {
    match &selection.scope {
        selection::Scope::Cluster => Scope::default(),
        selection::Scope::Namespace(namespace) => Scope {
            namespace: Some(namespace.clone()),
            pods: Vec::new(),
        },
        selection::Scope::Pods(pods) => Scope {
            namespace: None,
            pods: pods
                .iter()
                .map(|(namespace, name)| format!("{namespace}/{name}"))
                .collect(),
        },
    }
}
