// SPDX-License-Identifier: Apache-2.0
//! Reads metrics as Prometheus and OpenMetrics write them: as much as checks need.

use std::io::{BufRead as _, BufReader, Read};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'t> {
    pub(super) name: &'t str,
    labels: Vec<(&'t str, String)>,
    pub(super) value: f64,
}

impl Sample<'_> {
    /// The value of a label; empty where it has none of that name.
    pub(super) fn label(&self, key: &str) -> &str {
        let label = self.labels.iter().find(|(name, _)| *name == key);
        label.map_or("", |(_, value)| value)
    }
}

/// No line of a metric that we look at is longer.
const MAX_LINE: u64 = 64 * 1024;

/// Gives each sample of a page while it comes. Lines that make no sense are passed over: they are others'.
pub(super) fn samples(
    page: impl Read,
    mut each: impl FnMut(&Sample<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut page = BufReader::new(page);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = page.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| error.to_string())? == 0 {
            return Ok(());
        }
        let whole = line.len() as u64 != MAX_LINE || line.ends_with(b"\n");
        if !whole {
            page.skip_until(b'\n').map_err(|error| error.to_string())?;
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.starts_with('#')
            && let Some(sample) = sample(text)
        {
            each(&sample)?;
        }
    }
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

type Labels<'t> = Vec<(&'t str, String)>;

/// `a="1",b="two"} ` and what follows.
fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        rest = loop {
            match chars.next()? {
                (at, '"') => break after.get(at + 1..)?,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    c => value.push(c),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let page = "# HELP a b\n# TYPE a counter\na 1\nb_total{x=\"1\",y=\"a\\\"}\\\\b\"} 2.5 1700000000\n\
                    c{} +Inf\nd{le=\"0.5\",} 3\n";
        let mut read = Vec::new();
        samples(page.as_bytes(), |one| {
            read.push(format!("{} {} {}", one.name, one.label("y"), one.value));
            Ok(())
        })
        .unwrap();
        assert_eq!(read, ["a  1", "b_total a\"}\\b 2.5", "c  inf", "d  3"]);
    }

    fn count(page: &[u8]) -> usize {
        let mut count = 0;
        samples(page, |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        count
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_and_the_next_is_read() {
        let long = "x".repeat(3 * 64 * 1024);
        assert_eq!(count(format!("{long} 1\na 1\n{long}").as_bytes()), 1);
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        for line in [
            "",
            "a",
            "a b",
            "{} 1x",
            "a{x=\"1} 2",
            "a{x=\"1\\",
            "a{x 1} 2",
            "é{",
            "\u{0}",
        ] {
            assert_eq!(count(line.as_bytes()), 0, "{line:?}");
        }
    }
}
