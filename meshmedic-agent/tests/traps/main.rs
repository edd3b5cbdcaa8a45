// SPDX-License-Identifier: Apache-2.0
//! Everything known to lead a watcher astray, on real namespaces, processes and sockets. Each test names
//! the defence without which it fails. Needs root, and eBPF where it says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod files;
mod listeners;
mod namespaces;
mod node;
mod processes;
mod ring;
mod rules;
