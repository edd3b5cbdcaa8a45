// SPDX-License-Identifier: Apache-2.0
//! What a request comes to.

use serde_json::Value;

use super::streams::upgrade::Switch;
use super::watch::Lines;

/// What a request comes to.
pub(crate) enum Done {
    Object(u16, Value),
    Text(String),
    Watch(Lines),
    Log(Lines),
    /// The log of a pod without a node.
    Nothing,
    /// The connection goes on as a WebSocket.
    Switch(Switch),
}
