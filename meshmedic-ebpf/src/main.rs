// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! MeshMedic's kernel programs: the trigger, which tells when a capture port begins or ceases to listen and counts
//! the connections of pods; the census, which lists the listeners that a process holds on capture ports; and what reads
//! the packet filter where there is no such listener.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod census;
mod filters;
mod known;
mod offsets;
mod rules;
mod traffic;
mod trigger;
mod walk;

/// The kernel lends `bpf_seq_write` and `bpf_sock_from_file` to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

// The verifier proves that no panic can be reached; the linker removes this.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
