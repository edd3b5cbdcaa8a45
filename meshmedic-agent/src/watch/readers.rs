// SPDX-License-Identifier: Apache-2.0
//! Readings under way. Each blocks a thread for the milliseconds that the kernel needs, so they run
//! beside the loop, a few at a time.

use std::path::Path;

use meshmedic_common::uid::PodUid;
use tokio::task::JoinSet;

use crate::node::{Evidence, Mapping, ReadJob, Unreadable};
use crate::time::Time;

/// A reading that came back.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) uid: PodUid,
    pub(super) mapping: Mapping,
    pub(super) started: Time,
    pub(super) ended: Time,
    pub(super) result: Result<Evidence, Unreadable>,
}

#[derive(Debug)]
pub(super) struct Readers {
    running: JoinSet<Finished>,
    limit: usize,
}

impl Readers {
    pub(super) fn new() -> Self {
        let limit = std::thread::available_parallelism().map_or(1, usize::from);
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

    pub(super) fn start(&mut self, root: &Path, uid: PodUid, mapping: Mapping) {
        let job = ReadJob {
            root: root.to_owned(),
            mapping,
        };
        self.running.spawn_blocking(move || {
            let started = Time::now();
            let result = job.run();
            Finished {
                uid,
                mapping: job.mapping,
                started,
                ended: Time::now(),
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
