// SPDX-License-Identifier: Apache-2.0
//! Which agent of a node acts: during an update there may be two, and two that ask would each ask beside the other.

use meshmedic_common::facts::PodFacts;

/// Another agent of this node that is older, and so the one that acts. `own` is the UID of this agent's pod, `pods` are
/// those of the node.
pub(crate) fn elder<'a>(pods: impl Iterator<Item = &'a PodFacts> + Clone, own: &str) -> Option<&'a PodFacts> {
    let me = pods.clone().find(|facts| facts.uid == own)?;
    let owner = &me.controller.as_ref()?.uid;
    let is_agent = |facts: &&PodFacts| {
        let owned = facts
            .controller
            .as_ref()
            .is_some_and(|controller| controller.uid == *owner);
        facts.namespace == me.namespace && owned && !facts.finished
    };
    let age = |facts: &&PodFacts| (facts.created, facts.uid.clone());
    pods.filter(is_agent)
        .min_by_key(age)
        .filter(|eldest| eldest.uid != own)
}

#[cfg(test)]
mod tests {
    use meshmedic_common::facts::Controller;

    use super::*;

    fn agent(uid: &str, created: i64) -> PodFacts {
        PodFacts {
            namespace: "meshmedic".to_owned(),
            uid: uid.to_owned(),
            controller: Some(Controller {
                kind: "DaemonSet".to_owned(),
                name: "meshmedic".to_owned(),
                uid: "set".to_owned(),
            }),
            created: jiff::Timestamp::from_second(created).ok(),
            ..PodFacts::default()
        }
    }

    #[test]
    fn the_older_one_acts_until_it_has_ended() {
        let mut pods = [agent("a", 20), agent("b", 10), PodFacts::default()];
        let of = |pods: &[PodFacts], own: &str| elder(pods.iter(), own).map(|facts| facts.uid.clone());
        assert_eq!(of(&pods, "a").as_deref(), Some("b"));
        assert_eq!(of(&pods, "b"), None);
        // What is being deleted may still act; what has ended does not.
        pods[1].deleting = true;
        assert_eq!(of(&pods, "a").as_deref(), Some("b"));
        pods[1].finished = true;
        assert_eq!(of(&pods, "a"), None);
    }

    #[test]
    fn of_two_of_one_second_one_acts() {
        let pods = [agent("a", 10), agent("b", 10)];
        assert!(elder(pods.iter(), "a").is_none() && elder(pods.iter(), "b").is_some());
    }

    #[test]
    fn nobody_else_counts() {
        let mut stranger = agent("b", 10);
        stranger.controller.as_mut().unwrap().uid = "other".to_owned();
        let mut elsewhere = agent("c", 10);
        elsewhere.namespace = "shop".to_owned();
        let mut bare = agent("d", 10);
        bare.controller = None;
        let pods = [agent("a", 20), stranger, elsewhere, bare];
        assert!(elder(pods.iter(), "a").is_none());
        assert!(elder(pods.iter(), "unknown").is_none());
        assert!(elder(pods.iter(), "d").is_none());
    }
}
