// SPDX-License-Identifier: Apache-2.0
//! Prints a plan, or carries it out.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context as _, Result, bail};

use super::step::{Line, Shows, Step};

/// How long after a look the next one follows: each is a command that asks a cluster.
const PAUSE: Duration = Duration::from_millis(500);

/// Writes what would be done.
pub(super) fn print(steps: &[Step]) -> Result<()> {
    let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
    match writeln!(io::stdout().lock(), "{}", lines.join("\n")) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write"),
    }
}

/// Does one step after the other, prints each before, and ends with the times that were taken.
pub(super) fn carry_out(steps: &[Step], folder: &Path) -> Result<()> {
    let mut remembered: Vec<(&'static str, String)> = Vec::new();
    let mut clock = Instant::now();
    let mut times: Vec<String> = Vec::new();
    for step in steps {
        match step {
            Step::Say(_) => say(&step.to_string()),
            Step::Mark(what) => {
                clock = Instant::now();
                times.push(format!("from {what}"));
            }
            Step::Run(line) => {
                let line = announced(line, &remembered);
                let status = shown(&line, folder)?;
                if !status.success() {
                    bail!("{line}\nfailed ({status})");
                }
            }
            Step::Expect(line, shows) => {
                let line = announced(line, &remembered);
                let seen = Seen::by(&line, folder)?;
                say(&seen.output);
                if !seen.is(shows) {
                    bail!("{line}\nwas to show {shows}, and had {}", seen.told());
                }
            }
            Step::Remember(name, line) => {
                let line = announced(line, &remembered);
                let seen = Seen::by(&line, folder)?;
                let value = seen.output.trim();
                if !seen.status.success() || value.is_empty() {
                    bail!("{line}\nwas to print something, and had {}", seen.told());
                }
                say(&format!("{name}={value}"));
                let value = value.to_owned();
                remembered.retain(|(other, _)| other != name);
                remembered.push((*name, value));
            }
            Step::Until {
                what,
                line,
                shows,
                within,
            } => {
                let line = announced(line, &remembered);
                let seen = wait(&line, shows, *within, folder)?;
                if !seen.output.is_empty() {
                    say(&seen.output);
                }
                if !what.is_empty() {
                    times.push(format!("{:>8.1} s  {what}", clock.elapsed().as_secs_f64()));
                }
            }
        }
    }
    if steps.iter().any(|step| matches!(step, Step::Mark(_))) {
        say("\nIn seconds, as a command saw it that asked twice a second:");
        for time in times {
            say(&format!("  {time}"));
        }
    }
    Ok(())
}

/// Repeats a command until it shows what it is to show.
fn wait(line: &Line, shows: &Shows, within: Duration, folder: &Path) -> Result<Seen> {
    let start = Instant::now();
    loop {
        let seen = Seen::by(line, folder)?;
        if seen.is(shows) {
            return Ok(seen);
        }
        if start.elapsed() >= within {
            bail!(
                "{line}\ndid not show {shows} within {} s; at last it had {}",
                within.as_secs(),
                seen.told()
            );
        }
        thread::sleep(PAUSE);
    }
}

/// What a command came to.
struct Seen {
    status: ExitStatus,
    output: String,
    errors: String,
}

impl Seen {
    fn by(line: &Line, folder: &Path) -> Result<Self> {
        let output = command(line, folder).output().with_context(|| cannot(line))?;
        Ok(Self {
            status: output.status,
            output: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            errors: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        })
    }

    fn is(&self, shows: &Shows) -> bool {
        match shows {
            Shows::Exit(code) => self.status.code() == Some(*code),
            // A command that failed has shown nothing of the cluster.
            Shows::Text(text) => self.status.success() && self.output.contains(text),
            Shows::Something => self.status.success() && !self.output.is_empty(),
            Shows::Nothing => self.status.success() && self.output.is_empty(),
        }
    }

    fn told(&self) -> String {
        format!("{}\n{}\n{}", self.status, self.output, self.errors)
    }
}

/// Runs a command whose progress is seen as it makes it; on stdout stand the plan and its report alone.
fn shown(line: &Line, folder: &Path) -> Result<ExitStatus> {
    command(line, folder)
        .stdout(io::stderr())
        .status()
        .with_context(|| cannot(line))
}

fn command(line: &Line, folder: &Path) -> Command {
    // The cargo that runs us, not another on the path.
    let program = match line.program() {
        "cargo" => env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        program => program.into(),
    };
    let mut command = Command::new(program);
    command
        .args(line.0.iter().skip(1))
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn cannot(line: &Line) -> String {
    format!("cannot start {}", line.program())
}

fn announced(line: &Line, remembered: &[(&'static str, String)]) -> Line {
    let line = line.with(remembered);
    say(&format!("$ {line}"));
    line
}

fn say(text: &str) {
    println!("{text}");
}
