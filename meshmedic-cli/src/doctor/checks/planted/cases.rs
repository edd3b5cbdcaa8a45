// SPDX-License-Identifier: Apache-2.0
//! The faults.

mod mesh;
mod objects;
mod paths;
mod surroundings;

use crate::doctor::snapshot::Snapshot;

/// A fault.
pub(super) struct Case {
    pub(super) code: &'static str,
    /// What it is found on.
    pub(super) on: &'static str,
    pub(super) plant: fn(&mut Snapshot),
    /// What the remedy asks a person to do.
    pub(super) by_hand: fn(&mut Snapshot),
    /// Codes of what follows from it.
    pub(super) along: &'static [&'static str],
    /// Whether it can stand beside all others; not, if it is of the same setting as another.
    pub(super) mixes: bool,
}

/// Every fault, by the code of its check.
pub(super) fn all() -> impl Iterator<Item = &'static Case> + Clone {
    let families = [mesh::CASES, paths::CASES, objects::CASES, surroundings::CASES];
    families.into_iter().flatten()
}

const fn case(
    code: &'static str,
    on: &'static str,
    plant: fn(&mut Snapshot),
    by_hand: fn(&mut Snapshot),
) -> Case {
    Case {
        code,
        on,
        plant,
        by_hand,
        along: &[],
        mixes: true,
    }
}

const fn nothing(_: &mut Snapshot) {}
