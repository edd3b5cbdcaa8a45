// SPDX-License-Identifier: Apache-2.0
//! The fleet at a glance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use clap::ValueEnum;
use jiff::Timestamp;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::State;
use tabwriter::TabWriter;

use super::{AgentHealth, FleetProof, FleetStatus, NodeStatus, ago};
use crate::output::{Colour, paint, state_colour, wrap, write};

/// How the fleet is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// Writes the fleet.
pub(crate) fn status(status: &FleetStatus, format: StatusFormat) -> anyhow::Result<()> {
    write(&match format {
        StatusFormat::Json => format!("{}\n", serde_json::to_string_pretty(status)?),
        StatusFormat::Yaml => serde_saphyr::to_string(status)?,
        StatusFormat::Table => text(status, Timestamp::now())?,
    })
}

fn text(status: &FleetStatus, now: Timestamp) -> anyhow::Result<String> {
    let mut out = String::new();
    if let Some(pause) = &status.paused {
        out += &wrap(&format!("Repairs are {}.", pause.sentence()), 0);
        writeln!(out, "`meshmedic resume` ends the pause.\n")?;
    }
    if let Some(why) = &status.absence {
        out += &wrap(&format!("No agents: {why}."), 0);
        writeln!(out, "`meshmedic scan` finds lost pods without them.")?;
        notes(&mut out, status);
        return Ok(out);
    }
    out += &table(&status.nodes)?;
    let mut trouble = String::new();
    for node in &status.nodes {
        let mut say = |what: &str, why: &str| {
            trouble += &wrap(&format!("{}: {what}: {why}.", node.node), 2);
        };
        match (&node.agent, &node.detail) {
            (AgentHealth::Missing, _) => say("no agent", "ztunnel runs there and no agent does"),
            (AgentHealth::Silent, detail) => {
                say("silent agent", detail.as_deref().unwrap_or("it gives no report"));
            }
            (AgentHealth::Old, _) => say("old agent", "another node has a newer one"),
            (AgentHealth::Ok, _) => {}
        }
        for (condition, detail) in &node.conditions {
            say(condition.as_str(), detail);
        }
        for breaker in &node.breakers {
            let name = breaker.name.as_ref().map(|name| format!(" ({name})"));
            let until = breaker
                .until
                .map(|until| format!(", no repair starts until {until:.0}"));
            let why = format!("{}{}", breaker.scope.sentence(), name.unwrap_or_default());
            say("breaker open", &format!("{why}{}", until.unwrap_or_default()));
        }
    }
    if !trouble.is_empty() {
        write!(out, "\n{}\n{trouble}", paint("Trouble:", Colour::Red))?;
    }
    if !status.repairs.is_empty() {
        writeln!(out, "\nLast repairs:")?;
        for done in &status.repairs {
            let repair = &done.repair;
            let action = repair.action.map_or("repaired", |action| action.sentence());
            let result = repair
                .result
                .map_or("with an unknown result", |result| result.sentence());
            let detail = repair.detail.as_ref().map(|detail| format!(" ({detail})"));
            let age = ago(repair.at, now);
            let text = format!(
                "{age}  {} {action}: {result}{}",
                repair.pod,
                detail.unwrap_or_default()
            );
            out += &wrap(&text, 2);
        }
    }
    notes(&mut out, status);
    writeln!(out, "\n{}", summary(status))?;
    out += &proof(&status.proof);
    Ok(out)
}

/// What is known of the captured pods beside their listeners; nothing where there are none.
fn proof(proof: &FleetProof) -> String {
    let FleetProof {
        captured,
        names,
        fingerprint,
        traffic,
        listeners_only,
    } = *proof;
    if captured == 0 {
        return String::new();
    }
    let text = format!(
        "Of {captured} captured: rules proved in {} ({names} by names, {fingerprint} by fingerprint), traffic through \
         ztunnel in {traffic}, listeners alone known of {listeners_only}.",
        names + fingerprint
    );
    wrap(&text, 0)
}

fn notes(out: &mut String, status: &FleetStatus) {
    for note in &status.notes {
        out.push('\n');
        *out += &wrap(&format!("note: {note}"), 0);
    }
}

fn table(nodes: &[NodeStatus]) -> anyhow::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    writeln!(table, "NODE\tAGENT\tTRIGGER\tREPAIRS\tPODS")?;
    for node in nodes {
        let agent = match node.agent {
            AgentHealth::Ok => node.version.clone().unwrap_or_default(),
            AgentHealth::Old => paint(
                &format!("{} (old)", node.version.as_deref().unwrap_or_default()),
                Colour::Yellow,
            ),
            AgentHealth::Silent => paint("silent", Colour::Red),
            AgentHealth::Missing => paint("missing", Colour::Red),
        };
        let trigger = node.trigger.map_or("-", TriggerMode::as_str);
        let repairs = node.repairs.unwrap_or("-");
        let pods = states(&node.states);
        writeln!(table, "{}\t{agent}\t{trigger}\t{repairs}\t{pods}", node.node)?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// What sorts the worst state first.
pub(crate) fn by_severity(state: State) -> impl Ord {
    (!state.is_finding(), state != State::Unverifiable, state)
}

/// The worst first.
fn states(states: &BTreeMap<State, usize>) -> String {
    let mut known: Vec<_> = states.iter().collect();
    known.sort_by_key(|(state, _)| by_severity(**state));
    let words: Vec<String> = known
        .iter()
        .map(|(state, count)| paint(&format!("{count} {state}"), state_colour(**state)))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

fn summary(status: &FleetStatus) -> String {
    let count = |health| status.nodes.iter().filter(|node| node.agent == health).count();
    let heard = count(AgentHealth::Ok) + count(AgentHealth::Old);
    format!(
        "{heard} of {} agents answer: {}.",
        status.nodes.len(),
        states(&status.states)
    )
}

#[cfg(test)]
mod tests {
    use meshmedic_common::kube::control::Pause;
    use serde_json::json;

    use super::*;
    use crate::status::example;

    #[test]
    fn a_fleet_reads_as_recorded() {
        let pause = Pause {
            reason: "the mesh is being upgraded, ask in the channel of the platform team".to_owned(),
            by: Some("ann@desk".to_owned()),
            since: Some("2026-01-01T00:00:00Z".to_owned()),
        };
        let report = json!({
            "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": "node-a", "version": "0.1.0",
            "trigger": "ebpf", "ztunnel": [7],
            "conditions": [{"condition": "node-fault", "detail": "istio-cni is not Ready on this node"}],
            "budgets": {
                "repairsReady": true, "repairsStuck": false, "actsThisHour": 1, "actsAnHour": 20, "inFlight": 0,
                "inFlightMost": 1,
            },
            "breakers": [{"scope": "node", "failures": 2, "until": "2026-01-01T01:30:00Z"}],
            "repairs": [{
                "at": "2026-01-01T00:55:00Z", "pod": "shop/cart-7d4b-x1", "uid": "u", "action": "evict",
                "result": "succeeded", "detail": "shop/cart-7d4b-x2 on node-b", "tookMs": 1200,
            }],
            "pods": [
                {"namespace": "shop", "name": "a", "uid": "0a1b2c3d-1111-2222-3333-444455556666", "state": "captured",
                 "ports": [15001, 15006, 15008], "redirection": "routed", "flaps": 0,
                 "rules": {"verdict": "present", "ipv4": {"verdict": "present", "backend": "nft", "proof": "fingerprint"},
                           "ipv6": {"verdict": "absent"}}},
                {"namespace": "shop", "name": "b", "uid": "0a1b2c3d-1111-2222-3333-444455556667", "state": "orphan",
                 "ports": [], "redirection": "routed", "flaps": 0},
            ],
        });
        let fleet = example(
            &report,
            "no answer within 10s",
            &["node-a", "node-b", "node-c"],
            Some(pause),
        );
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        crate::output::assert_golden("status.txt", &text(&fleet, now).unwrap());
    }
}
