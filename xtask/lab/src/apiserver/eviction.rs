// SPDX-License-Identifier: Apache-2.0
//! Evictions and the budgets that refuse them.

use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::object::{is_deleted, is_ready, meta, text};
use super::resources::known;
use super::selector::selects;
use super::store::{Key, Object, Store};
use super::write::{Deletion, Writer};

/// Evicts a pod, if its budget allows it.
pub(crate) fn evict(writer: &mut Writer<'_>, namespace: &str, name: &str, body: &Value) -> Outcome<Value> {
    let pods = known("pods");
    if !meta(body, "name").is_empty() && meta(body, "name") != name {
        return Err(Failure::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let key = Key::new(pods, namespace, name);
    let pod = writer.store.get(&key).cloned();
    let pod = pod.ok_or_else(|| Failure::not_found(pods, name))?;
    if !is_beyond_budgets(&pod) {
        let budgets = matching(writer.store, namespace, &pod);
        match budgets.as_slice() {
            [] => {}
            [budget] => allow(budget, &pod)?,
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Failure::new(500, "", message));
            }
        }
    }
    writer.delete(pods, &key, &Deletion::read(&body["deleteOptions"]))?;
    Ok(json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": 201,
    }))
}

/// A pod that does not run, or is going already, may always go.
fn is_beyond_budgets(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending") || is_deleted(pod)
}

fn matching(store: &Store, namespace: &str, pod: &Value) -> Vec<Object> {
    let budgets = store.all(known("poddisruptionbudgets"), Some(namespace));
    budgets
        .into_iter()
        .map(|(_, budget)| budget)
        .filter(|budget| selects(&budget["spec"]["selector"], pod))
        .collect()
}

fn allow(budget: &Value, pod: &Value) -> Outcome<()> {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    if !is_ready(pod) {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(());
        }
    }
    if number("disruptionsAllowed") > 0 {
        return Ok(());
    }
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut refusal = Failure::new(429, "TooManyRequests", message);
    let cause = format!(
        "The disruption budget {} needs {desired} healthy pods and has {healthy} currently",
        meta(budget, "name")
    );
    refusal.details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": cause }] });
    Err(refusal)
}
