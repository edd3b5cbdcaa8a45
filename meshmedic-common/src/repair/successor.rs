// SPDX-License-Identifier: Apache-2.0
//! Which pod may prove that a repair took.

use super::ledger::{Entry, Record};
use super::owner::Sibling;
use super::sabotage::{Defence, is_out};
use crate::facts::{Controller, PodFacts};

/// Whether what is seen of a pod proves what became of this repair, which lies in the record of `owner`.
///
/// A successor must have come from the same controller and in the same namespace, after the act was sent. Creation is
/// written down in whole seconds, so time alone does not tell: what was there just before the act is known by its UID.
/// A StatefulSet gives each of its pods a name that the next one has, too, a `DaemonSet` one to each node. A repair
/// that leaves the pod where it is, is proved by the pod itself.
#[must_use]
pub fn may_prove(facts: &PodFacts, owner: &str, entry: &Entry, record: &Record) -> bool {
    let Some((namespace, _)) = entry.pod.split_once('/') else {
        return false;
    };
    if facts.namespace != namespace || facts.deleting || facts.finished {
        return false;
    }
    if !entry.means.replaces() {
        return entry.sent.is_some() && entry.acted && facts.uid == entry.uid;
    }
    let controller = facts
        .controller
        .as_ref()
        .filter(|controller| controller.uid == owner);
    controller.is_some_and(|controller| succeeds(&Sibling::of(facts), controller, entry, record))
}

/// Whether a pod of this controller, in the namespace of the one that was repaired, came in its place.
pub(super) fn succeeds(other: &Sibling, controller: &Controller, entry: &Entry, record: &Record) -> bool {
    let (Some(sent), Some((_, name))) = (entry.sent, entry.pod.split_once('/')) else {
        return false;
    };
    let place = match controller.kind.as_str() {
        _ if is_out(Defence::Place) => true,
        "StatefulSet" => other.name == name,
        "DaemonSet" => other.node.as_deref() == Some(entry.node.as_str()),
        _ => true,
    };
    let after = other
        .created
        .is_some_and(|created| created.as_second() >= sent.as_second());
    let new = is_out(Defence::Before) || !entry.before.contains(&other.uid);
    let free = is_out(Defence::Once) || !record.proves(&other.uid);
    place && after && new && free && other.uid != entry.uid
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy::Means;
    use crate::repair::ledger::{More, Proof};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(pod: &str) -> Entry {
        Entry {
            id: "1".to_owned(),
            pod: pod.to_owned(),
            uid: "old".to_owned(),
            node: "a".to_owned(),
            holder: "a-1".to_owned(),
            slot: None,
            at: at(5),
            renewed: at(5),
            deadline: at(300),
            sent: Some(at(10)),
            controller: None,
            means: Means::Evict,
            before: vec!["sibling".to_owned()],
            acted: true,
            canary: false,
            proof: None,
            more: More::default(),
        }
    }

    fn pod(name: &str, uid: &str, created: i64, kind: &str) -> PodFacts {
        PodFacts {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: Some("a".to_owned()),
            created: Some(at(created)),
            controller: Some(Controller {
                kind: kind.to_owned(),
                name: "cart".to_owned(),
                uid: "owner".to_owned(),
            }),
            ..PodFacts::default()
        }
    }

    fn may(pod: &PodFacts, of: &str) -> bool {
        may_prove(pod, "owner", &entry(of), &Record::default())
    }

    #[test]
    fn a_successor_is_newer_and_of_the_same_controller_and_namespace() {
        let good = pod("cart-2", "new", 10, "ReplicaSet");
        assert!(may(&good, "shop/cart-1"));
        for (wrong, why) in [
            (pod("cart-2", "other", 9, "ReplicaSet"), "it was there before"),
            (
                pod("cart-3", "sibling", 10, "ReplicaSet"),
                "it was there in the very second of the act",
            ),
            (pod("cart-1", "old", 10, "ReplicaSet"), "it is the same pod"),
        ] {
            assert!(!may(&wrong, "shop/cart-1"), "{why}");
        }
        let mut foreign = good.clone();
        foreign.controller.as_mut().unwrap().uid = "another".to_owned();
        assert!(!may(&foreign, "shop/cart-1"));
        assert!(!may(&good, "other/cart-1"), "another namespace");
        let leaving = PodFacts {
            deleting: true,
            ..good.clone()
        };
        assert!(!may(&leaving, "shop/cart-1"));
        let unsent = Entry {
            sent: None,
            ..entry("shop/cart-1")
        };
        assert!(!may_prove(&good, "owner", &unsent, &Record::default()));
    }

    #[test]
    fn a_stateful_set_gives_the_name_again_and_a_daemon_set_the_node() {
        assert!(may(&pod("db-0", "new", 10, "StatefulSet"), "shop/db-0"));
        assert!(!may(&pod("db-1", "new", 10, "StatefulSet"), "shop/db-0"));
        let mut elsewhere = pod("log-2", "new", 10, "DaemonSet");
        assert!(may(&elsewhere, "shop/log-1"));
        elsewhere.node = Some("b".to_owned());
        assert!(!may(&elsewhere, "shop/log-1"));
    }

    #[test]
    fn one_successor_proves_one_repair() {
        let good = pod("cart-2", "new", 10, "ReplicaSet");
        let proof = Proof {
            pod: "shop/cart-2".to_owned(),
            uid: "new".to_owned(),
            node: "a".to_owned(),
            captured: true,
            at: at(11),
            more: More::default(),
        };
        let other = Entry {
            id: "2".to_owned(),
            proof: Some(proof.clone()),
            ..entry("shop/cart-0")
        };
        let under_way = Record {
            repairs: vec![other],
            ..Record::default()
        };
        let over = Record {
            successors: vec![proof],
            ..Record::default()
        };
        for record in [under_way, over] {
            assert!(!may_prove(&good, "owner", &entry("shop/cart-1"), &record));
        }
    }

    #[test]
    fn a_pod_that_stays_proves_its_own_repair_once_the_act_was_accepted() {
        let toggle = Entry {
            means: Means::Toggle,
            ..entry("shop/cart-1")
        };
        let itself = pod("cart-1", "old", 1, "ReplicaSet");
        let record = Record::default();
        assert!(may_prove(&itself, "owner", &toggle, &record));
        let other = pod("cart-2", "new", 10, "ReplicaSet");
        assert!(!may_prove(&other, "owner", &toggle, &record));
        let begun = Entry {
            acted: false,
            ..toggle
        };
        assert!(!may_prove(&itself, "owner", &begun, &record));
    }
}
