// SPDX-License-Identifier: Apache-2.0
//! Plots as SVG, of lines and words alone.

use super::figures::{Plot, digits};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 540.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 270.0;
/// Where the biggest is so many times the smallest, an axis by powers of ten shows both.
const WIDE: f64 = 30.0;
/// Told apart by those who see no colours, too: each has dashes of its own.
const STYLES: [(&str, &str); 4] = [
    ("#c2410c", ""),
    ("#1d4ed8", "6 3"),
    ("#15803d", "2 3"),
    ("#7e22ce", "8 3 2 3"),
];

/// What maps a number to its place.
struct Axis {
    from: f64,
    to: f64,
    powers: bool,
}

impl Axis {
    fn over(numbers: impl Iterator<Item = f64> + Clone, may_be_powers: bool) -> Self {
        let most = numbers.clone().fold(0.0, f64::max);
        let least = numbers
            .filter(|number| *number > 0.0)
            .fold(f64::INFINITY, f64::min);
        if may_be_powers && least.is_finite() && most > WIDE * least {
            return Self {
                from: least.log10().floor(),
                to: most.log10().ceil(),
                powers: true,
            };
        }
        Self {
            from: 0.0,
            to: if most > 0.0 { most } else { 1.0 },
            powers: false,
        }
    }

    /// From 0 to 1.
    fn place(&self, number: f64) -> f64 {
        let number = if self.powers { number.log10() } else { number };
        ((number - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if !self.powers {
            return (0..=4).map(|tick| self.to * f64::from(tick) / 4.0).collect();
        }
        let mut ticks = Vec::new();
        let mut power = self.from;
        while power <= self.to {
            ticks.push(10_f64.powf(power));
            power += 1.0;
        }
        ticks
    }
}

/// The plot as the text of a file.
pub(super) fn draw(plot: &Plot) -> String {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let across = Axis::over(points().map(|(x, _)| *x), false);
    let up = Axis::over(points().map(|(_, y)| *y), true);
    let x_of = |x: f64| LEFT + across.place(x) * (RIGHT - LEFT);
    let y_of = |y: f64| BOTTOM - up.place(y) * (BOTTOM - TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n",
        title = escape(&plot.title)
    );
    for tick in up.ticks() {
        let y = y_of(tick);
        svg += &format!(
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\" stroke=\"#d4d4d4\"/>\n<text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            LEFT - 8.0,
            y + 4.0,
            digits(tick)
        );
    }
    for tick in across.ticks() {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            x_of(tick),
            BOTTOM + 18.0,
            digits(tick)
        );
    }
    svg += &format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n<text x=\"16\" y=\"{:.1}\" \
         text-anchor=\"middle\" transform=\"rotate(-90 16 {:.1})\">{}</text>\n",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 38.0,
        escape(&plot.x),
        f64::midpoint(TOP, BOTTOM),
        f64::midpoint(TOP, BOTTOM),
        escape(&plot.y),
    );
    for (number, (line, (colour, dashes))) in plot.lines.iter().zip(STYLES.iter().cycle()).enumerate() {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y)))
            .collect();
        let name_at = TOP + 10.0 + 20.0 * number as f64;
        svg += &format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
             stroke-dasharray=\"{dashes}\"/>\n",
            path.join(" ")
        );
        for (x, y) in &line.points {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\n",
                x_of(*x),
                y_of(*y)
            );
        }
        svg += &format!(
            "<line x1=\"{:.1}\" y1=\"{name_at:.1}\" x2=\"{:.1}\" y2=\"{name_at:.1}\" stroke=\"{colour}\" \
             stroke-width=\"2\" stroke-dasharray=\"{dashes}\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            RIGHT + 16.0,
            RIGHT + 44.0,
            RIGHT + 52.0,
            name_at + 4.0,
            escape(&line.name)
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Line;

    #[test]
    fn what_differs_much_is_shown_by_powers_of_ten_and_nothing_leaves_the_frame() {
        let plot = |points: &[(f64, f64)]| Plot {
            title: "a < b".to_owned(),
            x: "x".to_owned(),
            y: "y".to_owned(),
            lines: vec![Line {
                name: "line".to_owned(),
                points: points.to_vec(),
            }],
        };
        let wide = draw(&plot(&[(0.0, 0.02), (100.0, 250.0)]));
        assert!(
            wide.contains("a &lt; b") && wide.contains(">0.010<") && wide.contains(">1000<"),
            "{wide}"
        );
        let narrow = draw(&plot(&[(0.0, 2.0), (100.0, 4.0)]));
        assert!(
            narrow.contains(">4.00<") && narrow.contains("540.0,40.0"),
            "{narrow}"
        );
        assert!(!draw(&plot(&[])).contains("NaN"));
    }
}
