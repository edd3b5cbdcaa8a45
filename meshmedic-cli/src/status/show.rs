// SPDX-License-Identifier: Apache-2.0
//! The fleet at a glance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use jiff::Timestamp;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::verdict::{Condition, State};
use tabwriter::TabWriter;

use super::{AgentHealth, FleetProof, FleetStatus, NodeRepair, NodeStatus, Unwell, ago};
use crate::output::{Colour, paint, state_colour, wrap};

/// So many pods are named; `meshmedic scan` names all.
const UNWELL_SHOWN: usize = 10;

/// For people at a terminal.
pub(super) fn text(status: &FleetStatus, now: Timestamp) -> anyhow::Result<String> {
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
    out += &table(&status.nodes, status.paused.is_some())?;
    if !status.unwell.is_empty() {
        writeln!(out, "\n{}", paint("Out of the mesh, or not known:", Colour::Red))?;
        for pod in status.unwell.iter().take(UNWELL_SHOWN) {
            out += &wrap(&line(pod, now), 2);
        }
        let more = status.unwell.len().saturating_sub(UNWELL_SHOWN);
        if more > 0 {
            writeln!(out, "  and {more} more: `meshmedic scan` names all")?;
        }
    }
    let trouble = trouble(status);
    if !trouble.is_empty() {
        writeln!(out, "\n{}", paint("Trouble:", Colour::Red))?;
        for sentence in trouble {
            out += &wrap(&sentence, 2);
        }
    }
    if !status.repairs.is_empty() {
        writeln!(out, "\nLast repairs:")?;
        for NodeRepair { repair, .. } in &status.repairs {
            let age = ago(repair.at, now);
            out += &wrap(&format!("{age}  {} {}", repair.pod, repair.sentence()), 2);
        }
    }
    notes(&mut out, status);
    writeln!(out, "\n{}", summary(status))?;
    out.extend(proof(&status.proof).map(|sentence| wrap(&sentence, 0)));
    Ok(out)
}

/// `shop/cart-0 on node-a: orphan, 5m ago: healing in place`.
fn line(pod: &Unwell, now: Timestamp) -> String {
    let since = pod.since.map(|since| format!(", {}", ago(since, now)));
    format!(
        "{} on {}: {}{}: {}",
        pod.pod,
        pod.node,
        paint(pod.state.as_str(), state_colour(pod.state)),
        since.unwrap_or_default(),
        pod.doing
    )
}

/// What is wrong with nodes and their agents, a sentence each.
pub(super) fn trouble(status: &FleetStatus) -> Vec<String> {
    let mut trouble = Vec::new();
    for node in &status.nodes {
        let mut say = |what: &str, why: &str| trouble.push(format!("{}: {what}: {why}.", node.node));
        match (&node.agent, &node.detail) {
            (AgentHealth::Missing, _) => say("no agent", "ztunnel runs there and no agent does"),
            (AgentHealth::Silent, detail) => {
                say("silent agent", detail.as_deref().unwrap_or("it gives no report"));
            }
            (AgentHealth::Old, _) => say("old agent", "another node has a newer one"),
            (AgentHealth::Ok, _) => {}
        }
        // A pause is said once, above.
        let said = |condition: &Condition| *condition == Condition::Paused && status.paused.is_some();
        for (condition, detail) in node.conditions.iter().filter(|(condition, _)| !said(condition)) {
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
    trouble
}

/// What is known of the captured pods beside their listeners; nothing where there are none.
pub(super) fn proof(proof: &FleetProof) -> Option<String> {
    let FleetProof {
        captured,
        names,
        fingerprint,
        traffic,
        listeners_only,
    } = *proof;
    let text = format!(
        "Captured pods: {captured}. Rules proved too: {}. Traffic seen through ztunnel: {traffic}. Listeners alone: \
         {listeners_only}.",
        names + fingerprint
    );
    (captured > 0).then_some(text)
}

fn notes(out: &mut String, status: &FleetStatus) {
    for note in &status.notes {
        out.push('\n');
        *out += &wrap(&format!("note: {note}"), 0);
    }
}

fn table(nodes: &[NodeStatus], paused: bool) -> anyhow::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    writeln!(table, "NODE\tAGENT\tTRIGGER\tREPAIRS\tPODS")?;
    for node in nodes {
        let (words, _) = agent(node);
        let agent = match node.agent {
            AgentHealth::Ok => words,
            AgentHealth::Old => paint(&words, Colour::Yellow),
            AgentHealth::Silent | AgentHealth::Missing => paint(&words, Colour::Red),
        };
        let trigger = node.trigger.map_or("-", TriggerMode::as_str);
        let repairs = match node.repairs {
            Some("off") | None => node.repairs.unwrap_or("-"),
            Some(_) if paused => "paused",
            Some(which) => which,
        };
        let pods = states_in_words(&node.states, |text, state| paint(text, state_colour(state)));
        writeln!(table, "{}\t{agent}\t{trigger}\t{repairs}\t{pods}", node.node)?;
    }
    Ok(String::from_utf8(table.into_inner()?)?)
}

/// A node's agent in a word or two, and whether it is as it should be.
pub(super) fn agent(node: &NodeStatus) -> (String, bool) {
    let version = node.version.as_deref().unwrap_or_default();
    match node.agent {
        AgentHealth::Ok => (version.to_owned(), true),
        AgentHealth::Old => (format!("{version} (old)"), false),
        AgentHealth::Silent => ("silent".to_owned(), false),
        AgentHealth::Missing => ("missing".to_owned(), false),
    }
}

/// What sorts the worst state first.
pub(crate) fn by_severity(state: State) -> impl Ord {
    (!state.is_finding(), state != State::Unverifiable, state)
}

/// How many pods are in which state, the worst first.
pub(super) fn states_in_words(
    states: &BTreeMap<State, usize>,
    paint: impl Fn(&str, State) -> String,
) -> String {
    let mut known: Vec<_> = states.iter().collect();
    known.sort_by_key(|(state, _)| by_severity(**state));
    let words: Vec<String> = known
        .iter()
        .map(|(state, count)| paint(&format!("{count} {state}"), **state))
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(", ")
    }
}

/// How many agents answer, and what they say.
fn summary(status: &FleetStatus) -> String {
    let states = states_in_words(&status.states, |text, state| paint(text, state_colour(state)));
    if status.states.is_empty() {
        return format!("{}.", answers(status));
    }
    format!("{}: {states}.", answers(status))
}

/// How many agents answer.
pub(super) fn answers(status: &FleetStatus) -> String {
    let count = |health| status.nodes.iter().filter(|node| node.agent == health).count();
    let heard = count(AgentHealth::Ok) + count(AgentHealth::Old);
    format!("{heard} of {} agents answer", status.nodes.len())
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
                "result": "succeeded", "detail": "its successor shop/cart-7d4b-x2 on node-b is captured, 1.2s after the repair began", "tookMs": 1200,
            }],
            "pods": [
                {"namespace": "shop", "name": "a", "uid": "0a1b2c3d-1111-2222-3333-444455556666", "state": "captured",
                 "ports": [15001, 15006, 15008], "redirection": "routed", "flaps": 0,
                 "rules": {"verdict": "present", "ipv4": {"verdict": "present", "backend": "nft", "proof": "fingerprint"},
                           "ipv6": {"verdict": "absent"}}},
                {"namespace": "shop", "name": "b", "uid": "0a1b2c3d-1111-2222-3333-444455556667", "state": "orphan",
                 "ports": [], "redirection": "routed", "flaps": 0, "since": "2026-01-01T00:50:00Z",
                 "heal": {"state": "asked"}, "transitions": [
                    {"at": "2026-01-01T00:20:00Z", "to": "orphan"},
                    {"at": "2026-01-01T00:20:09Z", "from": "orphan", "to": "captured"},
                    {"at": "2026-01-01T00:49:50Z", "from": "captured", "to": "suspect"},
                    {"at": "2026-01-01T00:50:00Z", "from": "suspect", "to": "orphan"}]},
                {"namespace": "shop", "name": "<script>alert(1)</script>", "state": "unverifiable",
                 "uid": "0a1b2c3d-1111-2222-3333-444455556668", "ports": [], "redirection": "unknown", "flaps": 0},
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
        let page = crate::status::html::page(&fleet, now).unwrap();
        assert!(!page.contains("<script"), "a name is no markup");
        crate::output::assert_recorded("status.html", &page);
    }
}
