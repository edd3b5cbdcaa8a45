// SPDX-License-Identifier: Apache-2.0
//! The images of a node, made of programs that are on this machine. No registry is asked.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::super::store::Store;
use super::own;
use crate::image::{self, About, IMAGE, Wanted};
use crate::pack::Root;
use crate::workspace::{strip, workspace_root};

/// Whose images these are; a name that no registry has.
const NAME: &str = "meshmedic.local";
const TAG: &str = "node";
const BUSYBOX: &str = "/bin/busybox";
const PATH: &str = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Writes all images into a folder and returns their files.
pub(super) fn make(store: &Store, folder: &Path) -> Result<Vec<String>> {
    let busybox = read(&store.debian().join("bin/busybox"))?;
    let mut pause = Root::default();
    pause.program(BUSYBOX, busybox.clone());
    // A sandbox has nothing to do but to be there.
    let forever = ["sleep", "2147483647"];
    let mut files = vec![write(
        folder,
        "pause",
        &pause,
        &[&[BUSYBOX], &forever[..]].concat(),
    )?];

    let mut shell = Root::default();
    for name in [BUSYBOX, "/bin/sh", "/bin/sleep"] {
        shell.program(name, busybox.clone());
    }
    files.push(write(folder, "busybox", &shell, &[BUSYBOX])?);

    let program = folder.join("meshmedic");
    strip(&own("meshmedic")?, &program)?;
    let agent = image::make(
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
    save(&folder.join(&file), &agent.image.archive.bytes)?;
    files.push(file);
    Ok(files)
}

/// Packs an image of others' programs.
fn write(folder: &Path, name: &str, root: &Root, entrypoint: &[&str]) -> Result<String> {
    let about = About {
        name: format!("{NAME}/{name}"),
        tag: TAG.to_owned(),
        architecture: image::architecture()?.to_owned(),
        entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
        user: String::new(),
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
