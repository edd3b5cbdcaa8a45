// SPDX-License-Identifier: Apache-2.0
//! What an agent does before it has a runtime, and so before it has a second thread.

use meshmedic_common::report::Confinement;

use super::{AgentError, connection};
use crate::confine::{Needs, confine};
use crate::kernel::{self, Kernel, KernelError};
use crate::options::{AgentOptions, Trigger};

/// What an agent starts with.
#[derive(Debug)]
pub struct Ready {
    pub(super) kernel: Option<Kernel>,
    pub(super) confinement: Confinement,
}

/// Loads the kernel programs, and then gives up all rights that nothing else needs.
pub fn prepare(options: &AgentOptions) -> Result<Ready, AgentError> {
    let mut kernel = load_kernel(options.trigger).map_err(|error| {
        let remedy = error.remedy().to_owned();
        AgentError::Kernel { error, remedy }
    })?;
    let needs = Needs {
        programs: connection::runs_programs(options.kubeconfig.as_deref()),
    };
    let confinement = confine(kernel.as_mut(), needs);
    Ok(Ready { kernel, confinement })
}

/// Without the kernel programs everything works, only later: one warning says why and what to do.
///
/// # Errors
///
/// Where they must be loaded and cannot be.
pub fn load_kernel(trigger: Trigger) -> Result<Option<Kernel>, KernelError> {
    if trigger == Trigger::Poll {
        return Ok(None);
    }
    match kernel::load(&kernel::Options::default()) {
        Ok(kernel) => Ok(Some(kernel)),
        Err(error) if trigger == Trigger::Ebpf => Err(error),
        Err(error) => {
            tracing::warn!(
                reason = error.reason(),
                "no eBPF, polling instead: {error}. {}",
                error.remedy()
            );
            Ok(None)
        }
    }
}
