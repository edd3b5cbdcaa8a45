// SPDX-License-Identifier: Apache-2.0
//! The kinds of Istio and of the Gateway API that checks read, as CustomResourceDefinitions are called.

pub(crate) const AUTHORIZATION: &str = "authorizationpolicies.security.istio.io";
pub(crate) const DESTINATION_RULE: &str = "destinationrules.networking.istio.io";
pub(crate) const ENVOY_FILTER: &str = "envoyfilters.networking.istio.io";
pub(crate) const GATEWAY: &str = "gateways.gateway.networking.k8s.io";
pub(crate) const GATEWAY_CLASS: &str = "gatewayclasses.gateway.networking.k8s.io";
pub(crate) const GRPC_ROUTE: &str = "grpcroutes.gateway.networking.k8s.io";
pub(crate) const HTTP_ROUTE: &str = "httproutes.gateway.networking.k8s.io";
pub(crate) const ISTIO_GATEWAY: &str = "gateways.networking.istio.io";
pub(crate) const PEER: &str = "peerauthentications.security.istio.io";
pub(crate) const REFERENCE_GRANT: &str = "referencegrants.gateway.networking.k8s.io";
pub(crate) const REQUEST: &str = "requestauthentications.security.istio.io";
pub(crate) const SERVICE_ENTRY: &str = "serviceentries.networking.istio.io";
pub(crate) const SIDECAR: &str = "sidecars.networking.istio.io";
pub(crate) const VIRTUAL_SERVICE: &str = "virtualservices.networking.istio.io";
pub(crate) const WASM_PLUGIN: &str = "wasmplugins.extensions.istio.io";
pub(crate) const WORKLOAD_ENTRY: &str = "workloadentries.networking.istio.io";
pub(crate) const WORKLOAD_GROUP: &str = "workloadgroups.networking.istio.io";
/// The routes of the Gateway API that istiod reads.
pub(crate) const ROUTES: &[&str] = &[
    GRPC_ROUTE,
    HTTP_ROUTE,
    "tcproutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
];
