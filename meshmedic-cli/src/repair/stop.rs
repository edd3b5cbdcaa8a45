// SPDX-License-Identifier: Apache-2.0
//! Ctrl-C, and what the kubelet or a shell sends instead: nothing further is begun.

use tokio::sync::watch;

use crate::signals::Terminate;

/// Whether to stop. Whatever is half done is ended in order first.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on.
    pub(super) fn listen() -> std::io::Result<Self> {
        let mut terminate = Terminate::listen()?;
        let (tell, stop) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = terminate.wait() => {}
            }
            let _ = tell.send(true);
            // The channel stays open, so that whoever waits does not take its end for a signal.
            tell.closed().await;
        });
        Ok(Self(stop))
    }

    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it.
    pub(super) async fn wait(&self) {
        let mut stop = self.0.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
