// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::doctor::Command;
use crate::doctor::fixtures::ailing_report;
use crate::output::assert_recorded;

#[test]
fn a_mesh_that_ails_reads_as_recorded() {
    let report = ailing_report();
    for (name, verbose, all) in [
        ("doctor-table.txt", false, true),
        ("doctor-short.txt", false, false),
        ("doctor-verbose.txt", true, false),
    ] {
        let text = text(&report, verbose, all).unwrap();
        assert_recorded(name, &text);
        // What is to be copied stays whole.
        let copied = |line: &str| line.contains("https://") || line.starts_with("        kubectl");
        assert!(
            text.lines()
                .all(|line| line.chars().count() <= 80 || copied(line)),
            "too wide:\n{text}"
        );
    }
    assert_recorded(
        "doctor.json",
        &format!("{}\n", serde_json::to_string_pretty(&report).unwrap()),
    );
    assert_recorded("doctor.yaml", &serde_saphyr::to_string(&report).unwrap());
    assert_recorded("doctor.html", &html::page(&report).unwrap());
}

#[test]
fn names_of_others_are_no_markup() {
    let mut report = ailing_report();
    let hostile = "<script>alert('1')</script>&\"";
    for check in &mut report.checks {
        check.reason = check.reason.as_ref().map(|_| hostile.to_owned());
        for finding in &mut check.findings {
            finding.object.name = hostile.to_owned();
            finding.problem = hostile.to_owned();
            finding.effect = hostile.to_owned();
            finding.evidence = vec![hostile.to_owned()];
            finding.remedy = vec![
                Remedy::Commands(vec![Command::new("kubectl patch").option("-p", hostile)]),
                Remedy::Apply(hostile.to_owned()),
                Remedy::ByHand(hostile.to_owned()),
            ];
        }
    }
    let page = html::page(&report).unwrap();
    assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;"));
}

#[test]
fn the_page_asks_for_nothing_from_elsewhere() {
    let page = html::page(&ailing_report()).unwrap();
    for word in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn two_snapshots_read_as_what_is_new_and_what_is_gone() {
    let earlier = ailing_report();
    let later = ailing_report().only(|check, _| check.code != "MM0201");
    let compared = Comparison::of(later, &earlier);
    let text = differences(&compared, false).unwrap();
    assert_eq!(
        text,
        "Since 2026-01-02 00:00 UTC: 0 new, 1 gone, 4 as before.\n\nGone\n----\n\
         √ MM0201 Node node-b: ztunnel is not Ready here\n"
    );
}
