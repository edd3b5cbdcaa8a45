// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image`: the container image as an archive, made without Docker from the program and little else.

#![expect(clippy::print_stdout, reason = "a task tells on stdout what it does")]

mod archive;
mod build;
mod elf;
pub(crate) mod sbom;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::crates::{self, Crates};
use crate::ebpf::{output, target_dir};
use crate::licences;
use crate::pack::oci::Archive;
use crate::pack::{self, Root};
use crate::workspace::workspace_root;
use archive::Told;
pub(crate) use archive::{About, Image, image};
use elf::{Machine, Needs};

/// As the manifests in `deploy` name it.
pub(crate) const IMAGE: &str = "ghcr.io/meshmedic/meshmedic";
/// The program in the image, which is also what it runs.
const PROGRAM: &str = "/usr/bin/meshmedic";
/// Nobody in particular, as in other images without a user of their own. The DaemonSet asks for root by itself.
const USER: &str = "65532:65532";
/// Where an image has the texts of licences.
const LICENCES: &str = "/usr/share/doc/meshmedic";
/// Where programs look for the certificates of authorities, among other places.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where systems keep them: Debian and Alpine, Fedora, SUSE, others.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    CERTIFICATES,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The archive may be no bigger: every node of a cluster fetches it.
const MOST_BYTES: usize = 20 << 20;

/// What goes into the image, and where the archive goes.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// Where to write the archive and the list of its contents [default: image in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The image's name
    #[arg(long, default_value = IMAGE)]
    name: String,
    /// The image's tag
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Build for this target of Rust's [default: the static one of this machine, where it is installed]
    #[arg(long)]
    target: Option<String>,
    /// Build in this profile of Cargo.toml: quick takes less time and makes a bigger image
    #[arg(long, default_value = "release")]
    profile: String,
    /// Take this program and build none; it should be stripped
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "profile"])]
    binary: Option<PathBuf>,
    /// The certificates of authorities to put in [default: this machine's]
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
}

pub(crate) fn run(args: &ImageArgs) -> Result<()> {
    let workspace = workspace_root()?;
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => build(workspace, args.target.as_deref(), &args.profile)?,
    };
    let made = make(
        workspace,
        &Wanted {
            program: &binary,
            name: &args.name,
            tag: &args.tag,
            certificates: args.certificates.as_deref(),
            licences: Vec::new(),
        },
    )?;

    let folder = args
        .out
        .clone()
        .unwrap_or_else(|| target_dir(workspace).join("image"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let image = folder.join(format!("{}.tar", made.file));
    let list = folder.join(format!("{}.cdx.json", made.file));
    fs::write(&image, &made.image.archive.bytes)
        .with_context(|| format!("cannot write {}", image.display()))?;
    fs::write(&list, made.sbom).with_context(|| format!("cannot write {}", list.display()))?;
    println!(
        "{}\nimage:    {}:{}\ndigest:   {}\narchive:  {} ({:.1} MiB)\ncontents: {}\n\nLoad it with one of:\n  \
         kind load image-archive {path}\n  ctr --namespace k8s.io images import {path}\n  docker load --input {path}",
        made.listing,
        args.name,
        args.tag,
        made.image.archive.digest,
        image.display(),
        mib(made.image.archive.bytes.len()),
        list.display(),
        path = image.display(),
    );
    Ok(())
}

/// What an image is made of, and what it is called.
pub(crate) struct Wanted<'a> {
    pub(crate) program: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) tag: &'a str,
    pub(crate) certificates: Option<&'a Path>,
    /// Texts by their names, beside those of the program itself.
    pub(crate) licences: Vec<(String, Vec<u8>)>,
}

/// An image and the list of its contents.
pub(crate) struct Made {
    pub(crate) image: Image,
    pub(crate) sbom: Vec<u8>,
    /// What to call its files, without their endings.
    pub(crate) file: String,
    /// How long each file in it is.
    pub(crate) listing: String,
}

pub(crate) fn make(workspace: &Path, wanted: &Wanted<'_>) -> Result<Made> {
    let bytes =
        fs::read(wanted.program).with_context(|| format!("cannot read {}", wanted.program.display()))?;
    let needs = Needs::read(wanted.program, &bytes)?;
    let crates = Crates::of(workspace, crates::PROGRAM, &needs.target())?;
    let mut root = root(bytes, &needs, wanted.certificates)?;
    let texts = licences::of(workspace, &crates)?;
    for (name, text) in texts.into_iter().chain(wanted.licences.iter().cloned()) {
        root.file(&format!("{LICENCES}/{name}"), text);
    }
    let about = about(wanted, workspace, &needs)?;
    let image = image(root.pack(about.created)?, &about)?;
    check_size(&image.archive, MOST_BYTES)?;
    let listing = root
        .files()
        .map(|(path, contents)| format!("{:>10}  /{path}\n", contents.len()))
        .collect();
    let sbom = sbom::write(&sbom::Contents {
        crates: &crates,
        created: pack::time(about.created)?,
        program: PROGRAM,
        root: &root,
    })?;
    Ok(Made {
        image,
        sbom,
        listing,
        file: format!(
            "meshmedic-{}-linux-{}",
            env!("CARGO_PKG_VERSION"),
            needs.machine.image()
        ),
    })
}

/// Images for several processors under the one name by which manifests know them.
pub(crate) fn together(images: &[Image], time: u64) -> Result<Archive> {
    archive::together(images, IMAGE, env!("CARGO_PKG_VERSION"), time)
}

/// Adds a program or a library to an image, with all that it needs from these systems.
pub(crate) fn add_with_libraries(root: &mut Root, path: &str, file: &Path, sysroots: &[&Path]) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    for (path, contents) in Needs::read(file, &bytes)?.closure(sysroots)? {
        root.program(&path, contents);
    }
    root.program(path, bytes);
    Ok(())
}

/// This machine's processor, as images call it.
pub(crate) fn architecture() -> Result<&'static str> {
    let own = Machine::own();
    Ok(own
        .with_context(|| format!("there are no images for {}", env::consts::ARCH))?
        .image())
}

/// The target of Rust's that a program was built for.
pub(crate) fn target(path: &Path, bytes: &[u8]) -> Result<String> {
    Ok(Needs::read(path, bytes)?.target())
}

/// Builds the program, and says whether it will be static.
pub(crate) fn build(workspace: &Path, target: Option<&str>, profile: &str) -> Result<PathBuf> {
    let target = match target {
        Some(target) => target.to_owned(),
        None => {
            let choice = build::choose();
            if let Some(why) = choice.why_not_static {
                println!("not static, so with the libraries that it needs: {why}");
            }
            choice.target
        }
    };
    println!("building for {target}, profile {profile}");
    build::build(workspace, &target, profile)
}

/// The whole contents of the image.
fn root(binary: Vec<u8>, needs: &Needs, certificates: Option<&Path>) -> Result<Root> {
    let mut root = Root::default();
    root.program(PROGRAM, binary);
    if needs.is_static() {
        println!("the program is static");
    }
    for (path, contents) in needs.closure(&[Path::new("/")])? {
        // The loader is started as a program, and other libraries do not mind.
        root.program(&path, contents);
    }
    // Some runtimes want to look a user up, and there is none.
    root.file("/etc/passwd", Vec::new());
    root.file("/etc/group", Vec::new());
    match self::certificates(certificates)? {
        Some(bundle) => root.file(CERTIFICATES, bundle),
        None => println!(
            "without certificates of authorities: in a cluster they come with the ServiceAccount, and only a \
             kubeconfig that names none needs them (--certificates FILE)"
        ),
    }
    Ok(root)
}

fn certificates(file: Option<&Path>) -> Result<Option<Vec<u8>>> {
    if let Some(file) = file {
        let bundle = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(Some(bundle));
    }
    Ok(SYSTEM_CERTIFICATES.iter().find_map(|file| fs::read(file).ok()))
}

fn about(wanted: &Wanted<'_>, workspace: &Path, needs: &Needs) -> Result<About> {
    let Commit { time, revision } = commit(workspace)?;
    let told = Told {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created: time,
        revision,
        repository: env!("CARGO_PKG_REPOSITORY").to_owned(),
        licence: env!("CARGO_PKG_LICENSE").to_owned(),
    };
    Ok(About {
        name: wanted.name.to_owned(),
        tag: wanted.tag.to_owned(),
        architecture: needs.machine.image().to_owned(),
        entrypoint: vec![PROGRAM.to_owned()],
        user: USER.to_owned(),
        path: "/usr/bin".to_owned(),
        created: time,
        labels: told.labels()?,
    })
}

/// Of what sources a build is.
pub(crate) struct Commit {
    /// Seconds since 1970, for everything that is made.
    pub(crate) time: u64,
    /// Where it is known; what was changed since is told in it.
    pub(crate) revision: Option<String>,
}

pub(crate) fn commit(workspace: &Path) -> Result<Commit> {
    let git = |words: &[&str]| {
        let mut command = std::process::Command::new("git");
        output(command.current_dir(workspace).args(words))
    };
    let time = created(
        env::var("SOURCE_DATE_EPOCH").ok().as_deref(),
        git(&["log", "-1", "--format=%ct"]).as_deref(),
    )?;
    let changed = git(&["status", "--porcelain"]).is_some_and(|files| !files.is_empty());
    let revision = git(&["rev-parse", "HEAD"]).map(|commit| {
        if changed {
            format!("{commit}-dirty")
        } else {
            commit
        }
    });
    Ok(Commit { time, revision })
}

/// The time of the image: what the builder asks for, else the commit's. Without either all is as old as time.
fn created(asked: Option<&str>, commit: Option<&str>) -> Result<u64> {
    match asked {
        Some(seconds) => seconds
            .parse()
            .with_context(|| format!("SOURCE_DATE_EPOCH is {seconds:?} and not a number of seconds")),
        None => Ok(commit.and_then(|seconds| seconds.parse().ok()).unwrap_or(0)),
    }
}

fn check_size(archive: &Archive, most: usize) -> Result<()> {
    let size = archive.bytes.len();
    if size > most {
        bail!(
            "the archive has {:.1} MiB, and {:.0} are the most. Was it stripped, and built with --profile release?",
            mib(size),
            mib(most)
        );
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
