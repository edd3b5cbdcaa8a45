// SPDX-License-Identifier: Apache-2.0
//! A pod of a node that lost power.

use std::collections::BTreeMap;

use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::{Controller, Enrolment, PodFacts};
use meshmedic_common::policy::Standing;
use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::{Candidate, Place, Streak};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Redirection, State};

use super::OWNERS;
use crate::bench::fleet::node::{owner_uid, uid};

pub(super) struct Pod {
    pub(super) standing: Standing,
    pub(super) state: State,
    pub(super) streak: Option<Streak>,
    pub(super) proved_at: Option<Time>,
    pub(super) captured_at: Option<Time>,
    pub(super) redirection: Redirection,
    pub(super) version: u64,
    pub(super) asked: bool,
    /// What istio-cni and the API say, which the agent has not heard yet.
    pub(super) enrolled: bool,
}

/// Each pod of a node has a namespace of its own; which one makes no difference here.
pub(super) const fn place() -> Place {
    Place { netns: 1, start: 1 }
}

pub(super) fn orphan(number: usize, owner: usize) -> Pod {
    let facts = PodFacts {
        namespace: format!("team-{}", owner / OWNERS),
        name: format!("app-{owner}-{number}"),
        uid: uid(number).map(|uid| uid.to_string()).unwrap_or_default(),
        addresses: vec![std::net::Ipv4Addr::new(10, 0, 0, 7).into()],
        controller: Some(Controller {
            kind: "ReplicaSet".to_owned(),
            name: format!("app-{owner}"),
            uid: owner_uid(owner),
        }),
        enrolment: Enrolment::Enabled,
        ready: true,
        sandbox_ready: Some(true),
        ..PodFacts::default()
    };
    Pod {
        standing: Standing {
            facts,
            expectation: Expectation::Expected,
            certain: true,
            namespace_repair: None,
            namespace_strategy: None,
        },
        state: State::Suspect,
        streak: None,
        proved_at: None,
        captured_at: None,
        redirection: Redirection::Absent,
        version: 1,
        asked: false,
        enrolled: false,
    }
}

pub(super) fn candidates(pods: &BTreeMap<PodUid, Pod>) -> BTreeMap<PodUid, Candidate<'_>> {
    pods.iter().map(|(uid, pod)| (uid.clone(), of(pod))).collect()
}

fn of(pod: &Pod) -> Candidate<'_> {
    Candidate {
        standing: &pod.standing,
        state: pod.state,
        streak: pod.streak,
        proved_at: pod.proved_at,
        captured_at: pod.captured_at,
        place: Some(place()),
        leads: pod.redirection,
        ports: PortSet::EMPTY,
        taken: false,
    }
}
