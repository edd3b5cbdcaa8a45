// SPDX-License-Identifier: Apache-2.0
//! The healer over a node of the tests' own.

mod bench;
mod chaos;
mod fleet;
mod gates;
mod judge;
mod toggles;

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::policy::Permissions;
use crate::ports::PortSet;
use crate::repair::sabotage::{Defence, OUT};
use crate::verdict::{Redirection, State};
use bench::{Bench, Cni, on, uid};

/// With a defence out.
fn without<T>(defence: Defence, run: impl FnOnce() -> T) -> T {
    OUT.set(Some(defence));
    let result = run();
    OUT.set(None);
    result
}

const MIXED: [(&str, &str); 6] = [
    ("shop", "cart"),
    ("shop", "cart"),
    ("bank", "pay"),
    ("bank", "pay"),
    ("news", "web"),
    ("news", "web"),
];

#[test]
fn an_orphan_is_asked_for_and_proved() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.run(10);
    assert_eq!((bench.asked.len(), bench.healed()), (1, 1), "{:?}", bench.notices);
    assert_eq!(bench.asked[0].1, Attempt::First);
    let took = bench.notices.iter().find_map(|notice| match notice {
        Notice::Healed { took, .. } => Some(*took),
        _ => None,
    });
    let works = bench.takes + Duration::from_millis(500);
    assert!(took.unwrap() <= works, "others wait for its proof: {took:?}");
}

#[test]
fn a_proof_counts_once_though_istio_cni_says_so_later() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.silent = true;
    bench.run(20);
    assert_eq!((bench.asked.len(), bench.healed()), (1, 1), "{:?}", bench.notices);
    assert!(
        !bench.withheld().contains(&Withheld::NotProved),
        "what came back is not told why nothing is done: {:?}",
        bench.notices
    );
}

#[test]
fn a_bypassing_pod_is_asked_for_though_its_listeners_are_there() {
    let bare = |state| {
        let mut bench = Bench::new(&[("shop", "cart")]);
        let pod = bench.pod(0);
        (pod.state, pod.ports) = (state, PortSet::REQUIRED);
        bench.run(10);
        bench
    };
    let bench = bare(State::Bypassing);
    assert_eq!((bench.asked.len(), bench.healed()), (1, 1), "{:?}", bench.notices);
    // The same ports of an orphan are somebody else's.
    assert_eq!(bare(State::Orphan).asked.len(), 0);
}

#[test]
fn an_ask_that_left_a_bypassing_pod_as_it_was_made_nothing_worse() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    let pod = bench.pod(0);
    (pod.state, pod.ports, pod.refused) = (State::Bypassing, PortSet::REQUIRED, true);
    bench.run(60);
    assert!(!bench.asked.is_empty());
    assert_eq!(bench.healed(), 0);
    assert!(
        bench.undone.is_empty(),
        "its rules lead to listeners: {:?}",
        bench.notices
    );
}

#[test]
fn nothing_is_asked_before_the_readings_agree() {
    let first_ask = |bench: &mut Bench| {
        let begin = bench.now;
        while bench.asked.is_empty() {
            bench.turn();
        }
        (bench.now.since(begin), bench.pods[&uid(0)].streak)
    };
    let settled = Duration::from_secs(5);
    let (took, _) = first_ask(&mut Bench::new(&[("shop", "cart")]));
    assert!(took >= settled, "{took:?}");
    assert!(
        took < settled + Care::DEFAULT.confirm,
        "it was read while the node settled: {took:?}"
    );
    let mut bench = Bench::new(&[("shop", "cart")]);
    // Everything has settled long ago, and the pod was lost just now.
    bench.pod(0).state = State::Captured;
    bench.run(20);
    bench.pod(0).state = State::Orphan;
    let (took, streak) = first_ask(&mut bench);
    assert!(took >= Care::DEFAULT.confirm, "{took:?}");
    assert!(streak.unwrap().readings >= 3);
    let hasty = without(Defence::HealConfirm, || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.pod(0).state = State::Captured;
        bench.run(20);
        bench.pod(0).state = State::Orphan;
        first_ask(&mut bench).0
    });
    assert!(
        hasty < Care::DEFAULT.confirm,
        "the defence is what makes it wait: {hasty:?}"
    );
}

#[test]
fn a_pod_that_came_back_is_not_asked_for() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.run(5);
        while bench.fetched == 0 {
            bench.turn();
        }
        // Between the fetch and the last look it is captured again, and lost to view: no reading was had of it since.
        let now = bench.now;
        bench.pod(0).streak = bench.pod(0).streak.map(|streak| Streak {
            last: streak.first,
            ..streak
        });
        bench.pod(0).captured_at = Some(now);
        bench.turn();
        bench.turn();
        bench.asked.len()
    };
    assert_eq!(run(), 0);
}

#[test]
fn only_a_reading_after_the_fetch_is_the_last_one() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        while bench.fetched == 0 {
            bench.turn();
        }
        // No reading comes any more.
        let before = bench.pod(0).streak;
        for _ in 0..20 {
            bench.turn();
            bench.pod(0).streak = before;
        }
        bench.asked.len()
    };
    assert_eq!(run(), 0);
    assert_eq!(
        without(Defence::LastLook, run),
        1,
        "the defence is what holds it back"
    );
}

#[test]
fn after_a_reboot_one_goes_first_and_few_are_outstanding() {
    let pods: Vec<(String, String)> = (0..60)
        .map(|n| (format!("ns{}", n % 6), format!("owner{}", n % 20)))
        .collect();
    let pods: Vec<(&str, &str)> = pods
        .iter()
        .map(|(ns, owner)| (ns.as_str(), owner.as_str()))
        .collect();
    let run = |pods: &[(&str, &str)]| {
        let mut bench = Bench::new(pods);
        let mut before_proof = 0;
        for _ in 0..1200 {
            bench.turn();
            if bench.healed() == 0 {
                before_proof = before_proof.max(bench.asked.len());
            }
        }
        (bench.healed(), bench.most, before_proof)
    };
    let (healed, most, before_proof) = run(&pods);
    assert_eq!(healed, 60);
    assert!(most <= 4, "{most} at once");
    assert_eq!(before_proof, 1, "one canary");
    let (_, most, _) = without(Defence::Outstanding, || run(&pods));
    assert!(most > 4, "the defence is what holds them back: {most}");
    let (_, _, before_proof) = without(Defence::HealCanary, || run(&pods));
    assert!(
        before_proof > 1,
        "the defence is what lets one go first: {before_proof}"
    );
}

#[test]
fn the_canary_is_the_one_with_least_to_lose() {
    let mut bench = Bench::new(&[("shop", "single"), ("shop", "cart"), ("shop", "cart")]);
    while bench.asked.is_empty() {
        bench.turn();
    }
    assert_ne!(bench.asked[0].0, uid(0), "others stand in for the other two");
}

#[test]
fn of_one_owner_a_third_is_asked_for_at_once() {
    let pods = [("shop", "cart"); 6];
    let within_a_gap = || {
        let mut bench = Bench::new(&pods);
        while bench.asked.is_empty() {
            bench.turn();
        }
        bench.run(9);
        bench.asked.len()
    };
    assert_eq!(within_a_gap(), 2);
    assert_eq!(without(Defence::OwnerShare, within_a_gap), 6);
    let mut bench = Bench::new(&pods);
    bench.run(60);
    assert_eq!(bench.healed(), 6, "all in the end");
}

#[test]
fn a_stale_cache_is_cured_by_a_second_ask() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).stale = true;
    bench.run(20);
    let attempts: Vec<_> = bench.asked.iter().map(|(_, attempt)| *attempt).collect();
    assert_eq!(attempts, [Attempt::First, Attempt::Second]);
    assert_eq!(bench.healed(), 1, "{:?}", bench.notices);
}

#[test]
fn with_istio_cni_broken_two_pods_are_touched_and_no_more() {
    let touched = || {
        let mut bench = Bench::new(&MIXED);
        bench.cni = Cni::Dead;
        bench.run(600);
        let touched: BTreeSet<_> = bench.asked.iter().map(|(uid, _)| uid.clone()).collect();
        (
            touched.len(),
            bench.notices.contains(&Notice::Stopped),
            bench.withheld(),
        )
    };
    let (count, stopped, withheld) = touched();
    assert_eq!((count, stopped), (2, true));
    assert!(withheld.contains(&Withheld::HealStopped));
    // What did not take on this node leaves the others to the next rung's own canary.
    let mut bench = Bench::new(&MIXED);
    bench.cni = Cni::Dead;
    bench.run(600);
    assert!(
        MIXED
            .iter()
            .enumerate()
            .all(|(number, _)| matches!(bench.healer.below(&uid(number)), Below::May(_)))
    );
}

#[test]
fn no_tenant_stops_the_others() {
    let pods = [
        ("evil", "a"),
        ("evil", "b"),
        ("evil", "c"),
        ("shop", "cart"),
        ("bank", "pay"),
    ];
    let run = || {
        let mut bench = Bench::new(&pods);
        for number in 0..3 {
            bench.pod(number).refused = true;
        }
        bench.run(120);
        let captured = (3..5)
            .filter(|number| bench.pods[&uid(*number)].state == State::Captured)
            .count();
        let evil = bench
            .asked
            .iter()
            .filter(|(asked, _)| (0..3).any(|number| *asked == uid(number)))
            .count();
        (captured, evil, bench.notices.contains(&Notice::Stopped))
    };
    let (captured, _, stopped) = run();
    assert_eq!((captured, stopped), (2, false));
}

#[test]
fn after_one_that_did_not_take_something_must_show_that_istio_cni_works() {
    let pods = [("shop", "cart"), ("shop", "cart"), ("shop", "cart")];
    let touched = || {
        let mut bench = Bench::new(&pods);
        bench.cni = Cni::Dead;
        bench.run(120);
        let touched: BTreeSet<_> = bench.asked.iter().map(|(uid, _)| uid.clone()).collect();
        touched.len()
    };
    assert_eq!(touched(), 1, "of one owner one is enough to learn from");
    assert_eq!(without(Defence::Feedback, touched), 3);
}

#[test]
fn a_slow_istio_cni_fails_nobody() {
    let mut bench = Bench::new(&MIXED);
    bench.takes = Duration::from_secs(7);
    bench.run(240);
    assert_eq!(
        (bench.healed(), bench.failures().len()),
        (6, 0),
        "{:?}",
        bench.failures()
    );
}

#[test]
fn the_same_is_not_asked_again_until_something_changed() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).believed = true;
    bench.run(120);
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.failures(), [Diagnosis::Believed]);
    assert_eq!(bench.healer.below(&uid(0)), Below::May(Some(Diagnosis::Believed)));
    // Another agent knows it from the pod alone.
    let standing = bench.pod(0).standing.clone();
    let mut other = Bench::new(&[("shop", "cart")]);
    other.pod(0).standing = standing;
    other.run(60);
    assert_eq!(other.asked.len(), 0, "{:?}", other.asked);
    // Another ztunnel believes nothing yet.
    bench.view.containers.1 = Some("z2".to_owned());
    bench.pod(0).believed = false;
    bench.run(60);
    assert_eq!((bench.asked.len(), bench.healed()), (2, 1));
}

#[test]
fn after_a_crash_it_goes_on_from_what_the_pod_says() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.cni = Cni::Dead;
    while bench.asked.is_empty() {
        bench.turn();
    }
    bench.healer = Healer::new(Healing {
        permissions: on(),
        care: Care::DEFAULT,
        toggle: false,
    })
    .alone();
    while bench.healer.progress(&uid(0)) != Some(Progress::Asked) {
        bench.turn();
    }
    bench.cni = Cni::Works;
    bench.run(20);
    assert_eq!(bench.asked.len(), 1, "it was asked for already");
    assert_eq!(bench.healed(), 1, "{:?}", bench.notices);
}

#[test]
fn what_was_made_worse_is_taken_back() {
    let run = || {
        let mut bench = Bench::new(&[("shop", "cart")]);
        bench.pod(0).refused = true;
        bench.run(60);
        bench.undone.len()
    };
    assert_eq!(run(), 1);
    assert_eq!(
        without(Defence::Undo, run),
        0,
        "the defence is what takes it back"
    );
    // Rules that were there before were not our doing.
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.pod(0).refused = true;
    bench.pod(0).redirection = Redirection::Routed;
    bench.run(60);
    assert!(bench.undone.is_empty());
    assert_eq!(bench.failures(), [Diagnosis::Refused]);
}

#[test]
fn a_ztunnel_that_falls_after_an_ask_stops_everything() {
    let mut bench = Bench::new(&MIXED);
    for number in 0..6 {
        bench.pod(number).refused = true;
    }
    while bench.asked.is_empty() {
        bench.turn();
    }
    bench.view.gates.node_fault = Some("ztunnel is not Ready on this node".to_owned());
    bench.view.ztunnel_since = None;
    bench.run(60);
    assert_eq!(bench.asked.len(), 1);
    assert_eq!(bench.failures(), [Diagnosis::ZtunnelFell]);
    assert_eq!(bench.undone.len(), 1);
}

#[test]
fn readiness_delays_no_heal() {
    let permissions = Permissions { stuck: false, ..on() };
    let mut bench = Bench::with(permissions, &[("shop", "cart")]);
    bench.pod(0).standing.facts.ready = false;
    bench.run(30);
    assert_eq!(bench.healed(), 1);
}

#[test]
fn with_repairs_off_it_only_says_what_it_would_do() {
    let off = Permissions {
        ready: false,
        stuck: false,
        ..on()
    };
    let mut bench = Bench::with(off, &[("shop", "cart")]);
    bench.run(60);
    assert!(bench.asked.is_empty() && bench.fetched == 0);
    let would = bench
        .notices
        .iter()
        .filter(|notice| matches!(notice, Notice::Would { .. }));
    assert_eq!(would.count(), 1, "{:?}", bench.notices);
}

#[test]
fn a_pod_that_changes_is_judged_and_asked_again() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.conflicts = 3;
    bench.run(30);
    assert_eq!((bench.healed(), bench.fetched), (1, 4));
}

#[test]
fn a_right_that_is_missing_restarts_nothing() {
    let mut bench = Bench::new(&MIXED);
    bench.answer = Some(Asked::NotPermitted("pods/status is forbidden".to_owned()));
    bench.run(60);
    assert!(bench.healer.not_permitted().next().is_some());
    assert_eq!(bench.failures(), []);
    for number in 0..6 {
        assert!(
            matches!(bench.healer.below(&uid(number)), Below::Waits(_)),
            "{number}"
        );
    }
    // Where it is there pods are healed, whatever holds elsewhere.
    let mut forbidden: Vec<String> = bench
        .healer
        .not_permitted()
        .map(|(of, _)| of.to_owned())
        .collect();
    assert!(forbidden.len() > 1, "{forbidden:?}");
    bench.answer = None;
    let last = forbidden.pop().unwrap();
    for namespace in &forbidden {
        bench.healer.permit(namespace, Ok(()));
    }
    bench.run(60);
    let of_last = MIXED.iter().filter(|(namespace, _)| *namespace == last).count();
    assert_eq!(bench.healed(), 6 - of_last);
    bench.healer.permit(&last, Ok(()));
    bench.run(60);
    assert_eq!(bench.healed(), 6);
}

#[test]
fn what_is_being_healed_is_left_to_it() {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.cni = Cni::Dead;
    while bench.asked.is_empty() {
        bench.turn();
        assert!(matches!(bench.healer.below(&uid(0)), Below::Waits(_)));
    }
    assert_eq!(bench.healer.progress(&uid(0)), Some(Progress::Asked));
    bench.run(30);
    assert_eq!(
        bench.healer.progress(&uid(0)),
        Some(Progress::Failed(Diagnosis::NotTakenUp))
    );
}
