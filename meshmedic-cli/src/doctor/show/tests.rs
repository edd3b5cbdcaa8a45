// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::doctor::Command;
use crate::doctor::finding::{Cut, ObjectRef};
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
    assert_recorded("doctor.xml", &junit::document(&report, Severity::Error).unwrap());
    assert_recorded("doctor.sarif", &json(&sarif::document(&report)).unwrap());
}

#[test]
fn who_cannot_reach_whom_comes_before_the_checks_that_say_why() {
    let mut report = ailing_report();
    let ailing =
        |check: &&mut CheckReport| check.result == Ending::Findings && check.severity == Severity::Error;
    let check = report.checks.iter_mut().find(ailing).unwrap();
    let (code, breaks) = (check.code, check.category.breaks());
    check.findings[0].cuts = vec![Cut {
        to: ObjectRef::new("Deployment", "shop", "cart"),
        callers: (0..12).collect(),
    }];
    let sentence = "12 callers cannot reach Deployment shop/cart";
    for page in [
        text(&report, false, true).unwrap(),
        text(&report, false, false).unwrap(),
        html::page(&report).unwrap(),
    ] {
        let place = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words}: {page}"));
        assert!(place(breaks) < place(sentence), "{page}");
        let after = &page[place(sentence)..];
        assert!(after.contains(code), "{page}");
        assert!(!page[place(breaks)..place(sentence)].contains(code), "{page}");
    }
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
    let compared = Comparison::of(report.clone(), &report.clone().only(|_, _| false));
    for page in [
        html::page(&report).unwrap(),
        html::comparison(&compared).unwrap(),
        junit::document(&report, Severity::Error).unwrap(),
    ] {
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;"));
    }
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
    let page = html::comparison(&compared).unwrap();
    for words in [
        "<h1>Mesh report: what changed</h1>",
        ", against 2026-01-02 00:00 UTC",
        "<b>0</b> new errors",
        "<b>1</b> gone",
        "<b>4</b> as before",
        "<li>MM0201 Node node-b: ztunnel is not Ready here</li>",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let text = differences(&compared, false).unwrap();
    assert_eq!(
        text,
        "Since 2026-01-02 00:00 UTC: 0 new, 1 gone, 4 as before.\n\nGone\n----\n\
         √ MM0201 Node node-b: ztunnel is not Ready here\n"
    );
}

#[test]
fn a_pipeline_is_told_what_the_exit_code_tells() {
    let report = ailing_report();
    for (fail_on, failures) in [(Severity::Error, 2), (Severity::Warning, 3)] {
        let document = junit::document(&report, fail_on).unwrap();
        assert_eq!(document.matches("<failure ").count(), failures, "{document}");
        assert_eq!(document.matches("<testcase ").count(), report.checks.len());
    }
    let sarif = sarif::document(&report);
    let run = &sarif["runs"][0];
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    for result in results {
        let at = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(run["tool"]["driver"]["rules"][at]["id"], result["ruleId"]);
    }
    // A check that could not be run, and one that lacks a right.
    let notes = run["invocations"][0]["toolExecutionNotifications"]
        .as_array()
        .unwrap();
    assert_eq!(notes.len(), 2);
}
