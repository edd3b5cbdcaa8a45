// SPDX-License-Identifier: Apache-2.0
//! Lines in which ztunnel tells of itself: pods that come and go, and what keeps it from working.

use serde::Serialize;

use super::words::Fields;
use crate::text::clean;

/// Something that happened to ztunnel or to a pod's proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// istio-cni handed a pod over. This proves no capture: it is logged before a failure too.
    PodReceived {
        /// Its UID.
        uid: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// istio-cni told ztunnel to keep a pod. A ztunnel that just started has nothing to keep.
    PodKept {
        /// Its UID.
        uid: String,
    },
    /// istio-cni took a pod away.
    PodDeleted {
        /// Its UID.
        uid: String,
    },
    /// A pod's proxy could not start; ztunnel tries again for ever.
    StartFailed {
        /// The pod's UID.
        uid: String,
        /// Why.
        why: StartFailure,
    },
    /// A part of a proxy listens. The line does not say whose.
    ListenerEstablished {
        /// The address.
        address: String,
        /// Which part.
        component: String,
    },
    /// A part of a pod's proxy ended.
    ProxyEnded {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// Which part.
        component: String,
    },
    /// istio-cni connected.
    NodeAgentConnected,
    /// istio-cni told of all pods that it knows; those that it did not name lose their proxies.
    SnapshotReceived,
    /// istio-cni cannot be reached, or the connection to it broke.
    NodeAgentLost {
        /// ztunnel's words.
        detail: String,
    },
    /// istiod cannot be reached, or the connection to it broke.
    XdsFailed {
        /// ztunnel's words.
        detail: String,
    },
    /// No certificate could be had for a workload.
    CertificateFailed {
        /// ztunnel's words.
        detail: String,
    },
    /// Nothing is left to wait for.
    Ready,
}

/// Why a pod's proxy could not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// The port that could not be bound.
    pub port: Option<u16>,
    /// Whether somebody else holds it.
    pub in_use: bool,
    /// ztunnel's words.
    pub detail: String,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// [`Event::PodReceived`]
    PodReceived,
    /// [`Event::PodKept`]
    PodKept,
    /// [`Event::PodDeleted`]
    PodDeleted,
    /// [`Event::StartFailed`]
    StartFailed,
    /// [`Event::ListenerEstablished`]
    ListenerEstablished,
    /// [`Event::ProxyEnded`]
    ProxyEnded,
    /// [`Event::NodeAgentConnected`]
    NodeAgentConnected,
    /// [`Event::SnapshotReceived`]
    SnapshotReceived,
    /// [`Event::NodeAgentLost`]
    NodeAgentLost,
    /// [`Event::XdsFailed`]
    XdsFailed,
    /// [`Event::CertificateFailed`]
    CertificateFailed,
    /// [`Event::Ready`]
    Ready,
}

impl Event {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Self::PodReceived { .. } => EventKind::PodReceived,
            Self::PodKept { .. } => EventKind::PodKept,
            Self::PodDeleted { .. } => EventKind::PodDeleted,
            Self::StartFailed { .. } => EventKind::StartFailed,
            Self::ListenerEstablished { .. } => EventKind::ListenerEstablished,
            Self::ProxyEnded { .. } => EventKind::ProxyEnded,
            Self::NodeAgentConnected => EventKind::NodeAgentConnected,
            Self::SnapshotReceived => EventKind::SnapshotReceived,
            Self::NodeAgentLost { .. } => EventKind::NodeAgentLost,
            Self::XdsFailed { .. } => EventKind::XdsFailed,
            Self::CertificateFailed { .. } => EventKind::CertificateFailed,
            Self::Ready => EventKind::Ready,
        }
    }
}

/// What is kept of ztunnel's words.
const DETAIL_LIMIT: usize = 300;
/// Longer than any UID, name or address.
const NAME_LIMIT: usize = 253;

const STATE: &str = "inpod::statemanager";
const MANAGER: &str = "inpod::workloadmanager";
const XDS: &str = "xds::client";
const CERTIFICATES: &str = "identity::manager";
const READINESS: &str = "readiness";
const DRAIN: &str = "drain";

const RETRY_FAILED: &str = "retrying workload failed: ";
const START_FAILED: &str = "failed to start proxy: ";
/// How the ways to lose istio-cni begin.
const AGENT_LOST: [&str; 4] = [
    "failed to connect to the Istio CNI node agent ",
    "node agent announcement failed ",
    "process stream ended: ",
    "protocol mismatch error while processing stream",
];
const XDS_FAILED: [&str; 2] = ["XDS client connection error: ", "XDS client error: "];

/// Whether a line is worth the reading of its fields.
pub(super) fn may_be(scope: &str) -> bool {
    matches!(scope, STATE | MANAGER | XDS | CERTIFICATES | READINESS | DRAIN) || scope.starts_with("proxy::")
}

/// The event that a line tells of. Scope and message together decide: a message alone may be anybody's words.
pub(super) fn recognise(scope: &str, message: &str, fields: &dyn Fields) -> Option<Event> {
    let field = |key: &str| fields.get(key).map(|value| clean(&value, NAME_LIMIT));
    let begins = |with: &[&str]| with.iter().any(|prefix| message.starts_with(prefix));
    let detail = || clean(message, DETAIL_LIMIT);
    Some(match (scope, message) {
        (STATE, "pod received, starting proxy") => Event::PodReceived {
            uid: field("uid")?,
            namespace: field("namespace")?,
            name: field("name")?,
        },
        (STATE, "pod keep received. will not delete it when snapshot is sent") => {
            Event::PodKept { uid: field("uid")? }
        }
        (STATE, "pod delete request, shutting down proxy") => Event::PodDeleted { uid: field("uid")? },
        (STATE, "received snapshot sent") => Event::SnapshotReceived,
        (STATE, _) => Event::StartFailed {
            why: StartFailure::parse(message.strip_prefix(RETRY_FAILED)?),
            uid: field("uid")?,
        },
        (MANAGER, "handling new stream") => Event::NodeAgentConnected,
        (MANAGER, _) if begins(&AGENT_LOST) => Event::NodeAgentLost { detail: detail() },
        (MANAGER, _) => Event::StartFailed {
            why: StartFailure::parse(message.strip_prefix(START_FAILED)?),
            uid: field("uid")?,
        },
        (DRAIN, "shutdown complete") => {
            let workload = fields.in_span("proxy", "wl")?;
            let (namespace, name) = workload.split_once('/')?;
            Event::ProxyEnded {
                namespace: clean(namespace, NAME_LIMIT),
                name: clean(name, NAME_LIMIT),
                component: field("component")?,
            }
        }
        (XDS, _) if begins(&XDS_FAILED) => Event::XdsFailed { detail: detail() },
        (CERTIFICATES, _) if begins(&["certificate fetch failed "]) => {
            Event::CertificateFailed { detail: detail() }
        }
        (READINESS, _) if message.ends_with(", marking server ready") => Event::Ready,
        (_, "listener established") if scope.starts_with("proxy::") => Event::ListenerEstablished {
            address: field("address")?,
            component: field("component")?,
        },
        _ => return None,
    })
}

impl StartFailure {
    /// `Bind([::]:15006, Os { code: 98, kind: AddrInUse, … })` or `failed to bind to address [::]:15006: …`.
    fn parse(text: &str) -> Self {
        let address = text
            .strip_prefix("Bind(")
            .and_then(|rest| rest.split_once(','))
            .or_else(|| {
                let rest = text.strip_prefix("failed to bind to address ")?;
                rest.split_once(": ")
            });
        Self {
            port: address
                .and_then(|(address, _)| address.parse::<std::net::SocketAddr>().ok())
                .map(|address| address.port()),
            in_use: address
                .is_some_and(|(_, why)| why.contains("kind: AddrInUse") || why.ends_with("(os error 98)")),
            detail: clean(text, DETAIL_LIMIT),
        }
    }
}
