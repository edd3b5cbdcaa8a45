// SPDX-License-Identifier: Apache-2.0
//! A room of its own for a program: the machine's files with others laid over them, and nothing of the machine's
//! changed. What the program writes goes with the room, but for the folders that it shares.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result};
use crate::helper;
use crate::process::binary;
use crate::sys;

/// What the kernel shows of itself: seen in a room as everywhere.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Where the machine's root is in the room while it is made.
const OUTSIDE: &str = "/.outside";

/// What is different for the program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Room {
    /// An empty folder, which the room builds on.
    pub scratch: PathBuf,
    /// Folders laid over the machine's root, the first on top. They stay as they are.
    pub over: Vec<PathBuf>,
    /// Folders and files of the machine's, and where they are in the room. What is written there, stays.
    pub shared: Vec<(PathBuf, PathBuf)>,
    /// The network namespace to be in, where it is another.
    pub netns: Option<PathBuf>,
}

impl Room {
    /// A command for a program in this room; it becomes the program.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let room = serde_json::to_string(self).map_err(io::Error::other);
        let mut command = Command::new(binary()?);
        command.arg("room");
        command.arg(room.context(|| "describing a room".to_owned())?);
        command.arg(program);
        Ok(command)
    }

    /// Takes the calling process, of one thread, into the room.
    pub(crate) fn enter(&self) -> io::Result<()> {
        if let Some(netns) = &self.netns {
            let netns = fs::File::open(netns).map_err(|e| explain(e, "opening", netns))?;
            helper::enter(&netns)?;
        }
        sys::new_mount_namespace().map_err(|e| explain(e, "leaving the mounts of", Path::new("/")))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)
            .map_err(|e| explain(e.into(), "changing", Path::new("/")))?;
        let shared = self.shared_from()?;
        let root = self.lay_over()?;
        // The old root goes inside the new one. Links in paths then lead to where they lead for the program.
        let outside = root.join(OUTSIDE.trim_start_matches('/'));
        fs::create_dir(&outside)?;
        rustix::process::pivot_root(&root, &outside)?;
        std::env::set_current_dir("/")?;
        for (outside, inside) in &shared {
            share(outside, inside).map_err(|e| explain(e, "sharing", inside))?;
        }
        rustix::mount::unmount(OUTSIDE, UnmountFlags::DETACH)?;
        fs::remove_dir(OUTSIDE)
    }

    /// What is shared, as it is called once the old root is inside the new one.
    fn shared_from(&self) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let kernel = KERNEL.map(|path| (PathBuf::from(path), PathBuf::from(path)));
        let from = |(outside, inside): &(PathBuf, PathBuf)| {
            let outside = fs::canonicalize(outside).map_err(|e| explain(e, "looking for", outside))?;
            let outside = Path::new(OUTSIDE).join(outside.strip_prefix("/").unwrap_or(&outside));
            Ok((outside, inside.clone()))
        };
        kernel.iter().chain(&self.shared).map(from).collect()
    }

    /// The machine's root with the other folders over it, and what is written on top of all.
    ///
    /// Each folder of the root is laid over by itself: the kernel does not take a folder for a layer over one in which
    /// it lies, and everything lies in the root.
    fn lay_over(&self) -> io::Result<PathBuf> {
        rustix::mount::mount("room", &self.scratch, "tmpfs", MountFlags::empty(), None)?;
        let root = self.scratch.join("root");
        fs::create_dir(&root)?;
        // Only what is mounted can become the root.
        rustix::mount::mount_bind(&root, &root)?;
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            let (kind, inside) = (entry.file_type()?, root.join(entry.file_name()));
            if kind.is_symlink() {
                symlink(fs::read_link(entry.path())?, inside)?;
            } else if kind.is_dir() {
                fs::create_dir(&inside)?;
                if !KERNEL.iter().any(|kernel| entry.path() == Path::new(kernel)) {
                    self.lay_over_one(&entry.file_name(), &inside)?;
                }
            }
        }
        Ok(root)
    }

    /// One folder of the root.
    fn lay_over_one(&self, name: &OsStr, inside: &Path) -> io::Result<()> {
        let [written, work] = ["written", "work"].map(|kind| self.scratch.join(kind).join(name));
        fs::create_dir_all(&written)?;
        fs::create_dir_all(&work)?;
        let over = self.over.iter().map(|over| over.join(name));
        let layers: Vec<PathBuf> = over
            .filter(|folder| folder.is_dir() && !folder.is_symlink())
            .chain([Path::new("/").join(name)])
            .collect();
        let layers: Vec<&[u8]> = layers.iter().map(|layer| layer.as_os_str().as_bytes()).collect();
        if let Some(odd) = layers
            .iter()
            .find(|layer| layer.contains(&b':') || layer.contains(&b','))
        {
            let odd = OsStr::from_bytes(odd);
            return Err(io::Error::other(format!("{odd:?} has a colon or a comma")));
        }
        let options = [
            b"lowerdir=".as_slice(),
            &layers.join(&b':'),
            b",upperdir=",
            written.as_os_str().as_bytes(),
            b",workdir=",
            work.as_os_str().as_bytes(),
        ];
        let options = CString::new(options.concat())?;
        let flags = MountFlags::empty();
        rustix::mount::mount("room", inside, "overlay", flags, Some(options.as_c_str()))
            .map_err(|error| explain(error.into(), "laying over", inside))
    }
}

/// Shows a folder or a file at a second place, which is made if it is not there.
fn share(outside: &Path, target: &Path) -> io::Result<()> {
    if fs::metadata(outside)?.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::create_dir_all(target.parent().unwrap_or(target))?;
        fs::File::create(target)?;
    }
    Ok(rustix::mount::mount_bind_recursive(outside, target)?)
}

fn explain(error: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
