// SPDX-License-Identifier: Apache-2.0
//! What one line of ztunnel's log says.

use jiff::Timestamp;

use super::access::Access;
use super::event::Event;
use super::words::Level;

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
