// SPDX-License-Identifier: Apache-2.0
//! Several nodes that hear of one another through the record of the cluster's heals.

use std::time::Duration;

use super::super::*;
use super::bench::{Bench, Cni, uid};
use super::{MIXED, without};
use crate::repair::ledger::{Change, Record};
use crate::repair::sabotage::Defence;
use crate::repair::{LeaseKey, Limits, update};
use crate::verdict::State;

/// The healers of these nodes, and the record that they share.
struct Fleet {
    nodes: Vec<Bench>,
    record: Record,
    writes: usize,
}

impl Fleet {
    /// On the first `broken` of them istio-cni is dead. The last one has nothing to do yet.
    fn new(count: usize, broken: usize) -> Self {
        let mut nodes: Vec<Bench> = (0..count).map(|_| Bench::new(&MIXED)).collect();
        for node in nodes.iter_mut().take(broken) {
            node.cni = Cni::Dead;
        }
        let mut fleet = Self {
            nodes,
            record: Record::default(),
            writes: 0,
        };
        fleet
            .last()
            .pods
            .values_mut()
            .for_each(|pod| pod.state = State::Captured);
        fleet
    }

    fn last(&mut self) -> &mut Bench {
        self.nodes.last_mut().unwrap()
    }

    fn open(&self) -> Option<String> {
        let allowance = Limits::DEFAULT.allowance(&LeaseKey::Heals);
        self.record.holds_open(&allowance, self.nodes[0].at().server)
    }

    fn run(&mut self, seconds: u64) {
        let allowance = Limits::DEFAULT.allowance(&LeaseKey::Heals);
        for _ in 0..seconds * 10 {
            let open = self.open();
            for (number, node) in self.nodes.iter_mut().enumerate() {
                node.view.breaker.clone_from(&open);
                node.turn();
                let Some(news) = node.healer.news(node.now) else {
                    continue;
                };
                let change = Change::of_no_repair(news.step(&format!("node-{number}")));
                let (written, _) = update(&mut self.record, &change, &allowance, node.at().server);
                self.writes += usize::from(written);
                node.healer.told(node.now, true);
            }
        }
    }

    /// Whether the last node's pod, lost now, is asked for before long.
    fn begins(&mut self) -> bool {
        self.last().pod(0).state = State::Orphan;
        self.run(60);
        !self.last().asked.is_empty()
    }
}

#[test]
fn three_nodes_that_failed_hold_back_the_others() {
    let run = |broken| {
        let mut fleet = Fleet::new(broken + 1, broken);
        fleet.run(120);
        let begins = fleet.begins();
        (begins, fleet)
    };
    assert!(run(2).0, "two nodes alone are theirs to mend");
    let (begins, mut fleet) = run(3);
    assert!(!begins, "{:?}", fleet.record);
    let withheld = fleet.last().withheld();
    assert!(withheld.contains(&Withheld::HealBreaker), "{withheld:?}");
    // A breaker of heals sets no other way free.
    let below = fleet.last().healer.below(&uid(0));
    assert_eq!(below, Below::Waits(Withheld::HealBreaker));
    assert_eq!(fleet.writes, 3, "on failure alone");
    let said = fleet.open().unwrap();
    assert!(
        said.starts_with("on node-0, node-1, node-2, until 2026-11-29T1"),
        "{said}"
    );
    let stands = without(Defence::Reason(Withheld::HealBreaker), || run(3).0);
    assert!(stands, "the defence is what holds it back");
}

#[test]
fn what_failed_an_hour_ago_holds_nobody_back() {
    let mut fleet = Fleet::new(4, 3);
    fleet.run(120);
    assert!(fleet.open().is_some());
    for node in &mut fleet.nodes {
        node.now = node.now + Duration::from_secs(3600);
    }
    assert_eq!(fleet.open(), None);
    assert!(fleet.begins());
}

#[test]
fn a_fleet_that_is_well_writes_nothing() {
    let mut fleet = Fleet::new(4, 0);
    fleet.run(300);
    assert!(fleet.nodes[..3].iter().all(|node| node.healed() == MIXED.len()));
    assert_eq!((fleet.writes, fleet.record), (0, Record::default()));
}

#[test]
fn a_heal_elsewhere_that_takes_closes_it() {
    let opens = {
        let mut fleet = Fleet::new(4, 3);
        let seconds = (1..300).find(|_| {
            fleet.run(1);
            fleet.open().is_some()
        });
        seconds.unwrap()
    };
    let mut fleet = Fleet::new(4, 3);
    // The last one's pod is asked for just before, and istio-cni has not come to it yet.
    fleet.run(opens - 6);
    fleet.last().cni = Cni::Dead;
    fleet.last().pod(0).state = State::Orphan;
    fleet.run(6);
    assert!(fleet.open().is_some(), "{:?}", fleet.record);
    assert!(!fleet.last().asked.is_empty() && fleet.last().healed() == 0);
    fleet.last().cni = Cni::Works;
    fleet.run(30);
    assert_eq!(fleet.last().healed(), 1, "what is under way goes on");
    assert_eq!(fleet.open(), None, "{:?}", fleet.record);
}

#[test]
fn what_could_not_be_written_is_told_again() {
    let mut bench = Bench::new(&MIXED);
    bench.cni = Cni::Dead;
    bench.run(120);
    let news = bench.healer.news(bench.now);
    assert!(
        matches!(&news, Some(News::Failed(namespaces)) if namespaces.len() == 2),
        "{news:?}"
    );
    assert_eq!(bench.healer.news(bench.now), None, "it is on its way");
    bench.healer.told(bench.now, false);
    assert_eq!(bench.healer.news(bench.now), None, "not at once");
    let later = bench.now + Duration::from_secs(31);
    assert_eq!(bench.healer.news(later), news);
    bench.healer.told(later, true);
    assert_eq!(bench.healer.news(later + Duration::from_secs(60)), None);
}
