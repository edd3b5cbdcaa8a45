// SPDX-License-Identifier: Apache-2.0
//! A node of the simulated fleet: the real planner, and the pods that concern it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::{Controller, PodFacts};
use meshmedic_common::policy::{GRACE_PERIOD, Mandate, Means, Permissions, Standing};
use meshmedic_common::repair::{Claims, Limits, Moment, Patient, Planner, Repairer};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;

const YESTERDAY: Duration = Duration::from_secs(24 * 60 * 60);
/// When the simulation begins, by the API server's clock.
const EPOCH: i64 = 1_700_000_000_000;
/// And by the machine's.
const START: u64 = 1_000_000_000_000_000;

pub(super) struct Node {
    pub(super) planner: Planner,
    pods: BTreeMap<PodUid, Pod>,
    /// When it wakes next, in milliseconds.
    pub(super) wake: Option<u64>,
}

struct Pod {
    standing: Standing,
    state: State,
    since: Time,
    read_at: Time,
}

/// Both clocks, so many milliseconds after the beginning.
pub(super) fn moment(millis: u64) -> Moment {
    let server = Timestamp::from_millisecond(EPOCH + i64::try_from(millis).unwrap_or(i64::MAX / 2));
    Moment {
        now: Time::from_nanos(START) + Duration::from_millis(millis),
        server: server.unwrap_or(Timestamp::MAX),
    }
}

/// `SplitMix64`: the same numbers on every run.
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The pod of this number.
pub(super) fn uid(number: usize) -> Option<PodUid> {
    PodUid::parse(&format!("{number:08x}-0000-4000-8000-000000000000"))
}

/// The UID of an owner.
pub(super) fn owner_uid(owner: usize) -> String {
    format!("{owner:08x}-0000-4000-9000-000000000000")
}

impl Node {
    /// With the flags' defaults, and repairs on.
    pub(super) fn new(number: usize) -> Self {
        let repairer = Repairer {
            node: format!("node-{number}"),
            holder: format!("node-{number}-1"),
            mandate: Mandate::Agent(Permissions {
                ready: true,
                stuck: true,
                grace_period: GRACE_PERIOD,
                jobs: false,
            }),
            means: Means::Evict,
            claims: Claims::AGENT,
            limits: Limits::DEFAULT,
        };
        Self {
            planner: Planner::new(repairer, true),
            pods: BTreeMap::new(),
            wake: None,
        }
    }

    /// A pod that concerns the planner: an orphan, or a successor that is captured.
    pub(super) fn add(&mut self, millis: u64, number: usize, owner: usize, state: State) {
        let Some(uid) = uid(number) else { return };
        let at = moment(millis);
        // Orphans were there before the outage, successors came because of a repair.
        let created = match state {
            State::Orphan => moment(0).server - YESTERDAY,
            _ => at.server,
        };
        let facts = PodFacts {
            namespace: "bench".to_owned(),
            name: format!("app-{owner}-{number}"),
            uid: uid.to_string(),
            controller: Some(Controller {
                kind: "ReplicaSet".to_owned(),
                name: format!("app-{owner}"),
                uid: owner_uid(owner),
            }),
            created: Some(created),
            ready: true,
            ready_since: Some(created),
            ..PodFacts::default()
        };
        let standing = Standing {
            facts,
            expectation: Expectation::Expected,
            certain: true,
            namespace_repair: None,
            namespace_strategy: None,
        };
        let pod = Pod {
            standing,
            state,
            since: at.now,
            read_at: at.now,
        };
        self.pods.insert(uid, pod);
    }

    pub(super) fn remove(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    pub(super) fn standing(&self, uid: &PodUid) -> Option<Standing> {
        self.pods.get(uid).map(|pod| pod.standing.clone())
    }

    /// A reading that bore out what was known.
    pub(super) fn read(&mut self, millis: u64, uid: &PodUid) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.read_at = moment(millis).now;
        }
    }

    /// Has the planner judge; the pods of which it wants a reading.
    pub(super) fn judge(&mut self, millis: u64) -> Vec<PodUid> {
        let patients: BTreeMap<PodUid, Patient<'_>> = self
            .pods
            .iter()
            .map(|(uid, pod)| {
                let patient = Patient {
                    standing: &pod.standing,
                    state: pod.state,
                    since: pod.since,
                    read_at: pod.read_at,
                };
                (uid.clone(), patient)
            })
            .collect();
        let gates = meshmedic_common::policy::Gates::default();
        self.planner.judge(moment(millis), &gates, false, &patients);
        self.planner.looks()
    }
}
