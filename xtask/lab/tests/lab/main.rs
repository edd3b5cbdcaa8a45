// SPDX-License-Identifier: Apache-2.0
//! The lab, tried.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cleanup;
mod common;
mod node;
mod ordinary;
mod room;
mod ztunnel;
