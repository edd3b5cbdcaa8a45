// SPDX-License-Identifier: Apache-2.0
//! What tells this command to end beside Ctrl-C.

use std::io;

/// SIGTERM, where there is such a thing.
#[cfg(unix)]
pub(crate) struct Terminate(tokio::signal::unix::Signal);

/// Nothing: here a command is ended by Ctrl-C alone.
#[cfg(not(unix))]
pub(crate) struct Terminate;

#[cfg(unix)]
impl Terminate {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).map(Self)
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
impl Terminate {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        std::future::pending::<()>().await;
    }
}
