// SPDX-License-Identifier: Apache-2.0
//! What the demo writes: plain text of 80 columns, coloured only for a terminal that wants colours.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;

const COLUMNS: usize = 80;
/// Time and event stand before an entry of the timeline.
const ENTRY: usize = 22;

/// How a text stands out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Heading,
    Good,
    Doubt,
    Bad,
    Quiet,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "1",
            Self::Good => "32",
            Self::Doubt => "33",
            Self::Bad => "1;31",
            Self::Quiet => "2",
        }
    }
}

/// Standard output.
pub(super) struct Screen {
    colour: bool,
    /// All that was written, where a picture is wanted of it.
    kept: Option<RefCell<String>>,
}

impl Screen {
    /// With `keep` it is coloured wherever it goes, and can be [drawn](Self::draw).
    pub(super) fn new(keep: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: keep || io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            kept: keep.then(RefCell::default),
        }
    }

    pub(super) fn plain(&self, text: &str) -> anyhow::Result<()> {
        if let Some(kept) = &self.kept {
            let mut kept = kept.borrow_mut();
            kept.push_str(text);
            kept.push('\n');
        }
        writeln!(io::stdout().lock(), "{text}").context("cannot write")
    }

    /// What was kept, as a terminal shows it, from one heading up to the next one.
    pub(super) fn draw(&self, [from, to]: [&str; 2]) -> anyhow::Result<String> {
        let kept = self.kept.as_ref().context("nothing was kept")?.borrow();
        // Whole lines, with the colours that stand before a heading.
        let line_of = |heading: &str| {
            let at = kept
                .find(heading)
                .with_context(|| format!("{heading:?} was not shown"))?;
            anyhow::Ok(kept[..at].rfind('\n').map_or(0, |end| end + 1))
        };
        let part = kept[line_of(from)?..line_of(to)?].trim_end();
        Ok(anstyle_svg::Term::new()
            .palette(anstyle_svg::WIN10_CONSOLE)
            .render_svg(part))
    }

    pub(super) fn flush(&self) -> anyhow::Result<()> {
        io::stdout().flush().context("cannot write")
    }

    /// A text of several lines, indented.
    pub(super) fn text(&self, indent: usize, text: &str) -> anyhow::Result<()> {
        self.plain(&wrapped(text, indent).join("\n"))
    }

    /// A name and what there is to say to it.
    pub(super) fn item(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let lines = wrapped(text, 10);
        let first = lines.first().map_or("", |line| line.trim_start());
        self.plain(&format!(
            "{}{first}",
            self.toned(Tone::Heading, &format!("{name:<10}"))
        ))?;
        lines.iter().skip(1).try_for_each(|line| self.plain(line))
    }

    pub(super) fn heading(&self, text: &str) -> anyhow::Result<()> {
        self.plain(&format!("\n{}", self.toned(Tone::Heading, text)))
    }

    /// An entry of the timeline.
    pub(super) fn entry(&self, after: Duration, event: &str, tone: Tone, text: &str) -> anyhow::Result<()> {
        let lines = wrapped(text, ENTRY);
        let first = lines.first().map_or("", |line| line.trim_start());
        self.plain(&format!(
            "{}  {}{first}",
            self.toned(Tone::Quiet, &format!("{:>9}", format!("+{}", shown(after)))),
            self.toned(tone, &format!("{event:<11}")),
        ))?;
        lines.iter().skip(1).try_for_each(|line| self.plain(line))?;
        self.flush()
    }

    /// A remark between two entries.
    pub(super) fn remark(&self, text: &str) -> anyhow::Result<()> {
        let lines = wrapped(text, ENTRY);
        lines
            .iter()
            .try_for_each(|line| self.plain(&self.toned(Tone::Quiet, line)))?;
        self.flush()
    }

    pub(super) fn verdict(&self, text: &str) -> anyhow::Result<()> {
        self.plain(&format!("\n{}", self.toned(Tone::Good, text)))
    }

    pub(super) fn failed(&self, text: &str) -> anyhow::Result<()> {
        let lines = wrapped(text, 0).join("\n");
        self.plain(&format!("\n{}", self.toned(Tone::Bad, &lines)))
    }

    pub(super) fn toned(&self, tone: Tone, text: &str) -> String {
        if self.colour && tone != Tone::Plain {
            format!("\x1b[{}m{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }
}

/// A duration by the millisecond, and by its tenth where it is short: the eye compares them in a column.
pub(super) fn shown(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 100.0 {
        format!("{ms:.1}ms")
    } else {
        format!("{:.2}s", ms / 1e3)
    }
}

fn wrapped(text: &str, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let length = indent + line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && length > COLUMNS {
                lines.push(format!("{:indent$}{line}", ""));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(format!("{:indent$}{line}", ""));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_screen_and_no_word_is_lost() {
        let text = "one two three ".repeat(20);
        let lines = wrapped(&text, 7);
        assert!(lines.iter().all(
            |line| line.chars().count() <= COLUMNS && line.starts_with("       o")
                || line.starts_with("       t")
        ));
        let words: Vec<_> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
        assert_eq!(words, text.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(shown(Duration::from_micros(850)), "0.8ms");
        assert_eq!(shown(Duration::from_millis(3012)), "3.01s");
    }
}
