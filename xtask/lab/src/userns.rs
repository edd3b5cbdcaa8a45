// SPDX-License-Identifier: Apache-2.0
//! User namespaces, in which an ordinary user can have a lab.

use std::fs;
use std::process::{Command, Stdio};

use crate::process::binary;
use crate::sys;

/// What may forbid user namespaces: a file, the value that forbids, and what to tell.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user.max_user_namespaces is 0",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone is 0",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts them (kernel.apparmor_restrict_unprivileged_userns is 1)",
    ),
];

/// Lets a command start as root of a user namespace and a network namespace of its own, in which
/// [`crate::Lab::new`] works.
pub fn enter(command: &mut Command) {
    sys::enter_userns(command);
}

/// Whether this user may make the namespaces that a lab needs; if not, why.
///
/// Finds out by doing so in a process of its own.
pub fn available() -> Result<(), String> {
    let binary = binary().map_err(|error| error.to_string())?;
    let mut probe = Command::new(&binary);
    enter(
        probe
            .arg("probe")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    );
    let problem = match probe.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let switch = SWITCHES
        .iter()
        .find(|(file, forbids, _)| fs::read_to_string(file).is_ok_and(|value| value.trim() == *forbids));
    Err(match switch {
        Some((_, _, why)) => format!("user namespaces are forbidden here: {why} ({problem})"),
        None => format!("no user namespace could be made: {problem}"),
    })
}

/// Whether this process is in a user namespace other than the machine's first.
#[must_use]
pub fn is_inside() -> bool {
    // The first one maps every ID to itself; nobody else can map them all.
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}
