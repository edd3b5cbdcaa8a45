// SPDX-License-Identifier: Apache-2.0
//! One program with every fuzz target; `MESHMEDIC_FUZZ` says which. `cargo xtask fuzz` builds and runs it.
//!
//! A target takes any bytes and panics where a promise about them is broken. That nothing panics by itself is the
//! first promise of each.
#![no_main]

mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

/// Which target runs.
static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("MESHMEDIC_FUZZ").unwrap_or_default();
        let found = targets::ALL.iter().find(|(target, _)| *target == name);
        let Some((_, run)) = found else {
            let names: Vec<_> = targets::ALL.iter().map(|(name, _)| *name).collect();
            println!("{}", names.join("\n"));
            std::process::exit(if name == "list" { 0 } else { 2 });
        };
        CHOSEN.get_or_init(|| *run);
    },
    |bytes: &[u8]| if let Some(run) = CHOSEN.get() { run(bytes) }
);
