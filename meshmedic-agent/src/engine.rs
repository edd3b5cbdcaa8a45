// SPDX-License-Identifier: Apache-2.0
//! The sans-IO core: what is known of each pod, when to look again, and what to conclude.
//!
//! Nothing here reads a clock, a file or a socket. Time and evidence are handed in; looks that are due
//! and transitions come out. So the same code runs on a node and under simulated time.

mod assess;
mod gate;
mod pod;
mod turn;

use std::collections::BTreeMap;
use std::time::Duration;

use meshmedic_common::traffic::Counted;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Condition, Owner, Reason, State, is_mass_loss};

pub use assess::{Look, Seen, ZtunnelSockets, assess};
pub use gate::{Health, NodeGate, Ztunnel};
pub use meshmedic_common::eligibility::Expectation;
pub use pod::{PodView, RulesRead};
pub use turn::Urgency;

use crate::time::Time;
use meshmedic_common::repair::sabotage;
use pod::Track;

/// How patient the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For how long every reading must agree before a loss is believed.
    pub confirm: Duration,
    /// How long ztunnel must have been there before its absence in a pod means anything.
    pub settle: Duration,
    /// After how long a pod that gave no reading, or a loss that stands, is read again.
    pub reread: Duration,
    /// For how long istio-cni may go on trying to enrol a pod before it is read all the same.
    pub pending_deadline: Duration,
}

/// A change of a pod's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The pod.
    pub uid: PodUid,
    /// The state before; `None` for the first one.
    pub from: Option<State>,
    /// The state now.
    pub to: State,
    /// Why.
    pub reason: Option<Reason>,
    /// When it was concluded.
    pub at: Time,
    /// When the kernel reported the change that led here, or when the first look showed it.
    pub since: Time,
}

/// Something that came to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A pod changed its state.
    Pod(Transition),
    /// A condition of the node began (`Some`, with its details) or ended.
    Node {
        /// Which one.
        condition: Condition,
        /// What exactly, while it holds.
        detail: Option<String>,
        /// When.
        at: Time,
    },
}

/// The state of a node and its pods.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    pods: BTreeMap<PodUid, Track>,
    gate: NodeGate,
    mass_loss: bool,
    notices: Vec<Notice>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pods: BTreeMap::new(),
            gate: NodeGate::new(settings.settle),
            mass_loss: false,
            notices: Vec::new(),
        }
    }

    /// Says that a pod is here, and what is expected of it. A new pod is due for a look at once.
    pub fn pod(&mut self, now: Time, uid: &PodUid, expectation: Expectation) {
        match self.pods.get_mut(uid) {
            Some(track) if track.expectation() == expectation => return,
            Some(track) => self.notices.extend(track.expect(now, uid, expectation)),
            None => {
                let mut track = Track::new(now, expectation);
                self.notices.extend(track.begin(now, uid));
                self.pods.insert(uid.clone(), track);
            }
        }
        self.judge_mass_loss(now);
    }

    /// Says that a pod is gone.
    pub fn pod_gone(&mut self, now: Time, uid: &PodUid) {
        self.pods.remove(uid);
        self.judge_mass_loss(now);
    }

    /// Says that a pod's network namespace is another one since then, or none: what was seen of it is void.
    pub fn replaced(&mut self, now: Time, uid: &PodUid, since: Time) {
        if let Some(track) = self.pods.get_mut(uid) {
            self.notices.extend(track.replaced(now, uid, since));
        }
        self.judge_mass_loss(now);
    }

    /// Says what ztunnel's processes are like now.
    pub fn ztunnel(&mut self, now: Time, ztunnel: Ztunnel) {
        self.gate.observe(now, ztunnel);
        self.tick(now);
    }

    /// Says how the API shows ztunnel and istio-cni of this node. Without the API nobody says so.
    pub fn health(&mut self, now: Time, health: Health) {
        self.gate.observe_health(now, health);
        self.tick(now);
    }

    /// Lets time pass: ends what only time ends.
    pub fn tick(&mut self, now: Time) {
        let before = self.gate.fault().map(str::to_owned);
        let fault = self.gate.judge(now).map(str::to_owned);
        if before.is_some() != fault.is_some() {
            for (uid, track) in &mut self.pods {
                self.notices.extend(track.node_fault(now, uid, fault.is_some()));
            }
        }
        for track in self.pods.values_mut() {
            track.grow_old(now, self.settings.pending_deadline, fault.is_some());
        }
        if before != fault {
            self.notices.push(Notice::Node {
                condition: Condition::NodeFault,
                detail: fault,
                at: now,
            });
        }
        self.judge_mass_loss(now);
    }

    /// Says when the kernel reported that a listener of a pod closed: delays are counted from there.
    pub fn reported(&mut self, uid: &PodUid, at: Time) {
        if let Some(track) = self.pods.get_mut(uid) {
            track.reported(at);
        }
    }

    /// Says that something changed in a pod's namespace: look at it.
    pub fn hint(&mut self, now: Time, uid: &PodUid) {
        if let Some(track) = self.pods.get_mut(uid) {
            track.hint(now);
        }
    }

    /// Takes what the census says: of each pod whether ztunnel holds the required listeners there,
    /// `None` where it cannot tell.
    ///
    /// It may decide captured and suspect, and nothing else.
    pub fn census(&mut self, now: Time, complete: impl Fn(&PodUid) -> Option<bool>) {
        let fault = self.gate.fault().is_some();
        for (uid, track) in &mut self.pods {
            if let Some(complete) = complete(uid) {
                self.notices.extend(track.census(now, uid, complete, fault));
            }
        }
        self.judge_mass_loss(now);
    }

    /// Takes what was counted of each pod's connections, `None` where nobody counts.
    pub fn traffic(&mut self, now: Time, counted: impl Fn(&PodUid) -> Option<Counted>) {
        for (uid, track) in &mut self.pods {
            track.traffic(now, counted(uid));
        }
    }

    /// Takes what the census read of the redirection rules where ztunnel listens, `None` where it met nothing.
    ///
    /// It alone may decide bypassing: listeners, and no rules, or rules in part while connections go past ztunnel;
    /// twice and at least the confirmation apart.
    pub fn rules(&mut self, now: Time, read: impl Fn(&PodUid) -> Option<RulesRead>) {
        let fault = self.gate.fault().is_some();
        for (uid, track) in &mut self.pods {
            let read = read(uid).filter(|_| !fault);
            self.notices
                .extend(track.rules(now, uid, read.as_ref(), &self.settings));
        }
    }

    /// When the census is wanted again, to confirm that rules are gone.
    #[must_use]
    pub fn wants_rules_at(&self) -> Option<Time> {
        let wants = |track: &Track| track.wants_rules_at(&self.settings);
        self.pods.values().filter_map(wants).min()
    }

    /// Takes what a look at a pod gave.
    pub fn look(&mut self, now: Time, uid: &PodUid, look: Look) {
        let fault = self.gate.fault().is_some();
        let complete = matches!(look.seen, Seen::Complete { .. });
        let mut came_back = false;
        if let Some(track) = self.pods.get_mut(uid) {
            came_back = fault && complete && track.is_lost();
            self.notices
                .extend(track.look(now, uid, look, &self.settings, fault));
        }
        if came_back {
            // While the node is at fault only a sample of the lost is read. If one came back, the others may have.
            for track in self.pods.values_mut().filter(|track| track.is_lost()) {
                track.read_at(now);
            }
        }
        self.judge_mass_loss(now);
    }

    /// The pods to look at now, so many at most and none that is less urgent. Each is handed out once, until its look
    /// came back.
    ///
    /// Confirmations come first, the oldest before the others; then the pod whose last reading is the oldest, so that
    /// each gets its turn however often another one changes.
    pub fn due(&mut self, now: Time, most: usize, least: Urgency) -> Vec<PodUid> {
        let mut due: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, track)| track.due().is_some_and(|due| due <= now))
            .map(|(uid, track)| (track.place(), track.due(), uid))
            .filter(|(place, ..)| place.urgency() >= least)
            .collect();
        due.sort_unstable();
        let chosen: Vec<PodUid> = due
            .into_iter()
            .take(most)
            .map(|(_, _, uid)| uid.clone())
            .collect();
        for uid in &chosen {
            if let Some(track) = self.pods.get_mut(uid) {
                track.begin_reading(now);
            }
        }
        chosen
    }

    /// Takes a look back that gave no answer: another one may, from then on.
    pub fn retry(&mut self, uid: &PodUid, at: Time) {
        if let Some(track) = self.pods.get_mut(uid) {
            track.retry(at);
        }
    }

    /// Whether something may be learned from reading a sample of the lost pods: ztunnel runs, and settles.
    #[must_use]
    pub fn wants_samples(&self) -> bool {
        let settles = self.gate.fault().is_some() && self.gate.settles_at().is_some();
        settles && self.pods.values().any(Track::is_lost)
    }

    /// Makes one of the lost pods due, the one whose last reading is the oldest.
    pub fn sample(&mut self, now: Time) {
        let lost = self.pods.values_mut().filter(|track| track.is_lost());
        if let Some(track) = lost.min_by_key(|track| track.last_read()) {
            track.read_at(now);
        }
    }

    /// When the next pod of this urgency is due.
    #[must_use]
    pub fn next_due(&self, urgency: Urgency) -> Option<Time> {
        let of = |track: &&Track| track.place().urgency() == urgency;
        self.pods.values().filter(of).filter_map(Track::due).min()
    }

    /// When the node's fault ends, if it ends by time alone.
    #[must_use]
    pub fn settles_at(&self) -> Option<Time> {
        self.gate.settles_at()
    }

    /// When there is something to do next, if nothing else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        let due = self.pods.values().filter_map(Track::due);
        let deadline = self.settings.pending_deadline;
        let overdue = self.pods.values().filter_map(|track| track.overdue_at(deadline));
        due.chain(overdue).chain(self.gate.settles_at()).min()
    }

    /// Makes the pods due that `choose` picks by name and by whose their listeners are known to be. While the node is
    /// at fault, one of the lost stands for all of them: nothing is concluded from what they show.
    pub fn sweep(&mut self, now: Time, choose: impl Fn(&PodUid, Option<Owner>) -> bool) {
        let fault = self.gate.fault().is_some();
        for (uid, track) in &mut self.pods {
            if !(fault && track.is_lost()) && choose(uid, track.view().owner) {
                track.read_at(now);
            }
        }
        if fault {
            self.sample(now);
        }
    }

    /// What happened since the last call, in order.
    pub fn drain(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// What is known of a pod.
    #[must_use]
    pub fn view(&self, uid: &PodUid) -> Option<PodView<'_>> {
        self.pods.get(uid).map(Track::view)
    }

    /// The pods that may be out of the mesh, confirmed or not.
    pub fn lost(&self) -> impl Iterator<Item = &PodUid> {
        let lost = self.pods.iter().filter(|(_, track)| track.is_lost());
        lost.map(|(uid, _)| uid)
    }

    /// What is known of every pod.
    pub fn views(&self) -> impl Iterator<Item = (&PodUid, PodView<'_>)> {
        self.pods.iter().map(|(uid, track)| (uid, track.view()))
    }

    /// The condition of this node's ztunnel and istio-cni.
    #[must_use]
    pub fn gate(&self) -> &NodeGate {
        &self.gate
    }

    /// Why this node's readings prove no orphan, while that is so.
    #[must_use]
    pub fn node_fault(&self) -> Option<&str> {
        self.gate.fault()
    }

    /// Whether most pods fell out of the mesh though ztunnel is healthy.
    #[must_use]
    pub fn mass_loss(&self) -> bool {
        self.mass_loss
    }

    /// Whether something is still being found out: a pod not read yet, or a loss being confirmed.
    #[must_use]
    pub fn undecided(&self) -> bool {
        self.pods.values().any(Track::undecided)
    }

    fn judge_mass_loss(&mut self, now: Time) {
        let (mut expected, mut orphans) = (0, 0);
        for track in self.pods.values() {
            expected += usize::from(track.is_expected());
            orphans += usize::from(matches!(track.state(), State::Orphan | State::Stalled));
        }
        let holds = self.gate.fault().is_none() && is_mass_loss(orphans, expected);
        if holds != self.mass_loss {
            self.mass_loss = holds;
            let detail = holds.then(|| format!("{orphans} of {expected} pods are orphans"));
            self.notices.push(Notice::Node {
                condition: Condition::MassLoss,
                detail,
                at: now,
            });
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
