// SPDX-License-Identifier: Apache-2.0
//! One line of ztunnel's log, in whichever of its two forms.

use std::borrow::Cow;

use jiff::Timestamp;

use super::access::Access;
use super::event::Event;
use super::{json, plain};

/// How grave ztunnel finds a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `error`.
    Error,
    /// `warn`.
    Warn,
    /// `info`.
    Info,
    /// `debug`.
    Debug,
    /// `trace`.
    Trace,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "error" => Self::Error,
            "warn" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// When it was written.
    pub time: Timestamp,
    /// How grave it is.
    pub level: Level,
    /// What it says.
    pub what: What,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A connection ended, or was denied.
    Access(Box<Access>),
    /// Something happened to a pod's proxy or to ztunnel itself.
    Event(Event),
    /// Something that nobody here needs.
    Other,
}

/// Why a line gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLine {
    /// It does not begin as ztunnel's lines do: a part of something that spans several lines.
    Foreign,
    /// It says that it is an access line, and cannot be read as one.
    Malformed,
}

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

/// The target of access lines.
pub(super) const ACCESS: &str = "access";
/// The message of a connection that ended.
const COMPLETE: &str = "connection complete";
/// The message of a connection that was denied before anything was known of it.
const EARLY: &str = "connection failed";

/// Which access lines are read: what is logged when a connection *opens* (at level debug) tells no outcome.
pub(super) fn is_early(message: &str) -> Option<bool> {
    match message {
        COMPLETE => Some(false),
        EARLY => Some(true),
        _ => None,
    }
}

/// Scopes carry the crate's name in JSON only.
pub(super) fn strip_crate(scope: &str) -> &str {
    scope.strip_prefix("ztunnel::").unwrap_or(scope)
}

/// The fields of a line that is no access line.
pub(super) trait Fields {
    /// The field of that name.
    fn get(&self, key: &str) -> Option<Cow<'_, str>>;
    /// The field of that name in the span of that name.
    fn in_span(&self, span: &str, key: &str) -> Option<Cow<'_, str>>;
}
