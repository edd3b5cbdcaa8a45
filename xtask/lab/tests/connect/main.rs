// SPDX-License-Identifier: Apache-2.0
//! What leads into pods, through the client that MeshMedic has: `exec`, `portforward`, `log`, ephemeral containers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod ephemeral;
mod exec;
mod forward;
mod inside;
mod log;
mod many;
