// SPDX-License-Identifier: Apache-2.0
//! The kernel programs on the running kernel: needs root and eBPF.

#[path = "kernel/calls.rs"]
mod calls;
#[path = "kernel/census.rs"]
mod census;
#[path = "kernel/confine.rs"]
mod confine;
#[path = "kernel/netns.rs"]
mod netns;
#[path = "kernel/refusals.rs"]
mod refusals;
#[path = "kernel/rules.rs"]
mod rules;
#[path = "kernel/traffic.rs"]
mod traffic;
#[path = "kernel/trigger.rs"]
mod trigger;

use std::{
    fs::File,
    time::{Duration, Instant},
};

use meshmedic_agent::kernel::{self, Kernel, Options};

/// Longer than any wait should ever be.
const DEADLINE: Duration = Duration::from_secs(20);

/// As the agent loads them; `MESHMEDIC_BPF_OBJECT` names another object to try.
fn options() -> Options {
    let object = std::env::var_os("MESHMEDIC_BPF_OBJECT").map(|path| {
        std::fs::read(path)
            .expect("the object that MESHMEDIC_BPF_OBJECT names")
            .into()
    });
    Options {
        object,
        ..Options::default()
    }
}

/// The tracepoint hears the whole node: one test that fills every ring must not meet those that count records.
/// The lock is on this program's own file, so that it also holds between processes.
fn alone() -> File {
    let lock = own_file();
    lock.lock().expect("lock");
    lock
}

/// Beside all others but one that is [`alone`].
fn together() -> File {
    let lock = own_file();
    lock.lock_shared().expect("lock");
    lock
}

fn own_file() -> File {
    File::open(std::env::current_exe().expect("this test")).expect("its file")
}

fn load() -> Kernel {
    kernel::load(&options()).expect("the kernel programs load")
}

/// Asks again until there is an answer.
fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}
