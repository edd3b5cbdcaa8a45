// SPDX-License-Identifier: Apache-2.0
//! `meshmedic scan` as a process against the lab's API server.

mod agents;
mod connection;
mod hostile;
mod many;
mod probes;
mod states;
mod world;
