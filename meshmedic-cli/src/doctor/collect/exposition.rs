// SPDX-License-Identifier: Apache-2.0
//! Reads metrics as Prometheus and OpenMetrics write them: as much as checks need.

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

/// The samples of a page. Lines that make no sense are passed over: they are others'.
pub(super) fn samples(page: &str) -> impl Iterator<Item = Sample<'_>> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
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
        let all: Vec<_> = samples(page).collect();
        let read: Vec<_> = all
            .iter()
            .map(|one| (one.name, one.label("y"), one.value))
            .collect();
        assert_eq!(
            read,
            [
                ("a", "", 1.0),
                ("b_total", "a\"}\\b", 2.5),
                ("c", "", f64::INFINITY),
                ("d", "", 3.0)
            ]
        );
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
            assert_eq!(samples(line).count(), 0, "{line:?}");
        }
    }
}
