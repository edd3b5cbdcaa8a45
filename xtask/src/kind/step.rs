// SPDX-License-Identifier: Apache-2.0
//! A step of a plan, and how it is written: as a shell would take it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A command; `$NAME` in its words stands for what an earlier step remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line(pub(super) Vec<String>);

/// What a command is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// This exit code.
    Exit(i32),
    /// This somewhere in its output.
    Text(String),
    /// Something, whatever it is.
    Something,
    /// Nothing at all.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A heading.
    Say(String),
    /// Must succeed.
    Run(Line),
    /// Must show this.
    Expect(Line, Shows),
    /// Its output is `$NAME` from here on.
    Remember(&'static str, Line),
    /// From here the time of what follows is taken.
    Mark(&'static str),
    /// Done again and again until it shows this; `what` stands in the report, with the time since the last mark,
    /// unless it is empty.
    Until {
        what: &'static str,
        line: Line,
        shows: Shows,
        within: Duration,
    },
}

impl Line {
    /// A command from its words, none of which has a blank in it.
    pub(super) fn new(words: &str) -> Self {
        Self(words.split_whitespace().map(str::to_owned).collect())
    }

    /// The same with a path at its end, which may have blanks.
    pub(super) fn path(mut self, path: &Path) -> Self {
        self.0.push(path.display().to_string());
        self
    }

    pub(super) fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Puts in what was remembered.
    pub(super) fn with(&self, remembered: &[(&'static str, String)]) -> Self {
        let fill = |word: &String| {
            remembered.iter().fold(word.clone(), |word, (name, value)| {
                word.replace(&format!("${name}"), value)
            })
        };
        Self(self.0.iter().map(fill).collect())
    }
}

impl Step {
    /// The program that the step starts.
    pub(super) fn program(&self) -> Option<&str> {
        match self {
            Self::Say(_) | Self::Mark(_) => None,
            Self::Run(line) | Self::Expect(line, _) | Self::Remember(_, line) | Self::Until { line, .. } => {
                Some(line.program())
            }
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
            let variable = word.contains('$');
            if !word.is_empty() && word.chars().all(plain) {
                f.write_str(word)?;
            } else if variable {
                // No word has both a variable and a character that is special between these.
                write!(f, "\"{word}\"")?;
            } else {
                write!(f, "'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Shows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Text(text) => write!(f, "{text} in its output"),
            Self::Something => f.write_str("some output"),
            Self::Nothing => f.write_str("no output"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say(text) => write!(f, "\n# {text}"),
            Self::Run(line) => write!(f, "{line}"),
            Self::Expect(line, shows) => write!(f, "{line}  # {shows}"),
            Self::Remember(name, line) => write!(f, "{name}=$({line})"),
            Self::Mark(what) => write!(f, "# the clock starts: {what}"),
            Self::Until {
                what,
                line,
                shows,
                within,
            } => {
                write!(
                    f,
                    "{line}  # again until {shows}, for {} s at most",
                    within.as_secs()
                )?;
                if what.is_empty() {
                    Ok(())
                } else {
                    write!(f, ": {what}")
                }
            }
        }
    }
}
