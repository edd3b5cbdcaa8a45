// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use meshmedic_common::kube::control::Pause;
use meshmedic_common::report::NodeReport;
use serde_json::{Value, json};

use super::*;
use crate::output::assert_golden;
use crate::status::answers;
use crate::watch::Args;
use crate::ways::Fleet;

const NOW: &str = "2026-01-01T01:00:00Z";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(words: &[&str]) -> Args {
    let words = std::iter::once("watch").chain(words.iter().copied());
    <Line as clap::Parser>::parse_from(words).args
}

fn pod(at: usize, name: &str, state: &str, more: Value) -> Value {
    let mut pod = json!({
        "namespace": "shop", "name": name, "uid": format!("0a1b2c3d-1111-2222-3333-{at:012}"), "state": state,
        "ports": [], "redirection": "unknown", "flaps": 0, "since": "2026-01-01T00:59:30Z",
    });
    let Value::Object(more) = more else {
        panic!("{more}")
    };
    pod.as_object_mut().unwrap().extend(more);
    pod
}

fn node(name: &str, pods: &[Value]) -> (String, Result<NodeReport, String>) {
    let report = json!({
        "apiVersion": "meshmedic.io/v1", "kind": "NodeReport", "node": name, "version": "0.1.0", "trigger": "ebpf",
        "at": NOW, "conditions": [], "ztunnel": [7], "pods": pods,
    });
    let report = NodeReport::read(report.to_string().as_bytes()).unwrap();
    (name.to_owned(), Ok(report))
}

fn view(words: &[&str], reports: BTreeMap<String, Result<NodeReport, String>>, pause: Option<Pause>) -> View {
    let fleet = Fleet {
        reports,
        ..Fleet::default()
    };
    View::of(&args(words), answers(fleet, &[], pause), NOW.parse().unwrap())
}

/// An orphan that is healed, one that is left alone, a suspect, and a pod that has just come back.
fn busy() -> BTreeMap<String, Result<NodeReport, String>> {
    let back = json!([
        { "at": "2026-01-01T00:59:00Z", "from": "unverifiable", "to": "captured" },
        { "at": "2026-01-01T00:59:40Z", "from": "captured", "to": "suspect" },
        { "at": "2026-01-01T00:59:50Z", "from": "suspect", "to": "orphan" },
        { "at": "2026-01-01T00:59:51.5Z", "from": "orphan", "to": "captured" },
    ]);
    let rule =
        json!({ "state": "withheld", "reason": "paused", "rule": 2, "sentence": "repairs are paused" });
    [
        node(
            "node-a",
            &[
                pod(1, "cart-7d4b9c-x1", "captured", json!({ "transitions": back })),
                pod(
                    2,
                    "cart-7d4b9c-x2",
                    "orphan",
                    json!({ "heal": { "state": "asked" } }),
                ),
                pod(
                    3,
                    "pay-5f6c7d-a-name-that-is-longer-than-its-column",
                    "orphan",
                    json!({ "repair": rule }),
                ),
                pod(4, "web-0", "suspect", json!({ "reason": "confirming" })),
            ],
        ),
        node("node-b", &[pod(5, "web-1", "captured", json!({}))]),
        ("node-c".to_owned(), Err("no answer within 10s".to_owned())),
    ]
    .into()
}

fn text(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn drawn(view: &View, ui: &mut Ui, columns: usize, lines: usize) -> Vec<String> {
    let drawn = draw(view, ui, NOW.parse().unwrap(), columns, lines);
    assert!(drawn.len() <= lines, "{drawn:#?}");
    for line in &drawn {
        assert!(line.chars().count() <= columns, "{line:?}");
    }
    drawn
}

#[test]
fn a_busy_fleet_reads_as_recorded() {
    let pause = Pause {
        reason: "the mesh is being upgraded".to_owned(),
        by: Some("ann@desk".to_owned()),
        since: None,
    };
    let view = view(&[], busy(), Some(pause));
    assert_golden("watch.txt", &text(&drawn(&view, &mut Ui::default(), 80, 24)));
}

#[test]
fn it_fits_every_terminal_with_none_one_and_a_thousand_nodes() {
    let many = (0..1_000).map(|at| {
        let state = if at % 3 == 0 { "orphan" } else { "captured" };
        node(
            &format!("node-{at:04}"),
            &[pod(at, &format!("web-{at}"), state, json!({}))],
        )
    });
    for reports in [BTreeMap::new(), busy(), many.collect()] {
        let view = view(&[], reports, None);
        for (columns, lines) in [(1, 1), (39, 50), (40, 12), (80, 24), (200, 50), (500, 300)] {
            drawn(&view, &mut Ui::default(), columns, lines);
        }
    }
}

#[test]
fn a_thousand_nodes_are_told_by_those_that_are_unwell() {
    let mut reports: BTreeMap<_, _> = (0..1_000).map(|at| node(&format!("node-{at:04}"), &[])).collect();
    reports.insert("node-0500".to_owned(), Err("no answer".to_owned()));
    let view = view(&[], reports, None);
    let text = text(&drawn(&view, &mut Ui::default(), 80, 24));
    assert!(text.contains("999 of 1000 agents answer"), "{text}");
    let first = text.lines().nth(3).unwrap();
    assert!(first.contains("node-0500") && first.contains("silent"), "{text}");
    assert!(text.contains("and 997 more nodes, 997 of them well"), "{text}");
}

#[test]
fn keys_choose_filter_and_open() {
    let view = view(&[], busy(), None);
    let mut ui = Ui::default();
    assert_eq!(ui.press(&view, Key::ArrowDown), Asked::Nothing);
    let text_of = |ui: &mut Ui| text(&drawn(&view, ui, 80, 24));
    assert!(
        text_of(&mut ui).contains("> shop/pay-5f6c7d"),
        "the second is chosen"
    );
    // Past the last one stays the last one.
    for _ in 0..9 {
        ui.press(&view, Key::ArrowDown);
    }
    assert!(text_of(&mut ui).contains("> shop/web-0"));
    for key in ['/', 'c', 'a', 'r', 't'] {
        assert_eq!(ui.press(&view, Key::Char(key)), Asked::Nothing);
    }
    let filtered = text_of(&mut ui);
    assert!(
        filtered.contains("> shop/cart-7d4b9c-x2") && !filtered.contains("pay-5f6c7d"),
        "{filtered}"
    );
    // A letter that is a command elsewhere is a letter here.
    ui.press(&view, Key::Char('q'));
    ui.press(&view, Key::Backspace);
    ui.press(&view, Key::Enter);
    let asked = ui.press(&view, Key::Enter);
    assert_eq!(asked, Asked::Story("shop/cart-7d4b9c-x2".to_owned()));
    assert!(text_of(&mut ui).contains("reading shop/cart-7d4b9c-x2"));
    ui.tell("shop/other", "of another pod\n");
    assert!(!text_of(&mut ui).contains("of another pod"));
    let story: String = (0..40).map(|line| format!("line {line}\n")).collect();
    ui.tell("shop/cart-7d4b9c-x2", &story);
    for _ in 0..99 {
        ui.press(&view, Key::ArrowDown);
    }
    assert!(text_of(&mut ui).contains("line 39\nEsc back"));
    assert_eq!(ui.press(&view, Key::Escape), Asked::Nothing);
    ui.press(&view, Key::Escape);
    assert!(text_of(&mut ui).contains("pay-5f6c7d"), "the filter is dropped");
    assert_eq!(ui.press(&view, Key::Char('q')), Asked::End);
}

#[test]
fn only_the_wanted_namespaces_are_shown() {
    let elsewhere = view(&["-n", "till"], busy(), None);
    let text = text(&drawn(&elsewhere, &mut Ui::default(), 80, 24));
    assert!(!text.contains("shop/"), "{text}");
    let here = view(&["-n", "till", "-n", "shop"], busy(), None);
    assert_eq!(here.status.unwell.len(), 3);
}

#[test]
fn a_round_that_failed_is_told_and_what_was_known_stays() {
    let view = view(&[], busy(), None);
    let mut ui = Ui {
        trouble: Some("the API server does not answer".to_owned()),
        ..Ui::default()
    };
    let text = text(&drawn(&view, &mut ui, 80, 24));
    assert!(text.contains("last round failed: the API server does not answer"));
    assert!(text.contains("shop/cart-7d4b9c-x2"));
}
