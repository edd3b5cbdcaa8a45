// SPDX-License-Identifier: Apache-2.0
//! Who claims to be a part of Istio and is ignored.

use std::collections::BTreeSet;

use meshmedic_common::identity::{Claimant, Component};
use meshmedic_common::kube::event::{EventReason, Subject};

use super::Teller;
use crate::cluster::Mirror;

/// So many strangers are told of. More of them are counted only: whoever makes one may make thousands.
const STRANGERS_TOLD: usize = 256;

impl Teller {
    /// Who claims to be a part of Istio: each is told once, and the Events by namespace, since every agent sees those
    /// who claim to be istiod.
    pub(super) fn tell_strangers(&mut self, mirror: &Mirror) {
        let strangers = mirror.strangers();
        let room = STRANGERS_TOLD.saturating_sub(self.strangers.len());
        let new: Vec<Claimant> = strangers
            .difference(&self.strangers)
            .take(room)
            .cloned()
            .collect();
        if new.is_empty() {
            return;
        }
        for stranger in &new {
            tracing::warn!(
                component = stranger.component.as_str(),
                namespace = stranger.namespace,
                kind = stranger.kind,
                name = stranger.name,
                "a stranger claims to be a part of Istio and is ignored: {}",
                stranger.sentence()
            );
        }
        // Of a part that this node lacks the claim may be the truth.
        for component in [Component::Ztunnel, Component::Cni] {
            if !mirror.has_component(component)
                && let Some(hint) = mirror.identity().hint(component, &new)
            {
                tracing::warn!("{hint}");
            }
        }
        for namespace in new
            .iter()
            .map(|stranger| &stranger.namespace)
            .collect::<BTreeSet<_>>()
        {
            let claims = strangers
                .iter()
                .filter(|stranger| stranger.namespace == *namespace);
            let claims: Vec<String> = claims.map(Claimant::sentence).collect();
            let note = format!(
                "{}; ignored, since only pods of {} count (--istio-namespace)",
                claims.join("; "),
                mirror.identity().places()
            );
            let subject = Subject::Namespace(namespace.clone());
            self.publish(EventReason::IdentityConflict, subject, note);
        }
        self.strangers.extend(new);
    }
}
