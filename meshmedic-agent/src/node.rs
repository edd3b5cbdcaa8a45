// SPDX-License-Identifier: Apache-2.0
//! Pod, process, network namespace, and the reading of sockets: everything below an injected /proc root.
//!
//! No Kubernetes type and no policy lives here. What is found is evidence; what it means is the engine's.

mod cgroup;
mod connection;
mod index;
mod lives;
mod names;
mod process;
mod reading;
mod sockets;
mod underneath;

pub use cgroup::{CgroupPod, parse_cgroup};
pub use connection::has_connection;
pub use index::{Mapping, NetnsIndex};
pub use lives::Lives;
pub use names::{PodName, PodNames};
pub use process::{NetnsKey, Process, ProcessTable, is_running, started};
pub use reading::{Evidence, ReadJob, Unreadable};
pub use sockets::socket_inodes;
pub use underneath::{Turn, Underneath};
