// SPDX-License-Identifier: Apache-2.0
//! The image read back by the rules of its specification, and run.

mod elf;
mod read;
mod real;

use std::fs;

use serde_json::Value;

use super::archive::{About, Told, image};
use super::elf::Machine;
use super::{IMAGE, check_size, created};
use crate::pack::Root;
use crate::pack::oci::Archive;
use crate::workspace::workspace_root;
use read::Opened;

fn about() -> About {
    let told = Told {
        version: "1.2.3".to_owned(),
        created: 1_700_000_000,
        revision: Some("abc".to_owned()),
        repository: "https://example.com/meshmedic".to_owned(),
        licence: "Apache-2.0".to_owned(),
    };
    About {
        name: IMAGE.to_owned(),
        tag: "1.2.3".to_owned(),
        architecture: Machine::Aarch64.image().to_owned(),
        entrypoint: vec![super::PROGRAM.to_owned()],
        user: super::USER.to_owned(),
        path: "/usr/bin".to_owned(),
        created: told.created,
        labels: told.labels().unwrap(),
    }
}

fn root() -> Root {
    let mut root = Root::default();
    root.program("/usr/bin/meshmedic", b"the program".to_vec());
    root.file("/etc/ssl/certs/ca-certificates.crt", b"an authority".to_vec());
    root.file("/etc/passwd", Vec::new());
    root
}

fn packed(root: &Root, about: &About) -> Archive {
    image(root.pack(about.created).unwrap(), about).unwrap().archive
}

#[test]
fn the_archive_keeps_the_rules_of_its_specification() {
    let archive = packed(&root(), &about());
    let opened = Opened::new(&archive.bytes);
    let image = opened.check();

    assert_eq!(image.digest, archive.digest);
    assert_eq!(image.name, format!("{IMAGE}:1.2.3"));
    assert_eq!(image.config["architecture"], "arm64");
    assert_eq!(image.config["created"], "2023-11-14T22:13:20Z");
    let config = &image.config["config"];
    assert_eq!(
        config["User"], "65532:65532",
        "root only where somebody asks for it"
    );
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/meshmedic"]));
    assert_eq!(config["Env"], serde_json::json!(["PATH=/usr/bin"]));
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("version"), "1.2.3");
    assert_eq!(label("revision"), "abc");
    assert_eq!(label("licenses"), "Apache-2.0");
    assert_eq!(label("source"), "https://example.com/meshmedic");

    let entries: Vec<(&str, u32)> = image
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.mode))
        .collect();
    assert_eq!(
        entries,
        [
            ("etc/", 0o755),
            ("etc/passwd", 0o644),
            ("etc/ssl/", 0o755),
            ("etc/ssl/certs/", 0o755),
            ("etc/ssl/certs/ca-certificates.crt", 0o644),
            ("usr/", 0o755),
            ("usr/bin/", 0o755),
            ("usr/bin/meshmedic", 0o755),
        ]
    );
    let program = image.entries.last().unwrap();
    assert_eq!(program.contents, b"the program");
    assert!(image.entries.iter().all(|entry| entry.time == 1_700_000_000));
}

#[test]
fn an_archive_that_was_tampered_with_is_seen() {
    let archive = packed(&root(), &about());
    let good = Opened::new(&archive.bytes);
    good.check();
    let names: Vec<String> = good.files.keys().cloned().collect();
    for name in names {
        let mut bad = Opened::new(&archive.bytes);
        let file = bad.files.get_mut(&name).unwrap();
        // One byte of each file in turn; in JSON it stays JSON.
        let at = file.len() - 3;
        file[at] = if file[at].is_ascii_digit() {
            b'x'
        } else {
            file[at] ^ 1
        };
        let seen = std::panic::catch_unwind(|| bad.check().digest);
        assert!(seen.is_err(), "nobody noticed a change of {name}");
    }
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let first = packed(&root(), &about());
    let mut other = Root::default();
    other.file("etc/passwd", Vec::new());
    other.file("etc/ssl/certs/ca-certificates.crt", b"an authority".to_vec());
    other.program("usr/bin/meshmedic", b"the program".to_vec());
    for _ in 0..8 {
        // Labels come out of a map that has another order each time.
        let again = packed(&other, &about());
        assert_eq!(again.digest, first.digest);
        assert!(
            again.bytes == first.bytes,
            "the archives differ though the images agree"
        );
    }

    let later = About {
        created: 1_700_000_001,
        ..about()
    };
    assert_ne!(packed(&root(), &later).digest, first.digest);
    let mut changed = root();
    changed.file("etc/passwd", b"x".to_vec());
    assert_ne!(packed(&changed, &about()).digest, first.digest);
    let mut changed = root();
    changed.program("etc/passwd", Vec::new());
    assert_ne!(packed(&changed, &about()).digest, first.digest, "modes count");
}

#[test]
fn the_time_is_what_the_builder_asks_for_or_the_commit_s() {
    assert_eq!(created(Some("12"), Some("34")).unwrap(), 12);
    assert_eq!(created(None, Some("34")).unwrap(), 34);
    assert_eq!(created(None, None).unwrap(), 0);
    for bad in ["", "yesterday", "-1", "1.5"] {
        let error = created(Some(bad), None).unwrap_err().to_string();
        assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
    }
}

#[test]
fn an_archive_that_is_too_big_is_refused() {
    let archive = packed(&root(), &about());
    check_size(&archive, archive.bytes.len()).unwrap();
    let error = check_size(&archive, archive.bytes.len() - 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--profile release"), "{error}");
}

#[test]
fn the_manifests_ask_for_this_image() {
    let deploy = workspace_root().unwrap().join("deploy");
    let mut manifests = Vec::new();
    for file in fs::read_dir(&deploy).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            manifests.push(fs::read_to_string(path).unwrap());
        }
    }
    let wanted = format!("image: {IMAGE}:{}", env!("CARGO_PKG_VERSION"));
    assert!(
        manifests.iter().any(|text| text.contains(&wanted)),
        "none has {wanted}"
    );
}

/// What builds with Docker builds the same: the toolchain, the version, the user, the words on it.
#[test]
fn the_dockerfile_agrees_with_the_project() {
    let root = workspace_root().unwrap();
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let dockerfile = read("Dockerfile");
    let toolchain = read("rust-toolchain.toml");
    let rust = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .unwrap();
    let bases: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .collect();
    assert_eq!(bases.len(), 2);
    assert!(
        bases[0].starts_with(&format!("docker.io/library/rust:{rust}-alpine")),
        "{}",
        bases[0]
    );
    assert!(bases[0].contains("@sha256:"), "{}", bases[0]);
    assert_eq!(bases[1], "scratch");

    let image = Opened::new(&packed(&self::root(), &about()).bytes).check();
    let labels = image.config["config"]["Labels"].as_object().unwrap();
    for name in labels.keys().filter(|name| !name.ends_with(".created")) {
        assert!(dockerfile.contains(&format!("{name}=\"")), "no label {name}");
    }
    let version = format!(
        "org.opencontainers.image.version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(dockerfile.contains(&version), "not {version}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert!(dockerfile.contains(&format!("USER {}", text(&image.config["config"]["User"]))));
    assert!(dockerfile.contains(&format!("ENTRYPOINT [\"{}\"]", super::PROGRAM)));

    // The build finds every crate, and the kernel programs that the agent includes.
    let ignored = read(".dockerignore");
    let kept: Vec<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let manifest = read("Cargo.toml");
    let members = manifest
        .split_once("members = [")
        .unwrap()
        .1
        .split_once(']')
        .unwrap()
        .0;
    let members = members.split('"').skip(1).step_by(2);
    let folders = members.map(|member| member.split('/').next().unwrap());
    for needed in folders.chain(["meshmedic-ebpf", "Cargo.toml", "Cargo.lock"]) {
        assert!(kept.contains(&needed), "{needed} does not reach Docker's build");
    }
}
