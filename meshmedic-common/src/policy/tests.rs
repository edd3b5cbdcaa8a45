// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use super::*;
use crate::verdict::Reason;

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const GRACE: Duration = Duration::from_secs(300);

fn controlled_by(kind: &str) -> Option<Controller> {
    Some(Controller {
        kind: kind.to_owned(),
        name: "web".to_owned(),
        uid: "owner".to_owned(),
    })
}

/// A pod that nothing protects.
fn standing() -> Standing {
    Standing {
        facts: PodFacts {
            uid: UID.to_owned(),
            controller: controlled_by("ReplicaSet"),
            ready: true,
            ..PodFacts::default()
        },
        expectation: Expectation::Expected,
        certain: true,
        namespace_repair: None,
        namespace_strategy: None,
    }
}

fn judge(change: impl FnOnce(&mut Standing)) -> Option<Withheld> {
    let mut standing = standing();
    change(&mut standing);
    pod_forbids(&standing, UID, false)
}

fn judge_toggle(change: impl FnOnce(&mut Standing)) -> Option<Withheld> {
    let mut standing = standing();
    change(&mut standing);
    toggle_forbidden(&standing, UID)
}

#[test]
fn each_reason_belongs_to_a_rule_and_each_rule_has_one() {
    let rules: BTreeSet<u8> = Withheld::ALL.iter().map(|why| why.rule()).collect();
    assert_eq!(rules, (1..=11).collect());
}

#[test]
fn names_are_unique_and_the_same_in_json() {
    let names: BTreeSet<&str> = Withheld::ALL.iter().map(|why| why.as_str()).collect();
    assert_eq!(names.len(), Withheld::ALL.len());
    for why in Withheld::ALL {
        assert_eq!(serde_json::to_string(why).unwrap(), format!("\"{why}\""));
        assert!(!why.sentence().is_empty());
    }
}

#[test]
fn nothing_stands_in_the_way_of_a_plain_orphan() {
    assert_eq!(judge(|_| {}), None);
    assert_eq!(judge_toggle(|_| {}), None);
}

#[test]
fn only_the_pod_that_was_judged() {
    assert_eq!(pod_forbids(&standing(), "other", false), Some(Withheld::OtherPod));
    assert_eq!(pod_forbids(&standing(), "", false), Some(Withheld::OtherPod));
    assert_eq!(toggle_forbidden(&standing(), "other"), Some(Withheld::OtherPod));
}

#[test]
fn each_reason_that_lies_in_the_pod() {
    type Change = fn(&mut Standing);
    let cases: &[(Change, Withheld)] = &[
        (|it| it.facts.deleting = true, Withheld::Leaving),
        (|it| it.facts.finished = true, Withheld::Leaving),
        (
            |it| it.facts.toggle_restore = Some(String::new()),
            Withheld::Toggling,
        ),
        (|it| it.expectation = Expectation::Pending, Withheld::NotProved),
        (|it| it.expectation = Expectation::Undeclared, Withheld::NotProved),
        (
            |it| it.expectation = Expectation::Exempt(Reason::OptedOut),
            Withheld::NotProved,
        ),
        (
            |it| it.expectation = Expectation::Unverifiable(Reason::NamespaceUnknown),
            Withheld::NotProved,
        ),
        (|it| it.certain = false, Withheld::Guessed),
        (
            |it| it.facts.repair = Some("disabled".to_owned()),
            Withheld::OptedOutPod,
        ),
        (
            |it| it.namespace_repair = Some("disabled".to_owned()),
            Withheld::OptedOutNamespace,
        ),
    ];
    for (change, why) in cases {
        assert_eq!(judge(change), Some(*why));
        assert_eq!(judge_toggle(change), Some(*why));
    }
}

#[test]
fn the_gravest_reason_is_named_first() {
    // Taken away one by one, each uncovers the next.
    let mut it = standing();
    it.facts.deleting = true;
    it.facts.toggle_restore = Some("{}".to_owned());
    it.expectation = Expectation::Exempt(Reason::OptedOut);
    it.certain = false;
    it.facts.repair = Some("disabled".to_owned());
    it.namespace_repair = Some("disabled".to_owned());
    it.facts.controller = None;
    assert_eq!(pod_forbids(&it, "other", false), Some(Withheld::OtherPod));
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::Leaving));
    it.facts.deleting = false;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::Toggling));
    it.facts.toggle_restore = None;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::NotProved));
    it.expectation = Expectation::Expected;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::Guessed));
    it.certain = true;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::OptedOutPod));
    it.facts.repair = None;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::OptedOutNamespace));
    it.namespace_repair = None;
    assert_eq!(pod_forbids(&it, UID, false), Some(Withheld::NothingRecreates));
}

#[test]
fn an_annotation_that_makes_no_sense_protects_the_pod() {
    for said in ["", "Disabled", "false", "no", "enabled ", "\u{1b}[2J"] {
        assert_eq!(
            judge(|it| it.facts.repair = Some(said.to_owned())),
            Some(Withheld::Untrusted),
            "{said:?}"
        );
        assert_eq!(
            judge(|it| it.namespace_repair = Some(said.to_owned())),
            Some(Withheld::Untrusted),
            "{said:?}"
        );
    }
    let both = judge(|it| {
        it.facts.repair = Some(ENABLED.to_owned());
        it.namespace_repair = Some(ENABLED.to_owned());
    });
    assert_eq!(both, None);
    // What holds for a namespace is not lifted by one of its pods.
    let pod_says_yes = judge(|it| {
        it.facts.repair = Some(ENABLED.to_owned());
        it.namespace_repair = Some(DISABLED.to_owned());
    });
    assert_eq!(pod_says_yes, Some(Withheld::OptedOutNamespace));
}

#[test]
fn only_what_is_recreated_is_evicted() {
    for kind in ["DaemonSet", "ReplicaSet", "ReplicationController", "StatefulSet"] {
        assert_eq!(
            judge(|it| it.facts.controller = controlled_by(kind)),
            None,
            "{kind}"
        );
    }
    for (controller, why) in [
        (None, Withheld::NothingRecreates),
        (controlled_by("Job"), Withheld::JobPod),
        (controlled_by("Node"), Withheld::StaticPod),
        (controlled_by("Rollout"), Withheld::UnknownController),
        (controlled_by("replicaset"), Withheld::UnknownController),
        (controlled_by(""), Withheld::UnknownController),
    ] {
        assert_eq!(
            judge(|it| it.facts.controller = controller.clone()),
            Some(why),
            "{controller:?}"
        );
    }
}

#[test]
fn static_pods_are_the_kubelets_whoever_seems_to_own_them() {
    let mirror = |it: &mut Standing| it.facts.mirror = true;
    let hash = |it: &mut Standing| it.facts.config_hash = Some("0123456789abcdef0123456789abcdef".to_owned());
    let of_node = |it: &mut Standing| it.facts.controller = controlled_by("Node");
    assert_eq!(judge(mirror), Some(Withheld::StaticPod));
    assert_eq!(judge(hash), Some(Withheld::StaticPod));
    assert_eq!(judge_toggle(mirror), Some(Withheld::StaticPod));
    assert_eq!(judge_toggle(hash), Some(Withheld::StaticPod));
    assert_eq!(judge_toggle(of_node), Some(Withheld::StaticPod));
}

#[test]
fn pods_of_jobs_only_where_that_was_asked_for() {
    let mut job = standing();
    job.facts.controller = controlled_by("Job");
    assert_eq!(pod_forbids(&job, UID, false), Some(Withheld::JobPod));
    assert_eq!(pod_forbids(&job, UID, true), None);
    // That flag is no permission for anything else.
    job.facts.controller = None;
    assert_eq!(pod_forbids(&job, UID, true), Some(Withheld::NothingRecreates));
}

#[test]
fn a_toggle_asks_not_who_recreates_the_pod() {
    for controller in [None, controlled_by("Job"), controlled_by("Rollout")] {
        assert_eq!(judge_toggle(|it| it.facts.controller = controller), None);
    }
}

#[test]
fn the_world_above_a_pod_forbids_in_a_fixed_order() {
    let mut gates = Gates {
        paused: Some("upgrade".to_owned()),
        node_fault: Some("ztunnel".to_owned()),
        mesh_fault: Some("istiod".to_owned()),
        cordoned: true,
    };
    assert_eq!(gates_forbid(&gates), Some(Withheld::Paused));
    gates.paused = None;
    assert_eq!(gates_forbid(&gates), Some(Withheld::NodeFault));
    gates.node_fault = None;
    assert_eq!(gates_forbid(&gates), Some(Withheld::MeshFault));
    gates.mesh_fault = None;
    assert_eq!(gates_forbid(&gates), Some(Withheld::Cordoned));
    gates.cordoned = false;
    assert_eq!(gates_forbid(&gates), None);
    // Paused without a word is paused.
    gates.paused = Some(String::new());
    assert_eq!(gates_forbid(&gates), Some(Withheld::Paused));
}

fn permissions(ready: bool, stuck: bool) -> Permissions {
    Permissions {
        ready,
        stuck,
        grace_period: GRACE,
        jobs: false,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

#[test]
fn a_ready_orphan_needs_its_own_permission() {
    let facts = standing().facts;
    let forbidden = |ready, stuck| permissions_forbid(&permissions(ready, stuck), &facts, at(0));
    assert_eq!(forbidden(false, false), Some(Withheld::DetectOnly));
    assert_eq!(forbidden(false, true), Some(Withheld::DetectOnly));
    assert_eq!(forbidden(true, false), None);
    assert!(!is_stuck(GRACE, &facts, at(1_000_000)));
}

#[test]
fn a_stuck_orphan_must_have_been_so_for_longer_than_the_grace_period() {
    let mut facts = PodFacts {
        ready: false,
        ready_since: Some(at(0)),
        ..standing().facts
    };
    let forbidden = |facts: &PodFacts, now| permissions_forbid(&permissions(true, true), facts, now);
    assert_eq!(forbidden(&facts, at(299)), Some(Withheld::GracePeriod));
    // Exactly the period is not yet longer than it.
    assert_eq!(forbidden(&facts, at(300)), Some(Withheld::GracePeriod));
    assert!(!is_stuck(GRACE, &facts, at(300)));
    let just_after = at(300) + Duration::from_nanos(1);
    assert_eq!(forbidden(&facts, just_after), None);
    assert!(is_stuck(GRACE, &facts, just_after));
    // Permission for Ready ones is none for stuck ones.
    assert_eq!(
        permissions_forbid(&permissions(true, false), &facts, at(900)),
        Some(Withheld::DetectOnly)
    );
    // A clock that went backwards, or nothing known, proves no wait.
    assert_eq!(forbidden(&facts, at(-900)), Some(Withheld::GracePeriod));
    facts.ready_since = None;
    assert_eq!(forbidden(&facts, at(900)), Some(Withheld::GracePeriod));
    assert!(!is_stuck(GRACE, &facts, at(900)));
}

#[test]
fn an_endless_grace_period_never_ends() {
    let facts = PodFacts {
        ready: false,
        ready_since: Some(Timestamp::MIN),
        ..standing().facts
    };
    let endless = Permissions {
        grace_period: Duration::MAX,
        ..permissions(true, true)
    };
    assert_eq!(
        permissions_forbid(&endless, &facts, Timestamp::MAX),
        Some(Withheld::GracePeriod)
    );
}
