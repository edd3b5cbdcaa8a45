// SPDX-License-Identifier: Apache-2.0
//! Gateways of the Gateway API, and which of them is the waypoint of whom, as istiod decides it.

use crate::doctor::kind::{GATEWAY, GATEWAY_CLASS};
use std::borrow::Cow;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use meshmedic_common::facts::Labels;
use serde_json::Value;

use super::{PodView, View, endpoints, name, namespace};
use crate::doctor::finding::ObjectRef;
use crate::doctor::snapshot::{Custom, Part};

/// The label that names the namespace of a waypoint, where it is another.
pub(crate) const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// The label that says for what a waypoint is.
pub(crate) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// The label that sends what ingress gateways forward to the waypoint as well.
pub(crate) const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
/// The label of a pod that names the Gateway it was made for.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// How the names of Istio's own controllers begin.
pub(crate) const OF_ISTIO: &str = "istio.io/";
/// The classes that Istio makes, and their controllers, for those who may not list classes.
const CLASSES: [(&str, &str); 6] = [
    ("istio", "istio.io/gateway-controller"),
    ("istio-agentgateway", "istio.io/agentgateway-controller"),
    (
        "istio-agentgateway-waypoint",
        "istio.io/agentgateway-waypoint-controller",
    ),
    ("istio-east-west", "istio.io/eastwest-controller"),
    ("istio-remote", "istio.io/unmanaged-gateway"),
    ("istio-waypoint", "istio.io/mesh-controller"),
];
const WAYPOINT_CONTROLLERS: [&str; 2] = [
    "istio.io/mesh-controller",
    "istio.io/agentgateway-waypoint-controller",
];
/// Where waypoints listen for the mesh.
const HBONE: (&str, i64) = ("HBONE", 15008);

/// Who asks for a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The object itself, by its label.
    Own,
    /// Its namespace, for all in it.
    Namespace,
}

/// The waypoint that labels ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) level: Level,
}

impl Asked {
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What becomes of the wish for a waypoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Binding<'s> {
    /// Nobody asks for one.
    None,
    Bound(Asked, &'s Custom),
    /// It does not exist.
    Missing(Asked),
    /// It takes nobody of that namespace.
    Refused(Asked, &'s Custom),
    /// It is for another kind of traffic.
    OtherTraffic(Asked, &'s Custom),
}

/// What is sent to a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    Service,
    Workload,
}

impl Traffic {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

/// The waypoint that labels ask for, their own before those of their namespace; none where they opt out.
pub(crate) fn asked(view: &View<'_>, labels: &Labels, of: &str) -> Option<Asked> {
    let wish = |labels: &Labels, level| {
        let name = labels.get(endpoints::USE_WAYPOINT)?;
        let namespace = labels.get(USE_WAYPOINT_NAMESPACE).map_or(of, String::as_str);
        Some((name.clone(), namespace.to_owned(), level))
    };
    let (name, namespace, level) =
        wish(labels, Level::Own).or_else(|| wish(view.namespace_labels(of), Level::Namespace))?;
    (name != "none").then_some(Asked {
        namespace,
        name,
        level,
    })
}

/// The waypoint before a Service.
pub(crate) fn of_service<'s>(view: &View<'s>, service: &Service) -> Binding<'s> {
    of_metadata(view, &service.metadata, Traffic::Service)
}

/// The waypoint before an object that is sent to as a Service or as a workload.
pub(crate) fn of_metadata<'s>(view: &View<'s>, metadata: &ObjectMeta, traffic: Traffic) -> Binding<'s> {
    let labels = metadata
        .labels
        .as_ref()
        .map_or(Cow::Owned(Labels::new()), Cow::Borrowed);
    // A waypoint and a gateway between clusters have none themselves.
    let managed = labels.get("gateway.istio.io/managed").map(String::as_str);
    if matches!(
        managed,
        Some("istio.io-mesh-controller" | "istio.io-eastwest-controller")
    ) {
        return Binding::None;
    }
    match asked(view, &labels, namespace(metadata)) {
        Some(asked) => bind(view, asked, namespace(metadata), traffic),
        None => Binding::None,
    }
}

fn bind<'s>(view: &View<'s>, asked: Asked, from: &str, traffic: Traffic) -> Binding<'s> {
    let Some(gateway) = find(view, &asked.namespace, &asked.name) else {
        return Binding::Missing(asked);
    };
    if !admits(view, gateway, from) {
        return Binding::Refused(asked, gateway);
    }
    match serves(view, gateway) {
        served if served == "all" || served == traffic.as_str() => Binding::Bound(asked, gateway),
        _ => Binding::OtherTraffic(asked, gateway),
    }
}

pub(crate) fn find<'s>(view: &View<'s>, of: &str, called: &str) -> Option<&'s Custom> {
    let mut gateways = view.custom(GATEWAY).iter();
    gateways.find(|gateway| gateway.namespace() == of && gateway.name() == called)
}

/// Whether Gateways could be listed at all: of those that could not nobody knows whether one is missing.
pub(crate) fn are_known(view: &View<'_>) -> bool {
    matches!(view.snapshot.custom.get(GATEWAY), Some(Part::Had(_)))
}

/// The controller of a Gateway's class.
pub(crate) fn controller<'v>(view: &View<'v>, gateway: &Custom) -> Option<&'v str> {
    let class = gateway.text("/gatewayClassName")?;
    let listed = view.custom(GATEWAY_CLASS).iter().find(|one| one.name() == class);
    let listed = listed.and_then(|class| class.text("/controllerName"));
    let usual = || {
        CLASSES
            .iter()
            .find(|(name, _)| *name == class)
            .map(|(_, controller)| *controller)
    };
    listed.or_else(usual)
}

/// Whether istiod runs it: the Gateways of others are none of ours.
pub(crate) fn is_of_istio(view: &View<'_>, gateway: &Custom) -> bool {
    controller(view, gateway).is_some_and(|controller| controller.starts_with(OF_ISTIO))
}

/// Whether it is a waypoint that istiod runs.
pub(crate) fn is_waypoint(view: &View<'_>, gateway: &Custom) -> bool {
    controller(view, gateway).is_some_and(|controller| WAYPOINT_CONTROLLERS.contains(&controller))
}

/// Whether it lets traffic in from outside the mesh.
pub(crate) fn is_ingress(view: &View<'_>, gateway: &Custom) -> bool {
    let controller = controller(view, gateway);
    matches!(
        controller,
        Some("istio.io/gateway-controller" | "istio.io/agentgateway-controller")
    )
}

/// The pods that istiod made for a Gateway, those that live.
pub(crate) fn pods<'a, 's>(
    view: &'a View<'s>,
    gateway: &'a Custom,
) -> impl Iterator<Item = &'a PodView<'s>> + use<'a, 's> {
    let ours = |pod: &&PodView<'_>| {
        pod.is_live()
            && pod
                .facts
                .labels
                .get(GATEWAY_NAME)
                .is_some_and(|name| name == gateway.name())
    };
    view.pods_in(gateway.namespace()).filter(ours)
}

/// What a waypoint is for: its own label before its class's.
pub(crate) fn serves<'v>(view: &View<'v>, gateway: &'v Custom) -> &'v str {
    let label = |object: &'v Custom| Some(object.metadata.labels.as_ref()?.get(WAYPOINT_FOR)?.as_str());
    let class = gateway.text("/gatewayClassName");
    let class = view
        .custom(GATEWAY_CLASS)
        .iter()
        .find(|one| Some(one.name()) == class);
    label(gateway)
        .or_else(|| class.and_then(label))
        .unwrap_or("service")
}

/// Whether a waypoint takes what is in a namespace: by its listener of HBONE, and by none only its own namespace.
fn admits(view: &View<'_>, gateway: &Custom, from: &str) -> bool {
    let hbone = gateway.list("/listeners").iter().find(|listener| {
        listener.get("protocol").and_then(Value::as_str) == Some(HBONE.0)
            && listener.get("port").and_then(Value::as_i64) == Some(HBONE.1)
    });
    // A waypoint of another vendor may listen otherwise, and says so by an annotation whose value is not kept.
    let bound = gateway.metadata.annotations.iter().flatten();
    if hbone.is_none()
        && bound
            .into_iter()
            .any(|(key, _)| key == "ambient.istio.io/waypoint-inbound-binding")
    {
        return true;
    }
    let allowed = hbone.and_then(|listener| listener.pointer("/allowedRoutes/namespaces"));
    match allowed.and_then(|allowed| allowed.get("from")?.as_str()) {
        Some("All") => true,
        Some("Selector") => {
            let selector = allowed.and_then(|allowed| allowed.get("selector")).cloned();
            let selector = selector.and_then(|one| serde_json::from_value::<LabelSelector>(one).ok());
            selector.is_some_and(|selector| selects(&selector, view.namespace_labels(from)))
        }
        _ => gateway.namespace() == from,
    }
}

/// Whether a selector of the API selects these labels.
pub(crate) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.into_iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let among = value.is_some_and(|value| wanted.values.iter().flatten().any(|one| one == value));
            match wanted.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether this looks like one cluster of several: what is not here may then be in another.
pub(crate) fn is_of_several_clusters(view: &View<'_>) -> bool {
    let network = view
        .namespace_labels(&view.istio)
        .contains_key("topology.istio.io/network");
    let between = |gateway: &Custom| {
        let class = gateway.text("/gatewayClassName");
        matches!(class, Some("istio-east-west" | "istio-remote"))
    };
    let global = |service: &Service| {
        let labels = service.metadata.labels.iter().flatten();
        labels
            .into_iter()
            .any(|(key, _)| key == "istio.io/global" || key == "topology.istio.io/network")
    };
    // A cluster that is one of several has a name of its own. That it is another is all that is kept of it.
    let named = view.istiods().any(|pod| {
        let variables = endpoints::containers(pod.pod).flat_map(|container| container.env.iter().flatten());
        let mut ids = variables.filter(|variable| variable.name == "CLUSTER_ID");
        ids.any(|id| id.value.as_deref() != Some("Kubernetes"))
    });
    network
        || named
        || view.custom(GATEWAY).iter().any(between)
        || view.snapshot.services.all().iter().any(global)
}

/// A Service, as findings name it.
pub(crate) fn service_ref(service: &Service) -> ObjectRef {
    ObjectRef::new("Service", namespace(&service.metadata), name(&service.metadata))
}

/// An object of Istio or the Gateway API, as findings name it.
pub(crate) fn reference(object: &Custom) -> ObjectRef {
    match object.namespace() {
        "" => ObjectRef::cluster(&object.kind, object.name()),
        namespace => ObjectRef::new(&object.kind, namespace, object.name()),
    }
}
