// SPDX-License-Identifier: Apache-2.0
//! Tells what happened: in the log, as Events, as metrics.

mod conditions;
mod heals;
mod returns;
mod strangers;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use meshmedic_common::few::{About, Few};
use meshmedic_common::identity::Claimant;
use meshmedic_common::kube::acted::Target;
use meshmedic_common::kube::event::{Decision, EventReason, Reporter, Subject};
use meshmedic_common::policy::{Means, Withheld};
use meshmedic_common::report::{Recent, RepairReport, TransitionReport, TriggerMode};
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Redirection, State};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cluster::{Mirror, Seen};
use crate::engine::{Notice, Transition};
use crate::options::AgentOptions;
use crate::status::Metrics;
use crate::status::metrics::result_of;
use crate::watch::{Event, Watch};
use conditions::{Fault, Untold};
use meshmedic_common::repair::{Outcome, PodRef, RepairNotice};
use meshmedic_common::time::Time;
use returns::{Returns, told};

/// What the Events name as their source.
const CONTROLLER: &str = "meshmedic.io/agent";
/// Events wait here for the API; beyond it they are dropped and counted.
const BACKLOG: usize = 128;
/// Events still waiting at the end get this long.
const FLUSH: Duration = Duration::from_secs(3);

pub(super) struct Teller {
    node: String,
    metrics: Metrics,
    events: Option<mpsc::Sender<Message>>,
    publishing: JoinHandle<()>,
    unredirected: BTreeSet<PodUid>,
    troubled: BTreeSet<&'static str>,
    transitions: HashMap<PodUid, Recent<TransitionReport>>,
    repairs: Recent<RepairReport>,
    /// Repairs under way, by the pod's UID.
    begun: HashMap<String, Means>,
    fault: Option<Fault>,
    /// Most pods of the node are lost: that is told once, of the node.
    mass_loss: bool,
    /// Whether other nodes lost their pods, too: then Events tell of nodes alone.
    wide: bool,
    untold: Option<Untold>,
    /// Of how many pods Events tell.
    few: Few,
    /// The pods of whose loss an Event told, and of no recovery since.
    told_lost: BTreeSet<PodUid>,
    returns: Returns,
    /// Who claims to be a part of Istio, as far as it was told.
    strangers: BTreeSet<Claimant>,
}

struct Message {
    reason: EventReason,
    subject: Subject,
    note: String,
}

impl Teller {
    pub(super) fn new(client: &Client, node: &str, metrics: Metrics) -> Self {
        let (events, mut waiting) = mpsc::channel::<Message>(BACKLOG);
        let reporter = Reporter::new(client.clone(), CONTROLLER, node);
        let counted = metrics.clone();
        let publishing = tokio::spawn(async move {
            while let Some(message) = waiting.recv().await {
                match reporter
                    .publish(&message.subject, message.reason, &message.note)
                    .await
                {
                    Ok(Decision::Publish) => {}
                    Ok(_) => counted.kube_event_suppressed(),
                    Err(error) => tracing::warn!(
                        reason = message.reason.as_str(),
                        error = meshmedic_common::kube::acts::describe(&error),
                        "an Event could not be written"
                    ),
                }
            }
        });
        Self {
            node: node.to_owned(),
            metrics,
            events: Some(events),
            publishing,
            unredirected: BTreeSet::new(),
            troubled: BTreeSet::new(),
            transitions: HashMap::new(),
            repairs: Recent::default(),
            begun: HashMap::new(),
            fault: None,
            mass_loss: false,
            wide: false,
            untold: None,
            few: Few::default(),
            told_lost: BTreeSet::new(),
            returns: Returns::default(),
            strangers: BTreeSet::new(),
        }
    }

    pub(super) fn begin(&self, options: &AgentOptions, trigger: TriggerMode) {
        let permissions = options.repairer.permissions();
        let repairs = match (permissions.ready, permissions.stuck) {
            (false, false) => "off: what would be done is logged only",
            (true, false) => "of Ready orphans",
            (false, true) => "of orphans not Ready for the grace period",
            (true, true) => "of Ready orphans and of those not Ready for the grace period",
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = self.node,
            trigger = trigger.as_str(),
            repairs,
            "watching this node"
        );
    }

    /// The pods are known for the first time.
    pub(super) fn first_sight(&self, mirror: &Mirror) {
        if mirror.has_istio() {
            tracing::info!(pods = mirror.standings().len(), "the API listed this node's pods");
        } else {
            tracing::info!(
                pods = mirror.standings().len(),
                "neither ztunnel nor istio-cni is on this node: nothing is judged until they come"
            );
        }
    }

    /// Whether a watch works. An interruption is told once, until it is over.
    pub(super) fn watch(&mut self, seen: &Seen) {
        match seen {
            Seen::Trouble(resource, error) if self.troubled.insert(resource) => tracing::warn!(
                resource,
                error,
                "the watch is interrupted; going on with what was known, trying again"
            ),
            Seen::Trouble(resource, error) => {
                tracing::debug!(resource, error, "the watch is still interrupted");
            }
            news => {
                if self.troubled.remove(news.resource()) {
                    tracing::info!(resource = news.resource(), "the watch works again");
                }
            }
        }
    }

    /// The last changes of a pod.
    pub(super) fn transitions(&self, uid: &PodUid) -> Option<&Recent<TransitionReport>> {
        self.transitions.get(uid)
    }

    /// The repairs that ended last.
    pub(super) fn last_repairs(&self) -> &Recent<RepairReport> {
        &self.repairs
    }

    /// What the node showed.
    pub(super) fn node(
        &mut self,
        watch: &Watch,
        mirror: &Mirror,
        events: &[Event],
        server: Option<Timestamp>,
    ) {
        for event in events {
            self.metrics.event(event);
            match event {
                Event::Kernel { .. } => {}
                Event::RecordsLost(total) => {
                    tracing::warn!(
                        total,
                        "the kernel's buffer was full and records were lost; all pods are read again"
                    );
                }
                Event::KernelFailed(error) => {
                    tracing::warn!(%error, "a kernel program failed; going on without it, restart to try again");
                }
                Event::Census(Some(error)) => {
                    tracing::warn!(%error, "the census failed and is tried again; meanwhile each change asks for a reading");
                }
                Event::Census(None) => tracing::info!("the census works again"),
                Event::Notice(Notice::Pod(transition)) => {
                    let outside = self.returns.take(transition);
                    self.remember(transition, outside, server);
                    self.transition(watch, mirror, transition, outside);
                }
                Event::Notice(Notice::Node {
                    condition,
                    detail,
                    at,
                }) if mirror.knows_pods() => {
                    self.condition(*at, watch, *condition, detail.as_deref());
                }
                // Before the API told of ztunnel's pod, its absence means nothing.
                Event::Notice(Notice::Node { .. }) => {}
            }
        }
    }

    fn transition(
        &mut self,
        watch: &Watch,
        mirror: &Mirror,
        transition: &Transition,
        outside: Option<Duration>,
    ) {
        let delay = transition.at.since(transition.since);
        let Some(standing) = mirror.standings().get(&transition.uid) else {
            return;
        };
        let facts = &standing.facts;
        let view = watch.engine().view(&transition.uid);
        let ports = view
            .as_ref()
            .map(|view| view.ports.to_string())
            .unwrap_or_default();
        let netns = watch
            .mapping(&transition.uid)
            .and_then(|mapping| mapping.netns_inode);
        let traffic = view.as_ref().and_then(|view| view.traffic);
        let reason = transition.reason.map(|reason| reason.as_str());
        let mass_loss = self.mass_loss || watch.engine().mass_loss();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    namespace = facts.namespace,
                    pod = facts.name,
                    uid = facts.uid,
                    node = self.node,
                    netns,
                    ports,
                    from = transition.from.map(|from| from.as_str()),
                    to = transition.to.as_str(),
                    reason,
                    traffic = traffic.map(|traffic| traffic.as_str()),
                    delay_ms = delay.as_secs_f64() * 1e3,
                    outside_ms = outside.map(|outside| outside.as_secs_f64() * 1e3),
                    "{}",
                    told(transition, outside)
                )
            };
        }
        match (transition.from, transition.to) {
            (_, to) if to.is_finding() => line!(warn),
            _ if outside.is_some() => line!(info),
            // Every pod begins so, and most stay there.
            (None, _) | (Some(State::Unverifiable), State::Captured | State::Exempt) => line!(debug),
            _ => line!(info),
        }
        let target = Target::from(facts);
        let told_lost = self.told_lost.contains(&transition.uid);
        if transition.to.is_finding() && !mass_loss {
            let doing = traffic
                .map(|traffic| format!("; {}", traffic.sentence()))
                .unwrap_or_default();
            let code = transition.to.code().unwrap_or_default();
            let note = format!(
                "{} (proved in its network namespace on {}{doing}); `meshmedic doctor` looks for what led to it ({code})",
                transition.to.sentence(),
                self.node
            );
            if self.tell_of(target, EventReason::CaptureLost, note) {
                self.told_lost.insert(transition.uid.clone());
            }
        } else if told_lost && transition.to == State::Captured {
            self.told_lost.remove(&transition.uid);
            let note = "ztunnel's listeners are back in its network namespace".to_owned();
            self.tell_of(target, EventReason::CaptureRecovered, note);
        }
    }

    fn remember(&mut self, transition: &Transition, outside: Option<Duration>, server: Option<Timestamp>) {
        let (Some(server), true) = (server, transition.from.is_some()) else {
            return;
        };
        let ago = SignedDuration::try_from(Time::now().since(transition.at)).unwrap_or_default();
        let recent = self.transitions.entry(transition.uid.clone()).or_default();
        recent.push(TransitionReport {
            at: server.checked_sub(ago).unwrap_or(server),
            from: transition.from,
            to: transition.to,
            reason: transition.reason,
            outside_ms: outside.map(|outside| u64::try_from(outside.as_millis()).unwrap_or(u64::MAX)),
        });
    }

    /// What became of repairs.
    pub(super) fn repairs(&mut self, notices: &[RepairNotice], server: Timestamp) {
        for notice in notices {
            self.metrics.repair(notice);
            match notice {
                RepairNotice::Withheld {
                    pod,
                    why,
                    detail,
                    shadow,
                } => {
                    self.withheld(pod, *why, detail.as_deref(), *shadow);
                }
                RepairNotice::Would { pod } => audit(&self.node, pod, "would-repair", None, None, None, true),
                RepairNotice::Started { pod, means, .. } => {
                    self.begun.insert(pod.uid.clone(), *means);
                    let act = means.as_str();
                    audit(&self.node, pod, act, None, None, None, false);
                    let note = format!(
                        "asking the API to {act} it: proved to be out of the mesh; its controller will start another one"
                    );
                    self.publish(EventReason::RepairStarted, of(pod), note);
                }
                RepairNotice::Ended {
                    pod, outcome, took, ..
                } => self.ended(pod, outcome, *took, server),
            }
        }
    }

    fn ended(&mut self, pod: &PodRef, outcome: &Outcome, took: Duration, server: Timestamp) {
        let (reason, note) = match outcome {
            Outcome::Succeeded(proof) => {
                let note = format!(
                    "its successor {} on {} is captured, {} after the repair began",
                    proof.pod,
                    proof.node,
                    meshmedic_common::duration::show(in_millis(took))
                );
                (EventReason::RepairSucceeded, note)
            }
            Outcome::Failed(proof) => {
                let note = format!(
                    "its successor {} on {} is not captured either",
                    proof.pod, proof.node
                );
                (EventReason::RepairFailed, note)
            }
            Outcome::Unproven => {
                let note = "no successor was proved captured by the deadline".to_owned();
                (EventReason::RepairFailed, note)
            }
            Outcome::Waiting(seen) => {
                let note =
                    format!("no successor ran by the deadline: {seen}; look at the events of its owner");
                (EventReason::RepairFailed, note)
            }
            Outcome::Unwanted => {
                let note = "its owner wants no pod in its place any more".to_owned();
                (EventReason::RepairOver, note)
            }
            Outcome::InDoubt(detail) => (EventReason::RepairFailed, detail.clone()),
        };
        let result = result_of(outcome);
        audit(
            &self.node,
            pod,
            "ended",
            Some(result.as_str()),
            None,
            Some(&note),
            false,
        );
        self.repairs.push(RepairReport {
            at: server,
            pod: pod.display_name(),
            uid: pod.uid.clone(),
            action: self.begun.remove(&pod.uid),
            result: Some(result),
            detail: Some(note.clone()),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        self.publish(reason, of(pod), note);
    }

    fn withheld(&mut self, pod: &PodRef, why: Withheld, detail: Option<&str>, shadow: bool) {
        let (reason, rule) = (Some(why.as_str()), Some(why.rule()));
        audit(&self.node, pod, "withheld", reason, rule, detail, shadow);
        // What only waits for its turn is no news to whoever reads Events.
        let waits = matches!(
            why,
            Withheld::HealCanary
                | Withheld::HealPace
                | Withheld::HealOwnerShare
                | Withheld::HealBreaker
                | Withheld::Healing
        );
        if !shadow && !waits && !self.mass_loss {
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            let note = format!("not repaired, by rule {}: {}{detail}", why.rule(), why.sentence());
            self.tell_of(pod.into(), EventReason::RepairBlocked, note);
        }
    }

    /// What is looked at now and then rather than at each change.
    pub(super) fn look_over(&mut self, now: Time, watch: &Watch, mirror: &Mirror) {
        self.tell_fault(now);
        self.tell_strangers(mirror);
        self.transitions
            .retain(|uid, _| mirror.standings().contains_key(uid));
        self.returns.retain(|uid| mirror.standings().contains_key(uid));
        let missing: BTreeSet<PodUid> = watch
            .engine()
            .views()
            .filter(|(_, view)| view.state == State::Captured && view.redirection == Redirection::Absent)
            .map(|(uid, _)| uid.clone())
            .collect();
        let news: Vec<PodUid> = missing.difference(&self.unredirected).cloned().collect();
        for uid in &news {
            let Some(standing) = mirror.standings().get(uid) else {
                continue;
            };
            let facts = &standing.facts;
            let note = "ztunnel listens in its network namespace, but Istio's routing table is missing there: its \
                        traffic may bypass the mesh. It is not repaired on this evidence alone";
            tracing::warn!(
                namespace = facts.namespace,
                pod = facts.name,
                uid = facts.uid,
                node = self.node,
                "{note}"
            );
            let target = Target::from(facts);
            self.tell_of(target, EventReason::CaptureLost, note.to_owned());
        }
        self.unredirected = missing;
    }

    /// Tells of a pod as long as they are few, and of their node where they are many. True if it was of the pod.
    fn tell_of(&mut self, pod: Target, reason: EventReason, note: String) -> bool {
        match self.few.about(Time::now(), &pod.uid) {
            About::Pod => {
                self.publish(reason, Subject::Pod(pod), note);
                return true;
            }
            About::Node => {
                let note = format!(
                    "more pods of {} fell out of the mesh, or are brought back, than Events are written of: \
                     `meshmedic status` counts them, and `meshmedic scan --node {}` names them",
                    self.node, self.node
                );
                self.publish(EventReason::CaptureLost, Subject::Node(self.node.clone()), note);
            }
            About::Nobody => self.metrics.kube_event_suppressed(),
        }
        false
    }

    fn publish(&self, reason: EventReason, subject: Subject, note: String) {
        let Some(events) = &self.events else { return };
        let message = Message {
            reason,
            subject,
            note,
        };
        if events.try_send(message).is_err() {
            self.metrics.kube_event_suppressed();
        }
    }

    /// Waits a moment for the Events that are still to be written.
    pub(super) async fn flush(&mut self) {
        self.events = None;
        if tokio::time::timeout(FLUSH, &mut self.publishing).await.is_err() {
            tracing::warn!("some Events were not written");
        }
    }
}

/// Without what nobody reads.
fn in_millis(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn of(pod: &PodRef) -> Subject {
    Subject::Pod(pod.into())
}

/// Every act and every refusal is one line with these fields, whatever else is logged.
fn audit(
    node: &str,
    pod: &PodRef,
    act: &str,
    result: Option<&str>,
    rule: Option<u8>,
    detail: Option<&str>,
    shadow: bool,
) {
    tracing::info!(
        target: "meshmedic::audit",
        act,
        namespace = pod.namespace,
        pod = pod.name,
        uid = pod.uid,
        node,
        result,
        rule,
        detail,
        shadow,
        "repair"
    );
}
