// SPDX-License-Identifier: Apache-2.0
//! One line a transition, over all agents.

use std::collections::BTreeSet;
use std::time::Instant;

use clap::ValueEnum;
use meshmedic_common::duration;

use super::Args;
use super::told::Told;
use crate::connection::Connection;
use crate::output::{became, line, paint, say, state_colour};
use crate::signals::Terminate;
use crate::status::{Answers, Change};

/// How a transition is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LineFormat {
    /// For people
    #[default]
    Text,
    /// For programs: one object a line
    Json,
}

/// Writes until told to stop.
pub(super) async fn run(args: &Args, connection: &Connection, first: Answers) -> anyhow::Result<u8> {
    let mut terminate = Terminate::listen()?;
    let mut told = Told::new(Instant::now(), args.since);
    let mut silent = Silent::default();
    let agents = first.fleet.reports.len();
    let agents = if agents == 1 {
        "1 agent".to_owned()
    } else {
        format!("{agents} agents")
    };
    say(&format!("following {agents}; Ctrl-C ends it"));
    args.unknown(&first).iter().for_each(|what| say(what));
    let rounds = async {
        let mut answers = Ok(first);
        loop {
            match answers {
                Ok(answers) => tell(args, answers, &mut told, &mut silent)?,
                // The next round may be answered, and agents keep what happened until then.
                Err(error) => say(&format!("{error:#}")),
            }
            tokio::time::sleep(args.interval).await;
            answers = args.round(connection).await;
        }
    };
    tokio::select! {
        ended = rounds => ended,
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            Ok(0)
        }
        () = terminate.wait() => Ok(0),
    }
}

/// The nodes whose agents do not answer: each is told when it falls silent and when it is back.
#[derive(Default)]
struct Silent(BTreeSet<String>);

fn tell(args: &Args, answers: Answers, told: &mut Told, silent: &mut Silent) -> anyhow::Result<()> {
    if let Some(why) = &answers.fleet.absence {
        say(&format!("no agent answers: {why}"));
    }
    let now = Instant::now();
    let mut changes = Vec::new();
    for (node, report) in &answers.fleet.reports {
        match report {
            Ok(report) => {
                changes.extend(told.new_of(node, report, now));
                if silent.0.remove(node) {
                    say(&format!("the agent of node {node} answers again"));
                }
            }
            Err(why) => {
                if silent.0.insert(node.clone()) {
                    say(&format!("the agent of node {node} does not answer: {why}"));
                }
            }
        }
    }
    changes.retain(|change| args.wants(change.namespace.as_deref()));
    changes.sort_by_key(|change| change.at);
    for change in &changes {
        line(&match args.output {
            LineFormat::Json => serde_json::to_string(change)?,
            LineFormat::Text => text(change),
        })?;
    }
    Ok(())
}

/// `13:59:12  node-a  shop/cart-0  suspect -> orphan`.
fn text(change: &Change) -> String {
    let to = paint(change.to.as_str(), state_colour(change.to));
    let reason = change.reason.map(|reason| format!(" ({})", reason.sentence()));
    let outside = change.outside_ms.map(|ms| {
        let span = duration::show(std::time::Duration::from_millis(ms));
        format!(", outside the mesh for {span}")
    });
    format!(
        "{:.3}  {}  {}  {}{to}{}{}",
        change.at,
        change.node,
        change.name(),
        became(change.from, change.to),
        reason.unwrap_or_default(),
        outside.unwrap_or_default()
    )
}
