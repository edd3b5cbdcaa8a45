// SPDX-License-Identifier: Apache-2.0
//! What the agent tells of itself: metrics, health, and the report that its endpoints serve.
//!
//! The loop that does the work writes into a [`Status`] and never waits for whoever reads it: the
//! endpoints live on a thread of their own.

mod board;
mod exposition;
pub mod listen;
pub mod metrics;
mod reach;
mod routes;
pub mod server;

pub use board::{Status, Task};
pub use listen::ListenAddr;
pub use metrics::{Metrics, Resource};
pub use server::{Endpoints, Server, ServerError};
