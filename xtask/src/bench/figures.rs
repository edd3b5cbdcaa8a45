// SPDX-License-Identifier: Apache-2.0
//! What a bench found out: rows of a table and lines of a plot, as they are written down.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How changes are noticed, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Column {
    /// By /proc alone.
    Polling,
    /// By trigger and census.
    Ebpf,
    /// Where both are the same.
    Both,
}

impl Column {
    /// The two that are measured.
    pub(crate) const EACH: [Self; 2] = [Self::Polling, Self::Ebpf];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Ebpf => "eBPF",
            Self::Both => "both",
        }
    }

    /// As `--trigger` has it.
    pub(crate) const fn trigger(self) -> &'static str {
        match self {
            Self::Polling => "poll",
            Self::Ebpf | Self::Both => "ebpf",
        }
    }
}

/// What several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Figure {
    /// Of at least one number.
    pub(crate) fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |rank: usize| sorted.get(rank).copied().unwrap_or(f64::NAN);
        Self {
            median: at(sorted.len() / 2),
            low: at(0),
            high: at(sorted.len().saturating_sub(1)),
        }
    }

    /// How far apart the rounds lie, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        (self.high - self.low) / self.median
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) column: Column,
    pub(crate) unit: String,
    /// `None` where it could not be measured; the remark says why.
    pub(crate) ours: Option<Figure>,
    pub(crate) baseline: Option<Figure>,
    /// Ours as a share of the baseline, of the rounds' own shares the median.
    pub(crate) ratio: Option<f64>,
    pub(crate) target: Option<String>,
    pub(crate) met: Option<bool>,
    pub(crate) remark: Option<String>,
}

impl Row {
    /// A row that only tells.
    pub(crate) fn new(what: impl Into<String>, column: Column, unit: &str, rounds: &[f64]) -> Self {
        Self {
            what: what.into(),
            column,
            unit: unit.to_owned(),
            ours: (!rounds.is_empty()).then(|| Figure::of(rounds)),
            baseline: None,
            ratio: None,
            target: None,
            met: None,
            remark: None,
        }
    }

    /// What could not be measured here.
    pub(crate) fn absent(what: impl Into<String>, column: Column, why: &str) -> Self {
        Self {
            remark: Some(why.to_owned()),
            ..Self::new(what, column, "", &[])
        }
    }

    /// What the baseline needed in the same rounds.
    pub(crate) fn beside(mut self, ours: &[f64], baseline: &[f64]) -> Self {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(baseline)
            .map(|(ours, baseline)| ours / baseline)
            .collect();
        if !ratios.is_empty() {
            self.baseline = Some(Figure::of(baseline));
            self.ratio = Some(Figure::of(&ratios).median);
        }
        self
    }

    /// At most this share of the baseline's.
    pub(crate) fn within_share(mut self, one_of: f64) -> Self {
        self.target = Some(format!("1/{one_of:.0} at most"));
        self.met = self.ratio.map(|ratio| ratio <= 1.0 / one_of);
        if let (Some(false), Some(ratio)) = (self.met, self.ratio) {
            self.remark = Some(format!("missed by a factor of {:.2}", ratio * one_of));
        }
        self
    }

    /// At most so many times the baseline's.
    pub(crate) fn within_times(mut self, most: f64) -> Self {
        self.target = Some(format!("{most} times the baseline at most"));
        self.met = self.ratio.map(|ratio| ratio <= most);
        if let (Some(false), Some(ratio)) = (self.met, self.ratio) {
            self.remark = Some(format!("missed by a factor of {:.2}", ratio / most));
        }
        self
    }

    /// The median is at most this.
    pub(crate) fn within(mut self, most: f64) -> Self {
        self.target = Some(format!("{most} {} at most", self.unit));
        self.met = self.ours.map(|ours| ours.median <= most);
        if let (Some(false), Some(ours)) = (self.met, self.ours) {
            self.remark = Some(format!("missed by a factor of {:.2}", ours.median / most));
        }
        self
    }

    /// A target of another kind.
    pub(crate) fn target(mut self, target: &str, met: bool) -> Self {
        self.target = Some(target.to_owned());
        self.met = Some(met);
        self
    }

    /// What is to be known besides.
    pub(crate) fn remark(mut self, more: &str) -> Self {
        self.remark = Some(match self.remark.take() {
            Some(said) => format!("{said}; {more}"),
            None => more.to_owned(),
        });
        self
    }

    /// Why a target is missed, where it is.
    pub(crate) fn because(self, why: &str) -> Self {
        if self.met == Some(false) {
            self.remark(why)
        } else {
            self
        }
    }

    pub(crate) const fn verdict(&self) -> &'static str {
        match (self.met, self.ours) {
            (Some(true), _) => "met",
            (Some(false), _) => "missed",
            (None, None) => "not measured",
            (None, Some(_)) => "",
        }
    }

    /// Ours as a share of the baseline's, as people say it.
    pub(crate) fn share(&self) -> String {
        match self.ratio {
            Some(ratio) if ratio > 0.0 && ratio < 1.0 => format!("1/{:.1}", 1.0 / ratio),
            Some(ratio) => format!("{ratio:.2}"),
            None => String::new(),
        }
    }
}

/// Lines over a common axis.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plot {
    /// Also the name of the file, in lower case and with dashes.
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What one scene gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Part {
    pub(crate) rows: Vec<Row>,
    pub(crate) plots: Vec<Plot>,
}

/// A number with three digits that count.
pub(crate) fn digits(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude >= 100.0 || magnitude == 0.0 {
        format!("{number:.0}")
    } else if magnitude >= 10.0 {
        format!("{number:.1}")
    } else if magnitude >= 1.0 {
        format!("{number:.2}")
    } else {
        format!("{number:.3}")
    }
}

pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_rounds_and_not_of_the_medians() {
        let (ours, baseline) = ([1.0, 2.0, 9.0], [10.0, 4.0, 90.0]);
        let row = Row::new("", Column::Both, "ms", &ours).beside(&ours, &baseline);
        assert_eq!(row.ratio, Some(0.1));
        assert_eq!(row.share(), "1/10.0");
        assert_eq!(
            row.ours,
            Some(Figure {
                median: 2.0,
                low: 1.0,
                high: 9.0
            })
        );
    }

    #[test]
    fn a_missed_row_says_by_how_much_and_a_met_one_says_nothing() {
        let row = |ours: f64| {
            Row::new("", Column::Both, "ms", &[ours])
                .beside(&[ours], &[100.0])
                .within_share(4.0)
                .because("walks")
        };
        assert_eq!((row(20.0).verdict(), row(20.0).remark), ("met", None));
        let missed = row(50.0);
        assert_eq!(missed.verdict(), "missed");
        assert_eq!(
            missed.remark.as_deref(),
            Some("missed by a factor of 2.00; walks")
        );
        assert_eq!(Row::absent("", Column::Ebpf, "no BTF").verdict(), "not measured");
        let times = |ours: f64| {
            Row::new("", Column::Ebpf, "ms", &[ours])
                .beside(&[ours], &[0.5])
                .within_times(5.0)
        };
        assert_eq!((times(2.5).verdict(), times(3.0).verdict()), ("met", "missed"));
        assert_eq!(times(3.0).remark.as_deref(), Some("missed by a factor of 1.20"));
    }
}
