// SPDX-License-Identifier: Apache-2.0
//! One look at pods of a node: fetched and read again, and what holds above them with them.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use meshmedic_common::kube::control::Pause;
use meshmedic_common::time::Time;

use crate::repair::Repairs;
use crate::scan::{self, ScannedPod};
use crate::selection::{Mesh, Selection, Target, again};
use crate::ways::{Age, Reader, Words};

/// What one look showed.
pub(super) struct Round {
    pub(super) mesh: Mesh,
    /// Whether repairs are paused; `None` where that could not be read.
    pub(super) paused: Option<Option<Pause>>,
    pub(super) words: Option<Words>,
    /// Each pod: as it is now, if it is there, and what was read of it.
    pub(super) pods: Vec<Looked>,
}

/// What a look at one pod showed.
pub(super) struct Looked {
    /// As it was.
    pub(super) before: Target,
    /// As it is; none if it is gone or another by now.
    pub(super) now: Option<Target>,
    pub(super) seen: Option<ScannedPod>,
    /// When the look began.
    pub(super) at: Time,
}

impl Round {
    /// Looks at these pods of a node.
    pub(super) async fn of(shop: &Repairs<'_>, node: &str, mut mesh: Mesh, targets: Vec<Target>) -> Self {
        let connection = shop.connection;
        if let Err(failure) = mesh.refresh(connection, &BTreeSet::from([node])).await {
            tracing::warn!(
                "ztunnel and istio-cni are taken for what they were: {}",
                failure.short()
            );
        }
        let agents = &shop.verifier.ways.agents().agent_namespace;
        let paused = crate::control::read(connection, agents).await.ok();
        let Some(ways) = shop.verifier.ways.leaving_nothing() else {
            unreachable!("where probes alone read, nothing is healed in place");
        };
        let at = Time::now();
        let reader = Reader::new(connection, &ways, &Selection::cluster(), BTreeSet::from([node])).await;
        let reader = match reader {
            Ok(reader) => reader.demanding(Age::preferred(connection)),
            Err(error) => {
                tracing::warn!("nothing could be read: {error:#}");
                return Self {
                    mesh,
                    paused,
                    words: None,
                    pods: Vec::new(),
                };
            }
        };
        let look = |before: Target| {
            let reader = &reader;
            async move {
                let facts = &before.facts;
                let found = again(connection, &facts.namespace, &facts.name).await;
                let now = match found {
                    Ok(now) => now.filter(|now| now.facts.uid == before.facts.uid),
                    Err(_) => Some(before.clone()),
                };
                let seen = match &now {
                    Some(now) => Some(scan::seen(now, reader.look(now).await)),
                    None => None,
                };
                Looked {
                    before,
                    now,
                    seen,
                    at,
                }
            }
        };
        let looks = targets.into_iter().map(look).collect::<Vec<_>>();
        let pods = stream::iter(looks)
            .buffer_unordered(ways.concurrency())
            .collect()
            .await;
        let words = reader.words().get(node).cloned();
        Self {
            mesh,
            paused,
            words,
            pods,
        }
    }
}
