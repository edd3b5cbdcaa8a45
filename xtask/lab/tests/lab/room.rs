// SPDX-License-Identifier: Apache-2.0
//! Programs in rooms of their own.

use std::fs;
use std::path::{Path, PathBuf};

use meshmedic_lab::{Lab, ProcessNetns, Room, need};

/// Runs a script in a room, and says what it printed.
#[track_caller]
fn run(room: &Room, script: &str) -> String {
    let output = room
        .command(Path::new("/bin/sh"))
        .unwrap()
        .args(["-e", "-c", script])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_is_written_in_a_room_goes_with_it_unless_it_is_shared() {
    if !need::root("what_is_written_in_a_room_goes_with_it_unless_it_is_shared") {
        return;
    }
    let lab = Lab::new().unwrap();
    let folder = |name: &str| -> PathBuf {
        let folder = lab.folder().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let (over, shared) = (folder("over"), folder("shared"));
    fs::create_dir_all(over.join("usr/sbin")).unwrap();
    fs::write(over.join("usr/sbin/of-the-room"), "laid over").unwrap();
    // A folder that every machine has as a link: what is shared there must not come to lie on the machine.
    let inside = "/var/run/meshmedic-room";
    let room = Room {
        scratch: folder("scratch"),
        over: vec![over.clone()],
        shared: vec![(shared.clone(), inside.into())],
        netns: None,
    };
    let script = format!(
        "cat /usr/sbin/of-the-room; echo kept > {inside}/file; echo lost > /usr/sbin/of-the-room; echo lost > /etc/meshmedic-room"
    );
    assert_eq!(run(&room, &script), "laid over");
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "kept\n");
    assert_eq!(
        fs::read_to_string(over.join("usr/sbin/of-the-room")).unwrap(),
        "laid over"
    );
    for path in [
        "/etc/meshmedic-room",
        "/usr/sbin/of-the-room",
        inside,
        "/.outside",
    ] {
        assert!(!Path::new(path).exists(), "{path}");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(lab.folder().to_str().unwrap()), "{mounts}");
}

#[test]
fn a_room_can_be_in_another_network_namespace() {
    if !need::root("a_room_can_be_in_another_network_namespace") {
        return;
    }
    let lab = Lab::new().unwrap();
    let process = lab.node_process(&ProcessNetns::Nested).unwrap();
    let room = |netns: Option<PathBuf>| Room {
        scratch: lab.folder().to_owned(),
        netns,
        ..Room::default()
    };
    let inode = |room: &Room| run(room, "stat -L -c %i /proc/self/ns/net");
    let theirs = inode(&room(Some(format!("/proc/{}/ns/net", process.pid()).into())));
    assert_eq!(theirs, process.netns().unwrap().to_string());
    assert_ne!(inode(&room(None)), theirs);
}
