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
    let busybox = read(&store.debian().join("bin/busybox"))?;
    let mut pause = Root::default();
    pause.program(BUSYBOX, busybox.clone());
    // A sandbox has nothing to do but to be there.
    let forever = [BUSYBOX, "sleep", "2147483647"];
    let mut shell = Root::default();
    for name in [BUSYBOX, "/bin/sh", "/bin/sleep"] {
        shell.program(name, busybox.clone());
    }
    Ok(vec![
        write(folder, "pause", &pause, &forever, "")?,
        write(folder, "busybox", &shell, &[BUSYBOX], "")?,
    ])
}

/// Writes istiod, istio-cni and a ztunnel: a real one if it is given, else the lab's.
pub(super) fn of_istio(store: &Store, folder: &Path, ztunnel: Option<&Path>) -> Result<Vec<String>> {
    let debian = store.debian();
    let systems = [debian.as_path(), Path::new("/")];

    let mut pilot = Root::default();
    let discovery = "/usr/local/bin/pilot-discovery";
    pilot.program(discovery, read(&store.bin().join("pilot-discovery"))?);

    let mut cni = Root::default();
    let install = "/usr/local/bin/install-cni";
    cni.program(install, read(&store.bin().join("install-cni"))?);
    cni.program("/opt/cni/bin/istio-cni", read(&store.bin().join("istio-cni"))?);
    for (program, names) in RULES {
        let file = find(&systems, &format!("usr/sbin/{program}"))?;
        for name in names {
            image::add_with_libraries(&mut cni, &format!("/usr/sbin/{name}"), &file, &systems)?;
        }
    }
    let plugins = find(
        &systems,
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
            image::add_with_libraries(&mut cni, &inside, &file, &systems)?;
        }
    }

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
        write(folder, "pilot", &pilot, &[discovery], "1337:1337")?,
        write(folder, "install-cni", &cni, &[install], "")?,
        write(folder, "ztunnel", &proxy, &[program], "")?,
    ])
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
