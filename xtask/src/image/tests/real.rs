// SPDX-License-Identifier: Apache-2.0
//! An image of the real program: its contents are listed, and it runs from them.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use meshmedic_lab::need;
use serde_json::Value;

use super::read::{Image, Opened};
use crate::crates;
use crate::image::{IMAGE, ImageArgs, PROGRAM, run};
use crate::pack::hex;
use crate::workspace::{copy_program, workspace_root};

/// What the task writes: the image, and the list of its contents. It is made twice, once for all tests.
fn made() -> &'static [(Vec<u8>, Value); 2] {
    static MADE: OnceLock<[(Vec<u8>, Value); 2]> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("meshmedic");
        copy_program(&binary);
        ["first", "second"].map(|time| {
            let out = folder.path().join(time);
            run(&ImageArgs {
                out: Some(out.clone()),
                name: IMAGE.to_owned(),
                tag: "test".to_owned(),
                target: None,
                profile: "release".to_owned(),
                binary: Some(binary.clone()),
                certificates: None,
            })
            .unwrap();
            let files: Vec<PathBuf> = fs::read_dir(&out)
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect();
            let read = |ending: &str| {
                let file = files.iter().find(|file| file.to_str().unwrap().ends_with(ending));
                fs::read(file.unwrap_or_else(|| panic!("no {ending} of {files:?}"))).unwrap()
            };
            (read(".tar"), serde_json::from_slice(&read(".cdx.json")).unwrap())
        })
    })
}

/// Lays the image out as a container's root.
fn unpack(image: &Image, root: &Path) {
    for entry in &image.entries {
        let path = root.join(&entry.path);
        if entry.path.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::write(&path, &entry.contents).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).unwrap();
    }
}

#[test]
fn the_program_runs_from_the_unpacked_root_as_its_user() {
    if !need::root("the_program_runs_from_the_unpacked_root_as_its_user") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = Opened::new(&made()[0].0).check();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    // Whoever is not root has to get here too.
    for place in [folder.path(), &root] {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    unpack(&image, &root);
    // A runtime makes this one for itself.
    fs::create_dir(root.join("proc")).unwrap();

    let user = image.config["config"]["User"].as_str().unwrap();
    let entrypoint = image.config["config"]["Entrypoint"][0].as_str().unwrap();
    let in_root = |arguments: &str| -> Output {
        let script = format!(
            "mount --bind /proc \"$1/proc\" && exec chroot --userspec={user} \"$1\" {entrypoint} {arguments}"
        );
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(&root)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap())
            .output()
            .unwrap()
    };
    let version = in_root("version");
    let said = String::from_utf8_lossy(&version.stdout);
    assert_eq!(
        said.trim(),
        format!("meshmedic {}", env!("CARGO_PKG_VERSION")),
        "{version:?}"
    );
    // As a probe in a pod.
    let sockets = in_root("print-sockets");
    let said = String::from_utf8_lossy(&sockets.stdout);
    assert!(
        sockets.status.success() && said.contains("local_address"),
        "{sockets:?}"
    );
    // As the agent, which says what it lacks and does not run.
    let agent = in_root("agent");
    let said = String::from_utf8_lossy(&agent.stderr);
    assert!(!agent.status.success() && said.contains("--node"), "{agent:?}");
}

#[test]
fn made_twice_it_is_the_same_and_its_contents_are_listed() {
    let [(archive, list), (again, list_again)] = made();
    assert!(archive == again, "two archives of the same program differ");
    assert_eq!(list, list_again);

    let image = Opened::new(archive).check();
    assert_eq!(image.name, format!("{IMAGE}:test"));
    assert_eq!(
        (&list["bomFormat"], &list["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    let components = list["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    let hash = |component: &Value| component["hashes"][0]["content"].as_str().unwrap().to_owned();
    for entry in image.entries.iter().filter(|entry| !entry.contents.is_empty()) {
        let component = if entry.path == PROGRAM.trim_start_matches('/') {
            &list["metadata"]["component"]
        } else {
            named(&entry.path).unwrap_or_else(|| panic!("{} is not listed", entry.path))
        };
        assert_eq!(hash(component), hex(&entry.contents), "{}", entry.path);
    }
    for linked in ["aya", "kube", "meshmedic-agent", "ring", "rustls", "tokio"] {
        let component = named(linked).unwrap_or_else(|| panic!("{linked} is not listed"));
        let purl = component["purl"].as_str().unwrap();
        assert!(purl.starts_with(&format!("pkg:cargo/{linked}@")), "{purl}");
        assert!(component["licenses"][0]["expression"].is_string(), "{linked}");
    }
    for other in [
        "meshmedic-lab",
        "xtask",
        "proptest",
        "clap_derive",
        "cyclonedx-bom",
        "cc",
    ] {
        assert!(named(other).is_none(), "{other} is no part of the program");
    }
    // Who needs whom: every name is one of the list.
    let references: Vec<&Value> = components
        .iter()
        .chain([&list["metadata"]["component"]])
        .map(|component| &component["bom-ref"])
        .collect();
    let dependencies = list["dependencies"].as_array().unwrap();
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    assert_eq!(
        dependencies.len(),
        crates::linked(workspace_root().unwrap(), crates::PROGRAM, &target)
            .unwrap()
            .len()
    );
    for dependency in dependencies {
        assert!(references.contains(&&dependency["ref"]), "{dependency}");
        for needed in dependency["dependsOn"].as_array().into_iter().flatten() {
            assert!(references.contains(&needed), "{dependency}");
        }
    }
}
