// SPDX-License-Identifier: Apache-2.0
//! What became of a repair that nobody proved by its deadline: whose failure it is, if it is one.

use std::time::Duration;

use super::super::ledger::{Conclusion, Record};
use super::super::owner::Owner;
use super::super::sabotage::{Defence, is_out};
use super::super::successor::succeeds;
use super::super::{Moment, Outcome, Repairer, Request};
use super::{ASK_AGAIN, Attempt, Stage};
use crate::facts::PodFacts;

/// No pod gets more than this to end: it could keep a place that others wait for. Where it takes longer, that is held
/// against its owner alone.
pub(super) const MOST_GRACE: Duration = Duration::from_secs(15 * 60);
/// So long the question what became of it is asked.
const ASKED: Duration = Duration::from_secs(60);

/// How long after the act the proof may come: what the pod itself takes to end is no fault of its successor.
pub(super) fn patience(repairer: &Repairer, facts: &PodFacts) -> Duration {
    let grace = facts.grace.min(MOST_GRACE);
    let waits = repairer.means.replaces() && !is_out(Defence::Grace);
    repairer.limits.successor_deadline + if waits { grace } else { Duration::ZERO }
}

impl Attempt {
    pub(super) fn note_sent(&mut self, record: &Record) {
        self.owner_record.clone_from(record);
        self.sent = record.entry(&self.id).cloned().map(Box::new);
    }

    /// The deadline is over.
    pub(super) fn unproved(&mut self, at: Moment) {
        if self.survey().is_none() || is_out(Defence::Aftermath) {
            return self.done(at, Conclusion::Unproven, Outcome::Unproven);
        }
        self.stage = Stage::Surveying;
    }

    pub(super) fn survey(&self) -> Option<Request> {
        let sent = self.sent.as_ref().filter(|sent| sent.means.replaces())?;
        let controller = sent.controller.clone()?;
        let pod = self.pod.clone();
        Some(Request::Survey { pod, controller })
    }

    pub(super) fn surveyed(&mut self, at: Moment, result: Result<Option<Owner>, String>) {
        match result {
            Ok(owner) => match self.aftermath(owner.as_ref()) {
                Aftermath::Unwanted => self.done(at, Conclusion::Unwanted, Outcome::Unwanted),
                Aftermath::Waiting(seen) => self.done(at, Conclusion::Waiting, Outcome::Waiting(seen)),
                Aftermath::Runs => self.done(at, Conclusion::Unproven, Outcome::Unproven),
            },
            Err(_) if at.now < self.late_at + ASKED => self.not_before = at.now + ASK_AGAIN,
            // What nobody can show is held against nobody else.
            Err(why) => self.done(at, Conclusion::Waiting, Outcome::Waiting(why)),
        }
    }

    fn aftermath(&self, owner: Option<&Owner>) -> Aftermath {
        let (Some(owner), Some(sent)) = (owner, &self.sent) else {
            return Aftermath::Unwanted;
        };
        let came = owner.others.iter().filter(|other| {
            let controller = sent.controller.as_ref();
            controller.is_some_and(|controller| succeeds(other, controller, sent, &self.owner_record))
        });
        if came.clone().any(|other| other.started) {
            return Aftermath::Runs;
        }
        let (there, wanted) = (owner.others.len(), owner.wanted);
        match came.clone().next() {
            Some(other) => Aftermath::Waiting(format!("{} is still Pending", other.name)),
            None if there >= wanted => Aftermath::Unwanted,
            None => Aftermath::Waiting(format!(
                "{there} of the {wanted} pods that its owner wants are there"
            )),
        }
    }
}

/// What is in the place of the pod.
enum Aftermath {
    /// Nothing, and nothing is wanted there.
    Unwanted,
    /// Nothing that runs.
    Waiting(String),
    /// A pod that runs, of which nobody proved anything.
    Runs,
}
