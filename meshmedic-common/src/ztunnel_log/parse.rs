// SPDX-License-Identifier: Apache-2.0
//! Reads one line of ztunnel's log, in whichever of its two forms.

use super::line::{Line, NoLine};
use super::{json, plain};

/// Reads one line without its end; `None` if it is none of ztunnel's, or cannot be read.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Line> {
    parse(line).ok()
}

pub(super) fn parse(line: &[u8]) -> Result<Line, NoLine> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    if text.starts_with('{') {
        json::parse(&text)
    } else {
        plain::parse(&text)
    }
}
