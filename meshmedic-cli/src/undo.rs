// SPDX-License-Identifier: Apache-2.0
//! `meshmedic undo`: takes back what repairs left on pods: the record of an ask, and a label that a toggle took away.

use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use meshmedic_common::ask::Ask;
use meshmedic_common::duration;
use meshmedic_common::facts::{HEAL, PodFacts, TOGGLE_RESTORE};
use meshmedic_common::kube::acted::Acted;
use meshmedic_common::kube::heal;
use meshmedic_common::kube::toggle::{self, RestoreError};
use meshmedic_common::policy::SETTLE;
use serde::Serialize;

use crate::connection::{self, Connection, ConnectionArgs};
use crate::exit::Usage;
use crate::istio::IstioArgs;
use crate::output::{self, wrap};
use crate::selection::{Mesh, Scope, Selection, SelectionArgs, select};

/// A heal that was asked for so lately may be under way.
const UNDER_WAY: Duration = Duration::from_secs(120);

/// Arguments of `meshmedic undo`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Do it; without it, only what would be done is shown
    #[arg(long)]
    yes: bool,
    /// All pods of the cluster, as before MeshMedic is removed
    #[arg(long, conflicts_with_all = ["namespace", "selector", "node", "pods"])]
    all: bool,
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// How long ztunnel must have been Ready before a label is put back
    #[arg(long, value_name = "DURATION", default_value = duration::show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    settle: Duration,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Two annotations of MeshMedic's may be left on pods: meshmedic.io/heal says what
istio-cni was asked, and meshmedic.io/toggle-restore what the label
istio.io/dataplane-mode said before a toggle took it away. The first is removed;
the second restores the label as it was, unless someone else has set it. A
label is not put back while the node's ztunnel or istio-cni is at fault.

Exit codes, whatever the output format:
  0  nothing is left
  1  something is: a dry run, or it could not be taken back
  2  wrong usage
  3  the cluster cannot be reached

Examples:
  meshmedic undo --all         what is left anywhere?
  meshmedic undo -n shop --yes take it back
  meshmedic undo shop/cart-7d4b --yes";

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// What is left on a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Left {
    /// The record of an ask.
    Heal,
    /// A label that a toggle took away.
    Toggle,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    WouldUndo,
    Undone,
    Withheld,
    Failed,
}

/// One thing that is left, and what became of it.
#[derive(Debug, Serialize)]
struct Item {
    pod: String,
    left: Left,
    action: Action,
    detail: String,
}

/// Shows what is left, and takes it back if told to; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let wanted = args.selection.check("default")?;
    let chosen = args.all || wanted.labels.is_some() || wanted.node.is_some();
    if wanted.scope == Scope::Cluster && !chosen {
        let why = "say whose: name pods, choose with -n, -l or --node, or pass --all";
        return Err(Usage(why.to_owned()).into());
    }
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        args.istio
            .settle(&mut connection, None, Duration::from_secs(1))
            .await;
        let selection = args.selection.check(&connection.namespace)?;
        let items = undo(args, &connection, &selection).await?;
        show(&items, args.output)?;
        let open = items.iter().any(|item| item.action != Action::Undone);
        Ok(u8::from(open))
    })
}

async fn undo(args: &Args, connection: &Connection, selection: &Selection) -> anyhow::Result<Vec<Item>> {
    let selected = select(connection, selection).await?;
    selected.all_there()?;
    let of_us = |facts: &PodFacts| facts.heal.is_some() || facts.toggle_restore.is_some();
    let pods: Vec<PodFacts> = selected
        .pods
        .into_values()
        .map(|target| target.facts)
        .filter(of_us)
        .collect();
    let mut items = Vec::new();
    if pods.is_empty() {
        return Ok(items);
    }
    let mesh = Mesh::read(connection, selection).await?;
    for facts in &pods {
        if facts.toggle_restore.is_some() {
            items.push(put_back(args, connection, &mesh, facts).await);
        }
        if facts.heal.is_some() {
            items.push(forget(args, connection, facts).await);
        }
    }
    Ok(items)
}

/// What is taken back, for people.
const LABEL: &str = "what a toggle did to its label istio.io/dataplane-mode";
const RECORD: &str = "the record of a request to istio-cni";

/// Puts the label of a pod back that a toggle took away.
async fn put_back(args: &Args, connection: &Connection, mesh: &Mesh, facts: &PodFacts) -> Item {
    let item = |action, detail: String| Item {
        pod: facts.display_name(),
        left: Left::Toggle,
        action,
        detail,
    };
    let node = facts.node.as_deref().unwrap_or_default();
    if let Some(fault) = mesh.node_fault(node, args.settle, connection.clock.now()) {
        let why = format!("{fault}, and in the mesh its connections would be refused");
        return item(Action::Withheld, why);
    }
    if !args.yes {
        return item(Action::WouldUndo, LABEL.to_owned());
    }
    match toggle::restore(&connection.client, &facts.into()).await {
        Ok(_) | Err(RestoreError::Api(Acted::Gone | Acted::OtherPod)) => {
            item(Action::Undone, LABEL.to_owned())
        }
        Err(error) => item(Action::Failed, error.to_string()),
    }
}

/// Takes away what an ask wrote down.
async fn forget(args: &Args, connection: &Connection, facts: &PodFacts) -> Item {
    let item = |action, detail: String| Item {
        pod: facts.display_name(),
        left: Left::Heal,
        action,
        detail,
    };
    let ask = facts.heal.as_deref().and_then(Ask::parse);
    let age = ask.and_then(|ask| Duration::try_from(connection.clock.now()?.duration_since(ask.at)).ok());
    if facts.is_asked() && age.is_some_and(|age| age < UNDER_WAY) {
        return item(
            Action::Withheld,
            "istio-cni was asked a moment ago to enrol it again: wait for the end of that".to_owned(),
        );
    }
    if !args.yes {
        return item(Action::WouldUndo, RECORD.to_owned());
    }
    match heal::forget(&connection.client, &facts.into()).await {
        Ok(_) | Err(Acted::Gone | Acted::OtherPod) => item(Action::Undone, RECORD.to_owned()),
        Err(acted) => item(
            Action::Failed,
            format!(
                "{acted}; by hand: kubectl -n {} annotate pod {} {HEAL}-",
                facts.namespace, facts.name
            ),
        ),
    }
}

fn show(items: &[Item], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::write(&format!("{}\n", serde_json::to_string_pretty(items)?));
    }
    output::write(&text(items))
}

fn text(items: &[Item]) -> String {
    let mut out = String::new();
    for item in items {
        let Item {
            pod, left, detail, ..
        } = item;
        let annotation = match left {
            Left::Heal => HEAL,
            Left::Toggle => TOGGLE_RESTORE,
        };
        let _ = writeln!(out, "{pod}  {annotation}");
        let done = match item.action {
            Action::WouldUndo => "would be taken back",
            Action::Undone => "taken back",
            Action::Withheld => "left alone",
            Action::Failed => "failed",
        };
        out += &wrap(&format!("{done}: {detail}."), 2);
    }
    let count = |action| items.iter().filter(|item| item.action == action).count();
    out += &match (items.len(), count(Action::WouldUndo), count(Action::Undone)) {
        (0, ..) => "Nothing of MeshMedic's is left on these pods.\n".to_owned(),
        (all, would @ 1.., _) => wrap(
            &format!("Nothing was done. With --yes {would} of {all} would be taken back."),
            0,
        ),
        (all, _, undone) => wrap(&format!("{undone} of {all} taken back."), 0),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_reads_as_recorded() {
        let item = |left, action, detail: &str| Item {
            pod: "shop/cart-7d4b-x1".to_owned(),
            left,
            action,
            detail: detail.to_owned(),
        };
        let plan = [
            item(Left::Heal, Action::WouldUndo, RECORD),
            item(
                Left::Toggle,
                Action::Withheld,
                "ztunnel is not Ready on the node, and in the mesh its connections would be refused",
            ),
        ];
        let done = [item(Left::Toggle, Action::Undone, LABEL)];
        let all = [text(&plan), text(&done), text(&[])].join("\n");
        output::assert_golden("undo.txt", &all);
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(
            (json[0]["left"].as_str(), json[0]["action"].as_str()),
            (Some("heal"), Some("would-undo"))
        );
    }
}
