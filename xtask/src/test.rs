// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: every test that this machine can run, and at the end what it could not and why.

mod tally;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use anyhow::{Context, bail};
use clap::Args;

use meshmedic_lab::need;

use crate::cluster::{self, Built, Store};
use crate::workspace::{cargo, workspace_root};
use tally::{Skips, Tally};

/// Names the file to which a test adds `<test>\t<why>` when it cannot run here.
const SKIPPED_VARIABLE: &str = "MESHMEDIC_SKIPPED";
/// How a user without root runs the tests that need it.
const AS_ROOT: &str = "sudo -E env \"PATH=$PATH\" cargo xtask test";

/// How the names of the tests on a whole node begin. They are slow, and there is one node: they run by themselves.
const ON_A_NODE: &str = "a_node_";

/// What `cargo xtask test` takes.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Fail if the tests of the real thing, also those on a whole node, cannot run for want of root or of what
    /// `cargo xtask cluster build` builds
    #[arg(long)]
    real: bool,
    /// Begin no test on a whole node after so many minutes: those that are left are named as skipped
    #[arg(long, value_name = "MINUTES")]
    nodes_within: Option<u64>,
    /// For the test programs: a name to filter by, or options such as --nocapture
    #[arg(last = true, value_name = "FILTER")]
    passed_on: Vec<OsString>,
}

/// Builds the lab, runs all tests, and closes with what was skipped and the totals; tells whether all is well.
pub(crate) fn run(args: &TestArgs) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let root = workspace_root()?;
    let ci = env::var("CI").is_ok_and(|value| value == "true");
    let is_root = is_root();

    if !is_root {
        say(&format!(
            "Not root: tests that need it are skipped. To run them too:\n    {AS_ROOT}\n"
        ))?;
    }
    let real = find_real(args.real || ci)?;
    let node = if is_root {
        cluster::built_for_node()?
    } else {
        Built::Lacking("root".to_owned())
    };
    if let (Built::Lacking(names), true) = (&node, args.real) {
        bail!("without {names} no node can be had: `cargo xtask cluster build`, and then as root");
    }
    // Tests of other crates start the lab's binary, which cargo would build only for the lab's own.
    let built = cargo(root)
        .args(["build", "--locked", "--package", "meshmedic-lab"])
        .status();
    if !built.context("cannot start cargo")?.success() {
        bail!("the lab does not build, and the tests need it");
    }

    let skipped = tempfile::Builder::new()
        .prefix("meshmedic-skipped-")
        .tempfile()
        .context("cannot create the file in which the tests note what they skip")?;
    let mut tally = Tally::default();
    let mut command = cargo(root);
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast", "--"])
        .args(&args.passed_on)
        .env(SKIPPED_VARIABLE, skipped.path());
    if let Some(store) = &real {
        show_real(&mut command, store)?;
    }
    let mut status = run_tests(command, &mut tally)?;
    let scenes = scenes(&args.passed_on);
    if let (Built::Whole(store), false) = (&node, scenes.is_empty()) {
        let ignored = std::mem::take(&mut tally.ignored).into_iter();
        let (asked, others): (Vec<_>, Vec<_>) =
            ignored.partition(|(name, _)| is_on_a_node(name) && is_asked_for(name, &scenes));
        tally.ignored = others;
        say("\nOn a real node, one after the other:")?;
        let late = |minutes| begun.elapsed() > Duration::from_secs(minutes * 60);
        for (name, _) in asked {
            if args.nodes_within.is_some_and(late) {
                tally
                    .ignored
                    .push((name, "no time was left (--nodes-within)".to_owned()));
                continue;
            }
            let scene = run_tests(on_a_node(root, &name, store)?, &mut tally)?;
            if status.success() {
                status = scene;
            }
        }
    }
    let noted = fs::read_to_string(skipped.path())
        .with_context(|| format!("cannot read what was skipped from {}", skipped.path().display()))?;
    let mut skips = Skips::from_notes(&noted);
    // In CI everything is there that a test may ask the machine for.
    let skipped_in_ci = ci && !skips.is_empty();
    let passed = tally.passed.saturating_sub(skips.count_passed(&tally.failed));
    skips.add_ignored(&tally.ignored);

    let all_well = status.success() && tally.failed.is_empty() && !skipped_in_ci;
    let mut closing = format!("\n{skips}");
    if !tally.failed.is_empty() {
        closing.push_str("\nFailed:\n");
        for name in &tally.failed {
            closing.push_str(&format!("  {name}\n"));
        }
    }
    if tally.unfinished > 0 || (!status.success() && tally.failed.is_empty()) {
        closing.push_str("\nA test program did not build or broke off before its result: see above.\n");
    }
    if skipped_in_ci {
        closing.push_str("\nCI=true: a skipped test counts as a failure.\n");
    }
    if !is_root && !skips.is_empty() {
        closing.push_str(&format!("\nMore tests run as root: {AS_ROOT}\n"));
    }
    closing.push_str(&format!(
        "\nIn {} s:\n{passed} passed, {} failed, {} skipped\n",
        begun.elapsed().as_secs(),
        tally.failed.len(),
        skips.count()
    ));
    say(&closing)?;
    Ok(all_well)
}

/// The programs of a real Kubernetes and a real Istio, if they were built; it is an error if they must be there.
fn find_real(must: bool) -> anyhow::Result<Option<Store>> {
    match cluster::built_for_tests()? {
        Built::Whole(store) => Ok(Some(store)),
        Built::Lacking(names) if must => bail!(
            "without {names} the tests of the real thing cannot run: `cargo xtask cluster build --only tests`"
        ),
        Built::Lacking(_) => Ok(None),
    }
}

/// Which tests on a node were asked for: all of them unless tests were chosen by other names.
fn scenes(passed_on: &[OsString]) -> Vec<OsString> {
    let word = |word: &&OsString| !word.as_encoded_bytes().starts_with(b"-");
    if passed_on.iter().any(|passed| word(&passed)) {
        let chosen = |word: &&OsString| word.as_encoded_bytes().starts_with(ON_A_NODE.as_bytes());
        return passed_on.iter().filter(chosen).cloned().collect();
    }
    vec![ON_A_NODE.into()]
}

fn is_on_a_node(test: &str) -> bool {
    test.rsplit("::")
        .next()
        .is_some_and(|name| name.starts_with(ON_A_NODE))
}

fn is_asked_for(test: &str, scenes: &[OsString]) -> bool {
    let named = |scene: &OsString| scene.to_str().is_some_and(|scene| test.contains(scene));
    scenes.iter().any(named)
}

/// One test on a node; what it says is its report.
fn on_a_node(root: &std::path::Path, scene: &str, store: &Store) -> anyhow::Result<Command> {
    let mut command = cargo(root);
    command
        .args(["test", "--locked", "--workspace", "--bin", "xtask", "--"])
        .args(["--ignored", "--exact", "--nocapture", scene]);
    show_real(&mut command, store)?;
    Ok(command)
}

/// Lets the tests find these programs, before any of the machine's own: with others, other things are tested.
fn show_real(command: &mut Command, store: &Store) -> anyhow::Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(store.bin()).chain(env::split_paths(&path)))
        .with_context(|| format!("{} cannot stand in PATH", store.bin().display()))?;
    command
        .env("PATH", path)
        .env(need::ASSETS, store.bin())
        .env(need::BUILT, store.folder());
    Ok(())
}

/// Runs cargo's tests, shows their output as it comes and keeps count.
fn run_tests(mut command: Command, tally: &mut Tally) -> anyhow::Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let mut output = child.stdout.take().context("cargo test has no output")?;
    let mut chunk = [0; 8192];
    loop {
        let length = match output.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read the output of cargo test"),
        };
        // By the chunk, not by the line: a test that hangs has its name on an unfinished line.
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&chunk[..length])
            .and_then(|()| stdout.flush())
            .context("cannot write")?;
        tally.feed(&chunk[..length]);
    }
    tally.finish();
    child.wait().context("cannot wait for cargo test")
}

/// Whether the effective user is root; where there is no /proc, nobody is.
fn is_root() -> bool {
    fs::read_to_string(PathBuf::from("/proc/self/status"))
        .is_ok_and(|status| effective_uid(&status) == Some(0))
}

/// The second number of the line `Uid:` in `/proc/<pid>/status`.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))
        .and_then(|()| stdout.flush())
        .context("cannot write")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{effective_uid, is_asked_for, is_on_a_node, scenes};

    #[test]
    fn tests_on_a_node_run_unless_others_were_chosen() {
        let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
        assert_eq!(scenes(&[]), words(&["a_node_"]));
        assert_eq!(scenes(&words(&["--nocapture"])), words(&["a_node_"]));
        assert!(scenes(&words(&["sockets"])).is_empty());
        let chosen = ["a_node_runs", "sockets"];
        assert_eq!(scenes(&words(&chosen)), words(&["a_node_runs"]));
        assert!(is_asked_for(
            "cluster::node::a_node_runs_pods",
            &scenes(&words(&chosen))
        ));
        assert!(!is_asked_for(
            "cluster::node::a_node_heals",
            &scenes(&words(&chosen))
        ));
        assert!(is_on_a_node("cluster::node::tests::a_node_runs_pods"));
        assert!(!is_on_a_node("cluster::a_node_::tests::other"));
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(
            effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n"),
            Some(0)
        );
        assert_eq!(effective_uid("Uid:\t0\t1000\t0\t0\n"), Some(1000));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }
}
