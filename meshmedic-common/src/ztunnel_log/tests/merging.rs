// SPDX-License-Identifier: Apache-2.0
//! Several logs say together the same in whichever order they come.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    candidates: 3,
    start_failures: 2,
    links: 4,
};

/// Six pods, twice the limit.
fn six() -> PodIndex {
    let mut index = PodIndex::default();
    for number in 0..6 {
        let ip = format!("10.1.0.{number}").parse().unwrap();
        index.insert(pod("shop", &format!("p{number}"), Role::Expected, LONG_AGO), [ip]);
    }
    index
}

/// One line: which pod, what it does, and the second in which it does it; few seconds, so that they often agree.
fn line((number, what, second): (u8, u8, u8)) -> String {
    let (ip, name) = (format!("10.1.0.{number}"), format!("p{number}"));
    let time = format!("2026-11-21T09:00:{second:02}Z");
    match what {
        0 => plaintext()
            .set("src.addr", &format!("{ip}:1"))
            .set("src.workload", &name)
            .at(&time)
            .plain(),
        1 => hbone()
            .set("dst.addr", &format!("{ip}:15008"))
            .set("dst.hbone_addr", &format!("{ip}:80"))
            .set("dst.workload", &name)
            .failed("io error: Connection refused (os error 111)")
            .at(&time)
            .json(),
        2 => hbone().failed("dns: no").at(&time).plain(),
        3 => format!("{time}\terror\tinpod::workloadmanager\tfailed to start proxy: x\tuid={name}"),
        4 => format!("{time}\tinfo\taccess\tconnection complete\tbroken"),
        _ => "something else".to_owned(),
    }
}

fn read(ztunnel: &str, lines: &[(u8, u8, u8)], pods: &PodIndex) -> Findings {
    let mut reader = LogReader::new(ztunnel, pods, LIMITS);
    for spec in lines {
        reader.feed(format!("{}\n", line(*spec)).as_bytes());
        assert!(reader.kept() <= LIMITS.candidates + LIMITS.start_failures);
    }
    reader.finish()
}

#[test]
fn of_too_many_candidates_the_first_stay_and_the_rest_is_counted() {
    let lines: Vec<_> = [5, 4, 3, 2, 1, 0, 5, 5].map(|number| (number, 0, number)).into();
    let findings = read("z", &lines, &six());
    let names: Vec<_> = findings.candidates().keys().map(|id| id.name.as_str()).collect();
    assert_eq!(names, ["p0", "p1", "p2"]);
    assert_eq!(findings.dropped(), 5);
    let lines: Vec<_> = [1, 2, 3, 3].map(|number| (number, 3, 0)).into();
    let findings = read("z", &lines, &six());
    assert_eq!(
        (findings.start_failures().len(), findings.dropped_start_failures()),
        (2, 2)
    );
}

#[test]
fn the_ztunnels_that_are_named_are_few() {
    let pods = six();
    let mut all = Findings::new(LIMITS);
    for node in 0..20 {
        all.merge(read(&format!("z{node:02}"), &[(1, 1, node)], &pods));
    }
    let evidence = &all.candidates().values().next().unwrap().signatures[&Signature::HboneRefused];
    assert_eq!(evidence.tally.count, 20);
    assert_eq!((evidence.ztunnels.len(), evidence.more_ztunnels), (8, true));
    assert_eq!(evidence.tally.first.to_string(), "2026-11-21T09:00:00Z");
    assert_eq!(evidence.tally.last.to_string(), "2026-11-21T09:00:19Z");
    assert!(evidence.tally.sample.contains("09:00:19"));
}

proptest! {
    #[test]
    fn neither_order_nor_grouping_matters(
        logs in prop::collection::vec(prop::collection::vec((0_u8..6, 0_u8..6, 0_u8..9), 0..12), 1..12),
        order in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let pods = six();
        let each: Vec<Findings> = logs
            .iter()
            .enumerate()
            .map(|(node, lines)| read(&format!("z{node:02}"), lines, &pods))
            .collect();
        let merged = |all: &[Findings]| {
            let mut sum = Findings::new(LIMITS);
            all.iter().for_each(|one| sum.merge(one.clone()));
            sum
        };
        let forwards = merged(&each);
        let mut other = each.clone();
        other.rotate_left(order.index(each.len()));
        other.reverse();
        prop_assert_eq!(&merged(&other), &forwards);
        let (left, right) = each.split_at(cut.index(each.len()));
        let (left, mut right) = (merged(left), merged(right));
        right.merge(left);
        prop_assert_eq!(&right, &forwards);

        // Against what one would count by hand.
        let mut counts = std::collections::BTreeMap::<u8, u64>::new();
        for (number, what, _) in logs.iter().flatten() {
            if *what < 2 {
                *counts.entry(*number).or_default() += 1;
            }
        }
        let kept: Vec<(String, u64)> = forwards
            .candidates()
            .iter()
            .map(|(id, c)| (id.name.clone(), c.signatures.values().map(|e| e.tally.count).sum()))
            .collect();
        let want: Vec<(String, u64)> = counts.iter().take(3).map(|(n, c)| (format!("p{n}"), *c)).collect();
        prop_assert_eq!(kept, want);
        prop_assert_eq!(forwards.dropped(), counts.values().skip(3).sum::<u64>());
    }

    #[test]
    fn the_order_of_lines_does_not_matter(
        lines in prop::collection::vec((0_u8..6, 0_u8..6, 0_u8..9), 0..20),
        by in any::<prop::sample::Index>(),
    ) {
        let pods = six();
        let mut other = lines.clone();
        if !other.is_empty() {
            other.rotate_left(by.index(lines.len()));
            other.reverse();
        }
        prop_assert_eq!(read("z", &lines, &pods), read("z", &other, &pods));
    }
}
