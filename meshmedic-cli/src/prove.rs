// SPDX-License-Identifier: Apache-2.0
//! `meshmedic prove POD`: whether the mesh has one pod, leg by leg, and what could not be seen.

mod active;

use std::net::SocketAddr;

use serde::Serialize;

use crate::connection::{self, Connection};
use crate::doctor::{self, Part, ZtunnelDump};
use crate::explain::{self, Known, Leg, Question, Section, Verdict};
use crate::open_connection;
use crate::output::{Format, write};
use crate::selection::Selection;
use meshmedic_common::report::API_VERSION;
use meshmedic_common::verdict::{State, exit_code};

/// The kind of what is printed for programs.
const KIND: &str = "PodProof";

/// Arguments of `meshmedic prove`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Open one connection from the pod's network namespace, and see there whether ztunnel takes it: by a probe of
    /// MeshMedic's own image, an ephemeral container, which stays in the pod's spec for ever
    #[arg(long, conflicts_with = "no_probe")]
    active: bool,
    /// Whom that connection is opened to [default: the Kubernetes API]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "active", value_parser = open_connection::peer)]
    to: Option<SocketAddr>,
    #[command(flatten)]
    question: Question,
}

const AFTER_HELP: &str = "\
Each leg is proved, disproved, believed, doubted or unknown. Listeners, rules
and traffic are read from the kernel. What ztunnel and the API say is a belief.

Exit codes, whatever the output format:
  0  the pod is captured, or need not be
  1  it is an orphan, partly captured or bypassing, or an imposter holds its
     ports; or the connection of --active went past ztunnel
  2  wrong usage
  3  undetermined: it could not be read, or the connection of --active tells nothing

Examples:
  meshmedic prove -n shop cart-7d4b9c6f5-x2x9k
  meshmedic prove shop/cart-7d4b9c6f5-x2x9k --active    open a connection and follow it
  meshmedic prove shop/cart-7d4b9c6f5-x2x9k -o json     for programs";

/// What is printed for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Proof<'a> {
    api_version: &'static str,
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    state: State,
    /// The same in words.
    sentence: String,
    legs: &'a [Leg],
    /// What else could not be known.
    notes: &'a [String],
}

/// Looks and tells; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.question.check()?;
    connection::runtime()?.block_on(async {
        let (connection, selection, known) = args.question.ask().await?;
        let belief = belief(args, &connection, selection, &known).await;
        let mut legs = known.legs(&belief);
        if args.active {
            let found = active::look(&connection, args.question.ways(), &known, args.to).await?;
            legs.push(active::leg(&known, &found));
        }
        match args.output {
            Format::Table | Format::Wide => {
                explain::story(&known.title(), &sections(&legs, &known.notes))?;
            }
            Format::Json => write(&format!(
                "{}\n",
                serde_json::to_string_pretty(&proof(&known, &legs))?
            ))?,
            Format::Yaml => write(&serde_saphyr::to_string(&proof(&known, &legs))?)?,
        }
        Ok(code(&known, &legs))
    })
}

/// A connection that went past ztunnel is a finding whatever the state says, and one that proves nothing leaves open
/// what was asked. Neither says anything of a pod that need not be captured.
fn code(known: &Known, legs: &[Leg]) -> u8 {
    let states = match active::verdict(legs) {
        _ if known.pod.state == State::Exempt => [State::Exempt; 2],
        Some(Verdict::Disproved) => [known.pod.state, State::Bypassing],
        Some(Verdict::Unknown) => [known.pod.state, State::Unverifiable],
        _ => [known.pod.state; 2],
    };
    exit_code(states)
}

/// What the ztunnel of its node says of itself.
async fn belief(
    args: &Args,
    connection: &Connection,
    selection: Selection,
    known: &Known,
) -> Part<ZtunnelDump> {
    match &known.ztunnel {
        Some(ztunnel) => doctor::ask_ztunnel(connection, selection, args.question.ways(), ztunnel).await,
        None => Part::absent("no ztunnel of its node is known"),
    }
}

fn proof<'a>(known: &'a Known, legs: &'a [Leg]) -> Proof<'a> {
    let pod = &known.pod;
    Proof {
        api_version: API_VERSION,
        kind: KIND,
        namespace: &pod.namespace,
        name: &pod.name,
        uid: &pod.uid,
        node: pod.node.as_deref(),
        state: pod.state,
        sentence: pod.sentence(),
        legs,
        notes: &known.notes,
    }
}

fn sections(legs: &[Leg], notes: &[String]) -> Vec<Section> {
    let mut sections: Vec<Section> = legs
        .iter()
        .map(|leg| {
            let unseen = leg.unseen.iter().map(|what| format!("Not seen: {what}"));
            let mut lines = vec![format!("{}.", leg.verdict.as_str())];
            lines.extend(leg.evidence.iter().cloned().chain(unseen));
            Section {
                title: leg.question,
                lines,
            }
        })
        .collect();
    if !notes.is_empty() {
        sections.push(Section {
            title: "Not known",
            lines: notes.to_vec(),
        });
    }
    sections
}
