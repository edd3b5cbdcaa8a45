// SPDX-License-Identifier: Apache-2.0
//! Whether an owner can afford to lose one more of its pods.
//!
//! A repair by restart is only as good as what comes in the pod's place. Where nothing can (a registry is down, a quota
//! is used up, a webhook refuses), pods that still serve would be taken away one after the other.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::ledger::Record;
use crate::facts::PodFacts;

/// A pod that was created this long before an act may look as young as its successor: creation is written down in whole
/// seconds, and our idea of the server's clock lags a little.
const YOUNG: SignedDuration = SignedDuration::from_mins(1);
/// An owner with more of them is being rolled out or scaled up, and its record should stay small.
const MOST_YOUNG: usize = 64;

/// What a pod's controller wants and has, as fetched just before an act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// How many pods it wants.
    pub wanted: usize,
    /// Its other pods, but for those that end or have ended.
    pub others: Vec<Sibling>,
}

/// Another pod of the same controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: Option<String>,
    /// Whether its containers were begun.
    pub started: bool,
    /// Whether it is Ready.
    pub ready: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
}

impl Sibling {
    /// Reduces a pod.
    #[must_use]
    pub fn of(facts: &PodFacts) -> Self {
        Self {
            name: facts.name.clone(),
            uid: facts.uid.clone(),
            node: facts.node.clone(),
            started: facts.started,
            ready: facts.ready,
            created: facts.created,
        }
    }
}

impl Owner {
    /// Why it cannot afford to lose this pod as well; `None` where it can.
    ///
    /// Each of its other pods must be Ready, and as many must be there as it wants. The pod at hand does not count, and
    /// `proved` orphans need not be Ready, so that pods which are stuck because they are orphans can be repaired. But
    /// whatever came after the last act, and so perhaps in its place, must be Ready.
    #[must_use]
    pub fn degraded(&self, record: &Record, proved: &BTreeSet<String>) -> Option<String> {
        let last = record.last_act();
        // Creation is written down in whole seconds, and a clock may have gone back.
        let newer = |uid: &str, created: Option<Timestamp>| {
            let after =
                |last: Timestamp| created.is_none_or(|created| created.as_second() >= last.as_second());
            last.is_some_and(after) || record.proves(uid)
        };
        // Whoever is being repaired is as good as gone.
        let going = |uid: &str| record.repairs.iter().any(|entry| entry.uid == uid);
        let there: Vec<&Sibling> = self.others.iter().filter(|other| !going(&other.uid)).collect();
        let excused = |other: &Sibling| proved.contains(&other.uid) && !newer(&other.uid, other.created);
        if let Some(weak) = there.iter().find(|other| !other.ready && !excused(other)) {
            return Some(format!("{} is not Ready", weak.name));
        }
        let (there, wanted) = (there.len() + 1, self.wanted);
        (there < wanted).then(|| format!("{there} of the {wanted} pods that it wants are there"))
    }

    /// The other pods that are so young that a successor may look no younger, by UID; or why there are too many.
    pub(super) fn young(&self, pod: &PodFacts, now: Timestamp) -> Result<Vec<String>, String> {
        let oldest = now.saturating_sub(YOUNG).unwrap_or(now);
        let kind = pod.controller.as_ref().map(|controller| controller.kind.as_str());
        let alike = |other: &Sibling| match kind {
            // Its pods have their name or their node to tell them.
            Some("StatefulSet") => false,
            Some("DaemonSet") => other.node == pod.node,
            _ => true,
        };
        let young = |other: &&Sibling| other.created.is_none_or(|created| created >= oldest);
        let young = self.others.iter().filter(|other| alike(other)).filter(young);
        let young: Vec<String> = young.map(|other| other.uid.clone()).collect();
        if young.len() > MOST_YOUNG {
            return Err(format!(
                "{} of its owner's pods are younger than a minute, and its successor could not be distinguished from them",
                young.len()
            ));
        }
        Ok(young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Controller;
    use crate::policy::Means;
    use crate::repair::ledger::{Entry, More};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn other(name: &str, ready: bool, created: i64) -> Sibling {
        Sibling {
            name: name.to_owned(),
            uid: name.to_owned(),
            node: Some("a".to_owned()),
            started: true,
            ready,
            created: Some(at(created)),
        }
    }

    fn judged(created: i64) -> PodFacts {
        PodFacts {
            name: "judged".to_owned(),
            uid: "judged".to_owned(),
            node: Some("a".to_owned()),
            created: Some(at(created)),
            controller: Some(Controller {
                kind: "ReplicaSet".to_owned(),
                name: "cart".to_owned(),
                uid: "owner".to_owned(),
            }),
            ..PodFacts::default()
        }
    }

    fn owner(wanted: usize, others: &[Sibling]) -> Owner {
        Owner {
            wanted,
            others: others.to_vec(),
        }
    }

    fn since(last: i64) -> Record {
        Record {
            last_act: Some(at(last)),
            ..Record::default()
        }
    }

    #[test]
    fn an_owner_that_lacks_a_pod_loses_none() {
        let (none, fresh) = (BTreeSet::new(), Record::default());
        let three = owner(3, &[other("a", true, 1), other("b", true, 1)]);
        assert_eq!(three.degraded(&fresh, &none), None);
        let lacking = owner(3, &[other("a", true, 1)]);
        assert!(lacking.degraded(&fresh, &none).unwrap().contains("2 of the 3"));
        let starting = owner(3, &[other("a", true, 1), other("b", false, 9)]);
        let why = starting.degraded(&fresh, &none);
        assert_eq!(why.as_deref(), Some("b is not Ready"));
        // Scaled down since: nothing is lacking.
        let fewer = owner(2, &[other("a", true, 1)]);
        assert_eq!(fewer.degraded(&since(5), &none), None);
    }

    #[test]
    fn a_stuck_orphan_does_not_keep_another_from_its_repair_but_one_in_anothers_place_does() {
        let proved: BTreeSet<String> = ["b".to_owned()].into();
        let both = owner(2, &[other("b", false, 10)]);
        assert_eq!(both.degraded(&Record::default(), &proved), None);
        assert_eq!(both.degraded(&since(20), &proved), None);
        let why = both.degraded(&since(10), &proved);
        assert_eq!(
            why.as_deref(),
            Some("b is not Ready"),
            "it came after the last act"
        );
        assert!(both.degraded(&Record::default(), &BTreeSet::new()).is_some());
    }

    #[test]
    fn what_another_repairs_is_as_good_as_gone() {
        let mut record = Record::default();
        record.repairs.push(Entry {
            id: "1".to_owned(),
            pod: "shop/b".to_owned(),
            uid: "b".to_owned(),
            node: "a".to_owned(),
            holder: "a-1".to_owned(),
            slot: None,
            at: at(5),
            renewed: at(5),
            deadline: at(300),
            sent: Some(at(5)),
            before: Vec::new(),
            controller: None,
            means: Means::Evict,
            acted: true,
            canary: false,
            proof: None,
            more: More::default(),
        });
        let two = owner(2, &[other("b", true, 1)]);
        assert!(two.degraded(&record, &BTreeSet::new()).is_some());
        // Its successor is Ready, and it is gone.
        let replaced = owner(2, &[other("c", true, 6)]);
        assert_eq!(replaced.degraded(&record, &BTreeSet::new()), None);
    }

    #[test]
    fn young_siblings_are_those_that_could_be_taken_for_the_successor() {
        let elsewhere = Sibling {
            node: Some("b".to_owned()),
            ..other("far", true, 100)
        };
        let mut pod = judged(1);
        let owner = owner(0, &[other("old", true, 1), other("new", true, 100), elsewhere]);
        assert_eq!(owner.young(&pod, at(110)).unwrap(), ["new", "far"]);
        pod.controller.as_mut().unwrap().kind = "DaemonSet".to_owned();
        assert_eq!(owner.young(&pod, at(110)).unwrap(), ["new"]);
        pod.controller.as_mut().unwrap().kind = "StatefulSet".to_owned();
        assert!(owner.young(&pod, at(110)).unwrap().is_empty());
    }

    #[test]
    fn a_daemon_set_that_gets_many_nodes_is_no_rollout_and_a_deployment_that_grows_is() {
        let crowd: Vec<Sibling> = (0..=MOST_YOUNG)
            .map(|n| Sibling {
                node: Some(format!("n{n}")),
                ..other(&n.to_string(), true, 100)
            })
            .collect();
        let owner = owner(0, &crowd);
        let mut pod = judged(1);
        assert!(owner.young(&pod, at(110)).is_err());
        pod.controller.as_mut().unwrap().kind = "DaemonSet".to_owned();
        assert_eq!(owner.young(&pod, at(110)), Ok(Vec::new()));
    }
}
