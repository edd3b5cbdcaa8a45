// SPDX-License-Identifier: Apache-2.0
//! What the process gives up once its kernel programs are loaded.
//!
//! Whoever takes the agent over has what the agent has. So it keeps little: it reads, it talks to the network, and it
//! can neither write a file, start a program, nor reach into another process. Landlock is no part of this: it would
//! forbid to look at the namespaces and descriptors of other processes, which is what an agent is for.

mod capabilities;
mod filter;

use meshmedic_common::report::Confinement;

use crate::kernel::Kernel;

/// What the process must still be able to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its kubeconfig runs a program to get credentials. Nothing is filtered then: the program would be, too.
    pub programs: bool,
}

/// Gives up what is no longer needed, for this thread and all that it will start; the filter holds for those that
/// run already, too. To be called before the runtime has a thread of its own, since capabilities belong to threads.
///
/// What cannot be given up is kept, with a warning: an agent that watches is worth more than one that does not start.
pub fn confine(mut kernel: Option<&mut Kernel>, needs: Needs) -> Confinement {
    let mut kept = Vec::new();
    if let Err(error) = capabilities::shed(kernel.as_deref_mut()) {
        kept.push(format!("capabilities cannot be dropped: {error}"));
    }
    let filtered = if needs.programs {
        Err("the kubeconfig runs a program for its credentials".to_owned())
    } else {
        filter::apply(kernel.is_some()).map_err(|error| error.to_string())
    };
    if let Err(why) = &filtered {
        kept.push(format!("no system call is denied: {why}"));
    }
    let confinement = Confinement {
        capabilities: capabilities::held(),
        seccomp: filtered.is_ok(),
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        kept,
    };
    tracing::info!(
        capabilities = confinement.capabilities.join(","),
        seccomp = confinement.seccomp,
        no_new_privs = confinement.no_new_privs,
        "what this agent still holds"
    );
    for kept in &confinement.kept {
        tracing::warn!("the agent keeps more than it needs: {kept}");
    }
    confinement
}
