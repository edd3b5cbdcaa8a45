// SPDX-License-Identifier: Apache-2.0
//! The second rung: what an ask cannot cure since somebody remembers what is not so.

use super::super::*;
use super::bench::{Bench, on, uid};
use crate::verdict::{Redirection, State};

/// A node on which ztunnel believes that it serves one of its pods.
fn believed(toggle: bool) -> Bench {
    let mut bench = Bench::new(&[("shop", "cart")]);
    bench.healer = Healer::new(Healing {
        permissions: on(),
        care: Care::DEFAULT,
        toggle,
    })
    .alone();
    // Its rules are left, so what an ask writes makes nothing worse.
    (bench.pod(0).believed, bench.pod(0).redirection) = (true, Redirection::Routed);
    bench
}

fn toggled(bench: &Bench) -> usize {
    let toggled = |notice: &&Notice| matches!(notice, Notice::Toggled { .. });
    bench.notices.iter().filter(toggled).count()
}

#[test]
fn what_ztunnel_believes_is_toggled_where_that_is_allowed() {
    let mut bench = believed(true);
    bench.run(60);
    assert_eq!(bench.failures(), [Diagnosis::Believed]);
    assert_eq!(
        (toggled(&bench), bench.pod(0).state),
        (1, State::Captured),
        "{:?}",
        bench.notices
    );
    assert_eq!((bench.asked.len(), bench.put_back.len()), (1, 1));

    let mut bench = believed(false);
    bench.run(60);
    assert!(bench.undone.is_empty());
    assert_eq!(bench.healer.below(&uid(0)), Below::May(Some(Diagnosis::Believed)));
}

#[test]
fn a_pod_that_leaves_only_heals_is_not_toggled() {
    let mut bench = believed(true);
    bench.pod(0).standing.facts.strategy = Some("heal,restart".to_owned());
    bench.run(60);
    assert!(bench.undone.is_empty());
    assert_eq!(bench.healer.below(&uid(0)), Below::May(Some(Diagnosis::Believed)));
}

#[test]
fn a_label_is_put_back_only_while_ztunnel_is_proved_to_serve() {
    let mut bench = believed(true);
    while bench.undone.is_empty() {
        bench.turn();
    }
    bench.view.serving = Serving::Unproven;
    bench.run(120);
    assert!(bench.put_back.is_empty(), "its rules would lead nowhere");
    bench.view.serving = Serving::Captures;
    bench.run(20);
    assert_eq!(
        (bench.put_back.len(), toggled(&bench)),
        (1, 1),
        "{:?}",
        bench.notices
    );
}

#[test]
fn a_toggle_that_does_not_take_goes_to_the_next_rung_and_is_not_repeated() {
    let mut bench = believed(true);
    while bench.undone.is_empty() {
        bench.turn();
    }
    bench.pod(0).believed = true;
    bench.run(120);
    let failed = |notice: &&Notice| matches!(notice, Notice::ToggleFailed { .. });
    assert_eq!(
        bench.notices.iter().filter(failed).count(),
        1,
        "{:?}",
        bench.notices
    );
    assert_eq!(bench.healer.below(&uid(0)), Below::May(Some(Diagnosis::Believed)));
    let begun = |notice: &&Notice| matches!(notice, Notice::Toggling { .. });
    assert_eq!(bench.notices.iter().filter(begun).count(), 1);
}
