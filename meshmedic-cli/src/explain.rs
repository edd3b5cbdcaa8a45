// SPDX-License-Identifier: Apache-2.0
//! `meshmedic explain POD`: one pod's whole story in plain words.

mod events;
mod legs;
mod show;
mod story;

use std::collections::BTreeSet;
use std::time::Duration;

use meshmedic_common::duration;
use meshmedic_common::identity::Component;
use meshmedic_common::policy::SETTLE;
use meshmedic_common::report::NodeReport;
use meshmedic_common::times::Times;

use crate::connection::{self, Connection, ConnectionArgs};
use crate::istio::IstioArgs;
use crate::repair;
use crate::scan::{self, sweep};
use crate::selection::{self, Mesh, Selection, again};
use crate::ways::{Age, WayArgs, fleet};

pub(crate) use legs::{Leg, Verdict};
pub(crate) use show::story;
pub(crate) use story::{Known, Section};

/// Arguments of `meshmedic explain`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    question: Question,
}

/// Of which pod everything is to be known, and how to ask.
#[derive(clap::Args)]
pub(crate) struct Question {
    /// The pod: NAME, in the namespace of -n or of the context, or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pod: String,
    /// The pod's namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// For how long three readings must agree before a loss is believed
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = crate::spans::confirm, env = "MESHMEDIC_CONFIRM")]
    confirm: Duration,
    /// How long ztunnel must have been Ready before its absence in a pod means anything
    #[arg(long, value_name = "DURATION", default_value = duration::show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    settle: Duration,
    #[command(flatten)]
    ways: WayArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  the pod is captured, or need not be
  1  it is an orphan, partly captured or bypassing, or an imposter holds its
     ports
  2  wrong usage
  3  undetermined: it could not be read";

/// Tells it; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.question.check()?;
    connection::runtime()?.block_on(async {
        let (_, _, known) = args.question.ask().await?;
        story(&known.title(), &known.tell())?;
        Ok(meshmedic_common::verdict::exit_code([known.pod.state]))
    })
}

impl Question {
    /// Refuses what makes no sense before anybody is asked.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.ways.check()?;
        selection::one(&self.pod, self.namespace.as_deref(), "default")?;
        Ok(())
    }

    /// Gathers what can be known of the pod.
    pub(crate) async fn ask(&self) -> anyhow::Result<(Connection, Selection, Known)> {
        let mut connection = self.connection.connect().await?;
        self.istio
            .settle(&mut connection, Some(self.ways.agents()), self.ways.timeout())
            .await;
        let (selection, key) = selection::one(&self.pod, self.namespace.as_deref(), &connection.namespace)?;
        let known = tokio::select! {
            known = look(&self.ways, self.options(), &connection, &selection, &key) => known?,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                anyhow::bail!("interrupted before everything was read");
            }
        };
        Ok((connection, selection, known))
    }

    /// How it is asked.
    pub(crate) const fn ways(&self) -> &WayArgs {
        &self.ways
    }

    const fn options(&self) -> scan::Options {
        scan::Options {
            confirm: self.confirm,
            settle: self.settle,
            ready_only: false,
            age: Age::Any,
        }
    }
}

/// One pod's story as text, for a command that shows it among other things.
pub(crate) async fn tell(
    ways: &WayArgs,
    options: scan::Options,
    connection: &Connection,
    pod: &str,
) -> anyhow::Result<String> {
    let (selection, key) = selection::one(pod, None, &connection.namespace)?;
    let known = look(ways, options, connection, &selection, &key).await?;
    Ok(show::text(&known.title(), &known.tell()))
}

/// Gathers what can be known; what cannot is said.
async fn look(
    ways: &WayArgs,
    options: scan::Options,
    connection: &Connection,
    selection: &Selection,
    key: &(String, String),
) -> anyhow::Result<Known> {
    let (namespace, name) = key;
    let Some(target) = again(connection, namespace, name).await? else {
        anyhow::bail!(selection::no_pod(namespace, name));
    };
    let (confirm, settle) = (options.confirm, options.settle);
    let report = sweep(connection, selection, ways, options).await?;
    let mut notes = report.notes.clone();
    let pod = report.pods.first().cloned();
    let Some(pod) = pod.filter(|pod| pod.uid == target.facts.uid) else {
        anyhow::bail!("pod {namespace}/{name} was replaced while it was looked at: ask again");
    };
    let mesh = Mesh::read(connection, selection).await?;
    let node = target.facts.node.clone().unwrap_or_default();
    let agents = ways.agents();
    let nodes = BTreeSet::from([node.as_str()]);
    let mut fleet = fleet(connection, agents, ways.timeout(), 1, Some(&nodes)).await;
    let agent: Result<NodeReport, String> = match (fleet.reports.remove(&node), fleet.absence) {
        (Some(report), _) => report,
        (None, Some(why)) => Err(why),
        (None, None) => Err(format!("no agent runs on node {node}")),
    };
    let repair = if pod.state.is_finding() {
        match repair::standing(connection, selection, ways, (confirm, settle), &report).await {
            Ok(item) => item,
            Err(error) => {
                notes.push(format!("whether it may be repaired is not known: {error:#}"));
                None
            }
        }
    } else {
        None
    };
    let events = events::of(connection, &target.facts, &mut notes).await;
    let cni = mesh.part(&node, Component::Cni);
    let times = Times {
        sandbox: target.facts.sandbox_since,
        cni: cni.and_then(|cni| cni.container.as_ref()?.started),
        annotated: target.annotated,
        ..Times::default()
    };
    let times = match &agent {
        Ok(report) => times.told_by(report, &target.facts),
        Err(_) => times,
    };
    Ok(Known {
        expectation: mesh.expectation(&target.facts),
        certain: mesh.enablement(&target.facts).certain,
        ztunnel: mesh.part(&node, Component::Ztunnel).cloned(),
        fault: mesh.node_fault(&node, settle, connection.clock.now()),
        now: connection.clock.now().unwrap_or_else(jiff::Timestamp::now),
        facts: target.facts,
        times,
        pod,
        agent,
        repair,
        events,
        notes,
    })
}
