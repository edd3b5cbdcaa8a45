// SPDX-License-Identifier: Apache-2.0
//! What passes between the planner and whoever drives it.

use std::time::Duration;

use crate::facts::Controller;
use crate::policy::{Gates, Means, Standing, Withheld};
use crate::uid::PodUid;
use crate::verdict::State;
use jiff::Timestamp;

use super::ledger::{Allowance, Change, Proof, Record};
use super::owner::Owner;
use crate::time::Time;

/// An instant, by both clocks that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By this machine's monotonic clock.
    pub now: Time,
    /// By the API server's: what agents on all nodes agree on, whatever their own clocks do.
    pub server: Timestamp,
}

/// A pod of this node, for the planner.
#[derive(Clone, Debug)]
pub struct Patient<'a> {
    /// What the API says.
    pub standing: &'a Standing,
    /// What the readings say.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// When the last reading that bore this out began.
    pub read_at: Time,
}

/// The very pod that was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The API's UID.
    pub uid: String,
    /// The identity in its cgroup.
    pub cgroup_uid: PodUid,
}

impl PodRef {
    /// `namespace/name`.
    #[must_use]
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One of the Leases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseKey {
    /// Of the controller with this UID.
    Owner(String),
    /// Of a node.
    Node(String),
    /// One of the cluster's slots.
    Slot(u32),
    /// Of the cluster.
    Cluster,
    /// Of the cluster's heals in place that did not take.
    Heals,
}

/// Tells requests apart.
pub type RequestId = u64;

/// What the planner wants done. Nothing is repeated unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read a Lease, change its record, and write it back unless somebody else did meanwhile.
    Update {
        /// Which.
        lease: LeaseKey,
        /// What to change.
        change: Box<Change>,
        /// What the record allows.
        allowance: Allowance,
    },
    /// Ask whether it would be accepted, without doing it. With the pod's UID as precondition.
    Rehearse {
        /// The pod.
        pod: PodRef,
        /// By what means.
        means: Means,
    },
    /// Fetch everything that the act depends on again.
    Check(PodRef),
    /// Do it. With the pod's UID as precondition.
    Act {
        /// The pod.
        pod: PodRef,
        /// By what means.
        means: Means,
    },
    /// Find out whether the pod is still there.
    Find(PodRef),
    /// Find out what its controller wants and has, now that nobody has proved its successor.
    Survey {
        /// The pod.
        pod: PodRef,
        /// Who is to recreate it.
        controller: Controller,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Request::Update`]: the record as it is now, or why it is not changed.
    Updated(Result<Record, Refusal>),
    /// Of [`Request::Check`]: `None` if the pod is gone.
    Checked(Result<Option<Box<Check>>, String>),
    /// Of [`Request::Act`] and [`Request::Rehearse`].
    Acted(Acted),
    /// Of [`Request::Find`].
    Found(Result<Presence, String>),
    /// Of [`Request::Survey`]: `None` if the controller is gone.
    Surveyed(Result<Option<Owner>, String>),
}

/// Why a Lease was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its record forbids it, and what else it says of that.
    Withheld(Withheld, Option<String>),
    /// It could not be read or written, or holds what nobody understands.
    Failed(String),
}

/// Changes a record that was just read. Tells whether it must be written back, and what is answered then.
pub fn update(
    record: &mut Record,
    change: &Change,
    allowance: &Allowance,
    now: Timestamp,
) -> (bool, Result<Record, Refusal>) {
    let applied = record.apply(change, allowance, now);
    let answer = match applied.withheld {
        Some(why) => Err(Refusal::Withheld(why, record.detail(why, allowance, now))),
        None => Ok(record.clone()),
    };
    (applied.changed, answer)
}

/// The world as fetched just before an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The pod.
    pub standing: Standing,
    /// What holds above it.
    pub gates: Gates,
    /// What its controller wants and has.
    pub owner: Owner,
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The API accepted it.
    Accepted,
    /// The pod is gone, or another one has its name.
    Gone,
    /// The API refused, for certain.
    Refused(Withheld, String),
    /// The answer was lost: it may have happened.
    InDoubt(String),
}

/// Whether a pod is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is, and nobody is deleting it.
    There,
    /// It is gone, or going.
    Leaving,
}

/// How a repair ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its successor is captured.
    Succeeded(Proof),
    /// Its successor fell out as well.
    Failed(Proof),
    /// Nobody proved by the deadline that its successor, which runs, is captured.
    Unproven,
    /// By the deadline no successor ran, and what is seen of it.
    Waiting(String),
    /// Its owner wants no successor.
    Unwanted,
    /// Whether it was done is not known, and it seems not.
    InDoubt(String),
}

/// What the planner has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairNotice {
    /// A repair was withheld. Told once, until the reason changes.
    Withheld {
        /// The pod.
        pod: PodRef,
        /// Why.
        why: Withheld,
        /// More about it.
        detail: Option<String>,
        /// Whether repairs of such pods are off, so that this is what would have been.
        shadow: bool,
    },
    /// Repairs of such pods are off; this one would have been repaired.
    Would {
        /// The pod.
        pod: PodRef,
    },
    /// The API is asked for the act.
    Started {
        /// The pod.
        pod: PodRef,
        /// By what means.
        means: Means,
        /// Not Ready for the grace period.
        stuck: bool,
    },
    /// A repair ended.
    Ended {
        /// The pod.
        pod: PodRef,
        /// How.
        outcome: Outcome,
        /// From the act to its proof.
        took: Duration,
        /// Not Ready for the grace period.
        stuck: bool,
    },
}
