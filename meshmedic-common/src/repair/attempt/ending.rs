// SPDX-License-Identifier: Apache-2.0
//! How a repair waits for its proof while it keeps what it holds, and how its end is written down.

use std::time::Duration;

use super::super::ledger::{Conclusion, LEASE, Record};
use super::super::{LeaseKey, Moment, Outcome, Refusal};
use super::{ASK_AGAIN, Act, Attempt, Ended, Left, Stage};
use crate::policy::Withheld;

/// What a repair came to is written down even after a long outage: the breakers live on it. What was not
/// done is not worth that, since what it holds runs out by itself.
const OUTCOME: Duration = Duration::from_secs(60 * 60);

impl Attempt {
    pub(super) fn follow(&mut self, at: Moment) {
        // Of the cluster only the hour's budget is taken; nothing there is held.
        self.held.retain(|lease| *lease != LeaseKey::Cluster);
        self.stage = Stage::Following {
            renewed: at.now,
            next: 0,
        };
    }

    pub(super) fn renewed(&mut self, at: Moment, result: &Result<Record, Refusal>) {
        let Stage::Following { renewed, next } = &mut self.stage else {
            return;
        };
        match result {
            Ok(_) => *next += 1,
            Err(Refusal::Failed(_)) => self.not_before = at.now + ASK_AGAIN,
            // It was silent for too long, and somebody else has it now.
            Err(Refusal::Withheld(..)) => {
                let lost = self.held.remove(*next);
                if matches!(lost, LeaseKey::Owner(_)) {
                    // No proof can come any more.
                    return self.unproved(at);
                }
            }
        }
        if *next >= self.held.len() {
            (*renewed, *next) = (at.now, 0);
        }
    }

    pub(super) fn concluded(&mut self, at: Moment, result: &Result<Record, Refusal>) {
        let Stage::Ending { until, left, .. } = &mut self.stage else {
            return;
        };
        let failed = matches!(result, Err(Refusal::Failed(_)));
        if failed && at.now < *until {
            // One that cannot be written must not keep the others.
            self.held.rotate_right(1);
            self.not_before = at.now + ASK_AGAIN;
            return;
        }
        if failed && matches!(self.held.last(), Some(LeaseKey::Owner(_))) {
            *left = Left::Unfinished;
        }
        let left = *left;
        self.held.pop();
        if self.held.is_empty() {
            self.stage = Stage::Over(left);
        }
    }

    /// Ends with nothing done, for certain.
    pub(super) fn undone(&mut self, at: Moment, why: Withheld, detail: Option<String>) {
        self.end(at, Conclusion::NotDone, Some(Ended::Withheld(why, detail)));
    }

    pub(super) fn done(&mut self, at: Moment, conclusion: Conclusion, outcome: Outcome) {
        self.end(at, conclusion, Some(Ended::Done(outcome)));
    }

    pub(super) fn end(&mut self, at: Moment, conclusion: Conclusion, ended: Option<Ended>) {
        self.ended = ended;
        let counts_everywhere = matches!(
            conclusion,
            Conclusion::Succeeded(_) | Conclusion::Failed | Conclusion::Unproven
        );
        let counts = counts_everywhere || conclusion == Conclusion::Waiting;
        if counts_everywhere && !self.held.contains(&LeaseKey::Cluster) {
            self.held.push(LeaseKey::Cluster);
        }
        self.not_before = at.now;
        self.stage = if self.held.is_empty() {
            Stage::Over(Left::Nothing)
        } else {
            Stage::Ending {
                conclusion,
                until: at.now + if counts { OUTCOME } else { LEASE },
                left: Left::Nothing,
            }
        };
    }

    /// Ends as soon as nothing is at the API any more.
    pub(in super::super) fn stop(&mut self, at: Moment) {
        self.stopping = true;
        if self.asked.is_some() {
            return;
        }
        let conclusion = match self.stage {
            Stage::Claiming(_)
            | Stage::Rehearsing(_)
            | Stage::Checking
            | Stage::Looking { .. }
            | Stage::Announcing => Conclusion::NotDone,
            Stage::Acting if self.act == Act::Unsent => Conclusion::NotDone,
            // First it is written down that it happened.
            Stage::Recording | Stage::Ending { .. } | Stage::Over(_) => return,
            Stage::Adopting => {
                self.stage = Stage::Over(Left::Nothing);
                return;
            }
            Stage::Acting | Stage::Resolving | Stage::Following { .. } | Stage::Surveying => {
                Conclusion::Released
            }
        };
        self.end(at, conclusion, None);
    }
}
