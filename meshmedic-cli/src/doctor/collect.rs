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

use jiff::Timestamp;
use meshmedic_common::facts::PodFacts;

pub(crate) use budget::Budget;
#[cfg(fuzzing)]
pub(super) use ztunnel::read_dump;

use super::snapshot::{Part, Scope, Snapshot, ZtunnelDump};
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

/// Takes it.
pub(crate) async fn collect(connection: &Connection, plan: &Plan) -> Snapshot {
    let mut snapshot = api::read(connection).await;
    snapshot.scope = scope(&plan.selection);
    snapshot.istio = connection.istio.identity.clone();
    says::settings(connection, &mut snapshot).await;
    says::scan(connection, plan, &mut snapshot).await;
    reach::ask(connection, plan, &mut snapshot).await;
    ztunnel::ask(connection, plan, &mut snapshot).await;
    recheck::drop_ended(connection, plan, &mut snapshot).await;
    says::istiods(connection, plan, &mut snapshot).await;
    snapshot.taken = connection.clock.now().unwrap_or_else(Timestamp::now);
    snapshot
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
