// SPDX-License-Identifier: Apache-2.0
//! What this process may not do, and what that costs.

use std::io;
use std::path::Path;

/// Numbers of capabilities(7).
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

/// What an agent uses.
const USED: [(u32, &str); 3] = [
    (BPF, "CAP_BPF"),
    (PERFMON, "CAP_PERFMON"),
    (SYS_PTRACE, "CAP_SYS_PTRACE"),
];

/// What this process may do, of what matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Survey {
    /// Of the capabilities that are used, those that it has.
    held: Vec<&'static str>,
    /// What is off, and why, one sentence each.
    losses: Vec<String>,
    /// How the security module confines it, in its own words.
    confined: Option<String>,
}

/// What is lost by each capability that is missing, in words. The kernel programs speak for themselves.
pub(crate) fn losses() -> Vec<String> {
    effective(&own("status"))
        .and_then(no_ptrace)
        .into_iter()
        .collect()
}

/// Logs once what an agent may do, and warns of what is off without the rest.
pub(crate) fn tell(proc_root: &Path) {
    let peek = std::fs::read_link(proc_root.join("1/ns/net")).map(|_| ());
    let survey = survey(&own("status"), &own("attr/current"), &peek);
    tracing::info!(
        capabilities = survey.held.join(","),
        confined = survey.confined.as_deref().unwrap_or("no"),
        "what this agent may do on its node"
    );
    for loss in survey.losses {
        tracing::warn!("{loss}");
    }
}

fn own(file: &str) -> String {
    std::fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default()
}

/// `peek` is what came of looking at the namespace of the node's process 1.
fn survey(status: &str, label: &str, peek: &io::Result<()>) -> Survey {
    let Some(mask) = effective(status) else {
        return Survey::default();
    };
    let confined = confinement(label);
    let held: Vec<&'static str> = USED
        .into_iter()
        .filter(|(number, _)| has(mask, *number))
        .map(|(_, name)| name)
        .collect();
    let mut losses = Vec::new();
    let missing: Vec<&str> = ["CAP_BPF", "CAP_PERFMON"]
        .into_iter()
        .filter(|name| !held.contains(name))
        .collect();
    if !missing.is_empty() {
        losses.push(format!(
            "no {}: no kernel events and no census, so losses are noticed by polling. Add it to the container's \
             capabilities, or choose --trigger poll.",
            missing.join(" and ")
        ));
    }
    losses.extend(no_ptrace(mask));
    if has(mask, SYS_PTRACE)
        && let Err(error) = peek
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        let by = confined.as_deref().unwrap_or("no label to be seen");
        losses.push(format!(
            "a security module ({by}) denies a look at other processes in spite of CAP_SYS_PTRACE: kernel events \
             cannot be matched to pods, and whose the listeners are stays unproven. Choose another profile \
             (appArmorProfile, seLinuxOptions)."
        ));
    }
    Survey {
        held,
        losses,
        confined,
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

const fn has(mask: u64, capability: u32) -> bool {
    // The kernel takes CAP_SYS_ADMIN for these two as well, as before it had them.
    let stands_in = matches!(capability, BPF | PERFMON) && mask & (1 << SYS_ADMIN) != 0;
    mask & (1 << capability) != 0 || stands_in
}

fn no_ptrace(mask: u64) -> Option<String> {
    (!has(mask, SYS_PTRACE)).then(|| {
        "no CAP_SYS_PTRACE: kernel events cannot be matched to pods, and whose the listeners are stays unproven. Run \
         as root, or add it to the container's capabilities."
            .to_owned()
    })
}

/// The label of AppArmor or SELinux, if it confines at all.
fn confinement(label: &str) -> Option<String> {
    let label = label.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let free = label.is_empty() || label == "unconfined" || label.contains(":unconfined_t:");
    (!free).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "000001ffffffffff";

    fn status(mask: &str) -> String {
        format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask}\n")
    }

    fn denied() -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn a_missing_capability_is_named() {
        let losses = |mask: &str| effective(&status(mask)).and_then(no_ptrace);
        assert!(losses(ALL).is_none());
        assert!(losses("0000000000000000").unwrap().contains("CAP_SYS_PTRACE"));
        assert_eq!(effective("nonsense"), None);
    }

    #[test]
    fn what_an_agent_holds_and_lacks_is_told() {
        let all = survey(&status(ALL), "unconfined\n", &Ok(()));
        assert_eq!(all.held, ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]);
        assert_eq!((all.losses.len(), all.confined), (0, None));
        let none = survey(&status("0"), "", &denied());
        assert!(none.held.is_empty());
        assert_eq!(none.losses.len(), 2, "{:?}", none.losses);
        assert!(
            none.losses[0].contains("no CAP_BPF and CAP_PERFMON"),
            "{:?}",
            none.losses
        );
        // BPF alone.
        let bpf = survey(&status("0000008000000000"), "", &Ok(()));
        assert_eq!(bpf.held, ["CAP_BPF"]);
        assert!(bpf.losses[0].starts_with("no CAP_PERFMON:"), "{:?}", bpf.losses);
        // SYS_ADMIN stands in for both.
        let admin = survey(&status("0000000000200000"), "", &Ok(()));
        assert_eq!(admin.held, ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(survey("nonsense", "", &denied()), Survey::default());
    }

    #[test]
    fn a_security_module_that_denies_is_named() {
        let apparmor = survey(&status(ALL), "cri-containerd.apparmor.d (enforce)\n", &denied());
        assert!(
            apparmor.losses[0].contains("cri-containerd.apparmor.d (enforce)"),
            "{:?}",
            apparmor.losses
        );
        let selinux = survey(
            &status(ALL),
            "system_u:system_r:container_t:s0:c1,c2\0",
            &denied(),
        );
        assert!(selinux.losses[0].contains("container_t"), "{:?}", selinux.losses);
        assert!(selinux.confined.is_some());
        let spc = survey(
            &status(ALL),
            "unconfined_u:unconfined_r:unconfined_t:s0\0",
            &Ok(()),
        );
        assert_eq!(spc.confined, None);
    }
}
