// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in a lab.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The result of every operation on a lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a lab.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and on what.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// Somebody else holds the address.
    #[error("{address} is in use: port {} is held by another process of the pod", address.port())]
    PortTaken {
        /// The address that could not be bound.
        address: SocketAddr,
    },
    /// The lab's helper binary is not where it is expected.
    #[error(
        "no meshmedic-lab binary beside {}: build it with `cargo build -p meshmedic-lab`, or name it in MESHMEDIC_LAB_BIN",
        beside.display()
    )]
    NoBinary {
        /// The executable beside which it was sought.
        beside: PathBuf,
    },
    /// The helper binary was built from other sources than this library.
    #[error(
        "{} does not fit this library: build it anew with `cargo build -p meshmedic-lab`",
        binary.display()
    )]
    StaleBinary {
        /// The binary that was started.
        binary: PathBuf,
    },
    /// A helper process reported a failure.
    #[error("process {pid} of the lab: {message}")]
    Helper {
        /// The helper's process ID.
        pid: u32,
        /// What it said.
        message: String,
    },
    /// A helper process ended, or did not answer in time.
    #[error("process {pid} of the lab does not answer: {source}")]
    Silent {
        /// The helper's process ID.
        pid: u32,
        /// What reading its answer gave.
        source: std::io::Error,
    },
    /// The API server answered with an error.
    #[error("{what}: {code} {reason}: {message}")]
    Api {
        /// The request.
        what: String,
        /// The HTTP status code.
        code: u16,
        /// The reason that its Status gives.
        reason: String,
        /// The message that its Status gives.
        message: String,
        /// The whole Status.
        status: Box<serde_json::Value>,
    },
    /// What was waited for did not come about.
    #[error(transparent)]
    TimedOut(#[from] crate::wait::TimedOut),
    /// A manifest cannot be read.
    #[error("the manifest cannot be read: {0}")]
    Manifest(String),
    /// Only the lab's own API server does this.
    #[error("the API server {url} is a real one, which cannot be told to {what}")]
    RealServer {
        /// The server.
        url: String,
        /// What was wanted.
        what: String,
    },
    /// The pod or process was killed, or its lab was dropped.
    #[error("{what} is not running")]
    NotRunning {
        /// What was addressed.
        what: String,
    },
}

/// Puts what was tried before an error of the system.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what(),
            source: source.into(),
        })
    }
}
