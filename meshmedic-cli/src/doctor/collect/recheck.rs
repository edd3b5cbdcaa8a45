// SPDX-License-Identifier: Apache-2.0
//! A snapshot is not taken at one instant: pods are listed before ztunnels are asked, and some end in between. What a
//! ztunnel does not know any more is looked up once again, before anybody calls that a fault.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use meshmedic_common::eligibility::Expectation;

use super::Plan;
use crate::connection::Connection;
use crate::doctor::snapshot::{Part, Snapshot};
use crate::doctor::view::{View, name, namespace};
use crate::selection::again;

/// Where more than this are missing, it is no coincidence.
const MOST: usize = 100;

/// Drops pods that are gone by now.
pub(super) async fn drop_ended(connection: &Connection, plan: &Plan, snapshot: &mut Snapshot) {
    let missing = missing(snapshot);
    if missing.is_empty() || missing.len() > MOST {
        return;
    }
    let look = |(of, called, uid): (String, String, String)| async move {
        let ended = match again(connection, &of, &called).await {
            Ok(Some(now)) => now.facts.uid != uid || now.facts.deleting || now.facts.finished,
            Ok(None) => true,
            Err(_) => false,
        };
        (ended, uid)
    };
    let looks: Vec<_> = missing.into_iter().map(look).collect();
    let looked: Vec<(bool, String)> = stream::iter(looks)
        .buffer_unordered(plan.ways.concurrency())
        .collect()
        .await;
    let ended: BTreeSet<String> = looked
        .into_iter()
        .filter(|(ended, _)| *ended)
        .map(|(_, uid)| uid)
        .collect();
    if let Part::Had(pods) = &mut snapshot.pods {
        pods.retain(|pod| pod.metadata.uid.as_ref().is_none_or(|uid| !ended.contains(uid)));
    }
}

/// The pods that should be served by a ztunnel which does not know them: namespace, name and UID.
fn missing(snapshot: &Snapshot) -> Vec<(String, String, String)> {
    let view = View::new(snapshot);
    let dumps = snapshot
        .ztunnels
        .all()
        .iter()
        .filter_map(|ztunnel| Some((&ztunnel.node, ztunnel.dump.had()?)));
    let mut missing = Vec::new();
    for (node, dump) in dumps {
        let here = view
            .pods()
            .iter()
            .filter(|pod| pod.facts.node.as_ref() == Some(node));
        let unknown = here.filter(|pod| {
            pod.expectation == Expectation::Expected && !dump.proxies.contains_key(&pod.facts.uid)
        });
        missing.extend(unknown.map(|pod| {
            let metadata = &pod.pod.metadata;
            (
                namespace(metadata).to_owned(),
                name(metadata).to_owned(),
                pod.facts.uid.clone(),
            )
        }));
    }
    missing
}
