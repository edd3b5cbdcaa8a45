// SPDX-License-Identifier: Apache-2.0
//! Any bytes, cut anywhere, give the same answer as in one piece, and no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshmedic_common::sockets::{Family, Reading, TableParser, parse_table};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (head, tail) = bytes.split_at(usize::from(cut).min(bytes.len()));
    for family in [Family::Inet, Family::Inet6] {
        let mut reading = Reading::default();
        let mut parser = TableParser::new(family);
        parser.feed(head, &mut reading);
        parser.feed(tail, &mut reading);
        parser.finish(&mut reading);
        assert_eq!(reading, parse_table(bytes, family));
    }
});
