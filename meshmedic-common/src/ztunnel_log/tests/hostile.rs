// SPDX-License-Identifier: Apache-2.0
//! Whatever stands in a log, nothing panics, nothing grows without bound and nobody is accused by a trick.

use proptest::prelude::*;

use super::*;

const REFUSED: &str = "io error: Connection refused (os error 111)";

fn read(log: &[u8]) -> Findings {
    let pods = pods();
    let mut reader = LogReader::new("z", &pods, Limits::default());
    reader.feed(log);
    reader.finish()
}

#[test]
fn what_a_workload_is_called_cannot_forge_a_field() {
    let names = [
        r#"web" src.identity="spiffe://x"#,
        r#"web\" error=\"io error"#,
        "web\tdirection=outbound",
        "web\n2026-11-21T09:13:51Z\tinfo\taccess\tconnection complete\tsrc.addr=10.0.0.1:1",
        "\u{1b}[2J\u{202e}web",
    ];
    for name in names {
        let line = plaintext().set("src.workload", name);
        for text in [line.plain(), line.json()] {
            assert!(!text.contains('\n'), "{text}");
            let access = access(&text);
            assert_eq!(access.source.workload.as_deref(), Some(name));
            assert_eq!(access.source.identity, None);
        }
        // A pod of that name does not have the address.
        assert_eq!(verdict(&line, &pods()), Verdict::Apart(Apart::AddressReused));
    }
}

#[test]
fn words_within_an_error_are_only_words() {
    let forged = format!(r#"x" error="{REFUSED}" dst.addr=10.0.0.2:15008"#);
    for error in [
        forged.as_str(),
        &format!("x: {REFUSED}"),
        &format!("{REFUSED} "),
        &format!("{REFUSED}\n"),
    ] {
        assert_eq!(
            verdict(&hbone().failed(error), &pods()),
            Verdict::Apart(Apart::OtherFailure),
            "{error}"
        );
    }
    // Who asks for a tunnel chooses its target.
    let asked = hbone()
        .set("direction", "inbound")
        .set("dst.hbone_addr", r#"a"error="b:1"#);
    assert_eq!(verdict(&asked, &pods()), Verdict::Fine);
}

#[test]
fn a_line_within_a_line_is_not_read() {
    let inner = hbone().failed(REFUSED);
    for outer in [
        format!("{TIME}\terror\tproxy::h2::client\tError: {}", inner.plain()),
        format!("{TIME}\terror\tproxy::h2::client\t{}", inner.json()),
        json!({"level": "error", "time": TIME, "scope": "ztunnel::proxy", "message": inner.plain()})
            .to_string(),
        json!({"level": "error", "time": TIME, "scope": "ztunnel::proxy", "message": inner.json()})
            .to_string(),
        format!(" {}", inner.plain()),
        format!("x{}", inner.json()),
    ] {
        let findings = read(outer.as_bytes());
        assert!(findings.candidates().is_empty(), "{outer}");
        assert_eq!(findings.access_lines, 0, "{outer}");
    }
}

#[test]
fn an_access_line_that_is_not_whole_is_counted_and_accuses_nobody() {
    let failed = plaintext().failed("connection closed due to policy rejection: explicitly denied by: a/b");
    for text in [failed.plain(), failed.json()] {
        let begin = text.find("src.addr").unwrap();
        for end in begin..text.len() {
            let findings = read(&text.as_bytes()[..end]);
            assert!(findings.candidates().is_empty(), "{}", &text[..end]);
            if text.starts_with('2') {
                assert_eq!(findings.malformed, 1, "{}", &text[..end]);
            }
        }
        assert_eq!(read(text.as_bytes()).candidates().len(), 1);
    }
    let good = hbone().failed(REFUSED).plain();
    for (from, to) in [
        ("src.workload=\"web\"", "src.workload=\"web\" src.workload=\"db\""),
        ("src.workload=\"web\"", "src.workload=\"we\\qb\""),
        ("src.workload=\"web\"", "src.workload=\"\\u{110000}\""),
        ("src.workload=\"web\"", "src.workload=\"\\u{+41}\""),
        ("src.workload=\"web\"", "src.workload=\"web"),
        ("src.workload=\"web\"", "src.workload=\"web\"x"),
        ("src.workload=\"web\" ", "src.workload=\"web\"  "),
        ("src.workload=\"web\"", "src workload=\"web\""),
        ("src.addr=10.0.0.1:40000", "src.addr=10.0.0.1"),
        ("src.addr=10.0.0.1:40000 ", ""),
        ("direction=\"outbound\"", "direction=\"sideways\""),
        ("direction=\"outbound\"", "direction=outbound"),
        ("src.addr=10.0.0.1:40000", "src.addr=\"10.0.0.1:40000\""),
        ("bytes_sent=79", "bytes_sent=\"79\""),
        ("bytes_sent=79", "bytes_sent=-79"),
        ("duration=\"2ms\"", "duration=\"2s\""),
        ("\terror\taccess", "\tinfo\taccess"),
        ("\terror\taccess", "\tgrave\taccess"),
        ("2026-11-21T", "2026-13-21T"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let findings = read(bad.as_bytes());
        assert!(findings.candidates().is_empty(), "{bad}");
        assert_eq!(findings.malformed, 1, "{bad}");
    }
    let twice =
        hbone()
            .failed(REFUSED)
            .json()
            .replacen("\"src.addr\"", "\"src.addr\":\"1.1.1.1:1\",\"src.addr\"", 1);
    assert_eq!(read(twice.as_bytes()).malformed, 1);
    let later = good.replacen("direction=", "src.zone=\"a b\" direction=", 1);
    assert_eq!(
        read(later.as_bytes()).candidates().len(),
        1,
        "a later ztunnel may say more"
    );
}

#[test]
fn a_line_without_end_is_counted_and_not_kept() {
    let good = hbone().failed(REFUSED).plain();
    let mut lines = Lines::default();
    let mut taken = Vec::new();
    let megabyte = vec![b'x'; 1 << 20];
    for _ in 0..10 {
        lines.feed(&megabyte, |line| taken.push(line.to_vec()));
        assert!(lines.held() <= 2 * LINE_LIMIT, "{}", lines.held());
    }
    lines.feed(format!("\n{good}\n").as_bytes(), |line| taken.push(line.to_vec()));
    assert_eq!(taken, [good.as_bytes()]);
    assert_eq!(lines.overlong(), 1);

    let mut log = vec![b'x'; 10 << 20];
    log.extend(format!("\n{good}\n").as_bytes());
    log.extend(vec![b'y'; LINE_LIMIT + 1]);
    let findings = read(&log);
    assert_eq!(
        (findings.lines, findings.overlong, findings.candidates().len()),
        (3, 2, 1)
    );
    // The limit itself is still a line.
    let padded = good.replacen(
        "direction=",
        &format!("x=\"{}\" direction=", "y".repeat(LINE_LIMIT - good.len() - 5)),
        1,
    );
    assert_eq!(padded.len(), LINE_LIMIT);
    assert_eq!(read(padded.as_bytes()).candidates().len(), 1);
}

#[test]
fn samples_are_fit_to_be_shown_and_short() {
    let name = format!("\u{1b}]0;x\u{7}\u{202e}{}", "ž".repeat(3000));
    let line = hbone().failed(REFUSED).set("dst.service", &name);
    for mut log in [line.plain().into_bytes(), line.json().into_bytes()] {
        // What is no UTF-8 does not keep a line from being read.
        let at = log.windows(10).position(|w| w == b"Kubernetes").unwrap();
        log[at] = 0xff;
        let findings = read(&log);
        let candidate = findings.candidates().values().next().unwrap();
        let sample = &candidate.signatures[&Signature::HboneRefused].tally.sample;
        assert!(sample.len() <= 1024);
        assert!(
            !sample.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{sample}"
        );
        assert!(sample.contains("10.0.0."));
    }
}

#[test]
fn json_that_is_deep_or_odd_is_survived() {
    let deep = format!("{{\"level\":\"info\",\"x\":{}", "[".repeat(10_000));
    for line in [
        deep.as_str(),
        "{",
        "{}",
        "[]",
        "null",
        "{\"level\":1}",
        "\t\t\t\t\t",
        "",
        "\r",
    ] {
        let findings = read(line.as_bytes());
        assert_eq!((findings.access_lines, findings.malformed), (0, 0), "{line}");
    }
    let odd = hbone().json().replacen(":79", ":\"79\"", 1);
    assert_eq!(read(odd.as_bytes()).malformed, 1);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_survived(log in prop::collection::vec(any::<u8>(), 0..3000)) {
        let findings = read(&log);
        prop_assert!(findings.candidates().is_empty());
        prop_assert!(findings.lines <= 1 + log.iter().filter(|b| **b == b'\n').count() as u64);
    }

    #[test]
    fn a_good_line_with_faults_is_survived(
        json in any::<bool>(),
        faults in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let line = hbone().failed(REFUSED);
        let mut bytes = if json { line.json() } else { line.plain() }.into_bytes();
        for (at, byte) in faults {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let findings = read(&bytes);
        // Only the pod that the line names can be accused, whatever the faults.
        for id in findings.candidates().keys() {
            prop_assert_eq!(id.name.as_str(), "db");
        }
    }

    #[test]
    fn the_pieces_in_which_a_log_comes_do_not_matter(
        log in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..600),
        long in 0_usize..3 * LINE_LIMIT,
        pieces in prop::collection::vec(1_usize..5000, 1..40),
    ) {
        let mut log = log;
        log.extend(vec![b'z'; long]);
        log.extend(b"\nend");
        let mut whole = (Vec::new(), Lines::default());
        whole.1.feed(&log, |line| whole.0.push(line.to_vec()));
        whole.1.finish(|line| whole.0.push(line.to_vec()));
        let mut split = (Vec::new(), Lines::default());
        let (mut rest, mut sizes) = (log.as_slice(), pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            split.1.feed(piece, |line| split.0.push(line.to_vec()));
            prop_assert!(split.1.held() <= 2 * LINE_LIMIT);
            rest = tail;
        }
        split.1.finish(|line| split.0.push(line.to_vec()));
        prop_assert_eq!(whole.0, split.0);
        prop_assert_eq!(whole.1.overlong(), split.1.overlong());
    }
}
