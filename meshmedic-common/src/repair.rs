// SPDX-License-Identifier: Apache-2.0
//! The rulebook: which orphan may be repaired now, what must be asked and written first, and what became of it.
//!
//! Sans-IO. Each repair is a chain of requests to the API, one at a time; whoever drives it carries them out and
//! brings the answers back. So an agent or a command may be killed, and an answer lost, between any two of them, in a
//! test as in life. Agents drive a [`Planner`], `meshmedic repair` drives a [`ByHand`] for each pod; both go through
//! the same attempt.

mod attempt;
mod by_hand;
pub mod heal;
pub mod ledger;
mod limits;
mod owner;
mod planner;
mod prover;
mod request;
pub mod sabotage;
mod slots;
mod successor;

use crate::policy::{Gates, Mandate, Means, Permissions, Withheld};

pub use attempt::{Claim, Claims, Ended};
pub use by_hand::ByHand;
pub use limits::Limits;
pub use owner::{Owner, Sibling};
pub use planner::Planner;
pub use request::{
    Acted, Answer, Check, LeaseKey, Moment, Outcome, Patient, PodRef, Presence, Refusal, RepairNotice,
    Request, RequestId, update,
};
pub use successor::may_prove;

/// Who repairs, on whose word, and how carefully.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repairer {
    /// The node of the pods.
    pub node: String,
    /// This process: unlike any that was or will be.
    pub holder: String,
    /// On whose word.
    pub mandate: Mandate,
    /// By what means.
    pub means: Means,
    /// What is claimed for each repair.
    pub claims: Claims,
    /// How much, how often, and when to stop.
    pub limits: Limits,
}

impl Repairer {
    /// What was switched on; a person asks for what they name.
    #[must_use]
    pub const fn permissions(&self) -> Permissions {
        match self.mandate {
            Mandate::Agent(permissions) => permissions,
            Mandate::Person(overrides) => Permissions {
                ready: true,
                stuck: true,
                grace_period: std::time::Duration::ZERO,
                jobs: overrides.jobs,
            },
        }
    }
}

/// What is known of a reason beside its sentence.
#[must_use]
pub fn gate_detail(gates: &Gates, why: Withheld) -> Option<String> {
    match why {
        Withheld::NodeFault => gates.node_fault.clone(),
        Withheld::MeshFault => gates.mesh_fault.clone(),
        Withheld::Paused => gates.paused.clone().filter(|reason| !reason.is_empty()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
