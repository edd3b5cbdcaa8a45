// SPDX-License-Identifier: Apache-2.0
//! Which pods there are: as the API declares them, or as the node shows them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use meshmedic_common::identity::Identity;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Reason, State};

use super::Watch;
use super::schedule::Chore;
use super::sources::{is_named_ztunnel, is_ztunnel};
use crate::engine::Expectation;
use crate::node::{Mapping, NetnsIndex, PodName, started};
use crate::time::Time;

/// Who says which pods are on this node, and which of them should be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// Nobody but the node itself: every pod that has processes, named by the kubelet's log folders here; and in which
    /// namespaces ztunnel may be.
    Node(PathBuf, Identity),
    /// The API, through [`Watch::declare`]: no other pod is judged.
    Api,
}

/// A pod that the API declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What it is called.
    pub name: PodName,
    /// Whether it should be captured.
    pub expectation: Expectation,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is ztunnel's own, Ready, and stays: only then its processes are ztunnel's.
    pub ztunnel: bool,
}

impl Watch {
    /// Takes the pods that the API declares, all of them.
    pub fn declare(&mut self, now: Time, pods: HashMap<PodUid, Declared>) {
        let unknown = pods.keys().any(|uid| self.index.get(uid).is_err());
        // Most of what the API tells of a pod is not what concerns us.
        if !unknown && self.declared == pods {
            return;
        }
        self.declared = pods;
        if unknown {
            self.refresh_or_warn(now);
        } else {
            self.learn(now);
        }
        self.engine.tick(now);
        self.collect();
    }

    /// Whether no process is waited for: every pod that is judged has its namespace, every ztunnel its process, and
    /// none of them is so young that it may be on its way elsewhere.
    pub(super) fn knows_all(&self) -> bool {
        let known = |(uid, pod): (&PodUid, &Declared)| match pod.expectation {
            _ if pod.ztunnel => self.sources.is_ztunnel_pod(uid),
            Expectation::Exempt(_) | Expectation::Pending | Expectation::Unverifiable(_) => true,
            Expectation::Expected | Expectation::Undeclared => self.index.get(uid).is_ok(),
        };
        let by_api = self.options.pods == PodSource::Api;
        by_api && self.declared.iter().all(known) && self.table.is_settled()
    }

    /// Whether a pod that is judged has no process as far as is known.
    pub(super) fn misses_a_process(&self) -> bool {
        self.declared.iter().any(|(uid, pod)| {
            let judged = matches!(pod.expectation, Expectation::Expected | Expectation::Undeclared);
            judged && self.index.get(uid).err() == Some(Reason::NoProcess)
        })
    }

    /// Concludes from the processes which pods there are, and which namespace is whose.
    pub(super) fn learn(&mut self, now: Time) {
        let addresses = self
            .declared
            .iter()
            .map(|(uid, pod)| (uid.clone(), pod.addresses.clone()));
        let index = NetnsIndex::build(&self.table, &addresses.collect());
        let before = std::mem::replace(&mut self.index, index);
        self.void_what_moved(now, &before);
        self.lives.watch(&self.index);
        let by_api = self.options.pods == PodSource::Api;
        if !by_api && let Err(error) = self.names.refresh() {
            tracing::debug!(%error, folder = %self.names.folder().display(), "no names of pods");
        }
        let before = std::mem::take(&mut self.sources.ztunnel);
        let ztunnel = match &self.options.pods {
            PodSource::Api => self.sources.find_ztunnel(&self.table, now, |process| {
                let pod = self.declared.get(&process.pod);
                is_named_ztunnel(&process.name) && pod.is_some_and(|pod| pod.ztunnel)
            }),
            PodSource::Node(_, identity) => self.sources.find_ztunnel(&self.table, now, |process| {
                is_ztunnel(&process.name, self.names.get(&process.pod), identity)
            }),
        };
        self.engine.ztunnel(now, ztunnel);
        if self.sources.ztunnel != before && !self.sources.ztunnel.is_empty() {
            if self.sources.has_census() {
                self.schedule.set(Chore::Sweep, now);
            } else {
                self.engine.sweep(now, |_, _| true);
            }
        }
        self.tell_pods(now, by_api);
        self.count_connections();
        // Only here pods come and go.
        self.pace
            .expect(self.engine.views().count(), self.sources.has_census());
    }

    /// Has the kernel count the connections of every pod that is judged.
    fn count_connections(&mut self) {
        let judged = self.engine.views().filter(|(_, view)| {
            // One that was never enrolled may be at any time.
            view.state != State::Exempt || view.reason == Some(Reason::NotEnrolled)
        });
        let netns = judged.filter_map(|(uid, _)| self.index.get(uid).ok()?.netns_inode);
        let netns = netns.collect();
        self.sources.count_in(&netns);
    }

    /// Tells the engine which pods there are, and what is expected of each.
    fn tell_pods(&mut self, now: Time, by_api: bool) {
        let gone: Vec<PodUid> = self
            .engine
            .views()
            .map(|(uid, _)| uid)
            .filter(|uid| match by_api {
                true => !self.declared.contains_key(uid),
                false => self.index.get(uid).err() == Some(Reason::NoProcess),
            })
            .cloned()
            .collect();
        for uid in gone {
            self.engine.pod_gone(now, &uid);
        }
        if by_api {
            for (uid, pod) in &self.declared {
                self.engine.pod(now, uid, pod.expectation);
            }
            return;
        }
        for (uid, mapping) in self.index.pods() {
            let expectation = match mapping {
                _ if self.sources.is_ztunnel_pod(uid) => Expectation::Exempt(Reason::DataPlane),
                Err(Reason::HostNetwork) => Expectation::Exempt(Reason::HostNetwork),
                _ => Expectation::Undeclared,
            };
            self.engine.pod(now, uid, expectation);
        }
    }

    /// What was seen of a pod holds for the namespace in which it was seen. Where that is another one by now, or none,
    /// nothing holds; where there was none, there may be something to see.
    fn void_what_moved(&mut self, now: Time, before: &NetnsIndex) {
        for (uid, mapping) in before.pods() {
            let Ok(mapping) = mapping else {
                if self.index.get(uid).is_ok() {
                    self.engine.hint(now, uid);
                }
                continue;
            };
            let netns = |mapping: &Mapping| (mapping.netns, mapping.netns_inode);
            let there = self.index.get(uid).ok();
            if there.is_some_and(|there| netns(there) == netns(mapping)) {
                continue;
            }
            let since = there.and_then(|there| started(now, there.start));
            self.engine.replaced(now, uid, since.unwrap_or(now));
        }
        for (uid, _) in self.index.pods().filter(|(_, mapping)| mapping.is_ok()) {
            if before.get(uid) == Err(Reason::NoProcess) {
                self.engine.hint(now, uid);
            }
        }
    }
}
