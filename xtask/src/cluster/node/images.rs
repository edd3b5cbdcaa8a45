// SPDX-License-Identifier: Apache-2.0
//! The images of a node, made of programs that are on this machine. No registry is asked.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::super::store::Store;
use super::own;
use crate::image::{self, About, IMAGE, Wanted};
use crate::pack::Root;
use crate::workspace::{strip, workspace_root};

/// Whose images these are; a name that no registry has.
pub(super) const NAME: &str = "meshmedic.local";
pub(super) const TAG: &str = "node";
const BUSYBOX: &str = "/bin/busybox";
const PILOT: &str = "/usr/local/bin/pilot-discovery";
const INSTALL: &str = "/usr/local/bin/install-cni";
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin";

/// What istio-cni calls, by the program that each is a name of.
const RULES: [(&str, &[&str]); 4] = [
    (
        "xtables-nft-multi",
        &[
            "iptables",
            "iptables-restore",
            "iptables-save",
            "ip6tables",
            "ip6tables-restore",
            "ip6tables-save",
            "iptables-nft",
            "iptables-nft-restore",
            "iptables-nft-save",
            "ip6tables-nft",
            "ip6tables-nft-restore",
            "ip6tables-nft-save",
        ],
    ),
    (
        "xtables-legacy-multi",
        &[
            "iptables-legacy",
            "iptables-legacy-restore",
            "iptables-legacy-save",
            "ip6tables-legacy",
            "ip6tables-legacy-restore",
            "ip6tables-legacy-save",
        ],
    ),
    ("ipset", &["ipset"]),
    ("nft", &["nft"]),
];

/// Writes what every node has into a folder, and returns the files.
pub(super) fn of_kubernetes(store: &Store, folder: &Path) -> Result<Vec<String>> {
    let source = store.debian().join("bin/busybox");
    let busybox = read(&source)?;
    // A sandbox has nothing to do but to be there.
    let forever = [BUSYBOX, "sleep", "2147483647"];
    let pause = || {
        let mut pause = Root::default();
        pause.program(BUSYBOX, busybox.clone());
        Ok(pause)
    };
    let shell = || {
        let mut shell = Root::default();
        for name in [BUSYBOX, "/bin/cat", "/bin/sh", "/bin/sleep"] {
            shell.program(name, busybox.clone());
        }
        Ok(shell)
    };
    Ok(vec![
        once(store, folder, "pause", &[&source], (&forever, ""), pause)?,
        once(store, folder, "busybox", &[&source], (&[BUSYBOX], ""), shell)?,
    ])
}

/// Writes istiod, istio-cni and a ztunnel: a real one if it is given, else the lab's.
pub(super) fn of_istio(store: &Store, folder: &Path, ztunnel: Option<&Path>) -> Result<Vec<String>> {
    let debian = store.debian();
    let systems = [debian.as_path(), Path::new("/")];

    let programs = ["pilot-discovery", "install-cni", "istio-cni"].map(|name| store.bin().join(name));
    let [discovery, install, plugin] = programs.each_ref().map(PathBuf::as_path);
    let pilot = || {
        let mut pilot = Root::default();
        pilot.program(PILOT, read(discovery)?);
        Ok(pilot)
    };
    let cni = || {
        let mut cni = Root::default();
        cni.program(INSTALL, read(install)?);
        cni.program("/opt/cni/bin/istio-cni", read(plugin)?);
        add_rules(&mut cni, &systems)?;
        Ok(cni)
    };
    let mut proxy = Root::default();
    let program = "/usr/local/bin/ztunnel";
    let stripped = folder.join("ztunnel");
    match ztunnel {
        Some(real) => strip(real, &stripped)?,
        None => strip(&own("meshmedic-lab")?, &stripped)?,
    }
    image::add_with_libraries(&mut proxy, program, &stripped, &systems)?;
    Ok(vec![
        // Its Deployment wants somebody who is not root, and does not say whom.
        once(
            store,
            folder,
            "pilot",
            &[discovery],
            (&[PILOT], "1337:1337"),
            pilot,
        )?,
        once(
            store,
            folder,
            "install-cni",
            &[install, plugin],
            (&[INSTALL], ""),
            cni,
        )?,
        write(folder, "ztunnel", &proxy, &[program], "")?,
    ])
}

/// What istio-cni calls to write rules, with its plugins.
fn add_rules(cni: &mut Root, systems: &[&Path]) -> Result<()> {
    for (program, names) in RULES {
        let file = find(systems, &format!("usr/sbin/{program}"))?;
        for name in names {
            image::add_with_libraries(cni, &format!("/usr/sbin/{name}"), &file, systems)?;
        }
    }
    let plugins = find(
        systems,
        &format!("usr/lib/{}-linux-gnu/xtables", env::consts::ARCH),
    )?;
    let entries = fs::read_dir(&plugins).with_context(|| format!("cannot list {}", plugins.display()))?;
    for entry in entries {
        let file = entry
            .with_context(|| format!("cannot list {}", plugins.display()))?
            .path();
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".so") {
            let inside = format!("/usr/lib/{}-linux-gnu/xtables/{name}", env::consts::ARCH);
            image::add_with_libraries(cni, &inside, &file, systems)?;
        }
    }
    Ok(())
}

/// What decides how an image is packed, in the workspace.
const PACKERS: [&str; 6] = [
    "xtask/src/cluster/node/images.rs",
    "xtask/src/image.rs",
    "xtask/src/image/archive.rs",
    "xtask/src/image/elf.rs",
    "xtask/src/pack.rs",
    "xtask/src/pack/oci.rs",
];

/// Packs an image that is the same for every node, unless it was packed since its sources and what packs it changed.
fn once(
    store: &Store,
    folder: &Path,
    name: &str,
    sources: &[&Path],
    (entrypoint, user): (&[&str], &str),
    root: impl FnOnce() -> Result<Root>,
) -> Result<String> {
    let kept = store.images();
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let file = format!("{name}.tar");
    let workspace = workspace_root()?;
    let packers = PACKERS.map(|packer| workspace.join(packer));
    let made = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let packed = made(&kept.join(&file));
    let all = sources
        .iter()
        .copied()
        .chain(packers.iter().map(PathBuf::as_path));
    if packed.is_none() || all.map(made).any(|source| source >= packed) {
        // Under another name until it is whole: it may be interrupted.
        let partial = kept.join("partial");
        fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        write(&partial, name, &root()?, entrypoint, user)?;
        fs::rename(partial.join(&file), kept.join(&file))
            .with_context(|| format!("cannot make {file} in {}", kept.display()))?;
    }
    fs::copy(kept.join(&file), folder.join(&file))
        .with_context(|| format!("cannot copy {file} into {}", folder.display()))?;
    Ok(file)
}

/// Writes MeshMedic's own, as it is shipped but for the profile in which the program was built.
pub(super) fn of_meshmedic(folder: &Path) -> Result<Vec<String>> {
    let program = folder.join("meshmedic");
    strip(&own("meshmedic")?, &program)?;
    let made = image::make(
        workspace_root()?,
        &Wanted {
            program: &program,
            name: IMAGE,
            tag: env!("CARGO_PKG_VERSION"),
            certificates: None,
            licences: Vec::new(),
        },
    )?;
    let file = "meshmedic.tar".to_owned();
    save(&folder.join(&file), &made.image.archive.bytes)?;
    Ok(vec![file])
}

/// A file or folder of the first system that has it.
fn find(systems: &[&Path], path: &str) -> Result<PathBuf> {
    let mut places = systems.iter().map(|system| system.join(path));
    places
        .find(|place| place.exists())
        .with_context(|| format!("neither this machine nor what was built has {path}"))
}

/// Packs an image of others' programs.
fn write(folder: &Path, name: &str, root: &Root, entrypoint: &[&str], user: &str) -> Result<String> {
    let about = About {
        name: format!("{NAME}/{name}"),
        tag: TAG.to_owned(),
        architecture: image::architecture()?.to_owned(),
        entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
        user: user.to_owned(),
        path: PATH.to_owned(),
        created: 0,
        labels: HashMap::new(),
    };
    let image = image::image(root.pack(about.created)?, &about)?;
    let file = format!("{name}.tar");
    save(&folder.join(&file), &image.archive.bytes)?;
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
