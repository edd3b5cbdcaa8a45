// SPDX-License-Identifier: Apache-2.0
//! The faults that are on.

use std::time::Duration;

use super::failure::Failure;
use crate::api::fault::{Action, Fault};
use crate::api::request::Request;

/// The faults that are on, and how often each was met.
#[derive(Default)]
pub(crate) struct Faults {
    made: u64,
    all: Vec<Entry>,
}

struct Entry {
    number: u64,
    fault: Fault,
    hits: u64,
    removed: bool,
}

/// What is in store for one request.
#[derive(Default)]
pub(crate) struct Fate {
    pub(crate) latency: Duration,
    pub(crate) failure: Option<Failure>,
    pub(crate) drop_before: bool,
    pub(crate) drop_after: bool,
    pub(crate) stale: Option<u64>,
}

impl Entry {
    fn is_on(&self) -> bool {
        !self.removed && self.fault.times.is_none_or(|times| self.hits < times)
    }
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) -> u64 {
        self.made += 1;
        self.all.push(Entry {
            number: self.made,
            fault,
            hits: 0,
            removed: false,
        });
        self.made
    }

    /// Ends a fault; how often it was met is still known.
    pub(crate) fn remove(&mut self, number: u64) {
        for entry in self.all.iter_mut().filter(|entry| entry.number == number) {
            entry.removed = true;
        }
    }

    pub(crate) fn hits(&self, number: u64) -> u64 {
        let found = self.all.iter().find(|entry| entry.number == number);
        found.map_or(0, |entry| entry.hits)
    }

    /// Whether a watch shall say nothing.
    pub(crate) fn is_silent(&self, request: &Request) -> bool {
        let silence = |fault: &Fault| matches!(fault.action, Action::Silence);
        let mut on = self.all.iter().filter(|entry| entry.is_on());
        on.any(|entry| silence(&entry.fault) && entry.fault.meets(request))
    }

    /// Decides about a request, which counts.
    pub(crate) fn decide(&mut self, request: &Request) -> Fate {
        let mut fate = Fate::default();
        for entry in &mut self.all {
            if !entry.is_on() || !entry.fault.meets(request) {
                continue;
            }
            if fate.failure.is_some() || fate.drop_before {
                // It gets no further than the first that ends it.
                break;
            }
            if !matches!(entry.fault.action, Action::Silence) {
                entry.hits += 1;
            }
            match &entry.fault.action {
                Action::Latency(latency) => fate.latency += *latency,
                Action::Status {
                    code,
                    retry_after,
                    message,
                } => {
                    let message = message.clone();
                    let message = message.unwrap_or_else(|| format!("the lab answers with {code}"));
                    fate.failure = Some(Failure::of_code(*code, message, *retry_after));
                }
                Action::DropBefore => fate.drop_before = true,
                Action::DropAfter => fate.drop_after = true,
                Action::Stale(version) => fate.stale = Some(*version),
                Action::Silence => {}
            }
        }
        fate
    }
}
