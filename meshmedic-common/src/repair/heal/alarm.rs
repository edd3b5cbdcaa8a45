// SPDX-License-Identifier: Apache-2.0
//! What the agents of a cluster tell one another of their heals.
//!
//! A node on which heals did not take says so, once. Success is no news while nothing failed: it is told only where the
//! cluster's breaker is open, since it shows that what failed elsewhere fails there alone.

use std::time::Duration;

use super::NodeView;
use crate::repair::ledger::Step;
use crate::time::Time;

/// What could not be written down is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Pods of different owners, of these namespaces, did not take.
    Failed(Vec<String>),
    /// One did.
    Took,
}

impl News {
    /// How it is written into the Lease, on behalf of this node.
    #[must_use]
    pub fn step(self, node: &str) -> Step {
        match self {
            Self::Failed(namespaces) => Step::NodeFailed {
                node: node.to_owned(),
                namespaces,
            },
            Self::Took => Step::NodeSucceeded(node.to_owned()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Alarm {
    news: Option<News>,
    /// Whether it is being written.
    out: bool,
    not_before: Time,
    /// Whether the breaker is open, as far as this agent knows.
    open: bool,
}

impl Alarm {
    pub(super) fn observe(&mut self, view: &NodeView) {
        self.open = view.breaker.is_some();
        let needless = match self.news {
            // It is open already, and one more node makes no difference.
            Some(News::Failed(_)) => self.open,
            Some(News::Took) => !self.open,
            None => false,
        };
        if needless && !self.out {
            self.news = None;
        }
    }

    pub(super) fn failed(&mut self, namespaces: Vec<String>) {
        if !self.open {
            (self.news, self.out) = (Some(News::Failed(namespaces)), false);
        }
    }

    pub(super) fn took(&mut self) {
        if self.open {
            (self.news, self.out) = (Some(News::Took), false);
        } else if !self.out {
            // What failed before this is over.
            self.news = None;
        }
    }

    pub(super) fn take(&mut self, now: Time) -> Option<News> {
        if self.out || now < self.not_before {
            return None;
        }
        let news = self.news.clone()?;
        self.out = true;
        Some(news)
    }

    pub(super) fn answer(&mut self, now: Time, written: bool) {
        if !std::mem::take(&mut self.out) {
            // Something newer is to be told meanwhile.
        } else if written {
            self.news = None;
        } else {
            self.not_before = now + AGAIN;
        }
    }

    /// When it is tried again.
    pub(super) fn due(&self) -> Option<Time> {
        self.news.as_ref().filter(|_| !self.out).map(|_| self.not_before)
    }
}
