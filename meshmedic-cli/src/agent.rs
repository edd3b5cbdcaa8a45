// SPDX-License-Identifier: Apache-2.0
//! `meshmedic agent`: watches the pods of one node, and repairs them if it is told to.

mod args;
mod check;

use meshmedic_agent::options::AgentOptions;

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
    start(options)
}

fn start(options: AgentOptions) -> anyhow::Result<u8> {
    anyhow::bail!(
        "the agent of node {} cannot run: this build of meshmedic has no loop that watches the API",
        options.node
    )
}
