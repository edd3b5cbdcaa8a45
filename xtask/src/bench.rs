// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: what a node pays for MeshMedic and how quickly it learns, beside the algorithm of the
//! original in the same run, as a table and as JSON.

mod baseline;
mod delay;
mod doctor;
pub(crate) mod figures;
mod fleet;
mod kernel;
mod noise;
mod page;
mod peak;
mod plot;
mod quiet;
mod rest;
mod restart;
mod scan;
mod scene;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::demo::build;
use crate::workspace::{cargo, workspace_root};
use figures::{Part, Row, digits};

/// What `cargo xtask bench` takes.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Small nodes and few rounds: a rough answer within a minute, which shows that the bench works
    #[arg(long)]
    quick: bool,
    /// Only what `meshmedic doctor` costs on a large cluster: the same as --only doctor
    #[arg(long, conflicts_with_all = ["only", "fleet"])]
    doctor: bool,
    /// Only what a whole fleet asks of the API server: the same as --only fleet
    #[arg(long, conflicts_with = "only")]
    fleet: bool,
    /// Measure these scenes only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scene>,
    /// Write what was measured into docs/performance.json, and draw docs/performance.md anew
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Scene {
    /// What one verification of all pods costs, and how that grows
    Verify,
    /// From the kernel's timestamp of a loss to the suspicion
    Delay,
    /// A restart of ztunnel, and the start of the command
    Restart,
    /// What the kernel programs cost, and when records are lost
    Kernel,
    /// Whole agents with the default flags
    Quiet,
    /// An agent with repairs on
    Rest,
    /// Hostile and broken pods at once, and a true orphan among them
    Noise,
    /// The most memory that an agent ever takes
    Peak,
    /// Scans from a workstation
    Scan,
    /// What `meshmedic doctor` costs on a large cluster, and its newer families beside the earlier ones
    Doctor,
    /// The load of a fleet on the API server, and how long it takes to heal
    Fleet,
}

impl Scene {
    /// What takes longer than a quick answer may, or says nothing with few rounds.
    const SLOW: [Self; 4] = [Self::Rest, Self::Noise, Self::Peak, Self::Scan];

    const fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Delay => "delay",
            Self::Restart => "restart",
            Self::Kernel => "kernel",
            Self::Quiet => "quiet",
            Self::Rest => "rest",
            Self::Noise => "noise",
            Self::Peak => "peak",
            Self::Scan => "scan",
            Self::Doctor => "doctor",
            Self::Fleet => "fleet",
        }
    }

    fn measure(self, quick: bool) -> anyhow::Result<Part> {
        match self {
            Self::Verify => verify::measure(quick),
            Self::Delay => delay::measure(quick),
            Self::Restart => restart::measure(quick),
            Self::Kernel => kernel::measure(quick),
            Self::Quiet => quiet::measure(quick),
            Self::Rest => rest::measure(),
            Self::Noise => noise::measure(quick),
            Self::Peak => peak::measure(quick),
            Self::Scan => scan::measure(),
            Self::Doctor => doctor::measure(quick),
            Self::Fleet => fleet::measure(quick),
        }
    }
}

/// Everything that was measured, by scene.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) scenes: BTreeMap<String, Part>,
}

/// Where it was measured.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
}

impl Machine {
    fn this() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        Self {
            kernel: release.trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: model
                .unwrap_or_default()
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
        }
    }
}

/// Measures, prints a table and writes the numbers down. Judges nothing: it says whether a target is met.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    // What an unoptimised build needs says nothing.
    if cfg!(debug_assertions) && env::var_os("CARGO").is_some() {
        return run_optimised();
    }
    build(&["meshmedic-lab", "meshmedic-cli"])?;
    if !args.quick && wanted(args).iter().any(|scene| *scene != Scene::Doctor) {
        rest::build_shipped()?;
    }
    let results = measure(args)?;
    let file = write(&results)?;
    say(&format!("\nWritten to {}", file.display()))?;
    if args.write {
        page::update(workspace_root()?, results)?;
    }
    Ok(())
}

/// The scenes that are asked for.
fn wanted(args: &BenchArgs) -> Vec<Scene> {
    let is_wanted = |scene: &Scene| match args.only.as_slice() {
        [] if args.fleet => *scene == Scene::Fleet,
        [] if args.doctor => *scene == Scene::Doctor,
        [] => !(args.quick && Scene::SLOW.contains(scene)),
        only => only.contains(scene),
    };
    Scene::value_variants()
        .iter()
        .copied()
        .filter(is_wanted)
        .collect()
}

/// Measures what is wanted, and shows each row as it comes.
fn measure(args: &BenchArgs) -> anyhow::Result<Results> {
    let mut results = Results {
        machine: Machine::this(),
        ..Results::default()
    };
    for scene in wanted(args) {
        say(&format!("\n{:<8}{HEADINGS}", scene.name()))?;
        let part = scene
            .measure(args.quick)
            .with_context(|| format!("the scene {}", scene.name()))?;
        for row in &part.rows {
            say(&text_of(row))?;
        }
        results.scenes.insert(scene.name().to_owned(), part);
    }
    Ok(results)
}

fn run_optimised() -> anyhow::Result<()> {
    let given = env::args_os().skip_while(|argument| argument != "bench");
    let status = cargo(workspace_root()?)
        .args([
            "run",
            "--quiet",
            "--locked",
            "--profile",
            "quick",
            "--package",
            "xtask",
            "--",
        ])
        .args(given)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

const HEADINGS: &str = "        mode          ours  baseline    ratio spread  target";

/// A row for the terminal: what it is, the numbers below, and what is to be known besides.
fn text_of(row: &Row) -> String {
    let number =
        |figure: Option<figures::Figure>| figure.map_or_else(String::new, |figure| digits(figure.median));
    let spread = row.ours.filter(|ours| ours.high > ours.low);
    let spread = spread.map(|ours| format!("{:.0}%", ours.spread() * 100.0));
    let mut text = format!(
        "{}\n                {:<8}{:>10}{:>10}{:>9}{:>7}  {}",
        row.what,
        row.column.name(),
        number(row.ours),
        number(row.baseline),
        row.share(),
        spread.unwrap_or_default(),
        row.target.as_deref().unwrap_or(&row.unit),
    );
    if !row.verdict().is_empty() {
        text = format!("{}: {}", text.trim_end(), row.verdict());
    }
    if let Some(remark) = &row.remark {
        text = format!("{text}\n        {remark}");
    }
    text
}

fn write(results: &Results) -> anyhow::Result<PathBuf> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => workspace_root()?.join("target"),
    };
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("performance.json");
    let text = serde_json::to_string_pretty(results)?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn say(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write")
}

#[cfg(test)]
mod tests {
    use meshmedic_lab::need;

    use super::*;

    /// Keeps the bench alive: every scene that a quick answer has runs to its end. How long it takes says nothing.
    #[test]
    fn a_quick_bench_measures_every_row() {
        if !need::ebpf("a_quick_bench_measures_every_row") {
            return;
        }
        let args = BenchArgs {
            quick: true,
            doctor: false,
            fleet: false,
            only: Vec::new(),
            write: false,
        };
        let results = measure(&args).unwrap();
        assert_eq!(
            results.scenes.len(),
            Scene::value_variants().len() - Scene::SLOW.len()
        );
        for (scene, part) in &results.scenes {
            assert!(!part.rows.is_empty(), "{scene}");
            for row in &part.rows {
                let measured = row.ours.is_some_and(|ours| ours.median.is_finite());
                assert!(measured || row.remark.is_some(), "{scene}: {}", row.what);
            }
        }
        let text = serde_json::to_string(&results).unwrap();
        let again: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(again.scenes.len(), results.scenes.len());
    }
}
