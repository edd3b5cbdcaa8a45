// SPDX-License-Identifier: Apache-2.0
//! MeshMedic's node agent as a library.

pub mod agent;
pub mod cluster;
pub mod confine;
mod cpu;
pub mod engine;
pub mod kernel;
pub mod node;
pub mod options;
pub mod status;
pub mod watch;

pub use meshmedic_common::time;
