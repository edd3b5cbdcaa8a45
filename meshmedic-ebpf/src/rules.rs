// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whether Istio's redirection rules stand in a network namespace: from its hooks to the chains behind them.
//!
//! A name alone proves little: the base chain at the hook must have a rule, and Istio's chain must stand beside it in
//! the same table. What cannot be followed is told as a doubt, never taken for an absence.
//!
//! All of it lies behind pointers that have no type for the verifier, so it is read by the helper that survives a bad
//! address. The hooks themselves are under RCU, as this program is; a chain or a table that is taken away meanwhile
//! gives one wrong answer at most, and no verdict hangs on one.

use aya_ebpf::{helpers::bpf_probe_read_kernel, macros::map, maps::Array};
use meshmedic_common::abi::{
    DOUBT_LEGACY, DOUBT_LONG, DOUBT_NFT, DOUBT_UNFOLLOWED, FOUND_IN_LEGACY, FOUND_IN_NFT, FOUND_NAT_OUTPUT,
    FOUND_NAT_PREROUTING, FamilyHooks, RulesLayout,
};

use crate::{
    known::{self, Ends, Namespace, Places},
    offsets::{NET_COOKIE, NET_HOOKS_IPV4, NET_HOOKS_IPV6, NET_NFT_GENERATION, field},
    walk::{
        Answer, Context, END, HOOK, IPV6, MANGLE, Name, ON, OUTPUT, PREROUTING, WALK, doubt, each, found,
        in_nat, name, read, string,
    },
};

/// Filled by the loader, and again when a module came later.
#[map]
static RULES_LAYOUT: Array<RulesLayout> = Array::with_max_entries(1, 0);

/// More hooks than this at one place are not gone through.
const HOOKS_MOST: u32 = 16;
/// More nat hooks than this at one place are not gone through.
const NAT_HOOKS_MOST: u32 = 8;
/// More chains than this in one table are not gone through: Istio's and the kernel's own are eight.
const CHAINS_MOST: u32 = 64;
/// More entries than this in one legacy table are not gone through.
const ENTRIES_MOST: u32 = 128;

/// `NF_INET_POST_ROUTING`, whose chain is the last that a legacy table always has.
const POSTROUTING: u32 = 4;
/// `NF_IP_PRI_MANGLE`.
const PRIORITY_MANGLE: i32 = -150;
/// `NF_IP_PRI_NAT_DST`.
const PRIORITY_NAT: i32 = -100;
/// `NF_HOOK_OP_UNDEFINED`: a legacy table among them.
const KIND_UNDEFINED: u32 = 0;
/// `NF_HOOK_OP_NF_TABLES`.
const KIND_NFT: u32 = 1;

/// `ipt_entry.target_offset` and `ip6t_entry.target_offset`, each followed by `next_offset`: part of the kernel's ABI.
const TARGET_OFFSET: [u64; 2] = [88, 140];
/// The size of `xt_error_target`, with which each chain of a legacy table begins: part of the kernel's ABI.
const ERROR_TARGET_BYTES: u64 = 64;
/// `xt_error_target.errorname`: the chain's name.
const ERROR_NAME: u64 = 32;

/// Istio's chains for PREROUTING and OUTPUT, as iptables has them and as nft does.
const CHAINS: [[Name; 2]; 2] = [
    [name(b"ISTIO_PRERT"), name(b"istio-prerouting")],
    [name(b"ISTIO_OUTPUT"), name(b"istio-output")],
];
/// How the names of Istio's own tables of nft begin: the first eight bytes and the next six.
const TABLE: Name = name(b"istio-ambient-");
const TABLE_TAIL_MASK: u64 = 0x0000_ffff_ffff_ffff;
/// The legacy tables' names.
const LEGACY_NAT: Name = name(b"nat");
const LEGACY_MANGLE: Name = name(b"mangle");

/// The hooks of both families of a namespace, whose `struct net` stands at `net`: as they were read before, if nothing
/// shows a change since.
///
/// # Safety
/// `net` must be a `struct net` that the verifier knows.
#[inline(always)]
pub unsafe fn hooks(net: *const u8, inode: u32) -> [FamilyHooks; 2] {
    let (Some(layout), Some(walk)) = (RULES_LAYOUT.get_ptr(0), WALK.get_ptr_mut(0)) else {
        return [FamilyHooks::NOT_READ; 2];
    };
    let mut context = Context::new(walk, layout);
    // SAFETY: values of maps; the walk is this processor's own, and the program is not preempted by itself.
    let (walk, layout) = unsafe { (&mut *walk, &*layout) };
    let (at_ipv4, at_ipv6) = (NET_HOOKS_IPV4.load(), NET_HOOKS_IPV6.load());
    if layout.hooks == 0 || at_ipv4 == 0 {
        return [FamilyHooks::NOT_READ; 2];
    }
    let (Some(ipv4), Some(ipv6)) = (places(net, at_ipv4), places(net, at_ipv6)) else {
        return [FamilyHooks::NOT_READ; 2];
    };
    let mut namespace = Namespace {
        inode,
        cookie: 0,
        generation: 0,
        places: [ipv4[0], ipv4[1], ipv6[0], ipv6[1]],
    };
    if NET_COOKIE.load() != 0 {
        // SAFETY: as the caller promises; the offsets are the kernel's own.
        namespace.cookie = unsafe { field(net, &NET_COOKIE) };
    }
    let has_generation = NET_NFT_GENERATION.load() != 0;
    if has_generation {
        // SAFETY: see above.
        namespace.generation = unsafe { field(net, &NET_NFT_GENERATION) };
    }
    if let Some(found) = known::recall(&namespace, layout) {
        return found;
    }
    (walk.chains_of, walk.met_nft, walk.tables) = (0, 0, [0; 4]);
    let mut nat = [0; 4];
    let ipv4 = of_family(ipv4, 0, &mut nat, 0, &mut context);
    let ipv6 = if at_ipv6 == 0 {
        FamilyHooks::NOT_READ
    } else {
        of_family(ipv6, IPV6, &mut nat, 2, &mut context)
    };
    let found = [ipv4, ipv6];
    // SAFETY: see above; nothing else holds it by now.
    let (met_nft, tables) = unsafe { ((*context.walk).met_nft, (*context.walk).tables) };
    let traced = has_generation || met_nft == 0;
    known::keep(&namespace, Ends { nat, tables }, found, traced, layout);
    found
}

/// The hooks of PREROUTING and OUTPUT, by the pointers at `offset` of a namespace, one for each place where a packet
/// passes. None of a family that the kernel does not have.
#[inline(always)]
fn places(net: *const u8, offset: u32) -> Option<[u64; 2]> {
    if offset == 0 {
        return Some([0; 2]);
    }
    // SAFETY: an address that is wrong gives an error.
    let places =
        unsafe { bpf_probe_read_kernel(net.wrapping_add(offset as usize).cast::<[u64; 4]>()) }.ok()?;
    Some([places[PREROUTING as usize], places[OUTPUT as usize]])
}

/// What stands at a family's hooks; what nat has there goes into `nat`.
#[inline(always)]
fn of_family(
    [prerouting, output]: [u64; 2],
    family: u32,
    nat: &mut Places,
    first: usize,
    context: &mut Context,
) -> FamilyHooks {
    // SAFETY: this processor's own value of a map, and the program is not preempted by itself.
    let nat_now = |context: &Context| unsafe { (*context.walk).nat };
    // SAFETY: see above.
    unsafe { ((*context.walk).answer, (*context.walk).nat) = (0, 0) };
    let prerouting = at_hook(prerouting, PREROUTING | family, context);
    nat[first] = nat_now(context);
    // SAFETY: see above.
    unsafe { (*context.walk).nat = 0 };
    let output = at_hook(output, OUTPUT | family, context);
    nat[first + 1] = nat_now(context);
    // SAFETY: see above.
    let answer = unsafe { (*context.walk).answer };
    FamilyHooks {
        prerouting,
        output,
        found: answer as u8,
        doubt: (answer >> 8) as u8,
    }
}

/// Adds what stands at a hook to the answer; gives how many hooks there are.
#[inline(never)]
fn at_hook(entries: u64, place: u32, context: &mut Context) -> u8 {
    if entries == 0 {
        return 0;
    }
    // SAFETY: values of maps; the walk is this processor's own.
    let (walk, layout) = unsafe { Context::parts(context) };
    walk.place = place;
    walk.nat = 0;
    walk.entries = entries;
    walk.count = count(entries, layout);
    let shown = if walk.count > 0xfe { 0xfe } else { walk.count as u8 };
    if walk.count > HOOKS_MOST {
        walk.answer |= doubt(DOUBT_LONG);
    }
    each(HOOKS_MOST, nat, context);
    // SAFETY: see above.
    let walk = unsafe { &mut *context.walk };
    if walk.nat != 0 {
        walk.entries = read(walk.nat + u64::from(layout.nat_entries));
        walk.count = count(walk.entries, layout);
        // None are there where others use nat in other places only.
        if walk.entries != 0 && walk.count == 0 {
            walk.answer |= doubt(DOUBT_UNFOLLOWED);
        }
        if walk.count > NAT_HOOKS_MOST {
            walk.answer |= doubt(DOUBT_LONG);
        }
        each(NAT_HOOKS_MOST, nat_hook, context);
    }
    // SAFETY: see above.
    let walk = unsafe { &mut *context.walk };
    // Only where nat has nothing of Istio's does it matter whether there is less of it than there should be.
    if walk.answer & u32::from(in_nat(place)) == 0 {
        walk.place |= MANGLE;
        walk.entries = entries;
        walk.count = count(entries, layout);
        each(HOOKS_MOST, mangle, context);
    }
    shown
}

/// One hook, the last first: nat's own stands late, and ends it.
unsafe extern "C" fn nat(index: u64, context: *mut Context) -> i64 {
    // SAFETY: the helper hands on what it was given.
    let (walk, layout) = unsafe { Context::parts(context) };
    let index = index as u32;
    if index >= walk.count {
        return END;
    }
    let index = walk.count - 1 - index;
    let ops = ops(walk.entries, walk.count, index, layout);
    if ops == 0 {
        walk.answer |= doubt(DOUBT_UNFOLLOWED);
        return ON;
    }
    if priority(ops, layout) == PRIORITY_NAT && kind(ops, layout) == KIND_UNDEFINED {
        walk.nat = private(walk.entries, index, layout);
        return END;
    }
    ON
}

/// One hook, if it is mangle's.
unsafe extern "C" fn mangle(index: u64, context: *mut Context) -> i64 {
    // SAFETY: the helper hands on what it was given.
    let (walk, layout) = unsafe { Context::parts(context) };
    let index = index as u32;
    if index >= walk.count {
        return END;
    }
    let ops = ops(walk.entries, walk.count, index, layout);
    if ops == 0 {
        walk.answer |= doubt(DOUBT_UNFOLLOWED);
        return ON;
    }
    if priority(ops, layout) == PRIORITY_MANGLE {
        let (private, kind) = (private(walk.entries, index, layout), kind(ops, layout));
        // SAFETY: see above.
        at_table(private, kind, unsafe { &mut *context });
    }
    ON
}

/// One of the hooks that stand behind that of nat.
unsafe extern "C" fn nat_hook(index: u64, context: *mut Context) -> i64 {
    // SAFETY: the helper hands on what it was given.
    let (walk, layout) = unsafe { Context::parts(context) };
    let index = index as u32;
    if index >= walk.count {
        return END;
    }
    let kind = kind(ops(walk.entries, walk.count, index, layout), layout);
    let private = private(walk.entries, index, layout);
    // SAFETY: see above.
    at_table(private, kind, unsafe { &mut *context });
    ON
}

/// A table by what its hook holds. What is neither of these, a BPF program or a kind that came later, is never Istio's.
#[inline(never)]
fn at_table(private: u64, kind: u32, context: &mut Context) -> u32 {
    if kind == KIND_NFT {
        nft(private, context);
    } else if kind == KIND_UNDEFINED {
        legacy(private, context);
    }
    0
}

/// A base chain of nf_tables, iptables' among them.
#[inline(always)]
fn nft(base: u64, context: &mut Context) {
    // SAFETY: values of maps; the walk is this processor's own.
    let (walk, layout) = unsafe { Context::parts(context) };
    walk.met_nft = 1;
    if layout.nft == 0 {
        walk.answer |= doubt(DOUBT_NFT);
        return;
    }
    walk.table = read(base + u64::from(layout.chain_table));
    if walk.table == 0 {
        walk.answer |= doubt(DOUBT_UNFOLLOWED);
        return;
    }
    if is_empty(base, layout) {
        // Whatever stands in the table, no packet comes to it from here.
        return;
    }
    if walk.chains_of != walk.table {
        walk.chains_of = walk.table;
        walk.chains = 0;
        walk.head = walk.table + u64::from(layout.table_chains);
        walk.node = read(walk.head);
        each(CHAINS_MOST, chain, context);
    }
    // SAFETY: see above.
    let walk = unsafe { &mut *context.walk };
    if walk.chains & u32::from(in_nat(walk.place)) != 0 {
        walk.answer |= found(walk.place, FOUND_IN_NFT);
    } else {
        walk.answer |= walk.chains & u32::from(u16::MAX - 0xff);
        if walk.node != walk.head {
            walk.answer |= doubt(DOUBT_LONG);
        }
    }
}

/// One chain of a table of nf_tables. Once all is known, the one to come is the head.
unsafe extern "C" fn chain(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: the helper hands on what it was given.
    let (walk, layout) = unsafe { Context::parts(context) };
    if walk.node == walk.head {
        return END;
    }
    let chain = walk.node - u64::from(layout.chain_list);
    let name = string(read(chain + u64::from(layout.chain_name)));
    if walk.node == 0 || name[0] == 0 {
        walk.node = walk.head;
        walk.chains |= doubt(DOUBT_UNFOLLOWED);
        return END;
    }
    if is_one_of(&name, PREROUTING, walk.table, layout) {
        walk.chains |= u32::from(FOUND_NAT_PREROUTING);
    } else if is_one_of(&name, OUTPUT, walk.table, layout) && !is_empty(chain, layout) {
        walk.chains |= u32::from(FOUND_NAT_OUTPUT);
    }
    walk.node = read(walk.node);
    if walk.chains & BOTH == BOTH {
        walk.node = walk.head;
        return END;
    }
    ON
}

/// Both of Istio's chains of a table.
const BOTH: Answer = (FOUND_NAT_PREROUTING | FOUND_NAT_OUTPUT) as Answer;

/// Whether a chain has Istio's name for a place, be it as iptables has it or as nft does in a table of Istio's own.
#[inline(always)]
fn is_one_of(name: &Name, place: u32, table: u64, layout: &RulesLayout) -> bool {
    is_wanted(name, place, 0) || (is_wanted(name, place, 1) && is_istios(table, layout))
}

/// Whether a table of nft has one of Istio's own names.
#[inline(always)]
fn is_istios(table: u64, layout: &RulesLayout) -> bool {
    let name = string(read(table + u64::from(layout.table_name)));
    name[0] == TABLE[0] && name[1] & TABLE_TAIL_MASK == TABLE[1]
}

/// Whether a chain of nf_tables has no rule: its list is then its own end.
#[inline(always)]
fn is_empty(chain: u64, layout: &RulesLayout) -> bool {
    let rules = chain + u64::from(layout.chain_rules);
    read::<u64>(rules) == rules
}

/// A legacy table of iptables.
#[inline(always)]
fn legacy(table: u64, context: &mut Context) {
    // SAFETY: values of maps; the walk is this processor's own.
    let (walk, layout) = unsafe { Context::parts(context) };
    let at = u32::from(walk.place & IPV6 != 0) * 2 + u32::from(walk.place & MANGLE != 0);
    walk.tables[at as usize & 3] = table;
    if layout.legacy == 0 {
        walk.answer |= doubt(DOUBT_LEGACY);
        return;
    }
    let named = string(table + u64::from(layout.legacy_name));
    let wanted = if walk.place & MANGLE == 0 {
        LEGACY_NAT
    } else {
        LEGACY_MANGLE
    };
    let info: u64 = read(table + u64::from(layout.legacy_private));
    let number: u32 = read(info + u64::from(layout.info_number));
    if named[0] != wanted[0] || info == 0 || number == 0 {
        walk.answer |= doubt(DOUBT_UNFOLLOWED);
        return;
    }
    let initial: u32 = read(info + u64::from(layout.info_initial));
    let hook = u64::from(walk.place & HOOK) * 4;
    let first: u32 = read(info + u64::from(layout.info_hook_entry) + hook);
    let policy: u32 = read(info + u64::from(layout.info_underflow) + hook);
    // As it is made, or no rule of its own before the policy.
    if number == initial || first == policy {
        return;
    }
    walk.size = read(info + u64::from(layout.info_size));
    walk.offset = read(info + u64::from(layout.info_underflow) + u64::from(POSTROUTING) * 4);
    walk.table = info + u64::from(layout.info_entries);
    walk.within = 0;
    each(ENTRIES_MOST, entry, context);
    // SAFETY: see above.
    let walk = unsafe { &mut *context.walk };
    if walk.offset < walk.size {
        walk.answer |= doubt(DOUBT_LONG);
    }
}

/// One entry of a legacy table. Once all is known, the one to come is the end.
unsafe extern "C" fn entry(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: the helper hands on what it was given.
    let walk = unsafe { &mut *(*context).walk };
    if walk.offset >= walk.size {
        return END;
    }
    let entry = walk.table + u64::from(walk.offset);
    let at = if walk.place & IPV6 == 0 {
        TARGET_OFFSET[0]
    } else {
        TARGET_OFFSET[1]
    };
    let lengths: u32 = read(entry + at);
    let (target, next) = (u64::from(lengths & 0xffff), lengths >> 16);
    if next == 0 {
        walk.offset = walk.size;
        walk.answer |= doubt(DOUBT_UNFOLLOWED);
        return END;
    }
    walk.offset += next;
    // A chain begins with a target of this size; the name is the first of what it carries.
    let begins = u64::from(next) == target + ERROR_TARGET_BYTES
        && read::<u16>(entry + target) == ERROR_TARGET_BYTES as u16;
    if !begins {
        if walk.within != 0 {
            walk.within += 1;
        }
        // Its beginning, a rule, and its end.
        if walk.within > 2 {
            walk.offset = walk.size;
            walk.answer |= found(walk.place, FOUND_IN_LEGACY);
            return END;
        }
        return ON;
    }
    if walk.within != 0 {
        // Nothing but its end came before the next one.
        walk.offset = walk.size;
        return END;
    }
    let name = string(entry + target + ERROR_NAME);
    if is_wanted(&name, walk.place, 0) {
        if walk.place & HOOK == PREROUTING {
            walk.offset = walk.size;
            walk.answer |= found(walk.place, FOUND_IN_LEGACY);
            return END;
        }
        walk.within = 1;
    }
    ON
}

/// Whether it is the name of Istio's chain for a place: 0 as iptables has it, 1 as nft does.
#[inline(always)]
fn is_wanted(name: &Name, place: u32, way: usize) -> bool {
    let wanted = if place & HOOK == PREROUTING {
        &CHAINS[0][way]
    } else {
        &CHAINS[1][way]
    };
    name[0] == wanted[0] && name[1] == wanted[1] && name[2] == wanted[2]
}

#[inline(always)]
fn count(entries: u64, layout: &RulesLayout) -> u32 {
    if entries == 0 {
        return 0;
    }
    u32::from(read::<u16>(entries + u64::from(layout.entries_count)))
}

/// The operations that a hook was registered with: their addresses stand behind the hooks, in the same order.
#[inline(always)]
fn ops(entries: u64, count: u32, index: u32, layout: &RulesLayout) -> u64 {
    read(entries + u64::from(layout.entries_hooks) + u64::from(count) * 16 + u64::from(index) * 8)
}

#[inline(always)]
fn private(entries: u64, index: u32, layout: &RulesLayout) -> u64 {
    read(entries + u64::from(layout.entries_hooks) + u64::from(index) * 16 + u64::from(layout.entry_private))
}

#[inline(always)]
fn kind(ops: u64, layout: &RulesLayout) -> u32 {
    u32::from(read::<u8>(ops + u64::from(layout.ops_kind)))
}

#[inline(always)]
fn priority(ops: u64, layout: &RulesLayout) -> i32 {
    read(ops + u64::from(layout.ops_priority))
}
