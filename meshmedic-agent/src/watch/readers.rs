// SPDX-License-Identifier: Apache-2.0
//! Readings under way. Each blocks a thread for the milliseconds that the kernel needs, so they run
//! beside the loop, a few at a time.

use std::time::Duration;

use meshmedic_common::uid::PodUid;
use tokio::task::JoinSet;

/// However many processors a node has, no more than this are kept busy by readings.
const MOST: usize = 2;

use crate::cpu;
use crate::node::{Evidence, Mapping, ReadJob, Unreadable};
use crate::time::Time;

/// A reading that came back.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) uid: PodUid,
    pub(super) mapping: Mapping,
    pub(super) started: Time,
    pub(super) ended: Time,
    /// The processor time that it took.
    pub(super) cost: Duration,
    pub(super) result: Result<Evidence, Unreadable>,
}

#[derive(Debug)]
pub(super) struct Readers {
    running: JoinSet<Finished>,
    limit: usize,
}

impl Readers {
    pub(super) fn new() -> Self {
        let limit = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST);
        Self {
            running: JoinSet::new(),
            limit,
        }
    }

    pub(super) fn room(&self) -> usize {
        self.limit - self.running.len().min(self.limit)
    }

    pub(super) fn is_full(&self) -> bool {
        self.room() == 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn start(&mut self, uid: PodUid, job: ReadJob) {
        self.running.spawn_blocking(move || {
            let started = Time::now();
            let before = cpu::of_thread();
            let result = job.run();
            Finished {
                uid,
                mapping: job.mapping,
                started,
                ended: Time::now(),
                cost: cpu::of_thread().saturating_sub(before),
                result,
            }
        });
    }

    /// The next reading that comes back; never, while none is under way.
    pub(super) async fn next(&mut self) -> Finished {
        match self.running.join_next().await {
            Some(Ok(finished)) => finished,
            // A reading neither panics nor is cancelled; should it ever, going on would hide it.
            Some(Err(error)) => panic!("a reading failed to run: {error}"),
            None => std::future::pending().await,
        }
    }
}
