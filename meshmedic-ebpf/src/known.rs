// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What was read of a namespace's rules, kept for as long as nothing shows that they changed.
//!
//! From kernel 6.17 on a namespace carries a generation, which every change of nf_tables in it advances; before, what
//! met nf_tables is never kept. A legacy table is never changed in place but for its counters: each change puts a new
//! one where it stood. Where all of these and the hooks are what they were, the names behind them are not followed anew.
//! Where both of Istio's chains were found, the hooks behind nat's own do not matter: what is there is taken away by such
//! a change, or with nat itself, and what else comes there takes nothing away.
//! A doubt is never kept. A change may advance the generation a moment before it takes effect, and a table may come to
//! lie where one lay before, so two readings must agree before one is used again, and after a few uses the names are
//! followed once more.

use aya_ebpf::{macros::map, maps::Array};
use meshmedic_common::abi::{
    CENSUSES_KEPT, FOUND_BEFORE, FOUND_NAT_OUTPUT, FOUND_NAT_PREROUTING, FamilyHooks, RulesLayout,
};

use crate::walk::read;

/// A power of two. Namespaces that meet in one slot are followed each time.
const SLOTS: u32 = 4096;
/// Both of Istio's chains.
const BOTH: u8 = FOUND_NAT_PREROUTING | FOUND_NAT_OUTPUT;

/// The hooks that lead to Istio's chains: PREROUTING and OUTPUT, of IPv4 and then of IPv6.
pub type Places = [u64; 4];

/// Where the walk ended, as far as it can change without the hooks.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ends {
    /// What nat has at these places, behind which its own hooks stand; zero where these do not matter.
    pub nat: Places,
    /// The legacy tables, nat and mangle of IPv4 and then of IPv6.
    pub tables: [u64; 4],
}

/// One namespace.
#[derive(Clone, Copy)]
#[repr(C)]
struct Known {
    /// Which namespace: no other ever has this number. Zero is none.
    cookie: u64,
    /// Its hooks, those behind nat's own among them, and its legacy tables.
    mixed: u64,
    ends: Ends,
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

/// Whether the rules that were read before still stand.
#[inline(always)]
pub fn recall(namespace: &Namespace, layout: &RulesLayout) -> Option<[FamilyHooks; 2]> {
    let known = slot(namespace)?;
    if known.left == 0 || !is_same(known, namespace, layout) {
        return None;
    }
    known.left -= 1;
    let [mut ipv4, mut ipv6] = known.found;
    ipv4.found |= FOUND_BEFORE;
    ipv6.found |= FOUND_BEFORE;
    Some([ipv4, ipv6])
}

/// Keeps what was read, if all of it was followed to its end, and `traced`: a change of it would be seen.
#[inline(always)]
pub fn keep(namespace: &Namespace, ends: Ends, found: [FamilyHooks; 2], traced: bool, layout: &RulesLayout) {
    let Some(known) = slot(namespace) else {
        return;
    };
    if !traced || found[0].doubt | found[1].doubt != 0 {
        known.cookie = 0;
        return;
    }
    let mut ends = ends;
    let mut family = 0;
    while family < 2 {
        if found[family].found & BOTH == BOTH {
            ends.nat[family * 2] = 0;
            ends.nat[family * 2 + 1] = 0;
        }
        family += 1;
    }
    let agree = is_same(known, namespace, layout)
        && alike(&known.found[0], &found[0])
        && alike(&known.found[1], &found[1]);
    *known = Known {
        cookie: namespace.cookie,
        mixed: mixed(&namespace.places, &ends, layout),
        ends,
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
fn is_same(known: &Known, namespace: &Namespace, layout: &RulesLayout) -> bool {
    known.cookie == namespace.cookie
        && known.generation == namespace.generation
        && known.mixed == mixed(&namespace.places, &known.ends, layout)
}

#[inline(always)]
fn alike(one: &FamilyHooks, other: &FamilyHooks) -> bool {
    one.prerouting == other.prerouting && one.output == other.output && one.found == other.found
}

/// All in one number: the kernel never moves a list of hooks that is in use, nor a table, it makes a new one.
#[inline(always)]
fn mixed(places: &Places, ends: &Ends, layout: &RulesLayout) -> u64 {
    /// 2⁶⁴ divided by the golden ratio: each bit of a word reaches many.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut all = 0_u64;
    let mut at = 0;
    while at < 4 {
        all = (all.rotate_left(7) ^ places[at]).wrapping_mul(SPREAD);
        if ends.nat[at] != 0 {
            let behind: u64 = read(ends.nat[at] + u64::from(layout.nat_entries));
            all = (all.rotate_left(7) ^ behind).wrapping_mul(SPREAD);
        }
        if ends.tables[at] != 0 {
            let now: u64 = read(ends.tables[at] + u64::from(layout.legacy_private));
            // Its size and, beside it, how many entries it has.
            let large: u64 = read(now + u64::from(layout.info_size));
            all = (all.rotate_left(7) ^ now).wrapping_mul(SPREAD);
            all = (all.rotate_left(7) ^ large).wrapping_mul(SPREAD);
        }
        at += 1;
    }
    all
}
