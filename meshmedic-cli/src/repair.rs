// SPDX-License-Identifier: Apache-2.0
//! `meshmedic repair`: brings pods that fell out of the mesh back into it, a few at a time, each one verified.
//!
//! The rules of "Do no harm" hold as they do for the agents, whose records are kept here, too: agent and command never
//! work on one owner's pods at once. What a rule forbids is told, and each override is a flag of its own.

mod asks;
mod drive;
mod heal;
mod plan;
mod records;
mod show;
mod stop;
mod toggle;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use meshmedic_common::duration;
use meshmedic_common::policy::{Means, Overrides, Rungs, SETTLE, Withheld};
use meshmedic_common::repair::Limits;
use meshmedic_common::verdict::{Reason, State};
use serde::Serialize;

use crate::connection::{self, Connection, ConnectionArgs};
use crate::exit::Usage;
use crate::istio::IstioArgs;
use crate::scan::{self, ScannedPod, sweep};
use crate::selection::{Mesh, Scope, Selection, SelectionArgs};
use crate::ways::{Age, WayArgs};

use asks::Asks;
pub(crate) use asks::standing;
use heal::Ward;
pub(crate) use plan::{PassedOver, Planned, World};
use records::Records;
use show::RepairFormat;
use stop::Stop;

/// Arguments of `meshmedic repair`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Repair; without it, only what would be done is shown
    #[arg(long)]
    yes: bool,
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: RepairFormat,
    /// For how long three readings must agree before a loss is believed
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::spans::confirm, env = "MESHMEDIC_CONFIRM")]
    confirm: Duration,
    /// How long ztunnel must have been Ready before its absence in a pod means anything
    #[arg(long, value_name = "DURATION", default_value = duration::show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    settle: Duration,
    /// Read the ztunnels' logs first, and repair only pods that they accuse
    #[arg(long)]
    behavioral: bool,
    /// With --behavioral: how far back the logs are read
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = scan::since, requires = "behavioral")]
    since: Duration,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    risks: Risks,
    #[command(flatten)]
    ways: WayArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Without --yes it repairs nothing and shows the plan. With --yes it refuses to
work on a whole cluster: name pods, a namespace, labels or a node, or let the
logs choose by --behavioral. First the plan is shown: for each
pod the gentlest way that can help it and what that costs, or which rule forbids
it. docs/repair-safety.md explains ways and rules.

After each repair it waits until the pod, or the one that takes its place, is
captured. Ctrl-C ends it after the act under way, and it prints what was done
and what was not. Repeated, it goes on from there.

Exit codes, whatever the output format:
  0  nothing is out of the mesh any more
  1  something still is: only a plan, a rule forbade it, or a repair failed
  2  wrong usage
  3  undetermined: something could not be read, and nothing worse was found

Examples:
  meshmedic repair -n shop                      the plan, and what it costs
  meshmedic repair -n shop -l app=cart --yes    do it
  meshmedic repair --node worker-1 --yes        heal a node after a reboot
  meshmedic repair -n shop --yes --strategy heal,toggle
                                                and never restart anything";

/// How, and how fast; flattened into [`Args`].
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Repair")]
pub(crate) struct How {
    /// The ways to bring a pod back that may be used, always gentlest first: heal, toggle, restart
    #[arg(long, value_name = "WAYS", default_value_t = Rungs::DEFAULT, env = "MESHMEDIC_STRATEGY")]
    pub(crate) strategy: Rungs,
    /// How many toggles and restarts may be under way, each of another owner
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    max_in_flight: u16,
    /// Begin no further toggle or restart after so many failed
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    max_failures: u32,
    /// Which version istio-cni is, for example 1.30.3 [default: as its labels or its image say]
    #[arg(long, value_name = "VERSION", env = "MESHMEDIC_ISTIO_VERSION")]
    pub(crate) istio_version: Option<String>,
    /// How long a repair may take until its pod or the successor is captured
    #[arg(long, value_name = "DURATION", default_value = duration::show(Limits::DEFAULT.successor_deadline), value_parser = crate::spans::interval)]
    deadline: Duration,
}

impl Default for How {
    fn default() -> Self {
        Self {
            strategy: Rungs::DEFAULT,
            istio_version: None,
            max_in_flight: 1,
            max_failures: 1,
            deadline: Limits::DEFAULT.successor_deadline,
        }
    }
}

/// What goes past a rule; each name says what it risks.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Against the rules")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Risks {
    /// Also pods of Jobs, whose work is lost
    #[arg(long)]
    repair_jobs: bool,
    /// Delete instead of evict, so that PodDisruptionBudgets do not hold
    #[arg(long)]
    delete_past_disruption_budgets: bool,
    /// Although all repairs are paused
    #[arg(long)]
    despite_pause: bool,
    /// Although the annotation meshmedic.io/repair forbids it
    #[arg(long)]
    despite_opt_out: bool,
    /// Although the last repairs failed
    #[arg(long)]
    despite_failures: bool,
    /// Without the agents' records, so that agents may work on the same pods at once
    #[arg(long)]
    without_records: bool,
}

impl Risks {
    /// What the rulebook makes of them.
    const fn overrides(self) -> Overrides {
        Overrides {
            jobs: self.repair_jobs,
            pause: self.despite_pause,
            opt_out: self.despite_opt_out,
            failures: self.despite_failures,
        }
    }
}

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// It would be repaired with --yes.
    WouldRepair,
    /// It was started anew, and its successor is captured.
    Restarted,
    /// It is captured again.
    Repaired,
    /// Something was done, and it is not captured.
    Failed,
    /// A rule forbids it, or the API refused. Nothing was done.
    Withheld,
    /// It was not begun.
    NotDone,
}

/// A pod and what became of it. The first four are the original's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) action: Action,
    pub(crate) detail: String,
    pub(crate) uid: String,
    pub(crate) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// The number of the rule that forbids it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Withheld>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) successor: Option<String>,
    /// By what means it is repaired, or was last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) means: Option<Means>,
    /// The gentler ways that cannot help it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) passed_over: Vec<PassedOver>,
    /// Whether a disruption budget refuses it as it is now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) refused: bool,
}

impl Item {
    /// Whether an annotation forbids a gentler way than the one that is planned.
    pub(crate) fn is_kept_from_a_gentler_way(&self) -> bool {
        let mut reasons = self.passed_over.iter().filter_map(|over| over.reason);
        reasons.any(|reason| reason == Withheld::Strategy)
    }
}

/// What is needed to repair one pod.
struct Repairs<'a> {
    connection: &'a Connection,
    how: &'a How,
    risks: Risks,
    world: &'a World,
    records: Records,
    verifier: Verifier<'a>,
    stop: Stop,
}

/// Tells how pods are, by the ways that a scan has.
struct Verifier<'a> {
    connection: &'a Connection,
    /// As it was when the repair was planned.
    mesh: &'a Mesh,
    ways: &'a WayArgs,
    confirm: Duration,
    settle: Duration,
}

impl Verifier<'_> {
    /// How one pod is now, by a reading that begins now: an act hangs on it.
    async fn verify(&self, namespace: &str, name: &str) -> anyhow::Result<ScannedPod> {
        let age = Age::needed(self.connection);
        self.verify_by(self.ways, namespace, name, Duration::ZERO, age)
            .await
    }

    /// How one pod is, by these ways; a loss is confirmed for `confirm`.
    async fn verify_by(
        &self,
        ways: &WayArgs,
        namespace: &str,
        name: &str,
        confirm: Duration,
        age: Age,
    ) -> anyhow::Result<ScannedPod> {
        let key = (namespace.to_owned(), name.to_owned());
        let selection = Selection {
            scope: Scope::Pods(BTreeSet::from([key])),
            labels: None,
            node: None,
        };
        let options = scan::Options {
            confirm,
            settle: self.settle,
            ready_only: false,
            age,
        };
        let report = scan::sweep_again(self.connection, &selection, self.mesh, ways, options).await?;
        let pod = report.pods.into_iter().next();
        Ok(pod.unwrap_or_else(|| ScannedPod::missing(namespace, name)))
    }
}

/// Plans, and repairs if told to; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.ways.check()?;
    // What the context says does not matter here.
    let wanted = args.selection.check("default")?;
    let chosen = !args.yes || args.behavioral || wanted.labels.is_some() || wanted.node.is_some();
    if wanted.scope == Scope::Cluster && !chosen {
        let why = "a repair of the whole cluster at once is refused: name pods, or choose with -n, -l, --node or \
                   --behavioral";
        return Err(Usage(why.to_owned()).into());
    }
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        args.istio
            .settle(&mut connection, args.ways.asked_agents(), args.ways.timeout())
            .await;
        let selection = args.selection.check(&connection.namespace)?;
        repair(args, &connection, &selection).await
    })
}

async fn repair(args: &Args, connection: &Connection, selection: &Selection) -> anyhow::Result<u8> {
    let stop = Stop::listen()?;
    let options = scan::Options {
        confirm: args.confirm,
        settle: args.settle,
        ready_only: false,
        age: Age::Any,
    };
    let swept = async {
        if args.behavioral {
            scan::sweep_accused(connection, selection, &args.ways, options, args.since).await
        } else {
            sweep(connection, selection, &args.ways, options).await
        }
    };
    let report = tokio::select! {
        report = swept => report?,
        () = stop.wait() => anyhow::bail!("interrupted before anything was done"),
    };
    let scanned = scan::code(&report);
    let suspects = report.states.get(&State::Suspect).copied().unwrap_or_default();
    let mut notes = report.notes.clone();
    let lost = report.findings();
    let left = match args.how.strategy.toggle {
        true => plan::left_behind(connection, selection).await?,
        false => Vec::new(),
    };
    if lost.is_empty() && left.is_empty() {
        show::repair(&[], args.output, false)?;
        show::repair_notes(&notes, args.output)?;
        let missing = report
            .pods
            .iter()
            .filter(|pod| pod.reason == Some(Reason::NotFound));
        let missing: Vec<String> = missing.map(ScannedPod::display_name).collect();
        let said = match (scanned, suspects) {
            _ if !missing.is_empty() => format!("There is no pod {}.", missing.join(", ")),
            (0, 0) => "No pod is out of the mesh.".to_owned(),
            (0, _) => format!("No pod is proved out of the mesh; {suspects} suspect: see `meshmedic scan`."),
            _ => "No pod is proved out of the mesh, but not every one could be read: see `meshmedic scan`."
                .to_owned(),
        };
        show::repair_summary(&said, args.output)?;
        return Ok(scanned);
    }
    let agents = &args.ways.agents().agent_namespace;
    let world = World::read(connection, selection, agents, args.settle, &lost).await?;
    let records = Records::new(connection, agents, args.risks, &args.how).await?;
    notes.extend(records.note());
    let asks = Asks {
        how: &args.how,
        risks: args.risks,
        confirm: args.confirm,
        settle: args.settle,
        own: true,
    };
    let (planned, wards) = asks
        .plan(connection, selection, &world, &records, &args.ways, &report)
        .await?;
    let plans: Vec<Planned> = left.into_iter().chain(planned).collect();
    show::repair_plan(&plans, args.output)?;
    show::repair_notes(&notes, args.output)?;
    if !args.yes {
        let items: Vec<Item> = plans.iter().map(Planned::item).collect();
        show::repair(&items, args.output, false)?;
        show::repair_summary(&dry_summary(&items), args.output)?;
        return Ok(1);
    }
    let repairs = Repairs {
        connection,
        how: &args.how,
        risks: args.risks,
        world: &world,
        records,
        verifier: Verifier {
            connection,
            mesh: &world.mesh,
            ways: &args.ways,
            confirm: args.confirm,
            settle: args.settle,
        },
        stop,
    };
    let items = repairs.repair(plans, wards, args.output).await?;
    show::repair(&items, args.output, true)?;
    show::repair_summary(&summary(&items), args.output)?;
    let well = |item: &Item| matches!(item.action, Action::Restarted | Action::Repaired);
    Ok(if items.iter().all(well) {
        scanned_without_findings(&report.states)
    } else {
        1
    })
}

/// What the scan left open beside the findings.
fn scanned_without_findings(states: &BTreeMap<State, usize>) -> u8 {
    let others = states.keys().copied().filter(|state| !state.is_finding());
    meshmedic_common::verdict::exit_code(others)
}

impl Repairs<'_> {
    /// Repairs what may be repaired: in place first, then by toggles and restarts: the pods of one owner one after the
    /// other, those of several at once.
    async fn repair(
        &self,
        plans: Vec<Planned>,
        wards: BTreeMap<String, Ward>,
        format: RepairFormat,
    ) -> anyhow::Result<Vec<Item>> {
        let plans = plans.into_iter().enumerate().collect();
        let (mut items, plans) = self.heal(plans, wards, format).await;
        let failures = Cell::new(0_u32);
        let mut queues: BTreeMap<String, Vec<(usize, Planned)>> = BTreeMap::new();
        for (place, plan) in plans {
            queues.entry(plan.queue()).or_default().push((place, plan));
        }
        let failures = &failures;
        let work = |queue: Vec<(usize, Planned)>| async move {
            let mut done = Vec::new();
            for (place, plan) in queue {
                let item = self.one(&plan, failures, format).await?;
                done.push((place, item));
            }
            Ok::<_, anyhow::Error>(done)
        };
        let mut running = stream::iter(queues.into_values())
            .map(work)
            .buffer_unordered(self.how.max_in_flight.into());
        while let Some(done) = running.next().await {
            items.extend(done?);
        }
        items.sort_by_key(|(place, _)| *place);
        Ok(items.into_iter().map(|(_, item)| item).collect())
    }

    async fn one(&self, plan: &Planned, failures: &Cell<u32>, format: RepairFormat) -> anyhow::Result<Item> {
        let item = plan.item();
        if item.action != Action::WouldRepair {
            return Ok(item);
        }
        let not_done = |why: &str| Item {
            action: Action::NotDone,
            detail: why.to_owned(),
            ..plan.item()
        };
        if self.stop.is_set() {
            return Ok(not_done("interrupted before its turn"));
        }
        if failures.get() >= self.how.max_failures {
            return Ok(not_done("earlier repairs failed (--max-failures)"));
        }
        let mut item = item;
        let mut tried = plan.tried.clone();
        for (at, step) in plan.steps.iter().enumerate() {
            show::repair_step(&item.pod, &format!("{}…", step.means.doing()), format);
            item = self.drive(plan, step.means).await;
            item.means = Some(step.means);
            show::repair_step(&item.pod, &item.detail, format);
            let last = at + 1 == plan.steps.len();
            if !matches!(item.action, Action::Failed | Action::Withheld) || last || self.stop.is_set() {
                break;
            }
            tried.get_or_insert_default().push_str(&item.detail);
        }
        if item.action == Action::Failed {
            failures.set(failures.get() + 1);
        }
        if let Some(tried) = tried {
            item.detail = format!("{tried}; then {}", item.detail);
        }
        Ok(item)
    }
}

impl Item {
    /// The same pod with another outcome.
    fn ended(self, action: Action, detail: impl Into<String>) -> Self {
        Self {
            action,
            detail: detail.into(),
            refused: false,
            ..self
        }
    }

    /// The same pod, left alone.
    fn withheld(self, why: Withheld, detail: Option<&str>) -> Self {
        let detail = match detail.filter(|detail| !detail.is_empty()) {
            Some(detail) => format!("{}: {detail}", why.sentence()),
            None => why.sentence().to_owned(),
        };
        Self {
            rule: Some(why.rule()),
            reason: Some(why),
            ..self.ended(Action::Withheld, detail)
        }
    }
}

fn count(items: &[Item], actions: &[Action]) -> usize {
    items.iter().filter(|item| actions.contains(&item.action)).count()
}

fn pods(count: usize) -> String {
    match count {
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    }
}

/// What befalls the others, where there are any.
fn others(parts: &[(usize, &str)]) -> String {
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, what)| format!(", {count} {what}")).collect()
}

fn dry_summary(items: &[Item]) -> String {
    let refused = |item: &&Item| item.action == Action::WouldRepair && item.refused;
    let refused = items.iter().filter(refused).count();
    let would = count(items, &[Action::WouldRepair]) - refused;
    let withheld = count(items, &[Action::Withheld]);
    let left = others(&[
        (refused, "refused by a disruption budget"),
        (withheld, "left alone"),
    ]);
    match would {
        0 if refused > 0 => format!(
            "Nothing would be done{left}: scale the owner up, or let the budget allow one disruption."
        ),
        0 => format!("Nothing would be done{left}."),
        would => format!(
            "Nothing was done. With --yes {} would be repaired{left}.",
            pods(would)
        ),
    }
}

fn summary(items: &[Item]) -> String {
    let done = count(items, &[Action::Restarted, Action::Repaired]);
    let others = others(&[
        (count(items, &[Action::Failed]), "failed"),
        (count(items, &[Action::Withheld]), "left alone"),
        (count(items, &[Action::NotDone]), "not done"),
    ]);
    match done {
        0 => format!("Nothing was repaired{others}."),
        done => format!("{} repaired and captured{others}.", pods(done)),
    }
}
