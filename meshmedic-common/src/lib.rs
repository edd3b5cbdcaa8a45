// SPDX-License-Identifier: Apache-2.0
//! The vocabulary that MeshMedic's kernel programs, agent and CLI share.
//!
//! Without the feature `std` only [`abi`] is left: the bytes that cross from the kernel to user space.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
#[cfg(feature = "std")]
pub mod addresses;
#[cfg(feature = "std")]
pub mod ask;
#[cfg(feature = "std")]
pub mod duration;
#[cfg(feature = "std")]
pub mod eligibility;
#[cfg(feature = "std")]
pub mod facts;
#[cfg(feature = "std")]
pub mod few;
#[cfg(feature = "std")]
pub mod identity;
#[cfg(feature = "kube")]
pub mod kube;
#[cfg(feature = "std")]
pub mod policy;
#[cfg(feature = "std")]
pub mod ports;
#[cfg(feature = "std")]
pub mod repair;
#[cfg(feature = "std")]
pub mod report;
#[cfg(any(test, feature = "simulation"))]
pub mod rng;
#[cfg(feature = "std")]
pub mod rules;
#[cfg(feature = "std")]
pub mod sockets;
#[cfg(feature = "std")]
pub mod spread;
#[cfg(feature = "std")]
pub mod text;
#[cfg(feature = "std")]
pub mod time;
#[cfg(feature = "std")]
pub mod times;
#[cfg(feature = "std")]
pub mod traffic;
#[cfg(feature = "std")]
pub mod uid;
#[cfg(feature = "std")]
pub mod verdict;
#[cfg(feature = "std")]
pub mod ztunnel_log;
