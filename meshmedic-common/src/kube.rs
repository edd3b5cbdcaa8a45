// SPDX-License-Identifier: Apache-2.0
//! The acts on the Kubernetes API, which agent and CLI share.

pub mod acted;
pub mod acts;
pub mod client;
pub mod cni;
pub mod control;
pub mod event;
pub mod evict;
pub mod facts;
pub mod heal;
pub mod identity;
pub mod kubeconfig;
pub mod leases;
pub mod rights;
mod send;
pub mod status;
pub mod toggle;

#[cfg(test)]
mod testing;
