// SPDX-License-Identifier: Apache-2.0
//! Everything that this command writes for people and programs: results on stdout, errors on stderr.

mod event;
mod node_report;
mod progress;
mod scan;

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;

pub(crate) use event::events;
pub(crate) use node_report::node_report;
pub(crate) use progress::Progress;
pub(crate) use scan::{ScanFormat, scan, scan_again};

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
    /// Whether a program reads the result.
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
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
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

/// The colour of a state.
pub(crate) const fn state_colour(state: meshmedic_common::verdict::State) -> Colour {
    use meshmedic_common::verdict::State;
    match state {
        State::Captured => Colour::Green,
        State::Orphan | State::Partial | State::Imposter => Colour::Red,
        State::Suspect | State::Unverifiable => Colour::Yellow,
        State::Pending | State::Exempt => Colour::Dim,
    }
}
