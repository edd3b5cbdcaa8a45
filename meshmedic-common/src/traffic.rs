// SPDX-License-Identifier: Apache-2.0
//! Whether a pod's connections go through ztunnel or past it, by what the kernel counts.
//!
//! What an application opens has a second half where ztunnel takes it: a socket that ztunnel accepts in the pod's own
//! namespace. First halves that rise while there is no second one go past ztunnel. Only what is opened proves that:
//! what comes in may come past ztunnel on purpose (`ambient.istio.io/bypass-inbound-capture`, a kubelet whose address
//! istio-cni has not rewritten yet).

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::abi::TrafficCounts;
use crate::rules::is_ipv6_only;
use crate::time::Time;
use crate::verdict::{State, named};

/// So many connections without a half of ztunnel's, at least, went past it. An application's half is counted a moment
/// before ztunnel's, so a few of them may stand alone in any count; and a few may go where no rule leads.
pub const LEAST_CONNECTIONS: u64 = 20;
/// For so long, at least, no half of ztunnel's came: as long as a loss of listeners is confirmed by default, and much
/// longer than istio-cni needs to write rules anew.
pub const LEAST_TIME: Duration = Duration::from_secs(10);

named! {
    /// Which way a pod's connections go.
    pub enum Passage {
        /// ztunnel has its half of them.
        Through = "through", "connections go through ztunnel";
        /// What the pod opens has no half of ztunnel's.
        Past = "past", "connections go past ztunnel";
        /// It could not be told.
        Unknown = "unknown", "could not be determined";
    }
}

named! {
    /// Why it could not be told which way they go.
    pub enum Untold {
        /// Nobody counts: there is no eBPF.
        NotCounted = "not-counted", "only the kernel's trigger counts connections";
        /// More pods than are counted.
        TooManyPods = "too-many-pods", "more pods are on this node than are counted";
        /// Nothing was opened or accepted.
        NoTraffic = "no-traffic", "no connection was seen";
        /// Some went past ztunnel, too few of them or for too short a time.
        TooFew = "too-few", "too few connections to tell";
        /// Only what comes in was seen, and ztunnel had no half of it.
        OnlyInbound = "only-inbound", "only connections that come in were seen, which prove nothing by themselves";
    }
}

/// The connections of a pod since they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Which way they go.
    pub verdict: Passage,
    /// Why that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Untold>,
    /// What its applications opened, of the family that decides.
    pub opened: u64,
    /// What ztunnel took of that.
    pub taken_outbound: u64,
    /// What its applications accepted.
    pub accepted: u64,
    /// What ztunnel accepted of what comes in; one connection by HBONE carries many.
    pub taken_inbound: u64,
    /// What was opened since ztunnel took something for the last time.
    pub untaken: u64,
    /// For how many seconds that has been so.
    pub untaken_seconds: u64,
}

impl Connections {
    /// Nothing is known.
    #[must_use]
    pub const fn unknown(reason: Untold) -> Self {
        Self {
            verdict: Passage::Unknown,
            reason: Some(reason),
            opened: 0,
            taken_outbound: 0,
            accepted: 0,
            taken_inbound: 0,
            untaken: 0,
            untaken_seconds: 0,
        }
    }

    /// What they add to the state of a pod: something only where ztunnel holds its listeners, and they prove something.
    #[must_use]
    pub fn told_beside(&self, state: State) -> Option<String> {
        (state.is_held() && self.verdict != Passage::Unknown).then(|| self.told())
    }

    /// What is to be said of them, for people.
    #[must_use]
    pub fn told(&self) -> String {
        let through = self.taken_outbound.saturating_add(self.taken_inbound);
        match (self.verdict, self.reason) {
            (Passage::Through, _) => format!("{} through ztunnel", many(through)),
            (Passage::Past, _) => format!(
                "{} past ztunnel in {} s, none through it",
                many(self.untaken),
                self.untaken_seconds
            ),
            (Passage::Unknown, Some(Untold::TooFew)) => format!(
                "{} opened without ztunnel, too few to tell which way they go",
                many(self.untaken)
            ),
            (Passage::Unknown, Some(Untold::OnlyInbound)) => format!(
                "{} came in, none by ztunnel; such prove nothing by themselves",
                many(self.accepted)
            ),
            (Passage::Unknown, reason) => reason.map_or("connections unknown", Untold::sentence).to_owned(),
        }
    }
}

fn many(count: u64) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} connection{s}")
}

/// The counts of a pod at one moment, of the family that decides for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    opened: u64,
    taken_outbound: u64,
    accepted: u64,
    taken_inbound: u64,
}

impl Counted {
    /// Of what the kernel counted, what counts for a pod with these addresses. Istio writes the rules of IPv6 only
    /// where it is not told otherwise: they decide for a pod that has no other address.
    #[must_use]
    pub fn of(counts: TrafficCounts, addresses: &[IpAddr]) -> Self {
        Self {
            opened: if is_ipv6_only(addresses) {
                counts.opened_ipv6
            } else {
                counts.opened_ipv4
            },
            taken_outbound: counts.taken_outbound,
            accepted: counts.accepted,
            taken_inbound: counts.taken_inbound,
        }
    }

    /// What was added since; `None` where something became less, which is another namespace's count then.
    fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            opened: self.opened.checked_sub(earlier.opened)?,
            taken_outbound: self.taken_outbound.checked_sub(earlier.taken_outbound)?,
            accepted: self.accepted.checked_sub(earlier.accepted)?,
            taken_inbound: self.taken_inbound.checked_sub(earlier.taken_inbound)?,
        })
    }
}

/// What one pod's counts came to.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    first: Counted,
    /// The first count that had everything that ztunnel took outbound so far.
    last_taken: (Time, Counted),
    last: (Time, Counted),
}

impl Tally {
    /// Begins with the first count.
    #[must_use]
    pub const fn begin(at: Time, counted: Counted) -> Self {
        Self {
            first: counted,
            last_taken: (at, counted),
            last: (at, counted),
        }
    }

    /// Takes the next count.
    pub fn take(&mut self, at: Time, counted: Counted) {
        if counted.since(self.last.1).is_none() {
            *self = Self::begin(at, counted);
        }
        self.last = (at, counted);
        if counted.taken_outbound != self.last_taken.1.taken_outbound {
            self.last_taken = self.last;
        }
    }

    /// Forgets what went past ztunnel so far: it says nothing of the rules that are there now.
    pub const fn forget_past(&mut self) {
        self.last_taken = self.last;
    }

    /// What it came to.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let all = self.last.1.since(self.first).unwrap_or_default();
        let untaken = self.last.1.opened.saturating_sub(self.last_taken.1.opened);
        let time = self.last.0.since(self.last_taken.0);
        let (verdict, reason) = if untaken >= LEAST_CONNECTIONS && time >= LEAST_TIME {
            (Passage::Past, None)
        } else if untaken > 0 {
            (Passage::Unknown, Some(Untold::TooFew))
        } else if all.taken_outbound > 0 || all.taken_inbound > 0 {
            (Passage::Through, None)
        } else if all.accepted > 0 {
            (Passage::Unknown, Some(Untold::OnlyInbound))
        } else {
            (Passage::Unknown, Some(Untold::NoTraffic))
        };
        Connections {
            verdict,
            reason,
            opened: all.opened,
            taken_outbound: all.taken_outbound,
            accepted: all.accepted,
            taken_inbound: all.taken_inbound,
            untaken,
            untaken_seconds: time.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(opened: u64, taken: u64) -> Counted {
        let counts = TrafficCounts {
            opened_ipv4: opened,
            taken_outbound: taken,
            ..TrafficCounts::default()
        };
        Counted::of(counts, &[])
    }

    fn at(seconds: u64) -> Time {
        Time::default() + Duration::from_secs(seconds)
    }

    /// The verdict after these counts, one each so many seconds.
    fn after(each: u64, all: &[(u64, u64)]) -> Passage {
        let mut tally = Tally::begin(at(0), counts(all[0].0, all[0].1));
        for (n, &(opened, taken)) in (1..).zip(&all[1..]) {
            tally.take(at(n * each), counts(opened, taken));
        }
        tally.connections().verdict
    }

    #[test]
    fn only_enough_connections_over_enough_time_and_none_of_ztunnels_prove_a_bypass() {
        let (many, few) = (LEAST_CONNECTIONS, LEAST_CONNECTIONS - 1);
        let time = LEAST_TIME.as_secs();
        assert_eq!(after(time, &[(0, 0), (many, 0)]), Passage::Past);
        assert_eq!(after(time, &[(0, 0), (few, 0)]), Passage::Unknown);
        assert_eq!(after(time - 1, &[(0, 0), (many, 0)]), Passage::Unknown);
        assert_eq!(after(time, &[(0, 0), (0, 0)]), Passage::Unknown);
        // What was there before anybody looked is no evidence.
        assert_eq!(after(time, &[(1000, 0), (1000, 0)]), Passage::Unknown);
        // One half of ztunnel's, and it begins anew.
        assert_eq!(after(time, &[(0, 0), (many, 1)]), Passage::Through);
        assert_eq!(after(time, &[(0, 0), (many, 0), (many * 2, 1)]), Passage::Through);
        assert_eq!(
            after(time, &[(0, 0), (many, many), (many * 2, many)]),
            Passage::Past
        );
    }

    #[test]
    fn a_count_that_falls_is_another_namespaces() {
        let time = LEAST_TIME.as_secs();
        assert_eq!(after(time, &[(500, 0), (LEAST_CONNECTIONS, 0)]), Passage::Unknown);
    }

    #[test]
    fn what_went_past_other_rules_is_forgotten() {
        let mut tally = Tally::begin(at(0), counts(0, 0));
        tally.take(at(60), counts(100, 0));
        assert_eq!(tally.connections().verdict, Passage::Past);
        tally.forget_past();
        assert_eq!(tally.connections().verdict, Passage::Unknown);
    }

    #[test]
    fn the_family_that_the_pod_has_decides() {
        let counts = TrafficCounts {
            opened_ipv6: 7,
            ..TrafficCounts::default()
        };
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap());
        for (addresses, opened) in [(&[v4, v6][..], 0), (&[v6], 7), (&[], 0)] {
            assert_eq!(Counted::of(counts, addresses).opened, opened, "{addresses:?}");
        }
    }

    #[test]
    fn what_comes_in_proves_no_bypass() {
        let of = |accepted, taken_inbound| {
            let counts = TrafficCounts {
                accepted,
                taken_inbound,
                ..TrafficCounts::default()
            };
            let mut tally = Tally::begin(at(0), Counted::default());
            tally.take(at(1000), Counted::of(counts, &[]));
            tally.connections()
        };
        let past = of(1000, 0);
        assert_eq!(
            (past.verdict, past.reason),
            (Passage::Unknown, Some(Untold::OnlyInbound))
        );
        assert_eq!(of(1000, 1).verdict, Passage::Through);
        assert_eq!(of(1000, 1).told(), "1 connection through ztunnel");
    }
}
