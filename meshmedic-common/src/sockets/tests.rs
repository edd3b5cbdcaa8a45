// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::*;

const HEADER: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

fn row(local: &str, state: &str) -> String {
    format!(
        "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n"
    )
}

fn read(text: &str, family: Family) -> Reading {
    parse_table(text.as_bytes(), family)
}

#[test]
fn an_app_on_loopback_or_one_address_is_no_capture() {
    let text = format!(
        "{HEADER}{}{}",
        row("0100007F:3A99", "0A"),
        row("0B004D0A:3AA0", "0A")
    );
    let reading = read(&text, Family::Inet);
    assert_eq!(reading.wildcard_ports(), PortSet::EMPTY);
    assert_eq!(reading.ports().to_string(), "15001,15008");
    assert_eq!(reading.listeners[0].address, AddressKind::Loopback);
    assert_eq!(reading.listeners[1].address, AddressKind::Other);
}

#[test]
fn a_connection_from_a_capture_port_is_no_listener() {
    let text = format!("{HEADER}{}", row("00000000:3A99", "01"));
    let open = Reading {
        connections: 1,
        ..Reading::default()
    };
    assert_eq!(read(&text, Family::Inet), open);
}

#[test]
fn inode_and_uid_are_kept() {
    let text = format!("{HEADER}{}", row("00000000:3A99", "0A"));
    let listener = read(&text, Family::Inet).listeners[0];
    assert_eq!((listener.inode, listener.uid), (4711, 0));
}

#[test]
fn a_row_that_has_begun_tells_its_listener_once_the_inode_is_whole_and_never_another() {
    let text = format!("{HEADER}{}", row("00000000:3A99", "0A"));
    let whole = read(&text, Family::Inet).listeners[0];
    let mut told = 0;
    for cut in 0..text.len() {
        let (mut parser, mut reading) = (TableParser::new(Family::Inet), Reading::default());
        parser.feed(&text.as_bytes()[..cut], &mut reading);
        assert_eq!(reading, Reading::default());
        if let Some(listener) = parser.begun() {
            assert_eq!(listener, whole, "{cut}");
            told += 1;
        }
    }
    let inode_ends = text.find("4711").unwrap() + "4711 ".len();
    assert_eq!(
        told,
        text.len() - inode_ends - 1,
        "from the column behind the inode on"
    );
}

#[test]
fn mapped_addresses_are_taken_for_what_they_map() {
    let mapped = |v4: &str| format!("0000000000000000FFFF0000{v4}:3A99");
    for (v4, kind) in [
        ("00000000", AddressKind::Wildcard),
        ("0100007F", AddressKind::Loopback),
    ] {
        let text = format!("{HEADER}{}", row(&mapped(v4), "0A"));
        assert_eq!(read(&text, Family::Inet6).listeners[0].address, kind);
    }
}

#[test]
fn rows_that_make_no_sense_are_counted_and_skipped() {
    let bad = [
        "garbage\n".to_owned(),
        row("00000000:3A999", "0A"),
        row("0000:3A99", "0A"),
        row("00000000:3A99", "FF"),
        row("+0000000:3A99", "0A"),
        "   0: 00000000:3A99 00000000:0000 0A 0:0\n".to_owned(),
        format!("{}\n", "9".repeat(100_000)),
    ];
    let text = format!("{HEADER}{}{}", bad.concat(), row("00000000:3A9E", "0A"));
    let reading = read(&text, Family::Inet);
    assert_eq!(reading.malformed_rows as usize, bad.len());
    assert_eq!(reading.ports().to_string(), "15006");
}

#[test]
fn a_line_too_long_is_no_row_in_one_piece_or_in_many() {
    let long = row("00000000:3A99", "0A").replace('\n', &" x".repeat(LINE_LIMIT)) + "\n";
    let whole = read(&long, Family::Inet);
    assert_eq!((whole.listeners.len(), whole.malformed_rows), (0, 1));
    let mut pieces = Reading::default();
    let mut parser = TableParser::new(Family::Inet);
    for byte in long.as_bytes() {
        parser.feed(&[*byte], &mut pieces);
    }
    assert_eq!(pieces, whole);
}

#[test]
fn a_cut_last_row_is_malformed() {
    let text = format!("{HEADER}{}", row("00000000:3A99", "0A"));
    let reading = read(&text[..text.len() - 1], Family::Inet);
    assert_eq!((reading.listeners.len(), reading.malformed_rows), (0, 1));
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_the_same_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        cuts in proptest::collection::vec(0_usize..2_000, 0..8),
    ) {
        same_in_pieces(&bytes, &cuts)?;
    }

    #[test]
    fn a_table_in_any_pieces_gives_the_same_answer(
        rows in proptest::collection::vec(
            ("[0-9A-F]{8}", prop_oneof![Just(0x3A99_u16), Just(0x3AA0), any::<u16>()], 0_u8..16),
            0..40,
        ),
        cuts in proptest::collection::vec(0_usize..6_000, 0..8),
    ) {
        let mut text = HEADER.to_owned();
        for (address, port, state) in &rows {
            text += &row(&format!("{address}:{port:04X}"), &format!("{state:02X}"));
        }
        same_in_pieces(text.as_bytes(), &cuts)?;
        let reading = parse_table(text.as_bytes(), Family::Inet);
        let listening = rows.iter().filter(|(_, port, state)| *state == 10 && is_capture_port(*port));
        prop_assert_eq!(reading.listeners.len(), listening.count());
        let unknown = rows.iter().filter(|(_, _, state)| *state > 13);
        prop_assert_eq!(reading.malformed_rows as usize, unknown.count());
    }
}

fn same_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    for family in [Family::Inet, Family::Inet6] {
        let whole = parse_table(bytes, family);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut reading = Reading::default();
        let mut parser = TableParser::new(family);
        let mut from = 0;
        for cut in cuts {
            parser.feed(&bytes[from..cut], &mut reading);
            from = cut;
        }
        parser.feed(&bytes[from..], &mut reading);
        parser.finish(&mut reading);
        prop_assert_eq!(reading, whole);
    }
    Ok(())
}
