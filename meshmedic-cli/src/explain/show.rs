// SPDX-License-Identifier: Apache-2.0
//! A pod's story, for people.

use super::Section;
use crate::output::{Colour, paint, wrap, write};

/// Writes it.
pub(crate) fn story(title: &str, sections: &[Section]) -> anyhow::Result<()> {
    write(&text(title, sections))
}

/// The same as text.
pub(crate) fn text(title: &str, sections: &[Section]) -> String {
    let mut out = wrap(title, 0);
    for section in sections {
        out.push('\n');
        out += &paint(section.title, Colour::Dim);
        out.push('\n');
        for line in &section.lines {
            if line.starts_with("meshmedic ") {
                // A command is copied from its line, which nothing breaks.
                out.extend(["  ", line, "\n"]);
            } else {
                out += &wrap(line, 2);
            }
        }
    }
    out
}
