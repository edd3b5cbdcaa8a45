// SPDX-License-Identifier: Apache-2.0
//! The values of the chart: the schema knows each, the page describes each, and the agent's flags are all there.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::files::{assert_same, read, root};
use crate::flags::flags;

fn schema() -> Value {
    serde_json::from_str(&read("helm/meshmedic/values.schema.json")).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&read("helm/meshmedic/values.yaml")).unwrap()
}

/// The values of a schema by their paths, with what describes them.
fn leaves(schema: &Value, path: &str, out: &mut Vec<(String, Value)>) {
    for (name, value) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if value["properties"].is_object() {
            assert_eq!(value["additionalProperties"], false, "{path} would take anything");
            leaves(value, &path, out);
        } else {
            out.push((path, value.clone()));
        }
    }
}

fn all() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    leaves(&schema(), "", &mut all);
    // Helm's own, for a chart that has this one as a part.
    all.retain(|(path, _)| path != "global");
    all
}

fn default_of(path: &str) -> Value {
    path.split('.').fold(values(), |value, part| value[part].clone())
}

const BEGIN: &str =
    "<!-- values: written by a test from values.schema.json and values.yaml, with UPDATE_GOLDEN=1 -->\n";
const END: &str = "<!-- end of values -->\n";

#[test]
fn the_page_describes_every_value() {
    let mut table = "\n| value | default | meaning |\n|---|---|---|\n".to_owned();
    let agents: BTreeMap<String, Option<String>> = flags();
    for (path, described) in all() {
        let default = match path.strip_prefix("agent.") {
            Some(flag) => agents[flag].clone().unwrap_or_default(),
            None => serde_json::to_string(&default_of(&path)).unwrap(),
        };
        let meaning = described["description"].as_str().unwrap();
        assert!(
            !meaning.ends_with('.') && !meaning.contains('|'),
            "{path}: {meaning}"
        );
        table += &format!("| `{path}` | `{default}` | {meaning} |\n");
    }
    table.push('\n');
    let page = read("helm/meshmedic/README.md");
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    assert_same(
        "deploy/helm/meshmedic/README.md",
        &format!("{before}{BEGIN}{table}{END}{after}"),
    );
}

#[test]
fn every_default_is_of_the_kind_that_the_schema_wants() {
    let kinds = |value: &Value| match value {
        Value::Null => "none",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    for (path, described) in all() {
        if !path.starts_with("agent.") {
            assert_eq!(kinds(&default_of(&path)), described["type"], "{path}");
        }
    }
    // And nothing stands there of which the schema does not know.
    let known = schema();
    for (name, value) in values().as_object().unwrap() {
        let of = &known["properties"][name];
        assert!(of.is_object(), "{name}");
        if let (Some(values), Some(properties)) = (value.as_object(), of["properties"].as_object()) {
            assert!(values.keys().all(|key| properties.contains_key(key)), "{name}");
        }
    }
}

/// Flags that are not the user's to set in a cluster: the manifest sets them itself, or the paths and ports of the
/// DaemonSet depend on them.
const FIXED: [&str; 6] = [
    "hostCniDir",
    "hostProc",
    "kubeconfig",
    "metricsAddr",
    "node",
    "statusAddr",
];

#[test]
fn every_flag_of_the_agent_is_a_value_and_every_value_a_flag() {
    let agents = flags();
    let settable: Vec<&String> = agents
        .keys()
        .filter(|flag| !FIXED.contains(&flag.as_str()))
        .collect();
    let known = schema();
    let mut described: Vec<&String> = known["properties"]["agent"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    described.sort();
    assert_eq!(described, settable);
    let page = std::fs::read_to_string(root().join("deploy/helm/meshmedic/values.yaml")).unwrap();
    let shown: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("  # "))
        .collect();
    for flag in settable {
        let default = agents[flag].as_deref().unwrap();
        let line = format!("{flag}: {default}");
        assert!(
            shown.contains(&line.as_str()),
            "values.yaml does not show `{line}`"
        );
    }
}
