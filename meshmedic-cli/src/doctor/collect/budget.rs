// SPDX-License-Identifier: Apache-2.0
//! What may be kept of all that pods say, together. Anybody who may make pods may have one say anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ten thousand pods of a mesh leave some 10 MiB.
const BYTES: usize = 256 * 1024 * 1024;
/// What an entry of a map or a list costs beside its text.
const ENTRY: usize = 128;

/// The bytes that are left, for all that ask.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<AtomicUsize>);

impl Default for Budget {
    fn default() -> Self {
        Self::of(BYTES)
    }
}

impl Budget {
    pub(super) fn of(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes what an entry with so many bytes of text costs; the error says that nothing is left.
    pub(super) fn spend(&self, text: usize) -> Result<(), String> {
        let cost = text + ENTRY;
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(cost)
        });
        match left {
            Ok(_) => Ok(()),
            Err(_) => Err(format!(
                "the answers of all pods together hold more than the {} MiB that are kept of them",
                BYTES / 1024 / 1024
            )),
        }
    }
}

/// Adds to a sum; a name that is new costs what it holds.
pub(super) fn add(
    sums: &mut BTreeMap<String, f64>,
    name: String,
    value: f64,
    budget: &Budget,
) -> Result<(), String> {
    if let Some(sum) = sums.get_mut(&name) {
        *sum += value;
        return Ok(());
    }
    budget.spend(name.len())?;
    sums.insert(name, value);
    Ok(())
}
