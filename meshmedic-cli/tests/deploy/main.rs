// SPDX-License-Identifier: Apache-2.0
//! What is in `deploy/`: that it can be read, agrees with itself and with the command, and comes out the same whichever
//! way it is installed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod examples;
mod files;
mod flags;
mod gate_policy;
mod helm;
mod manifest;
mod monitoring;
mod node_condition;
mod objects;
mod policies;
mod rendered;
mod values;
