// SPDX-License-Identifier: Apache-2.0
//! Where the running kernel keeps what leads from a packet filter's hook to Istio's chains.
//!
//! Most distributions have the packet filters as modules, each with types of its own beside the kernel's, and a module
//! comes when it is first used: what is missing now may be there later.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use btf_rs::{Backend, Btf};
use meshmedic_common::abi::RulesLayout;
use meshmedic_common::rules::Unfollowed;

use super::KernelError;
use super::offsets::{Field, Known, field, offset_of};

const POINTER: u32 = 8;
/// `struct list_head`.
const LIST: u32 = 16;

/// The layout as it stands in the program's map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Stored(RulesLayout);

// SAFETY: integers of four bytes each, without padding.
unsafe impl aya::Pod for Stored {}

type Place = fn(&mut RulesLayout) -> &mut u32;

/// Fields that are worth something only together.
struct Group {
    /// Whether they are known.
    known: Place,
    /// The modules that may have them, where the kernel itself does not.
    module: Option<&'static str>,
    fields: &'static [(Field, Place)],
}

const GROUPS: &[Group] = &[
    Group {
        known: |layout| &mut layout.hooks,
        module: Some("nf_nat"),
        fields: &[
            (field("", "nf_hook_entries", &["num_hook_entries"], 2), |layout| {
                &mut layout.entries_count
            }),
            (field("", "nf_hook_entries", &["hooks"], 0), |layout| {
                &mut layout.entries_hooks
            }),
            (field("", "nf_hook_entry", &["priv"], POINTER), |layout| {
                &mut layout.entry_private
            }),
            (field("", "nf_hook_ops", &["hook_ops_type"], 1), |layout| {
                &mut layout.ops_kind
            }),
            (field("", "nf_hook_ops", &["priority"], 4), |layout| {
                &mut layout.ops_priority
            }),
            (
                field("", "nf_nat_lookup_hook_priv", &["entries"], POINTER),
                |layout| &mut layout.nat_entries,
            ),
        ],
    },
    Group {
        known: |layout| &mut layout.nft,
        module: Some("nf_tables"),
        fields: &[
            (field("", "nft_chain", &["rules"], LIST), |layout| {
                &mut layout.chain_rules
            }),
            (field("", "nft_chain", &["list"], LIST), |layout| {
                &mut layout.chain_list
            }),
            (field("", "nft_chain", &["table"], POINTER), |layout| {
                &mut layout.chain_table
            }),
            (field("", "nft_chain", &["name"], POINTER), |layout| {
                &mut layout.chain_name
            }),
            (field("", "nft_table", &["chains"], LIST), |layout| {
                &mut layout.table_chains
            }),
            (field("", "nft_table", &["name"], POINTER), |layout| {
                &mut layout.table_name
            }),
        ],
    },
    Group {
        known: |layout| &mut layout.legacy,
        module: Some("x_tables"),
        fields: &[
            (field("", "xt_table", &["private"], POINTER), |layout| {
                &mut layout.legacy_private
            }),
            (field("", "xt_table", &["name"], 32), |layout| {
                &mut layout.legacy_name
            }),
            (field("", "xt_table_info", &["size"], 4), |layout| {
                &mut layout.info_size
            }),
            (field("", "xt_table_info", &["number"], 4), |layout| {
                &mut layout.info_number
            }),
            (field("", "xt_table_info", &["initial_entries"], 4), |layout| {
                &mut layout.info_initial
            }),
            (field("", "xt_table_info", &["hook_entry"], 20), |layout| {
                &mut layout.info_hook_entry
            }),
            (field("", "xt_table_info", &["underflow"], 20), |layout| {
                &mut layout.info_underflow
            }),
            (field("", "xt_table_info", &["entries"], 0), |layout| {
                &mut layout.info_entries
            }),
        ],
    },
];

/// The program's map, and what it lacks yet.
pub(super) struct Layout {
    map: Array<MapData, Stored>,
    lacking: Vec<&'static str>,
    reason: Unfollowed,
}

impl Layout {
    /// Fills the program's map with what is known now. `kernel` is the kernel's own BTF, in whose folder those of the
    /// modules are; without it the program was loaded without what reads the rules.
    pub(super) fn new(map: Map, kernel: Option<&Path>) -> Result<Self, KernelError> {
        let map = Array::try_from(map)
            .map_err(|error| KernelError::from_load("use the layout of the packet filter", &error))?;
        let mut layout = Self {
            map,
            lacking: Vec::new(),
            reason: Unfollowed::Refused,
        };
        if let Some(kernel) = kernel {
            layout.resolve(kernel);
        }
        Ok(layout)
    }

    /// Why some of it is not known, if it is not.
    pub(super) const fn reason(&self) -> Unfollowed {
        self.reason
    }

    /// Fills in what modules brought that were loaded since.
    pub(super) fn renew(&mut self, kernel: &Path) {
        let came = |module: &&str| kernel.with_file_name(module).exists();
        if self.lacking.iter().any(came) {
            self.resolve(kernel);
        }
    }

    fn resolve(&mut self, kernel: &Path) {
        let Some(found) = Found::of(kernel) else {
            self.reason = Unfollowed::NoLayout;
            return;
        };
        (self.lacking, self.reason) = (found.lacking, found.reason);
        if let Err(error) = self.map.set(0, Stored(found.layout), 0) {
            tracing::warn!(%error, "the layout of the packet filter cannot be handed to the census: it reads no rules");
        }
    }
}

/// What a kernel's types and its modules' tell.
pub(super) struct Found {
    pub(super) layout: RulesLayout,
    /// The modules whose types are not there.
    pub(super) lacking: Vec<&'static str>,
    /// Why some of it is not known, if it is not.
    pub(super) reason: Unfollowed,
}

impl Found {
    /// By the kernel's own BTF, in whose folder those of its modules are. `None` where that cannot be read.
    pub(super) fn of(kernel: &Path) -> Option<Self> {
        let base = Btf::from_file_with_backend(kernel, Backend::Mmap)
            .or_else(|_| Btf::from_file(kernel))
            .ok()?;
        let mut all = Self {
            layout: RulesLayout::default(),
            lacking: Vec::new(),
            reason: Unfollowed::NoLayout,
        };
        for group in GROUPS {
            let mut found = fill(&base, group, &mut all.layout);
            if let (Err(_), Some(module)) = (&found, group.module) {
                match Btf::from_split_file(kernel.with_file_name(module), &base) {
                    Ok(split) => found = fill(&split, group, &mut all.layout),
                    Err(_) => {
                        all.lacking.push(module);
                        all.reason = Unfollowed::NoModuleTypes;
                    }
                }
            }
            if let Err(error) = found {
                tracing::debug!(%error, module = group.module, "redirection rules cannot be followed there");
            }
        }
        Some(all)
    }
}

/// All fields of a group, or none.
fn fill(btf: &Btf, group: &Group, layout: &mut RulesLayout) -> Result<(), KernelError> {
    let mut known = Known::new(btf);
    let mut found = *layout;
    for (field, place) in group.fields {
        *place(&mut found) = offset_of(&mut known, field)?;
    }
    *(group.known)(&mut found) = 1;
    *layout = found;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF file without a type.
    const EMPTY: [u8; 25] = [
        0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
    ];

    #[test]
    fn a_group_is_known_in_whole_or_not_at_all() {
        let btf = Btf::from_bytes(&EMPTY).expect("an empty BTF");
        for group in GROUPS {
            let mut layout = RulesLayout::default();
            let error = fill(&btf, group, &mut layout).expect_err("nothing is there");
            assert!(error.to_string().contains("there is no structure"), "{error}");
            assert_eq!(layout, RulesLayout::default());
        }
    }
}
