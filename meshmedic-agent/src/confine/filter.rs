// SPDX-License-Identifier: Apache-2.0
//! Denies system calls that an agent never makes.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{MaskedEq, Ne};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads, sock_filter,
};

/// By system call, when it is denied: always without a rule, else where one of the rules holds.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Denied whatever the arguments are.
const DENIED: &[c_long] = &[
    // Into other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other places.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Another kernel, or the same otherwise.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Ways to attack the kernel, or around this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // Other rights.
    libc::SYS_capset,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // The file systems of the node lie open behind `/proc/<pid>/root`: nothing is changed in any of them.
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// The same by the names that only older processors' kernels know.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_unlink,
    libc::SYS_symlink,
    libc::SYS_link,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_uselib,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[libc::SYS_renameat];

#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: c_long = 294;
/// The C libraries' headers have it later than the kernel.
const FCHMODAT2: c_long = 452;

/// Their arguments lie behind a pointer, which no filter follows. To say that the kernel lacks them makes a C library
/// take the older call, which can be judged.
const UNKNOWN: [c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

/// What bpf(2) is still asked for: the census makes its links anew, and all maps are used.
const BPF_COMMANDS: [u64; 6] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    28, // BPF_LINK_CREATE
    33, // BPF_ITER_CREATE
];

/// Denies for all threads, and for those to come. `kernel` tells whether kernel programs are in use.
pub(super) fn apply(kernel: bool) -> Result<(), Error> {
    let eperm = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let unknown = UNKNOWN.into_iter().map(|call| (call, Vec::new())).collect();
    let mut programs = vec![other_numbers()];
    for (rules, action) in [(denied(kernel)?, eperm), (unknown, enosys)] {
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture()?)?;
        programs.push(filter.try_into()?);
    }
    programs
        .iter()
        .try_for_each(|program| apply_filter_all_threads(program))
}

fn architecture() -> Result<TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

fn denied(kernel: bool) -> Result<Rules, BackendError> {
    let all = DENIED.iter().chain(DENIED_HERE);
    let mut rules: Rules = all.map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let bpf = if kernel {
        let others = BPF_COMMANDS.map(|command| (0, Dword, Ne, command));
        vec![all_of(&others)?]
    } else {
        Vec::new()
    };
    rules.insert(libc::SYS_bpf, bpf);
    // A process of its own, but not a thread.
    rules.insert(libc::SYS_clone, vec![lacks(0, libc::CLONE_THREAD)?]);
    // An abort of its own, but nobody else's.
    rules.insert(libc::SYS_tgkill, vec![all_of(&[(0, Dword, Ne, own)])?]);
    // Sockets of the network, and the kernel's answers about it; no local ones, behind which the container runtime
    // listens.
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let others = families.map(|family| (0, Dword, Ne, u64::from(family.unsigned_abs())));
    rules.insert(libc::SYS_socket, vec![all_of(&others)?]);
    // A pair of streams stays one; a datagram socket can be turned to somebody else.
    rules.insert(libc::SYS_socketpair, vec![has(1, libc::SOCK_DGRAM)?]);
    rules.insert(libc::SYS_openat, writes(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, writes(1)?);
    Ok(rules)
}

/// To open a file, with its flags in this argument, other than for reading.
fn writes(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    let bits = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];
    bits.into_iter().map(|bit| has(flags, bit)).collect()
}

/// Where the argument has this bit.
fn has(argument: u8, bit: i32) -> Result<SeccompRule, BackendError> {
    let bit = u64::from(bit.unsigned_abs());
    all_of(&[(argument, Dword, MaskedEq(bit), bit)])
}

/// Where it has not.
fn lacks(argument: u8, bit: i32) -> Result<SeccompRule, BackendError> {
    all_of(&[(argument, Qword, MaskedEq(u64::from(bit.unsigned_abs())), 0)])
}

fn all_of(conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().cloned();
    let conditions =
        conditions.map(|(argument, length, is, value)| SeccompCondition::new(argument, length, is, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// On x86_64, kernels may know every call a second time, under numbers from this bit on (x32). The rules do not: all of
/// these are denied. Elsewhere there are no such numbers.
fn other_numbers() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JGE | BPF_K`, and `BPF_RET | BPF_K`.
    const LOAD: u16 = 0x20;
    const AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // The number stands first in `struct seccomp_data`.
        step(LOAD, 0, 0, 0),
        step(AT_LEAST, 0, 1, X32),
        step(
            RETURN,
            0,
            0,
            SeccompAction::Errno(libc::EPERM.unsigned_abs()).into(),
        ),
        step(RETURN, 0, 0, SeccompAction::Allow.into()),
    ]
}
