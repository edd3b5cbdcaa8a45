// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask release`: everything that users get, in one folder, with what proves each file.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod changelog;
mod chart;
mod folder;
mod krew;
mod provenance;
mod seal;
mod spdx;
mod targets;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::crates::{self, Crates};
use crate::ebpf::{self, target_dir};
use crate::image::{self, Commit, IMAGE, Image, Wanted, commit, sbom};
use crate::licences;
use crate::pack::{self, Root};
use crate::workspace::workspace_root;
use folder::Folder;
use targets::{Target, of_machine};

/// The version of all that is released.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
/// What goes into every archive beside the program.
const BESIDE: [&str; 2] = ["LICENSE", "CHANGELOG.md"];

/// What goes into a release, and where it goes.
#[derive(Args)]
pub(crate) struct ReleaseArgs {
    /// Sign with a key that is made for this once and thrown away, and take what this machine can build for the whole
    #[arg(long)]
    dry_run: bool,
    /// Where to write everything; what is there is replaced [default: dist in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Programs that were built before, named after their targets: meshmedic-aarch64-unknown-linux-musl
    #[arg(long, value_name = "FOLDER", required_unless_present = "dry_run")]
    programs: Option<PathBuf>,
    /// The tag that is to be released; it must be the version's
    #[arg(long, required_unless_present = "dry_run")]
    tag: Option<String>,
    /// Build in this profile of Cargo.toml
    #[arg(long, default_value = "release", conflicts_with = "programs")]
    profile: String,
    /// The certificates of authorities to put into the images [default: this machine's]
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
}

pub(crate) fn run(args: &ReleaseArgs) -> Result<()> {
    println!("{}", make(args)?);
    Ok(())
}

/// A program that is released.
struct Program {
    target: &'static Target,
    file: PathBuf,
}

/// Makes the folder; returns what is to be told last, which in a dry run are the commands that verify it.
fn make(args: &ReleaseArgs) -> Result<String> {
    let workspace = workspace_root()?;
    if let Some(tag) = &args.tag {
        ensure!(
            tag == &format!("v{VERSION}"),
            "the tag {tag} is not v{VERSION}, the version in Cargo.toml: change one of them"
        );
    }
    let changes = changelog::read(workspace, args.dry_run)?;
    let programs = programs(workspace, args)?;
    let path = match &args.out {
        Some(out) => out.clone(),
        None => target_dir(workspace).join("dist"),
    };
    let mut folder = Folder::make(&path)?;
    let commit = commit(workspace)?;

    let mut archives = Vec::new();
    let mut images = Vec::new();
    for program in &programs {
        let made = archive(workspace, program, &commit, &mut folder)?;
        archives.push(krew::Platform {
            target: program.target,
            digest: folder.digest(&made)?.to_owned(),
            archive: made,
        });
        if program.target.has_image {
            images.push(add_image(workspace, program, args, &mut folder)?);
        }
    }
    folder.add("meshmedic.yaml", krew::manifest(&archives)?.into_bytes())?;
    let index = image::together(&images, commit.time)?;
    let file = format!("meshmedic-{VERSION}-image.tar");
    folder.add_blob(&file, &index)?;
    let deployed = folder::Deployed {
        image: format!("{IMAGE}:{VERSION}@{}", index.digest),
        digest: index.digest.clone(),
    };
    folder.add(
        "meshmedic-daemonset.yaml",
        deployed.in_manifest(&workspace.join("deploy/meshmedic-daemonset.yaml"))?,
    )?;
    let chart = chart::pack(workspace, &deployed, &changes, &commit)?;
    folder.add(&format!("meshmedic-chart-{VERSION}.tgz"), chart.tgz)?;
    folder.add_blob(&format!("meshmedic-chart-{VERSION}.oci.tar"), &chart.layout)?;
    let object = ebpf::committed()?;
    folder.add("meshmedic.bpf.o", object)?;
    folder.add("notes.md", notes(&changes, &folder, &deployed)?.into_bytes())?;

    if args.dry_run {
        let statement = provenance::statement(workspace, &folder, &commit)?;
        let told = seal::seal(&mut folder, &statement)?;
        return Ok(format!("{told}\nAll of it is in {}", path.display()));
    }
    folder.write_checksums()?;
    Ok(format!(
        "{} files in {}, not signed: the workflow does that",
        folder.len(),
        path.display()
    ))
}

/// The programs that were handed in, or what this machine builds, with a word on what it does not.
fn programs(workspace: &Path, args: &ReleaseArgs) -> Result<Vec<Program>> {
    let Some(given) = &args.programs else {
        let file = image::build(workspace, None, &args.profile)?;
        let target = of_machine(&file)?;
        for other in targets::released().filter(|other| other.name != target.name) {
            println!("not built here: {}, {}", other.name, other.built_where);
        }
        return Ok(vec![Program { target, file }]);
    };
    let mut programs = Vec::new();
    let entries = fs::read_dir(given).with_context(|| format!("cannot list {}", given.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", given.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = targets::of_file(&name).with_context(|| {
            format!(
                "{name} in {} is the program of no target that is known",
                given.display()
            )
        })?;
        programs.push(Program {
            target,
            file: entry.path(),
        });
    }
    programs.sort_by_key(|program| program.target.name);
    if !args.dry_run {
        for target in targets::released() {
            if !programs.iter().any(|program| program.target.name == target.name) {
                bail!("there is no program for {} in {}", target.name, given.display());
            }
        }
    }
    ensure!(!programs.is_empty(), "there is no program in {}", given.display());
    Ok(programs)
}

/// The archive of one program and the lists of what it is made of; returns the archive's name.
fn archive(workspace: &Path, program: &Program, commit: &Commit, folder: &mut Folder) -> Result<String> {
    let target = program.target;
    let bytes = fs::read(&program.file).with_context(|| format!("cannot read {}", program.file.display()))?;
    let crates = Crates::of(workspace, crates::PROGRAM, target.name)?;
    let mut root = Root::default();
    root.program(target.program(), bytes);
    let list = sbom::write(&sbom::Contents {
        crates: &crates,
        created: pack::time(commit.time)?,
        program: target.program(),
        root: &root,
    })?;
    for name in BESIDE {
        let file = workspace.join(name);
        root.file(
            name,
            fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
        );
    }
    for (name, text) in licences::of(workspace, &crates)? {
        root.file(&name, text);
    }
    for (name, text) in target.licences()? {
        root.file(&name, text);
    }
    let base = format!("meshmedic-{VERSION}-{}", target.name);
    let name = format!("{base}.tar.gz");
    folder.add(&name, root.pack(commit.time)?.gzip)?;
    add_lists(&base, list, folder)?;
    Ok(name)
}

/// The image of one program, as an archive that runtimes load.
fn add_image(workspace: &Path, program: &Program, args: &ReleaseArgs, folder: &mut Folder) -> Result<Image> {
    let mut texts = program.target.licences_of_image()?;
    texts.push(licences::of_debian("ca-certificates")?);
    let made = image::make(
        workspace,
        &Wanted {
            program: &program.file,
            name: IMAGE,
            tag: VERSION,
            certificates: args.certificates.as_deref(),
            licences: texts,
        },
    )?;
    folder.add_blob(&format!("{}.tar", made.file), &made.image.archive)?;
    add_lists(&made.file, made.sbom, folder)?;
    Ok(made.image)
}

/// What something is made of, in both forms that are common.
fn add_lists(base: &str, cyclone: Vec<u8>, folder: &mut Folder) -> Result<()> {
    let spdx = spdx::from(&cyclone, base)?;
    folder.add(&format!("{base}.cdx.json"), cyclone)?;
    folder.add(&format!("{base}.spdx.json"), spdx)
}

/// What stands above the files on the release's page.
fn notes(changes: &changelog::Changes, folder: &Folder, deployed: &folder::Deployed) -> Result<String> {
    let object = folder.digest("meshmedic.bpf.o")?;
    Ok(format!(
        "{}\n## What is what\n\n- image: `{}`\n- kernel programs, as committed and as in every program: sha256 \
         `{object}`\n- how to verify all of it: {REPOSITORY}/blob/v{VERSION}/docs/verify.md\n",
        changes.text, deployed.image
    ))
}
