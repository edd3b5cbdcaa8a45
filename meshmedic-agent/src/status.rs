// SPDX-License-Identifier: Apache-2.0
//! What the agent tells of itself: metrics, health, and the report that its endpoints serve.

mod exposition;
pub mod metrics;
