// SPDX-License-Identifier: Apache-2.0
//! Alerts and dashboard: that every metric they name exists, and that the alerts fire when they should.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use meshmedic_agent::status::metrics::{Kind, Metrics};
use meshmedic_lab::need;
use serde_json::Value;

use crate::files::{objects, read};

/// Every series that an agent may expose, with its labels.
fn series() -> BTreeMap<String, Vec<&'static str>> {
    let mut series = BTreeMap::new();
    for metric in Metrics::new().described() {
        let labels = metric.labels.to_vec();
        if metric.kind == Kind::Histogram {
            for suffix in ["_bucket", "_sum", "_count"] {
                series.insert(format!("{}{suffix}", metric.name), labels.clone());
            }
        } else {
            series.insert(metric.name.to_owned(), labels);
        }
    }
    series
}

/// The words of ours in an expression.
fn named(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("meshmedic_")).collect()
}

fn rule() -> Value {
    objects("kustomize/monitoring/prometheus-rule.yaml").remove(0)
}

fn alerts() -> Vec<Value> {
    rule()["spec"]["groups"][0]["rules"].as_array().unwrap().clone()
}

#[track_caller]
fn assert_known(expression: &str) {
    let series = series();
    let found = named(expression);
    assert!(!found.is_empty(), "{expression} names no metric of ours");
    for name in found {
        assert!(series.contains_key(name), "{name}, in {expression}");
    }
}

#[test]
fn every_metric_of_an_alert_exists() {
    let alerts = alerts();
    for alert in &alerts {
        assert_known(alert["expr"].as_str().unwrap());
        assert!(alert["annotations"]["summary"].is_string() && alert["labels"]["severity"].is_string());
    }
    // What must not go unnoticed.
    let names: BTreeSet<&str> = alerts
        .iter()
        .map(|alert| alert["alert"].as_str().unwrap())
        .collect();
    for name in [
        "OrphansStuck",
        "NodeFault",
        "BreakerOpen",
        "AgentBlind",
        "AgentAbsent",
        "WatchStale",
    ] {
        assert!(names.contains(format!("MeshMedic{name}").as_str()), "{name}");
    }
}

/// Where the page of alerts stands for people with a browser.
const PAGE: &str = "https://github.com/meshmedic/meshmedic/blob/main/docs/alerts.md";

#[test]
fn every_alert_leads_to_its_section_and_back() {
    let page = std::fs::read_to_string(crate::files::root().join("docs/alerts.md")).unwrap();
    let sections = page.split("\n## ").skip(1);
    let sections: BTreeMap<&str, &str> = sections.filter_map(|text| text.split_once('\n')).collect();
    let alerts = alerts();
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        let anchor = format!("{PAGE}#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], anchor.as_str(), "{name}");
        let section = sections
            .get(name)
            .unwrap_or_else(|| panic!("docs/alerts.md has no {name}"));
        for part in ["**Means:**", "**Check:**", "**Do:**", "```console"] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
    assert_eq!(sections.len(), alerts.len(), "a section is of no alert");
    let dashboard: Value = serde_json::from_str(&read("kustomize/monitoring/dashboard.json")).unwrap();
    assert_eq!(dashboard["links"][0]["url"], PAGE);
}

#[test]
fn every_metric_of_the_dashboard_exists_and_most_metrics_are_shown() {
    let dashboard: Value = serde_json::from_str(&read("kustomize/monitoring/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut shown = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_known(expression);
            shown.extend(named(expression).into_iter().map(str::to_owned));
        }
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|words| !words.is_empty()),
            "{panel:#}"
        );
        let place = &panel["gridPos"];
        assert!(
            places.insert((place["x"].as_u64(), place["y"].as_u64())),
            "two panels at {place}"
        );
    }
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    // `count` and `sum` go with the buckets.
    let hidden: Vec<String> = series()
        .into_keys()
        .filter(|name| !shown.contains(name) && !name.ends_with("_count") && !name.ends_with("_sum"))
        .collect();
    assert_eq!(
        hidden,
        [
            "meshmedic_build_info",
            "meshmedic_kube_events_suppressed_total",
            "meshmedic_orphans_not_ready",
            "meshmedic_orphans_ready"
        ],
        "these are not on the dashboard"
    );
}

/// The cases in which each alert has to fire and in which it must not.
const CASES: &str = include_str!("alerts.yaml");

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let cases: Value = serde_saphyr::from_str(CASES).unwrap();
    let mut fires = BTreeSet::new();
    let mut keeps_still = BTreeSet::new();
    for case in cases["tests"].as_array().unwrap() {
        for check in case["alert_rule_test"].as_array().unwrap() {
            let name = check["alertname"].as_str().unwrap().to_owned();
            match check["exp_alerts"].as_array() {
                Some(expected) if !expected.is_empty() => fires.insert(name),
                _ => keeps_still.insert(name),
            };
        }
    }
    let alerts: BTreeSet<String> = alerts()
        .iter()
        .map(|alert| alert["alert"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(fires, alerts);
    assert_eq!(keeps_still, alerts);
}

#[test]
fn alerts_fire_when_they_should() {
    if !need::promtool("alerts_fire_when_they_should") {
        return;
    }
    let folder = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    // JSON is YAML, too.
    std::fs::write(folder.path().join("rules.yaml"), rule()["spec"].to_string()).unwrap();
    std::fs::write(folder.path().join("alerts.yaml"), CASES).unwrap();
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "alerts.yaml"]] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
}
