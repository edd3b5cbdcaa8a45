// SPDX-License-Identifier: Apache-2.0
//! Drives one repair: carries out what the rulebook asks for, and reads the pods on which it depends.
//!
//! Nothing here decides. The pod is read just before the act, and after it whichever pod may prove the repair.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use meshmedic_common::facts::{Enrolment, PodFacts};
use meshmedic_common::kube::acts::Known;
use meshmedic_common::kube::facts::pod_facts;
use meshmedic_common::policy::{Gates, Means, Standing, Withheld};
use meshmedic_common::repair::{Acted, Answer, ByHand, Ended, Outcome, Patient, Request, RequestId};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;
use tokio::time::{Instant, sleep, sleep_until};

use super::records::{PATIENCE, past_failures};
use super::{Action, Item, Planned, Repairs};
use crate::scan::ScannedPod;
use crate::ways::{Age, Way};

/// A pod that is not captured yet is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Each look may leave a probe in the pod's spec for ever, so after so many there are no more probes.
const PROBED_LOOKS: u32 = 3;
/// While nothing else happens it is looked after everything this often.
const BEAT: Duration = Duration::from_millis(500);
/// The label that tells the pods of one ReplicaSet from those of its like.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What came of something that ran beside the repair.
enum Done {
    Answer(RequestId, Answer),
    /// The pod that was judged was read again.
    Judged(anyhow::Result<ScannedPod>, Time),
    /// A pod that may prove the repair was read.
    Candidate(Box<PodFacts>, anyhow::Result<ScannedPod>, Time),
    /// The label of a pod that was toggled is as it was, or why it is not.
    Restored(Result<(), String>),
}

type Watched = Pin<Box<dyn Stream<Item = Result<Event<Pod>, watcher::Error>>>>;

/// A pod as it was last read.
struct Read {
    standing: Standing,
    state: State,
    at: Time,
}

/// What a toggle has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    /// It was not touched.
    Untouched,
    /// It is away for now, and somebody waits to put it back.
    Away,
    /// It is as it was.
    Back,
}

/// One repair on its way.
struct Drive<'a> {
    shop: &'a Repairs<'a>,
    facts: &'a PodFacts,
    means: Means,
    repair: ByHand,
    gates: Gates,
    running: FuturesUnordered<LocalBoxFuture<'a, Done>>,
    reads: BTreeMap<PodUid, Read>,
    pods: Pods,
    watched: Option<Watched>,
    reading: bool,
    look_at: Instant,
    looks: u32,
    label: Label,
    ended: Option<Ended>,
    /// What was last seen, for people.
    last: String,
    seen: Option<ScannedPod>,
}

impl Repairs<'_> {
    /// Carries out a request. What an act depends on is fetched by the names that the plan knows. Where one of these is
    /// missing or at fault it is listed as well: it may have got another name since.
    async fn perform(&self, facts: &PodFacts, request: Request) -> Answer {
        let known = self.world.known(facts);
        let check = matches!(request, Request::Check(_)).then(|| request.clone());
        let answer = self.records.perform(facts, request, &known).await;
        let doubtful = match &answer {
            Answer::Checked(Ok(Some(check))) => {
                check.gates.node_fault.is_some() || check.gates.mesh_fault.is_some()
            }
            Answer::Checked(Err(_)) => true,
            _ => false,
        };
        match check.filter(|_| doubtful) {
            Some(check) => {
                let listed = Known::listed(known.enablement);
                self.records.perform(facts, check, &listed).await
            }
            None => answer,
        }
    }

    /// Repairs one pod by these means.
    pub(super) async fn drive(&self, plan: &Planned, means: Means) -> Item {
        let item = plan.item();
        let Some(facts) = &plan.facts else { return item };
        let Some(repair) = self.records.repair(facts, means) else {
            return item.withheld(Withheld::Untrusted, Some("its UID is none"));
        };
        let mut drive = Drive {
            shop: self,
            facts,
            means,
            repair: repair.knowing(self.world.orphans.iter().cloned()),
            gates: self
                .world
                .gates(self.connection, facts.node.as_deref().unwrap_or_default()),
            running: FuturesUnordered::new(),
            reads: BTreeMap::new(),
            pods: Pods::default(),
            watched: None,
            reading: false,
            look_at: Instant::now(),
            looks: 0,
            label: Label::Untouched,
            ended: None,
            last: waiting(facts, means),
            seen: None,
        };
        drive.note(facts, plan.pod.state, Time::default());
        let interrupted = drive.run().await;
        drive.item(item, interrupted)
    }
}

impl Drive<'_> {
    /// Goes on until nothing is left to be done. True if it was interrupted.
    async fn run(&mut self) -> bool {
        let mut interrupted = false;
        let mut patience = None;
        loop {
            self.turn();
            if self.repair.is_over() && self.label != Label::Away {
                return interrupted;
            }
            if patience.is_none() && (interrupted || self.ended.is_some()) {
                patience = Some(Instant::now() + PATIENCE);
            }
            // What cannot be written by then runs out by itself; a label that is away is put back first.
            let late = patience.filter(|_| self.label != Label::Away);
            let never = Instant::now() + PATIENCE * 2;
            tokio::select! {
                Some(done) = self.running.next() => self.take(done),
                event = next(&mut self.watched) => self.pods.take(event),
                () = self.shop.stop.wait(), if !interrupted => {
                    interrupted = true;
                    self.repair.stop(self.shop.records.moment());
                }
                () = sleep_until(late.unwrap_or(never)) => if late.is_some() {
                    tracing::warn!(
                        "what is known of the repair of {} could not be written down in time",
                        self.facts.display_name()
                    );
                    return interrupted;
                },
                () = sleep(BEAT) => {}
            }
        }
    }

    /// Judges, and starts what is to be done now.
    fn turn(&mut self) {
        let at = self.shop.records.moment();
        let patients = self.reads.iter().map(|(uid, read)| {
            let patient = Patient {
                standing: &read.standing,
                state: read.state,
                since: read.at,
                read_at: read.at,
            };
            (uid.clone(), patient)
        });
        self.repair.judge(at, &self.gates, &patients.collect());
        if self.repair.take_look() {
            let (shop, facts) = (self.shop, self.facts);
            let look = async move {
                let seen = shop.verifier.verify(&facts.namespace, &facts.name).await;
                Done::Judged(seen, Time::now())
            };
            self.running.push(look.boxed_local());
        }
        for (id, request) in self.repair.requests(at) {
            let (shop, facts, means) = (self.shop, self.facts, self.means);
            let perform = async move {
                let answer = match (&request, means) {
                    (Request::Act { .. }, Means::Toggle) => Answer::Acted(shop.take_out(facts).await),
                    (Request::Act { .. }, Means::Restore) => Answer::Acted(shop.put_back(facts).await),
                    _ => shop.perform(facts, request).await,
                };
                Done::Answer(id, answer)
            };
            self.running.push(perform.boxed_local());
        }
        if self.ended.is_none() {
            self.ended = self.repair.take_ended();
        }
        if self.repair.is_following() && self.ended.is_none() {
            self.follow();
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Answer(id, answer) => {
                let away = matches!(answer, Answer::Acted(Acted::Accepted)) && self.means == Means::Toggle;
                if away {
                    self.label = Label::Away;
                    let (shop, facts) = (self.shop, self.facts);
                    let restore = async move { Done::Restored(shop.bring_back(facts).await) };
                    self.running.push(restore.boxed_local());
                }
                self.repair.answer(self.shop.records.moment(), id, answer);
            }
            Done::Judged(seen, at) => {
                let state = match seen {
                    Ok(seen) if seen.uid != self.facts.uid => {
                        self.reads.clear();
                        return;
                    }
                    Ok(seen) => {
                        self.last = format!("now it is {}: {}", seen.state, seen.sentence());
                        if let Some(instead) = &seen.grounds.instead {
                            let by = seen.via.map_or("no one", Way::as_str);
                            self.last = format!("{} (read by {by}: {instead})", self.last);
                        }
                        seen.state
                    }
                    Err(error) => {
                        self.last = format!("it could not be read again: {error:#}");
                        State::Unverifiable
                    }
                };
                self.note(self.facts, state, at);
            }
            Done::Candidate(pod, seen, at) => {
                self.reading = false;
                self.look_at = Instant::now() + LOOK_AGAIN;
                match seen {
                    Ok(seen) if seen.uid != pod.uid => {}
                    Ok(seen) => {
                        let name = seen.display_name();
                        self.last = format!("{name} is {}: {}", seen.state, seen.sentence());
                        self.note(&pod, seen.state, at);
                        self.seen = Some(seen);
                    }
                    Err(error) => {
                        self.last = format!("{} could not be read: {error:#}", pod.display_name());
                    }
                }
            }
            Done::Restored(result) => {
                self.label = Label::Back;
                if let Err(why) = result {
                    self.last = why;
                    self.repair.stop(self.shop.records.moment());
                }
            }
        }
    }

    fn note(&mut self, facts: &PodFacts, state: State, at: Time) {
        if let Some(uid) = facts.cgroup_uid() {
            let standing = self.shop.world.standing(facts);
            let read = Read { standing, state, at };
            self.reads.insert(uid, read);
        }
    }

    /// Looks for the pod that may prove the repair, and has it read.
    fn follow(&mut self) {
        if self.watched.is_none() {
            let api: Api<Pod> = Api::namespaced(self.shop.connection.client.clone(), &self.facts.namespace);
            let config = if self.means.replaces() {
                watcher::Config {
                    label_selector: selector(self.facts),
                    ..watcher::Config::default()
                }
            } else {
                watcher::Config::default().fields(&format!("metadata.name={}", self.facts.name))
            };
            self.watched = Some(Box::pin(watch(api, config).default_backoff()));
        }
        if self.reading || self.label == Label::Away || Instant::now() < self.look_at {
            return;
        }
        let repair = &self.repair;
        let may = self
            .pods
            .known
            .values()
            .filter(|pod| repair.may_be_proved_by(pod));
        let Some(pod) = may.min_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name))) else {
            self.last = waiting(self.facts, self.means);
            return;
        };
        if pod.enrolment != Enrolment::Enabled {
            self.last = format!("{} is not enrolled yet", pod.display_name());
            return;
        }
        let verifier = &self.shop.verifier;
        let ways = match verifier.ways.repeated() {
            Ok(without_probes) if self.looks >= PROBED_LOOKS => without_probes,
            // By probes alone nothing more can be learnt.
            Err(_) if self.looks >= PROBED_LOOKS => return,
            _ => verifier.ways.clone(),
        };
        self.looks += 1;
        self.reading = true;
        let pod = Box::new(pod.clone());
        let read = async move {
            let (namespace, name) = (&pod.namespace, &pod.name);
            let seen = verifier
                .verify_by(&ways, namespace, name, verifier.confirm, Age::Any)
                .await;
            Done::Candidate(pod, seen, Time::now())
        };
        self.running.push(read.boxed_local());
    }

    /// What is told of it.
    fn item(self, item: Item, interrupted: bool) -> Item {
        let last = self.last;
        let verb = match self.means {
            Means::Heal | Means::Evict | Means::Delete => self.means.sentence().to_owned(),
            Means::Toggle | Means::Restore => "its label was toggled".to_owned(),
        };
        let successor = |proof: &meshmedic_common::repair::ledger::Proof| {
            self.means.replaces().then(|| proof.pod.clone())
        };
        match self.ended {
            Some(Ended::Withheld(why, None)) if why == Withheld::NotProved => item.withheld(why, Some(&last)),
            Some(Ended::Withheld(why, detail)) => item.withheld(why, past_failures(why, detail).as_deref()),
            Some(Ended::Done(Outcome::Succeeded(proof))) => {
                let name = successor(&proof);
                let (action, detail) = match &name {
                    Some(name) => (
                        Action::Restarted,
                        format!("{verb}; its successor {name} is captured"),
                    ),
                    None => (Action::Repaired, format!("{verb}, and it is captured again")),
                };
                Item {
                    successor: name,
                    ..item.ended(action, detail)
                }
            }
            Some(Ended::Done(Outcome::Failed(proof))) => {
                let said = self.seen.filter(|seen| seen.uid == proof.uid);
                let said = said.map_or_else(
                    || "it fell out as well".to_owned(),
                    |seen| seen.sentence().to_owned(),
                );
                let name = proof.pod.clone();
                Item {
                    successor: successor(&proof),
                    ..item.ended(
                        Action::Failed,
                        format!("{verb}; but of its successor {name}: {said}"),
                    )
                }
            }
            Some(Ended::Done(Outcome::Unproven)) => item.ended(
                Action::Failed,
                format!("{verb}; but not verified in time: {last}"),
            ),
            Some(Ended::Done(Outcome::Waiting(seen))) => item.ended(
                Action::Failed,
                format!("{verb}; but no successor ran in time: {seen}"),
            ),
            Some(Ended::Done(Outcome::Unwanted)) => item.ended(
                Action::Restarted,
                format!("{verb}; its owner wants no pod in its place any more"),
            ),
            Some(Ended::Done(Outcome::InDoubt(why))) => item.ended(Action::Failed, why),
            None if !self.repair.acted() => item.ended(Action::NotDone, "interrupted before it was done"),
            None if !interrupted => item.ended(Action::Failed, last),
            None => item.ended(
                Action::Failed,
                format!("{verb}; interrupted before it was verified: {last}"),
            ),
        }
    }
}

fn waiting(facts: &PodFacts, means: Means) -> String {
    match &facts.controller {
        Some(controller) if means.replaces() => {
            format!("{} {} has made no new pod yet", controller.kind, controller.name)
        }
        _ => "the pod is gone".to_owned(),
    }
}

/// The labels by which a successor is looked for among many pods.
fn selector(judged: &PodFacts) -> Option<String> {
    let hash = judged.labels.get(TEMPLATE_HASH)?;
    Some(format!("{TEMPLATE_HASH}={hash}"))
}

/// The next event of a watch; never where there is none.
async fn next(watched: &mut Option<Watched>) -> Event<Pod> {
    loop {
        let Some(watch) = watched else {
            return std::future::pending().await;
        };
        match watch.next().await {
            Some(Ok(event)) => return event,
            // It is begun anew by itself.
            Some(Err(error)) => tracing::debug!("the watch of pods was interrupted: {error}"),
            None => *watched = None,
        }
    }
}

/// The pods in which a successor may show itself.
#[derive(Default)]
struct Pods {
    known: BTreeMap<String, PodFacts>,
    told_anew: BTreeMap<String, PodFacts>,
}

impl Pods {
    fn take(&mut self, event: Event<Pod>) {
        let entry = |pod: &Pod| {
            let facts = pod_facts(pod);
            (facts.uid.clone(), facts)
        };
        match event {
            Event::Init => self.told_anew.clear(),
            Event::InitApply(pod) => {
                let (uid, facts) = entry(&pod);
                self.told_anew.insert(uid, facts);
            }
            Event::InitDone => self.known = std::mem::take(&mut self.told_anew),
            Event::Apply(pod) => {
                let (uid, facts) = entry(&pod);
                self.known.insert(uid, facts);
            }
            Event::Delete(pod) => {
                self.known.remove(&pod_facts(&pod).uid);
            }
        }
    }
}
