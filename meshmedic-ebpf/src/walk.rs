// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A walk from the hooks of a namespace to Istio's chains: where it stands, what it found, and how it reads.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_loop, bpf_probe_read_kernel_str},
    },
    macros::map,
    maps::PerCpuArray,
};
use meshmedic_common::abi::{FOUND_MANGLE_PREROUTING, FOUND_NAT_OUTPUT, FOUND_NAT_PREROUTING, RulesLayout};

/// `NF_INET_PRE_ROUTING`.
pub const PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_OUT`.
pub const OUTPUT: u32 = 3;
/// In a place: the bits of the hook.
pub const HOOK: u32 = 7;
/// In a place: the table that is looked for is mangle, not nat.
pub const MANGLE: u32 = 1 << 8;
/// In a place: the hooks are those of IPv6.
pub const IPV6: u32 = 1 << 9;

/// A name, padded with zeroes.
pub type Name = [u64; 3];

pub const fn name(text: &[u8]) -> Name {
    let mut words = [0; 3];
    let mut at = 0;
    while at < text.len() {
        words[at / 8] |= (text[at] as u64) << (at % 8 * 8);
        at += 1;
    }
    words
}

/// What was found: `FOUND_…` in the low byte, `DOUBT_…` in the next.
pub type Answer = u32;

pub const fn doubt(bits: u8) -> Answer {
    (bits as u32) << 8
}

/// Where a walk stands. It lies in a map: to the verifier it is then a value like any other, and it need not follow
/// what comes after for each way in which it may have come about.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Walk {
    /// The hooks that are gone through.
    pub entries: u64,
    /// Behind which the chains of nat stand, if it was met.
    pub nat: u64,
    /// The list of a table's chains: its head, and the one to come.
    pub head: u64,
    pub node: u64,
    /// The table they are of, or the entries of a legacy table.
    pub table: u64,
    /// How many hooks there are.
    pub count: u32,
    /// [`PREROUTING`] or [`OUTPUT`], with [`MANGLE`] and [`IPV6`].
    pub place: u32,
    /// In the entries of a legacy table: the one to come, and their end.
    pub offset: u32,
    pub size: u32,
    /// How many entries of Istio's chain came, its beginning among them.
    pub within: u32,
    /// What is Istio's in the table of nft that was gone through last, for both places. One table stands behind
    /// several hooks, and is gone through once.
    pub chains: Answer,
    pub chains_of: u64,
    pub answer: Answer,
    /// Whether nf_tables was met.
    pub met_nft: u32,
    /// The legacy tables that were met, nat and mangle of IPv4 and then of IPv6.
    pub tables: [u64; 4],
}

#[map]
pub static WALK: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// What each step of a walk gets: values of maps, and the walk is this processor's own.
#[repr(C)]
pub struct Context {
    pub walk: *mut Walk,
    /// A [`RulesLayout`]. Each structure that is only pointed to would be declared in BTF, and LLVM orders more than one
    /// of them by where they lie in its memory: the object would come out another from time to time.
    layout: *const c_void,
}

impl Context {
    pub const fn new(walk: *mut Walk, layout: *const RulesLayout) -> Self {
        Self {
            walk,
            layout: layout.cast(),
        }
    }

    /// Where the walk stands, and by what it reads.
    ///
    /// # Safety
    /// `context` must be one that a step was given, and nothing else may refer to its walk while this does.
    #[inline(always)]
    pub unsafe fn parts<'a>(context: *mut Self) -> (&'a mut Walk, &'a RulesLayout) {
        // SAFETY: as the caller promises; `new` took both from where they point to.
        unsafe { (&mut *(*context).walk, &*(*context).layout.cast()) }
    }
}

/// Goes on, in a step.
pub const ON: i64 = 0;
/// Ends the walk.
pub const END: i64 = 1;

pub type Step = unsafe extern "C" fn(u64, *mut Context) -> i64;

/// Takes a step so many times at most.
#[inline(always)]
pub fn each(most: u32, step: Step, context: &mut Context) {
    // SAFETY: the helper calls `step` with this context, which outlives the call.
    unsafe { bpf_loop(most, step as *mut c_void, (&raw mut *context).cast(), 0) };
}

#[inline(always)]
pub const fn in_nat(place: u32) -> u8 {
    if place & HOOK == PREROUTING {
        FOUND_NAT_PREROUTING
    } else {
        FOUND_NAT_OUTPUT
    }
}

#[inline(always)]
pub fn found(place: u32, how: u8) -> Answer {
    // The bits of mangle stand above those of nat.
    let bits = if place & MANGLE == 0 {
        in_nat(place)
    } else {
        in_nat(place) * FOUND_MANGLE_PREROUTING
    };
    u32::from(bits | how)
}

/// What stands at a kernel address; zero where nothing can be read.
#[inline(always)]
pub fn read<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper survives any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

/// The beginning of a string at a kernel address.
#[inline(always)]
pub fn string(address: u64) -> Name {
    let mut name = MaybeUninit::<Name>::uninit();
    let words = name.as_mut_ptr().cast::<u64>();
    // One word at a time: what the compiler would do instead is a loop over bytes.
    // SAFETY: within `name`.
    unsafe {
        words.write_volatile(0);
        words.add(1).write_volatile(0);
        words.add(2).write_volatile(0);
    }
    // SAFETY: the helper writes into `name` only, and survives any address.
    unsafe { bpf_probe_read_kernel_str(words.cast(), size_of::<Name>() as u32, address as *const _) };
    // SAFETY: all of it was written.
    unsafe { name.assume_init() }
}
