// SPDX-License-Identifier: Apache-2.0
//! Names of functions that are the same wherever the object was built.
//!
//! The verifier takes some functions one by one, so they keep their symbols. In a symbol's name stands a hash of its
//! crate, into which cargo mixes the folders of the dependencies: of this checkout and of rustup. It tells apart two
//! crates of one name, which the linker has done by now.

use anyhow::Result;
use object::{Object as _, ObjectSymbol as _, read::elf::ElfFile64};

/// What a symbol is called, and what it would be called without the hash.
pub(super) fn tied_to_the_machine(object: &[u8]) -> Result<Vec<(String, String)>> {
    let object = ElfFile64::<object::Endianness>::parse(object)?;
    let mut names = Vec::new();
    for symbol in object.symbols() {
        let name = symbol.name()?;
        if let Some(plain) = without_hashes(name) {
            names.push((name.to_owned(), plain));
        }
    }
    Ok(names)
}

/// Rust mangles the root of a crate as `C`, its hash as `s…_`, and its name; the hash may be left out.
fn without_hashes(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix("_R")?.split("Cs");
    let mut plain = format!("_R{}", parts.next()?);
    let mut changed = false;
    for part in parts {
        match part.split_once('_') {
            Some((hash, rest)) if hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                plain.push('C');
                plain.push_str(rest);
                changed = true;
            }
            _ => {
                plain.push_str("Cs");
                plain.push_str(part);
            }
        }
    }
    changed.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_loses_the_hash_of_its_crate_and_nothing_else() {
        let without = |name| without_hashes(name);
        assert_eq!(
            without("_RNvNtCs2C2OO1GyB4p_9meshmedic5rules7at_hook").as_deref(),
            Some("_RNvNtC9meshmedic5rules7at_hook")
        );
        assert_eq!(
            without("_RINvCs1_3foo3barNtCshNocab_3baz3QuxE").as_deref(),
            Some("_RINvC3foo3barNtC3baz3QuxE")
        );
        for name in [
            "census",
            "memcpy",
            "_RNvNtC9meshmedic5rules7at_hook",
            "Cs2C2_9meshmedic",
        ] {
            assert_eq!(without(name), None, "{name}");
        }
    }

    #[test]
    fn the_committed_object_is_tied_to_no_machine() {
        let object = super::super::committed().unwrap();
        assert_eq!(tied_to_the_machine(&object).unwrap(), []);
    }
}
