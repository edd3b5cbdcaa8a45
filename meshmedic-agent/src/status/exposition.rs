// SPDX-License-Identifier: Apache-2.0
//! Prometheus' text format 0.0.4, out of the OpenMetrics text that the library writes.
//!
//! OpenMetrics keeps the suffix `_total` for counters, and `meshmedic_orphans_total` is a gauge whose name
//! dashboards have known from the start. The older format has no such rule, and every scraper reads it.

/// What a scraper must be told of [`text`].
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites OpenMetrics text. `is_counter` knows the families of counters by their names without `_total`.
pub(super) fn text(openmetrics: &str, is_counter: impl Fn(&str) -> bool) -> String {
    let mut out = String::with_capacity(openmetrics.len() + 1024);
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        out += &describes_counter(line, &is_counter).unwrap_or_else(|| line.to_owned());
        out.push('\n');
    }
    out
}

/// OpenMetrics describes a counter by its family, the older format by its samples.
fn describes_counter(line: &str, is_counter: &impl Fn(&str) -> bool) -> Option<String> {
    let rest = line.strip_prefix("# ")?;
    let (keyword, rest) = rest.split_once(' ')?;
    let (family, rest) = rest.split_once(' ')?;
    is_counter(family).then(|| format!("# {keyword} {family}_total {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_names_of_their_samples() {
        let openmetrics = "# HELP a A gauge.\n# TYPE a gauge\na 1\n# HELP b Its EOF.\n# TYPE b counter\n\
                           b_total{x=\"# EOF\"} 2\n# EOF\n";
        let classic = "# HELP a A gauge.\n# TYPE a gauge\na 1\n# HELP b_total Its EOF.\n# TYPE b_total counter\n\
                       b_total{x=\"# EOF\"} 2\n";
        assert_eq!(text(openmetrics, |family| family == "b"), classic);
    }
}
