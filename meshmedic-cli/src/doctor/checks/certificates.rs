// SPDX-License-Identifier: Apache-2.0
//! The certificates that everything in the mesh hangs from.
//!
//! Which CA is plugged in stands in a Secret beside its key. That Secret is not read: istiod's metrics and what ztunnels
//! hold tell the rest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::need::Need;
use crate::doctor::view::View;

/// Rolling a new root out through a mesh takes as long: both roots first, then the new CA, then the old root away.
const ROLLOUT: SignedDuration = SignedDuration::from_hours(14 * 24);
/// When it is time to plan that.
const NOTICE: SignedDuration = SignedDuration::from_hours(60 * 24);
/// What istiod's metrics call the ends, and what they are of.
const ENDS: [(&str, &str); 2] = [
    (
        "citadel_server_root_cert_expiry_timestamp",
        "the root certificate of the mesh",
    ),
    (
        "citadel_server_cert_chain_expiry_timestamp",
        "the certificate that istiod signs with",
    ),
];

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM1401",
        category: Category::Certificates,
        title: "the mesh's root and its CA live for two weeks more",
        severity: Severity::Error,
        needs: &[Need::Istio, Need::IstiodMetrics],
        run: short,
    },
    Check {
        code: "MM1402",
        category: Category::Certificates,
        title: "the mesh's root and its CA live for sixty days more",
        severity: Severity::Warning,
        needs: &[Need::Istio, Need::IstiodMetrics],
        run: soon,
    },
    Check {
        code: "MM1403",
        category: Category::Certificates,
        title: "all ztunnels trust one root in common",
        severity: Severity::Error,
        needs: &[Need::Dumps],
        run: roots,
    },
];

/// When something ends, by its name; of several that say so the first.
fn ends(view: &View<'_>) -> BTreeMap<&'static str, (Timestamp, String)> {
    let mut ends: BTreeMap<&'static str, (Timestamp, String)> = BTreeMap::new();
    for istiod in view.snapshot.istiods.all() {
        for (metric, what) in ENDS {
            let seconds = istiod.metrics.had().and_then(|metrics| metrics.get(metric));
            // Where istiod signs nothing itself it says 0.
            let seconds = seconds.filter(|seconds| seconds.is_finite() && **seconds > 0.0);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a number that is too big becomes the biggest, and no time"
            )]
            let end = seconds.and_then(|seconds| Timestamp::from_second(*seconds as i64).ok());
            if let Some(end) = end {
                let said = format!("{}/{} tells {metric}", istiod.namespace, istiod.name);
                let entry = ends.entry(what).or_insert_with(|| (end, said.clone()));
                if end < entry.0 {
                    *entry = (end, said);
                }
            }
        }
    }
    ends
}

fn short(view: &View<'_>) -> Vec<Finding> {
    within(view, None, ROLLOUT)
}

fn soon(view: &View<'_>) -> Vec<Finding> {
    within(view, Some(ROLLOUT), NOTICE)
}

fn within(view: &View<'_>, after: Option<SignedDuration>, most: SignedDuration) -> Vec<Finding> {
    let found = ends(view).into_iter().filter_map(|(what, (end, said))| {
        let left = end.duration_since(view.now);
        (left < most && after.is_none_or(|after| left >= after))
            .then(|| finding(view, what, end, left, &said))
    });
    found.collect()
}

fn finding(view: &View<'_>, what: &str, end: Timestamp, left: SignedDuration, said: &str) -> Finding {
    let days = left.as_hours() / 24;
    let problem = if left.is_negative() {
        format!("{what} has ended")
    } else {
        format!("{what} ends soon")
    };
    let when = if left.is_negative() {
        format!("it ended at {end}")
    } else {
        format!("it ends at {end}, in {days} days")
    };
    let finding = Finding::on(ObjectRef::cluster("Namespace", &view.istio), problem)
        .because(when)
        .because(said)
        .so("From then on no certificate of the mesh is valid: every connection with mTLS fails, all at once.");
    finding
        .run(Command::new("kubectl get secrets cacerts istio-ca-secret --ignore-not-found").namespace(&view.istio))
        .by_hand(
            "Where the Secret cacerts is, a CA is plugged in: have its maker issue a new one, put both roots into its \
             root-cert.pem first, and change the signing certificate once every proxy has both. Without it istiod signs with a \
             root of its own, which it renews by itself (CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL): see in its log why it \
             did not, and restart the proxies once it has.",
        )
}

/// Two proxies speak mTLS if each trusts a root of the other: with no root in common some do not.
fn roots(view: &View<'_>) -> Vec<Finding> {
    let mut by_ztunnel: Vec<(ObjectRef, BTreeSet<&str>)> = Vec::new();
    for ztunnel in view.snapshot.ztunnels.all() {
        let certificates = ztunnel.dump.had().into_iter().flat_map(|dump| &dump.certificates);
        let roots: BTreeSet<&str> = certificates
            .flat_map(|certificate| &certificate.roots)
            .map(|root| root.serial.as_str())
            .filter(|serial| !serial.is_empty())
            .collect();
        // Older ztunnels tell none.
        if !roots.is_empty() {
            by_ztunnel.push((ObjectRef::new("Pod", &ztunnel.namespace, &ztunnel.name), roots));
        }
    }
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for root in by_ztunnel.iter().flat_map(|(_, roots)| roots) {
        *known.entry(*root).or_default() += 1;
    }
    let Some((most, count)) = known
        .iter()
        .max_by_key(|(serial, count)| (**count, std::cmp::Reverse(**serial)))
    else {
        return Vec::new();
    };
    let apart = by_ztunnel.iter().filter(|(_, roots)| !roots.contains(most));
    let found = apart.map(|(object, roots)| {
        let own: Vec<&str> = roots.iter().copied().collect();
        let workload = view.pod(object.namespace.as_deref().unwrap_or_default(), &object.name);
        Finding::on(object.clone(), "it does not trust the root that the other ztunnels trust")
            .of(workload.and_then(|pod| pod.workload.clone()))
            .because(format!("it trusts the root with serial {}", own.join(", ")))
            .because(format!("{count} of {} ztunnels trust the root with serial {most}", by_ztunnel.len()))
            .so("Connections between its node and the others' fail in the TLS handshake, in both directions.")
            .run(
                Command::new("kubectl delete pod")
                    .namespace(object.namespace.as_deref().unwrap_or_default())
                    .name(&object.name),
            )
            .by_hand(
                "While a root is changed, every proxy has to trust both for a time. Look for an istiod of another CA, such as \
                 of another revision, if it comes back with the same root.",
            )
    });
    found.collect()
}

#[cfg(test)]
mod tests;
