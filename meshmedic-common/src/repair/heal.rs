// SPDX-License-Identifier: Apache-2.0
//! The first rung: asking istio-cni to take a running pod in again.
//!
//! Nothing restarts, no Lease is written, no budget of evictions is spent. What it can do wrong is this: asked of a pod
//! that is well it makes strict callers fail for a moment; asked while ztunnel does not serve it cuts the pod off; asked
//! of many at once it leaves each half enrolled behind the others. So it asks few at a time, only where ztunnel is
//! proved to serve, and takes back what it made worse.
//!
//! Sans-IO, like the rest of the rulebook: [`Healer`] is handed time and evidence, and hands out requests.

mod alarm;
mod answers;
mod case;
mod evidence;
mod healer;
mod pace;
mod patch;
mod proof;
#[cfg(test)]
mod tests;
mod toggle;
mod turn;
mod width;

use std::time::Duration;

use super::PodRef;
use crate::policy::{Permissions, Standing, Withheld};
use crate::verdict::named;

pub use crate::ask::{Against, Ask, Attempt, LONGEST};
pub use alarm::News;
pub use evidence::{Candidate, NoPlace, NodeView, Place, Serving, Streak, Support};
pub use healer::Healer;
pub use patch::patch;
pub use width::{LATELY, SAMPLE, Sample};

/// How careful heals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Care {
    /// For how long the readings before an ask must agree.
    pub confirm: Duration,
    /// How long ztunnel and istio-cni must have been Ready, and ztunnel proved to serve.
    pub settle: Duration,
    /// By when a pod must be proved captured, from when no older ask is outstanding.
    pub deadline: Duration,
    /// Asks a minute, whatever the pace.
    pub per_minute: usize,
    /// How long an owner that had its share asked for has peace.
    pub owner_gap: Duration,
}

impl Care {
    /// What holds unless the user says otherwise.
    pub const DEFAULT: Self = Self {
        confirm: Duration::from_secs(2),
        settle: Duration::from_secs(5),
        deadline: Duration::from_secs(10),
        per_minute: 240,
        owner_gap: Duration::from_secs(10),
    };
}

/// Who heals, on whose word, and how carefully.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Healing {
    /// What was switched on.
    pub permissions: Permissions,
    /// How careful it is.
    pub care: Care,
    /// Whether a pod is toggled that an ask could not help.
    pub toggle: bool,
}

named! {
    /// Why an ask did not take.
    pub enum Diagnosis {
        /// It stays pending without rules.
        NotTakenUp = "not-taken-up", "istio-cni left it pending and wrote no rules: it finds no process of the pod, or does not work";
        /// It stays pending with Istio's routes.
        Refused = "refused", "istio-cni wrote its routes and left it pending: it could not write its rules, or ztunnel refused it or is away";
        /// istio-cni says that it is captured.
        Believed = "believed", "istio-cni says that it is enrolled: ztunnel believes that it serves it already";
        /// Only some of the listeners came.
        InPart = "in-part", "only some of ztunnel's listeners came";
        /// A port that ztunnel needs is the pod's own.
        PortHeld = "port-held", "another process holds a port that ztunnel needs";
        /// ztunnel ceased to be Ready after it was asked.
        ZtunnelFell = "ztunnel-fell", "ztunnel ceased to serve after it was asked";
        /// The annotation is neither.
        Unenrolled = "unenrolled", "istio-cni took it out of the mesh";
    }
}

impl Diagnosis {
    /// Whether it is the pod's own doing, and says nothing of the node.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::PortHeld | Self::Unenrolled)
    }
}

/// How far a pod's heal is, as reports show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// istio-cni is asked.
    Asked,
    /// The ask did not take.
    Failed(Diagnosis),
    /// It was made worse, and taking that back failed.
    MadeUnreachable,
}

/// What the healer wants done. Nothing is repeated unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Fetch the pod again.
    Fetch(PodRef),
    /// Patch the pod's status, with its UID and this version as preconditions.
    Ask {
        /// The pod.
        pod: PodRef,
        /// The version that was judged.
        version: String,
        /// What is written down.
        ask: Ask,
    },
    /// Take the pod out of the mesh by its label: an ask made it worse, or it is toggled.
    TakeOut(PodRef),
    /// Put its label back.
    PutBack(PodRef),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Request::Fetch`]; `None` if the pod is gone.
    Fetched(Result<Option<Box<Fetched>>, String>),
    /// Of [`Request::Ask`].
    Asked(Asked),
    /// Of [`Request::TakeOut`].
    TakenOut(Result<(), String>),
    /// Of [`Request::PutBack`].
    PutBack(Result<(), String>),
}

/// A pod as fetched just before an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The pod.
    pub standing: Standing,
    /// Its version.
    pub version: String,
}

/// What came of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is written.
    Accepted,
    /// The pod changed meanwhile: nothing was done.
    Changed,
    /// The pod is gone, or another has its name.
    Gone,
    /// Nobody lets us: nothing was done.
    NotPermitted(String),
    /// The API has no time, and asks for so much patience: nothing was done.
    Busy(Option<Duration>),
    /// Refused for certain, by something else.
    Refused(String),
    /// The answer was lost: it may be written.
    InDoubt(String),
}

/// What may be done to a pod by the rungs below this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nothing: it is in this rung's hands, or waits for its turn here.
    Waits(Withheld),
    /// What their own rules allow: this rung cannot help it.
    May(Option<Diagnosis>),
}

impl Below {
    /// Where this rung withholds itself.
    #[must_use]
    pub const fn of(why: Withheld) -> Self {
        match why {
            // This rung cannot help such a pod, on this node or at all.
            Withheld::HealUnsupported
            | Withheld::HealStopped
            | Withheld::HealUnanswered
            | Withheld::PortHeld
            | Withheld::StaticPod
            | Withheld::JobPod
            | Withheld::Strategy
            | Withheld::ByHand
            | Withheld::InPlaceOnly
            | Withheld::Imposter
            | Withheld::DetectOnly
            | Withheld::GracePeriod
            | Withheld::InFlightNode => Self::May(None),
            why => Self::Waits(why),
        }
    }
}

/// What is said of a pod that a heal made worse, once that was taken back.
pub const UNDONE: &str =
    "the heal left Istio's routing without a listener, so it was taken out of the mesh again";

/// What is said of one where that failed.
#[must_use]
pub fn made_unreachable(pod: &PodRef, detail: &str) -> String {
    format!(
        "the heal left Istio's routing without a listener, so its connections may be refused, and taking that back \
         failed ({detail}). By hand: kubectl -n {} label pod {} istio.io/dataplane-mode=none",
        pod.namespace, pod.name
    )
}

/// What the healer has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A heal was withheld. Told once, until the reason changes.
    Withheld {
        /// The pod.
        pod: PodRef,
        /// Why.
        why: Withheld,
        /// More about it.
        detail: Option<String>,
        /// Whether repairs are off, so that this is what would have been.
        shadow: bool,
    },
    /// Repairs are off; this one would have been healed in place.
    Would {
        /// The pod.
        pod: PodRef,
    },
    /// istio-cni is being asked.
    Asked {
        /// The pod.
        pod: PodRef,
        /// How often by then.
        attempt: Attempt,
    },
    /// The pod is proved captured again.
    Healed {
        /// The pod.
        pod: PodRef,
        /// From the ask to its proof.
        took: Duration,
        /// How often it was asked.
        attempt: Attempt,
    },
    /// The ask did not take.
    Failed {
        /// The pod.
        pod: PodRef,
        /// Why.
        why: Diagnosis,
        /// From the ask to giving up.
        took: Duration,
    },
    /// Its label is being taken away, to be put back.
    Toggling {
        /// The pod.
        pod: PodRef,
    },
    /// The pod is proved captured again after a toggle.
    Toggled {
        /// The pod.
        pod: PodRef,
        /// From the first half to its proof.
        took: Duration,
    },
    /// A toggle did not take.
    ToggleFailed {
        /// The pod.
        pod: PodRef,
        /// Why, where it was not even begun.
        detail: Option<String>,
    },
    /// What an ask made worse was taken back.
    Undone {
        /// The pod.
        pod: PodRef,
    },
    /// It could not be taken back.
    MadeUnreachable {
        /// The pod.
        pod: PodRef,
        /// Why not.
        detail: String,
    },
    /// Heals on this node did not take, so no more are begun.
    Stopped,
    /// The right to ask in a namespace is missing, or is there again.
    Permitted {
        /// Which.
        namespace: String,
        /// Why it is missing.
        permitted: Result<(), String>,
    },
}
