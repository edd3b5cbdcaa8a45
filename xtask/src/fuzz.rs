// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: feeds hostile bytes to everything that reads foreign ones, guided by coverage.
//!
//! libFuzzer itself, on the stable toolchain: the compiler's coverage pass needs no nightly, only the address sanitizer
//! does, and this workspace has next to no unsafe code for it to watch.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::workspace::{cargo, workspace_root};

/// The coverage pass, as cargo-fuzz asks the compiler for it.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-trace-compares \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";
/// Where the targets, and the inputs that they begin with, are.
const FOLDER: &str = "xtask/fuzz";
/// With an explicit target the flags are for the programs alone, not for build scripts.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
/// A whole snapshot of a small mesh fits in.
const MAX_LEN: u32 = 64 * 1024;

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Seconds for each target
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Print the targets' names
    #[arg(long)]
    list: bool,
    /// The targets; all of them by default
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let root = workspace_root()?;
    let fuzzer = build(root)?;
    let names = fuzzer.names()?;
    if args.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if let Some(unknown) = args.targets.iter().find(|target| !names.contains(target)) {
        bail!("there is no target {unknown}; there are {}", names.join(", "));
    }
    let wanted = names
        .iter()
        .filter(|name| args.targets.is_empty() || args.targets.contains(name));
    println!(
        "{:<12} {:>9} {:>8} {:>6} {:>5}",
        "target", "runs", "covered", "inputs", "new"
    );
    for name in wanted {
        println!("{}", fuzzer.run(name, args.seconds)?);
    }
    Ok(())
}

struct Fuzzer {
    program: PathBuf,
    /// The committed inputs, a folder for each target.
    seeds: PathBuf,
    /// What runs on this machine have found.
    found: PathBuf,
}

fn build(root: &Path) -> Result<Fuzzer> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join("fuzz");
    let status = cargo(&root.join(FOLDER))
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            &triple(),
            "--target-dir",
        ])
        .arg(&target)
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "the fuzz targets do not build, and cargo says above why; libFuzzer needs a C++ compiler"
    );
    Ok(Fuzzer {
        program: target.join(triple()).join("release/meshmedic-fuzz"),
        seeds: root.join(FOLDER).join("corpus"),
        found: target.join("found"),
    })
}

impl Fuzzer {
    fn start(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("MESHMEDIC_FUZZ", target).stdin(Stdio::null());
        command
    }

    fn names(&self) -> Result<Vec<String>> {
        let output = self
            .start("list")
            .output()
            .context("cannot start the fuzz targets")?;
        let text = String::from_utf8(output.stdout).context("a target's name is text")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Runs one target; an input that breaks its promise is an error that names the input.
    fn run(&self, target: &str, seconds: u32) -> Result<Outcome> {
        let seeds = self.seeds.join(target);
        ensure!(
            seeds.is_dir(),
            "{} is missing: a target begins with inputs that mean something",
            seeds.display()
        );
        let found = self.found.join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let broken = self.found.join("broken");
        fs::create_dir_all(&broken).with_context(|| format!("cannot make {}", broken.display()))?;
        let output = self
            .start(target)
            .args([&found, &seeds])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-artifact_prefix={}/{target}-", broken.display()))
            .args(["-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"])
            .output()
            .context("cannot start the fuzz targets")?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!(
                "{target} broke a promise:\n{}\n{}",
                what_broke(&told),
                self.how_again(target, &told)
            );
        }
        Outcome::read(target, &told, fs::read_dir(&seeds)?.count())
            .with_context(|| format!("{target} did not say how it ended:\n{}", last_lines(&told)))
    }

    fn how_again(&self, target: &str, told: &str) -> String {
        let written = told
            .lines()
            .find_map(|line| line.split("Test unit written to ").nth(1));
        match written {
            Some(input) => format!(
                "Again: MESHMEDIC_FUZZ={target} {} {input}",
                self.program.display()
            ),
            None => "No input was written.".to_owned(),
        }
    }
}

/// How a run without a broken promise ended.
struct Outcome {
    target: String,
    runs: u64,
    covered: u64,
    seeds: usize,
    new: u64,
}

impl Outcome {
    /// From libFuzzer's last words.
    fn read(target: &str, told: &str, seeds: usize) -> Option<Self> {
        let stat = |name: &str| -> Option<u64> {
            let line = told.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        let done = told.lines().rev().find(|line| line.contains(" cov: "))?;
        let covered = done.split(" cov: ").nth(1)?.split(' ').next()?.parse().ok()?;
        Some(Self {
            target: target.to_owned(),
            runs: stat("stat::number_of_executed_units")?,
            covered,
            seeds,
            new: stat("stat::new_units_added")?,
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            target,
            runs,
            covered,
            seeds,
            new,
        } = self;
        write!(f, "{target:<12} {runs:>9} {covered:>8} {seeds:>6} {new:>5}")
    }
}

/// What a panic says of itself; what ended without one (too slow, too large) says so last.
fn what_broke(told: &str) -> String {
    let lines = told.lines().skip_while(|line| !line.contains(" panicked at "));
    let panic: Vec<&str> = lines
        .take_while(|line| !line.starts_with("stack backtrace:"))
        .take(25)
        .collect();
    if panic.is_empty() {
        last_lines(told)
    } else {
        panic.join("\n")
    }
}

fn last_lines(told: &str) -> String {
    let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_the_fuzzer_are_read() {
        let told = "#2 INITED cov: 5 ft: 6 corp: 1/1b\n#459609\tDONE   cov: 157 ft: 501 corp: 88/3kb lim: 80 exec/s: 7 rss: 3Mb\n\
                    stat::number_of_executed_units: 459609\nstat::average_exec_per_sec:     76601\nstat::new_units_added:          12\n";
        let outcome = Outcome::read("sockets", told, 9).unwrap();
        assert_eq!(
            outcome.to_string().split_whitespace().collect::<Vec<_>>(),
            ["sockets", "459609", "157", "9", "12"]
        );
        assert!(Outcome::read("sockets", "", 9).is_none());
    }

    #[test]
    fn a_broken_promise_is_told_by_the_panic_and_not_by_its_backtrace() {
        let frames = "  1: somewhere\n".repeat(40);
        let panic = "thread '<unnamed>' (7) panicked at src/targets.rs:117:9:\nassertion `left == right` failed\n  left: 1\n right: 2";
        let told =
            format!("#2 INITED\n{panic}\nstack backtrace:\n{frames}==7== ERROR: libFuzzer: deadly signal\n");
        assert_eq!(what_broke(&told), panic);
        assert_eq!(
            what_broke("#2 INITED\n==7== ERROR: libFuzzer: timeout\n"),
            "==7== ERROR: libFuzzer: timeout"
        );
    }

    #[test]
    fn every_target_has_inputs_to_begin_with() {
        let folder = workspace_root().unwrap().join(FOLDER);
        let listed = fs::read_to_string(folder.join("src/targets.rs")).unwrap();
        let listed: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next())
            .collect();
        assert!(listed.len() >= 10, "{listed:?}");
        for target in listed {
            let seeds = fs::read_dir(folder.join("corpus").join(target));
            assert!(seeds.is_ok_and(|mut seeds| seeds.next().is_some()), "{target}");
        }
    }
}
