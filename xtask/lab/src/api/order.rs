// SPDX-License-Identifier: Apache-2.0
//! What the lab tells its API server through the pipe, one JSON a line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ephemeral, Exec, Fault, Log, Outage, PodRef, Request};

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
    Clock {
        milliseconds: i64,
    },
    Bookmarks(Duration),
    Requests,
    ForgetRequests,
    Version,
    Watches,
    Exec(PodRef, Box<Exec>),
    Log(PodRef, Box<Log>),
    AppendLog(PodRef, String),
    Ephemeral(PodRef, Box<Ephemeral>),
    Forward(PodRef, u16, SocketAddr),
    Program(String, PathBuf),
    Locate {
        pod: PodRef,
        pid: u32,
        logs: Option<PathBuf>,
    },
    Populate {
        pod: Value,
        count: usize,
    },
    WebSocketsNeedCreate(bool),
    InstallIstio,
    Sessions,
    PeakSessions,
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
