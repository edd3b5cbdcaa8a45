// SPDX-License-Identifier: Apache-2.0
//! Plaintext that pods were really sent, and took.

use std::collections::BTreeMap;

use super::mtls;
use crate::doctor::finding::Finding;
use crate::doctor::snapshot::{Link, LinkKind};
use crate::doctor::view::{View, endpoints};

/// How many callers are named.
const NAMED: usize = 3;

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    let mut taken: BTreeMap<(&str, &str), Vec<&Link>> = BTreeMap::new();
    for link in links(view) {
        if let Some(pod) = link.destination.split_once('/') {
            taken.entry(pod).or_default().push(link);
        }
    }
    let findings = taken.into_iter().filter_map(|((namespace, name), links)| {
        let pod = view.pod(namespace, name)?;
        let force = mtls::in_force(view, pod);
        // Under STRICT it was turned away.
        if !pod.is_live() || !endpoints::is_captured(pod) || !force.takes_plaintext() {
            return None;
        }
        let mut finding = Finding::on(pod.object(), "it is sent plaintext, and takes it")
            .of(pod.workload.clone())
            .because(format!("its mTLS mode is {}", force.words()));
        for link in links.iter().take(NAMED) {
            finding = finding.because(format!(
                "ztunnel's log has {} connections from {} without an identity, the last at {}",
                link.seen.count,
                caller(view, &link.source),
                link.seen.last
            ));
        }
        if let Some(more) = links.len().checked_sub(NAMED).filter(|more| *more > 0) {
            finding = finding.because(format!("and {more} callers more"));
        }
        let since_start = counted(view, namespace);
        if let Some((_, count)) = pod.workload.as_ref().and_then(|owner| {
            let mut counts = since_start.iter();
            counts.find(|(path, _)| path.rsplit('/').next() == Some(owner.name.as_str()))
        }) {
            finding = finding.because(format!(
                "ztunnels' metrics count {count:.0} connections without mTLS to this workload since they started"
            ));
        }
        Some(
            finding
                .so(
                    "Nothing on the way encrypts this traffic or says who sends it: rules on identities cannot match \
                     it, and STRICT will turn it away.",
                )
                .by_hand(
                    "Bring the callers into the mesh; those that should be in it already, look at with `meshmedic \
                     scan`. Once no plaintext is left, set STRICT; for callers that must stay outside, a \
                     PeerAuthentication may leave one port PERMISSIVE.",
                ),
        )
    });
    findings.collect()
}

/// The plaintext that ztunnels logged.
pub(crate) fn links<'v>(view: &'v View<'_>) -> impl Iterator<Item = &'v Link> {
    view.snapshot.links(LinkKind::Plaintext)
}

/// How many connections without mTLS ztunnels counted since they started, by `namespace/workload` of a namespace.
pub(crate) fn counted<'v>(view: &'v View<'_>, namespace: &str) -> BTreeMap<&'v str, f64> {
    let mut counts = BTreeMap::new();
    let metrics = view
        .snapshot
        .ztunnels
        .all()
        .iter()
        .filter_map(|ztunnel| ztunnel.metrics.had());
    for (path, count) in metrics.flat_map(|metrics| &metrics.plaintext) {
        if *count > 0.0 && path.split_once('/').is_some_and(|(of, _)| of == namespace) {
            *counts.entry(path.as_str()).or_default() += count;
        }
    }
    counts
}

/// Who sends it, and whether it should be in the mesh.
pub(crate) fn caller(view: &View<'_>, source: &str) -> String {
    let pod = source
        .split_once('/')
        .and_then(|(namespace, name)| view.pod(namespace, name));
    match pod {
        Some(pod) if endpoints::is_captured(pod) => format!("{source} (which should be captured)"),
        Some(_) => format!("{source} (outside the mesh)"),
        None => source.to_owned(),
    }
}
