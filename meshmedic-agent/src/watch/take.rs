// SPDX-License-Identifier: Apache-2.0
//! What a watch concludes from whatever wakes it.

use std::time::Duration;

use meshmedic_common::abi::{CHANGE_OPENED, ListenChange};
use meshmedic_common::ports::PortSet;
use meshmedic_common::uid::PodUid;

use super::readers::Finished;
use super::schedule::Chore;
use super::{Event, REFRESH_AFTER_END, Wake, Watch, addresses_of, place_of, sources, unreadable_look};
use crate::cpu;
use crate::engine::{Look, Seen};
use crate::node::{Mapping, Unreadable};
use crate::time::Time;

/// Records of namespaces that belong to no pod make us look for new processes this often at most.
const REFRESH_FOR_STRANGERS: Duration = Duration::from_secs(1);

impl Watch {
    pub(super) fn take(&mut self, now: Time, wake: Wake) {
        // Before anything is concluded: does ztunnel still live?
        if !self.sources.ztunnel_alive(&self.options.proc_root) {
            self.refresh_or_warn(now);
        }
        match wake {
            Wake::Kernel(Ok(())) => {
                let before = cpu::of_thread();
                self.take_records(now);
                self.charge(now, before);
            }
            Wake::Kernel(Err(error)) => {
                self.sources.disarm();
                self.kernel_failed(now, &error);
            }
            Wake::Read(finished) => {
                self.counters.looking += finished.cost;
                self.pace.read(now, finished.cost);
                let before = cpu::of_thread();
                self.take_reading(now, finished);
                self.charge(now, before);
            }
            Wake::Ended => self.take_ends(now),
            Wake::Timer => {}
        }
        self.take_timers(now);
        self.engine.tick(now);
    }

    fn take_records(&mut self, now: Time) {
        let batch = std::mem::take(&mut self.batch);
        self.counters.records += batch.len() as u64;
        let unknown = batch
            .iter()
            .any(|change| self.index.pod_of(change.netns).is_none());
        let opened = batch.iter().any(|change| change.change == CHANGE_OPENED);
        if unknown || (opened && self.sources.ztunnel.is_empty()) {
            let again = self.refreshed + REFRESH_FOR_STRANGERS;
            if now >= again || self.sources.ztunnel.is_empty() {
                self.refresh_or_warn(now);
            } else {
                self.schedule.by(Chore::Refresh, again);
            }
        }
        for change in batch.iter().filter(|change| change.change != CHANGE_OPENED) {
            if let Some(uid) = self.index.pod_of(change.netns) {
                self.engine.reported(uid, Time::from_nanos(change.at_ns));
            }
        }
        // Of a port that capture does not hang on the census has nothing to say: DNS is often the first of a loss, and
        // the census would then be over before the others closed.
        let matters = |change: &ListenChange| PortSet::REQUIRED.contains(change.port);
        let censused = batch.iter().any(matters) && self.run_census(now);
        let reads_all = !self.sources.has_census();
        for change in &batch {
            let Some(uid) = self.index.pod_of(change.netns).cloned() else {
                continue;
            };
            // Where the census cannot vouch for the pod, the event asks for a reading.
            let vouched = censused && self.sources.sockets().is_complete_in(change.netns);
            if !vouched && (matters(change) || reads_all) {
                self.engine.hint(now, &uid);
            }
            self.events.push(Event::Kernel { change: *change, uid });
        }
        self.batch = batch;
        self.batch.clear();
        match self.sources.records_lost() {
            lost if lost > self.counters.records_lost => {
                self.counters.records_lost = lost;
                self.events.push(Event::RecordsLost(lost));
                self.engine.sweep(now, |_, _| true);
            }
            _ => {}
        }
    }

    /// Charges what this thread spent since `before`.
    fn charge(&mut self, now: Time, before: Duration) {
        let cost = cpu::of_thread().saturating_sub(before);
        self.counters.looking += cost;
        self.pace.spent(now, cost);
    }

    fn take_reading(&mut self, now: Time, finished: Finished) {
        let Finished {
            uid,
            mapping,
            started,
            ended,
            result,
            ..
        } = finished;
        let evidence = match result {
            Ok(evidence) => evidence,
            Err(unreadable) => return self.take_unreadable(now, &uid, &mapping, unreadable),
        };
        if self.index.get(&uid).ok().map(|known| known.netns) != Some(mapping.netns) {
            // Meanwhile the pod's namespace is known to be another one.
            return self.engine.retry(&uid, now);
        }
        let counter = match &evidence.reading {
            reading if reading.is_complete() => &mut self.counters.complete,
            reading if reading.ports().is_empty() => &mut self.counters.none,
            _ => &mut self.counters.partial,
        };
        *counter += 1;
        let Some(seen) = self.sources.assess(now, &self.table, &uid, &evidence.reading) else {
            return self.engine.retry(&uid, now + sources::LISTING_LASTS);
        };
        // The census reads those of pods in which ztunnel listens.
        let rules = match seen {
            Seen::Complete { .. } | Seen::Unreadable(..) => None,
            Seen::Incomplete(_) | Seen::Imposter(_) => {
                let addresses = addresses_of(&self.declared, &uid);
                self.sources.rules_of(&mapping, addresses)
            }
        };
        let look = Look {
            started,
            finished: ended,
            seen,
            ports: evidence.reading.ports(),
            redirection: evidence.redirection,
            rules,
            place: Some(place_of(&mapping)),
        };
        self.engine.look(now, &uid, look);
    }

    /// A reading that gave nothing. Its process may have ended while the pod lives on: another one may be found.
    fn take_unreadable(&mut self, now: Time, uid: &PodUid, mapping: &Mapping, unreadable: Unreadable) {
        self.counters.unreadable += 1;
        self.table.reread(uid);
        self.refresh_or_warn(now);
        let look = match self.index.get(uid) {
            Ok(other) if other != mapping => return self.engine.retry(uid, now),
            Ok(_) => unreadable_look(now, unreadable.reason, unreadable.detail),
            Err(reason) => unreadable_look(now, reason, reason.sentence().to_owned()),
        };
        self.engine.look(now, uid, look);
    }

    /// Processes ended through which pods were read: whatever is said of their namespaces may be void.
    fn take_ends(&mut self, now: Time) {
        for uid in self.lives.take_ended() {
            self.table.reread(&uid);
        }
        self.schedule
            .by(Chore::Refresh, now.max(self.refreshed + REFRESH_AFTER_END));
    }
}
