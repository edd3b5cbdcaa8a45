// SPDX-License-Identifier: Apache-2.0
//! Counts what test programs print, and sorts what they skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the test programs' output says, read as it comes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Tests that ran to a good end, among them those that skipped themselves.
    pub(super) passed: usize,
    /// The names of tests that failed.
    pub(super) failed: Vec<String>,
    /// Tests marked `#[ignore]`, with the reason given there.
    pub(super) ignored: Vec<(String, String)>,
    /// Test programs that began and gave no result.
    pub(super) unfinished: usize,
    line: Vec<u8>,
}

impl Tally {
    /// Takes the next piece of output, which may end anywhere in a line.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.finish();
            } else {
                self.line.push(byte);
            }
        }
    }

    /// Takes what is left as a last line.
    pub(super) fn finish(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.count(String::from_utf8_lossy(&line).trim());
    }

    fn count(&mut self, line: &str) {
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.unfinished += 1;
            return;
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.unfinished = self.unfinished.saturating_sub(1);
            // "ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s"
            let words = || result.split([' ', ';']);
            self.passed += words()
                .zip(words().skip(1))
                .filter(|(_, what)| *what == "passed")
                .find_map(|(number, _)| number.parse::<usize>().ok())
                .unwrap_or(0);
            return;
        }
        // A test without capture may print between its name and its result, so look from both ends.
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        if result.ends_with("FAILED") {
            self.failed.push(name.to_owned());
        } else if let Some(reason) = result.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(',').trim();
            let reason = if reason.is_empty() {
                "marked as ignored, without a reason"
            } else {
                reason
            };
            self.ignored.push((name.to_owned(), reason.to_owned()));
        }
    }
}

/// Skipped tests by the reason for which they were skipped.
#[derive(Debug, Default)]
pub(super) struct Skips {
    by_reason: BTreeMap<String, BTreeSet<String>>,
}

impl Skips {
    /// Reads the lines `<test>\t<why>`; a line without a tab is a test that gave no reason.
    pub(super) fn from_notes(notes: &str) -> Self {
        let mut skips = Self::default();
        for line in notes.lines().filter(|line| !line.trim().is_empty()) {
            let (test, why) = line.split_once('\t').unwrap_or((line, "no reason given"));
            skips.add(test.trim(), why.trim());
        }
        skips
    }

    /// Adds the tests that the source itself marks as ignored.
    pub(super) fn add_ignored(&mut self, ignored: &[(String, String)]) {
        for (test, why) in ignored {
            self.add(test, why);
        }
    }

    fn add(&mut self, test: &str, why: &str) {
        self.by_reason
            .entry(why.to_owned())
            .or_default()
            .insert(test.to_owned());
    }

    fn tests(&self) -> BTreeSet<&str> {
        self.by_reason.values().flatten().map(String::as_str).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_reason.is_empty()
    }

    /// How many tests there are, one with several reasons counted once.
    pub(super) fn count(&self) -> usize {
        self.tests().len()
    }

    /// How many of them a test program reported as passed although they did nothing.
    pub(super) fn count_passed(&self, failed: &[String]) -> usize {
        self.tests()
            .iter()
            .filter(|test| !failed.iter().any(|name| name == *test))
            .count()
    }
}

impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "Nothing was skipped.");
        }
        writeln!(f, "Skipped:")?;
        for (reason, tests) in &self.by_reason {
            writeln!(f, "  {reason}")?;
            for test in tests {
                writeln!(f, "    {test}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Skips, Tally};

    const OUTPUT: &str = "\nrunning 4 tests
test a::good ... ok
test a::bad ... FAILED
test a::slow ... ignored, takes an hour
test a::odd ... ignored

failures:
    a::bad

test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s

running 1 test
test src/lib.rs - thing (line 3) ... ok

test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
";

    #[test]
    fn results_add_up_over_programs_wherever_the_pieces_end() {
        for size in [1, 7, 4096] {
            let mut tally = Tally::default();
            OUTPUT.as_bytes().chunks(size).for_each(|piece| tally.feed(piece));
            tally.finish();
            assert_eq!(tally.passed, 42);
            assert_eq!(tally.unfinished, 0);
            assert_eq!(tally.failed, ["a::bad"]);
            assert_eq!(
                tally.ignored[0],
                ("a::slow".to_owned(), "takes an hour".to_owned())
            );
            assert_eq!(tally.ignored[1].0, "a::odd");
        }
    }

    #[test]
    fn a_program_without_a_result_is_noticed() {
        let mut tally = Tally::default();
        tally.feed(b"\nrunning 2 tests\ntest a ... ok\ntest b ... ");
        tally.feed(b"\nrunning 1 test\ntest c ... ok\n\ntest result: ok. 1 passed; 0 failed\n");
        tally.finish();
        assert_eq!((tally.passed, tally.unfinished), (1, 1));
    }

    #[test]
    fn skips_are_grouped_by_reason_and_counted_once() {
        let notes =
            "b::two\tneeds root\nb::one\tneeds root\nb::one\tneeds root\nb::one\tneeds eBPF\n\nlonely\n";
        let mut skips = Skips::from_notes(notes);
        assert_eq!(skips.count(), 3);
        assert_eq!(skips.count_passed(&["b::one".to_owned()]), 2);
        skips.add_ignored(&[("c::three".to_owned(), "takes an hour".to_owned())]);
        assert_eq!(
            skips.to_string(),
            "Skipped:\n  needs eBPF\n    b::one\n  needs root\n    b::one\n    b::two\n  \
             no reason given\n    lonely\n  takes an hour\n    c::three\n"
        );
    }

    #[test]
    fn no_skip_is_said_in_words() {
        let skips = Skips::from_notes("\n");
        assert!(skips.is_empty());
        assert_eq!(skips.to_string(), "Nothing was skipped.\n");
    }
}
