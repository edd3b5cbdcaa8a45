// SPDX-License-Identifier: Apache-2.0
//! What cannot be had is told with its reason and its remedy.

use std::{fs, io::Write as _};

use meshmedic_agent::kernel::{self, KERNEL_BTF, KernelError, Options};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::options;

fn refused(options: &Options) -> KernelError {
    let error = kernel::load(options).expect_err("should be refused");
    assert!(!error.remedy().is_empty() && !error.to_string().is_empty());
    error
}

#[test]
fn without_btf_it_says_so() {
    if !meshmedic_lab::need::ebpf("kernel: without BTF") {
        return;
    }
    let error = refused(&Options {
        btf: "/nonexistent/vmlinux".into(),
        ..options()
    });
    assert_eq!(error.reason(), "no_btf");
    let mut garbage = tempfile::NamedTempFile::new().expect("a file");
    garbage.write_all(b"no BTF at all").expect("write");
    let error = refused(&Options {
        btf: garbage.path().into(),
        ..options()
    });
    assert_eq!(error.reason(), "unreadable_btf");
}

#[test]
fn a_kernel_that_lacks_a_field_is_told_by_its_name() {
    if !meshmedic_lab::need::ebpf("kernel: a missing field") {
        return;
    }
    let mut btf = fs::read(KERNEL_BTF).expect("the kernel's BTF");
    let name = b"\0skc_rcv_saddr\0";
    let at = btf
        .windows(name.len())
        .position(|window| window == name)
        .expect("the field's name");
    btf[at + 1] = b'x';
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&btf).expect("write");
    let error = refused(&Options {
        btf: file.path().into(),
        ..options()
    });
    assert_eq!(error.reason(), "missing_field");
    assert!(
        error.to_string().contains("sock.__sk_common.skc_rcv_saddr"),
        "{error}"
    );
}

#[test]
fn a_foreign_object_is_refused() {
    if !meshmedic_lab::need::ebpf("kernel: a foreign object") {
        return;
    }
    let error = refused(&Options {
        object: Some(b"not an object".into()),
        ..options()
    });
    assert_eq!(error.reason(), "object");
}

#[test]
fn a_missing_capability_is_named() {
    if !meshmedic_lab::need::ebpf("kernel: a missing capability") {
        return;
    }
    let lacking = |kept: CapabilitySet| {
        std::thread::spawn(move || {
            let sets = CapabilitySets {
                effective: kept,
                permitted: kept,
                inheritable: CapabilitySet::empty(),
            };
            // Changes the calling thread alone, which ends.
            set_capabilities(None, sets).expect("give up capabilities");
            refused(&options())
        })
        .join()
        .expect("the thread without capabilities")
    };
    let (none, perfmon, bpf) = (CapabilitySet::empty(), CapabilitySet::PERFMON, CapabilitySet::BPF);
    for (kept, missing) in [
        (none, "missing CAP_BPF and CAP_PERFMON"),
        (bpf, "missing CAP_PERFMON"),
        (perfmon, "missing CAP_BPF"),
    ] {
        let error = lacking(kept);
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("missing_capability", missing)
        );
    }
}
