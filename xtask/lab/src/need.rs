// SPDX-License-Identifier: Apache-2.0
//! What a test needs of the machine, and the list of those that went without.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// Names the file to which every skipped test is appended, with its reason.
const SKIPPED: &str = "MESHMEDIC_SKIPPED";
/// Names the folder with `etcd`, `kube-apiserver` and `kubectl`, as `setup-envtest` prints it.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Names the folder in which `cargo xtask cluster build` put what it built.
pub const BUILT: &str = "MESHMEDIC_CLUSTER";
/// Where the programs that are not on every machine come from.
const BUILD: &str = "`cargo xtask cluster build`, and then `cargo xtask test`";
/// The kernel's description of its own types.
const BTF: &str = "/sys/kernel/btf/vmlinux";
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether a test that makes namespaces and cgroups can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn root(test: &str) -> bool {
    decide(test, root_problem())
}

/// Whether a test that loads kernel programs can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn ebpf(test: &str) -> bool {
    let problem = root_problem()
        .or_else(|| (!Path::new(BTF).exists()).then(|| format!("the kernel has no {BTF}")))
        .or_else(|| missing(&[(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]));
    decide(test, problem)
}

/// Whether a test that makes user namespaces can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn userns(test: &str) -> bool {
    decide(test, crate::userns::available().err())
}

/// Whether a test against the real API server can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn real_apiserver(test: &str) -> bool {
    decide(test, unset(ASSETS))
}

/// Whether a test with the real istio-cni can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn real_istio_cni(test: &str) -> bool {
    decide(
        test,
        root_problem().or_else(|| unset(ASSETS)).or_else(|| unset(BUILT)),
    )
}

/// Whether a test that asks with `kubectl` can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn kubectl(test: &str) -> bool {
    program(test, "kubectl")
}

/// Whether a test that renders the chart with `helm` can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn helm(test: &str) -> bool {
    program(test, "helm")
}

/// Whether a test that runs the alerts in `promtool` can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn promtool(test: &str) -> bool {
    program(test, "promtool")
}

/// Whether a test that reads packet filter rules by kernel programs can run; says so where not.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run.
#[must_use]
pub fn packet_filters(test: &str) -> bool {
    ebpf(test)
        && crate::rules::PROGRAMS
            .iter()
            .all(|name| installed(test, name, "`apt-get install iptables nftables`"))
}

fn program(test: &str, name: &str) -> bool {
    installed(test, name, BUILD)
}

fn installed(test: &str, name: &str, remedy: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    decide(
        test,
        (!found).then(|| format!("{name} is not installed: {remedy}")),
    )
}

/// What to do where the environment does not name what was built.
fn unset(variable: &str) -> Option<String> {
    let unset = std::env::var_os(variable).is_none();
    unset.then(|| format!("{variable} is not set: {BUILD}"))
}

fn root_problem() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if crate::userns::is_inside() {
        return Some("needs root outside any user namespace".to_owned());
    }
    missing(&[(CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")])
        .or_else(|| (!crate::cgroup::writable()).then(|| "needs a writable cgroup v2 hierarchy".to_owned()))
}

fn missing(needed: &[(u32, &str)]) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or_default();
    let lacking = needed.iter().find(|(bit, _)| effective & (1 << bit) == 0)?;
    Some(format!("needs {}", lacking.1))
}

fn decide(test: &str, problem: Option<String>) -> bool {
    let Some(why) = problem else { return true };
    skip(test, &why);
    false
}

/// Records that a test is skipped.
///
/// # Panics
///
/// In CI (`CI=true`), where every test must run, and where the list of skipped tests cannot be written.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} must not be skipped in CI: {why}"
    );
    record(test, why);
}

/// Adds a line to the list.
fn record(test: &str, why: &str) {
    #[expect(clippy::print_stderr, reason = "this is read beside the test's result")]
    {
        eprintln!("skipped: {test}: {why}");
    }
    if let Some(list) = std::env::var_os(SKIPPED) {
        // One write a line: tests append side by side.
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&list)
            .and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
        assert!(written.is_ok(), "{}: {written:?}", Path::new(&list).display());
    }
}
