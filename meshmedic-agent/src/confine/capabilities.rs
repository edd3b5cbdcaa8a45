// SPDX-License-Identifier: Apache-2.0
//! Drops capabilities.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

use crate::kernel::Kernel;

/// Looking at the namespaces and descriptors of others asks for this at every look.
const ALWAYS: CapabilitySet = CapabilitySet::SYS_PTRACE;
/// What loading the kernel programs took. Older kernels ask for it at each use as well, in this order until it is enough.
const AT_EACH_USE: [CapabilitySet; 3] = [
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    CapabilitySet::SYS_ADMIN,
];

/// Keeps what this thread needs and holds, and drops the rest for good.
pub(super) fn shed(kernel: Option<&mut Kernel>) -> io::Result<()> {
    let before = capabilities(None)?;
    let mut keep = before.effective & ALWAYS;
    if let Some(kernel) = kernel {
        // First only as long as it is tried out: what turns out to be needed can still be taken up again.
        let mut needed = AT_EACH_USE.into_iter();
        loop {
            let tried = CapabilitySets {
                effective: keep,
                ..before
            };
            set_capabilities(None, tried)?;
            if kernel.is_usable() {
                break;
            }
            match needed.next() {
                Some(more) => keep |= before.effective & more,
                None => break,
            }
        }
    }
    // Where they are not supported, there are none.
    let _ = clear_ambient_capability_set();
    let kept = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, kept)?)
}

/// The names of what this thread holds.
pub(super) fn held() -> Vec<String> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    held.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}
