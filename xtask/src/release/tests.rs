// SPDX-License-Identifier: Apache-2.0
//! A dry run of a release: by the commands that it prints each of its files is proved, and each change is found.

mod contents;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{ReleaseArgs, make, targets};
use crate::workspace::{copy_program, workspace_root};

/// What a dry run left.
struct Released {
    folder: tempfile::TempDir,
    /// As they were printed, not as they lie in the folder.
    commands: String,
}

impl Released {
    fn read(&self, name: &str) -> Vec<u8> {
        let path = self.folder.path().join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The name that begins and ends so.
    fn named(&self, begins: &str, ends: &str) -> String {
        let mut names = names(self.folder.path()).into_iter();
        let name = names.find(|name| name.starts_with(begins) && name.ends_with(ends));
        name.unwrap_or_else(|| panic!("no {begins}…{ends}"))
    }

    /// A copy that one may spoil.
    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for name in names(self.folder.path()) {
            fs::copy(self.folder.path().join(&name), copy.path().join(&name)).unwrap();
        }
        copy
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The target for which tests are built.
fn own_target() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", env::consts::ARCH)
}

/// A folder with the program as a build leaves it for the release.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_program(&folder.path().join(format!("meshmedic-{}", own_target())));
    folder
}

fn args(programs: &Path, out: PathBuf) -> ReleaseArgs {
    ReleaseArgs {
        dry_run: true,
        out: Some(out),
        programs: Some(programs.to_owned()),
        tag: None,
        profile: "release".to_owned(),
        certificates: None,
    }
}

/// Made once for all tests.
fn released() -> &'static Released {
    static RELEASED: OnceLock<Released> = OnceLock::new();
    RELEASED.get_or_init(|| {
        let programs = programs();
        let folder = tempfile::tempdir().unwrap();
        let commands = make(&args(programs.path(), folder.path().to_owned())).unwrap();
        Released { folder, commands }
    })
}

/// Whether the printed commands find all well in a folder.
fn verifies(commands: &str, folder: &Path) -> bool {
    let commands = commands.split("\n\nAll of it is in ").next().unwrap();
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", commands]).current_dir(folder).output().unwrap();
    output.status.success()
}

#[test]
fn every_file_is_proved_by_the_printed_commands_and_a_change_of_any_is_found() {
    let released = released();
    let copy = released.copy();
    let verifies = || verifies(&released.commands, copy.path());
    assert!(verifies(), "as it was made, it does not verify");

    for name in names(copy.path()) {
        let path = copy.path().join(&name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        // Another letter of the same kind, so that base64 and JSON stay what they are.
        let middle = bad.len() / 2;
        bad[middle] = if bad[middle] == b'a' { b'b' } else { b'a' };
        fs::write(&path, &bad).unwrap();
        assert!(!verifies(), "nobody noticed a change of {name}");
        fs::remove_file(&path).unwrap();
        assert!(!verifies(), "nobody missed {name}");
        fs::write(&path, &good).unwrap();
    }
    let added = copy.path().join("more.tar.gz");
    fs::write(&added, "x").unwrap();
    assert!(!verifies(), "nobody noticed a file that was added");
    fs::remove_file(&added).unwrap();
    assert!(verifies(), "put back, it does not verify");
}

/// Who changes a file and signs anew has another key.
#[test]
fn what_another_key_signed_is_refused() {
    let programs = programs();
    let other = tempfile::tempdir().unwrap();
    let commands = make(&args(programs.path(), other.path().to_owned())).unwrap();
    assert!(verifies(&commands, other.path()));
    let released = released();
    assert!(
        !verifies(&released.commands, other.path()),
        "another key is as good as the one of which was told"
    );
    // But for the keys and what tells of them, both are the same: nothing depends on when it was made.
    let changing = [
        "checksums.txt",
        "checksums.txt.sig",
        "provenance.sigstore.json",
        "release.pub",
        "verify.sh",
    ];
    for name in names(other.path()) {
        let same = released.read(&name) == fs::read(other.path().join(&name)).unwrap();
        assert_eq!(same, !changing.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn no_private_key_is_left_anywhere() {
    let released = released();
    for name in names(released.folder.path()) {
        let found = released
            .read(&name)
            .windows(11)
            .any(|part| part == b"PRIVATE KEY");
        assert!(!found, "{name} holds a private key");
    }
}

#[test]
fn a_release_is_refused_where_something_of_it_is_missing() {
    let programs = programs();
    let out = tempfile::tempdir().unwrap();
    let real = |tag: &str| {
        let mut args = args(programs.path(), out.path().join("release"));
        args.dry_run = false;
        args.tag = Some(tag.to_owned());
        make(&args).unwrap_err().to_string()
    };
    let version = super::VERSION;
    assert!(real("v9.9.9").contains(&format!("is not v{version}")));
    // Until a version is cut there is no section, and then no program for the other targets.
    let error = real(&format!("v{version}"));
    assert!(
        error.contains(&format!("no section `## [{version}]`")) || error.contains("there is no program for"),
        "{error}"
    );

    let strange = tempfile::tempdir().unwrap();
    fs::write(strange.path().join("meshmedic-m68k"), "x").unwrap();
    let error = make(&args(strange.path(), out.path().join("release"))).unwrap_err();
    assert!(error.to_string().contains("meshmedic-m68k"), "{error}");

    // What somebody keeps elsewhere is not replaced.
    let kept = tempfile::tempdir().unwrap();
    fs::write(kept.path().join("letter"), "x").unwrap();
    let error = make(&args(programs.path(), kept.path().to_owned())).unwrap_err();
    assert!(error.to_string().contains("name another folder"), "{error}");
    assert!(kept.path().join("letter").exists());
}

#[test]
fn a_program_tells_for_whom_it_was_built() {
    let programs = programs();
    let program = programs.path().join(format!("meshmedic-{}", own_target()));
    assert_eq!(targets::of_machine(&program).unwrap().name, own_target());
    assert_eq!(
        targets::of_file("meshmedic-x86_64-pc-windows-msvc.exe")
            .unwrap()
            .program(),
        "meshmedic.exe"
    );
    assert!(targets::of_file("x86_64-pc-windows-msvc").is_none());
    // Who installs a release should need no library of a certain age.
    assert!(targets::released().all(|target| !target.name.ends_with("-gnu")));
}

/// What users are told to verify by is the workflow that builds every target.
#[test]
fn the_workflow_builds_what_a_release_needs_and_is_who_signs() {
    let root = workspace_root().unwrap();
    let workflow = ".github/workflows/release.yml";
    let text = fs::read_to_string(root.join(workflow)).unwrap();
    for target in targets::released() {
        assert!(
            text.contains(&format!("target: {},", target.name)),
            "{}",
            target.name
        );
    }
    let identity = format!(
        "{}/{workflow}@refs/tags/v{} \\",
        super::REPOSITORY,
        super::VERSION
    );
    for document in ["docs/install.md", "docs/verify.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let told = text.matches("--certificate-identity").count();
        assert!(told > 0 && text.matches(&identity).count() == told, "{document}");
    }
}

/// The checksums as a user reads them.
fn checksums(released: &Released) -> BTreeMap<String, String> {
    let text = released.text("checksums.txt");
    let lines = text.lines().map(|line| line.split_once("  ").unwrap());
    lines
        .map(|(digest, name)| (name.to_owned(), digest.to_owned()))
        .collect()
}
