// SPDX-License-Identifier: Apache-2.0
//! The screen, drawn from what is known and what was typed; no terminal is needed to draw it.

use std::collections::BTreeMap;

use console::Key;
use jiff::Timestamp;
use meshmedic_common::duration;
use meshmedic_common::verdict::State;

use super::view::View;
use crate::output::{Colour, became, paint, state_colour};
use crate::status::{AgentHealth, Change, NodeStatus, Unwell, ago, by_severity};

/// Below this nothing useful fits.
const NARROWEST: usize = 40;
const LOWEST: usize = 12;
/// Lines that are always there: two on top, three titles, one for the keys.
const FRAME: usize = 6;
/// The share of the body that nodes and transitions get where pods want more than there is.
const NODES_SHARE: usize = 4;
const CHANGES_SHARE: usize = 3;
/// So much of a name's end is shown, where it does not fit: the part of its own that a pod's has.
const NAME_END: usize = 6;

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    End,
    /// The story of this pod.
    Story(String),
}

/// What was typed so far.
#[derive(Default)]
pub(super) struct Ui {
    /// Only what has this word is shown.
    filter: String,
    typing: bool,
    /// The pod that is chosen, by its place among those shown.
    chosen: usize,
    page: Option<Page>,
    /// Why the last round gave nothing.
    pub(super) trouble: Option<String>,
}

/// One pod's story.
struct Page {
    pod: String,
    /// None until it was read.
    lines: Option<Vec<String>>,
    from: usize,
}

impl Ui {
    /// Takes a key.
    pub(super) fn press(&mut self, view: &View, key: Key) -> Asked {
        if matches!(key, Key::CtrlC) {
            return Asked::End;
        }
        if let Some(page) = &mut self.page {
            match key {
                Key::ArrowDown | Key::Char('j') => page.from = page.from.saturating_add(1),
                Key::ArrowUp | Key::Char('k') => page.from = page.from.saturating_sub(1),
                Key::Escape | Key::Enter | Key::Char('q') => self.page = None,
                _ => {}
            }
            return Asked::Nothing;
        }
        if self.typing {
            match key {
                Key::Enter => self.typing = false,
                Key::Escape => {
                    self.typing = false;
                    self.filter.clear();
                }
                Key::Backspace => {
                    self.filter.pop();
                }
                Key::Char(c) if !c.is_control() => self.filter.push(c),
                _ => {}
            }
            self.chosen = 0;
            return Asked::Nothing;
        }
        match key {
            Key::Char('q') => return Asked::End,
            Key::Char('/') => self.typing = true,
            Key::Escape => self.filter.clear(),
            Key::ArrowDown | Key::Char('j') => self.chosen = self.chosen.saturating_add(1),
            Key::ArrowUp | Key::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Enter => {
                let chosen = self.shown(view).nth(self.chosen);
                if let Some(unwell) = chosen {
                    let pod = unwell.pod.clone();
                    self.page = Some(Page {
                        pod: pod.clone(),
                        lines: None,
                        from: 0,
                    });
                    return Asked::Story(pod);
                }
            }
            _ => {}
        }
        Asked::Nothing
    }

    /// A story has come; whoever has left its page meanwhile does not get it.
    pub(super) fn tell(&mut self, pod: &str, story: &str) {
        if let Some(page) = self.page.as_mut().filter(|page| page.pod == pod) {
            page.lines = Some(story.lines().map(str::to_owned).collect());
        }
    }

    fn shown<'v>(&self, view: &'v View) -> impl Iterator<Item = &'v Unwell> {
        let all = view.status.unwell.iter();
        all.filter(|unwell| unwell.matches(&self.filter))
    }
}

/// The whole screen, a line each, none wider than `columns` and no more than `lines`.
pub(super) fn draw(view: &View, ui: &mut Ui, now: Timestamp, columns: usize, lines: usize) -> Vec<String> {
    if columns < NARROWEST || lines < LOWEST {
        let words = format!("{NARROWEST} columns and {LOWEST} lines at least");
        return vec![cut(&words, columns)];
    }
    let pen = Pen { columns };
    if let Some(page) = &mut ui.page {
        return pen.page(page, lines);
    }
    let unwell: Vec<&Unwell> = ui.shown(view).collect();
    ui.chosen = ui.chosen.min(unwell.len().saturating_sub(1));
    let changes: Vec<&Change> = view
        .status
        .changes
        .iter()
        .filter(|change| change.name().contains(&ui.filter) || change.node.contains(&ui.filter))
        .collect();
    let body = lines - FRAME;
    let nodes_room = view.status.nodes.len().min((body / NODES_SHARE).max(1));
    let changes_least = changes.len().min(body / CHANGES_SHARE);
    // One more for what the chosen one's line has no room for.
    let pods_room = (unwell.len() + 1).max(2).min(body - nodes_room - changes_least);
    let changes_room = changes.len().min(body - nodes_room - pods_room);

    let mut out = vec![pen.head(view), pen.second(view, ui)];
    out.push(pen.title(&format!("NODES  {}", heard(&view.status.nodes))));
    out.extend(pen.nodes(&view.status.nodes, nodes_room));
    out.push(pen.title(&format!("OUT OF THE MESH, OR NOT KNOWN  {}", unwell.len())));
    if unwell.is_empty() && !ui.filter.is_empty() {
        out.push(paint("  none match", Colour::Dim));
    } else {
        out.extend(pen.pods(&unwell, ui.chosen, pods_room, now));
    }
    out.push(pen.title("LAST CHANGES"));
    out.extend(
        changes
            .iter()
            .take(changes_room)
            .map(|change| pen.change(change, now)),
    );
    out.resize(lines - 1, String::new());
    out.push(pen.keys(ui));
    out
}

fn heard(nodes: &[NodeStatus]) -> String {
    let answers = nodes
        .iter()
        .filter(|node| matches!(node.agent, AgentHealth::Ok | AgentHealth::Old));
    format!("{} of {} agents answer", answers.count(), nodes.len())
}

/// Writes lines of one width.
struct Pen {
    columns: usize,
}

impl Pen {
    fn title(&self, words: &str) -> String {
        paint(&cut(words, self.columns), Colour::Dim)
    }

    fn head(&self, view: &View) -> String {
        let mut line = Line::new(self.columns);
        line.add("meshmedic watch  ", None);
        line.counts(&view.status.states, "  ");
        line.right(&format!("{:.0}", view.at));
        line.done()
    }

    /// What must not be missed: that nothing is heard, or that repairs are paused; else a note.
    fn second(&self, view: &View, ui: &Ui) -> String {
        let mut line = Line::new(self.columns);
        if let Some(trouble) = &ui.trouble {
            line.add(&format!("last round failed: {trouble}"), Some(Colour::Red));
        } else if let Some(absence) = &view.status.absence {
            line.add(absence, Some(Colour::Red));
        } else if let Some(pause) = &view.status.paused {
            line.add(&format!("repairs are {}", pause.sentence()), Some(Colour::Yellow));
        } else if let Some(note) = view.status.notes.first() {
            line.add(note, Some(Colour::Yellow));
        }
        line.done()
    }

    fn nodes(&self, nodes: &[NodeStatus], room: usize) -> Vec<String> {
        let mut sorted: Vec<&NodeStatus> = nodes.iter().collect();
        sorted.sort_by_key(|node| (is_well(node), node.node.as_str()));
        let (shown, more) = fit(sorted.len(), room);
        let mut out: Vec<String> = sorted.iter().take(shown).map(|node| self.node(node)).collect();
        if let Some(more) = more {
            let well = sorted.iter().skip(shown).filter(|node| is_well(node)).count();
            out.push(cut(
                &format!("  and {more} more nodes, {well} of them well"),
                self.columns,
            ));
        }
        out
    }

    fn node(&self, node: &NodeStatus) -> String {
        let mut line = Line::new(self.columns);
        line.column(&format!("  {}", node.node), self.columns / 3, None);
        match node.agent {
            AgentHealth::Ok | AgentHealth::Old => {}
            AgentHealth::Silent => line.add("silent ", Some(Colour::Red)),
            AgentHealth::Missing => line.add("no agent ", Some(Colour::Red)),
        }
        line.counts(&node.states, ", ");
        for (condition, detail) in &node.conditions {
            line.add(&format!("  {condition}: {detail}"), Some(Colour::Yellow));
        }
        if let Some(detail) = &node.detail {
            line.add(&format!(" {detail}"), None);
        }
        line.done()
    }

    fn pods(&self, unwell: &[&Unwell], chosen: usize, room: usize, now: Timestamp) -> Vec<String> {
        if unwell.is_empty() {
            return vec![paint("  none", Colour::Green)];
        }
        let (shown, more) = fit(unwell.len(), room - 1);
        let shown = shown.max(1);
        let from = chosen.saturating_sub(shown - 1);
        let mut out = Vec::new();
        for (at, pod) in unwell.iter().enumerate().skip(from).take(shown) {
            out.push(self.pod(pod, at == chosen, now));
            if at == chosen {
                // All that its own line may have had no room for.
                out.push(cut(&format!("    on {}: {}", pod.node, pod.doing), self.columns));
            }
        }
        if let Some(more) = more.filter(|_| out.len() < room) {
            out.push(cut(&format!("  and {more} more"), self.columns));
        }
        out
    }

    fn pod(&self, pod: &Unwell, chosen: bool, now: Timestamp) -> String {
        let mut line = Line::new(self.columns);
        let mark = if chosen { "> " } else { "  " };
        line.column(&format!("{mark}{}", pod.pod), self.columns * 2 / 5, None);
        line.column(pod.state.as_str(), 13, Some(state_colour(pod.state)));
        let age = pod.since.map_or_else(|| "-".to_owned(), |since| ago(since, now));
        line.column(&age, 10, None);
        line.add(&pod.doing, None);
        line.done()
    }

    fn change(&self, change: &Change, now: Timestamp) -> String {
        let mut line = Line::new(self.columns);
        line.column(&format!("  {}", ago(change.at, now)), 12, None);
        line.column(&change.name(), self.columns / 3, None);
        line.add(&became(change.from, change.to), None);
        line.add(change.to.as_str(), Some(state_colour(change.to)));
        if let Some(ms) = change.outside_ms {
            let span = duration::show(std::time::Duration::from_millis(ms));
            line.add(&format!(", outside for {span}"), None);
        }
        line.done()
    }

    fn page(&self, page: &mut Page, lines: usize) -> Vec<String> {
        let room = lines - 1;
        let mut out: Vec<String> = match &page.lines {
            None => vec![cut(&format!("reading {} …", page.pod), self.columns)],
            Some(story) => {
                page.from = page.from.min(story.len().saturating_sub(room));
                let rows = story.iter().skip(page.from).take(room);
                // Whoever told it broke it at 80 columns; a narrower terminal cuts it.
                rows.map(|row| cut(row, self.columns)).collect()
            }
        };
        out.resize(room, String::new());
        out.push(paint(
            &cut("Esc back  Up, Down scroll", self.columns),
            Colour::Dim,
        ));
        out
    }

    fn keys(&self, ui: &Ui) -> String {
        let words = if ui.typing {
            format!("filter: {}_  Enter keep  Esc drop", ui.filter)
        } else if ui.filter.is_empty() {
            "q quit  Up, Down choose  Enter story  / filter".to_owned()
        } else {
            format!(
                "q quit  Up, Down choose  Enter story  / filter: {}  Esc drop it",
                ui.filter
            )
        };
        paint(&cut(&words, self.columns), Colour::Dim)
    }
}

fn is_well(node: &NodeStatus) -> bool {
    let lost = node.states.keys().any(|state| state.is_lost());
    node.agent == AgentHealth::Ok && node.conditions.is_empty() && !lost
}

/// How many of these are shown, and how many more there are where one line is kept to say so.
fn fit(count: usize, room: usize) -> (usize, Option<usize>) {
    if count <= room {
        (count, None)
    } else {
        let shown = room.saturating_sub(1);
        (shown, Some(count - shown))
    }
}

/// A line that is full at its width; colours take no room.
struct Line {
    text: String,
    room: usize,
}

impl Line {
    const fn new(columns: usize) -> Self {
        Self {
            text: String::new(),
            room: columns,
        }
    }

    fn add(&mut self, words: &str, colour: Option<Colour>) {
        let words = cut(words, self.room);
        self.room -= words.chars().count();
        if let Some(colour) = colour.filter(|_| !words.is_empty()) {
            self.text += &paint(&words, colour);
        } else {
            self.text += &words;
        }
    }

    /// How many pods are in which state, the worst first.
    fn counts(&mut self, states: &BTreeMap<State, usize>, between: &str) {
        let mut states: Vec<(&State, &usize)> = states.iter().collect();
        states.sort_by_key(|(state, _)| by_severity(**state));
        for (at, (state, count)) in states.into_iter().enumerate() {
            self.add(if at > 0 { between } else { "" }, None);
            self.add(&format!("{count} {state}"), Some(state_colour(*state)));
        }
    }

    /// Words in a column of this width, and a blank after them.
    fn column(&mut self, words: &str, width: usize, colour: Option<Colour>) {
        let words = shorten(words, width.saturating_sub(1));
        let blanks = width.saturating_sub(words.chars().count());
        self.add(&words, colour);
        self.add(&" ".repeat(blanks), None);
    }

    /// Words at the right edge, where they still fit.
    fn right(&mut self, words: &str) {
        let length = words.chars().count();
        if self.room > length {
            self.add(&" ".repeat(self.room - length), None);
            self.add(words, None);
        }
    }

    fn done(self) -> String {
        self.text
    }
}

/// A name, at most so wide: its end tells pods of one owner apart, and its beginning whose they are.
fn shorten(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let end = width.saturating_sub(1).min(NAME_END);
    let begin: String = name.chars().take(width.saturating_sub(end + 1)).collect();
    let end: String = name.chars().skip(length - end).collect();
    format!("{begin}…{end}")
}

/// At most so many characters, with a mark where some are missing. Names were cleaned: each is one column wide, or a
/// terminal's line is a little shorter.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests;
