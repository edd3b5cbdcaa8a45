// SPDX-License-Identifier: Apache-2.0
//! How widely pods fell out at once, and how the asks of a whole fleet stay below one ceiling.
//!
//! A node that reboots alone is healed as quickly as its istio-cni works. After a power cut thousands of agents ask one
//! API server, and none knows of the others. So each looks at the same few ztunnels of the fleet: the share of them
//! that became Ready lately, times the number of nodes, says how many nodes came back together. A node then asks once
//! in the time that this many nodes share, at a moment of its own: by the API server's clock, which all agents know,
//! and by the node's address, which spreads neighbours evenly.

use std::time::Duration;

use jiff::Timestamp;

use super::evidence::NodeView;
use crate::duration;
use crate::repair::Moment;
use crate::repair::sabotage::{Defence, is_out};
use crate::spread::{place, share};
use crate::time::Time;

/// So many asks a second are left to all nodes together.
const ASKS_A_SECOND: u32 = 337;
/// And so many Events that say what befell a node.
const EVENTS_A_SECOND: u32 = 10;
/// So many ztunnels are looked at.
pub const SAMPLE: u32 = 20;
/// A ztunnel that became Ready within this time came back with the others.
pub const LATELY: Duration = Duration::from_secs(10 * 60);
/// More nodes may come back later: the sample is taken so often, and so far apart.
const SAMPLES: u32 = 4;
const APART: Duration = Duration::from_secs(10);
/// Without an answer for so long, nothing is known of other nodes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Which part of the time between two asks is a node's.
const PARTS: u32 = 1000;

/// What a few of the fleet's ztunnels show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many nodes there are.
    pub nodes: u32,
    /// How many ztunnels were looked at.
    pub seen: u32,
    /// How many of them are not Ready, or became so lately.
    pub young: u32,
}

impl Sample {
    /// How many nodes came back together, this one among them.
    fn width(self) -> u32 {
        let all = u64::from(self.nodes) * u64::from(self.young.min(self.seen));
        let width = all.div_ceil(u64::from(self.seen.max(1)));
        u32::try_from(width).unwrap_or(u32::MAX).max(1)
    }
}

/// The time between two asks of a node, where so many share what is left to all.
fn gap(nodes: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(nodes) / ASKS_A_SECOND
}

/// How long it is until a node's own moment, which comes once in each gap.
fn until(server: Timestamp, gap: Duration, own: Duration) -> Duration {
    let (now, gap, own) = (server.as_nanosecond(), gap.as_nanos(), own.as_nanos());
    let Ok(gap) = i128::try_from(gap) else {
        return Duration::ZERO;
    };
    let wait = (i128::try_from(own).unwrap_or(0) - now).checked_rem_euclid(gap);
    Duration::from_nanos(u64::try_from(wait.unwrap_or(0)).unwrap_or(0))
}

/// What is known of a mass loss.
#[derive(Debug, Default)]
pub(super) struct Width {
    /// Whether a person heals this node and no other.
    pub(super) alone: bool,
    /// Since when most pods of this node are lost.
    since: Option<Time>,
    /// Since when nothing but the pace keeps this node from asking: from then on its turns count.
    free: Option<Moment>,
    /// How many nodes came back, by the widest sample.
    nodes: Option<u32>,
    samples: u32,
    sampled: Option<Time>,
    under_way: bool,
    /// Asks of this node since then.
    asks: u32,
    /// Which part of the time between two asks is this node's.
    part: u32,
}

impl Width {
    /// Takes whether most pods are lost, and whether any still is.
    pub(super) fn observe(&mut self, now: Time, mass_loss: bool, any: bool, view: &NodeView) {
        let begins = self.since.is_none() && mass_loss;
        // It is over with the last pod, not when fewer than most are left.
        let ends = self.since.is_some() && !mass_loss && !any;
        if begins || ends {
            *self = Self {
                alone: self.alone,
                ..Self::default()
            };
        }
        if begins {
            self.since = Some(now);
            // Where the address is not known, ztunnel's container is another name of the node.
            let name = view.containers.1.as_deref().unwrap_or_default();
            let part = view.address.map_or_else(
                || share(name, PARTS.into()),
                |address| place(address, PARTS.into()),
            );
            self.part = u32::try_from(part).unwrap_or(0);
        }
    }

    /// Nothing but the pace forbids an ask.
    pub(super) fn is_free(&mut self, at: Moment) {
        if self.since.is_some() {
            self.free.get_or_insert(at);
        }
    }

    /// Since when most pods were lost at once, until the last one is back.
    pub(super) const fn since(&self) -> Option<Time> {
        self.since
    }

    /// How many nodes came back, where that is known.
    pub(super) const fn nodes(&self) -> Option<u32> {
        if self.alone { Some(1) } else { self.nodes }
    }

    /// Whether a sample is to be taken now. Handed out once.
    pub(super) fn wants_sample(&mut self, now: Time) -> bool {
        let wanted = self.due().is_some_and(|due| due <= now);
        if wanted {
            (self.under_way, self.sampled) = (true, Some(now));
            self.samples += 1;
        }
        wanted
    }

    fn due(&self) -> Option<Time> {
        let since = self.since?;
        let due = self.sampled.map_or(since, |sampled| sampled + APART);
        (!self.under_way && self.samples < SAMPLES).then_some(due)
    }

    /// Takes a sample, if there is one.
    pub(super) fn sampled(&mut self, sample: Option<Sample>) {
        self.under_way = false;
        if self.since.is_some() {
            self.nodes = self.nodes.max(sample.map(Sample::width));
        }
    }

    /// A pod has its turn.
    pub(super) const fn asked(&mut self) {
        self.asks = self.asks.saturating_add(1);
    }

    /// When the next pod of this node may have its turn, if that hangs on others.
    fn next_turn(&self) -> Option<Time> {
        let (since, free) = (self.since?, self.free?);
        let Some(nodes) = self.nodes else {
            let waits = !self.alone && (self.under_way || self.samples == 0);
            return waits.then(|| since + PATIENCE);
        };
        let gap = gap(nodes);
        let own = gap.saturating_mul(self.part) / PARTS;
        Some(free.now + until(free.server, gap, own) + gap.saturating_mul(self.asks))
    }

    /// Whether this node has to leave the next ask to others.
    pub(super) fn forbids(&self, now: Time) -> bool {
        self.next_turn().is_some_and(|turn| now < turn) && !is_out(Defence::Ceiling)
    }

    /// What is to be said of a pod that waits for it.
    pub(super) fn detail(&self, now: Time) -> Option<String> {
        if !self.forbids(now) {
            return None;
        }
        let Some(nodes) = self.nodes else {
            return Some("looking how many other nodes lost their pods".to_owned());
        };
        let gap = gap(nodes);
        Some(format!(
            "about {nodes} nodes lost their pods at once, and all agents together ask for {ASKS_A_SECOND} pods a second: \
             this node asks for one in {}",
            duration::show(Duration::from_millis(
                u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)
            ))
        ))
    }

    /// How long an Event about this node waits, so that those of all nodes do not come at once; `None` while the number
    /// of nodes is being looked for.
    pub(super) fn event_after(&self) -> Option<Duration> {
        match self.nodes {
            None if self.under_way => None,
            // Nothing is known, or all is over.
            None => Some(Duration::ZERO),
            Some(nodes) => {
                let window = Duration::from_secs(1).saturating_mul(nodes - 1) / EVENTS_A_SECOND;
                Some(window.saturating_mul(self.part) / PARTS)
            }
        }
    }

    /// When something here changes by time alone.
    pub(super) fn next_wake(&self) -> impl Iterator<Item = Time> {
        self.due().into_iter().chain(self.next_turn())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_nanos(1_000_000_000_000);

    fn view() -> NodeView {
        NodeView {
            address: Some("10.0.0.7".parse().unwrap()),
            ..NodeView::default()
        }
    }

    /// The same instant by the API server's clock.
    fn moment(now: Time) -> Moment {
        let since = i64::try_from(now.since(START).as_millis()).unwrap();
        Moment {
            now,
            server: Timestamp::from_millisecond(1_785_000_000_123 + since).unwrap(),
        }
    }

    fn sample(nodes: u32, seen: u32, young: u32) -> Option<Sample> {
        Some(Sample { nodes, seen, young })
    }

    /// A loss of which a sample told this.
    fn lost(found: Option<Sample>) -> Width {
        let mut width = Width::default();
        width.observe(START, true, true, &view());
        width.is_free(moment(START));
        assert!(width.wants_sample(START) && !width.wants_sample(START));
        width.sampled(found);
        width
    }

    #[test]
    fn a_node_that_reboots_alone_waits_for_nobody() {
        let mut width = lost(sample(5000, 20, 0));
        assert_eq!(width.nodes(), Some(1));
        assert_eq!(width.event_after(), Some(Duration::ZERO));
        let mut now = START;
        for _ in 0..60 {
            now = now + Duration::from_millis(3);
            assert!(!width.forbids(now));
            width.asked();
        }
    }

    #[test]
    fn many_nodes_share_what_the_api_server_is_asked_for() {
        let mut width = lost(sample(5000, 20, 20));
        assert_eq!(width.nodes(), Some(5000));
        let gap = Duration::from_secs(5000) / ASKS_A_SECOND;
        let mut asked = Vec::new();
        let mut now = START;
        while asked.len() < 20 {
            if !width.forbids(now) {
                asked.push(now.since(START));
                width.asked();
            }
            now = now + Duration::from_millis(100);
        }
        assert!(asked[0] <= gap, "{asked:?}");
        assert!(
            asked[19] >= gap * 19 && asked[19] < Duration::from_secs(300),
            "{asked:?}"
        );
        let detail = width.detail(START).unwrap();
        assert!(
            detail.starts_with("about 5000 nodes") && detail.ends_with("one in 14.8s"),
            "{detail}"
        );
    }

    #[test]
    fn a_nodes_moments_are_the_same_whenever_it_came_back() {
        let turns = |after: u64| {
            let free = START + Duration::from_millis(after);
            let mut width = Width::default();
            width.observe(free, true, true, &view());
            width.is_free(moment(free));
            assert!(width.wants_sample(free));
            width.sampled(sample(5000, 20, 20));
            let turn = width.next_turn().unwrap();
            assert!(turn.since(free) < gap(5000), "{after}");
            turn
        };
        let gap = gap(5000);
        let first = turns(0);
        for after in [1, 700, 3_000, 9_000, 14_000, 29_000] {
            let later = turns(after).since(first).as_nanos() % gap.as_nanos();
            assert!(
                later < 1_000 || gap.as_nanos() - later < 1_000,
                "{after}: {later}"
            );
        }
    }

    #[test]
    fn the_widest_sample_counts_until_the_last_pod_is_back() {
        let mut width = lost(sample(100, 20, 5));
        assert_eq!(width.nodes(), Some(25));
        assert!(!width.wants_sample(START + APART / 2));
        assert!(width.wants_sample(START + APART));
        width.sampled(sample(100, 20, 10));
        assert!(width.wants_sample(START + APART * 2));
        width.sampled(sample(100, 20, 1));
        assert!(width.wants_sample(START + APART * 3));
        width.sampled(None);
        assert!(!width.wants_sample(START + APART * 20), "and no more");
        width.observe(START, false, true, &view());
        assert_eq!(width.nodes(), Some(50));
        width.observe(START, false, false, &view());
        assert_eq!((width.nodes(), width.since()), (None, None));
    }

    #[test]
    fn an_api_that_says_nothing_stops_nobody_for_long() {
        let mut width = Width::default();
        width.observe(START, true, true, &view());
        width.is_free(moment(START));
        assert!(width.wants_sample(START) && width.forbids(START));
        assert_eq!(width.event_after(), None);
        assert!(!width.forbids(START + PATIENCE));
        width.sampled(None);
        assert!(!width.forbids(START), "nothing is known");
        assert_eq!(width.event_after(), Some(Duration::ZERO));
    }
}
