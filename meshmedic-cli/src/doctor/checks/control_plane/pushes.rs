// SPDX-License-Identifier: Apache-2.0
//! What becomes of istiod's pushes, by its own metrics.

use std::collections::BTreeMap;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::View;

const REJECTED: [&str; 3] = [
    "pilot_total_xds_rejects",
    "pilot_total_xds_internal_errors",
    "pilot_total_rejected_configs",
];
/// From a change to the proxy's acknowledgement, in seconds.
const CONVERGENCE: &str = "pilot_proxy_convergence_time";
/// istiod's own histogram has this border: a mesh that is well is far below it.
const SLOW: &str = "10";
/// Fewer pushes say nothing.
const ENOUGH: f64 = 100.0;
/// This share of pushes may be slow: a node that hangs, a proxy that starts.
const SHARE: f64 = 0.01;
/// Writes to proxies that hang for so long that istiod gives them up.
const TIMED_OUT: &str = "pilot_xds_write_timeout";
/// A proxy or two may hang.
const MANY: f64 = 10.0;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for istiod in view.snapshot.istiods.all() {
        let Some(metrics) = istiod.metrics.had() else {
            continue;
        };
        let on = ObjectRef::new("Pod", &istiod.namespace, &istiod.name);
        findings.extend(rejected(&on, metrics));
        findings.extend(slow(view, &on, metrics));
    }
    findings
}

fn rejected(on: &ObjectRef, metrics: &BTreeMap<String, f64>) -> Option<Finding> {
    let counted = |key: &str| REJECTED.iter().any(|counted| key.starts_with(counted));
    let mut lines = metrics
        .iter()
        .filter(|(key, value)| **value > 0.0 && counted(key))
        .peekable();
    lines.peek()?;
    let namespace = on.namespace.as_deref().unwrap_or_default();
    let mut finding = Finding::on(
        on.clone(),
        "proxies rejected what it pushed, or it could not make it",
    )
    .so("those proxies go on with what they had: a change that was applied has no effect on them")
    .run(Command::new("istioctl analyze -A"))
    .run(Command::new("istioctl proxy-status"))
    .run(
        Command::new("kubectl logs --tail 1000")
            .namespace(namespace)
            .name(&on.name),
    )
    .by_hand("Look in its log for \"rejected\", \"NACK\" and \"error\".");
    for (key, value) in lines {
        finding = finding.because(format!("{key}: {value} since it started"));
    }
    Some(finding)
}

fn slow(view: &View<'_>, on: &ObjectRef, metrics: &BTreeMap<String, f64>) -> Option<Finding> {
    let metric = |name: &str| metrics.get(name).copied();
    let count = metric(&format!("{CONVERGENCE}_count")).unwrap_or_default();
    let soon = metric(&format!("{CONVERGENCE}_bucket{{le={SLOW}}}"));
    let late = soon.map_or(0.0, |soon| count - soon);
    let timed_out = metric(TIMED_OUT).unwrap_or_default();
    let is_slow = count >= ENOUGH && late > count * SHARE;
    if !is_slow && timed_out < MANY {
        return None;
    }
    let mut finding = Finding::on(on.clone(), "what it pushes reaches proxies late, or not at all").so(
        "a pod that moved is asked at its old address, and a policy that was tightened is not in force yet",
    );
    if is_slow {
        finding = finding.because(format!(
            "{CONVERGENCE}: {late:.0} of {count:.0} pushes took more than {SLOW} s since it started"
        ));
    }
    if timed_out >= MANY {
        finding = finding.because(format!("{TIMED_OUT}: {timed_out:.0} since it started"));
    }
    Some(
        finding
            .run(Command::new("kubectl top pods -l app=istiod").namespace(&view.istio))
            .by_hand(
                "Give istiod more CPU or replicas; and let each proxy know less of the mesh: Sidecar objects, exportTo, or \
                 discoverySelectors, where the mesh has many Services.",
            ),
    )
}
