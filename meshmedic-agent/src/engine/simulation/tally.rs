// SPDX-License-Identifier: Apache-2.0
//! How much happened: a quiet simulation proves nothing.

use std::fmt;

use meshmedic_common::repair::ledger::Step;
use meshmedic_common::repair::{LeaseKey, Request};

/// What may befall a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It failed and nothing happened.
    Error,
    /// It happened, and the answer was lost.
    Lost,
    /// The answer was given up, and only then it happened.
    Late,
    /// Somebody else was faster.
    Conflict,
    /// It took seconds each way.
    Slow,
    /// The API was away, for minutes.
    Outage,
    /// The agent's own view was out of date.
    Stale,
    /// The agent was killed before it was sent.
    KilledBefore,
    /// The agent was killed after it had its effect.
    KilledAfter,
    /// The agent was told to stop meanwhile.
    Stopped,
    /// The API server's clock jumped meanwhile.
    Clock,
    /// The Lease held what nobody understands.
    Garbled,
}

impl Fault {
    pub(super) const ALL: [Self; 12] = [
        Self::Error,
        Self::Lost,
        Self::Late,
        Self::Conflict,
        Self::Slow,
        Self::Outage,
        Self::Stale,
        Self::KilledBefore,
        Self::KilledAfter,
        Self::Stopped,
        Self::Clock,
        Self::Garbled,
    ];
}

/// The kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Look,
    Forget,
    ClaimOwner,
    ClaimNode,
    ClaimSlot,
    ClaimCluster,
    Adopt,
    Renew,
    Send,
    Acted,
    Prove,
    Conclude,
    Rehearse,
    Check,
    Act,
    Find,
    Survey,
}

impl Kind {
    pub(super) const ALL: [Self; 17] = [
        Self::Look,
        Self::Forget,
        Self::ClaimOwner,
        Self::ClaimNode,
        Self::ClaimSlot,
        Self::ClaimCluster,
        Self::Adopt,
        Self::Renew,
        Self::Send,
        Self::Acted,
        Self::Prove,
        Self::Conclude,
        Self::Rehearse,
        Self::Check,
        Self::Act,
        Self::Find,
        Self::Survey,
    ];

    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Rehearse { .. } => Self::Rehearse,
            Request::Check(_) => Self::Check,
            Request::Act { .. } => Self::Act,
            Request::Find(_) => Self::Find,
            Request::Survey { .. } => Self::Survey,
            Request::Update { lease, change, .. } => match (&change.step, lease) {
                (Step::Look, _) => Self::Look,
                // What agents tell one another of heals is none of the planner's.
                (Step::Forget | Step::NodeFailed { .. } | Step::NodeSucceeded(_), _) => Self::Forget,
                (Step::Claim(_), LeaseKey::Owner(_)) => Self::ClaimOwner,
                (Step::Claim(_), LeaseKey::Node(_)) => Self::ClaimNode,
                (Step::Claim(_), LeaseKey::Slot(_)) => Self::ClaimSlot,
                (Step::Claim(_), LeaseKey::Cluster | LeaseKey::Heals) => Self::ClaimCluster,
                (Step::Adopt(_), _) => Self::Adopt,
                (Step::Renew, _) => Self::Renew,
                (Step::Send { .. }, _) => Self::Send,
                (Step::Acted, _) => Self::Acted,
                (Step::Prove(_), _) => Self::Prove,
                (Step::Conclude(_) | Step::ConcludeCanary(_), _) => Self::Conclude,
            },
        }
    }

    /// Only a Lease can hold what nobody understands.
    pub(super) const fn meets(self, fault: Fault) -> bool {
        !matches!(
            (self, fault),
            (
                Self::Check | Self::Act | Self::Find | Self::Survey,
                Fault::Garbled
            )
        )
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) node_days: u64,
    pub(super) pods: u64,
    pub(super) events: u64,
    pub(super) accepted: u64,
    pub(super) succeeded: u64,
    pub(super) ended: u64,
    pub(super) would: u64,
    pub(super) withheld: [u64; 12],
    /// What people were told, by rule; how many repairs of theirs ended, and how many were proved.
    pub(super) asked: [u64; 12],
    pub(super) by_hand: u64,
    pub(super) by_hand_proved: u64,
    pub(super) met: [[u64; 12]; 17],
}

impl Tally {
    pub(super) const fn meet(&mut self, kind: Kind, fault: Fault) {
        self.met[kind as usize][fault as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.node_days += other.node_days;
        self.pods += other.pods;
        self.events += other.events;
        self.accepted += other.accepted;
        self.succeeded += other.succeeded;
        self.ended += other.ended;
        self.would += other.would;
        self.by_hand += other.by_hand;
        self.by_hand_proved += other.by_hand_proved;
        for (sum, more) in self.asked.iter_mut().zip(other.asked) {
            *sum += more;
        }
        for (sum, more) in self.withheld.iter_mut().zip(other.withheld) {
            *sum += more;
        }
        for (sums, mores) in self.met.iter_mut().zip(other.met) {
            for (sum, more) in sums.iter_mut().zip(mores) {
                *sum += more;
            }
        }
    }

    /// What was too quiet to prove anything.
    pub(super) fn too_quiet(&self, withheld: u64, met: u64) -> Vec<String> {
        let mut quiet = Vec::new();
        for (rule, &count) in self.withheld.iter().enumerate().skip(1) {
            if count < withheld {
                quiet.push(format!("rule {rule} withheld {count} acts"));
            }
        }
        for kind in Kind::ALL {
            for fault in Fault::ALL {
                let count = self.met[kind as usize][fault as usize];
                if kind.meets(fault) && count < met {
                    quiet.push(format!("{kind:?} met {fault:?} {count} times"));
                }
            }
        }
        quiet
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} node-days, {} pods, {} events, {} evictions, {} of {} repairs proved, {} in the shadow",
            self.node_days, self.pods, self.events, self.accepted, self.succeeded, self.ended, self.would
        )?;
        writeln!(
            f,
            "by hand: {} of {} proved; withheld by rule: {:?}",
            self.by_hand_proved,
            self.by_hand,
            &self.asked[1..]
        )?;
        writeln!(f, "withheld by rule: {:?}", &self.withheld[1..])?;
        writeln!(f, "{:>12} {:?}", "", Fault::ALL)?;
        for kind in Kind::ALL {
            writeln!(f, "{:>12} {:?}", format!("{kind:?}"), self.met[kind as usize])?;
        }
        Ok(())
    }
}
