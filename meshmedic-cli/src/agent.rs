// SPDX-License-Identifier: Apache-2.0
//! `meshmedic agent`: watches the pods of one node, and repairs them if it is told to.

mod args;
mod check;

use anyhow::Context as _;

pub(crate) use args::Args;

use crate::capabilities;

/// Runs until it is told to end; gives the exit code.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let unusual = args.unusual();
    let options = args.into_options()?;
    for remark in unusual {
        tracing::warn!("{remark}");
    }
    capabilities::tell(&options.proc_root);
    let ready = meshmedic_agent::agent::prepare(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime: too few file descriptors or processes allowed?")?;
    runtime.block_on(meshmedic_agent::agent::run(options, ready))?;
    Ok(0)
}
