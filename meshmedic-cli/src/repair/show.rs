// SPDX-License-Identifier: Apache-2.0
//! What would be repaired, and what was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::ValueEnum;
use tabwriter::TabWriter;

use meshmedic_common::policy::{Means, Withheld};

use super::{Action, Item, PassedOver, Planned};
use crate::output::{Colour, paint, state_colour, wrap, write};

/// How repairs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RepairFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// With more pods than this under one sentence, the rest is counted.
const NAMES_SHOWN: usize = 5;

/// Shows the plan to people.
pub(crate) fn repair_plan(plans: &[Planned], format: RepairFormat) -> anyhow::Result<()> {
    if format == RepairFormat::Json {
        return Ok(());
    }
    let items: Vec<Item> = plans.iter().map(Planned::item).collect();
    write(&text(&items)?)
}

/// Shows what became of each pod. Where nothing was done, people saw all of it in the plan.
pub(crate) fn repair(items: &[Item], format: RepairFormat, done: bool) -> anyhow::Result<()> {
    if format == RepairFormat::Json {
        return write(&format!("{}\n", serde_json::to_string_pretty(items)?));
    }
    if done && items.iter().any(|item| item.action != Action::Withheld) {
        write(&format!("Done:\n{}", text(items)?))
    } else {
        Ok(())
    }
}

/// Says to people what could not be known.
pub(crate) fn repair_notes(notes: &[String], format: RepairFormat) -> anyhow::Result<()> {
    if format == RepairFormat::Json {
        return Ok(());
    }
    let lines: String = notes
        .iter()
        .map(|note| wrap(&format!("note: {note}"), 0))
        .collect();
    write(&lines)
}

/// The last line for people.
pub(crate) fn repair_summary(text: &str, format: RepairFormat) -> anyhow::Result<()> {
    match format {
        RepairFormat::Json => Ok(()),
        RepairFormat::Table => write(&wrap(text, 0)),
    }
}

/// Tells people how far it is, on stderr, so that the result stays a result.
pub(crate) fn repair_step(pod: &str, what: &str, format: RepairFormat) {
    if format == RepairFormat::Table {
        // Where stderr is gone nobody waits for this.
        let _ = write!(io::stderr(), "{}", wrap(&format!("{pod}: {what}"), 0));
    }
}

fn text(items: &[Item]) -> anyhow::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2).ansi(true);
    writeln!(table, "POD\tSTATE\tACTION")?;
    for item in items {
        let state = paint(item.state.as_str(), state_colour(item.state));
        writeln!(table, "{}\t{state}\t{}", item.pod, action(item))?;
    }
    let mut out = String::from_utf8(table.into_inner()?)?;
    out += &sentences(items);
    out.push('\n');
    Ok(out)
}

fn action(item: &Item) -> String {
    let (text, colour) = match item.action {
        Action::WouldRepair if item.refused => ("restart: refused now".to_owned(), Colour::Yellow),
        Action::WouldRepair => (way(item.means).to_owned(), Colour::Green),
        Action::Restarted => ("restarted".to_owned(), Colour::Green),
        Action::Repaired if item.means == Some(Means::Heal) => ("healed".to_owned(), Colour::Green),
        Action::Repaired => ("repaired".to_owned(), Colour::Green),
        Action::Failed => ("failed".to_owned(), Colour::Red),
        Action::NotDone => ("not done".to_owned(), Colour::Yellow),
        Action::Withheld => {
            let reason = item.reason.map_or("withheld", |reason| reason.as_str());
            let rule = item.rule.map(|rule| format!(" (rule {rule})"));
            (format!("{reason}{}", rule.unwrap_or_default()), Colour::Yellow)
        }
    };
    paint(&text, colour)
}

/// The way in which a pod is brought back, in the words of `--strategy`.
const fn way(means: Option<Means>) -> &'static str {
    match means {
        Some(Means::Heal) => "heal",
        Some(Means::Toggle) => "toggle",
        Some(Means::Restore) => "restore",
        Some(Means::Evict | Means::Delete) | None => "restart",
    }
}

/// What is said of a pod: what is done or was, and why no gentler way.
fn said(item: &Item) -> String {
    let mut said = item.detail.clone();
    for PassedOver { means, detail, .. } in &item.passed_over {
        let _ = write!(said, " ({} passed over: {detail})", way(Some(*means)));
    }
    if let Some(flag) = item.reason.and_then(nevertheless) {
        let _ = write!(said, "; with {flag} it is repaired nevertheless");
    }
    said
}

/// The flag that sets a rule aside.
const fn nevertheless(why: Withheld) -> Option<&'static str> {
    match why {
        Withheld::Paused => Some("--despite-pause"),
        Withheld::OptedOutPod | Withheld::OptedOutNamespace => Some("--despite-opt-out"),
        Withheld::JobPod => Some("--repair-jobs"),
        _ => None,
    }
}

/// One sentence for each thing that is to be said; pods of which the same is to be said share it.
fn sentences(items: &[Item]) -> String {
    let mut sentences: Vec<(String, Vec<&str>)> = Vec::new();
    let mut places = BTreeMap::new();
    for item in items {
        let said = said(item);
        let place = *places.entry(said.clone()).or_insert(sentences.len());
        match sentences.get_mut(place) {
            Some((_, pods)) => pods.push(&item.pod),
            None => sentences.push((said, vec![&item.pod])),
        }
    }
    let mut out = String::new();
    for (sentence, pods) in sentences {
        let shown = pods
            .iter()
            .take(NAMES_SHOWN)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let more = match pods.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        out.push('\n');
        out += &wrap(&format!("{shown}{more}:"), 0);
        out += &wrap(&format!("{sentence}."), 2);
    }
    out
}

#[cfg(test)]
mod tests {
    use meshmedic_common::policy::Withheld;
    use meshmedic_common::verdict::State;

    use super::*;

    fn item(pod: &str, state: State, action: Action, detail: &str) -> Item {
        Item {
            pod: pod.to_owned(),
            node: "node-a".to_owned(),
            action,
            detail: detail.to_owned(),
            uid: "u".to_owned(),
            state,
            owner: Some("ReplicaSet cart-7d4b".to_owned()),
            rule: None,
            reason: None,
            successor: None,
            means: Some(Means::Evict),
            passed_over: Vec::new(),
            refused: false,
        }
    }

    fn withheld(pod: &str, state: State, why: Withheld) -> Item {
        Item {
            rule: Some(why.rule()),
            reason: Some(why),
            ..item(pod, state, Action::Withheld, why.sentence())
        }
    }

    #[test]
    fn a_plan_and_what_came_of_it_read_as_recorded() {
        let act = "evicted; ReplicaSet cart-7d4b recreates it; budget cart allows 1 now";
        let heal = "istio-cni is asked to enrol it again: resets its 14 open connections; no restart. If that does \
                    not take: evicted; ReplicaSet cart-7d4b recreates it; no disruption budget covers it";
        let plan = [
            Item {
                means: Some(Means::Heal),
                ..item("shop/pay-5c9f-y1", State::Orphan, Action::WouldRepair, heal)
            },
            Item {
                passed_over: vec![PassedOver {
                    means: Means::Heal,
                    reason: Some(Withheld::HealUnsupported),
                    detail: format!("{}: istio-cni 1.24.3", Withheld::HealUnsupported.sentence()),
                }],
                ..item("shop/web-6b7c-z1", State::Orphan, Action::WouldRepair, act)
            },
            item("shop/cart-7d4b-x1", State::Orphan, Action::WouldRepair, act),
            item("shop/cart-7d4b-x2", State::Partial, Action::WouldRepair, act),
            withheld("shop/bare", State::Orphan, Withheld::NothingRecreates),
            withheld("shop/grabber-5f", State::Imposter, Withheld::Imposter),
        ];
        crate::output::assert_golden("repair-plan.txt", &text(&plan).unwrap());
        let done = [
            Item {
                means: Some(Means::Heal),
                ..item(
                    "shop/pay-5c9f-y1",
                    State::Orphan,
                    Action::Repaired,
                    "healed in place, and captured again 0.31s after istio-cni was asked",
                )
            },
            Item {
                successor: Some("shop/cart-7d4b-x3".to_owned()),
                ..item(
                    "shop/cart-7d4b-x1",
                    State::Orphan,
                    Action::Restarted,
                    "evicted; its successor shop/cart-7d4b-x3 is captured",
                )
            },
            item(
                "shop/cart-7d4b-x2",
                State::Partial,
                Action::Failed,
                "evicted; but not verified in time: shop/cart-7d4b-x4 is not enrolled yet",
            ),
            item(
                "shop/late",
                State::Orphan,
                Action::NotDone,
                "earlier repairs failed (--max-failures)",
            ),
            withheld("shop/bare", State::Orphan, Withheld::NothingRecreates),
        ];
        crate::output::assert_golden("repair-done.txt", &text(&done).unwrap());
        let json = serde_json::to_value(&done).unwrap();
        assert_eq!(json[0]["action"], "repaired");
        assert_eq!(json[0]["means"], "heal");
        assert_eq!(json[1]["action"], "restarted");
        assert_eq!(json[3]["action"], "not-done");
        assert_eq!(json[4]["reason"], "nothing-recreates");
        for key in ["pod", "node", "action", "detail"] {
            assert!(json[0][key].is_string(), "{key} is the original's");
        }
    }
}
