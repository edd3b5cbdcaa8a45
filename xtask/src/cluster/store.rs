// SPDX-License-Identifier: Apache-2.0
//! The folder of the user's cache in which the programs of one set of versions lie.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

use super::parts::{Debian, Parts, Program};

/// How long each part took to come here, in seconds.
const TIMES: &str = "times.json";

/// One set of versions.
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The folder of these parts, which need not be there yet.
    pub(super) fn open(parts: &Parts) -> Result<Self> {
        let cache = env::var_os("XDG_CACHE_HOME")
            .filter(|folder| !folder.is_empty())
            .map(PathBuf::from)
            .or_else(|| Some(env::home_dir()?.join(".cache")))
            .context("neither XDG_CACHE_HOME nor the home folder is known")?;
        Ok(Self {
            folder: cache.join("meshmedic/cluster").join(parts.digest()?),
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the programs are, those of Debian that are called by name among them.
    pub(crate) fn bin(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// Where Debian's packages are unpacked.
    pub(super) fn debian(&self) -> PathBuf {
        self.folder.join("debian")
    }

    pub(super) fn charts(&self) -> PathBuf {
        self.folder.join("charts")
    }

    /// Where images are kept that are the same for every node.
    pub(super) fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// Makes the folder and keeps others from building in it, until the file that is returned is closed.
    pub(super) fn lock(&self) -> Result<File> {
        for folder in [self.bin(), self.debian()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let path = self.folder.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    pub(super) fn has(&self, program: &Program) -> bool {
        self.bin().join(&program.name).is_file()
    }

    pub(super) fn has_debian(&self, part: &Debian) -> bool {
        part.programs
            .iter()
            .all(|program| is_there(&self.debian(), program))
    }

    pub(super) fn has_charts(&self) -> bool {
        self.charts().is_dir()
    }

    /// The names of what is not there.
    pub(super) fn missing(&self, parts: &Parts) -> Vec<String> {
        let programs = parts.programs.iter().filter(|program| !self.has(program));
        let mut missing: Vec<String> = programs.map(|program| program.name.clone()).collect();
        let debian = parts.debian.iter().filter(|part| !self.has_debian(part));
        missing.extend(debian.flat_map(|part| part.packages.clone()));
        if !self.has_charts() {
            missing.push("Istio's charts".to_owned());
        }
        missing
    }

    /// A line for each part: whether it is there, and how long that took.
    pub(super) fn list(&self, parts: &Parts) -> String {
        let times = self.times();
        let mut lines = vec![format!("{}:", self.folder.display())];
        let mut line = |name: &str, there: bool, needed_for: &str| {
            let state = match (there, times.get(name)) {
                (false, _) => "missing".to_owned(),
                (true, Some(seconds)) => format!("{seconds} s"),
                (true, None) => "there".to_owned(),
            };
            lines.push(format!("  {name:<42} {state:>8}  {needed_for}"));
        };
        for program in &parts.programs {
            line(&program.name, self.has(program), needed(program.needed_for));
        }
        for part in &parts.debian {
            line(
                &part.packages.join(" "),
                self.has_debian(part),
                needed(part.needed_for),
            );
        }
        line("Istio's charts", self.has_charts(), "tests");
        lines.join("\n")
    }

    fn times(&self) -> BTreeMap<String, u64> {
        // Only for the eye: a file that cannot be read is as good as none.
        fs::read(self.folder.join(TIMES))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Notes how long something took.
    pub(super) fn note(&self, name: &str, took: Duration) -> Result<()> {
        let mut times = self.times();
        times.insert(name.to_owned(), took.as_secs());
        let path = self.folder.join(TIMES);
        fs::write(&path, serde_json::to_vec_pretty(&times)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn needed(needed_for: super::Use) -> &'static str {
    match needed_for {
        super::Use::Tests => "tests",
        super::Use::Node => "node",
    }
}

/// Whether a file is there below a root, wherever its links lead: `/etc/alternatives` is nobody's here.
fn is_there(root: &Path, program: &Path) -> bool {
    let path = root.join(program.strip_prefix("/").unwrap_or(program));
    fs::symlink_metadata(path).is_ok_and(|file| !file.is_dir())
}

/// Removes a folder that need not be there.
pub(super) fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
