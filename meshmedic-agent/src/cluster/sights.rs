// SPDX-License-Identifier: Apache-2.0
//! Since when pods are Ready or not, as this agent saw it.
//!
//! A condition's time is by the clock of the node that wrote it, which may be wrong. So the agent's own first sight of it,
//! by the API server's clock, counts where that is later: no wait is ever shorter than what was seen of it.

use std::collections::HashMap;

use jiff::Timestamp;

use super::store::Delta;
use super::watches::Seen;

/// By UID: whether the pod is Ready, and since when that was seen.
type ByUid = HashMap<String, (bool, Timestamp)>;

/// What was seen of pods.
#[derive(Debug, Default)]
pub struct Sights {
    seen: ByUid,
    /// While everything is told anew: what was told so far.
    anew: Option<ByUid>,
    /// Whether everything was told once.
    complete: bool,
}

impl Sights {
    /// Dates news of a pod. Without the API server's time nothing can be said.
    pub fn date(&mut self, server: Option<Timestamp>, news: &mut Seen) {
        let (Seen::Pod(delta), Some(server)) = (news, server) else {
            return;
        };
        match &mut **delta {
            Delta::Begin => self.anew = Some(HashMap::new()),
            Delta::End => {
                self.seen = self.anew.take().unwrap_or_default();
                self.complete = true;
            }
            Delta::Gone(uid) => {
                self.seen.remove(uid);
            }
            Delta::Is(uid, facts) => {
                let before = self.seen.get(uid).filter(|(ready, _)| *ready == facts.ready);
                // What an agent meets Ready at its start has been so: of ztunnel its processes tell for how long.
                let met = facts
                    .ready_since
                    .filter(|since| facts.ready && !self.complete && *since < server);
                let since = before.map_or(met.unwrap_or(server), |(_, since)| *since);
                let told = self.anew.as_mut().unwrap_or(&mut self.seen);
                told.insert(uid.clone(), (facts.ready, since));
                facts.ready_since = facts.ready_since.max(Some(since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use meshmedic_common::facts::PodFacts;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// What counts of news of a pod whose node says that it is so since then.
    fn dated(sights: &mut Sights, now: i64, ready: bool, says: i64) -> Option<Timestamp> {
        let facts = PodFacts {
            ready,
            ready_since: Some(at(says)),
            ..PodFacts::default()
        };
        let mut news = Seen::Pod(Box::new(Delta::Is("uid".to_owned(), facts)));
        sights.date(Some(at(now)), &mut news);
        let Seen::Pod(delta) = news else { unreachable!() };
        let Delta::Is(_, facts) = *delta else {
            unreachable!()
        };
        facts.ready_since
    }

    fn tell(sights: &mut Sights, delta: Delta<PodFacts>) {
        sights.date(Some(at(0)), &mut Seen::Pod(Box::new(delta)));
    }

    #[test]
    fn a_node_whose_clock_is_behind_shortens_no_wait() {
        let mut sights = Sights::default();
        tell(&mut sights, Delta::Begin);
        assert_eq!(
            dated(&mut sights, 10_000, true, 9_000),
            Some(at(9_000)),
            "it was Ready before the agent came"
        );
        tell(&mut sights, Delta::End);
        // It says that it has not been Ready for two hours, and was Ready a moment ago.
        assert_eq!(dated(&mut sights, 10_100, false, 2_800), Some(at(10_100)));
        assert_eq!(
            dated(&mut sights, 10_200, false, 2_800),
            Some(at(10_100)),
            "news of something else"
        );
        // The watch begins anew: what was seen stays seen.
        tell(&mut sights, Delta::Begin);
        assert_eq!(dated(&mut sights, 10_300, false, 2_800), Some(at(10_100)));
        tell(&mut sights, Delta::End);
        assert_eq!(dated(&mut sights, 10_400, false, 2_800), Some(at(10_100)));
        // One that is ahead waits for longer.
        assert_eq!(dated(&mut sights, 10_500, true, 11_000), Some(at(11_000)));
        // And what is gone is forgotten.
        tell(&mut sights, Delta::Gone("uid".to_owned()));
        assert_eq!(dated(&mut sights, 10_600, true, 0), Some(at(10_600)));
    }
}
