// SPDX-License-Identifier: Apache-2.0
//! What the lab tells its API server through the pipe, one JSON a line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Fault, Outage, Request};

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Add(Box<Fault>),
    Remove(u64),
    Hits(u64),
    BreakWatches,
    Compact,
    Remember(usize),
    Outage(Option<Outage>),
    Clock { milliseconds: i64 },
    Bookmarks(Duration),
    Requests,
    ForgetRequests,
    Version,
    Watches,
}

/// How it went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first line, unasked.
    Serving {
        port: u16,
    },
    Done,
    Number(u64),
    Requests(Vec<Request>),
    Failed(String),
}
