// SPDX-License-Identifier: Apache-2.0
//! For whom the program is built.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::image;
use crate::licences;

/// A target of Rust's, and what others call it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: &'static str,
    /// As Go and so krew has it.
    pub(super) os: &'static str,
    pub(super) processor: &'static str,
    pub(super) has_image: bool,
    /// A release has it; the others are for machines that cannot build these.
    released: bool,
    /// Who builds it where this machine does not.
    pub(super) built_where: &'static str,
    libc: Libc,
}

/// Whose texts come with the C library.
#[derive(Debug)]
enum Libc {
    /// Linked into the program.
    Musl,
    /// In the image, beside the program.
    Glibc,
    /// The system's own.
    System,
}

const MUSL_TOO: &str = "which wants `rustup target add` and musl-tools, as the workflow has them";
const TARGETS: [Target; 7] = [
    linux("aarch64-unknown-linux-gnu", "arm64", Libc::Glibc),
    linux("aarch64-unknown-linux-musl", "arm64", Libc::Musl),
    linux("x86_64-unknown-linux-gnu", "amd64", Libc::Glibc),
    linux("x86_64-unknown-linux-musl", "amd64", Libc::Musl),
    workstation("aarch64-apple-darwin", "darwin", "arm64"),
    workstation("x86_64-apple-darwin", "darwin", "amd64"),
    workstation("x86_64-pc-windows-msvc", "windows", "amd64"),
];

const fn linux(name: &'static str, processor: &'static str, libc: Libc) -> Target {
    Target {
        name,
        os: "linux",
        processor,
        has_image: true,
        released: matches!(libc, Libc::Musl),
        built_where: MUSL_TOO,
        libc,
    }
}

const fn workstation(name: &'static str, os: &'static str, processor: &'static str) -> Target {
    Target {
        name,
        os,
        processor,
        has_image: false,
        released: true,
        built_where: "which the workflow builds on a machine of its own",
        libc: Libc::System,
    }
}

impl Target {
    /// The program's file in the archive.
    pub(super) fn program(&self) -> &'static str {
        if self.os == "windows" {
            "meshmedic.exe"
        } else {
            "meshmedic"
        }
    }

    /// Texts of what is linked into the program beside crates.
    pub(super) fn licences(&self) -> Result<Vec<(String, Vec<u8>)>> {
        match self.libc {
            Libc::Musl => Ok(vec![licences::of_debian("musl")?]),
            Libc::Glibc | Libc::System => Ok(Vec::new()),
        }
    }

    /// Texts of what is in the image beside crates.
    pub(super) fn licences_of_image(&self) -> Result<Vec<(String, Vec<u8>)>> {
        match self.libc {
            Libc::Musl => self.licences(),
            Libc::Glibc => ["libc6", "libgcc-s1"]
                .map(licences::of_debian)
                .into_iter()
                .collect(),
            Libc::System => Ok(Vec::new()),
        }
    }
}

/// What a release consists of.
pub(super) fn released() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().filter(|target| target.released)
}

/// The target by which a file is named.
pub(super) fn of_file(name: &str) -> Option<&'static Target> {
    let name = name.strip_prefix("meshmedic-")?;
    named(name.strip_suffix(".exe").unwrap_or(name))
}

/// The target of a program that was built here.
pub(super) fn of_machine(program: &Path) -> Result<&'static Target> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let name = image::target(program, &bytes)?;
    named(&name).with_context(|| format!("nothing is released for {name}"))
}

fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
