// SPDX-License-Identifier: Apache-2.0
//! `meshmedic completion`: scripts by which shells complete what is typed.

use clap_complete::Shell;

use crate::output;

/// Arguments of `meshmedic completion`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

const AFTER_HELP: &str = "\
Examples:
  source <(meshmedic completion bash)
  meshmedic completion zsh > \"${fpath[1]}/_meshmedic\"
  meshmedic completion fish > ~/.config/fish/completions/meshmedic.fish";

/// Prints the script.
pub(crate) fn run(args: &Args, mut command: clap::Command) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::write(&String::from_utf8(script)?)?;
    Ok(0)
}
