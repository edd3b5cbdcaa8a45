// SPDX-License-Identifier: Apache-2.0
//! Of how many pods of a node Events tell: where most of them are concerned, an Event of the node says it once.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::time::Time;

/// So many pods have Events of their own.
const PODS: usize = 5;
/// What is told after so long a silence is another story.
const SILENCE: Duration = Duration::from_secs(10 * 60);

/// Whom an Event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The pod.
    Pod,
    /// The node, for all the others.
    Node,
    /// Nobody: the node's was written already.
    Nobody,
}

/// The pods of which Events tell, whatever of them.
#[derive(Debug, Default)]
pub struct Few {
    pods: BTreeSet<String>,
    last: Option<Time>,
    node_told: bool,
}

impl Few {
    /// Whom an Event of this pod is to be about.
    pub fn about(&mut self, now: Time, uid: &str) -> About {
        self.turn(now);
        if self.pods.contains(uid) {
            return About::Pod;
        }
        if self.pods.len() < PODS && !self.node_told {
            self.pods.insert(uid.to_owned());
            return About::Pod;
        }
        if std::mem::replace(&mut self.node_told, true) {
            About::Nobody
        } else {
            About::Node
        }
    }

    /// The node's Event is written: what it tells of needs no other.
    pub fn tell_of_node(&mut self, now: Time) {
        self.turn(now);
        self.node_told = true;
    }

    fn turn(&mut self, now: Time) {
        let over = self.last.is_some_and(|last| now.since(last) >= SILENCE);
        if over {
            (self.pods, self.node_told) = (BTreeSet::new(), false);
        }
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(1_000_000_000_000) + Duration::from_secs(seconds)
    }

    #[test]
    fn five_pods_are_told_of_and_then_their_node_once() {
        let mut few = Few::default();
        let about: Vec<About> = (0..8)
            .map(|number| few.about(at(number), &format!("uid-{number}")))
            .collect();
        assert_eq!(about[..5], [About::Pod; 5]);
        assert_eq!(about[5..], [About::Node, About::Nobody, About::Nobody]);
        assert_eq!(few.about(at(9), "uid-0"), About::Pod, "how its story goes on");
        assert_eq!(few.about(at(608), "uid-7"), About::Nobody);
        assert_eq!(few.about(at(608 + 600), "uid-7"), About::Pod, "another story");
    }

    #[test]
    fn after_a_mass_loss_only_those_are_told_of_that_were_before() {
        let mut few = Few::default();
        assert_eq!(few.about(at(0), "uid-0"), About::Pod);
        few.tell_of_node(at(1));
        assert_eq!(few.about(at(2), "uid-1"), About::Nobody);
        assert_eq!(few.about(at(3), "uid-0"), About::Pod);
    }
}
