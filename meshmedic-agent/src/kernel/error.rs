// SPDX-License-Identifier: Apache-2.0
//! Why the kernel programs cannot be had, and what would change it.

use std::{error::Error, fmt::Write as _, fs, io, path::PathBuf};

use aya::{BtfError, programs::ProgramError};

/// Bits in `CapEff`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// As much of the verifier's log as a message carries: its end, where the reason stands.
const LOG_CHARS_MAX: usize = 1_000;

/// The kernel that has everything the programs use (`bpf_sock_from_file` came last).
const KERNEL_MIN: (u32, u32) = (5, 11);

/// Why the kernel programs could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The kernel does not describe its types.
    #[error("{} does not exist: this kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is hidden", path.display())]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The kernel's description of its types cannot be read.
    #[error("cannot read the kernel's types from {}: {reason}", path.display())]
    UnreadableBtf {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A field that the programs read is not where any known kernel has it.
    #[error("this kernel has no field {field} as the programs know it: {found}")]
    MissingField {
        /// `struct.field`.
        field: String,
        /// What was found instead.
        found: String,
    },
    /// The process may not load programs.
    #[error("missing {missing}")]
    MissingCapability {
        /// The capabilities that it lacks.
        missing: &'static str,
    },
    /// The capabilities are those of a user namespace, which count for nothing here.
    #[error("the process runs in a user namespace, whose capabilities do not allow eBPF")]
    UserNamespace,
    /// Lockdown forbids it.
    #[error("the kernel is locked down ({mode}) and refused to {act}")]
    LockedDown {
        /// The mode, as the kernel names it.
        mode: String,
        /// What was refused.
        act: &'static str,
    },
    /// Something else forbids it.
    #[error(
        "the kernel refused to {act} although the capabilities are there ({reason}): a security module or a seccomp profile forbids bpf(2)"
    )]
    Denied {
        /// What was refused.
        act: &'static str,
        /// The kernel's answer.
        reason: String,
    },
    /// The kernel lacks something that the programs need.
    #[error("kernel {release} cannot {act}: {reason}")]
    OldKernel {
        /// As `uname -r` has it.
        release: String,
        /// What it cannot do.
        act: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The verifier did not accept a program.
    #[error("the kernel's verifier rejected a program ({act}: {reason}): {log}")]
    Rejected {
        /// Which program.
        act: &'static str,
        /// The kernel's answer.
        reason: String,
        /// The end of the verifier's log.
        log: String,
    },
    /// A program was loaded, yet could not be attached.
    #[error("cannot {act}: {reason}")]
    Attach {
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        reason: String,
    },
    /// The object is not what this build expects, or the kernel would not make its maps.
    #[error("cannot {act}: {reason}")]
    Object {
        /// What was tried.
        act: &'static str,
        /// What went wrong.
        reason: String,
    },
}

impl KernelError {
    /// A stable label, for metrics and conditions.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoBtf { .. } => "no_btf",
            Self::UnreadableBtf { .. } => "unreadable_btf",
            Self::MissingField { .. } => "missing_field",
            Self::MissingCapability { .. } => "missing_capability",
            Self::UserNamespace => "user_namespace",
            Self::LockedDown { .. } => "locked_down",
            Self::Denied { .. } => "denied",
            Self::OldKernel { .. } => "old_kernel",
            Self::Rejected { .. } => "rejected",
            Self::Attach { .. } => "attach_failed",
            Self::Object { .. } => "object",
        }
    }

    /// What would change it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoBtf { .. } => {
                "use a kernel with CONFIG_DEBUG_INFO_BTF=y (every current distribution's), and make sure that /sys is mounted"
            }
            Self::UnreadableBtf { .. } => "let the process read /sys/kernel/btf/vmlinux",
            Self::MissingField { .. } => {
                "report this kernel to the MeshMedic project; polling works meanwhile"
            }
            Self::MissingCapability { .. } => {
                "grant CAP_BPF and CAP_PERFMON (securityContext.capabilities.add: [BPF, PERFMON]), or run as root"
            }
            Self::UserNamespace => {
                "run in the host's user namespace (hostUsers: true; no rootless container)"
            }
            Self::LockedDown { .. } => "boot with lockdown=none or lockdown=integrity, or accept polling",
            Self::Denied { .. } => {
                "allow bpf(2) in the seccomp, AppArmor or SELinux profile (seccompProfile, appArmorProfile, seLinuxOptions)"
            }
            Self::OldKernel { .. } => {
                "use kernel 5.11 or newer, with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"
            }
            Self::Rejected { .. } => {
                "report this kernel and the message to the MeshMedic project; polling works meanwhile"
            }
            Self::Attach { .. } => "see the kernel's answer; polling works meanwhile",
            Self::Object { .. } => {
                "use the object of the same release (cargo xtask ebpf rebuilds it), and see that memory is not exhausted"
            }
        }
    }

    /// Refuses where the capabilities alone decide: the kernel's own answer would be vaguer.
    pub(super) fn check_capabilities() -> Result<(), Self> {
        // Without /proc the kernel's answer has to do.
        let Some(effective) = effective_capabilities() else {
            return Ok(());
        };
        let has = |bit: u32| effective & (1 << bit) != 0;
        let missing = match (has(CAP_BPF), has(CAP_PERFMON)) {
            _ if has(CAP_SYS_ADMIN) => return Ok(()),
            (true, true) => return Ok(()),
            (false, true) => "CAP_BPF",
            (true, false) => "CAP_PERFMON",
            (false, false) => "CAP_BPF and CAP_PERFMON",
        };
        Err(Self::MissingCapability { missing })
    }

    /// Why making maps or loading a program failed.
    pub(super) fn from_load(act: &'static str, error: &(dyn Error + 'static)) -> Self {
        if let Some(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) = find::<ProgramError>(error)
        {
            let log = verifier_log.to_string();
            if !log.trim().is_empty() {
                return Self::Rejected {
                    act,
                    reason: io_error.to_string(),
                    log: end_of(&log),
                };
            }
        }
        let reason = chain(error);
        if matches!(os_error(error), Some(libc::EPERM | libc::EACCES)) {
            return Self::denied(act, reason);
        }
        let release = release();
        let unknown = matches!(
            find::<BtfError>(error),
            Some(BtfError::UnknownBtfTypeName { .. } | BtfError::UnknownBtfType { .. })
        ) || matches!(
            find::<ProgramError>(error),
            Some(ProgramError::Btf(
                BtfError::UnknownBtfTypeName { .. } | BtfError::UnknownBtfType { .. }
            ))
        );
        let unimplemented = os_error(error) == Some(libc::ENOSYS);
        if unknown || unimplemented || version(&release).is_some_and(|version| version < KERNEL_MIN) {
            return Self::OldKernel { release, act, reason };
        }
        Self::Object { act, reason }
    }

    /// Why attaching failed.
    pub(super) fn from_attach(act: &'static str, error: &(dyn Error + 'static)) -> Self {
        let reason = chain(error);
        match os_error(error) {
            Some(libc::EPERM | libc::EACCES) => Self::denied(act, reason),
            _ => Self::Attach { act, reason },
        }
    }

    fn denied(act: &'static str, reason: String) -> Self {
        if fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_initial_uid_map(&map)) {
            return Self::UserNamespace;
        }
        let mode = fs::read_to_string("/sys/kernel/security/lockdown").ok();
        match mode.as_deref().and_then(lockdown_mode) {
            Some(mode) => Self::LockedDown {
                mode: mode.to_owned(),
                act,
            },
            None => Self::Denied { act, reason },
        }
    }
}

/// `CapEff` of the calling thread.
fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether `/proc/self/uid_map` is that of the initial user namespace: everything mapped to itself.
fn is_initial_uid_map(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The mode in brackets, unless it is `none`.
fn lockdown_mode(line: &str) -> Option<&str> {
    let mode = line.split_once('[')?.1.split_once(']')?.0;
    (mode != "none").then_some(mode)
}

fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.trim().is_empty() {
        "(unknown)".to_owned()
    } else {
        release.trim().to_owned()
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    sources(error).find_map(|error| error.downcast_ref())
}

fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    sources(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}

/// The error and its sources in one line, without what a source only repeats.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in sources(error) {
        let part = error.to_string();
        if text.is_empty() {
            text = part;
        } else if !text.contains(&part) {
            let _ = write!(text, ": {part}");
        }
    }
    end_of(&text)
}

/// The last [`LOG_CHARS_MAX`] characters, in one line.
fn end_of(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chars = line.chars().count();
    if chars <= LOG_CHARS_MAX {
        return line;
    }
    let end: String = line.chars().skip(chars - LOG_CHARS_MAX).collect();
    format!("… {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(lockdown_mode("[none] integrity confidentiality\n"), None);
        assert_eq!(
            lockdown_mode("none integrity [confidentiality]\n"),
            Some("confidentiality")
        );
        assert_eq!(lockdown_mode("garbage"), None);
    }

    #[test]
    fn only_the_identity_map_is_the_initial_user_namespace() {
        assert!(is_initial_uid_map("         0          0 4294967295\n"));
        assert!(!is_initial_uid_map("         0       1000          1\n"));
        assert!(!is_initial_uid_map(""));
    }

    #[test]
    fn a_release_has_a_version() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.10.0-30-amd64"), Some((5, 10)));
        assert_eq!(version("(unknown)"), None);
    }

    #[test]
    fn the_kernel_that_the_documents_promise_is_the_one_that_the_programs_need() {
        let (major, minor) = KERNEL_MIN;
        let readme = include_str!("../../../README.md");
        assert!(readme.contains(&format!("Kernel {major}.{minor} or later")));
        let old = KernelError::OldKernel {
            release: String::new(),
            act: "",
            reason: String::new(),
        };
        assert!(old.remedy().contains(&format!("kernel {major}.{minor} or newer")));
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let log = end_of(&format!("{}the reason", "x\n".repeat(100_000)));
        assert!(
            log.chars().count() <= LOG_CHARS_MAX + 2 && log.ends_with("the reason"),
            "{log}"
        );
    }

    #[test]
    fn a_refusal_with_a_verifier_log_is_a_rejection() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        assert!(matches!(
            KernelError::from_load("load", &error).reason(),
            "denied" | "locked_down" | "user_namespace"
        ));
        let error = io::Error::from_raw_os_error(libc::ENOSYS);
        assert_eq!(KernelError::from_load("load", &error).reason(), "old_kernel");
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(
            KernelError::from_attach("attach", &error).reason(),
            "attach_failed"
        );
    }
}
