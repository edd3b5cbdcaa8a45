// SPDX-License-Identifier: Apache-2.0
//! `meshmedic prove POD`: whether the mesh has one pod, leg by leg, and what could not be seen.

use serde::Serialize;

use crate::connection::{self, Connection};
use crate::doctor::{self, Part, ZtunnelDump};
use crate::explain::{self, Known, Leg, Question, Section};
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
    #[command(flatten)]
    question: Question,
}

const AFTER_HELP: &str = "\
Each leg is proved, disproved, believed, doubted or unknown. Listeners, rules
and traffic are read from the kernel. What ztunnel and the API say is a belief.

Exit codes, whatever the output format:
  0  the pod is captured, or need not be
  1  it is an orphan, partly captured, it bypasses ztunnel, or an imposter holds its ports
  2  wrong usage
  3  undetermined: it could not be read";

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
        let legs = known.legs(&belief);
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
        Ok(exit_code([known.pod.state]))
    })
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
