// SPDX-License-Identifier: Apache-2.0
//! Wishes for a waypoint that nobody can meet.

use crate::doctor::kind::{SERVICE_ENTRY, WORKLOAD_ENTRY};
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::snapshot::Custom;
use crate::doctor::view::bindings::denied_service;
use crate::doctor::view::gateways::{
    Asked, Binding, Level, Traffic, WAYPOINT_FOR, asked, of_metadata, reference, service_ref,
};
use crate::doctor::view::{View, endpoints, name, namespace};

/// Somebody who asks for a waypoint.
pub(super) struct Asker<'s> {
    pub(super) object: ObjectRef,
    pub(super) workload: Option<ObjectRef>,
    pub(super) metadata: &'s ObjectMeta,
    pub(super) traffic: Traffic,
    pub(super) binding: Binding<'s>,
}

/// Everybody who asks by a label of its own, and the namespaces that ask for all in them. istiod's own word on an
/// object goes before ours.
pub(super) fn askers<'s>(view: &View<'s>) -> Vec<Asker<'s>> {
    let mut all = Vec::new();
    for (called, of) in view.namespaces() {
        if has_own(&of.metadata) {
            let metadata = &of.metadata;
            let binding = of_namespace(view, called, metadata);
            all.push(Asker {
                object: ObjectRef::cluster("Namespace", called),
                workload: None,
                metadata,
                traffic: Traffic::Service,
                binding,
            });
        }
    }
    for service in view.snapshot.services.all() {
        let metadata = &service.metadata;
        if has_own(metadata) && denied_service(view, service).is_none() {
            let binding = of_metadata(view, metadata, Traffic::Service);
            all.push(Asker {
                object: service_ref(service),
                workload: None,
                metadata,
                traffic: Traffic::Service,
                binding,
            });
        }
    }
    for (kind, traffic) in [
        (SERVICE_ENTRY, Traffic::Service),
        (WORKLOAD_ENTRY, Traffic::Workload),
    ] {
        for entry in view
            .custom(kind)
            .iter()
            .filter(|entry| has_own(&entry.metadata) && !is_denied(entry))
        {
            let metadata = &entry.metadata;
            let binding = of_metadata(view, metadata, traffic);
            all.push(Asker {
                object: reference(entry),
                workload: None,
                metadata,
                traffic,
                binding,
            });
        }
    }
    for pod in view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && endpoints::is_captured(pod))
    {
        let metadata = &pod.pod.metadata;
        if has_own(metadata) {
            let binding = of_metadata(view, metadata, Traffic::Workload);
            let workload = pod.workload.clone();
            all.push(Asker {
                object: pod.object(),
                workload,
                metadata,
                traffic: Traffic::Workload,
                binding,
            });
        }
    }
    all
}

fn has_own(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.iter().flatten();
    labels
        .into_iter()
        .any(|(key, value)| key == endpoints::USE_WAYPOINT && value != "none")
}

fn is_denied(entry: &Custom) -> bool {
    let mut conditions = entry.status.conditions.iter();
    conditions.any(|one| one.kind == "istio.io/WaypointBound" && one.is_false(entry.metadata.generation))
}

/// What a namespace asks for is for its Services and its workloads: a waypoint for either will do.
fn of_namespace<'s>(view: &View<'s>, called: &str, metadata: &ObjectMeta) -> Binding<'s> {
    let of = ObjectMeta {
        namespace: Some(called.to_owned()),
        labels: metadata.labels.clone(),
        ..ObjectMeta::default()
    };
    match of_metadata(view, &of, Traffic::Service) {
        Binding::OtherTraffic(..) => of_metadata(view, &of, Traffic::Workload),
        binding => binding,
    }
}

pub(super) fn missing(view: &View<'_>) -> Vec<Finding> {
    found(view, |asker| match &asker.binding {
        Binding::Missing(wish) => Some((
            "it asks for a waypoint that does not exist",
            format!(
                "{} names Gateway {}, which is not there",
                endpoints::USE_WAYPOINT,
                wish.path()
            ),
        )),
        _ => None,
    })
}

pub(super) fn other_traffic(view: &View<'_>) -> Vec<Finding> {
    found(view, |asker| match &asker.binding {
        Binding::OtherTraffic(wish, gateway) => Some((
            "it asks for a waypoint that is for other traffic",
            format!(
                "Gateway {} has {WAYPOINT_FOR}: {}, and what goes to a {} is traffic of the kind {}",
                wish.path(),
                crate::doctor::view::gateways::serves(view, gateway),
                asker.object.kind,
                asker.traffic.as_str()
            ),
        )),
        _ => None,
    })
}

pub(super) fn refused(view: &View<'_>) -> Vec<Finding> {
    found(view, |asker| match &asker.binding {
        Binding::Refused(wish, _) => Some((
            "it asks for a waypoint that takes no workload of its namespace",
            format!(
                "Gateway {} is of another namespace, and its listener of HBONE does not allow routes from this one",
                wish.path()
            ),
        )),
        _ => None,
    })
}

fn found(view: &View<'_>, judge: impl Fn(&Asker<'_>) -> Option<(&'static str, String)>) -> Vec<Finding> {
    let mut findings: BTreeMap<ObjectRef, Finding> = BTreeMap::new();
    for asker in askers(view) {
        let Some((problem, evidence)) = judge(&asker) else {
            continue;
        };
        // One finding for each workload, not for each of its pods.
        let key = asker.workload.clone().unwrap_or_else(|| asker.object.clone());
        let finding = Finding::on(asker.object.clone(), problem)
            .of(asker.workload.clone())
            .because(evidence)
            .so("What is sent to it goes past any waypoint: no route, no policy and no check of HTTP is in force for it.");
        findings.entry(key).or_insert_with(|| {
            remedy(
                view,
                finding,
                asker.binding.clone(),
                asker.metadata,
                asker.traffic,
            )
        });
    }
    findings.into_values().collect()
}

/// What gives something the waypoint that it asks for.
pub(in crate::doctor::checks) fn remedy(
    view: &View<'_>,
    finding: Finding,
    binding: Binding<'_>,
    metadata: &ObjectMeta,
    traffic: Traffic,
) -> Finding {
    match binding {
        Binding::None => finding.by_hand("Give it, or its namespace, the label istio.io/use-waypoint again."),
        Binding::Missing(wish) => {
            let make = Command::new("istioctl waypoint apply --wait --name").name(&wish.name).namespace(&wish.namespace);
            let make = match traffic {
                Traffic::Service => make,
                Traffic::Workload => make.words("--for workload"),
            };
            finding.run(revised(view, &wish, make)).by_hand(
                "If another waypoint is meant, correct the label istio.io/use-waypoint; without any, take it away.",
            )
        }
        Binding::Refused(wish, _) => {
            let of = match namespace(metadata) {
                "" => name(metadata),
                of => of,
            };
            finding.by_hand(format!(
                "In Gateway {}, let the listener of port 15008 take it: allowedRoutes.namespaces with from: All, or with a \
                 selector of namespace {of}. Or give {of} a waypoint of its own, by istioctl waypoint apply, and name that.",
                wish.path()
            ))
        }
        Binding::OtherTraffic(wish, _) => finding.run(
            Command::new("kubectl label gateways.gateway.networking.k8s.io --overwrite")
                .namespace(&wish.namespace)
                .name(&wish.name)
                .label(WAYPOINT_FOR, Some("all")),
        ),
        Binding::Bound(wish, _) => finding
            .run(
                Command::new("kubectl get pods")
                    .namespace(&wish.namespace)
                    .option("-l", &format!("gateway.networking.k8s.io/gateway-name={}", wish.name)),
            )
            .run(
                Command::new("kubectl describe gateways.gateway.networking.k8s.io")
                    .namespace(&wish.namespace)
                    .name(&wish.name),
            )
            .by_hand(
                "A waypoint is taken into use once its Gateway has an address: see what its pods or istiod lack.",
            ),
    }
}

/// A waypoint of a namespace with a revision is made for that revision, or the istiod that is meant does not see it.
fn revised(view: &View<'_>, wish: &Asked, command: Command) -> Command {
    match view.namespace_labels(&wish.namespace).get("istio.io/rev") {
        Some(revision) => command.words("--revision").name(revision),
        None => command,
    }
}

/// Whether anything asks for a waypoint and gets this one.
pub(super) fn is_asked_for(view: &View<'_>, askers: &[Asker<'_>], gateway: &Custom) -> bool {
    let inherited = || {
        view.namespaces().any(|(called, of)| {
            let labels = of.metadata.labels.clone().unwrap_or_default();
            let wish = asked(view, &labels, called);
            wish.is_some_and(|wish| {
                wish.level == Level::Own
                    && wish.name == gateway.name()
                    && wish.namespace == gateway.namespace()
            })
        })
    };
    let bound =
        |asker: &Asker<'_>| matches!(&asker.binding, Binding::Bound(_, to) if std::ptr::eq(*to, gateway));
    askers.iter().any(bound) || inherited()
}
