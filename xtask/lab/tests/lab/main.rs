// SPDX-License-Identifier: Apache-2.0
//! The lab, tried.

mod common;
mod node;
mod ztunnel;
