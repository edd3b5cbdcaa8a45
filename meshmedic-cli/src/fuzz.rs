// SPDX-License-Identifier: Apache-2.0
//! The ways in for the fuzz targets.

pub use crate::doctor::fuzz::{command, config_dump, snapshot};
