// SPDX-License-Identifier: Apache-2.0
//! What a PodDisruptionBudget says of its pods, as the controller of the real ones keeps it.

use serde_json::{Value, json};

use super::object::{is_deleted, is_ready, list, meta, text};
use super::resources::known;
use super::selector::selects;
use super::store::{Key, Object, Store};

/// Brings the status of a namespace's budgets up to date.
pub(crate) fn refresh(store: &mut Store, namespace: &str) {
    let budgets = store.all(known("poddisruptionbudgets"), Some(namespace));
    if budgets.is_empty() {
        return;
    }
    let pods = store.all(known("pods"), Some(namespace));
    for (key, budget) in budgets {
        let status = status(store, &budget, &pods);
        if budget["status"] != status {
            let mut budget = (*budget).clone();
            budget["status"] = status;
            store.put(key, budget);
        }
    }
}

fn status(store: &Store, budget: &Value, pods: &[(Key, Object)]) -> Value {
    let spec = &budget["spec"];
    let mine: Vec<_> = pods
        .iter()
        .map(|(_, pod)| pod)
        .filter(|pod| selects(&spec["selector"], pod))
        .collect();
    let healthy = mine
        .iter()
        .filter(|pod| is_ready(pod) && !is_deleted(pod))
        .count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let (expected, desired) = match (&spec["maxUnavailable"], &spec["minAvailable"]) {
        (Value::Null, Value::Number(minimum)) => {
            let count = i64::try_from(mine.len()).unwrap_or(i64::MAX);
            (count, minimum.as_i64().unwrap_or_default())
        }
        (Value::Null, minimum) => {
            let expected = scale(store, &mine);
            (expected, share(minimum, expected))
        }
        (maximum, _) => {
            let expected = scale(store, &mine);
            (expected, (expected - share(maximum, expected)).max(0))
        }
    };
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(1);
    let (condition, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    json!({
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": generation,
        "conditions": [{
            "type": "DisruptionAllowed",
            "status": condition,
            "reason": reason,
            "message": "",
            "observedGeneration": generation,
            "lastTransitionTime": budget["metadata"]["creationTimestamp"],
        }],
    })
}

/// A number or a percentage, which is rounded up.
fn share(value: &Value, of: i64) -> i64 {
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    match percent {
        Some(percent) => (of * percent + 99) / 100,
        None => value.as_i64().unwrap_or_default(),
    }
}

/// How many pods the controllers of some want; a pod without a controller is not counted.
fn scale(store: &Store, pods: &[&Object]) -> i64 {
    let mut seen = Vec::new();
    let mut sum = 0;
    for pod in pods {
        let Some((kind, name)) = controller(pod) else {
            continue;
        };
        let namespace = meta(pod, "namespace");
        let plural = match kind {
            "ReplicaSet" => "replicasets",
            "StatefulSet" => "statefulsets",
            _ => continue,
        };
        let Some(mut owner) = store.get(&Key::new(known(plural), namespace, name)) else {
            continue;
        };
        if let Some(("Deployment", name)) = controller(owner) {
            let deployment = store.get(&Key::new(known("deployments"), namespace, name));
            owner = deployment.unwrap_or(owner);
        }
        let uid = meta(owner, "uid");
        if !seen.contains(&uid) {
            seen.push(uid);
            sum += owner["spec"]["replicas"].as_i64().unwrap_or(1);
        }
    }
    sum
}

/// The kind and name of an object's controller.
fn controller(object: &Value) -> Option<(&str, &str)> {
    let owners = list(object, "/metadata/ownerReferences").iter();
    let mut owners = owners.filter(|owner| owner["controller"] == true);
    let owner = owners.next()?;
    Some((text(owner, "/kind"), text(owner, "/name")))
}
