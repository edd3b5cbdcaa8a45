// SPDX-License-Identifier: Apache-2.0
//! Which access lines accuse a pod, and which only look as if they did.

use jiff::Timestamp;
use serde::Serialize;

use super::HBONE_PORT;
use super::access::{Access, Direction, Failure, Peer, Tunnel};
use super::directory::{Directory, Pod, Role};

/// What a line accuses a pod of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signature {
    /// istiod tells that it takes HBONE, and it refused. A NetworkPolicy that rejects looks the same.
    HboneRefused,
    /// It spoke plaintext to a captured pod, and was let in.
    PlaintextAdmitted,
    /// It spoke plaintext to a captured pod, and a policy that asks for identities turned it away.
    PlaintextRejected,
    /// It spoke plaintext to a captured pod, and STRICT mTLS turned it away.
    PlaintextStrict,
    /// Its ztunnel listens, but nothing that it passes on reaches the app.
    InboundHangs,
}

/// What is probably wrong with a pod that is accused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suspicion {
    /// ztunnel does not take its connections.
    NotCaptured,
    /// What it sends bypasses ztunnel: not captured, or listeners without rules.
    Bypasses,
    /// Listeners without rules.
    NotRedirected,
}

impl Signature {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::HboneRefused,
        Self::PlaintextAdmitted,
        Self::PlaintextRejected,
        Self::PlaintextStrict,
        Self::InboundHangs,
    ];

    /// What it makes one suspect.
    #[must_use]
    pub fn suspicion(self) -> Suspicion {
        match self {
            Self::HboneRefused => Suspicion::NotCaptured,
            Self::PlaintextAdmitted | Self::PlaintextRejected | Self::PlaintextStrict => Suspicion::Bypasses,
            Self::InboundHangs => Suspicion::NotRedirected,
        }
    }

    /// Its name, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HboneRefused => "hbone-refused",
            Self::PlaintextAdmitted => "plaintext-admitted",
            Self::PlaintextRejected => "plaintext-rejected",
            Self::PlaintextStrict => "plaintext-strict",
            Self::InboundHangs => "inbound-hangs",
        }
    }

    /// What was seen, in plain words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::HboneRefused => "it refused HBONE connections, which a captured pod takes",
            Self::PlaintextAdmitted => "it sent plaintext to a captured pod, without an identity",
            Self::PlaintextRejected => {
                "it sent plaintext, without an identity, and an authorization policy rejected it"
            }
            Self::PlaintextStrict => "it sent plaintext, without an identity, and STRICT mTLS rejected it",
            Self::InboundHangs => "ztunnel took connections for it that never reached its app",
        }
    }
}

/// What is kept apart because it only looks like a signature, or is another fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Apart {
    /// A waypoint or a gateway refused, not a pod.
    Waypoint,
    /// Something outside the mesh refused.
    OutsideRefused,
    /// A plaintext connection to a pod that should be in the mesh, but istiod does not tell that it is.
    NotEnrolled,
    /// A policy rejected an identity: the source is captured.
    PolicyByIdentity,
    /// Nothing came back from port 15008.
    NetworkPolicyTimeout,
    /// The app does not listen.
    AppPortClosed,
    /// The app was not reached for another reason.
    AppUnreachable,
    /// Nobody has the destination's address.
    AddressGone,
    /// Plaintext from a client that nobody expects in the mesh.
    UnmeshedClient,
    /// The address is a node's, and so whoever's.
    HostNetwork,
    /// A destination that no longer belongs to the mesh.
    DestinationExempt,
    /// A destination that is no pod of this cluster, or not any more.
    UnknownDestination,
    /// The address belongs to another pod than the line names.
    AddressReused,
    /// The pod of that name has another address.
    StaleAddress,
    /// It was said before the pod was created.
    BeforeCreation,
    /// A pod that spoke to itself.
    Itself,
    /// The other end showed another identity than expected.
    WrongIdentity,
    /// TLS could not be agreed on.
    TlsHandshake,
    /// A certificate was revoked.
    Revoked,
    /// It would have come back to ztunnel.
    Recursion,
    /// ztunnel ended, or the pod left it.
    Drain,
    /// A policy changed while the connection was open.
    PolicyChange,
    /// ztunnel knows nothing of its own pod.
    LocalUnknown,
    /// No certificate could be had.
    Identity,
    /// A name was not resolved.
    Dns,
    /// Another failure.
    OtherFailure,
}

/// What an access line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'d> {
    /// It accuses this pod.
    Accuses(&'d Pod, Signature),
    /// It looks alike, or tells of another fault.
    Apart(Apart),
    /// All is well.
    Fine,
}

/// What istiod names its policies of STRICT mode. No policy of a user can be called so: names have no `_`.
const STRICT: &str = "istio_converted_static_strict";
const STRICT_PREFIX: &str = "converted_peer_authentication_";

/// Says which pod an access line accuses, if any.
#[must_use]
pub fn classify<'d>(access: &Access, directory: &'d dyn Directory) -> Verdict<'d> {
    let judged = match access.direction {
        // Such a line names nobody, so it cannot accuse anybody, nor tell whether there was an identity.
        _ if access.early => Err(match access.failure() {
            Some(Failure::Rejected { .. }) => Some(Apart::OtherFailure),
            failure => of_failure(failure),
        }),
        Direction::Outbound => outbound(access, directory),
        Direction::Inbound => inbound(access, directory),
    };
    match judged {
        Ok((pod, signature)) => Verdict::Accuses(pod, signature),
        Err(Some(apart)) => Verdict::Apart(apart),
        Err(None) => Verdict::Fine,
    }
}

type Judged<'d> = Result<(&'d Pod, Signature), Option<Apart>>;

fn outbound<'d>(access: &Access, directory: &'d dyn Directory) -> Judged<'d> {
    let (source, destination) = (&access.source, &access.destination);
    let pod = || resolve(destination, access.opened(), directory);
    match access.failure() {
        None if access.hbone.is_none() && destination.workload.is_some() => {
            // istiod calls enrolled what istio-cni annotated; what it should have annotated is another matter.
            Err(pod().is_ok().then_some(Apart::NotEnrolled))
        }
        Some(Failure::Refused) => {
            let Some(tunnel) = &access.hbone else {
                return Err(Some(Apart::OutsideRefused));
            };
            if destination.address.port() != HBONE_PORT
                || source.identity.is_none()
                || destination.identity.is_none()
            {
                return Err(Some(Apart::OtherFailure));
            }
            // Whoever takes HBONE for another address, or for a service, stands before pods.
            let direct = matches!(tunnel, Tunnel::Address(to) if to.ip().to_canonical() == destination.ip());
            if !direct {
                return Err(Some(Apart::Waypoint));
            }
            match pod() {
                Ok(pod) => Ok((pod, Signature::HboneRefused)),
                Err(unfit) => Err(Some(unfit.destination_name())),
            }
        }
        failure => Err(of_failure(failure)),
    }
}

fn inbound<'d>(access: &Access, directory: &'d dyn Directory) -> Judged<'d> {
    let (source, destination) = (&access.source, &access.destination);
    let failure = access.failure();
    // A tunnel whose client showed no identity that ztunnel understands is still no plaintext.
    if access.hbone.is_some() || source.identity.is_some() || destination.identity.is_some() {
        if failure != Some(Failure::AppHangs) {
            return Err(of_failure(failure));
        }
        return match resolve(destination, access.opened(), directory) {
            Ok(pod) => Ok((pod, Signature::InboundHangs)),
            Err(unfit) => Err(Some(unfit.destination_name())),
        };
    }
    let signature = match failure {
        // What broke when it was open had been let in.
        None | Some(Failure::Broke) => Signature::PlaintextAdmitted,
        Some(Failure::Rejected { by }) => match by.and_then(|policy| policy.split_once('/')) {
            Some((_, name)) if name == STRICT || name.starts_with(STRICT_PREFIX) => {
                Signature::PlaintextStrict
            }
            _ => Signature::PlaintextRejected,
        },
        other => return Err(of_failure(other)),
    };
    if source.ip() == destination.ip() {
        return Err(Some(Apart::Itself));
    }
    match resolve(source, access.opened(), directory) {
        Ok(pod) => Ok((pod, signature)),
        Err(unfit) => Err(Some(unfit.source_name())),
    }
}

/// Why an end of a connection is no pod that could be accused.
enum Unfit {
    /// No pod has the address.
    NoPod,
    /// No pod has the address, and the pod of that name another one.
    Moved,
    /// Another pod than the one named has the address.
    Reused,
    /// It was opened before the pod existed.
    Earlier,
    /// The address is its node's.
    HostNetwork,
    /// It is a waypoint or a gateway.
    Waypoint,
    /// Nobody wants it captured.
    Exempt,
}

impl Unfit {
    /// What it is called where the pod was the source.
    fn source_name(self) -> Apart {
        match self {
            Self::NoPod | Self::Exempt | Self::Waypoint => Apart::UnmeshedClient,
            Self::Moved => Apart::StaleAddress,
            Self::Reused => Apart::AddressReused,
            Self::Earlier => Apart::BeforeCreation,
            Self::HostNetwork => Apart::HostNetwork,
        }
    }

    /// What it is called where the pod was the destination.
    fn destination_name(self) -> Apart {
        match self {
            Self::NoPod => Apart::UnknownDestination,
            Self::Exempt => Apart::DestinationExempt,
            Self::Waypoint => Apart::Waypoint,
            Self::Moved | Self::Reused | Self::Earlier | Self::HostNetwork => self.source_name(),
        }
    }
}

/// The pod at one end of a connection, if it should be captured and the line can mean it.
fn resolve<'d>(peer: &Peer, opened: Timestamp, directory: &'d dyn Directory) -> Result<&'d Pod, Unfit> {
    let Some(pod) = directory.pod_by_ip(peer.ip()) else {
        let named = peer.namespace.as_deref().zip(peer.workload.as_deref());
        let moved = named.is_some_and(|(namespace, name)| directory.pod_by_name(namespace, name).is_some());
        return Err(if moved { Unfit::Moved } else { Unfit::NoPod });
    };
    if pod.role == Role::HostNetwork {
        return Err(Unfit::HostNetwork);
    }
    let other = |said: &Option<String>, is: &str| said.as_deref().is_some_and(|said| said != is);
    if other(&peer.workload, &pod.id.name) || other(&peer.namespace, &pod.id.namespace) {
        return Err(Unfit::Reused);
    }
    if pod.created.is_some_and(|created| opened < created) {
        return Err(Unfit::Earlier);
    }
    match pod.role {
        Role::Expected => Ok(pod),
        Role::Waypoint => Err(Unfit::Waypoint),
        Role::HostNetwork => Err(Unfit::HostNetwork),
        Role::Exempt => Err(Unfit::Exempt),
    }
}

/// What a failure is called where it accuses nobody.
fn of_failure(failure: Option<Failure<'_>>) -> Option<Apart> {
    Some(match failure? {
        Failure::Refused => Apart::OutsideRefused,
        Failure::NoRoute => Apart::AddressGone,
        Failure::NetworkPolicy => Apart::NetworkPolicyTimeout,
        // The source's ztunnel gets this for a closed port, and cannot know of other reasons.
        Failure::AppRefused | Failure::Status(503) => Apart::AppPortClosed,
        Failure::AppHangs | Failure::AppUnreachable => Apart::AppUnreachable,
        Failure::Rejected { .. } | Failure::Status(401) => Apart::PolicyByIdentity,
        Failure::PolicyChange => Apart::PolicyChange,
        Failure::LocalUnknown => Apart::LocalUnknown,
        Failure::Identity => Apart::Identity,
        Failure::WrongIdentity => Apart::WrongIdentity,
        Failure::Revoked => Apart::Revoked,
        Failure::Recursion => Apart::Recursion,
        Failure::Drain => Apart::Drain,
        Failure::Dns => Apart::Dns,
        Failure::Tls => Apart::TlsHandshake,
        Failure::Status(_) | Failure::Broke | Failure::Other => Apart::OtherFailure,
    })
}
