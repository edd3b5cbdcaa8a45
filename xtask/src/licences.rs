// SPDX-License-Identifier: Apache-2.0
//! The texts of the licences of all that a program is made of, from the sources of its parts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Package;

use crate::crates::Crates;
use crate::ebpf::output;

/// The crates' texts, and what the compiler brings of its own library.
const CRATES: &str = "LICENCES.txt";
const LIBRARY: &str = "LICENCES-rust.html";
/// The kernel programs are a part of the program, and linked from crates of their own.
const KERNEL_FOLDER: &str = "meshmedic-ebpf";
const KERNEL_PACKAGE: &str = "meshmedic-ebpf";
const KERNEL_TARGET: &str = "bpfel-unknown-none";
/// How the files begin in which crates keep the texts, in small letters.
const BEGINNINGS: [&str; 6] = [
    "licence",
    "license",
    "copying",
    "copyright",
    "notice",
    "unlicense",
];
/// The one licence in which no name of an author stands: everybody has the same text, also who forgot to pack it.
const SAME_FOR_ALL: &str = "Apache-2.0";

/// The texts for a program, by the names of their files. A text that is missing is an error.
pub(crate) fn of(workspace: &Path, crates: &Crates) -> Result<Vec<(String, Vec<u8>)>> {
    let apache = read(&workspace.join("LICENSE"))?;
    let kernel = Crates::of(&workspace.join(KERNEL_FOLDER), KERNEL_PACKAGE, KERNEL_TARGET)?;
    let mut texts = BTreeMap::new();
    for package in crates.packages().values().chain(kernel.packages().values()) {
        let name = format!(
            "{} {} ({})",
            package.name,
            package.version,
            licence(package).unwrap_or("no licence named")
        );
        for text in of_package(package, &apache)? {
            let names: &mut Vec<String> = texts.entry(text).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
        }
    }
    Ok(vec![
        (CRATES.to_owned(), joined(texts).into_bytes()),
        (LIBRARY.to_owned(), of_the_library()?),
    ])
}

fn licence(package: &Package) -> Option<&str> {
    package.license.as_deref()
}

/// One after the other, each below those to whom it applies.
fn joined(texts: BTreeMap<String, Vec<String>>) -> String {
    let mut parts: Vec<(Vec<String>, String)> = texts
        .into_iter()
        .map(|(text, mut names)| {
            names.sort();
            (names, text)
        })
        .collect();
    parts.sort();
    let mut all = "What the program is made of, and under which licences.\n".to_owned();
    for (names, text) in parts {
        let rule = "=".repeat(80);
        let _ = write!(
            all,
            "\n{rule}\n{}\n{rule}\n\n{}\n",
            names.join("\n"),
            text.trim_end()
        );
    }
    all
}

/// The texts that a crate brings. Crates that bring none are let through only where the text cannot differ.
fn of_package(package: &Package, apache: &str) -> Result<Vec<String>> {
    let folder = package
        .manifest_path
        .parent()
        .with_context(|| format!("{} lies nowhere", package.manifest_path))?;
    let mut texts = Vec::new();
    for file in files(folder.as_std_path())? {
        texts.push(read(&file)?);
    }
    if texts.is_empty() {
        let offers = |licence: &str| {
            let mut choices = licence.split(" OR ").flat_map(|part| part.split('/'));
            choices.any(|choice| choice.trim() == SAME_FOR_ALL)
        };
        if !licence(package).is_some_and(offers) {
            bail!(
                "{} {} brings no text of its licence ({}): take another version of it, or none",
                package.name,
                package.version,
                licence(package).unwrap_or("none is named")
            );
        }
        texts.push(apache.to_owned());
    }
    Ok(texts)
}

/// The files of a folder whose names say that they are licences.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if path.is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What stands beside the compiler about its library, which is linked into every program.
fn of_the_library() -> Result<Vec<u8>> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"])).context("cannot ask rustc")?;
    let path = Path::new(&sysroot).join("share/doc/rust/COPYRIGHT-library.html");
    fs::read(&path).with_context(|| {
        format!(
            "cannot read {}, the licences of Rust's own library, which rustup installs with the compiler",
            path.display()
        )
    })
}

/// What Debian and its kin say of a package whose files are in an image or in a program.
pub(crate) fn of_debian(package: &str) -> Result<(String, Vec<u8>)> {
    let path = Path::new("/usr/share/doc").join(package).join("copyright");
    let text = fs::read(&path).with_context(|| {
        format!(
            "cannot read {}, the licence of what a release has of {package}",
            path.display()
        )
    })?;
    Ok((format!("LICENCES-{package}.txt"), text))
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crates::PROGRAM;
    use crate::workspace::workspace_root;

    #[test]
    fn every_crate_of_the_program_and_of_the_kernel_programs_has_its_text() {
        let workspace = workspace_root().unwrap();
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let crates = Crates::of(workspace, PROGRAM, &target).unwrap();
        let texts = of(workspace, &crates).unwrap();
        assert_eq!(texts[1].0, LIBRARY);
        let text = String::from_utf8(texts[0].1.clone()).unwrap();
        for package in crates.packages().values() {
            let line = format!("\n{} {} (", package.name, package.version);
            assert!(text.contains(&line), "no {}", package.name);
        }
        for told in [
            "\naya-ebpf 0.",
            "Permission is hereby granted",
            "GNU LESSER GENERAL",
        ] {
            assert!(text.contains(told), "no {told}");
        }
    }

    #[test]
    fn a_crate_without_a_text_is_let_through_only_under_apache() {
        let workspace = workspace_root().unwrap();
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let crates = Crates::of(workspace, PROGRAM, &target).unwrap();
        let packages = crates.packages();
        let kube = packages.values().find(|package| *package.name == "kube").unwrap();
        // As it is packed, it has none.
        assert_eq!(of_package(kube, "the text").unwrap(), ["the text"]);
        for (licence, passes) in [
            (Some("MIT OR Apache-2.0"), true),
            (Some("MIT/Apache-2.0"), true),
            (Some("MIT"), false),
            (Some("MIT AND Apache-2.0"), false),
            (None, false),
        ] {
            let mut other = (*kube).clone();
            other.license = licence.map(str::to_owned);
            let texts = of_package(&other, "the text");
            assert_eq!(texts.is_ok(), passes, "{licence:?}");
            if let Err(error) = texts {
                assert!(error.to_string().contains("kube 5"), "{error}");
            }
        }
    }
}
