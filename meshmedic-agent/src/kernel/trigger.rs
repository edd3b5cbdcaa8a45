// SPDX-License-Identifier: Apache-2.0
//! Kernel events: a capture port began or ceased to listen somewhere on the node.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::tp_btf::BtfTracePointLink,
};
use meshmedic_common::abi::ListenChange;
use tokio::io::{Interest, unix::AsyncFd};

use super::{KernelError, log::Logs};

/// Records taken in one go: more than the ring holds, so that only a producer who never pauses meets the limit.
const DRAIN_MAX: usize = 8_192;

/// The stream of [`ListenChange`]s; the tracepoint is detached when it is dropped.
pub struct Trigger {
    _link: BtfTracePointLink,
    changes: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    logs: Option<Logs>,
    /// Made on the first wait, since it belongs to the runtime that waits.
    waiting: Option<Waiting>,
}

struct Waiting {
    changes: AsyncFd<OwnedFd>,
    logs: Option<AsyncFd<OwnedFd>>,
}

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger").finish_non_exhaustive()
    }
}

impl Trigger {
    pub(super) fn new(
        link: BtfTracePointLink,
        changes: Map,
        lost: Map,
        logs: Option<Logs>,
    ) -> Result<Self, KernelError> {
        let act = "read the events of the kernel programs";
        Ok(Self {
            _link: link,
            changes: changes
                .try_into()
                .map_err(|error| KernelError::from_load(act, &error))?,
            lost: lost
                .try_into()
                .map_err(|error| KernelError::from_load(act, &error))?,
            logs,
            waiting: None,
        })
    }

    /// Waits until there is at least one record, and appends all that there are.
    ///
    /// Loses nothing when it is cancelled. From the first call on it belongs to the runtime that called.
    ///
    /// # Errors
    /// Where the runtime cannot wait for the ring buffer.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub async fn next(&mut self, batch: &mut Vec<ListenChange>) -> io::Result<()> {
        let waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None => Waiting {
                changes: readable(self.changes.as_fd())?,
                logs: self.logs.as_ref().map(|logs| readable(logs.fd())).transpose()?,
            },
        };
        let waiting = self.waiting.insert(waiting);
        loop {
            if let Some(logs) = &mut self.logs {
                logs.flush();
            }
            if drain(&mut self.changes, batch) > 0 {
                return Ok(());
            }
            // Readiness is cleared before the ring is looked at again: what comes in between wakes once more.
            match &waiting.logs {
                Some(logs) => tokio::select! {
                    ready = waiting.changes.readable() => ready?.clear_ready(),
                    ready = logs.readable() => ready?.clear_ready(),
                },
                None => waiting.changes.readable().await?.clear_ready(),
            }
        }
    }

    /// Appends what there is without waiting.
    pub fn drain(&mut self, batch: &mut Vec<ListenChange>) {
        drain(&mut self.changes, batch);
        if let Some(logs) = &mut self.logs {
            logs.flush();
        }
    }

    /// How many records found the ring buffer full since the programs were loaded.
    ///
    /// # Errors
    /// Where the kernel refuses to read the counter.
    pub fn lost(&self) -> io::Result<u64> {
        let counts = self.lost.get(&0, 0).map_err(io::Error::other)?;
        Ok(counts.iter().sum())
    }
}

/// Waits for a descriptor to be readable.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = fd.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` is open, and the same descriptor, for as long as it lives; the `AsyncFd` owns it.
    let waiting = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(waiting?)
}

fn drain(ring: &mut RingBuf<MapData>, batch: &mut Vec<ListenChange>) -> usize {
    let mut taken = 0;
    while taken < DRAIN_MAX {
        let Some(item) = ring.next() else { break };
        // The programs write nothing else; a shorter record would be one of another release's object.
        batch.extend(ListenChange::from_bytes(&item));
        taken += 1;
    }
    taken
}
