// SPDX-License-Identifier: Apache-2.0

use std::time::Duration;

use meshmedic_common::report::{BreakerReport, BreakerScope, NodeReport};
use meshmedic_common::uid::PodUid;

use super::*;
use meshmedic_common::repair::PodRef;
use meshmedic_common::repair::ledger::{More, Proof};

fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.text_at(Time::from_nanos(60_000_000_000));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))?;
    line.parse().ok()
}

#[track_caller]
fn assert_value(metrics: &Metrics, series: &str, expected: f64) {
    let found = value(metrics, series);
    assert_eq!(found, Some(expected), "{series}\n{}", metrics.text());
}

fn report(pods: &[&str], conditions: &str) -> NodeReport {
    let pods = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| {
            format!(r#"{{"uid":"5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c{n:02}","ports":[],"flaps":0,{pod}}}"#)
        })
        .collect::<Vec<_>>()
        .join(",");
    let report = format!(
        r#"{{"apiVersion":"meshmedic.io/v1","kind":"NodeReport","node":"n","version":"0","trigger":"ebpf",
            "conditions":[{conditions}],"ztunnel":[],"pods":[{pods}]}}"#
    );
    NodeReport::read(report.as_bytes()).unwrap()
}

fn pod() -> PodRef {
    PodRef {
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        uid: "u".to_owned(),
        cgroup_uid: PodUid::parse("5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11").unwrap(),
    }
}

/// Counts every series once, and holds what is exposed against what is described.
#[test]
fn what_is_exposed_is_what_is_described() {
    let metrics = Metrics::new();
    metrics.node(&report(
        &[r#""state":"unverifiable","reason":"gone","redirection":"unknown""#],
        "",
    ));
    metrics.repair(&ended(Outcome::Unproven, false));
    metrics.repair(&withheld(Withheld::Cooldown, true));
    metrics.watch_heard(Resource::Pods, Time::from_nanos(0));
    let text = metrics.text();
    for metric in metrics.described() {
        let kind = format!("\n# TYPE {} {}\n", metric.name, metric.kind.as_str());
        assert!(text.contains(&kind), "{kind}{text}");
        let (name, suffix) = match metric.kind {
            Kind::Histogram => (metric.name, "_count"),
            _ => (metric.name, ""),
        };
        let series = text
            .lines()
            .find(|line| {
                line.starts_with(&format!("{name}{suffix}{{"))
                    || line.starts_with(&format!("{name}{suffix} "))
            })
            .unwrap_or_else(|| panic!("{name} has no series\n{text}"));
        let labels = series
            .split_once('{')
            .map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        let names: Vec<&str> = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .map(|label| label.split_once('=').unwrap().0)
            .collect();
        assert_eq!(names, metric.labels, "{series}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(
        types,
        metrics.described().len(),
        "nothing is exposed that is not described"
    );
    assert!(!text.contains("# EOF"), "{text}");
}

#[test]
fn the_names_of_the_original_are_kept_from_the_first_scrape_on() {
    let metrics = Metrics::new();
    for series in [
        "meshmedic_orphans_total",
        "meshmedic_orphans_ready",
        "meshmedic_orphans_not_ready",
        "meshmedic_orphans_stuck",
        "meshmedic_orphans_repaired_total{class=\"ready\"}",
        "meshmedic_orphans_repaired_total{class=\"stuck\"}",
        "meshmedic_sweeps_total",
        "meshmedic_sweep_errors_total",
    ] {
        assert_value(&metrics, series, 0.0);
    }
    metrics.counters(&Counters {
        sweeps: 1,
        sweep_errors: 1,
        ..Counters::default()
    });
    assert_value(&metrics, "meshmedic_sweeps_total", 1.0);
    assert_value(&metrics, "meshmedic_sweep_errors_total", 1.0);
}

#[test]
fn gauges_follow_the_report() {
    let metrics = Metrics::new();
    metrics.node(&report(
        &[
            r#""state":"orphan","redirection":"routed","ready":true,"rules":{"verdict":"present",
                "ipv4":{"verdict":"present"},"ipv6":{"verdict":"present"}}"#,
            r#""state":"partial","redirection":"routed","ready":false,"stuck":true"#,
            r#""state":"imposter","redirection":"routed""#,
            r#""state":"suspect","redirection":"routed","reason":"confirming""#,
            r#""state":"captured","redirection":"absent""#,
            r#""state":"captured","redirection":"routed","rules":{"verdict":"present","ipv4":{"verdict":"present"},
                "ipv6":{"verdict":"absent"}}"#,
            r#""state":"bypassing","redirection":"routed","rules":{"verdict":"absent","ipv4":{"verdict":"absent"},
                "ipv6":{"verdict":"absent"}}"#,
            r#""state":"captured","redirection":"routed","rules":{"verdict":"of-a-newer-agent"},
                "connections":{"verdict":"of-a-newer-agent"}"#,
            r#""state":"exempt","redirection":"routed","connections":{"verdict":"past","opened":40,"takenOutbound":0,
                "accepted":0,"takenInbound":0,"untaken":40,"untakenSeconds":30}"#,
            r#""state":"exempt","redirection":"routed","connections":{"verdict":"unknown","reason":"too-many-pods",
                "opened":0,"takenOutbound":0,"accepted":0,"takenInbound":0,"untaken":0,"untakenSeconds":0}"#,
            r#""state":"unverifiable","redirection":"unknown","reason":"denied-by-lsm""#,
        ],
        r#"{"condition":"node-fault","detail":"d"}"#,
    ));
    for (series, expected) in [
        ("meshmedic_orphans_total", 4.0),
        ("meshmedic_orphans_ready", 1.0),
        ("meshmedic_orphans_not_ready", 1.0),
        ("meshmedic_orphans_stuck", 1.0),
        ("meshmedic_suspects", 1.0),
        ("meshmedic_pods{state=\"captured\"}", 3.0),
        ("meshmedic_pods{state=\"bypassing\"}", 1.0),
        ("meshmedic_pods_rules{verdict=\"present\"}", 1.0),
        ("meshmedic_pods_rules{verdict=\"absent\"}", 1.0),
        ("meshmedic_pods_rules{verdict=\"unknown\"}", 0.0),
        ("meshmedic_pods_connections{verdict=\"through\"}", 0.0),
        ("meshmedic_pods_connections{verdict=\"past\"}", 1.0),
        ("meshmedic_pods_connections{verdict=\"unknown\"}", 1.0),
        ("meshmedic_pods_uncounted", 1.0),
        ("meshmedic_pods_unredirected", 1.0),
        ("meshmedic_pods_unverifiable{reason=\"denied-by-lsm\"}", 1.0),
        ("meshmedic_node_fault", 1.0),
        ("meshmedic_condition{condition=\"node-fault\"}", 1.0),
        ("meshmedic_condition{condition=\"paused\"}", 0.0),
        ("meshmedic_trigger_mode{mode=\"ebpf\"}", 1.0),
        ("meshmedic_trigger_mode{mode=\"poll\"}", 0.0),
    ] {
        assert_value(&metrics, series, expected);
    }
    metrics.node(&report(&[], ""));
    for series in [
        "meshmedic_orphans_total",
        "meshmedic_orphans_stuck",
        "meshmedic_pods{state=\"captured\"}",
        "meshmedic_pods_unverifiable{reason=\"denied-by-lsm\"}",
        "meshmedic_node_fault",
    ] {
        assert_value(&metrics, series, 0.0);
    }
}

#[test]
fn open_breakers_are_counted_by_what_they_stand_for() {
    let metrics = Metrics::new();
    for scope in ["owner", "node", "cluster"] {
        assert_value(
            &metrics,
            &format!("meshmedic_breakers_open{{scope=\"{scope}\"}}"),
            0.0,
        );
    }
    let breaker = |scope| BreakerReport {
        scope,
        name: None,
        failures: 2,
        until: None,
    };
    let mut report = report(&[], "");
    report.breakers = vec![
        breaker(BreakerScope::Owner),
        breaker(BreakerScope::Owner),
        breaker(BreakerScope::Node),
    ];
    metrics.node(&report);
    assert_value(&metrics, "meshmedic_breakers_open{scope=\"owner\"}", 2.0);
    assert_value(&metrics, "meshmedic_breakers_open{scope=\"node\"}", 1.0);
    report.breakers.clear();
    metrics.node(&report);
    assert_value(&metrics, "meshmedic_breakers_open{scope=\"owner\"}", 0.0);
}

#[test]
fn delays_and_flaps_are_told_by_transitions() {
    let metrics = Metrics::new();
    let go = |from: Option<State>, to: State, since_ms: u64| {
        metrics.event(&Event::Notice(Notice::Pod(Transition {
            uid: pod().cgroup_uid,
            from,
            to,
            reason: None,
            at: Time::from_nanos(20_000_000_000),
            since: Time::from_nanos(20_000_000_000) - Duration::from_millis(since_ms),
        })));
    };
    go(None, State::Orphan, 1);
    go(Some(State::Captured), State::Suspect, 3);
    go(Some(State::Suspect), State::Suspect, 4);
    go(Some(State::Suspect), State::Captured, 5);
    go(Some(State::Suspect), State::Orphan, 12_000);
    go(Some(State::Orphan), State::Captured, 15_000);
    let delay = "meshmedic_detection_delay_seconds";
    assert_value(&metrics, &format!("{delay}_count{{state=\"suspect\"}}"), 1.0);
    assert_value(
        &metrics,
        &format!("{delay}_bucket{{le=\"0.002\",state=\"suspect\"}}"),
        0.0,
    );
    assert_value(
        &metrics,
        &format!("{delay}_bucket{{le=\"0.005\",state=\"suspect\"}}"),
        1.0,
    );
    assert_value(&metrics, &format!("{delay}_sum{{state=\"orphan\"}}"), 12.0);
    assert_value(&metrics, "meshmedic_flaps_total", 1.0);
}

#[test]
fn what_the_kernel_lost_is_counted_once() {
    let metrics = Metrics::new();
    for records_lost in [3, 3, 5] {
        metrics.counters(&Counters {
            records_lost,
            ..Counters::default()
        });
    }
    assert_value(&metrics, "meshmedic_events_lost_total", 5.0);
    metrics.event(&Event::KernelFailed("gone".to_owned()));
    assert_value(&metrics, "meshmedic_kernel_failures_total", 1.0);
}

#[test]
fn readings_are_told_apart() {
    let metrics = Metrics::new();
    for _ in 0..2 {
        metrics.counters(&Counters {
            complete: 1,
            partial: 1,
            none: 1,
            unreadable: 1,
            ..Counters::default()
        });
    }
    for result in READINGS {
        assert_value(
            &metrics,
            &format!("meshmedic_readings_total{{result=\"{result}\"}}"),
            1.0,
        );
    }
}

#[test]
fn the_time_spent_on_looking_is_counted_in_seconds() {
    let metrics = Metrics::new();
    for looking in [500, 1_500] {
        metrics.counters(&Counters {
            looking: Duration::from_millis(looking),
            ..Counters::default()
        });
    }
    assert_value(&metrics, "meshmedic_looking_seconds_total", 1.5);
}

fn ended(outcome: Outcome, stuck: bool) -> RepairNotice {
    RepairNotice::Ended {
        pod: pod(),
        outcome,
        took: Duration::ZERO,
        stuck,
    }
}

fn withheld(why: Withheld, shadow: bool) -> RepairNotice {
    RepairNotice::Withheld {
        pod: pod(),
        why,
        detail: None,
        shadow,
    }
}

fn started(means: Means) -> RepairNotice {
    RepairNotice::Started {
        pod: pod(),
        means,
        stuck: false,
    }
}

#[test]
fn repairs_are_counted_by_what_was_done_and_what_came_of_it() {
    let metrics = Metrics::new();
    let proof = Proof {
        pod: "shop/cart-2".to_owned(),
        uid: "v".to_owned(),
        node: "n".to_owned(),
        captured: true,
        at: jiff::Timestamp::UNIX_EPOCH,
        more: More::default(),
    };
    metrics.repair(&started(Means::Evict));
    metrics.repair(&ended(Outcome::Succeeded(proof), false));
    metrics.repair(&started(Means::Delete));
    metrics.repair(&ended(Outcome::InDoubt(String::new()), true));
    // Begun by an agent that ended since.
    metrics.repair(&ended(Outcome::Unproven, true));
    // The API refused what had been begun, and later it is another agent's turn.
    metrics.repair(&started(Means::Delete));
    metrics.repair(&withheld(Withheld::DisruptionBudget, false));
    metrics.repair(&ended(Outcome::Unproven, true));
    metrics.repair(&withheld(Withheld::DetectOnly, true));
    metrics.repair(&RepairNotice::Would { pod: pod() });
    metrics.repairs_in_flight(2);
    for (series, expected) in [
        (
            "meshmedic_repairs_total{action=\"evict\",result=\"succeeded\"}",
            1.0,
        ),
        (
            "meshmedic_repairs_total{action=\"delete\",result=\"in-doubt\"}",
            1.0,
        ),
        (
            "meshmedic_repairs_total{action=\"unknown\",result=\"unproven\"}",
            2.0,
        ),
        ("meshmedic_orphans_repaired_total{class=\"ready\"}", 1.0),
        ("meshmedic_orphans_repaired_total{class=\"stuck\"}", 2.0),
        (
            "meshmedic_repairs_withheld_total{rule=\"5\",reason=\"disruption-budget\",shadow=\"false\"}",
            1.0,
        ),
        (
            "meshmedic_repairs_withheld_total{rule=\"1\",reason=\"detect-only\",shadow=\"true\"}",
            1.0,
        ),
        ("meshmedic_repairs_would_total", 1.0),
        ("meshmedic_repairs_in_flight", 2.0),
    ] {
        assert_value(&metrics, series, expected);
    }
}

#[test]
fn a_watch_grows_old_even_if_nobody_says_so() {
    let metrics = Metrics::new();
    metrics.watch_heard(Resource::Pods, Time::from_nanos(15_000_000_000));
    assert_value(&metrics, "meshmedic_watch_age_seconds{resource=\"pods\"}", 45.0);
}

#[test]
fn every_rule_has_its_name() {
    for why in Withheld::ALL {
        assert_eq!(rule_name(*why), why.rule().to_string());
    }
}
