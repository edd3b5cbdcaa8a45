// SPDX-License-Identifier: Apache-2.0
//! `meshmedic agent` as a process, in a cluster of the lab, under the rights of its manifest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alerts;
mod api_faults;
mod big;
mod confined;
mod crashes;
mod fleet;
mod gate;
mod heal;
mod in_place;
mod install;
mod node_condition;
mod process;
mod prove;
mod repair;
mod rights;
mod scan;
mod traps;
mod undo;
mod watch;
mod withheld;
mod world;
