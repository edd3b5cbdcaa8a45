// SPDX-License-Identifier: Apache-2.0
//! The fleet as one page: what is wrong first, what happened, then every node. Every word from the cluster is escaped.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use meshmedic_common::verdict::State;

use super::history::{History, Slot};
use super::show::{agent, answers, proof, states_in_words, trouble};
use super::unwell::Unwell;
use super::{FleetStatus, NodeRepair, NodeStatus, ago};
use crate::output::page::{self, plural};
use crate::output::{Colour, Escaped, state_colour};

/// The chart's measures, in its own units.
const WIDTH: usize = 960;
const HEIGHT: usize = 120;
/// Room for the words under it.
const LEGEND: usize = 34;
/// So wide are both words of the legend where they are largest.
const WORDS: usize = 220;

/// The whole page.
pub(super) fn page(status: &FleetStatus, now: Timestamp) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let of = match &status.absence {
        Some(why) => format!("No agents, as of {}: {why}", page::minute(now)),
        None => format!(
            "The whole fleet, as of {}: {}",
            page::minute(now),
            answers(status)
        ),
    };
    let count = |wanted: fn(State) -> bool| {
        let states = status.states.iter().filter(|(state, _)| wanted(**state));
        states.map(|(_, count)| count).sum::<usize>()
    };
    let lost = count(State::is_finding);
    let captured = count(|state| state == State::Captured);
    let exempt = count(|state| state == State::Exempt);
    let open = count(|state| matches!(state, State::Suspect | State::Unverifiable | State::Pending));
    page::begin(
        &mut out,
        "Mesh capture",
        now,
        &of,
        &[
            (
                "error",
                lost,
                plural(lost, "pod out of the mesh", "pods out of the mesh"),
            ),
            ("warning", open, "not known yet"),
            ("passed", captured, "captured"),
            ("skipped", exempt, "exempt"),
        ],
    )?;
    if let Some(pause) = &status.paused {
        let sentence = pause.sentence();
        writeln!(
            out,
            "<p class=\"warning mark\">Repairs are {}.</p>",
            Escaped(sentence)
        )?;
    }
    if let Some(proof) = proof(&status.proof) {
        writeln!(out, "<p>{proof}</p>")?;
    }
    unwell(&mut out, status, now)?;
    troubles(&mut out, status)?;
    history(&mut out, status, now)?;
    repairs(&mut out, status, now)?;
    nodes(&mut out, status)?;
    if !status.notes.is_empty() {
        writeln!(out, "<section>\n<h2>Notes</h2>\n<ul>")?;
        for note in &status.notes {
            writeln!(out, "<li>{}</li>", Escaped(note))?;
        }
        writeln!(out, "</ul>\n</section>")?;
    }
    page::end(&mut out)?;
    Ok(out)
}

/// The class of a state, by its colour in a terminal.
const fn class(state: State) -> &'static str {
    match state_colour(state) {
        Colour::Red => "error",
        Colour::Yellow => "warning",
        Colour::Green => "passed",
        Colour::Dim => "skipped",
    }
}

fn unwell(out: &mut String, status: &FleetStatus, now: Timestamp) -> fmt::Result {
    let Some(first) = status.unwell.first() else {
        return Ok(());
    };
    writeln!(out, "<section>\n<h2>Out of the mesh, or not known</h2>")?;
    let cells = |pod: &Unwell| {
        let since = pod.since.map_or_else(|| "-".to_owned(), |since| ago(since, now));
        let state = format!("<span class=\"mark {}\">{}</span>", class(pod.state), pod.state);
        [
            Escaped(&pod.pod).to_string(),
            Escaped(&pod.node).to_string(),
            state,
            since,
            Escaped(&pod.doing).to_string(),
        ]
    };
    let columns = ["Pod", "Node", "State", "When", "What happens to it"];
    table(out, columns, status.unwell.iter().map(cells))?;
    writeln!(
        out,
        "<p class=\"gap\">Why one of them is so: <code>meshmedic explain {}</code></p>\n</section>",
        Escaped(&first.pod)
    )
}

fn troubles(out: &mut String, status: &FleetStatus) -> fmt::Result {
    let trouble = trouble(status);
    if trouble.is_empty() {
        return Ok(());
    }
    writeln!(out, "<section>\n<h2>Trouble</h2>\n<ul>")?;
    for sentence in trouble {
        writeln!(out, "<li>{}</li>", Escaped(sentence))?;
    }
    writeln!(out, "</ul>\n</section>")
}

/// Losses above the line, returns below it.
fn history(out: &mut String, status: &FleetStatus, now: Timestamp) -> fmt::Result {
    let Some(history) = History::of(&status.changes, now) else {
        return Ok(());
    };
    let Slot { lost, back } = history.totals();
    let sum = format!(
        "{lost} {} and {back} {} since {}",
        plural(lost, "loss", "losses"),
        plural(back, "return", "returns"),
        page::minute(history.from)
    );
    writeln!(
        out,
        "<section>\n<h2>Losses and returns</h2>\n<p>{sum}.</p>\n\
         <svg class=\"chart\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{sum}\">",
        HEIGHT + LEGEND
    )?;
    let most = |of: fn(&Slot) -> usize| history.slots.iter().map(of).max().unwrap_or_default();
    let (above, below) = (most(|slot| slot.lost), most(|slot| slot.back));
    // One scale for both, so that equal bars are equal counts.
    let tall = |count: usize| count * HEIGHT / (above + below).max(1);
    let line = tall(above);
    // A few slots are not drawn as wide blocks.
    let wide = WIDTH / history.slots.len().max(16);
    let begin = WIDTH - wide * history.slots.len();
    for (at, slot) in (0_i32..).zip(&history.slots) {
        let x = begin + wide * usize::try_from(at).unwrap_or_default();
        let since = history.from + history.slot * at;
        let until = since + history.slot;
        let span = format!("{} to {}", since.strftime("%H:%M"), until.strftime("%H:%M UTC"));
        let bars = [
            ("error", slot.lost, line - tall(slot.lost), "lost"),
            ("passed", slot.back, line, "back"),
        ];
        for (class, count, y, word) in bars.into_iter().filter(|(_, count, ..)| *count > 0) {
            writeln!(
                out,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\"><title>{count} {word}, \
                 {span}</title></rect>",
                wide - 1,
                tall(count)
            )?;
        }
    }
    writeln!(
        out,
        "<line x1=\"{begin}\" x2=\"{WIDTH}\" y1=\"{line}\" y2=\"{line}\"/>\n\
         <text x=\"{first}\" y=\"{y}\">{}</text>\n<text x=\"{WIDTH}\" y=\"{y}\" class=\"end\">now</text>\n</svg>",
        history.from.strftime("%H:%M UTC"),
        // The two words do not stand over one another, however few the slots.
        first = begin.min(WIDTH - WORDS),
        y = HEIGHT + LEGEND - 6
    )?;
    writeln!(
        out,
        "<p class=\"gap\">Losses stand above the line, returns below it. Agents remember the last changes of the pods \
         that still run, so a pod that was restarted took its loss with it.</p>\n</section>"
    )
}

fn repairs(out: &mut String, status: &FleetStatus, now: Timestamp) -> fmt::Result {
    if status.repairs.is_empty() {
        return Ok(());
    }
    writeln!(out, "<section>\n<h2>Last repairs</h2>")?;
    let cells = |done: &NodeRepair| {
        [
            ago(done.repair.at, now),
            Escaped(&done.repair.pod).to_string(),
            Escaped(&done.node).to_string(),
            Escaped(done.repair.sentence()).to_string(),
        ]
    };
    let columns = ["When", "Pod", "Node", "What was done"];
    table(out, columns, status.repairs.iter().map(cells))?;
    writeln!(out, "</section>")
}

fn nodes(out: &mut String, status: &FleetStatus) -> fmt::Result {
    if status.nodes.is_empty() {
        return Ok(());
    }
    writeln!(out, "<section>\n<h2>Nodes</h2>")?;
    let cells = |node: &NodeStatus| {
        let (words, well) = agent(node);
        let words = Escaped(words);
        let agent = match well {
            true => words.to_string(),
            false => format!("<span class=\"mark error\">{words}</span>"),
        };
        let mark = |text: &str, state| format!("<span class=\"mark {}\">{text}</span>", class(state));
        [
            Escaped(&node.node).to_string(),
            agent,
            node.trigger.map_or("-", |trigger| trigger.as_str()).to_owned(),
            node.repairs.unwrap_or("-").to_owned(),
            states_in_words(&node.states, mark),
        ]
    };
    let columns = ["Node", "Agent", "Trigger", "Repairs", "Pods"];
    table(out, columns, status.nodes.iter().map(cells))?;
    writeln!(out, "</section>")
}

/// Where the page is narrow the cells of a row stand below one another, and each says which it is.
fn table<const N: usize>(
    out: &mut String,
    columns: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    writeln!(out, "<div class=\"wide\"><table>\n<thead><tr>")?;
    for column in columns {
        write!(out, "<th scope=\"col\">{column}</th>")?;
    }
    writeln!(out, "</tr></thead>\n<tbody>")?;
    for cells in rows {
        write!(out, "<tr>")?;
        for (column, cell) in columns.iter().zip(cells) {
            write!(out, "<td data-column=\"{column}\">{cell}</td>")?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody>\n</table></div>")
}
