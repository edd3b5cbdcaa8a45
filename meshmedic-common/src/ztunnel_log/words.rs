// SPDX-License-Identifier: Apache-2.0
//! The words that both forms of ztunnel's log have in common.

use std::borrow::Cow;

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
