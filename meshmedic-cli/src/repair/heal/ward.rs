// SPDX-License-Identifier: Apache-2.0
//! What is known of one node's pods, as the rulebook of heals wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::eligibility::{Enablement, Expectation};
use meshmedic_common::identity::{Component, NodeFault, OnNode};
use meshmedic_common::kube::heal::Heals;
use meshmedic_common::policy::{Gates, Standing, Withheld};
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::Moment;
use meshmedic_common::repair::heal::{Candidate, NodeView, Serving, Streak, Support};
use meshmedic_common::rules::leads;
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Redirection, State};

use super::rounds::{Looked, Round};
use crate::connection::Connection;
use crate::repair::plan::World;
use crate::repair::{How, Repairs, Risks};
use crate::scan::{self, ScanReport, ScannedPod};
use crate::selection::{Mesh, Scope, Selection, Target, select};
use crate::ways::{Reader, Way, WayArgs, Words};

/// So many readings of a scan agree about a loss.
const READINGS: u32 = 3;

/// So many other pods of a node are read for one that shows ztunnel at work.
const WITNESSES: usize = 8;

/// One pod.
struct Bed {
    target: Target,
    standing: Standing,
    seen: ScannedPod,
    streak: Option<Streak>,
    captured_at: Option<Time>,
    gone: bool,
}

impl Bed {
    fn candidate(&self) -> Candidate<'_> {
        let captured = self.seen.state == State::Captured;
        let routed = self.seen.redirection.unwrap_or(Redirection::Unknown);
        Candidate {
            standing: &self.standing,
            state: self.seen.state,
            streak: self.streak,
            proved_at: self.captured_at.filter(|_| captured),
            captured_at: self.captured_at,
            place: self.seen.grounds.place,
            leads: leads(routed, self.seen.rules.as_ref()),
            ports: self.seen.ports.unwrap_or(PortSet::EMPTY),
            taken: self.seen.grounds.taken,
        }
    }
}

/// The pods of one node, as far as they were asked for.
pub(in crate::repair) struct Ward {
    pub(super) node: String,
    pub(super) mesh: Mesh,
    pub(super) view: NodeView,
    /// The namespaces in which the API does not let us ask, and why.
    pub(super) not_permitted: BTreeMap<String, String>,
    beds: BTreeMap<PodUid, Bed>,
    connection: Connection,
    risks: Risks,
    mesh_fault: Option<String>,
    settle: Duration,
    version: Option<String>,
    /// What its agent says of the node.
    words: Option<Words>,
    /// Whether a pod that was not asked for was found captured.
    witnessed: bool,
    /// Whether a fault of the node is that it has not settled.
    settling: bool,
}

impl Ward {
    /// The nodes of what a scan found lost, each with its pods.
    pub(in crate::repair) async fn all(
        connection: &Connection,
        selection: &Selection,
        world: &World,
        report: &ScanReport,
        ways: &WayArgs,
        (how, risks, confirm, settle): (&How, Risks, Duration, Duration),
    ) -> anyhow::Result<BTreeMap<String, Self>> {
        let mut targets = select(connection, selection).await?.pods;
        let finding = |pod: &&ScannedPod| pod.state.is_finding();
        let nodes: BTreeSet<&str> = report
            .pods
            .iter()
            .filter(finding)
            .filter_map(|pod| pod.node.as_deref())
            .collect();
        let mut wards: BTreeMap<String, Self> = nodes
            .into_iter()
            .map(|node| {
                let ward = Self {
                    node: node.to_owned(),
                    mesh: world.mesh.clone(),
                    view: NodeView::default(),
                    not_permitted: BTreeMap::new(),
                    beds: BTreeMap::new(),
                    connection: connection.clone(),
                    risks,
                    mesh_fault: world.mesh_fault.clone(),
                    settle,
                    version: how.istio_version.clone(),
                    words: report.words.get(node).cloned(),
                    witnessed: false,
                    settling: false,
                };
                (node.to_owned(), ward)
            })
            .collect();
        let now = Time::now();
        for pod in &report.pods {
            let target = targets.remove(&(pod.namespace.clone(), pod.name.clone()));
            let target = target.filter(|target| target.facts.uid == pod.uid);
            let ward = pod.node.as_ref().and_then(|node| wards.get_mut(node));
            if let (Some(target), Some(ward)) = (target, ward) {
                ward.admit(world, target, pod.clone(), now, confirm);
            }
        }
        for ward in wards.values_mut() {
            ward.find_witness(ways).await?;
            ward.observe(world.paused.as_ref().map(|pause| pause.reason.clone()));
        }
        Ok(wards)
    }

    /// Looks for the right to ask in each namespace that has lost pods: whoever only wants to know what would be done
    /// need not have it.
    pub(in crate::repair) async fn look_for_rights(
        connection: &Connection,
        wards: &mut BTreeMap<String, Self>,
    ) {
        let heals = Heals::new(connection.client.clone());
        let mut permitted: BTreeMap<String, Option<String>> = BTreeMap::new();
        for ward in wards.values_mut() {
            let lost = ward.beds.values().filter(|bed| bed.seen.state.is_finding());
            let lost: BTreeSet<String> = lost.map(|bed| bed.target.facts.namespace.clone()).collect();
            for namespace in lost {
                if !permitted.contains_key(&namespace) {
                    let answer = heals.permitted(&namespace).await.and_then(Result::err);
                    permitted.insert(namespace.clone(), answer);
                }
                if let Some(Some(why)) = permitted.get(&namespace) {
                    ward.not_permitted.insert(namespace, why.clone());
                }
            }
        }
    }

    /// Looks for another pod of the node that is captured, where nothing else shows that ztunnel serves: among those of
    /// the same namespaces, which whoever repairs may read.
    async fn find_witness(&mut self, ways: &WayArgs) -> anyhow::Result<()> {
        let told = self.words.as_ref().and_then(|words| words.serves).is_some();
        if told || self.captures() {
            return Ok(());
        }
        let mut others = Vec::new();
        let namespaces: BTreeSet<String> = self
            .beds
            .values()
            .map(|bed| bed.target.facts.namespace.clone())
            .collect();
        for namespace in namespaces {
            let here = Selection {
                scope: Scope::Namespace(namespace),
                labels: None,
                node: Some(self.node.clone()),
            };
            let found = select(&self.connection, &here).await?.pods.into_values();
            let other = |target: &Target| {
                let uid = target.facts.cgroup_uid();
                let known = uid.is_none_or(|uid| self.beds.contains_key(&uid));
                !known && self.mesh.expectation(&target.facts) == Expectation::Expected
            };
            others.extend(found.filter(other));
        }
        if others.is_empty() {
            return Ok(());
        }
        let nodes = BTreeSet::from([self.node.as_str()]);
        let reader = Reader::new(&self.connection, ways, &Selection::cluster(), nodes).await?;
        for target in others.iter().take(WITNESSES) {
            let seen = scan::seen(target, reader.look(target).await);
            if seen.state == State::Captured {
                self.witnessed = true;
                break;
            }
        }
        Ok(())
    }

    /// Whether a pod of the node is captured, as far as is known.
    fn captures(&self) -> bool {
        self.witnessed || self.beds.values().any(|bed| bed.seen.state == State::Captured)
    }

    /// Takes a pod as a scan found it: of a loss three readings agreed.
    fn admit(&mut self, world: &World, target: Target, seen: ScannedPod, now: Time, confirm: Duration) {
        let Some(uid) = target.facts.cgroup_uid() else {
            return;
        };
        let streak = seen.grounds.place.filter(|_| seen.state == State::Orphan);
        let streak = streak.map(|place| Streak {
            place,
            readings: READINGS,
            first: now - confirm,
            last: now,
        });
        let mut standing = world.standing(&target.facts);
        self.risks.overrides().lift(&mut standing);
        let bed = Bed {
            standing,
            captured_at: None,
            gone: false,
            target,
            seen,
            streak,
        };
        self.beds.insert(uid, bed);
    }

    /// Takes what a round of looks showed.
    pub(super) fn take(&mut self, shop: &Repairs<'_>, round: Round) {
        self.mesh = round.mesh;
        self.words = round.words.or(self.words.take());
        for looked in round.pods {
            self.look(shop, looked);
        }
        let paused = match round.paused {
            Some(paused) => paused.map(|pause| pause.reason),
            None => self.view.gates.paused.clone(),
        };
        self.observe(paused);
    }

    fn look(&mut self, shop: &Repairs<'_>, looked: Looked) {
        let Looked {
            before,
            now,
            seen,
            at,
        } = looked;
        let bed = before.facts.cgroup_uid().and_then(|uid| self.beds.get_mut(&uid));
        let Some(bed) = bed else { return };
        let (Some(now), Some(seen)) = (now, seen) else {
            bed.gone = true;
            return;
        };
        bed.standing = shop.world.standing(&now.facts);
        self.risks.overrides().lift(&mut bed.standing);
        bed.target = now;
        bed.streak = match (seen.state, seen.grounds.place) {
            (State::Orphan, Some(place)) => Some(match bed.streak.filter(|streak| streak.place == place) {
                Some(streak) => Streak {
                    readings: streak.readings + 1,
                    last: at,
                    ..streak
                },
                None => Streak {
                    place,
                    readings: 1,
                    first: at,
                    last: at,
                },
            }),
            _ => None,
        };
        if seen.state == State::Captured {
            bed.captured_at = Some(at);
        }
        bed.seen = seen;
    }

    /// What the node is like now.
    fn observe(&mut self, paused: Option<String>) {
        let now = self.moment();
        let plane = self.mesh.plane(&self.node);
        let fault = plane
            .as_ref()
            .and_then(|plane| plane.fault_for_ask((self.settle, now.server)));
        self.settling = matches!(fault, Some(NodeFault::Unsettled(..)));
        let mut gates = Gates {
            node_fault: fault.map(|fault| fault.to_string()),
            mesh_fault: self.mesh_fault.clone(),
            cordoned: false,
            paused,
        };
        self.risks.overrides().lift_gates(&mut gates);
        let since = |since: Option<Timestamp>| {
            let age =
                since.map(|since| Duration::try_from(now.server.duration_since(since)).unwrap_or_default());
            now.now - age.unwrap_or_default()
        };
        let ready = |part: &OnNode| match part {
            OnNode::Ready(ready) => Some(since(*ready)),
            _ => None,
        };
        let captures = self.captures();
        let told = self.words.as_ref();
        let serving = match told.and_then(|words| words.serves) {
            Some(true) => Serving::Captures,
            Some(false) => Serving::Unproven,
            None if captures => Serving::Captures,
            None => Serving::Unproven,
        };
        let part = |component| self.mesh.part(&self.node, component);
        let id = |component| part(component)?.container.as_ref()?.id.clone();
        let version = self.version.clone().or_else(|| part(Component::Cni)?.version());
        self.view = NodeView {
            gates,
            ztunnel_since: plane.as_ref().and_then(|plane| ready(&plane.ztunnel)),
            cni_since: plane.as_ref().and_then(|plane| ready(&plane.cni)),
            serving,
            support: Support::of(version.as_deref()),
            containers: (id(Component::Cni), id(Component::Ztunnel)),
            // It holds agents back. A heal by hand is what shows whether heals take again, and then ends it.
            breaker: None,
            // A person heals one node, whatever befell others.
            address: None,
            watches_only: false,
        };
    }

    /// Whether a reason ends by itself before long.
    pub(super) fn settles(&self, why: Withheld) -> bool {
        match why {
            Withheld::NodeFault => self.settling,
            // Its agent is about to see it.
            Withheld::ZtunnelUnproven => self.words.as_ref().is_some_and(|words| words.serves.is_some()),
            _ => false,
        }
    }

    /// Now, by both clocks.
    pub(super) fn moment(&self) -> Moment {
        Moment {
            now: Time::now(),
            server: self.connection.clock.now().unwrap_or_else(Timestamp::now),
        }
    }

    pub(super) fn candidates(&self) -> BTreeMap<PodUid, Candidate<'_>> {
        let here = self.beds.iter().filter(|(_, bed)| !bed.gone);
        here.map(|(uid, bed)| (uid.clone(), bed.candidate())).collect()
    }

    /// The pods that are out of the mesh, each with the API's UID; but those that nothing but a probe can read, since
    /// they are not read again and again.
    pub(super) fn lost(&self) -> impl Iterator<Item = (&PodUid, &str)> {
        let lost = |bed: &&Bed| bed.seen.state.is_finding() && bed.seen.via != Some(Way::Probe);
        let lost = self.beds.iter().filter(move |(_, bed)| lost(bed));
        lost.map(|(uid, bed)| (uid, bed.target.facts.uid.as_str()))
    }

    pub(super) fn has(&self, uid: &PodUid) -> bool {
        self.beds.contains_key(uid)
    }

    pub(super) fn target(&self, uid: &PodUid) -> Option<Target> {
        self.beds.get(uid).map(|bed| bed.target.clone())
    }

    pub(super) fn is_gone(&self, uid: &PodUid) -> bool {
        self.beds.get(uid).is_none_or(|bed| bed.gone)
    }

    pub(super) fn is_lost(&self, uid: &PodUid) -> bool {
        self.beds.get(uid).is_some_and(|bed| bed.seen.state.is_lost())
    }

    /// How a pod is now.
    pub(super) fn sentence(&self, uid: &PodUid) -> String {
        let seen = self.beds.get(uid).map(|bed| &bed.seen);
        seen.map_or_else(String::new, |seen| {
            format!("now it is {}: {}", seen.state, seen.sentence())
        })
    }

    pub(super) fn name(&self, uid: &PodUid) -> String {
        self.beds
            .get(uid)
            .map_or_else(|| uid.to_string(), |bed| bed.target.facts.display_name())
    }

    /// The namespaces in which the node has an istio-cni, as far as is known.
    pub(super) fn cnis(&self) -> BTreeSet<String> {
        let cni = self.mesh.part(&self.node, Component::Cni);
        cni.map(|cni| cni.namespace.clone()).into_iter().collect()
    }

    /// Whom istio-cni enrols, for a pod.
    pub(super) fn enablement(&self, uid: &PodUid) -> Enablement {
        self.beds
            .get(uid)
            .map_or_else(Enablement::guessed, |bed| self.mesh.enablement(&bed.target.facts))
    }
}
