// SPDX-License-Identifier: Apache-2.0
//! Network namespaces with listeners in them, each entered by a thread of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind},
    net::{SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    thread,
};

use crate::until;

/// Runs `act` in a new network namespace whose loopback is up; hands out its inode.
pub(crate) fn within<T: Send>(act: impl FnOnce(u32) -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: only this thread leaves its namespace, and it ends with the closure.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare");
                loopback_up();
                let inode = fs::metadata("/proc/thread-self/ns/net").expect("own netns").ino();
                act(u32::try_from(inode).expect("netns inodes have 32 bits"))
            })
            .join()
            .expect("the thread in the namespace")
    })
}

fn loopback_up() {
    // SAFETY: plain system calls; `request` is a zeroed C structure that is valid in that state.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "socket");
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        assert_eq!(
            libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request),
            0,
            "lo up"
        );
        libc::close(socket);
    }
}

pub(crate) fn listen(address: &str) -> TcpListener {
    let at = address.parse::<SocketAddr>().expect("an address");
    until(address, || match TcpListener::bind(at) {
        // A process that starts beside this one has a copy of the listener before it until it is replaced by its program.
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        listener => Some(listener.unwrap_or_else(|error| panic!("listen on {address}: {error}"))),
    })
}

/// The inode of the listener on `port`, as the calling thread's netns shows it.
pub(crate) fn inode_in_proc(file: &str, port: u16) -> u64 {
    let table = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the socket table");
    let port = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.len() > 9 && row[1].ends_with(&port) && row[3] == "0A")
        .map(|row| row[9].parse().expect("an inode"))
        .expect("the listener in the socket table")
}

/// Another process that listens in the calling thread's netns.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn start(address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "netns::holder", "--ignored", "--nocapture"])
            .env("MESHMEDIC_TEST_HOLD", address)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a holder");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        assert!(
            output
                .lines()
                .map_while(Result::ok)
                .any(|line| line.contains("holding")),
            "the holder failed"
        );
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The body of [`Holder`]'s process.
#[test]
#[ignore = "runs as a process of other tests"]
fn holder() {
    let Ok(address) = std::env::var("MESHMEDIC_TEST_HOLD") else {
        return;
    };
    // The process must not outlive the test that started it.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let _listener = listen(&address);
    println!("holding");
    loop {
        thread::park();
    }
}
