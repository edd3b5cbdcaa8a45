// SPDX-License-Identifier: Apache-2.0
//! What ztunnels say of themselves.

use jiff::SignedDuration;
use meshmedic_common::eligibility::Expectation;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::{Certificate, ZtunnelDump, ZtunnelFacts};
use crate::doctor::view::View;

/// ztunnel tries again every 15 s at most, so one that said nothing for longer than this has its connection back.
const STILL: SignedDuration = SignedDuration::from_mins(2);
/// istiod ends connections now and then by itself: one failure, or two, is no outage.
const FAILURES: u64 = 3;
/// ztunnel renews a certificate when half of its time is over; when this part is left, renewing fails.
const LEFT: f64 = 0.25;
/// What istio-cni and ztunnel may take with a new pod.
const SETTLE: SignedDuration = SignedDuration::from_mins(1);

fn object(ztunnel: &ZtunnelFacts) -> ObjectRef {
    ObjectRef::new("Pod", &ztunnel.namespace, &ztunnel.name)
}

/// A command that shows the end of its log.
fn logs(ztunnel: &ZtunnelFacts) -> Command {
    Command::new("kubectl logs --tail 200")
        .namespace(&ztunnel.namespace)
        .name(&ztunnel.name)
}

fn dumps<'v>(view: &View<'v>) -> impl Iterator<Item = (&'v ZtunnelFacts, &'v ZtunnelDump)> {
    view.snapshot
        .ztunnels
        .all()
        .iter()
        .filter_map(|ztunnel| Some((ztunnel, ztunnel.dump.had()?)))
}

pub(super) fn reaches_istiod(view: &View<'_>) -> Vec<Finding> {
    // Without an istiod nobody reaches it: that has a finding of its own.
    if !view.has_ready_istiod() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for ztunnel in view.snapshot.ztunnels.all() {
        let failed = ztunnel.log.had().and_then(|log| log.events.get("xds-failed"));
        let Some(failed) = failed.filter(|failed| failed.count >= FAILURES) else {
            continue;
        };
        if view.now.duration_since(failed.last) > STILL {
            continue;
        }
        let istio = &view.istio;
        findings.push(
            Finding::on(object(ztunnel), "ztunnel cannot connect to istiod")
                .because(format!("its log, {} times, last at {:.0}: {}", failed.count, failed.last, failed.sample))
                .because(format!("node {}", ztunnel.node))
                .so("it knows no new pod and gets no new certificate; a ztunnel that starts so captures nothing")
                .run(Command::new("kubectl get service,endpointslices").namespace(istio))
                .run(Command::new("kubectl get networkpolicies").namespace(istio))
                .by_hand(format!(
                    "istiod is Ready, so something between node {} and its port 15012 is in the way: a NetworkPolicy in {istio}, \
                     DNS, or the overlay network of this node (if pods of other nodes cannot be reached from it either)",
                    ztunnel.node
                )),
        );
    }
    findings
}

pub(super) fn certificates(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (ztunnel, dump) in dumps(view) {
        let hbone = dump.workloads.iter().any(|workload| workload.protocol == "HBONE");
        if dump.certificates.is_empty() && hbone && !dump.proxies.is_empty() {
            findings.push(bad(
                view,
                ztunnel,
                "it holds no certificate, though it serves pods",
                "certificates: none",
            ));
        }
        for certificate in &dump.certificates {
            if let Some(problem) = wrong(view, certificate) {
                let until = certificate
                    .expires
                    .map_or_else(|| "unknown".to_owned(), |at| format!("{at:.0}"));
                let seen = format!(
                    "{}: {}, valid until {until}",
                    certificate.identity, certificate.state
                );
                findings.push(bad(view, ztunnel, problem, &seen));
            }
        }
    }
    findings
}

fn wrong(view: &View<'_>, certificate: &Certificate) -> Option<&'static str> {
    if certificate.state.starts_with("Unavailable") {
        return Some("istiod gives it no certificate for a workload");
    }
    let expires = certificate.expires?;
    let left = expires.duration_since(view.now);
    if left.is_negative() || left.is_zero() {
        return Some("a certificate has expired");
    }
    let whole = expires.duration_since(certificate.begins?);
    let near = left.as_secs_f64() < whole.as_secs_f64() * LEFT;
    near.then_some("a certificate is near its end, and has not been renewed")
}

fn bad(view: &View<'_>, ztunnel: &ZtunnelFacts, problem: &str, seen: &str) -> Finding {
    let (of, called) = (&ztunnel.namespace, &ztunnel.name);
    Finding::on(object(ztunnel), problem)
        .because(seen)
        .so("its workloads have no valid identity: peers refuse their connections, at once or when it ends")
        .run(logs(ztunnel))
        .run(Command::new("kubectl logs -l app=istiod --tail 200").namespace(&view.istio))
        .by_hand(
            "Look in ztunnel's log for \"certificate\", and in istiod's for \"CSR\", \"sign\" and \"CA\".",
        )
        .run(Command::new("kubectl delete pod").namespace(of).name(called))
}

pub(super) fn knows_workloads(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (ztunnel, dump) in dumps(view).filter(|(_, dump)| dump.workloads_known == 0) {
        findings.push(
            Finding::on(object(ztunnel), "it has no workload from istiod")
                .because(format!(
                    "config_dump: 0 workloads, {} services",
                    dump.services_known
                ))
                .so("it knows no identities: it lets no connection of its pods into the mesh")
                .run(logs(ztunnel))
                .by_hand(
                    "make it connect to istiod (MM0205), and see that istiod has ambient mode on (MM0108)",
                ),
        );
    }
    findings
}

pub(super) fn pending(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (ztunnel, dump) in dumps(view) {
        let log = ztunnel.log.had();
        for (uid, state) in dump.proxies.iter().filter(|(_, state)| *state == "Pending") {
            let pod = view.pods().iter().find(|pod| pod.facts.uid == *uid);
            if pod.is_some_and(|pod| !view.is_older(&pod.facts, SETTLE)) {
                continue;
            }
            let on = pod.map_or_else(|| object(ztunnel), |pod| pod.object());
            let mut finding = Finding::on(on, "ztunnel cannot start a proxy in its network namespace")
                .of(pod.and_then(|pod| pod.workload.clone()))
                .because(format!("ztunnel {}: workloadState {uid}: {state}", ztunnel.name))
                .so("its connections are refused, or bypass the mesh, while ztunnel tries again");
            let failed = log.and_then(|log| log.start_failures.get(uid));
            if let Some(failed) = failed {
                finding = finding.because(format!("its log, {} times: {}", failed.count, failed.sample));
            }
            findings.push(if failed.is_some_and(|failed| failed.sample.contains("AddrInUse")) {
                finding.by_hand("the app listens on a port that ztunnel needs (15001, 15006, 15008, 15053): let it use another")
            } else {
                finding
                    .run(logs(ztunnel))
                    .by_hand("Look there for the lines that name this pod's UID.")
            });
        }
    }
    findings
}

pub(super) fn serves_enrolled(view: &View<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (ztunnel, dump) in dumps(view) {
        // One that was replaced meanwhile serves nobody any more, and its successor does.
        let here = view.pod(&ztunnel.namespace, &ztunnel.name);
        if here.is_none_or(|pod| !pod.facts.ready || pod.facts.node.as_deref() != Some(&ztunnel.node)) {
            continue;
        }
        let mut others =
            dumps(view).filter(|(other, _)| other.node == ztunnel.node && other.name != ztunnel.name);
        if others.next().is_some() {
            continue;
        }
        for pod in view.pods() {
            let facts = &pod.facts;
            let enrolled =
                pod.expectation == Expectation::Expected && facts.node.as_deref() == Some(&ztunnel.node);
            if !enrolled || !view.is_older(facts, SETTLE) || dump.proxies.contains_key(&facts.uid) {
                continue;
            }
            let finding = Finding::on(
                pod.object(),
                "the API says that it is enrolled, and its ztunnel does not serve it",
            )
            .of(pod.workload.clone())
            .because(format!(
                "ambient.istio.io/redirection: enabled; not in the workloadState of {}",
                ztunnel.name
            ))
            .so("ztunnel holds no port in it: its connections are refused, or bypass the mesh in plaintext");
            // In place where that can be.
            let repair = Command::new("meshmedic repair --yes").path(&facts.namespace, &facts.name);
            findings.push(finding.run(repair));
        }
    }
    findings
}
