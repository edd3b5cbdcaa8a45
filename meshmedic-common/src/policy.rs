// SPDX-License-Identifier: Apache-2.0
//! When a pod must be left alone. The rules are those of "Do no harm" in `docs/repair-safety.md`.

mod rungs;

use std::borrow::Cow;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::eligibility::Expectation;
use crate::facts::{Controller, PodFacts};
use crate::verdict::{State, named};

pub use rungs::{BadRungs, Rungs};

named! {
    /// Why a repair was withheld.
    pub enum Withheld {
        /// Rule 1: nobody asked for repairs.
        DetectOnly = "detect-only", "repairs of such pods are off (--auto-repair, --repair-stuck)";
        /// Rule 1: not Ready, but not for long enough.
        GracePeriod = "grace-period", "NotReady for less than the grace period";
        /// Rule 2: it is no proved orphan, or not any more.
        NotProved = "not-proved", "it is no proved orphan, or not any more";
        /// Rule 2: some of its listeners are there.
        ByHand = "by-hand", "only some of its listeners are gone; such a pod is repaired by hand only";
        /// Rule 2: its rules alone are gone.
        InPlaceOnly = "in-place-only", "its listeners are there and its rules are gone; such a pod is healed in place only";
        /// Rule 2: somebody else holds the ports.
        Imposter = "imposter", "another process holds the capture ports, and would in a successor too";
        /// Rule 2: ztunnel or istio-cni of the node is at fault.
        NodeFault = "node-fault", "this node's ztunnel or istio-cni is at fault or has not settled";
        /// Rule 2: a successor would get no identity, or what is known is too old.
        MeshFault = "mesh-fault", "a successor would get no identity, or what the API says is too old";
        /// Rule 2: its pods are about to leave anyway.
        Cordoned = "cordoned", "the node is cordoned: its pods are about to leave anyway";
        /// Rule 2: somebody paused all repairs.
        Paused = "paused", "repairs are paused";
        /// Rule 2: whether it belongs to the mesh at all rests on a guess.
        Guessed = "guessed", "istio-cni's settings could not be read, so whether it belongs to the mesh is a guess";
        /// Rule 3: the pod that was judged is not there any more.
        OtherPod = "other-pod", "the pod that was judged is not there any more";
        /// Rule 3: it is being deleted already.
        Leaving = "leaving", "it is being deleted or has ended already";
        /// Rule 3: it could not be fetched again before the act.
        NotFetched = "not-fetched", "what the act depends on could not be fetched again just before it";
        /// Rule 4: nothing recreates it.
        NothingRecreates = "nothing-recreates", "nothing recreates it; `meshmedic repair --strategy toggle` enrols it again without a restart";
        /// Rule 4: static pods are the kubelet's.
        StaticPod = "static-pod", "it is a static pod: move its manifest away and back on the node";
        /// Rule 4: an unknown kind owns it.
        UnknownController = "unknown-controller", "nothing is known of how its controller recreates pods";
        /// Rule 4: Jobs are left alone.
        JobPod = "job-pod", "it belongs to a Job (--repair-jobs)";
        /// Rule 5: a PodDisruptionBudget stands in the way.
        DisruptionBudget = "disruption-budget", "a PodDisruptionBudget refuses its eviction";
        /// Rule 5: only because it is not Ready.
        UnhealthyPolicy = "unhealthy-policy", "a PodDisruptionBudget refuses its eviction only because it is not Ready (unhealthyPodEvictionPolicy)";
        /// Rule 5: the API refused.
        Refused = "refused", "the API refused the eviction";
        /// Rule 6: another repair must prove itself first.
        Canary = "canary", "another repair must prove itself first";
        /// Rule 6: how much is lost is not known yet.
        Confirming = "confirming", "several pods of its node seem to be lost and are being confirmed: how many goes first";
        /// Rule 6: repairs of this owner's pods did not take.
        BreakerOwner = "breaker-owner", "repairs of this owner's pods failed";
        /// Rule 6: repairs on this node did not take.
        BreakerNode = "breaker-node", "repairs on this node failed";
        /// Rule 6: repairs in this cluster did not take.
        BreakerCluster = "breaker-cluster", "repairs in this cluster failed";
        /// Rule 7: enough repairs of this owner's pods are under way.
        InFlightOwner = "in-flight-owner", "enough repairs of this owner's pods are under way";
        /// Rule 7: enough repairs on this node are under way.
        InFlightNode = "in-flight-node", "enough repairs on this node are under way";
        /// Rule 7: enough repairs in the cluster are under way.
        NoSlot = "no-slot", "enough repairs in the cluster are under way";
        /// Rule 7: this node's hour is used up.
        BudgetNode = "budget-node", "this node had its repairs of this hour";
        /// Rule 7: the cluster's hour is used up.
        BudgetCluster = "budget-cluster", "the cluster had its repairs of this hour";
        /// Rule 7: the owner's pods are left in peace for a while.
        Cooldown = "cooldown", "a repair of this owner's pods failed, or did not last, a while ago";
        /// Rule 7: what was done before cannot be read or written.
        NoLedger = "no-ledger", "what was done before cannot be read or written, so nothing is done";
        /// Rule 8: the pod's annotation.
        OptedOutPod = "opted-out-pod", "its annotation meshmedic.io/repair forbids it";
        /// Rule 8: the namespace's annotation.
        OptedOutNamespace = "opted-out-namespace", "its namespace's annotation meshmedic.io/repair forbids it";
        /// Rule 9: a toggle of its label has not ended.
        Toggling = "toggling", "a toggle of its label has not ended";
        /// Rule 9: the label would not be heeded.
        NoToggle = "no-toggle", "istio-cni's selectors would keep it enrolled whatever its label says, so a toggle does nothing";
        /// Rule 1: the API does not let us ask istio-cni.
        HealNotPermitted = "heal-not-permitted", "the right to ask istio-cni to enrol a pod again is missing (pods/status: patch), and nothing is restarted instead";
        /// Rule 2: nothing shows that ztunnel serves.
        ZtunnelUnproven = "ztunnel-unproven", "nothing shows that this node's ztunnel serves: no pod is captured, and it has had no connection to istio-cni for long enough";
        /// Rule 2: the API does not know where it lives.
        NoAddress = "no-address", "its network namespace has none of the addresses that the API gives it, or its sandbox is not ready";
        /// Rule 2: ztunnel could not bind there.
        PortHeld = "port-held", "another process holds a port that ztunnel needs";
        /// Rule 2: istio-cni may not understand.
        HealUnsupported = "heal-unsupported", "istio-cni enrols a running pod again from 1.25 on, and this one is older or does not say (--istio-version)";
        /// Rule 2: another agent is the one that acts.
        Superseded = "superseded", "another agent of this node is the one that acts";
        /// Rule 6: a gentler way has not come to its end.
        Healing = "healing", "a gentler way has not come to its end: istio-cni is asked to enrol it again";
        /// Rule 6: the first heal must prove itself.
        HealCanary = "heal-canary", "another heal in place must prove itself first";
        /// Rule 6: heals did not take here.
        HealStopped = "heal-stopped", "heals of pods of different owners and namespaces failed on this node";
        /// Rule 6: heals did not take in several places.
        HealBreaker = "heal-breaker", "heals in place failed on several nodes, so no more start in this cluster";
        /// Rule 6: nothing shows that istio-cni works.
        HealUnanswered = "heal-unanswered", "a heal in place failed, and nothing has shown since that istio-cni works";
        /// Rule 7: enough asks are outstanding.
        HealPace = "heal-pace", "enough heals in place are under way on this node, or within a minute";
        /// Rule 7: its owner had its share.
        HealOwnerShare = "heal-owner-share", "its owner's share of heals in place is asked for already";
        /// Rule 8: none of the ways that are allowed can help it.
        Strategy = "strategy", "the ways that are allowed (--strategy, the annotation meshmedic.io/strategy) leave none that could help it";
        /// Rule 11: its owner lacks a pod already.
        OwnerDegraded = "owner-degraded", "its owner cannot afford it: another of its pods is missing or not Ready";
        /// Rule 10: what it says of itself makes no sense.
        Untrusted = "untrusted", "what it says of itself makes no sense";
    }
}

impl Withheld {
    /// The number of the rule in "Do no harm".
    #[must_use]
    pub const fn rule(self) -> u8 {
        match self {
            Self::DetectOnly | Self::GracePeriod | Self::HealNotPermitted => 1,
            Self::NotProved
            | Self::ByHand
            | Self::InPlaceOnly
            | Self::Imposter
            | Self::NodeFault
            | Self::MeshFault
            | Self::Cordoned
            | Self::Paused
            | Self::Guessed
            | Self::ZtunnelUnproven
            | Self::NoAddress
            | Self::PortHeld
            | Self::HealUnsupported
            | Self::Superseded => 2,
            Self::OtherPod | Self::Leaving | Self::NotFetched => 3,
            Self::NothingRecreates | Self::StaticPod | Self::UnknownController | Self::JobPod => 4,
            Self::DisruptionBudget | Self::UnhealthyPolicy | Self::Refused => 5,
            Self::Canary
            | Self::Confirming
            | Self::BreakerOwner
            | Self::BreakerNode
            | Self::BreakerCluster
            | Self::Healing
            | Self::HealCanary
            | Self::HealStopped
            | Self::HealBreaker
            | Self::HealUnanswered => 6,
            Self::InFlightOwner
            | Self::InFlightNode
            | Self::NoSlot
            | Self::BudgetNode
            | Self::BudgetCluster
            | Self::Cooldown
            | Self::NoLedger
            | Self::HealPace
            | Self::HealOwnerShare => 7,
            Self::OptedOutPod | Self::OptedOutNamespace | Self::Strategy => 8,
            Self::Toggling | Self::NoToggle => 9,
            Self::Untrusted => 10,
            Self::OwnerDegraded => 11,
        }
    }

    /// Whether the API gave it when it was asked for the act.
    #[must_use]
    pub const fn is_the_apis(self) -> bool {
        matches!(
            self,
            Self::DisruptionBudget | Self::UnhealthyPolicy | Self::Refused
        )
    }

    /// Whether the end of another repair may change it.
    #[must_use]
    pub const fn waits_for_another(self) -> bool {
        matches!(
            self,
            Self::Canary | Self::InFlightOwner | Self::InFlightNode | Self::NoSlot
        )
    }
}

/// For how long istio-cni may go on trying, where nobody chose otherwise, before a pod counts as stalled.
pub const PENDING_DEADLINE: Duration = Duration::from_secs(120);
/// For how long every reading must agree, where nobody chose otherwise, before an agent believes a loss.
pub const CONFIRM: Duration = Duration::from_secs(10);
/// How long ztunnel must have been Ready, where nobody chose otherwise, before its absence in a pod means anything.
pub const SETTLE: Duration = Duration::from_secs(30);
/// How long an orphan must not have been Ready, where nobody chose otherwise, to be a stuck one.
pub const GRACE_PERIOD: Duration = Duration::from_secs(300);

/// What was switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Ready orphans may be repaired.
    pub ready: bool,
    /// Orphans that have not been Ready for the grace period may be repaired.
    pub stuck: bool,
    /// For how long.
    pub grace_period: Duration,
    /// Pods of Jobs may be repaired.
    pub jobs: bool,
}

/// What a person who was shown what would be done chose to go past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Overrides {
    /// Pods of Jobs may be repaired.
    pub jobs: bool,
    /// Although all repairs are paused.
    pub pause: bool,
    /// Although an annotation forbids it.
    pub opt_out: bool,
    /// Although the last repairs did not take.
    pub failures: bool,
}

impl Overrides {
    /// A pod as it counts for whoever chose to go past what forbids it.
    pub fn lift(self, standing: &mut Standing) {
        if self.opt_out {
            standing.facts.repair = None;
            standing.namespace_repair = None;
        }
    }

    /// The same of what holds above it.
    pub fn lift_gates(self, gates: &mut Gates) {
        if self.pause {
            gates.paused = None;
        }
    }
}

/// On whose word a pod is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mandate {
    /// An agent's, by what was switched on.
    Agent(Permissions),
    /// A person's, who named the pod.
    Person(Overrides),
}

named! {
    /// By what means a pod is brought back.
    pub enum Means {
        /// istio-cni is asked to take it in again; nothing restarts.
        Heal = "heal", "healed in place";
        /// It is evicted, so that its controller creates another one, and disruption budgets hold.
        Evict = "evict", "evicted";
        /// It is deleted, past them.
        Delete = "delete", "deleted";
        /// Its label takes it out of the mesh and in again.
        Toggle = "toggle", "toggled";
        /// A label that a toggle left behind is put back.
        Restore = "restore", "restored";
    }
}

impl Means {
    /// The same while it is done.
    #[must_use]
    pub const fn doing(self) -> &'static str {
        match self {
            Self::Heal => "healing in place",
            Self::Evict => "evicting",
            Self::Delete => "deleting",
            Self::Toggle => "toggling its label",
            Self::Restore => "putting its label back",
        }
    }

    /// Whether another pod comes in its place.
    #[must_use]
    pub const fn replaces(self) -> bool {
        matches!(self, Self::Evict | Self::Delete)
    }

    /// Whether the pod must be read just before.
    #[must_use]
    pub const fn needs_reading(self) -> bool {
        !matches!(self, Self::Restore)
    }
}

/// What holds above the pod, each with its details while it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// ztunnel or istio-cni of the node is at fault or has not settled.
    pub node_fault: Option<String>,
    /// istiod has no ready endpoint, or what is known is too old.
    pub mesh_fault: Option<String>,
    /// The node is cordoned.
    pub cordoned: bool,
    /// Repairs are paused; why, in the words of whoever did it.
    pub paused: Option<String>,
}

/// A pod as the API shows it, and what that makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The pod.
    pub facts: PodFacts,
    /// Whether it should be captured.
    pub expectation: Expectation,
    /// Whether that rests on istio-cni's own settings.
    pub certain: bool,
    /// What its namespace's annotation says of repairs.
    pub namespace_repair: Option<String>,
    /// What its namespace's annotation says of the ways that are allowed.
    pub namespace_strategy: Option<String>,
}

/// The first rule that forbids to repair a pod now. This is the one place that says so, to agents and to people.
///
/// `state` is what its readings show, where there are any; `uid` the API's UID of the pod that was judged.
#[must_use]
pub fn forbids(
    mandate: &Mandate,
    means: Means,
    state: Option<State>,
    standing: &Standing,
    uid: &str,
    gates: &Gates,
    now: Timestamp,
) -> Option<Withheld> {
    if means == Means::Restore {
        return gone(&standing.facts, uid);
    }
    let (mut standing, mut gates) = (Cow::Borrowed(standing), Cow::Borrowed(gates));
    let jobs = match mandate {
        Mandate::Agent(permissions) => permissions.jobs,
        Mandate::Person(overrides) => {
            overrides.lift(standing.to_mut());
            overrides.lift_gates(gates.to_mut());
            overrides.jobs
        }
    };
    let of_pod = || match means {
        Means::Toggle => toggle_barred(&standing, uid),
        _ => pod_forbids(&standing, uid, jobs),
    };
    let permitted = || match mandate {
        Mandate::Agent(permissions) => permissions_forbid(permissions, &standing.facts, now),
        Mandate::Person(_) => None,
    };
    state
        .and_then(|state| state_forbids(mandate, state))
        .or_else(of_pod)
        .or_else(permitted)
        .or_else(|| gates_forbid(&gates))
}

/// What a finding must be to be repaired at all. A partial loss is repaired by hand only.
fn state_forbids(mandate: &Mandate, state: State) -> Option<Withheld> {
    match (state, mandate) {
        (State::Orphan | State::Stalled, _) | (State::Partial, Mandate::Person(_)) => None,
        (State::Partial, Mandate::Agent(_)) => Some(Withheld::ByHand),
        (State::Imposter, _) => Some(Withheld::Imposter),
        (State::Bypassing, _) => Some(Withheld::InPlaceOnly),
        _ => Some(Withheld::NotProved),
    }
}

/// What must be so of the world above a pod before any repair.
#[must_use]
pub fn gates_forbid(gates: &Gates) -> Option<Withheld> {
    if gates.paused.is_some() {
        return Some(Withheld::Paused);
    }
    if gates.node_fault.is_some() {
        return Some(Withheld::NodeFault);
    }
    if gates.mesh_fault.is_some() {
        return Some(Withheld::MeshFault);
    }
    gates.cordoned.then_some(Withheld::Cordoned)
}

/// What must be so of the very pod before it is evicted. `uid` is the API's UID of the pod that was judged.
#[must_use]
pub fn pod_forbids(standing: &Standing, uid: &str, jobs: bool) -> Option<Withheld> {
    touching_forbidden(standing, uid)
        .or_else(|| nothing_recreates(&standing.facts, jobs))
        .or_else(|| narrowed(standing, |rungs| rungs.restart))
}

/// Whether annotations leave this way.
fn narrowed(standing: &Standing, way: impl Fn(Rungs) -> bool) -> Option<Withheld> {
    match Rungs::of(standing) {
        Ok(rungs) => (!way(rungs)).then_some(Withheld::Strategy),
        Err(why) => Some(why),
    }
}

/// What must be so of the very pod before a toggle. It survives, so it matters not who would recreate it; but the
/// API shows only the mirror of a static pod, and labels on a mirror are the kubelet's to undo.
#[must_use]
pub fn toggle_forbidden(standing: &Standing, uid: &str) -> Option<Withheld> {
    touching_forbidden(standing, uid).or_else(|| is_static(&standing.facts).then_some(Withheld::StaticPod))
}

/// The same where annotations may leave this way out. What an ask made worse is taken back whatever they say.
#[must_use]
pub fn toggle_barred(standing: &Standing, uid: &str) -> Option<Withheld> {
    toggle_forbidden(standing, uid).or_else(|| narrowed(standing, |rungs| rungs.toggle))
}

/// What must be so of the very pod before istio-cni is asked for it. It survives, so it matters not who would recreate
/// it; but its connections are reset, which can fail a Job, and a static pod is not found by istio-cni.
#[must_use]
pub fn heal_forbidden(standing: &Standing, uid: &str, jobs: bool) -> Option<Withheld> {
    let facts = &standing.facts;
    let of_job = facts
        .controller
        .as_ref()
        .is_some_and(|controller| controller.kind == "Job");
    let mut standing = Cow::Borrowed(standing);
    if standing.expectation == Expectation::Pending {
        // istio-cni is to enrol it, and a reading says that it has not: asked once more, it tries once more.
        standing.to_mut().expectation = Expectation::Expected;
    }
    let standing = &*standing;
    touching_forbidden(standing, uid)
        .or_else(|| is_static(facts).then_some(Withheld::StaticPod))
        .or_else(|| (of_job && !jobs).then_some(Withheld::JobPod))
        .or_else(|| narrowed(standing, |rungs| rungs.heal))
}

/// Whether such a pod may be healed in place, by what was switched on. Where Ready orphans may be repaired it is no
/// matter whether this one is: nothing of it restarts.
#[must_use]
pub fn heal_not_permitted(permissions: &Permissions, facts: &PodFacts, now: Timestamp) -> Option<Withheld> {
    if permissions.ready {
        return None;
    }
    permissions_forbid(permissions, facts, now)
}

/// What must be so of the very pod before anything is done to it.
fn touching_forbidden(standing: &Standing, uid: &str) -> Option<Withheld> {
    let facts = &standing.facts;
    if let Some(why) = gone(facts, uid) {
        return Some(why);
    }
    if facts.toggle_restore.is_some() {
        return Some(Withheld::Toggling);
    }
    if standing.expectation != Expectation::Expected {
        return Some(Withheld::NotProved);
    }
    if !standing.certain {
        return Some(Withheld::Guessed);
    }
    for (said, opted_out) in [
        (&facts.repair, Withheld::OptedOutPod),
        (&standing.namespace_repair, Withheld::OptedOutNamespace),
    ] {
        match said.as_deref() {
            None | Some(ENABLED) => {}
            Some(DISABLED) => return Some(opted_out),
            // Whoever wrote it meant something; better to leave the pod alone than to guess.
            Some(_) => return Some(Withheld::Untrusted),
        }
    }
    None
}

/// Whether it is not there any more, or about not to be.
fn gone(facts: &PodFacts, uid: &str) -> Option<Withheld> {
    if facts.uid != uid {
        return Some(Withheld::OtherPod);
    }
    (facts.deleting || facts.finished).then_some(Withheld::Leaving)
}

/// The value of [`crate::facts::REPAIR`] that forbids repairs.
pub const DISABLED: &str = "disabled";
/// The value that says in words what holds without it.
pub const ENABLED: &str = "enabled";

/// Whether the pod is the kubelet's.
fn is_static(facts: &PodFacts) -> bool {
    let of_node = |controller: &Controller| controller.kind == "Node";
    facts.mirror || facts.config_hash.is_some() || facts.controller.as_ref().is_some_and(of_node)
}

/// Whether nothing would bring the pod back that was evicted.
fn nothing_recreates(facts: &PodFacts, jobs: bool) -> Option<Withheld> {
    if is_static(facts) {
        return Some(Withheld::StaticPod);
    }
    match facts
        .controller
        .as_ref()
        .map(|controller| controller.kind.as_str())
    {
        None => Some(Withheld::NothingRecreates),
        Some("DaemonSet" | "ReplicaSet" | "ReplicationController" | "StatefulSet") => None,
        Some("Job") => (!jobs).then_some(Withheld::JobPod),
        Some(_) => Some(Withheld::UnknownController),
    }
}

/// Whether such an orphan may be repaired at all, by what was switched on.
#[must_use]
pub fn permissions_forbid(permissions: &Permissions, facts: &PodFacts, now: Timestamp) -> Option<Withheld> {
    if facts.ready {
        return (!permissions.ready).then_some(Withheld::DetectOnly);
    }
    if !permissions.stuck {
        return Some(Withheld::DetectOnly);
    }
    let grace = SignedDuration::try_from(permissions.grace_period).unwrap_or(SignedDuration::MAX);
    let stuck = facts
        .ready_since
        .is_some_and(|since| now.duration_since(since) > grace);
    (!stuck).then_some(Withheld::GracePeriod)
}

/// Whether a Ready orphan, or one stuck for the whole grace period.
#[must_use]
pub fn is_stuck(grace_period: Duration, facts: &PodFacts, now: Timestamp) -> bool {
    let all = Permissions {
        ready: false,
        stuck: true,
        grace_period,
        jobs: false,
    };
    !facts.ready && permissions_forbid(&all, facts, now).is_none()
}

#[cfg(test)]
mod tests;
