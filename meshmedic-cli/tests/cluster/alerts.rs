// SPDX-License-Identifier: Apache-2.0
//! The commands of `docs/alerts.md`, as an operator would run them, in a cluster with an orphan.

use std::collections::BTreeSet;

use meshmedic_lab::need;

use crate::fleet::{await_orphan, install, run};
use crate::world::World;

/// What a program may say of a cluster: all well, a finding, or what could not be known. A wrong call is 2.
const ANSWERS: [i32; 3] = [0, 1, 3];

/// The page's lines to be typed, each once.
fn typed() -> BTreeSet<&'static str> {
    let page = include_str!("../../../docs/alerts.md");
    page.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
}

#[test]
fn every_command_of_the_alerts_page_is_answered_and_changes_nothing() {
    if !need::root("every_command_of_the_alerts_page_is_answered_and_changes_nothing") {
        return;
    }
    let world = World::new(1);
    let pod = world.deployment("cart", 1).remove(0);
    let mut agent = world.ready_agent(&[]);
    install(&world, &agent);
    world.cluster.orphan(&pod).unwrap();
    await_orphan(&mut agent, &pod);
    let values = [
        ("$NAMESPACE", pod.namespace()),
        ("$NODE", "node-a"),
        ("$POD", pod.name()),
    ];
    let mut answered = 0;
    for line in typed() {
        let (program, arguments) = line.split_once(' ').unwrap();
        match program {
            "meshmedic" => {
                let arguments = values.iter().fold(arguments.to_owned(), |line, (name, value)| {
                    line.replace(name, value)
                });
                let arguments: Vec<&str> = arguments.split(' ').collect();
                let (code, text) = run(&world, &arguments);
                assert!(code.is_some_and(|code| ANSWERS.contains(&code)), "{line}\n{text}");
                answered += 1;
            }
            "kubectl" => assert!(
                [" get ", " logs "].iter().any(|verb| line.contains(verb)),
                "{line} may change something"
            ),
            "export" => {}
            _ => panic!("{line} is no command of the page's reader"),
        }
    }
    assert!(answered >= 8, "only {answered} commands of ours");
    assert!(world.is_untouched(&pod));
}
