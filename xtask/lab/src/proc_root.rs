// SPDX-License-Identifier: Apache-2.0
//! The `/proc` root that a lab offers to whoever observes it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Result};

/// What a composed process shows of the real one; `cgroup` is written.
const REAL: [&str; 12] = [
    "cmdline", "comm", "environ", "exe", "fd", "fdinfo", "mounts", "net", "ns", "stat", "status", "task",
];
/// What a composed root shows of the real one, besides processes.
const NODE: [&str; 7] = ["meminfo", "mounts", "self", "stat", "sys", "uptime", "version"];

pub(crate) enum ProcRoot {
    /// The kernel's, with every process of the machine.
    Real,
    /// A folder of links to the lab's processes, and to the node's first one.
    Own(PathBuf),
    /// A folder of folders, each with the real files of a process of the lab and a written `cgroup`.
    Composed(PathBuf),
}

impl ProcRoot {
    pub(crate) fn own(folder: PathBuf) -> Result<Self> {
        begin(&folder)?;
        link(Path::new("/proc/1"), &folder.join("1"))?;
        Ok(Self::Own(folder))
    }

    pub(crate) fn composed(folder: PathBuf) -> Result<Self> {
        begin(&folder)?;
        let root = Self::Composed(folder);
        // The node's first process is the lab's own: the host's namespace is the one that the lab is in.
        root.compose("1", std::process::id(), "/init.scope")?;
        Ok(root)
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Real => Path::new("/proc"),
            Self::Own(folder) | Self::Composed(folder) => folder,
        }
    }

    /// Shows a process.
    pub(crate) fn add(&self, pid: u32, cgroup: &str) -> Result<()> {
        match self {
            Self::Real => Ok(()),
            Self::Own(folder) => link(
                &Path::new("/proc").join(pid.to_string()),
                &folder.join(pid.to_string()),
            ),
            Self::Composed(_) => self.compose(&pid.to_string(), pid, cgroup),
        }
    }

    /// Shows it no more.
    pub(crate) fn remove(&self, pid: u32) {
        let gone = match self {
            Self::Real => Ok(()),
            Self::Own(folder) => fs::remove_file(folder.join(pid.to_string())),
            Self::Composed(folder) => fs::remove_dir_all(folder.join(pid.to_string())),
        };
        // It may have been gone before, with the whole folder.
        let _ = gone;
    }

    fn compose(&self, name: &str, pid: u32, cgroup: &str) -> Result<()> {
        // Whoever lists the root must never find a process whose files are not there yet.
        let hidden = self.path().join(format!(".{name}"));
        let shown = self.path().join(name);
        fs::create_dir(&hidden).context(|| format!("making {}", hidden.display()))?;
        let real = PathBuf::from(format!("/proc/{pid}"));
        for file in REAL {
            link(&real.join(file), &hidden.join(file))?;
        }
        let file = hidden.join("cgroup");
        fs::write(&file, format!("0::{cgroup}\n")).context(|| format!("writing {}", file.display()))?;
        fs::rename(&hidden, &shown).context(|| format!("making {}", shown.display()))
    }
}

fn begin(folder: &Path) -> Result<()> {
    fs::create_dir(folder).context(|| format!("making {}", folder.display()))?;
    NODE.iter()
        .try_for_each(|file| link(&Path::new("/proc").join(file), &folder.join(file)))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    symlink(to, at).context(|| format!("making the link {}", at.display()))
}
