// SPDX-License-Identifier: Apache-2.0
//! `meshmedic scan` as a process against the lab's API server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agents;
mod behavioral;
mod completion;
mod connection;
mod hostile;
mod many;
mod probes;
mod states;
mod world;
