// SPDX-License-Identifier: Apache-2.0
//! What ztunnel's own log tells of pods that fell out of the mesh.
//!
//! A [`LogReader`] takes one ztunnel's log piece by piece, plain or JSON, and gives [`Findings`]: per pod
//! which [`Signature`]s accuse it. The findings of several ztunnels merge in any order.
//!
//! A log accuses, it does not prove: each candidate still has to be looked at. And a pod that nobody
//! talks to leaves no line at all, so a log without candidates does not say that all is well.
//!
//! Most words of a line stem from workloads, and are not trusted: lines are bounded, what cannot be read is
//! counted and skipped, and what is kept to be shown is cleaned and cut.

mod access;
mod classify;
mod directory;
mod event;
mod findings;
mod json;
mod line;
mod lines;
mod link;
mod parse;
mod plain;
mod words;

pub use access::{Access, Direction, Failure, Peer, Tunnel};
pub use classify::{Apart, Signature, Suspicion, Verdict, classify};
pub use directory::{Directory, Pod, PodId, PodIndex, Role};
pub use event::{Event, EventKind, StartFailure};
pub use findings::{Candidate, Evidence, Findings, Limits, LogReader, Tally};
pub use line::{Line, What};
pub use lines::{LINE_LIMIT, Lines};
pub use link::{Link, LinkKind};
pub use parse::parse_line;
pub use words::Level;

/// The port on which a captured pod takes HBONE, and a waypoint too.
pub const HBONE_PORT: u16 = 15008;

#[cfg(test)]
mod tests;
