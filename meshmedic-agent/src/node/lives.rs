// SPDX-License-Identifier: Apache-2.0
//! Hears of the end of processes at once, through a descriptor of each.
//!
//! Needs no right but to see the process. Where descriptors are not to be had, the listings of processes tell later.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use meshmedic_common::uid::PodUid;
use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::index::NetnsIndex;
use super::process::is_running;
use crate::kernel;

/// More than the pods of a large node. Those beyond it are found to have ended by the listings.
const MOST: usize = 1024;
/// So many ends are taken at once.
const BATCH: usize = 64;
/// A descriptor is of a process in our own PID namespace, whichever /proc the pods are read through.
const OWN_PROC: &str = "/proc";

/// The processes through which pods are read.
#[derive(Debug, Default)]
pub struct Lives {
    /// `None` where the system refuses, or outside an asynchronous runtime.
    epoll: Option<AsyncFd<OwnedFd>>,
    watched: HashMap<PodUid, Life>,
    ended: Vec<PodUid>,
}

#[derive(Debug)]
struct Life {
    pid: u32,
    start: u64,
    process: OwnedFd,
}

impl Lives {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let epoll = || {
            tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            kernel::readable(epoll.as_fd())
        };
        let epoll = epoll().inspect_err(|error| {
            tracing::debug!(%error, "the ends of processes are heard of by listing them only");
        });
        Self {
            epoll: epoll.ok(),
            ..Self::default()
        }
    }

    /// Watches the processes through which these pods are read, and no others.
    pub fn watch(&mut self, index: &NetnsIndex) {
        let Some(epoll) = &self.epoll else { return };
        self.watched.retain(|uid, life| {
            let kept = index
                .get(uid)
                .is_ok_and(|mapping| (mapping.pid, mapping.start) == (life.pid, life.start));
            if !kept {
                // Closing alone may leave it watched, while somebody else holds the same descriptor.
                let _ = epoll::delete(epoll.get_ref(), &life.process);
            }
            kept
        });
        for (uid, mapping) in index.pods() {
            let Ok(mapping) = mapping else { continue };
            if self.watched.contains_key(uid) || self.watched.len() >= MOST {
                continue;
            }
            match open(mapping.pid, mapping.start).and_then(|process| add(epoll, process)) {
                Ok(process) => {
                    let life = Life {
                        pid: mapping.pid,
                        start: mapping.start,
                        process,
                    };
                    self.watched.insert(uid.clone(), life);
                }
                Err(error) => {
                    tracing::debug!(%error, pid = mapping.pid, "the end of this process will not be heard of");
                }
            }
        }
    }

    /// Waits until processes ended; [`Self::take_ended`] tells whose. May be dropped while it waits.
    pub async fn ended(&mut self) {
        let Some(epoll) = &self.epoll else {
            return std::future::pending().await;
        };
        while self.ended.is_empty() {
            let Ok(mut ready) = epoll.readable().await else {
                return std::future::pending().await;
            };
            let found = ended(epoll.get_ref(), &self.watched);
            if found.is_empty() {
                ready.clear_ready();
            }
            self.ended = found;
        }
    }

    /// The pods whose processes ended. Their processes are watched no more.
    pub fn take_ended(&mut self) -> Vec<PodUid> {
        let ended = std::mem::take(&mut self.ended);
        if let Some(epoll) = &self.epoll {
            for life in ended.iter().filter_map(|uid| self.watched.remove(uid)) {
                let _ = epoll::delete(epoll.get_ref(), &life.process);
            }
        }
        ended
    }
}

/// A descriptor of this very process.
fn open(pid: u32, start: u64) -> io::Result<OwnedFd> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| io::Error::other("not a process number"))?;
    let process = pidfd_open(number, PidfdFlags::empty())?;
    // Only now: the number may be another process's in our namespace, or may have become another's.
    match is_running(Path::new(OWN_PROC), pid, start) {
        true => Ok(process),
        false => Err(io::Error::other(
            "in our own PID namespace this number is another process's",
        )),
    }
}

fn add(epoll: &AsyncFd<OwnedFd>, process: OwnedFd) -> io::Result<OwnedFd> {
    let descriptor = u64::try_from(process.as_raw_fd()).map_err(io::Error::other)?;
    let data = epoll::EventData::new_u64(descriptor);
    epoll::add(epoll.get_ref(), &process, data, epoll::EventFlags::IN)?;
    Ok(process)
}

fn ended(epoll: &OwnedFd, watched: &HashMap<PodUid, Life>) -> Vec<PodUid> {
    let mut events = Vec::with_capacity(BATCH);
    let at_once = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)).is_err() {
        return Vec::new();
    }
    let ended: Vec<RawFd> = events
        .iter()
        .filter_map(|event| RawFd::try_from(event.data.u64()).ok())
        .collect();
    let ended = |life: &Life| ended.contains(&life.process.as_raw_fd());
    watched
        .iter()
        .filter(|(_, life)| ended(life))
        .map(|(uid, _)| uid.clone())
        .collect()
}
