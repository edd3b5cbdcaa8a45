// SPDX-License-Identifier: Apache-2.0
//! What really happened, in order: all that the judge ever sees.

use std::time::Duration;

use meshmedic_common::policy::{CONFIRM, GRACE_PERIOD, SETTLE};
use meshmedic_common::repair::Limits;
use meshmedic_common::time::Time;

/// Tells pods apart, like a UID.
pub(super) type PodId = u32;

/// What the API's truth says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truth {
    pub(super) node: usize,
    pub(super) owner: Option<usize>,
    pub(super) namespace: usize,
    /// How long it may take to end, in milliseconds.
    pub(super) grace: u64,
    /// Its containers were begun.
    pub(super) started: bool,
    /// Whether its successor comes to its node.
    pub(super) stays: bool,
    /// Whether its successor has its name, and which.
    pub(super) name: Option<u32>,
    pub(super) recreated: Recreated,
    /// It belongs to the mesh, and nobody has to guess so.
    pub(super) expected: bool,
    pub(super) deleting: bool,
    pub(super) ready: bool,
    /// Since when, in milliseconds of the API server's clock.
    pub(super) ready_since: i64,
    pub(super) opted_out: bool,
    /// Somebody wrote an opt-out that nobody understands.
    pub(super) garbled: bool,
    pub(super) toggling: bool,
}

/// Whether its owner brings a pod back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recreated {
    Yes,
    Job,
    No,
}

/// What a netns holds, or what a reading of it showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    All,
    Some,
    None,
    Imposter,
    Unreadable,
}

/// Which of the Leases: for how long something is held depends on when it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Owner,
    Node,
    Slot,
    Cluster,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The API server's clock jumped by so many milliseconds.
    Clock(i64),
    /// A pod appeared or changed in the API.
    Pod(PodId, Truth),
    /// An owner wants so many pods from now on.
    Wants(usize, usize),
    /// It left the API.
    Gone(PodId),
    /// What a pod's netns holds from now on.
    Listens(PodId, Shows),
    /// ztunnel of a node is there and Ready from now on, as a new process, or is not.
    Ztunnel(usize, bool),
    Cni(usize, bool),
    Cordon(usize, bool),
    Istiod(bool),
    Paused(bool),
    /// A process of the agent began on a node.
    Began {
        node: usize,
        process: u32,
    },
    /// A person's command began to look at a node.
    Sat {
        node: usize,
        process: u32,
    },
    /// It ended, however.
    Ended {
        node: usize,
        process: u32,
    },
    /// An agent read a pod's netns.
    Read {
        process: u32,
        pod: PodId,
        shows: Shows,
    },
    /// The API answered the question what an act on this pod depends on.
    Checked {
        process: u32,
        pod: PodId,
    },
    /// The API wrote a Lease in which something is held for the repair of this pod.
    Wrote {
        pod: PodId,
        held: Held,
    },
    /// The repair of this pod was counted as one that did not take.
    Failed {
        pod: PodId,
        held: Held,
    },
    /// Whoever asked what the owner of this pod wants and has was told.
    Surveyed(PodId),
    /// Something was claimed for the repair of this pod.
    Claimed(PodId),
    /// A budget refuses every eviction of an owner's pods from now on, or does not.
    Blocked(usize, bool),
    /// Nothing is held any more of the owner for the repair of this pod.
    LetGo(PodId),
    /// What became of a repair was proved by what somebody saw of this pod.
    Proved {
        pod: PodId,
        by: PodId,
        captured: bool,
    },
    /// An agent that was told to end took the repair of this pod out of a Lease, as it must with its slot.
    Freed {
        pod: PodId,
        held: Held,
    },
    /// An eviction reached the API.
    Act {
        process: u32,
        /// Which pod has the UID of the precondition; `None` without one.
        pod: Option<PodId>,
        issued: Time,
        delete: bool,
        accepted: bool,
    },
    /// After everything was healed and time enough had passed.
    Rest {
        orphans: Vec<PodId>,
        held: Vec<String>,
    },
}

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: Time,
    pub(super) what: What,
}

/// What the agents were told to keep to.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) ready: bool,
    pub(super) stuck: bool,
    pub(super) jobs: bool,
    pub(super) delete: bool,
    /// In milliseconds, like all spans here.
    pub(super) grace: u64,
    pub(super) confirm: u64,
    pub(super) settle: u64,
    pub(super) in_flight_node: usize,
    pub(super) in_flight_owner: usize,
    pub(super) slots: usize,
    pub(super) per_hour_node: usize,
    pub(super) per_hour_cluster: usize,
    pub(super) cooldown: u64,
    pub(super) breaker_failures: usize,
    pub(super) breaker_failures_cluster: usize,
    pub(super) breaker_open: u64,
    pub(super) deadline: u64,
}

/// A person believes a loss after this.
pub(super) const PERSON_CONFIRM: u64 = 2_000;

impl Rules {
    /// The same as agents and people are told it.
    pub(super) fn limits(&self) -> Limits {
        let spans = |milliseconds| Duration::from_millis(milliseconds);
        let count = |number| u32::try_from(number).unwrap_or(1);
        Limits {
            in_flight_node: self.in_flight_node,
            in_flight_owner: self.in_flight_owner,
            slots: count(self.slots),
            per_hour_node: self.per_hour_node,
            per_hour_cluster: self.per_hour_cluster,
            cooldown: (spans(self.cooldown), Limits::DEFAULT.cooldown.1),
            breaker_failures: count(self.breaker_failures),
            breaker_failures_cluster: count(self.breaker_failures_cluster),
            breaker_open: spans(self.breaker_open),
            successor_deadline: spans(self.deadline),
        }
    }

    /// The defaults of the command line, with repairs switched on.
    pub(super) const fn usual() -> Self {
        let limits = Limits::DEFAULT;
        Self {
            ready: true,
            stuck: true,
            jobs: false,
            delete: false,
            grace: millis(GRACE_PERIOD),
            confirm: millis(CONFIRM),
            settle: millis(SETTLE),
            in_flight_node: limits.in_flight_node,
            in_flight_owner: limits.in_flight_owner,
            slots: limits.slots as usize,
            per_hour_node: limits.per_hour_node,
            per_hour_cluster: limits.per_hour_cluster,
            cooldown: millis(limits.cooldown.0),
            breaker_failures: limits.breaker_failures as usize,
            breaker_failures_cluster: limits.breaker_failures_cluster as usize,
            breaker_open: millis(limits.breaker_open),
            deadline: millis(limits.successor_deadline),
        }
    }
}

const fn millis(span: Duration) -> u64 {
    span.as_secs() * 1000 + span.subsec_millis() as u64
}
