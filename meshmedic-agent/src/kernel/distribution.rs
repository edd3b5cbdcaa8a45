// SPDX-License-Identifier: Apache-2.0
//! Whether what the programs read is found in the kernels that a distribution ships, by the types in their packages.
//!
//! A folder for each kernel is made as `/sys/kernel/btf` is, from the package that apt downloads.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use btf_rs::Btf;
use meshmedic_common::abi::RulesLayout;
use meshmedic_common::rules::Unfollowed;

use super::{layout::Found, offsets};

/// Names a folder with packages (`linux-image-*.deb`) that are there already: nothing is downloaded then.
const PACKAGES: &str = "MESHMEDIC_KERNEL_PACKAGES";
/// The lines of kernels that Debian's stable releases have, oldest first: of each the newest that apt knows.
const LINES: [&str; 2] = ["6.1.", "6.12."];
const MODULES: [&str; 3] = ["nf_nat", "nf_tables", "x_tables"];

/// What a program prints.
fn output(program: &str, arguments: &[&str], folder: &Path) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    output.stdout
}

/// What a program makes of its input.
fn filter(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut to = child.stdin.take().expect("its input");
    std::thread::scope(|scope| {
        // It may have enough before the end, where something else follows.
        scope.spawn(move || to.write_all(input));
        child.wait_with_output().expect("its output").stdout
    })
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(b"\xfd7zXZ") {
        filter("xz", &["-dc", "--single-stream"], bytes)
    } else if bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        filter("zstd", &["-dcq"], bytes)
    } else {
        bytes.to_vec()
    }
}

/// The program that a `vmlinuz` unpacks: the boot protocol's header says where it lies.
fn payload(vmlinuz: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(vmlinuz[at..at + 4].try_into().expect("four bytes")) as usize;
    let begin = (usize::from(vmlinuz[0x1f1]) + 1) * 512 + word(0x248);
    // Its last four bytes are the size of what comes out.
    unpacked(&vmlinuz[begin..begin + word(0x24c) - 4])
}

fn types_of(program: &[u8], folder: &Path, name: &str) {
    let whole = folder.join("whole");
    fs::write(&whole, program).expect("write");
    let dump = format!(".BTF={name}");
    output("objcopy", &["--dump-section", &dump, "whole", "copy"], folder);
    fs::remove_file(folder.join("copy")).expect("remove");
    fs::remove_file(whole).expect("remove");
}

fn find(below: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(below)
        .ok()?
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let own = entries
        .iter()
        .find(|path| path.is_file() && name(path).is_some_and(|name| fits(&name)));
    own.cloned().or_else(|| {
        let folders = entries.iter().filter(|path| path.is_dir() && !path.is_symlink());
        folders.into_iter().find_map(|folder| find(folder, fits))
    })
}

/// A folder like `/sys/kernel/btf`, from a package.
fn types(package: &Path, folder: &Path) -> PathBuf {
    let root = folder.join("root");
    output("dpkg", &["-x", &package.display().to_string(), "root"], folder);
    let kernel = find(&root.join("boot"), &|name| name.starts_with("vmlinuz-")).expect("a kernel");
    types_of(&payload(&fs::read(kernel).expect("read")), folder, "vmlinux");
    for module in MODULES {
        let fits = |name: &str| name.split_once(".ko").is_some_and(|(stem, _)| stem == module);
        let file = find(&root, &fits).unwrap_or_else(|| panic!("{module} in {}", package.display()));
        types_of(&unpacked(&fs::read(file).expect("read")), folder, module);
    }
    fs::remove_dir_all(root).expect("remove");
    folder.join("vmlinux")
}

/// The packages of [`LINES`].
fn packages(folder: &Path) -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(PACKAGES) {
        let all = fs::read_dir(folder).expect("the folder with packages");
        let all = all.map(|entry| entry.expect("an entry").path());
        return all
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect();
    }
    let listed = output(
        "apt-cache",
        &[
            "search",
            "--names-only",
            "^linux-image-[0-9].*[0-9]-amd64$|^linux-image-[0-9].*deb1[0-9]-amd64$",
        ],
        folder,
    );
    let listed = String::from_utf8(listed).expect("text");
    for line in LINES {
        let of_line = |name: &&str| name.starts_with(&format!("linux-image-{line}"));
        let names = listed
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(of_line);
        let numbers = |name: &str| -> Vec<u32> {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|digits| digits.parse().ok())
                .collect()
        };
        let newest = names.max_by_key(|name| numbers(name));
        let newest = newest.unwrap_or_else(|| panic!("apt knows no kernel {line}: run apt-get update"));
        output("apt-get", &["download", newest], folder);
    }
    let all = fs::read_dir(folder).expect("what was downloaded");
    all.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
#[ignore = "downloads two kernels of Debian's, some 150 MB"]
fn debians_kernels_have_what_the_programs_read() {
    let downloads = tempfile::tempdir().expect("a folder");
    let packages = packages(downloads.path());
    assert!(!packages.is_empty(), "there is no package");
    for package in packages {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = types(&package, folder.path());
        let named = package.display();
        let btf = Btf::from_file(&kernel).unwrap_or_else(|error| panic!("{named}: {error}"));
        let offsets = offsets::resolve(&btf).unwrap_or_else(|error| panic!("{named}: {error}"));
        assert!(
            offsets.process_filter,
            "{named}: the census is limited to a process from 6.1 on"
        );
        let found = Found::of(&kernel).expect("the kernel's types");
        let RulesLayout {
            hooks, nft, legacy, ..
        } = found.layout;
        assert_eq!(
            (hooks, nft, legacy, found.lacking),
            (1, 1, 1, Vec::new()),
            "{named}"
        );
        // Without a module's types its rules are unknown, and the reason is said.
        fs::remove_file(folder.path().join("nf_tables")).expect("remove");
        let without = Found::of(&kernel).expect("the kernel's types");
        assert_eq!(
            (without.layout.nft, without.lacking, without.reason),
            (0, vec!["nf_tables"], Unfollowed::NoModuleTypes),
            "{named}"
        );
    }
}
