// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What was read of a namespace's rules, kept for as long as nothing shows that they changed.
//!
//! From kernel 6.17 on a namespace carries a generation, which every change of nf_tables in it advances. Where it and
//! the hooks are what they were, the names behind them are not followed anew. A legacy table changes without either, so
//! what met one is never kept, nor is a doubt. A change may advance the generation a moment before it takes effect, so
//! two readings must agree before one is used again, and after a few uses the names are followed once more.

use aya_ebpf::{macros::map, maps::Array};
use meshmedic_common::abi::{CENSUSES_KEPT, FOUND_BEFORE, FamilyHooks};

/// A power of two. Namespaces that meet in one slot are followed each time.
const SLOTS: u32 = 4096;

/// The hooks that lead to Istio's chains: PREROUTING and OUTPUT, of IPv4 and then of IPv6.
pub type Places = [u64; 4];

/// One namespace: a cache line.
#[derive(Clone, Copy)]
#[repr(C)]
struct Known {
    /// Which namespace: no other ever has this number. Zero is none.
    cookie: u64,
    /// Its hooks, those behind nat's own among them.
    hooks: u64,
    /// What nat has at these places, behind which its own hooks stand.
    nat: Places,
    generation: u32,
    /// How often it may still be used.
    left: u32,
    found: [FamilyHooks; 2],
}

#[map]
static RULES_KNOWN: Array<Known> = Array::with_max_entries(SLOTS, 0);

/// A namespace as one census meets it.
#[derive(Clone, Copy)]
pub struct Namespace {
    pub inode: u32,
    pub cookie: u64,
    pub generation: u32,
    pub places: Places,
}

/// Whether the rules that were read before still stand. `behind` reads the hooks behind what nat has at a place.
#[inline(always)]
pub fn recall(namespace: &Namespace, behind: impl Fn(u64) -> u64) -> Option<[FamilyHooks; 2]> {
    let known = slot(namespace)?;
    if known.left == 0 || !is_same(known, namespace, behind) {
        return None;
    }
    known.left -= 1;
    let [mut ipv4, mut ipv6] = known.found;
    ipv4.found |= FOUND_BEFORE;
    ipv6.found |= FOUND_BEFORE;
    Some([ipv4, ipv6])
}

/// Keeps what was read, if all of it was followed to its end in nf_tables.
#[inline(always)]
pub fn keep(
    namespace: &Namespace,
    nat: Places,
    found: [FamilyHooks; 2],
    is_legacy: bool,
    behind: impl Fn(u64) -> u64 + Copy,
) {
    let Some(known) = slot(namespace) else {
        return;
    };
    if is_legacy || found[0].doubt | found[1].doubt != 0 {
        known.cookie = 0;
        return;
    }
    let agree = is_same(known, namespace, behind)
        && alike(&known.found[0], &found[0])
        && alike(&known.found[1], &found[1]);
    *known = Known {
        cookie: namespace.cookie,
        hooks: mixed(&namespace.places, &nat, behind),
        nat,
        generation: namespace.generation,
        left: if agree { CENSUSES_KEPT } else { 0 },
        found,
    };
}

#[inline(always)]
fn slot(namespace: &Namespace) -> Option<&'static mut Known> {
    if namespace.cookie == 0 {
        return None;
    }
    let known = RULES_KNOWN.get_ptr_mut(namespace.inode & (SLOTS - 1))?;
    // SAFETY: the value of a map lives as long as the map, and one census runs at a time.
    Some(unsafe { &mut *known })
}

#[inline(always)]
fn is_same(known: &Known, namespace: &Namespace, behind: impl Fn(u64) -> u64) -> bool {
    known.cookie == namespace.cookie
        && known.generation == namespace.generation
        && known.hooks == mixed(&namespace.places, &known.nat, behind)
}

#[inline(always)]
fn alike(one: &FamilyHooks, other: &FamilyHooks) -> bool {
    one.prerouting == other.prerouting && one.output == other.output && one.found == other.found
}

/// All hooks in one number: the kernel never moves a list of hooks that is in use, it makes a new one.
#[inline(always)]
fn mixed(places: &Places, nat: &Places, behind: impl Fn(u64) -> u64) -> u64 {
    /// 2⁶⁴ divided by the golden ratio: each bit of a word reaches many.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut all = 0_u64;
    let mut at = 0;
    while at < 4 {
        let hooks = if nat[at] == 0 { 0 } else { behind(nat[at]) };
        all = (all.rotate_left(7) ^ places[at]).wrapping_mul(SPREAD);
        all = (all.rotate_left(7) ^ hooks).wrapping_mul(SPREAD);
        at += 1;
    }
    all
}
