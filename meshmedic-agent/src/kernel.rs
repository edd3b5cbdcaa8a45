// SPDX-License-Identifier: Apache-2.0
//! Loads the kernel programs: the trigger (kernel events), what it counts on the way (connections), and the census
//! (ztunnel's own listeners, and whether rules lead to them).

mod bpf;
mod census;
#[cfg(test)]
mod distribution;
mod error;
mod layout;
mod log;
mod object;
mod offsets;
mod traffic;
mod trigger;

use std::{borrow::Cow, path::PathBuf};

pub use census::Census;
pub use error::KernelError;
pub use object::load;
pub use traffic::Traffic;
pub use trigger::Trigger;
pub(crate) use trigger::readable;

/// Where the kernel describes its own types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How to load the kernel programs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The kernel programs log at this level and above; without it their logging is compiled out by the kernel.
    pub log: Option<tracing::Level>,
    /// The BTF of the running kernel.
    pub btf: PathBuf,
    /// The compiled object; without it the one that this build carries.
    pub object: Option<Cow<'static, [u8]>>,
    /// Never ask the kernel to limit the census to a process, as on kernels before 6.1.
    pub unfiltered_census: bool,
    /// Whether the census reads the redirection rules, too, where the kernel lets it.
    pub census_rules: bool,
    /// Whether the trigger counts connections on the way; to leave it out shows what it costs.
    pub count_connections: bool,
    /// A census that finds more listeners than this fails.
    pub census_rows: usize,
    /// In so many network namespaces at most connections are counted.
    pub traffic_namespaces: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log: None,
            btf: KERNEL_BTF.into(),
            object: None,
            unfiltered_census: false,
            census_rules: true,
            count_connections: true,
            census_rows: census::ROWS_MAX,
            traffic_namespaces: traffic::NAMESPACES,
        }
    }
}

/// The loaded programs. Each part keeps alive what it needs, so they may go to different tasks.
#[derive(Debug)]
pub struct Kernel {
    /// Capture ports that begin or cease to listen.
    pub trigger: Trigger,
    /// The listeners that processes hold.
    pub census: Census,
    /// The connections of network namespaces.
    pub traffic: Traffic,
}

impl Kernel {
    /// Whether the kernel lets this thread, as it is now, do all that using the programs takes: reading maps and
    /// writing them, and making links for the census.
    pub fn is_usable(&mut self) -> bool {
        self.trigger.lost().is_ok()
            && self.census.begin_anew().is_ok()
            && self.census.hooks_of(std::process::id()).is_ok()
    }
}
