// SPDX-License-Identifier: Apache-2.0
//! Who spoke to whom, where the two ends together tell more than each alone.

use super::access::{Access, Peer};
use super::classify::{Apart, Signature, Verdict};
use crate::text::clean;

/// Longer than any name of a pod with its namespace.
const NAME_LIMIT: usize = 320;

/// What is worth a word of two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// Nothing came back from port 15008: some policy may drop it between just these two.
    HboneTimeout,
    /// Plaintext came to a captured pod, and was let in or not: STRICT would turn it away.
    Plaintext,
}

/// Two ends of connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Why they are named.
    pub kind: LinkKind,
    /// `namespace/name` of the pod, else its address.
    pub source: String,
    /// The same.
    pub destination: String,
}

impl Link {
    pub(super) fn of(access: &Access, verdict: &Verdict<'_>) -> Option<Self> {
        let kind = match verdict {
            Verdict::Apart(Apart::NetworkPolicyTimeout) => LinkKind::HboneTimeout,
            Verdict::Apart(Apart::UnmeshedClient)
            | Verdict::Accuses(
                _,
                Signature::PlaintextAdmitted | Signature::PlaintextRejected | Signature::PlaintextStrict,
            ) => LinkKind::Plaintext,
            _ => return None,
        };
        Some(Self {
            kind,
            source: named(&access.source),
            destination: named(&access.destination),
        })
    }
}

fn named(peer: &Peer) -> String {
    match (&peer.namespace, &peer.workload) {
        (Some(namespace), Some(name)) => clean(&format!("{namespace}/{name}"), NAME_LIMIT),
        _ => peer.ip().to_string(),
    }
}
