// SPDX-License-Identifier: Apache-2.0
//! Programs out of Debian's packages, without installing any of them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::parts::Debian;

/// Folders that are links on every Debian of today, though packages may still name them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Unpacks packages below a folder, with all that they depend on and the machine lacks.
pub(super) fn unpack(part: &Debian, root: &Path) -> Result<()> {
    let packages = &part.packages;
    for folder in MERGED {
        let target = Path::new("usr").join(folder);
        fs::create_dir_all(root.join(&target)).with_context(|| format!("cannot make {}", root.display()))?;
        link(&target, &root.join(folder))?;
    }
    let archives = tempfile::tempdir().context("cannot make a temporary folder")?;
    if !download(packages, archives.path())? {
        // Fresh machines have no list of packages, and old lists name versions that are gone.
        let updated = apt(&["update"]).status().context("cannot run apt-get")?;
        ensure!(updated.success(), "`apt-get update` failed ({updated})");
        ensure!(
            download(packages, archives.path())?,
            "apt-get cannot download {}",
            packages.join(", ")
        );
    }
    let entries = fs::read_dir(archives.path()).context("cannot read what apt-get downloaded")?;
    for entry in entries {
        let archive = entry.context("cannot read what apt-get downloaded")?.path();
        if archive.extension().is_none_or(|extension| extension != "deb") {
            continue;
        }
        extract(&archive, root)?;
    }
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    part.links
        .iter()
        .try_for_each(|(path, target)| link(target, &inside(path)))
}

/// Unpacks one package. Links of folders stay links, which `dpkg-deb --extract` would replace.
fn extract(archive: &Path, root: &Path) -> Result<()> {
    let mut package = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let files = package.stdout.take().context("dpkg-deb has no output")?;
    let unpacked = Command::new("tar")
        .args(["--extract", "--keep-directory-symlink", "--directory"])
        .arg(root)
        .stdin(files)
        .status()
        .context("cannot run tar")?;
    let read = package.wait().context("cannot wait for dpkg-deb")?;
    ensure!(
        read.success() && unpacked.success(),
        "cannot unpack {} (dpkg-deb: {read}, tar: {unpacked})",
        archive.display()
    );
    Ok(())
}

/// Makes a link, if it is not there.
fn link(target: &Path, path: &Path) -> Result<()> {
    match symlink(target, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the link {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Lets apt say what is missing for these packages, and fetch that; whether it could.
fn download(packages: &[String], archives: &Path) -> Result<bool> {
    fs::create_dir_all(archives.join("partial")).context("cannot make a temporary folder")?;
    let mut option = std::ffi::OsString::from("Dir::Cache::archives=");
    option.push(archives);
    let status = apt(&["install", "--yes", "--download-only", "--reinstall"])
        .args(["--no-install-recommends", "-o"])
        .arg(option)
        .args(packages)
        .status();
    match status {
        Ok(status) => Ok(status.success()),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} come from Debian's packages, and this machine has no apt-get",
            packages.join(", ")
        ),
        Err(error) => Err(error).context("cannot run apt-get"),
    }
}

/// apt-get as somebody who downloads and changes nothing: it needs no lock of the machine's.
fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Puts programs beside the others, so that all are found in one folder.
pub(super) fn show(programs: &[PathBuf], root: &Path, bin: &Path) -> Result<()> {
    for program in programs {
        let inside = program.strip_prefix("/").unwrap_or(program);
        // What only works in its own place, with libraries and links of Debian's, is not for the PATH.
        if !program.starts_with("/usr/bin") {
            continue;
        }
        let name = program.file_name().context("a program without a name")?;
        link(&root.join(inside), &bin.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use meshmedic_lab::need;

    use super::*;

    #[test]
    fn links_of_folders_stay_links() {
        if Command::new("dpkg-deb").arg("--version").output().is_err() {
            need::skip("links_of_folders_stay_links", "there is no dpkg-deb");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [package, root, archive] = ["package", "root", "tool.deb"].map(|name| folder.path().join(name));
        for made in [package.join("DEBIAN"), package.join("bin"), root.join("usr/bin")] {
            fs::create_dir_all(made).unwrap();
        }
        let control = "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n";
        fs::write(package.join("DEBIAN/control"), control).unwrap();
        fs::write(package.join("bin/tool"), "x").unwrap();
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .args([&package, &archive])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        link(Path::new("usr/bin"), &root.join("bin")).unwrap();

        extract(&archive, &root).unwrap();
        assert!(root.join("bin").is_symlink(), "the link became a folder");
        assert!(root.join("usr/bin/tool").is_file());
        let error = extract(&package.join("bin/tool"), &root).unwrap_err().to_string();
        assert!(error.contains("cannot unpack"), "{error}");
    }
}
