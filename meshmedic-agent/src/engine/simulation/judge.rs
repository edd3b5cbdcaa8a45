// SPDX-License-Identifier: Apache-2.0
//! Knows the rules of "Do no harm" and what really happened, and nothing of the engine.
//!
//! Where the truth leaves a doubt (an answer on its way, a clock that jumped) the agents get its benefit,
//! by as much as the constants here say.

mod aftermath;
mod balance;
mod owner;

use std::collections::BTreeMap;
use std::fmt;

use super::trace::{Event, Held, PERSON_CONFIRM, PodId, Recreated, Rules, Shows, Truth, What};
use super::world::within;
use super::{MINUTE, SECOND, START, span};
use meshmedic_common::time::Time;

/// Between the look at what an act depends on and its arrival lie a reading and two journeys.
const CHECK_LASTS: u64 = 15 * SECOND + 12 * SECOND;
/// A person's reading may take longer.
const PERSON_CHECK_LASTS: u64 = 30 * SECOND + 12 * SECOND;
/// The readings that prove a loss.
const LEAST_READINGS: usize = 3;
/// From the claim of a repair to its arrival at the API.
const CLAIM_LASTS: u64 = MINUTE;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) at: Time,
    /// Its number, or 0 for what must come to a good end.
    pub(super) rule: u8,
    pub(super) what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.since(START).as_millis();
        write!(f, "rule {} at {millis} ms: {}", self.rule, self.what)
    }
}

#[derive(Default)]
struct Pod {
    truth: Option<Truth>,
    /// Since when its containers are begun.
    started: Option<Time>,
    /// When it appeared, by the server's clock.
    created: i64,
    gone: bool,
    /// Since when nothing listens.
    lost: Option<Time>,
    /// Since when something does again.
    recovered: Time,
    /// Readings since then that showed it, by process.
    readings: BTreeMap<u32, Vec<Time>>,
    /// The last reading of each process that showed it, whatever came after.
    seen_lost: BTreeMap<u32, Time>,
    checked: Option<Checked>,
    /// When an agent last saw all listeners.
    complete: Option<Time>,
    accepted: bool,
    /// Its owner was let go of, and not claimed for it since.
    let_go: bool,
    /// When each kind of Lease was last written for its repair.
    wrote: [Option<Time>; 4],
}

/// What the API showed when it was asked before an act.
#[derive(Clone)]
struct Checked {
    at: Time,
    process: u32,
    truth: Truth,
    server: i64,
    gates: Option<&'static str>,
    /// Why its owner could not afford to lose it.
    degraded: Option<String>,
}

#[derive(Default)]
struct Node {
    ztunnel: Option<Time>,
    cni: bool,
    cordoned: bool,
    faulty_at: Time,
}

struct Process {
    node: usize,
    person: bool,
    ended: Option<Time>,
}

/// An eviction that the API accepted.
struct Act {
    at: Time,
    pod: PodId,
    node: usize,
    owner: usize,
    namespace: usize,
    process: u32,
    /// How long its proof may take, in milliseconds.
    patience: u64,
    /// What became of it was asked for, or its successor was proved lost: whose failure it is, is known.
    known: bool,
    lost: bool,
    /// Since when its owner wants no successor.
    unwanted: Option<Time>,
    /// When the API was last asked before, by the server's clock.
    asked: i64,
    /// Which pod proved it.
    proved_by: Option<PodId>,
    /// The earliest that its claim may bear, by the server's clock.
    claimed: i64,
    /// A successor was seen captured, and on which node.
    proved: Option<(Time, usize)>,
    /// A successor was seen without its listeners.
    failed: Option<Time>,
}

pub(super) struct Judge<'a> {
    rules: &'a Rules,
    pods: BTreeMap<PodId, Pod>,
    nodes: BTreeMap<usize, Node>,
    processes: BTreeMap<u32, Process>,
    acts: Vec<Act>,
    /// How many pods each owner wants.
    wanted: BTreeMap<usize, usize>,
    /// Since when a budget refuses every eviction of its pods.
    blocked: BTreeMap<usize, Time>,
    /// When one of its pods last changed.
    stirred: BTreeMap<usize, Time>,
    jumps: Vec<(Time, i64)>,
    no_istiod: bool,
    paused: bool,
    breaches: Vec<Breach>,
}

/// What is wrong with what happened.
pub(super) fn judge(rules: &Rules, trace: &[Event]) -> Vec<Breach> {
    let mut judge = Judge {
        rules,
        pods: BTreeMap::new(),
        nodes: BTreeMap::new(),
        processes: BTreeMap::new(),
        acts: Vec::new(),
        wanted: BTreeMap::new(),
        blocked: BTreeMap::new(),
        stirred: BTreeMap::new(),
        jumps: Vec::new(),
        no_istiod: false,
        paused: false,
        breaches: Vec::new(),
    };
    for event in trace {
        judge.take(event.at, &event.what);
    }
    judge.breaches
}

impl Judge<'_> {
    fn blame(&mut self, at: Time, rule: u8, what: impl Into<String>) {
        let what = what.into();
        self.breaches.push(Breach { at, rule, what });
    }

    /// The API server's clock, but for where it began.
    fn server(&self, at: Time) -> i64 {
        let passed = i64::try_from(at.since(START).as_millis()).unwrap_or(i64::MAX);
        let jumps = self.jumps.iter().filter(|(when, _)| *when <= at);
        passed + jumps.map(|(_, jump)| jump).sum::<i64>()
    }

    /// By how much that clock jumped forward since.
    fn leapt(&self, since: Time) -> u64 {
        let jumps = self.jumps.iter().rev().take_while(|(when, _)| *when >= since);
        jumps.map(|(_, jump)| u64::try_from(*jump).unwrap_or(0)).sum()
    }

    /// By how much it jumped back since.
    fn fell(&self, since: Time) -> u64 {
        let jumps = self.jumps.iter().rev().take_while(|(when, _)| *when >= since);
        jumps.map(|(_, jump)| u64::try_from(-*jump).unwrap_or(0)).sum()
    }

    fn take(&mut self, at: Time, what: &What) {
        match what {
            What::Clock(jump) => self.jumps.push((at, *jump)),
            What::Pod(id, truth) => {
                let server = self.server(at);
                let pod = self.pods.entry(*id).or_default();
                if pod.truth.is_none() {
                    pod.created = server;
                }
                pod.truth = Some(*truth);
                if truth.started {
                    pod.started.get_or_insert(at);
                }
                self.stir(at, *id);
            }
            What::Wants(owner, wanted) => self.wants(at, *owner, *wanted),
            What::Gone(id) => {
                self.pods.entry(*id).or_default().gone = true;
                self.stir(at, *id);
            }
            What::Blocked(owner, true) => {
                self.blocked.entry(*owner).or_insert(at);
            }
            What::Blocked(owner, false) => {
                self.blocked.remove(owner);
            }
            What::Surveyed(pod) => self.surveyed(at, *pod),
            What::Claimed(pod) => self.judge_claim(at, *pod),
            What::Failed { pod, held } => self.judge_failure(at, *pod, *held),
            What::Listens(id, shows) => {
                let pod = self.pods.entry(*id).or_default();
                pod.lost = (*shows == Shows::None).then(|| pod.lost.unwrap_or(at));
                if *shows != Shows::None {
                    pod.recovered = at;
                    pod.readings.clear();
                }
            }
            What::Ztunnel(node, up) => {
                let node = self.nodes.entry(*node).or_default();
                node.ztunnel = up.then_some(at);
                node.faulty_at = at;
            }
            What::Cni(node, ready) => {
                let node = self.nodes.entry(*node).or_default();
                node.cni = *ready;
                node.faulty_at = at;
            }
            What::Cordon(node, cordoned) => self.nodes.entry(*node).or_default().cordoned = *cordoned,
            What::Istiod(there) => self.no_istiod = !there,
            What::Paused(paused) => self.paused = *paused,
            What::Began { node, process } => {
                self.begin(*process, *node, false);
            }
            What::Sat { node, process } => self.begin(*process, *node, true),
            What::Proved { pod, by, captured } => self.judge_proof(at, *pod, *by, *captured),
            What::Ended { process, .. } => {
                if let Some(process) = self.processes.get_mut(process) {
                    process.ended = Some(at);
                }
            }
            What::Read { process, pod, shows } => self.read(at, *process, *pod, *shows),
            What::Checked { process, pod } => self.checked(at, *process, *pod),
            What::Wrote { pod, held } => {
                let pod = self.pods.entry(*pod).or_default();
                pod.wrote[*held as usize] = Some(at);
                pod.let_go &= *held != Held::Owner;
            }
            What::LetGo(pod) => self.pods.entry(*pod).or_default().let_go = true,
            What::Freed { pod, held } => self.pods.entry(*pod).or_default().wrote[*held as usize] = None,
            What::Act {
                process,
                pod,
                issued,
                delete,
                accepted,
            } => self.act(at, *process, *pod, *issued, *delete, *accepted),
            What::Rest { orphans, held } => {
                if !orphans.is_empty() {
                    self.blame(at, 0, format!("pods {orphans:?} were never healed"));
                }
                for held in held {
                    self.blame(at, 0, format!("{held} is never set free"));
                }
            }
        }
    }

    fn begin(&mut self, process: u32, node: usize, person: bool) {
        let ended = None;
        self.processes.insert(process, Process { node, person, ended });
    }

    fn read(&mut self, at: Time, process: u32, id: PodId, shows: Shows) {
        let pod = self.pods.entry(id).or_default();
        match shows {
            Shows::None => {
                pod.readings.entry(process).or_default().push(at);
                pod.seen_lost.insert(process, at);
            }
            Shows::Unreadable => {
                pod.readings.remove(&process);
            }
            Shows::All | Shows::Some | Shows::Imposter => {
                pod.readings.clear();
                if shows == Shows::All {
                    pod.complete = Some(at);
                }
            }
        }
        let created = pod.created;
        let Some(truth) = pod.truth else { return };
        let (node, Some(owner)) = (truth.node, truth.owner) else {
            return;
        };
        let good = shows == Shows::All;
        let bad = !good && shows != Shows::Unreadable;
        let successor = |act: &&mut Act| act.owner == owner && act.pod != id && created >= act.claimed;
        for act in self.acts.iter_mut().rev().take(64).filter(successor) {
            if good && act.proved.is_none() {
                act.proved = Some((at, node));
            }
            if bad && act.failed.is_none() {
                act.failed = Some(at);
            }
        }
    }

    fn checked(&mut self, at: Time, process: u32, id: PodId) {
        let server = self.server(at);
        let node = self
            .processes
            .get(&process)
            .and_then(|process| self.nodes.get(&process.node));
        let gates = match node {
            _ if self.paused => Some("repairs were paused"),
            _ if self.no_istiod => Some("istiod had no endpoint"),
            None => Some("nothing was known of the node"),
            Some(node) if node.cordoned => Some("the node was cordoned"),
            Some(node) if !node.cni => Some("istio-cni was not Ready"),
            Some(node) if node.ztunnel.is_none() => Some("ztunnel was not Ready"),
            Some(_) => None,
        };
        let degraded = self.degraded(at, id);
        let pod = self.pods.entry(id).or_default();
        if let Some(truth) = pod.truth {
            pod.checked = Some(Checked {
                at,
                process,
                truth,
                server,
                gates,
                degraded,
            });
        }
    }

    fn act(&mut self, at: Time, process: u32, id: Option<PodId>, issued: Time, delete: bool, accepted: bool) {
        let Some((node, person)) = self
            .processes
            .get(&process)
            .map(|process| (process.node, process.person))
        else {
            return self.blame(at, 3, "by nobody");
        };
        if delete && !self.rules.delete {
            self.blame(at, 5, "a deletion that nobody asked for");
        }
        let Some(id) = id else { return };
        let Some((pod, truth)) = self
            .pods
            .get_mut(&id)
            .and_then(|pod| pod.truth.map(|truth| (pod, truth)))
        else {
            return self.blame(at, 3, format!("pod {id} was never there"));
        };
        let checked = pod.checked.take().filter(|checked| checked.process == process);
        let lasts = if person { PERSON_CHECK_LASTS } else { CHECK_LASTS };
        let fresh = checked.filter(|checked| within(lasts, at, checked.at));
        let (lost, readings) = (pod.lost, pod.readings.get(&process).cloned().unwrap_or_default());
        // What happens while an eviction is on its way cannot be helped; a person sees nothing after the last reading.
        let since = if person {
            pod.seen_lost.get(&process).copied().unwrap_or(issued)
        } else {
            issued
        };
        let too_late = lost.is_none() && pod.recovered > since && within(CHECK_LASTS, at, issued);
        let again = accepted && std::mem::replace(&mut pod.accepted, true);
        let let_go = accepted && pod.let_go;
        if truth.node != node {
            self.blame(at, 3, format!("pod {id} is on another node"));
        }
        if let_go {
            self.blame(at, 7, format!("pod {id}, though its owner was let go of"));
        }
        if again {
            self.blame(at, 3, format!("pod {id} for the second time"));
        }
        let fresh_read = fresh.as_ref().map(|fresh| fresh.at);
        match fresh {
            None => self.blame(at, 3, format!("pod {id} without asking the API just before")),
            Some(checked) => self.judge_check(at, id, person, &checked),
        }
        if !too_late {
            self.judge_loss(
                at,
                id,
                (node, person),
                (issued, since),
                lost,
                &readings,
                fresh_read,
            );
        }
        if accepted {
            self.balance(at, id, (node, person), process, &truth, issued, fresh_read);
        }
    }

    /// What the API showed just before the act.
    fn judge_check(&mut self, at: Time, id: PodId, person: bool, checked: &Checked) {
        let Checked { truth, server, .. } = *checked;
        if let Some(gate) = checked.gates {
            self.blame(at, 2, format!("pod {id}, though {gate}"));
        }
        if let Some(why) = &checked.degraded {
            self.blame(at, 11, format!("pod {id}, though {why}"));
        }
        let waits = server + super::EPOCH - truth.ready_since;
        let grace = i64::try_from(self.rules.grace).unwrap_or(i64::MAX);
        let (on, patient) = if truth.ready {
            (self.rules.ready, true)
        } else {
            // The agent's idea of the server's clock is as old as what it last heard.
            let leapt = self.leapt(checked.at - span(MINUTE));
            (
                self.rules.stuck,
                waits + i64::try_from(leapt).unwrap_or(0) + 1000 > grace,
            )
        };
        // A person names the pod.
        if !person && (!on || !patient) {
            self.blame(
                at,
                1,
                format!("pod {id}, which is not to be repaired, or not yet"),
            );
        }
        if truth.deleting {
            self.blame(at, 3, format!("pod {id}, which is being deleted"));
        }
        let recreated = truth.owner.is_some()
            && match truth.recreated {
                Recreated::Yes => true,
                Recreated::Job => self.rules.jobs && !person,
                Recreated::No => false,
            };
        if !recreated {
            self.blame(at, 4, format!("pod {id}, which nothing brings back"));
        }
        if !truth.expected {
            self.blame(at, 2, format!("pod {id}, which is not in the mesh for certain"));
        }
        if truth.opted_out {
            self.blame(at, 8, format!("pod {id}, which opted out"));
        }
        if truth.toggling {
            self.blame(at, 9, format!("pod {id} in the middle of a toggle"));
        }
        if truth.garbled {
            self.blame(
                at,
                10,
                format!("pod {id}, by a reading of a word that nobody knows"),
            );
        }
    }

    /// What the pod's netns and the node showed.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that a loss rests on, each for itself"
    )]
    fn judge_loss(
        &mut self,
        at: Time,
        id: PodId,
        (node, person): (usize, bool),
        (issued, since): (Time, Time),
        lost: Option<Time>,
        readings: &[Time],
        checked: Option<Time>,
    ) {
        let confirm = span(if person {
            PERSON_CONFIRM
        } else {
            self.rules.confirm
        });
        if lost.is_none_or(|lost| lost + confirm > issued) {
            self.blame(at, 2, format!("pod {id} was not lost for the whole confirmation"));
        }
        let before: Vec<_> = readings.iter().filter(|read| **read <= issued).collect();
        let long = before.first().is_some_and(|first| **first + confirm <= issued);
        if before.len() < LEAST_READINGS || !long {
            self.blame(at, 2, format!("pod {id} after {} readings", before.len()));
        }
        if checked.is_none_or(|checked| before.last().is_none_or(|last| **last <= checked)) {
            self.blame(at, 2, format!("pod {id} without a reading at the last moment"));
        }
        let settled = self.nodes.get(&node).and_then(|node| node.ztunnel);
        let fresh = |up: Time| up + span(self.rules.settle) > since && up <= since;
        if settled.is_none_or(fresh) && !(person && settled.is_none()) {
            self.blame(at, 2, format!("pod {id} before ztunnel had settled"));
        }
    }

    /// Whether a pod may prove what became of the repair of another.
    fn judge_proof(&mut self, at: Time, id: PodId, by: PodId, captured: bool) {
        let Some(act) = self.acts.iter().rposition(|act| act.pod == id) else {
            return;
        };
        let (Some(judged), Some(successor)) = (self.truth(id), self.truth(by)) else {
            return;
        };
        let asked = self.acts[act].asked;
        let created = self.pods.get(&by).map_or(0, |pod| pod.created);
        let near = |one: Time, other: Time| within(10 * MINUTE, one.max(other), one.min(other));
        let acted = self.acts[act].at;
        let jumped = self
            .jumps
            .iter()
            .any(|(when, _)| near(at, *when) || near(acted, *when));
        let wrong = match () {
            () if judged.owner != successor.owner => Some("of another owner"),
            () if judged.name != successor.name => Some("of another name"),
            // What was there when the API was asked before the act is known.
            () if !jumped && created < asked => Some("that was there before"),
            () if self.acts.iter().any(|act| act.proved_by == Some(by)) => Some("that proved another"),
            () => None,
        };
        self.acts[act].proved_by = Some(by);
        self.acts[act].lost |= !captured;
        if captured {
            // One successor proves one repair, so it may be a later one than the first that was seen.
            self.acts[act].proved = Some((at, successor.node));
        }
        if let Some(wrong) = wrong {
            self.blame(at, 6, format!("pod {id} was proved by pod {by} {wrong}"));
        }
    }

    fn truth(&self, id: PodId) -> Option<Truth> {
        self.pods.get(&id)?.truth
    }
}
