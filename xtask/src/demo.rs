// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a node, an API server and the real agent, which heals a pod that fell out of the mesh, and
//! leaves alone what it must.

mod agent;
mod api;
mod scenery;
mod screen;
mod stage;
mod story;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs, io};

use anyhow::{Context, bail};
use clap::Args;
use meshmedic_lab::userns;

use crate::interrupt::{INTERRUPTED, Interrupt, Interrupted};
use crate::workspace::{cargo, workspace_root};
use screen::Screen;

/// Set for the copy of this program that runs in a user namespace, so that it enters no second one.
const INSIDE: &str = "MESHMEDIC_DEMO_INSIDE";
/// What makes network namespaces and addresses: `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
const NEEDED: u64 = 1 << 12 | 1 << 21;

/// What `cargo xtask demo` takes.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Let the agent poll even where eBPF could be had
    #[arg(long)]
    poll: bool,
    /// Draw the loss and the heal as a picture of the terminal (SVG)
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Tells the story, and returns the exit code: 0 if it came out as expected.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<i32> {
    let screen = Screen::new(args.picture.is_some());
    build(&["meshmedic-lab", "meshmedic-cli"])?;
    let start = Instant::now();
    if !may_make_namespaces() {
        return enter_userns(&screen);
    }
    let interrupt = Interrupt::listen()?;
    match story::tell(&screen, args.poll, start, &interrupt) {
        Ok(()) => {
            if let Some(picture) = &args.picture {
                fs::write(picture, screen.draw(story::PICTURE)?)
                    .with_context(|| format!("cannot write {}", picture.display()))?;
            }
            Ok(0)
        }
        Err(error) if error.is::<Interrupted>() => {
            screen.plain("\nInterrupted. Agent and lab are taken down.")?;
            Ok(INTERRUPTED)
        }
        // Who read it has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        Err(error) => {
            screen.failed(&format!("{error:#}"))?;
            Ok(1)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// Builds programs that are looked for beside this one, in the profile of this one.
pub(crate) fn build(packages: &[&str]) -> anyhow::Result<()> {
    // Started without cargo, as from a copy: what lies beside this program has to do.
    if env::var_os("CARGO").is_none() || env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let own = env::current_exe().context("cannot find this program's own file")?;
    let folder = own
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let profile = match folder {
        None | Some("debug") => "dev",
        Some(other) => other,
    };
    // Together with this program, which is there already: alone, they may want other features of
    // their dependencies, and all of them would be built a second time.
    let packages = packages.iter().chain(&["xtask"]);
    let built = cargo(workspace_root()?)
        .args(["build", "--locked", "--profile", profile])
        .args(packages.flat_map(|package| ["--package", package]))
        .status()
        .context("cannot start cargo")?;
    if !built.success() {
        bail!("what it needs does not build");
    }
    Ok(())
}

/// Becomes root of a user namespace and starts over; returns only where that cannot be, having said why.
fn enter_userns(screen: &Screen) -> anyhow::Result<i32> {
    let inside = env::var_os(INSIDE).is_some();
    let refused = if inside {
        Err("its root lacks CAP_NET_ADMIN or CAP_SYS_ADMIN".to_owned())
    } else {
        userns::available()
    };
    if let Err(why) = refused {
        screen.failed(&format!(
            "The demo makes network namespaces, which takes root or a user namespace; {why}."
        ))?;
        screen.text(
            0,
            "What would change it: run it as root,\n\
             sudo -E env \"PATH=$PATH\" cargo xtask demo\n\
             or have the administrator allow user namespaces: sysctl user.max_user_namespaces=15000, on \
             Debian kernel.unprivileged_userns_clone=1, on Ubuntu \
             kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that allows \
             unshare.",
        )?;
        return Ok(1);
    }
    screen.flush()?;
    let own = env::current_exe().context("cannot find this program's own file")?;
    let mut again = Command::new(own);
    again.args(env::args_os().skip(1)).env(INSIDE, "1");
    userns::enter(&mut again);
    // In place, not as a child: then Ctrl-C has one process to end, and the shell waits for it.
    Err(again.exec()).context("cannot start over in a user namespace")
}

/// Whether this process may do on its own what the lab does.
fn may_make_namespaces() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok())
        .is_some_and(|caps| caps & NEEDED == NEEDED)
}
