// SPDX-License-Identifier: Apache-2.0
//! istiod, its Service, its webhooks, what it could not push, and whether versions fit.

mod pushes;
mod version;
mod webhooks;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use meshmedic_common::identity::Component;

use crate::doctor::check::{Category, Check, Severity};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::need::Need;
use crate::doctor::view::keeper::ChartValue;
use crate::doctor::view::revisions::REVISION;
use crate::doctor::view::switches::{ENABLE_AMBIENT, switch};
use crate::doctor::view::{View, has_all, name, namespace, written};

/// Where istiod hands out configuration and certificates.
const XDS: i32 = 15012;
/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The checks, by code.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        code: "MM0101",
        category: Category::ControlPlane,
        title: "istiod is ready",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Deployments, Need::Istio],
        run: istiod_ready,
    },
    Check {
        code: "MM0102",
        category: Category::ControlPlane,
        title: "every replica of istiod is ready",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Deployments, Need::Istio],
        run: istiod_replicas,
    },
    Check {
        code: "MM0103",
        category: Category::ControlPlane,
        title: "istiod's Service leads port 15012 to a ready istiod",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Services, Need::EndpointSlices, Need::Istio],
        run: istiod_service,
    },
    Check {
        code: "MM0104",
        category: Category::ControlPlane,
        title: "Istio's webhooks have a CA bundle and a living Service, and answer",
        severity: Severity::Error,
        needs: &[
            Need::MutatingWebhooks,
            Need::ValidatingWebhooks,
            Need::Services,
            Need::Istio,
        ],
        run: webhooks::reach_their_service,
    },
    Check {
        code: "MM0105",
        category: Category::ControlPlane,
        title: "a webhook injects sidecars where namespaces ask for them",
        severity: Severity::Error,
        needs: &[Need::MutatingWebhooks, Need::Namespaces, Need::Istio],
        run: webhooks::inject_where_asked,
    },
    Check {
        code: "MM0106",
        category: Category::ControlPlane,
        title: "proxies get what istiod pushes soon, and accept it",
        severity: Severity::Warning,
        needs: &[Need::IstiodMetrics],
        run: pushes::run,
    },
    Check {
        code: "MM0107",
        category: Category::ControlPlane,
        title: "the versions of Istio's parts fit each other",
        severity: Severity::Warning,
        needs: &[Need::Pods, Need::Istio],
        run: version::skew,
    },
    Check {
        code: "MM0108",
        category: Category::ControlPlane,
        title: "ambient mode is enabled where labels ask for it",
        severity: Severity::Error,
        needs: &[Need::Pods, Need::Namespaces, Need::DaemonSets, Need::Istio],
        run: ambient_enabled,
    },
];

const NO_CONFIG: &str = "no pod gets new configuration or a certificate: new pods have no identity, and when the \
                         certificates of the others end, so does their traffic";

fn istiod_ready(view: &View<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let in_use = view.revisions_in_use();
    let several = view.istiod_deployments().nth(1).is_some();
    for deployment in view.istiod_deployments() {
        if view.pods_of_istiod(deployment).any(|pod| pod.facts.ready) {
            continue;
        }
        let revision = View::revision_of_istiod(deployment);
        let wanted = wanted(deployment);
        // A revision that nobody asks for any more is scaled away on purpose, before it is taken out.
        if several && wanted == 0 && !in_use.contains(revision) {
            continue;
        }
        let (of, called) = (namespace(&deployment.metadata), name(&deployment.metadata));
        let problem = if several {
            "no istiod of its revision is Ready"
        } else {
            "no istiod is Ready"
        };
        let mut finding = Finding::on(ObjectRef::new("Deployment", of, called), problem)
            .because(format!("0 of {wanted} replicas are Ready"))
            .so(NO_CONFIG);
        if several {
            finding = finding.because(format!(
                "it is revision {revision}: proxies of another revision are not concerned"
            ));
        }
        findings.push(if wanted == 0 {
            finding.run(
                Command::new("kubectl scale --replicas 1")
                    .namespace(of)
                    .path("deployment", called),
            )
        } else {
            finding
                .run(Command::new("kubectl describe pods -l app=istiod").namespace(of))
                .run(
                    Command::new("kubectl logs --tail 200")
                        .namespace(of)
                        .path("deployment", called),
                )
                .run(
                    Command::new("kubectl rollout restart")
                        .namespace(of)
                        .path("deployment", called),
                )
        });
    }
    if view.has_ready_istiod() {
        return findings;
    }
    // A mesh whose istiod is elsewhere reaches it through a Service without a selector.
    let external = view.service(&view.istio, "istiod").is_some_and(|service| {
        let spec = service.spec.as_ref();
        spec.is_some_and(|spec| {
            spec.selector
                .as_ref()
                .is_none_or(std::collections::BTreeMap::is_empty)
        })
    });
    if findings.is_empty()
        && view.istiods().next().is_none()
        && !external
        && view.snapshot.services.had().is_some()
    {
        findings.push(
            Finding::on(ObjectRef::cluster("Namespace", &view.istio), "there is no istiod")
                .because("no Deployment has pods with the label app=istiod")
                .so(NO_CONFIG)
                .by_hand("install istiod again, in the version of the ztunnels, in the way in which Istio was installed"),
        );
    }
    findings
}

fn wanted(deployment: &Deployment) -> i32 {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    replicas.unwrap_or(1)
}

fn istiod_replicas(view: &View<'_>) -> Vec<Finding> {
    let lacking = view.istiod_deployments().filter_map(|deployment| {
        let wanted = wanted(deployment);
        let ready = deployment
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0);
        (ready > 0 && ready < wanted).then(|| {
            let (of, called) = (namespace(&deployment.metadata), name(&deployment.metadata));
            Finding::on(
                ObjectRef::new("Deployment", of, called),
                "not every replica is Ready",
            )
            .because(format!("{ready} of {wanted} replicas are Ready"))
            .so("the others carry the load; if one more fails, pushes get slow or stop")
            .run(Command::new("kubectl describe pods -l app=istiod").namespace(of))
        })
    });
    lacking.collect()
}

fn istiod_service(view: &View<'_>) -> Vec<Finding> {
    // Without a Ready istiod there can be no endpoint: that has a finding of its own.
    if !view.has_ready_istiod() {
        return Vec::new();
    }
    let leads_to_istiod = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let of = namespace(&service.metadata);
        selector.is_some_and(|selector| view.identity().is_workload_of(Component::Istiod, of, selector))
    };
    let services: Vec<_> = view
        .snapshot
        .services
        .all()
        .iter()
        .filter(leads_to_istiod)
        .collect();
    let effect =
        "ztunnels and sidecars cannot connect to istiod: their configuration and certificates go stale";
    if services.is_empty() {
        let finding = Finding::on(
            ObjectRef::cluster("Namespace", &view.istio),
            "istiod has no Service",
        )
        .because("no Service selects app=istiod")
        .so(effect)
        .by_hand("install istiod's chart again: it makes the Service");
        return vec![finding];
    }
    let mut findings: Vec<Finding> = view
        .istiod_deployments()
        .filter(|deployment| !is_led_to(view, deployment, &services))
        .map(|deployment| {
            let (of, called) = (namespace(&deployment.metadata), name(&deployment.metadata));
            Finding::on(
                ObjectRef::new("Deployment", of, called),
                "no Service leads to istiod of its revision",
            )
            .because(format!(
                "revision {}: no Service selects its pods",
                View::revision_of_istiod(deployment)
            ))
            .so(effect)
            .by_hand("install istiod's chart of that revision again: it makes the Service")
        })
        .collect();
    for service in services {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // Without a Ready istiod of its revision it can have no endpoint: that has a finding of its own.
        if let Some(revision) = selector.and_then(|selector| selector.get(REVISION))
            && !view.is_revision_ready(revision)
        {
            continue;
        }
        let (of, called) = (namespace(&service.metadata), name(&service.metadata));
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let on = |problem: &str| Finding::on(ObjectRef::new("Service", of, called), problem).so(effect);
        let Some(port) = ports.clone().find(|port| port.port == XDS) else {
            let known: Vec<String> = ports.map(|port| port.port.to_string()).collect();
            findings.push(
                on("it has no port 15012").because(format!("spec.ports: {}", known.join(", "))).run(
                    Command::new("kubectl patch service")
                        .namespace(of)
                        .name(called)
                        .words("--type json")
                        .option("-p", r#"[{"op":"add","path":"/spec/ports/-","value":{"name":"https-dns","port":15012}}]"#),
                ),
            );
            continue;
        };
        let mut slices = view.snapshot.endpoint_slices.all().iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            namespace(&slice.metadata) == of
                && labels
                    .and_then(|labels| labels.get(SERVICE_NAME))
                    .is_some_and(|label| label == called)
        });
        let reaches = slices.any(|slice| {
            let serves = slice
                .ports
                .iter()
                .flatten()
                .any(|one| one.name.as_deref() == port.name.as_deref());
            let mut endpoints = slice.endpoints.iter().flatten();
            serves
                && endpoints.any(|one| {
                    one.conditions
                        .as_ref()
                        .and_then(|conditions| conditions.ready)
                        .unwrap_or(true)
                })
        });
        if !reaches {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.clone())
                .unwrap_or_default();
            let ready = view.istiods().filter(|pod| pod.facts.ready).count();
            findings.push(
                on("it has no ready endpoint for port 15012, though istiod is Ready")
                    .because(format!(
                        "spec.selector: {}; istiods that are Ready: {ready}",
                        written(&selector)
                    ))
                    .run(
                        Command::new("kubectl get endpointslices -o wide")
                            .namespace(of)
                            .words("-l")
                            .label(SERVICE_NAME, Some(called)),
                    )
                    .run(Command::new("kubectl get pods -l app=istiod --show-labels").namespace(of))
                    .by_hand("make the Service's selector fit istiod's labels; its chart has both right"),
            );
        }
    }
    findings
}

/// Whether a Service is for istiod's Deployment: it selects its pods, or names its revision and has a finding of its own.
fn is_led_to(view: &View<'_>, deployment: &Deployment, services: &[&Service]) -> bool {
    let mut pods = view
        .pods_of_istiod(deployment)
        .filter(|pod| pod.facts.ready)
        .peekable();
    if pods.peek().is_none() {
        return true;
    }
    let revision = View::revision_of_istiod(deployment);
    let pods: Vec<_> = pods.collect();
    services.iter().any(|service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| {
            selector.get(REVISION).is_some_and(|named| named == revision)
                || pods.iter().any(|pod| has_all(&pod.facts.labels, selector))
        })
    })
}

fn ambient_enabled(view: &View<'_>) -> Vec<Finding> {
    let mut asking: Vec<String> = view
        .namespaces()
        .filter(|(_, namespace)| {
            let labels = namespace.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get("istio.io/dataplane-mode"))
                .is_some_and(|mode| mode == "ambient")
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    asking.truncate(5);
    if asking.is_empty() {
        return Vec::new();
    }
    let asked = format!("labelled istio.io/dataplane-mode=ambient: {}", asking.join(", "));
    let mesh = || ObjectRef::cluster("Namespace", &view.istio);
    let effect = "these namespaces count on mTLS, and their pods speak plaintext";
    let mut findings = Vec::new();
    if view.ztunnel_sets().next().is_none() {
        findings.push(
            Finding::on(
                mesh(),
                "no ztunnel is installed, and namespaces ask for ambient mode",
            )
            .because(asked.clone())
            .because("no DaemonSet has pods with the label app=ztunnel")
            .so(effect)
            .by_hand(
                "Install ztunnel, of istiod's version, in the way in which istiod was installed: the chart ztunnel, the \
                 operator's ZTunnel, or `istioctl install` with all its settings and the profile ambient.",
            ),
        );
    }
    if view
        .snapshot
        .cni_config
        .had()
        .and_then(|config| config.get("AMBIENT_ENABLED"))
        .is_some_and(|on| on == "false")
    {
        let finding = Finding::on(
            mesh(),
            "istio-cni has ambient mode turned off, and namespaces ask for it",
        )
        .because(asked.clone())
        .because("ConfigMap istio-cni-config: AMBIENT_ENABLED=false")
        .so(effect);
        let set = view.cni_sets().next().map(|set| &set.metadata);
        findings.push(view.set_value(
            finding,
            set,
            ChartValue {
                chart: "cni",
                set: "ambient.enabled=true",
            },
        ));
    }
    findings.extend(istiod_switched_off(view, &asked));
    findings
}

/// Of several revisions one with ambient mode is enough.
fn istiod_switched_off(view: &View<'_>, asked: &str) -> Vec<Finding> {
    let said = |deployment: &Deployment| {
        let spec = deployment.spec.as_ref()?.template.spec.as_ref()?;
        switch(spec, ENABLE_AMBIENT, true)
    };
    let deployments: Vec<&Deployment> = view.istiod_deployments().collect();
    if deployments
        .iter()
        .any(|deployment| said(deployment) == Some(true))
    {
        return Vec::new();
    }
    let off = deployments.into_iter().map(|deployment| {
        let (of, called) = (namespace(&deployment.metadata), name(&deployment.metadata));
        let seen = match said(deployment) {
            Some(_) => format!("{ENABLE_AMBIENT}=false"),
            None => format!("{ENABLE_AMBIENT} is not set, and it is off by default"),
        };
        let finding = Finding::on(
            ObjectRef::new("Deployment", of, called),
            "istiod has ambient mode turned off",
        )
        .because(asked.to_owned())
        .because(seen)
        .so("istiod sends ztunnels no workloads: nothing gets an identity or mTLS");
        let value = ChartValue {
            chart: "istiod",
            set: "profile=ambient",
        };
        view.set_value(finding, Some(&deployment.metadata), value)
    });
    off.collect()
}

#[cfg(test)]
mod tests;
