// SPDX-License-Identifier: Apache-2.0
//! The lab's API server, held against what the real one does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod below;
mod common;
mod conformance;
mod faults;
mod objects;
mod own;
mod patches;
mod pods;
mod rights;
mod watches;
