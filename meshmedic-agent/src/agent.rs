// SPDX-License-Identifier: Apache-2.0
//! The agent: one loop that ties the node's watch, the API and the planner of repairs together.
//!
//! The loop alone changes anything. Whatever takes time (watches of the API, requests, readings, Events,
//! answers to whoever asks over HTTP) runs beside it and hands its results in.

mod cni_gaps;
mod cni_settings;
mod connection;
mod healing;
mod istiod;
mod node_condition;
mod owners;
mod report;
mod start;
mod teller;
mod tidy;
mod toggles;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshmedic_common::kube::client::{Acting, ServerClock, WatchAges};
use meshmedic_common::kube::heal::Heals;
use meshmedic_common::policy::{Gates, Standing};
use meshmedic_common::repair::heal::Healing;
use meshmedic_common::report::Confinement;
use meshmedic_common::uid::PodUid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::cluster::{Leases, Mirror, Seen, Sights, TOO_OLD, WATCHED, Watches};
use crate::cpu::{self, Beside};
use crate::engine::Engine;
use crate::kernel;
use crate::node::Underneath;
use crate::options::AgentOptions;
use crate::status::{Metrics, Resource, Server, ServerError, Status, Task};
use crate::watch::{Event, Options, PodSource, Watch, WatchError};
use cni_settings::CniSettings;
use healing::{Done, Heal};
use istiod::Tracing;
use meshmedic_common::kube::acts::{Acts, Known, Named};
use meshmedic_common::repair::{Answer, Moment, Patient, Planner, Request, RequestId};
use meshmedic_common::time::Time;
use node_condition::NodeCondition;
use owners::Owners;
pub use start::{Ready, load_kernel, prepare};
use teller::Teller;
use tidy::Tidy;
use toggles::Toggles;

/// The loop turns at least this often: what only time changes is looked at then.
const BEAT: Duration = Duration::from_secs(30);
/// The report is made anew at most this often: a storm of changes is shown as it ends.
const PUBLISH: Duration = Duration::from_millis(200);
/// Of so much time one part at most is spent on making it: a pod that changes without end shall not keep a node busy.
const PUBLISH_SHARE: u32 = 50;
/// And at least this often, since time alone changes some of it.
const PUBLISH_AT_REST: Duration = Duration::from_secs(30);
/// While a pod is lost: whoever is about to act waits for the next reading of it.
const PUBLISH_LOST: Duration = Duration::from_secs(2);
/// An agent that was told to end waits this long for what is under way. The API's time limit is part of it.
const FAREWELL: Duration = Duration::from_secs(12);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No way to the API is known.
    #[error(
        "cannot connect to the Kubernetes API: {0}. In a pod this needs a ServiceAccount; elsewhere pass --kubeconfig"
    )]
    Connection(String),
    /// The node cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// eBPF was demanded and cannot be had.
    #[error("{error}. {remedy} Or leave out --trigger ebpf to poll.")]
    Kernel {
        /// What failed.
        error: kernel::KernelError,
        /// What to do.
        remedy: String,
    },
    /// An endpoint cannot be served.
    #[error(transparent)]
    Endpoint(#[from] ServerError),
    /// The system refuses signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs until it is told to end. What is ready came of [`prepare`].
pub async fn run(options: AgentOptions, ready: Ready) -> Result<(), AgentError> {
    let terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let underneath = Arc::new(Underneath::new(
        options.proc_root.clone(),
        options.cni_folder.clone(),
    ));
    let status = Status::new(Metrics::new(), options.stalled_after()).over(Arc::clone(&underneath));
    let mut beside = JoinSet::new();
    if underneath.sees_gaps() {
        beside.spawn(cni_gaps::watch(underneath));
    }
    let starting = status.task("start");
    let server = Server::start(options.endpoints(), status.clone())?;
    for (endpoint, address) in [
        ("metrics", server.metrics_addr()),
        ("status", server.status_addr()),
    ] {
        if let Some(address) = address {
            tracing::info!(endpoint, %address, "serving");
        }
    }
    let acting = connection::connect(options.kubeconfig.as_deref()).await?;
    let mut agent = Agent::new(options, ready, acting, status)?;
    drop(starting);
    agent.watch_until(terminate, interrupt).await;
    agent.say_goodbye().await;
    server.stop();
    Ok(())
}

/// Everything that the loop knows.
struct Agent {
    watch: Watch,
    watches: Watches,
    mirror: Mirror,
    sights: Sights,
    planner: Planner,
    heal: Heal,
    acts: Arc<Acts>,
    running: JoinSet<(RequestId, Answer)>,
    cni: CniSettings,
    tracing: Tracing,
    toggles: Toggles,
    condition: NodeCondition,
    tidy: Tidy,
    teller: Teller,
    status: Status,
    /// What `/readyz` still waits for.
    pending: BTreeMap<&'static str, Task>,
    grace_period: Duration,
    /// What the process kept for itself.
    confinement: Confinement,
    published: Option<Time>,
    /// The processor time that making it took.
    publishing: Duration,
    /// What the process spends beside looking.
    beside: Beside,
    changed: bool,
    clock: Arc<ServerClock>,
    ages: Arc<WatchAges>,
    gates: Gates,
    /// Whether the watch was told of the pods at all.
    declared: bool,
    stopping: bool,
}

/// What turned the loop.
enum Wake {
    Node(Vec<Event>),
    Api(Box<Seen>),
    Answer(RequestId, Answer),
    Heal(Box<Done>),
    Cni(cni_settings::Read),
    Istiod(istiod::Found),
    Time,
    Stop,
}

impl Agent {
    fn new(options: AgentOptions, ready: Ready, acting: Acting, status: Status) -> Result<Self, AgentError> {
        let Acting {
            client,
            clock,
            watches: ages,
        } = acting;
        let planner = Planner::new(options.repairer.clone(), options.prove);
        let leases = match (planner.may_act(), options.prove) {
            (true, _) if options.rungs.restart => Leases::Needed,
            (true, _) => Leases::Heals,
            (false, true) => Leases::IfAllowed,
            (false, false) => Leases::Ignored,
        };
        let watch = Watch::new(
            Options {
                node: options.node.clone(),
                proc_root: options.proc_root.clone(),
                pods: PodSource::Api,
                confirm: options.confirm,
                settle: options.settle,
                interval: options.interval,
                pending_deadline: options.pending_deadline,
                use_census: true,
            },
            ready.kernel,
        )?;
        let teller = Teller::new(&client, &options.node, status.metrics().clone());
        teller.begin(&options, watch.trigger());
        let identity = options.identity.clone();
        let mirror = Mirror::new(identity.clone(), planner.may_act());
        let acts = Arc::new(Acts::new(
            client.clone(),
            Arc::clone(&clock),
            identity.clone(),
            &options.node,
            &options.namespace,
        ));
        let pending = mirror.pending().map(|resource| (resource, status.task(resource)));
        Ok(Self {
            pending: pending.collect(),
            grace_period: options.repairer.permissions().grace_period,
            confinement: ready.confinement,
            published: None,
            publishing: Duration::ZERO,
            beside: Beside::new(watch.counters().looking),
            changed: true,
            acts: Arc::clone(&acts),
            watches: Watches::start(&client, &identity, &options.node, &options.namespace, leases),
            mirror,
            sights: Sights::default(),
            heal: Heal::new(
                Healing {
                    permissions: options.repairer.permissions(),
                    care: options.care,
                    toggle: options.rungs.toggle,
                },
                options.rungs,
                options.istio_version,
                options.pod_uid,
                Heals::new(client.clone()),
                acts,
            ),
            planner,
            running: JoinSet::new(),
            cni: CniSettings::new(client.clone()),
            tracing: Tracing::new(client.clone(), identity),
            tidy: Tidy::new(client.clone(), &options.namespace, &options.node),
            condition: NodeCondition::new(options.node_condition.then(|| client.clone()), &options.node),
            toggles: Toggles::new(client),
            gates: Gates::default(),
            declared: false,
            stopping: false,
            watch,
            teller,
            status,
            clock,
            ages,
        })
    }

    /// The loop.
    async fn watch_until(&mut self, mut terminate: Signal, mut interrupt: Signal) {
        while !self.stopping {
            let wake = tokio::select! {
                biased;
                _ = terminate.recv() => Wake::Stop,
                _ = interrupt.recv() => Wake::Stop,
                wake = self.wait() => wake,
            };
            self.take(wake);
            let beside = self.beside.spent(self.watch.counters().looking);
            self.watch.spent_beside(beside);
        }
    }

    /// Waits for whatever comes first. May be dropped while it waits.
    async fn wait(&mut self) -> Wake {
        let timer = self.next_timer();
        tokio::select! {
            biased;
            events = self.watch.step() => Wake::Node(events),
            seen = self.watches.next() => Wake::Api(Box::new(seen)),
            Some(done) = self.running.join_next() => match done {
                Ok((id, answer)) => Wake::Answer(id, answer),
                // A request neither panics nor is cancelled; should it ever, going on would hide it.
                Err(error) => panic!("a request failed to run: {error}"),
            },
            done = self.heal.next() => Wake::Heal(Box::new(done)),
            read = self.cni.next() => Wake::Cni(read),
            found = self.tracing.next() => Wake::Istiod(found),
            () = tokio::time::sleep(timer) => Wake::Time,
        }
    }

    fn next_timer(&self) -> Duration {
        let now = Time::now();
        let planned = self.moment(now).and_then(|at| self.planner.next_wake(at));
        let publish = self.publish_at();
        let heal = self.heal.next_wake(now);
        let wakes = planned
            .into_iter()
            .chain(publish)
            .chain(heal)
            .map(|wake| wake.since(now));
        wakes.min().unwrap_or(BEAT).min(BEAT)
    }

    fn moment(&self, now: Time) -> Option<Moment> {
        let server = self.clock.now()?;
        Some(Moment { now, server })
    }

    fn take(&mut self, wake: Wake) {
        let now = Time::now();
        self.status.beat(now);
        self.changed |= match &wake {
            Wake::Node(events) => !events.is_empty(),
            Wake::Time => false,
            Wake::Api(_) | Wake::Answer(..) | Wake::Heal(_) | Wake::Cni(_) | Wake::Istiod(_) | Wake::Stop => {
                true
            }
        };
        match wake {
            Wake::Node(events) => self
                .teller
                .node(&self.watch, &self.mirror, &events, self.clock.now()),
            Wake::Api(seen) => self.take_news(now, *seen),
            Wake::Answer(id, answer) => {
                if let Some(at) = self.moment(now) {
                    self.planner.answer(at, id, answer);
                }
            }
            Wake::Heal(done) => {
                if let Some(at) = self.moment(now) {
                    self.heal
                        .take(at, *done, &self.watch, &self.mirror, &self.planner);
                }
            }
            Wake::Cni(read) => {
                if self.mirror.enable(self.cni.take(read)) {
                    self.declare(now);
                }
            }
            Wake::Istiod(found) => {
                let traced = self.tracing.take(found, &self.mirror.istiod_pods());
                self.mirror.trace(traced);
            }
            Wake::Time => {}
            Wake::Stop => self.stopping = true,
        }
        self.judge(now);
        self.status.metrics().counters(&self.watch.counters());
        self.publish(now);
    }

    /// Takes in what the API says, as much as is there: a long list is judged once.
    fn take_news(&mut self, now: Time, first: Seen) {
        let (mut pods, mut owners) = (false, Owners::default());
        let mut next = Some(first);
        while let Some(mut seen) = next {
            self.sights.date(self.clock.now(), &mut seen);
            self.teller.watch(&seen);
            owners.note(&seen, &self.mirror);
            pods |= self.mirror.take(seen).pods;
            next = self.watches.try_next();
        }
        if let Some(at) = self.moment(now) {
            owners.tell(at, &self.mirror, &mut self.planner);
        }
        if let Some(guess) = self.cni.refresh(self.mirror.cnis()) {
            pods |= self.mirror.enable(guess);
        }
        self.tracing.refresh(&self.mirror.istiod_pods());
        if pods {
            self.declare(now);
        }
        let pending: Vec<_> = self.mirror.pending().collect();
        self.pending.retain(|resource, _| pending.contains(resource));
    }

    fn declare(&mut self, now: Time) {
        // Until both pods and namespaces were told there is nothing to go by.
        if !self.mirror.knows_pods() {
            return;
        }
        if !std::mem::replace(&mut self.declared, true) {
            self.teller.first_sight(&self.mirror);
        }
        self.watch.declare(now, self.mirror.declared());
    }

    /// Lets the planner judge, and starts what it asks for.
    fn judge(&mut self, now: Time) {
        let Some(at) = self.moment(now) else { return };
        if let Some(health) = self.mirror.health(now, at.server) {
            self.watch.health(now, health);
        }
        self.gates = self.gates_now();
        let read = || self.declared && self.watch.decided();
        let (fault, mass_loss) = (self.gates.node_fault.as_deref(), self.watch.engine().mass_loss());
        self.condition.keep(now, at.server, read, fault, mass_loss);
        let looks = self
            .heal
            .judge(at, &self.gates, &mut self.watch, &self.mirror, &self.planner);
        for uid in looks {
            self.watch.look_at(now, &uid);
        }
        let engine = self.watch.engine();
        let mut patients = patients(&self.planner, engine, &self.mirror);
        let under_way: BTreeSet<&PodUid> = self.planner.under_way().map(|(pod, _)| &pod.cgroup_uid).collect();
        let kept = self.heal.kept(&self.watch);
        // What a gentler rung has in hand, and what no rung may restart, is no finding for the planner.
        patients.retain(|uid, patient| {
            let free = self.heal.rungs.restart && !kept.contains(uid);
            !patient.state.is_finding() || under_way.contains(uid) || free
        });
        self.planner.judge(at, &self.gates, engine.mass_loss(), &patients);
        for uid in self.planner.looks() {
            self.watch.look_at(now, &uid);
        }
        for (id, request) in self.planner.requests(at) {
            self.start(id, request);
        }
        let notices = self.planner.drain();
        self.changed |= !notices.is_empty();
        self.teller.repairs(&notices, at.server);
        self.teller.wide(now, self.heal.width());
        let notices = self.heal.drain();
        self.changed |= !notices.is_empty();
        self.teller.heals(&notices, at.server);
        self.tidy
            .tidy(now, at.server, self.planner.may_act(), self.mirror.leases());
        self.toggles.restore(
            now,
            self.mirror.standings(),
            self.planner.may_act() && self.heal.may_restore(),
        );
    }

    fn gates_now(&self) -> Gates {
        let stale = WATCHED.iter().find_map(|resource| {
            let age = self.ages.age(resource)?;
            (age > TOO_OLD).then(|| format!("the watch of {resource} has been silent for {}s", age.as_secs()))
        });
        Gates {
            node_fault: self.watch.engine().node_fault().map(str::to_owned),
            mesh_fault: self.mirror.mesh_fault().or(stale),
            cordoned: self.mirror.is_cordoned(),
            paused: self.mirror.paused(),
        }
    }

    fn start(&mut self, id: RequestId, request: Request) {
        let acts = Arc::clone(&self.acts);
        let known = Known {
            enablement: self.mirror.enablement().clone(),
            named: Some(Named {
                parts: self.mirror.parts(),
                slices: self.mirror.slice_names(),
            }),
        };
        let ready = match &request {
            Request::Act { pod, .. } => {
                let standing = self.mirror.standings().get(&pod.cgroup_uid);
                standing.is_some_and(|standing| standing.facts.ready)
            }
            _ => false,
        };
        self.running
            .spawn(async move { (id, acts.perform(request, ready, &known).await) });
    }

    /// When the report is to be made anew; `None` for at once.
    fn publish_at(&self) -> Option<Time> {
        let patience = match self.changed {
            true => (self.publishing * PUBLISH_SHARE).clamp(PUBLISH, PUBLISH_LOST),
            false if self.watch.engine().lost().next().is_some() => PUBLISH_LOST,
            false => PUBLISH_AT_REST,
        };
        self.published.map(|last| last + patience)
    }

    /// Shows how things stand, unless that was done a moment ago, or lately and nothing changed since.
    fn publish(&mut self, now: Time) {
        if self.publish_at().is_some_and(|at| now < at) {
            return;
        }
        let before = cpu::of_thread();
        (self.changed, self.published) = (false, Some(now));
        let metrics = self.status.metrics();
        metrics.repairs_in_flight(self.planner.under_way().count());
        for resource in Resource::ALL {
            if let Some(age) = self.ages.age(resource.as_str()) {
                metrics.watch_heard(*resource, now - age);
            }
        }
        self.teller.look_over(now, &self.watch, &self.mirror);
        self.teller.tell_mass_loss(now, self.heal.event_after());
        self.status.publish(Arc::new(self.report(now)));
        self.publishing = cpu::of_thread().saturating_sub(before);
    }

    /// Begins nothing more, waits for what is at the API, frees what is held.
    async fn say_goodbye(&mut self) {
        tracing::info!("shutting down: no new repairs; releasing held Leases");
        if let Some(at) = self.moment(Time::now()) {
            self.planner.stop(at);
        }
        self.heal.stop();
        let deadline = tokio::time::sleep(FAREWELL);
        tokio::pin!(deadline);
        loop {
            self.judge(Time::now());
            if self.planner.is_idle() && self.running.is_empty() && self.heal.is_idle() {
                break;
            }
            tokio::select! {
                () = &mut deadline => {
                    tracing::warn!("the API did not answer in time; what is held expires by itself");
                    break;
                }
                wake = self.wait() => self.take(wake),
            }
        }
        self.teller.flush().await;
    }
}

/// The pods that a repair may concern; none while nothing is wrong and nobody waits for a proof.
fn patients<'a>(planner: &Planner, engine: &Engine, mirror: &'a Mirror) -> BTreeMap<PodUid, Patient<'a>> {
    let quiet = planner.is_idle()
        && planner.awaited_owners().next().is_none()
        && !engine.views().any(|(_, view)| view.state.is_finding());
    if quiet {
        return BTreeMap::new();
    }
    let patient = |(uid, standing): (&PodUid, &'a Standing)| {
        let view = engine.view(uid)?;
        let patient = Patient {
            standing,
            state: view.state,
            since: view.since,
            read_at: view.read_at,
        };
        Some((uid.clone(), patient))
    };
    mirror.standings().iter().filter_map(patient).collect()
}
