// SPDX-License-Identifier: Apache-2.0
//! What goes wrong on such a node, and how it ends.

use std::time::Duration;

use super::super::super::*;
use super::super::bench::{Cni, uid};
use super::super::judge::What;
use super::{Flight, Sim};
use crate::ports::PortSet;
use crate::time::Time;
use crate::uid::PodUid;
use crate::verdict::{Redirection, State};

/// What ends by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    Ztunnel,
    CniAway,
    CniDead,
    Paused,
    Mesh,
    Unproven,
    Breaker,
}

impl Sim {
    fn any(&mut self) -> PodUid {
        let count = self.bench.pods.len() as u64;
        uid(usize::try_from(self.rng.below(count)).unwrap())
    }

    /// It falls out; whether its rules stay is another matter.
    fn lose(&mut self, uid: &PodUid) {
        let routed = self.rng.one_in(3);
        let pod = self.bench.pods.get_mut(uid).unwrap();
        if pod.state == State::Captured {
            let redirection = if routed {
                Redirection::Routed
            } else {
                Redirection::Absent
            };
            (pod.state, pod.streak, pod.redirection) = (State::Orphan, None, redirection);
        }
    }

    pub(super) fn mishap(&mut self) {
        let until = self.bench.now + Duration::from_secs(5) + self.within(240_000);
        match self.rng.below(17) {
            0..4 => {
                let uid = self.any();
                self.lose(&uid);
            }
            4 | 5 => {
                for uid in self.bench.pods.keys().cloned().collect::<Vec<_>>() {
                    self.lose(&uid);
                }
            }
            6 => {
                let uid = self.any();
                self.number += 1;
                let number = self.number;
                let pod = self.bench.pods.get_mut(&uid).unwrap();
                pod.place = Some(Place {
                    netns: 10_000 + number,
                    start: number,
                });
                (pod.stale, pod.redirection) = (true, Redirection::Absent);
                // Its new address is in the API.
                pod.version += 1;
                (pod.state, pod.streak) = (State::Orphan, None);
                self.worse.remove(&uid);
                self.back.remove(&uid);
                self.tell(What::Better { pod: uid.clone() });
                self.tell(What::Replaced { pod: uid });
            }
            7 => {
                let uid = self.any();
                self.lose(&uid);
                let pod = self.bench.pods.get_mut(&uid).unwrap();
                (pod.refused, pod.believed) = (self.number.is_multiple_of(2), !self.number.is_multiple_of(2));
                self.number += 1;
            }
            8 => self.ztunnel_falls(until),
            9 => {
                self.bench.view.cni_since = None;
                self.ends.push((until, Trouble::CniAway));
            }
            10 | 11 => {
                self.bench.cni = Cni::Dead;
                self.ends
                    .push((until + Duration::from_secs(300), Trouble::CniDead));
            }
            12 => {
                let gates = &mut self.bench.view.gates;
                let trouble = if self.number.is_multiple_of(2) {
                    gates.paused = Some(String::new());
                    Trouble::Paused
                } else {
                    gates.mesh_fault = Some("istiod".to_owned());
                    Trouble::Mesh
                };
                self.number += 1;
                self.ends.push((until, trouble));
            }
            13 => {
                self.bench.view.serving = Serving::Unproven;
                self.ends.push((until, Trouble::Unproven));
            }
            14 => {
                let uid = self.any();
                let pod = self.bench.pods.get_mut(&uid).unwrap();
                let out = pod.standing.facts.repair.is_some();
                pod.standing.facts.repair = (!out).then(|| "disabled".to_owned());
                pod.version += 1;
            }
            15 => {
                self.bench.view.breaker = Some("on other nodes".to_owned());
                self.ends.push((until, Trouble::Breaker));
            }
            _ => self.crash(),
        }
    }

    /// The agent ends, and another one begins that knows only what the pods say.
    fn crash(&mut self) {
        self.bench.healer = Healer::new(self.bench.healer.healing).alone();
        // What is on its way arrives, and nobody hears the answer.
        for (_, flight) in std::mem::take(&mut self.flights) {
            if let Flight::There(_, request, against) = flight {
                self.perform(request, against);
            }
        }
        for pod in self.bench.pods.values_mut() {
            (pod.streak, pod.proved_at) = (None, None);
        }
        self.tell(What::Began);
    }

    fn ztunnel_falls(&mut self, until: Time) {
        self.bench.view.gates.node_fault = Some("ztunnel".to_owned());
        (self.bench.view.ztunnel_since, self.bench.view.serving) = (None, Serving::Unproven);
        for pod in self.bench.pods.values_mut() {
            if pod.state == State::Captured {
                (pod.state, pod.streak) = (State::Suspect, None);
            }
        }
        self.tell(What::Anew);
        self.ends.push((until, Trouble::Ztunnel));
    }

    pub(super) fn end(&mut self, trouble: Trouble) {
        let now = self.bench.now;
        let view = &mut self.bench.view;
        match trouble {
            Trouble::Ztunnel => {
                view.gates.node_fault = None;
                (view.ztunnel_since, view.serving) = (Some(now), Serving::Captures);
                self.number += 1;
                view.containers.1 = Some(format!("z{}", self.number));
                for (uid, pod) in &mut self.bench.pods {
                    pod.believed = false;
                    if pod.state == State::Suspect && !self.rng.one_in(3) {
                        // Most are taken up again; the agent hears of it by a reading, sooner or later.
                        self.back.insert(uid.clone());
                    }
                }
                self.tell(What::Anew);
            }
            Trouble::CniAway => {
                view.cni_since = Some(now);
                self.number += 1;
                view.containers.0 = Some(format!("c{}", self.number));
                self.tell(What::Anew);
            }
            Trouble::CniDead => self.bench.cni = Cni::Works,
            Trouble::Breaker => view.breaker = None,
            Trouble::Paused => view.gates.paused = None,
            Trouble::Mesh => view.gates.mesh_fault = None,
            Trouble::Unproven if view.ztunnel_since.is_some() => view.serving = Serving::Captures,
            Trouble::Unproven => {}
        }
    }

    /// Nothing goes wrong any more, and istio-cni is a new one.
    pub(super) fn mend(&mut self) {
        for (_, trouble) in std::mem::take(&mut self.ends) {
            self.end(trouble);
        }
        for pod in self.bench.pods.values_mut() {
            (pod.refused, pod.believed, pod.ports) = (false, false, PortSet::EMPTY);
            pod.standing.facts.repair = None;
        }
        self.end(Trouble::CniAway);
    }
}
