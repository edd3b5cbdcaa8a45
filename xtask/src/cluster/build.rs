// SPDX-License-Identifier: Apache-2.0
//! Builds the programs with Go, and copies the charts out of its module cache.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::debian;
use super::parts::{self, Parts, Program, VERSION};
use super::store::{Store, clear};

/// Where Kubernetes' programs keep the version that they tell.
const STAMPED: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// Brings every part here that is not, and says how long it took.
pub(super) fn run(parts: &Parts, store: &Store) -> Result<()> {
    let missing = store.missing(parts);
    if missing.is_empty() {
        println!("all is there, in {}", store.folder().display());
        return Ok(());
    }
    let _lock = store.lock()?;
    let took = |name: &str, begun: Instant| -> Result<()> {
        store.note(name, begun.elapsed())?;
        println!("{name}: {}", seconds(begun.elapsed()));
        Ok(())
    };
    let all = Instant::now();
    // The quick ones first: who lacks apt should not learn it after half an hour.
    for part in parts.debian.iter().filter(|part| !store.has_debian(part)) {
        let begun = Instant::now();
        debian::unpack(part, &store.debian())?;
        ensure!(
            store.has_debian(part),
            "the packages {} have no {:?} here",
            part.packages.join(", "),
            part.programs
        );
        debian::show(&part.programs, &store.debian(), &store.bin())?;
        took(&part.packages.join(" "), begun)?;
    }
    let missing: Vec<&Program> = parts
        .programs
        .iter()
        .filter(|program| !store.has(program))
        .collect();
    if !missing.is_empty() || !store.has_charts() {
        check_go()?;
    }
    if !store.has_charts() {
        let begun = Instant::now();
        copy_charts(parts, &store.charts())?;
        took("Istio's charts", begun)?;
    }
    for program in missing {
        let begun = Instant::now();
        println!("building {}", program.name);
        go_build(program, &parts.place(program)?, &store.bin())?;
        took(&program.name, begun)?;
    }
    println!(
        "all in {}, in {}",
        seconds(all.elapsed()),
        store.folder().display()
    );
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn check_go() -> Result<()> {
    match Command::new("go").arg("version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!(
            "`go version` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "building a real cluster's programs needs Go 1.26 or later, and there is no `go` on the PATH: \
             https://go.dev/doc/install"
        ),
        Err(error) => Err(error).context("cannot run go"),
    }
}

/// Go in one of the modules, untouched by what the user has set for work of their own.
fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0");
    command
}

fn go_build(program: &Program, place: &Path, bin: &Path) -> Result<()> {
    // Under another name until it is whole: a build may be interrupted.
    let partial = bin.join(format!(".{}", program.name));
    let mut flags = "-s -w".to_owned();
    if let Some(module) = &program.stamp {
        flags.push_str(&stamps(&version(place, module)?)?);
    }
    let status = go(place)
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(&partial)
        .arg(&program.package)
        .status()
        .context("cannot run go")?;
    ensure!(status.success(), "{} does not build ({status})", program.package);
    let path = bin.join(&program.name);
    fs::rename(&partial, &path).with_context(|| format!("cannot make {}", path.display()))
}

/// The linker's flags by which a program of Kubernetes tells a version.
fn stamps(version: &str) -> Result<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("{version:?} is no version");
    };
    let flags = STAMPED.map(|package| {
        format!(
            " -X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
             -X {package}.gitTreeState=clean"
        )
    });
    Ok(flags.concat())
}

/// What go.mod says of a module.
fn version(module: &Path, of: &str) -> Result<String> {
    ask(module, "{{.Version}}", of)
}

fn ask(module: &Path, format: &str, of: &str) -> Result<String> {
    let output = go(module)
        .args(["list", "-m", "-f", format, of])
        .output()
        .context("cannot run go")?;
    ensure!(
        output.status.success(),
        "go knows nothing of {of}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Copies Istio's charts, and gives them its version as a release of Istio does.
fn copy_charts(parts: &Parts, target: &Path) -> Result<()> {
    let charts = &parts.charts;
    let source = match &parts.istio {
        Some(source) => source.clone(),
        None => {
            let module = parts::folder()?.join(&charts.module);
            let status = go(&module)
                .args(["mod", "download", &charts.of])
                .status()
                .context("cannot run go")?;
            ensure!(status.success(), "{} cannot be downloaded", charts.of);
            PathBuf::from(ask(&module, "{{.Dir}}", &charts.of)?)
        }
    };
    let file = source.join(VERSION);
    let version = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let partial = target.with_extension("partial");
    clear(&partial)?;
    copy(&source.join(&charts.folder), &partial)?;
    release(&partial, &semantic(version.trim()))?;
    fs::rename(&partial, target).with_context(|| format!("cannot make {}", target.display()))
}

/// A version with all its numbers: between releases Istio's file has two of them.
fn semantic(version: &str) -> String {
    if version.split('.').count() < 3 {
        format!("{version}.0")
    } else {
        version.to_owned()
    }
}

/// In Istio's source every chart is of a version that is never shipped.
const UNRELEASED: &str = "1.0.0";

fn release(folder: &Path, version: &str) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            release(&path, version)?;
        } else if entry.file_name() == "Chart.yaml" {
            let chart =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let released = ["version", "appVersion"].iter().fold(chart, |chart, key| {
                chart.replace(
                    &format!("\n{key}: {UNRELEASED}\n"),
                    &format!("\n{key}: {version}\n"),
                )
            });
            fs::write(&path, released).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Copies a folder; what is in Go's cache is read-only, and the copy is not.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            let bytes =
                fs::read(entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
            fs::write(&target, bytes).with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_of_the_version_of_their_istio() {
        let charts = tempfile::tempdir().unwrap();
        let chart = charts.path().join("ztunnel/Chart.yaml");
        fs::create_dir(chart.parent().unwrap()).unwrap();
        fs::write(&chart, "name: ztunnel\nversion: 1.0.0\nappVersion: 1.0.0\n").unwrap();
        release(charts.path(), &semantic("1.30")).unwrap();
        assert_eq!(
            fs::read_to_string(&chart).unwrap(),
            "name: ztunnel\nversion: 1.30.0\nappVersion: 1.30.0\n"
        );
        assert_eq!(semantic("1.30.3"), "1.30.3");
    }

    #[test]
    fn a_program_tells_the_version_of_its_module() {
        let flags = stamps("v1.34.4").unwrap();
        assert!(
            flags.contains(" -X k8s.io/component-base/version.gitVersion=v1.34.4 "),
            "{flags}"
        );
        assert!(
            flags.contains(" -X k8s.io/client-go/pkg/version.gitMinor=34 "),
            "{flags}"
        );
        assert!(stamps("master").is_err());
    }
}
