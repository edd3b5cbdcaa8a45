// SPDX-License-Identifier: Apache-2.0
//! `meshmedic doctor` as a process against the lab's API server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod reading;
mod remedy;
mod strict;
mod waiting;
mod world;
