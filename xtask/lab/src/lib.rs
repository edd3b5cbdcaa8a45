// SPDX-License-Identifier: Apache-2.0
//! A node without a cluster, made of system calls: pods that are real network namespaces, cgroups and
//! processes, and a stand-in ztunnel that binds in them what a real one binds.
//!
//! As root the pods' cgroups are real, and `/proc` is the kernel's. An ordinary user gets the same inside
//! a user namespace ([`userns`]), with a composed `/proc` root, since cgroups cannot be made there.
//!
//! ```no_run
//! use meshmedic_lab::{Lab, PodSpec, ZtunnelSpec};
//!
//! # fn main() -> meshmedic_lab::Result<()> {
//! let lab = Lab::new()?;
//! let pods = lab.pods((0..12).map(|n| PodSpec::new("shop", &format!("cart-{n}"))))?;
//! let ztunnel = lab.ztunnel(ZtunnelSpec::default())?;
//! ztunnel.enrol_many(&pods)?;
//! ztunnel.unenrol(&pods[3])?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing outlives the lab. Its processes read from a socket that only the lab holds and end at its end of
//! file, so that a panic, Ctrl-C or `kill -9` of the lab's process is enough; they are in process groups of
//! their own, so that Ctrl-C reaches the lab alone. What is on disk and in the cgroup hierarchy is removed
//! by `Drop`, or by a janitor process where there was no time for that.

pub mod api;
mod apiserver;
mod cgroup;
mod cluster;
pub mod docs;
mod error;
mod filter;
#[doc(hidden)]
pub mod helper;
mod istio_cni;
mod lab;
pub mod need;
mod net;
mod pod;
mod proc_root;
mod process;
mod protocol;
mod relay;
mod room;
pub mod rules;
mod sys;
pub mod userns;
pub mod wait;
mod zds;
mod ztunnel;

pub use api::{ApiServer, Ephemeral, Exec, Fault, FaultGuard, Log, Outage, PodRef};
pub use cluster::{Cluster, ClusterSpec, Node};
pub use error::{Error, Result};
pub use istio_cni::IstioCni;
pub use lab::{Lab, Mode};
pub use pod::{Churn, Driver, Pod, PodSpec, ProcessNetns, Qos, Shape};
pub use process::{Process, leash};
pub use room::Room;
pub use sys::cpu_time;
pub use ztunnel::{Ztunnel, ZtunnelSpec};
