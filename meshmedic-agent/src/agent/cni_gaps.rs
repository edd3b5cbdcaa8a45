// SPDX-License-Identifier: Apache-2.0
//! Watches whether the node's CNI configuration calls istio-cni: a pod whose network is made while it does not gets no
//! redirection. It is read at once like every new pod; what is seen here says why it was lost.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::node::{Turn, Underneath};

/// A network is made within less than that.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks again and again.
pub(super) async fn watch(underneath: Arc<Underneath>) {
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match underneath.look(Timestamp::now()) {
            Some(Turn::Begins) => tracing::warn!(
                "the node's CNI configuration does not call istio-cni: pods that start now get no redirection"
            ),
            Some(Turn::Ends(gap)) => tracing::info!(
                from = %format_args!("{:.0}", gap.from),
                "the node's CNI configuration calls istio-cni again"
            ),
            None => {}
        }
    }
}
