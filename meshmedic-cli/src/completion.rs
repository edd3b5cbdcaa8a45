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

const NAME: &str = "meshmedic";

/// What shells offer: nobody types what is hidden.
fn offered(command: &clap::Command) -> clap::Command {
    let shown = |command: &&clap::Command| !command.is_hide_set();
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(command.get_arguments().cloned())
        .subcommands(command.get_subcommands().filter(shown).cloned())
}

/// Prints the script.
pub(crate) fn run(args: &Args, command: &clap::Command) -> anyhow::Result<u8> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut offered(command), NAME, &mut script);
    output::write(&String::from_utf8(script)?)?;
    Ok(0)
}
