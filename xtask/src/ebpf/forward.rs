// SPDX-License-Identifier: Apache-2.0
//! Structures that the object's BTF only declares, since the kernel programs do nothing but point to them.
//!
//! LLVM writes them in the order in which it finds them in its own memory, which the kernel lays out at random: with
//! two of them, the same sources give one object most of the time and another one now and then.

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _, read::elf::ElfFile64};

const HEADER_WORDS: usize = 6;
const FORWARD: u32 = 7;

/// Fails where their order is left to chance.
pub(super) fn in_one_order(object: &[u8]) -> Result<()> {
    let file = ElfFile64::<object::Endianness>::parse(object)?;
    let section = file.section_by_name(".BTF").context("it has no .BTF")?;
    let count = declared(section.data()?).context("its .BTF cannot be read")?;
    ensure!(
        count <= 1,
        "its BTF declares {count} structures that the kernel programs only point to, and their order is another from \
         build to build: let all but one of the pointers be untyped"
    );
    Ok(())
}

/// How many there are, by the header and the types that `linux/btf.h` describes.
fn declared(btf: &[u8]) -> Option<usize> {
    let words: Vec<u32> = btf
        .chunks_exact(4)
        .filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?)))
        .collect();
    let [_, header, types, length, ..] = words.get(..HEADER_WORDS)? else {
        return None;
    };
    let start = (header + types) as usize / 4;
    let types = words.get(start..start + *length as usize / 4)?;
    let (mut at, mut count) = (0, 0);
    while at < types.len() {
        let info = *types.get(at + 1)?;
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        count += usize::from(kind == FORWARD);
        at += 3 + match kind {
            // Integers, variables and tags of declarations.
            1 | 14 | 17 => 1,
            // Arrays.
            3 => 3,
            // Structures, unions, sections of data, and enumerations of 64 bits.
            4 | 5 | 15 | 19 => 3 * members,
            // Enumerations, and what a function takes.
            6 | 13 => 2 * members,
            _ => 0,
        };
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_comes_out_the_same_each_time() {
        in_one_order(&super::super::committed().unwrap()).unwrap();
    }

    #[test]
    fn what_is_only_declared_is_counted_among_other_types() {
        let int = [1, 1 << 24, 4, 32];
        let of_two = |kind: u32, member: &[u32]| [&[1, kind << 24 | 2, 8], member, member].concat();
        let declared_type = [1, FORWARD << 24, 0];
        let types = [
            &int[..],
            &declared_type,
            &of_two(4, &[1, 1, 0]),
            &of_two(6, &[1, FORWARD << 24]),
            &declared_type,
            &of_two(13, &[1, 1]),
            &[0, 3 << 24, 0, 1, 1, 4],
        ]
        .concat();
        let header = [0x0001_eb9f, 24, 0, types.len() as u32 * 4, 0, 0];
        let bytes = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
        assert_eq!(declared(&bytes(&[&header[..], &types].concat())), Some(2));
        assert_eq!(
            declared(&bytes(&[&header[..], &types[..types.len() - 1]].concat())),
            None
        );
        assert_eq!(declared(&bytes(&header[..4])), None);
    }
}
