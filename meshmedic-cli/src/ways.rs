// SPDX-License-Identifier: Apache-2.0
//! Ways to read a pod's network namespace from afar, best first: its node's agent, its own `cat`, a probe.

mod agent;
mod exec;
mod probe;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use meshmedic_common::duration;
use meshmedic_common::facts::PodFacts;
use meshmedic_common::report::PodReport;
use meshmedic_common::verdict::{Owner, Reason, State};
use serde::Serialize;

use crate::connection::{Connection, Failure};
use crate::exit::Usage;
use crate::open_connection::Opened;
use crate::selection::{Selection, Target};

pub(crate) use agent::{Fleet, Words, first_report, fleet};
pub(crate) use tables::{FILES, Readout};

/// Which way to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// An agent where one runs, else exec, else a probe where it is allowed
    #[default]
    Auto,
    /// The MeshMedic agent of the pod's node, through port-forward; nothing is touched in the pod
    Agent,
    /// cat in a running container of the pod; what it says is the pod's own word
    Exec,
    /// An ephemeral container, which stays in the pod's spec for ever
    Probe,
}

/// Which way answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    Agent,
    Exec,
    Probe,
}

impl Way {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Exec => "exec",
            Self::Probe => "probe",
        }
    }
}

/// Where the agents are; flattened into every command that asks them.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// The namespace of MeshMedic's DaemonSet
    #[arg(long, value_name = "NAMESPACE", default_value = "meshmedic")]
    pub(crate) agent_namespace: String,
    /// The port of the agents' --status-addr
    #[arg(long, value_name = "PORT", default_value_t = 9101)]
    pub(crate) agent_port: u16,
}

/// How pods are read; flattened into every command that reads some.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Reading")]
pub(crate) struct WayArgs {
    /// How to read a pod's sockets
    #[arg(long, value_enum, default_value_t)]
    via: Via,
    #[command(flatten)]
    agents: AgentArgs,
    /// With --via auto: probe where nothing else can read, in a scan of the whole cluster too
    #[arg(long, conflicts_with = "no_probe")]
    probe: bool,
    /// With --via auto: never add a probe to a pod
    #[arg(long)]
    no_probe: bool,
    /// The image of the probe; it needs cat [default: MeshMedic's own, else that of istio-cni]
    #[arg(long, value_name = "IMAGE")]
    probe_image: Option<String>,
    /// How many pods are read at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// How long one reading of a pod may take; a probe may first pull its image, and has six times as long
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

/// A shorter time would be over before any answer.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
/// How much longer a probe has.
const PROBE_PATIENCE: u32 = 6;

pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    crate::spans::at_least(text, SHORTEST_TIMEOUT)
}

/// What a look at a pod gave, and which way it came.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) way: Option<Way>,
    /// The container that answered, where one did.
    pub(crate) container: Option<String>,
    pub(crate) seen: Seen,
    /// Why the agent's word was not enough, where it has one.
    pub(crate) instead: Option<String>,
    /// Where the pod lives, as its agent knows it, whichever way this came: an ask that names another place would be
    /// none to the agent, and a proof from elsewhere none to who asked.
    pub(crate) sandbox: Option<String>,
}

/// What a look gave.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// The agent's verdict, which it confirmed by itself.
    Judged(Box<PodReport>),
    /// One reading.
    Read(Readout),
    /// No answer.
    Unread(Reason, String),
}

/// Why one way did not answer.
#[derive(Clone, Debug)]
struct Unread {
    reason: Reason,
    detail: String,
}

impl Unread {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    fn of(failure: &Failure) -> Self {
        let reason = if failure.is_forbidden() {
            Reason::Forbidden
        } else {
            Reason::ReadFailed
        };
        Self::new(reason, failure.short())
    }
}

impl Look {
    fn unread(unread: Unread) -> Self {
        Self {
            way: None,
            container: None,
            seen: Seen::Unread(unread.reason, unread.detail),
            instead: None,
            sandbox: None,
        }
    }
}

/// Reads pods.
pub(crate) struct Reader {
    connection: Connection,
    args: WayArgs,
    may_probe: bool,
    agents: agent::Agents,
    /// How old an agent's reading may be.
    age: Age,
    /// Namespaces in which a way is forbidden, and in which words: nobody is asked twice.
    barred: Mutex<BTreeMap<(Way, String), Unread>>,
    image: tokio::sync::OnceCell<Result<probe::Image, String>>,
    probed: Mutex<BTreeSet<String>>,
}

impl WayArgs {
    /// Every way that leaves nothing behind in a pod.
    pub(crate) fn without_probes(agents: AgentArgs, concurrency: u16, timeout: Duration) -> Self {
        Self {
            via: Via::Auto,
            agents,
            probe: false,
            no_probe: true,
            probe_image: None,
            concurrency,
            timeout,
        }
    }

    /// Where the agents are.
    pub(crate) const fn agents(&self) -> &AgentArgs {
        &self.agents
    }

    /// The same, where this way asks them: somebody who reads by exec or by probes need have no right to.
    pub(crate) fn asked_agents(&self) -> Option<&AgentArgs> {
        matches!(self.via, Via::Auto | Via::Agent).then_some(&self.agents)
    }

    /// How long one reading may take.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many pods are read at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency.into()
    }

    /// The same for scans that are repeated: what each adds to a pod stays there for ever, so none adds anything.
    pub(crate) fn repeated(&self) -> Result<Self, Usage> {
        let quiet = self.leaving_nothing().filter(|_| !self.probe);
        quiet.ok_or_else(|| {
            Usage(
                "--watch adds no probes: each scan would leave another one in the pods for ever; leave out --watch, or \
                 --probe and --via probe"
                    .to_owned(),
            )
        })
    }

    /// The same without probes; `None` where nothing else is left to read with.
    pub(crate) fn leaving_nothing(&self) -> Option<Self> {
        (self.via != Via::Probe).then(|| Self {
            probe: false,
            no_probe: true,
            ..self.clone()
        })
    }

    /// Refuses what makes no sense together.
    pub(crate) fn check(&self) -> Result<(), Usage> {
        let refuse = |flag: &str, via: &str, why: &str| Err(Usage(format!("{flag} with --via {via}: {why}")));
        match self.via {
            Via::Probe if self.no_probe => refuse("--no-probe", "probe", "nothing is left to read with"),
            Via::Agent | Via::Exec if self.probe => {
                let via = if self.via == Via::Agent { "agent" } else { "exec" };
                refuse("--probe", via, "this way adds no probe; leave out one of them")
            }
            _ => Ok(()),
        }
    }
}

impl Reader {
    /// Gets ready: asks the agents of these nodes, if that way is open.
    pub(crate) async fn new(
        connection: &Connection,
        args: &WayArgs,
        selection: &Selection,
        nodes: BTreeSet<&str>,
    ) -> anyhow::Result<Self> {
        let agents = match args.via {
            Via::Auto | Via::Agent => agent::ask(connection, args, nodes).await,
            Via::Exec | Via::Probe => agent::Agents::default(),
        };
        if args.via == Via::Agent
            && let Some(why) = agents.absence()
        {
            anyhow::bail!("--via agent: {why}");
        }
        let may_probe = match args.via {
            Via::Auto => !args.no_probe && (args.probe || selection.is_named()),
            Via::Probe => true,
            Via::Agent | Via::Exec => false,
        };
        Ok(Self {
            connection: connection.clone(),
            args: args.clone(),
            may_probe,
            agents,
            age: Age::Any,
            barred: Mutex::default(),
            image: tokio::sync::OnceCell::new(),
            probed: Mutex::default(),
        })
    }

    /// The same, where an act hangs on what is read.
    pub(crate) fn demanding(self, age: Age) -> Self {
        Self { age, ..self }
    }

    /// What could not be had of the agents, for people.
    pub(crate) fn notes(&self) -> &[String] {
        self.agents.notes()
    }

    /// What the agents say of their nodes.
    pub(crate) const fn words(&self) -> &BTreeMap<String, Words> {
        self.agents.words()
    }

    /// How many pods have a probe in their spec from now on.
    pub(crate) fn probed(&self) -> usize {
        lock(&self.probed).len()
    }

    /// Looks at a pod by the first way that answers.
    pub(crate) async fn look(&self, target: &Target) -> Look {
        let mut last = Unread::new(Reason::ReadFailed, "nothing could read it");
        let (mut instead, mut sandbox, mut waits) = (None, None, false);
        if matches!(self.args.via, Via::Auto | Via::Agent) {
            match self.agents.of(&target.facts) {
                Ok(report) if self.args.via == Via::Agent || is_settled(report) => {
                    match self.age.refuses(report) {
                        None => return judged(report, None),
                        Some(_) if self.args.via == Via::Agent && self.age.is_a_preference() => {
                            return judged(report, None);
                        }
                        Some(why) => {
                            last = Unread::new(Reason::NotRead, why.clone());
                            waits = report.seen_at().is_some();
                            sandbox = report.sandbox.clone();
                            instead = Some(why);
                        }
                    }
                }
                Ok(report) => {
                    sandbox = report.sandbox.clone();
                    let reason = report.reason.unwrap_or(Reason::ReadFailed);
                    last = Unread::new(reason, report.detail.clone().unwrap_or_default());
                }
                Err(why) => last = Unread::new(Reason::ReadFailed, why),
            }
        }
        if matches!(self.args.via, Via::Auto | Via::Exec) {
            match self.by_exec(target).await {
                Ok((container, reading)) => {
                    return Look {
                        way: Some(Way::Exec),
                        container: Some(container),
                        seen: Seen::Read(reading),
                        instead,
                        sandbox,
                    };
                }
                Err(unread) if instead.is_none() => last = unread,
                Err(unread) => last.detail = format!("{}, and by exec: {}", last.detail, unread.detail),
            }
        }
        if instead.is_some()
            && self.age.is_a_preference()
            && let Ok(report) = self.agents.of(&target.facts)
        {
            return judged(report, None);
        }
        if waits && let Some(look) = self.next_of_agent(target, &last.detail).await {
            return look;
        }
        if self.may_probe {
            match self.by_probe(target).await {
                Ok((container, reading)) => {
                    return Look {
                        way: Some(Way::Probe),
                        container: Some(container),
                        seen: Seen::Read(reading),
                        instead,
                        sandbox,
                    };
                }
                Err(unread) => last = unread,
            }
        } else if self.args.via == Via::Auto && !self.args.no_probe && last.reason == Reason::NoReader {
            last.detail = format!("{}; --probe would add an ephemeral container", last.detail);
        }
        Look::unread(last)
    }

    /// Waits until the agent of its node has read it anew; `None` if that takes too long.
    async fn next_of_agent(&self, target: &Target, why: &str) -> Option<Look> {
        let node = target.facts.node.as_deref()?;
        let deadline = tokio::time::Instant::now() + NEXT_READING;
        while tokio::time::Instant::now() < deadline {
            tokio::time::sleep(ASK_AGAIN).await;
            let agents = agent::ask(&self.connection, &self.args, BTreeSet::from([node])).await;
            let Ok(report) = agents.of(&target.facts) else {
                continue;
            };
            if self.age.refuses(report).is_none() {
                let why = format!("{why}; so its agent's next reading was waited for");
                return Some(judged(report, Some(why)));
            }
        }
        None
    }

    async fn by_exec(&self, target: &Target) -> Result<(String, Readout), Unread> {
        self.unless_barred(Way::Exec, target)?;
        let read = exec::read(&self.connection, target);
        let result = match tokio::time::timeout(self.args.timeout, read).await {
            Ok(result) => result,
            Err(_) => Err(late(self.args.timeout)),
        };
        result.inspect_err(|unread| self.bar(Way::Exec, target, unread))
    }

    async fn by_probe(&self, target: &Target) -> Result<(String, Readout), Unread> {
        self.unless_barred(Way::Probe, target)?;
        let image = self
            .image
            .get_or_init(|| probe::image(&self.connection, &self.args, &self.agents))
            .await;
        let image = image
            .as_ref()
            .map_err(|why| Unread::new(Reason::ReadFailed, why))?;
        let patience = self.args.timeout.saturating_mul(PROBE_PATIENCE);
        let placed = |uid: &str| {
            lock(&self.probed).insert(uid.to_owned());
        };
        let read = probe::read(&self.connection, target, image, placed);
        let result = match tokio::time::timeout(patience, read).await {
            Ok(result) => result,
            Err(_) => Err(late(patience)),
        };
        result.inspect_err(|unread| self.bar(Way::Probe, target, unread))
    }

    fn unless_barred(&self, way: Way, target: &Target) -> Result<(), Unread> {
        let barred = lock(&self.barred);
        match barred.get(&(way, target.facts.namespace.clone())) {
            Some(unread) => Err(unread.clone()),
            None => Ok(()),
        }
    }

    fn bar(&self, way: Way, target: &Target, unread: &Unread) {
        if unread.reason == Reason::Forbidden {
            lock(&self.barred).insert((way, target.facts.namespace.clone()), unread.clone());
        }
    }
}

fn judged(report: &PodReport, instead: Option<String>) -> Look {
    Look {
        way: Some(Way::Agent),
        container: None,
        seen: Seen::Judged(Box::new(report.clone())),
        instead,
        sandbox: report.sandbox.clone(),
    }
}

/// How old an agent's reading may be. The times are the API server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// As old as it is: the agent goes by what the kernel tells, not by readings alone.
    Any,
    /// Whoever can reads by himself where the agent has not read since then; else the agent's word stands.
    Preferred(Timestamp),
    /// A loss must have been read since then: an act hangs on it.
    Needed(Timestamp),
}

impl Age {
    const fn is_a_preference(self) -> bool {
        matches!(self, Self::Preferred(_))
    }

    /// Preferably a reading later than now.
    pub(crate) fn preferred(connection: &Connection) -> Self {
        Self::Preferred(connection.clock.now().unwrap_or_else(Timestamp::now))
    }

    /// A reading later than now, of what seems lost.
    pub(crate) fn needed(connection: &Connection) -> Self {
        Self::Needed(connection.clock.now().unwrap_or_else(Timestamp::now))
    }

    /// Why a report is not enough, if it is not. A state that no reading decides needs none.
    fn refuses(self, report: &PodReport) -> Option<String> {
        let lost = report.state.lacks_listeners();
        // The census has seen whose listeners these are, as no other reading does.
        let unproven = report.state == State::Captured && report.owner != Some(Owner::Ztunnel);
        let since = match self {
            Self::Preferred(since) if lost || unproven => since,
            Self::Needed(since) if lost => since,
            _ => return None,
        };
        let Some(read) = report.seen_at() else {
            return Some("its agent does not say when it last read it".to_owned());
        };
        // Both know the server's time by its answers only, which cuts it to seconds.
        let enough = since.saturating_add(SERVER_CLOCK).unwrap_or(Timestamp::MAX);
        let age = Duration::try_from(since.duration_since(read)).unwrap_or_default();
        (read < enough).then(|| match Duration::from_secs(age.as_secs()) {
            Duration::ZERO => "its agent has not read it since this was asked".to_owned(),
            age => format!(
                "its agent last read it {} before this was asked",
                duration::show(age)
            ),
        })
    }
}

/// How far two ideas of the API server's time may lie apart.
const SERVER_CLOCK: Duration = Duration::from_secs(2);

/// How long the next reading of an agent is waited for: its --interval, and what it takes to report.
const NEXT_READING: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Opens a connection from a pod's network namespace by a probe of our own image; gives its name, and what became of
/// the connection.
pub(crate) async fn open(
    connection: &Connection,
    args: &WayArgs,
    facts: &PodFacts,
    to: Option<SocketAddr>,
) -> Result<(String, Opened), String> {
    if facts.host_network {
        return Err("it has no network namespace of its own".to_owned());
    }
    let agents = agent::ask(connection, args, facts.node.as_deref().into_iter().collect()).await;
    let image = probe::own_image(args, &agents)?;
    let patience = args.timeout.saturating_mul(PROBE_PATIENCE);
    let open = probe::open(connection, facts, &image, to);
    let opened = tokio::time::timeout(patience, open).await;
    let opened = opened.unwrap_or_else(|_| Err(late(patience)));
    opened.map_err(|unread| unread.detail)
}

/// Whether an agent's verdict needs no further look. What it has not made up its mind about we can read as well.
fn is_settled(report: &PodReport) -> bool {
    match report.state {
        State::Unverifiable => false,
        State::Suspect => report.reason != Some(Reason::Confirming),
        _ => true,
    }
}

fn late(timeout: Duration) -> Unread {
    Unread::new(
        Reason::TimedOut,
        format!("nothing within {}", duration::show(timeout)),
    )
}

/// A thread that panicked while it held one of these left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, read_at: Option<&str>) -> PodReport {
        let mut report = serde_json::json!({
            "namespace": "shop", "name": "cart", "uid": "5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11", "state": state,
            "ports": [], "redirection": "absent", "flaps": 0,
        });
        if let Some(at) = read_at {
            report["readAt"] = at.into();
        }
        serde_json::from_value(report).unwrap()
    }

    #[test]
    fn a_verdict_that_is_older_than_the_question_does_not_answer_it() {
        let since = "2026-01-01T00:10:00Z".parse().unwrap();
        let asked = Age::Needed(since);
        let why = |state, read_at| asked.refuses(&report(state, read_at));
        assert_eq!(
            why("orphan", Some("2026-01-01T00:07:00Z")).as_deref(),
            Some("its agent last read it 3m before this was asked")
        );
        let captured = report("captured", Some("2026-01-01T00:09:59Z"));
        assert_eq!(asked.refuses(&captured), None, "nothing is done to it anyway");
        assert!(Age::Preferred(since).refuses(&captured).is_some());
        // Within what the clocks may differ it may have been before.
        assert!(why("orphan", Some("2026-01-01T00:10:01Z")).is_some());
        assert_eq!(why("orphan", Some("2026-01-01T00:10:02Z")), None);
        assert!(
            why("orphan", None).unwrap().contains("does not say"),
            "an older agent"
        );
        assert_eq!(why("exempt", None), None, "no reading decides that");
        let bypassing = report("bypassing", None);
        assert_eq!(asked.refuses(&bypassing), None, "only the census shows that");
        assert_eq!(Age::Any.refuses(&report("orphan", None)), None);
    }
}
