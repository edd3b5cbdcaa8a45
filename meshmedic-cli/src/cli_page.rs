// SPDX-License-Identifier: Apache-2.0
//! `meshmedic cli-page`: the page `docs/cli.md` from the same words as `--help`, for `cargo xtask docs`.

use crate::output;

/// How wide the help is set.
const COLUMNS: usize = 80;

const HEAD: &str = "\
# Commands

What `--help` says, on one page. Written by `cargo xtask docs`; a test fails when it is stale.
";

/// Prints the page.
pub(crate) fn run(command: clap::Command) -> anyhow::Result<u8> {
    let mut page = HEAD.to_owned();
    let mut command = command.term_width(COLUMNS).disable_help_subcommand(true);
    command.build();
    describe(&mut command, &mut page);
    for below in command.get_subcommands_mut().filter(|below| !below.is_hide_set()) {
        describe(below, &mut page);
    }
    output::write(&page)?;
    Ok(0)
}

fn describe(command: &mut clap::Command, page: &mut String) {
    let name = command
        .get_bin_name()
        .unwrap_or_else(|| command.get_name())
        .to_owned();
    *page += &format!("\n## {name}\n\n```text\n");
    for line in command.render_long_help().to_string().trim_end().lines() {
        *page += line.trim_end();
        page.push('\n');
    }
    *page += "```\n";
}
