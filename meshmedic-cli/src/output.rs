// SPDX-License-Identifier: Apache-2.0
//! How this command writes for people and programs: results on stdout, errors on stderr. What a command shows
//! stands beside it.

mod markup;
pub(crate) mod page;
mod progress;

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use meshmedic_common::verdict::State;

pub(crate) use markup::Escaped;
pub(crate) use progress::Progress;

/// How a result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people, at 80 columns
    #[default]
    Table,
    /// For people with a wide terminal
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

impl Format {
    /// Whether a program reads the result; only `meshmedic node --watch` asks.
    #[cfg(all(target_os = "linux", feature = "node"))]
    pub(crate) const fn is_for_programs(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// Whether the environment lets us colour at all.
pub(crate) fn colour_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes text to stdout and tells if that failed: a result that nobody got is an error.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("the result cannot be written")
}

/// Copies to stdout what is read.
pub(crate) fn copy(from: &mut impl io::Read) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    io::copy(from, &mut out)?;
    out.flush()?;
    Ok(())
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    write(&format!("{text}\n"))
}

/// Says how far a command is, on stderr.
pub(crate) fn say(text: &str) {
    // Where stderr is gone, the result still counts.
    let _ = writeln!(io::stderr(), "{text}");
}

/// People read at this width, unless their terminal has less.
const WIDTH: usize = 80;
/// In less than this no sentence can be read.
const NARROWEST: usize = 40;

/// How wide what is wrapped may be. What goes elsewhere than to a terminal is the same everywhere.
fn columns() -> usize {
    let size = console::Term::stdout().size_checked();
    match size {
        Some((_, columns)) if io::stdout().is_terminal() && !cfg!(test) => {
            usize::from(columns).clamp(NARROWEST, WIDTH)
        }
        _ => WIDTH,
    }
}

/// Breaks each line of a text into lines that fit, with this indent, and what is broken off with two more. A command in
/// backticks stays whole.
pub(crate) fn wrap(text: &str, indent: usize) -> String {
    let most = columns();
    let mut out = String::new();
    for line in text.split('\n') {
        let mut column = 0;
        for (at, word) in words(line).enumerate() {
            let length = width(word);
            if at > 0 && column + 1 + length > most {
                out.push('\n');
                column = 0;
            }
            if column == 0 {
                column = if at == 0 { indent } else { indent + 2 };
                out.extend(std::iter::repeat_n(' ', column));
            } else {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
        }
        out.push('\n');
    }
    out
}

/// What [`wrap`] does not break.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |letter| {
        quoted ^= letter == '`';
        letter == ' ' && !quoted
    })
}

/// How many columns a word takes: what [`paint`] adds takes none.
fn width(word: &str) -> usize {
    let mut painted = false;
    let shown = word.chars().filter(|letter| {
        painted |= *letter == '\x1b';
        let shown = !painted;
        painted &= *letter != 'm';
        shown
    });
    shown.count()
}

/// Writes an error to stderr, with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    // Where stderr is gone too, nobody is left to tell.
    let _ = writeln!(io::stderr(), "error: {error:#}");
}

/// Whether the reader of our output has left.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}

/// A colour, used on a terminal only.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Red,
    Yellow,
    Green,
    Dim,
}

/// Colours text if stdout is a terminal that wants it.
pub(crate) fn paint(text: &str, colour: Colour) -> String {
    if !(io::stdout().is_terminal() && colour_allowed()) {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => 31,
        Colour::Yellow => 33,
        Colour::Green => 32,
        Colour::Dim => 2,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// What stands before the state that a pod has now, where it changed.
pub(crate) fn became(from: Option<State>, to: State) -> String {
    match from {
        // Its reason is another.
        Some(from) if from == to => "still ".to_owned(),
        Some(from) => format!("{from} -> "),
        None => "new -> ".to_owned(),
    }
}

/// The colour of a state.
pub(crate) const fn state_colour(state: State) -> Colour {
    match state {
        State::Captured => Colour::Green,
        State::Orphan | State::Partial | State::Imposter | State::Bypassing | State::Stalled => Colour::Red,
        State::Suspect | State::Unverifiable => Colour::Yellow,
        State::Pending | State::Exempt => Colour::Dim,
    }
}

/// Compares with a file that people read; `UPDATE_GOLDEN=1` writes it anew.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_golden(name: &str, text: &str) {
    assert_recorded(name, text);
    assert!(
        text.lines().all(|line| line.chars().count() <= WIDTH),
        "too wide:\n{text}"
    );
}

/// Compares with a file, which may be as wide as it likes.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_recorded(name: &str, text: &str) {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&golden).unwrap_or_default(),
        "{name}"
    );
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn long_lines_are_broken_where_words_end() {
        let text = format!("{} {}", "a".repeat(40), "b".repeat(45));
        assert_eq!(
            wrap(&text, 2),
            format!("  {}\n    {}\n", "a".repeat(40), "b".repeat(45))
        );
        let command = format!("`meshmedic repair {} --yes`", "shop/cart-".repeat(5));
        assert_eq!(
            wrap(&format!("To mend what is there, run {command}; then look."), 0),
            format!("To mend what is there, run\n  {command};\n  then look.\n"),
            "a command stays whole"
        );
        assert_eq!(wrap("yes  it is", 2), "  yes  it is\n");
        let name = "n".repeat(90);
        assert_eq!(wrap(&name, 0), format!("{name}\n"), "a name stays whole");
    }
}
