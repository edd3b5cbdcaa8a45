// SPDX-License-Identifier: Apache-2.0
//! What a pod's track shows to the rest of the agent.

use meshmedic_common::ports::PortSet;
use meshmedic_common::repair::heal::Streak;
use meshmedic_common::report::Holder;
use meshmedic_common::rules::{PodRules, leads};
use meshmedic_common::traffic::Connections;
use meshmedic_common::verdict::{Owner, Reason, Redirection, State, Traffic};

use super::Track;
use crate::time::Time;

/// What is known of a pod.
#[derive(Clone, Debug)]
pub struct PodView<'a> {
    /// Its state.
    pub state: State,
    /// Why, where the state alone does not tell.
    pub reason: Option<Reason>,
    /// More about the reason.
    pub detail: Option<&'a str>,
    /// Since when.
    pub since: Time,
    /// When the last reading that came back began, whatever it showed.
    pub last_read: Option<Time>,
    /// The capture ports that the last look saw.
    pub ports: PortSet,
    /// Whose they are, if it is captured.
    pub owner: Option<Owner>,
    /// Who holds them without being ztunnel.
    pub holders: &'a [Holder],
    /// Whether Istio's routing table is there.
    pub redirection: Redirection,
    /// The same beside Istio's rules, as far as they were read.
    pub leads: Redirection,
    /// Whether Istio's rules are there, once that was read.
    pub rules: Option<PodRules>,
    /// Which way its connections go, once they are counted.
    pub connections: Option<Connections>,
    /// What the traffic of a pod without listeners does.
    pub traffic: Option<Traffic>,
    /// Losses that ended before they were confirmed.
    pub flaps: u32,
    /// When the last reading that bore the state out began. One that contradicts a finding does not count.
    pub read_at: Time,
    /// When it was last seen captured.
    pub captured_at: Time,
    /// The last readings, if they found no listener of ztunnel's; of a bypassing pod the censuses that found no rules.
    pub streak: Option<Streak>,
    /// When the last reading began that found all listeners to be ztunnel's.
    pub proved_at: Option<Time>,
}

impl Track {
    /// What leads to ztunnel, by all that was read.
    fn leads(&self) -> Redirection {
        leads(self.redirection, self.rules.as_ref())
    }

    pub(in crate::engine) fn view(&self) -> PodView<'_> {
        let bypasses = self.state == State::Bypassing;
        let held = self.state.is_held();
        PodView {
            state: self.state,
            reason: self.reason,
            detail: self.detail.as_deref(),
            since: self.since,
            last_read: self.last_read(),
            ports: self.ports,
            owner: self.owner.filter(|_| held),
            holders: &self.holders,
            redirection: self.redirection,
            leads: self.leads(),
            rules: self.rules,
            connections: self.tally.map(|tally| tally.connections()),
            traffic: if bypasses {
                Some(Traffic::Bypassing)
            } else {
                self.state.lacks_listeners().then(|| self.leads().into())
            },
            flaps: self.flaps,
            read_at: self.read_at,
            captured_at: self.captured_at,
            streak: if bypasses { self.bare } else { self.streak },
            proved_at: self.proved_at,
        }
    }
}
