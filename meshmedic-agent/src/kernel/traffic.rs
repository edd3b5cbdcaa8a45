// SPDX-License-Identifier: Apache-2.0
//! The connections that the kernel counts in the namespaces of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::AsFd as _;

use aya::maps::{Array, HashMap, Map, MapData};
use meshmedic_common::abi::{TrafficCounts, mark_of};

use super::KernelError;
use super::bpf::SharedCounts;

/// As many namespaces as are counted: twice the pods of the largest nodes. A value takes 48 bytes.
pub(super) const NAMESPACES: u32 = 2048;

/// Counts connections by network namespace, for as long as the trigger is attached; see [`Traffic::watch`].
pub struct Traffic {
    slots: HashMap<MapData, u32, u32>,
    counts: SharedCounts,
    /// Which namespaces may be watched, for the program to find out quickly, and what stands there.
    marks: Array<MapData, u64>,
    marked: BTreeMap<u32, u64>,
    /// The program that counts is loaded after this, and finds its map by this descriptor.
    _array: MapData,
    /// The namespaces that are watched, by inode.
    watched: BTreeMap<u32, Slot>,
    /// Slots that nobody has.
    free: Vec<u32>,
    /// Namespaces for which there was no slot, or which the kernel refused.
    left_out: usize,
}

/// A place in the kernel's counts.
struct Slot {
    at: u32,
    /// What stood there when the namespace got it.
    before: TrafficCounts,
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic")
            .field("watched", &self.watched.len())
            .field("left_out", &self.left_out)
            .finish_non_exhaustive()
    }
}

impl Traffic {
    pub(super) fn new(slots: Map, marks: Map, counts: Map, namespaces: u32) -> Result<Self, KernelError> {
        let act = "use the counts of connections";
        let Map::Array(counts) = counts else {
            return Err(KernelError::Object {
                act,
                reason: "they are no array".to_owned(),
            });
        };
        let failed = |reason: std::io::Error| KernelError::Object {
            act,
            reason: reason.to_string(),
        };
        Ok(Self {
            slots: HashMap::try_from(slots).map_err(|error| KernelError::from_load(act, &error))?,
            marks: Array::try_from(marks).map_err(|error| KernelError::from_load(act, &error))?,
            marked: BTreeMap::new(),
            counts: SharedCounts::new(counts.fd().as_fd(), namespaces).map_err(failed)?,
            _array: counts,
            watched: BTreeMap::new(),
            free: (0..namespaces).rev().collect(),
            left_out: 0,
        })
    }

    /// Counts in these namespaces, by inode, and in no other. One that was watched keeps its counts.
    pub fn watch(&mut self, wanted: &BTreeSet<u32>) {
        let gone: Vec<u32> = self
            .watched
            .keys()
            .copied()
            .filter(|netns| !wanted.contains(netns))
            .collect();
        for netns in gone {
            // What is not there any more is what is wanted.
            let _ = self.slots.remove(&netns);
            self.free.extend(self.watched.remove(&netns).map(|slot| slot.at));
        }
        self.left_out = 0;
        for &netns in wanted {
            if self.watched.contains_key(&netns) {
                continue;
            }
            let Some(at) = self.free.pop() else {
                self.left_out += 1;
                continue;
            };
            let before = self.counts.get(at);
            if let Err(error) = self.slots.insert(netns, at, 0) {
                tracing::debug!(%error, netns, "the connections of a network namespace are not counted");
                self.free.push(at);
                self.left_out += 1;
                continue;
            }
            self.watched.insert(netns, Slot { at, before });
        }
        self.mark();
    }

    /// Marks what is watched, and nothing else.
    fn mark(&mut self) {
        let mut wanted: BTreeMap<u32, u64> = self.marked.keys().map(|word| (*word, 0)).collect();
        for &netns in self.watched.keys() {
            let (word, bit) = mark_of(netns);
            *wanted.entry(word).or_default() |= bit;
        }
        for (word, bits) in wanted {
            if self.marked.get(&word) == Some(&bits) {
                continue;
            }
            match self.marks.set(word, bits, 0) {
                Ok(()) => drop(self.marked.insert(word, bits)),
                // It is tried again with the next change.
                Err(error) => {
                    tracing::debug!(%error, word, "connections of some network namespaces are not counted")
                }
            }
        }
    }

    /// What was counted in a namespace since it is watched; `None` where it is not.
    #[must_use]
    pub fn of(&self, netns: u32) -> Option<TrafficCounts> {
        let slot = self.watched.get(&netns)?;
        let (now, before) = (self.counts.get(slot.at), slot.before);
        Some(TrafficCounts {
            opened_ipv4: now.opened_ipv4.wrapping_sub(before.opened_ipv4),
            opened_ipv6: now.opened_ipv6.wrapping_sub(before.opened_ipv6),
            accepted: now.accepted.wrapping_sub(before.accepted),
            taken_outbound: now.taken_outbound.wrapping_sub(before.taken_outbound),
            taken_inbound: now.taken_inbound.wrapping_sub(before.taken_inbound),
            upstream: now.upstream.wrapping_sub(before.upstream),
        })
    }

    /// How many namespaces are wanted and not counted.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }
}
