// SPDX-License-Identifier: Apache-2.0
//! What runs inside the lab's processes.
//!
//! A helper has one thread, reads commands from its standard input, answers each on its standard output,
//! and ends when its input does: a lab that is killed leaves nobody behind.

mod churn;
mod enter;
mod held;
mod janitor;
mod leash;
mod room;
mod sockets;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Resource, Rlimit};
use rustix::thread::LinkNameSpaceType;

use crate::net::Netlink;
use crate::protocol::{Command, Enrolment, Netns, Reply, Setup, VERSION};
use crate::sys;
use held::Held;

/// How many events one wait takes.
const EVENTS: usize = 64;
/// The owner, among the held sockets, of those that the process opened for itself.
const SELF: &str = "";

/// Runs the helper that the command line names.
#[doc(hidden)]
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let result = match arguments.first().and_then(|a| a.to_str()) {
        Some("pod" | "ztunnel" | "bystanders") => Helper::start().and_then(Helper::serve),
        Some("janitor") => janitor::run(&arguments[1..]),
        Some("enter") => enter::run(&arguments[1..]),
        Some("leash") => leash::run(&arguments[1..]),
        Some("room") => room::run(&arguments[1..]),
        Some("apiserver") => crate::apiserver::run(arguments.get(1)),
        // To have come this far proves that the namespaces could be made; a pod needs one more.
        Some("probe") => sys::new_netns().and_then(|()| Netlink::open()?.loopback_up()),
        _ => Err(io::Error::other(
            "these are the helper processes of the lab: they are started by the library meshmedic-lab",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "a helper has no other way to tell why it ends"
            )]
            {
                eprintln!("meshmedic-lab: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

struct Helper {
    epoll: OwnedFd,
    input: Input,
    held: Held,
    home: File,
    /// Connections without a listener, kept open.
    connections: Vec<OwnedFd>,
    /// The write end that keeps forked children alive.
    children: Option<OwnedFd>,
    end: Option<Instant>,
}

impl Helper {
    fn start() -> io::Result<Self> {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
        let mut input = Input::default();
        let setup = loop {
            if let Some(line) = input.line() {
                break serde_json::from_slice::<Setup>(&line)?;
            }
            if !input.fill()? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            io::stdin(),
            epoll::EventData::new_u64(Held::INPUT),
            epoll::EventFlags::IN,
        )?;
        match Self::prepare(&setup) {
            Ok(home) => {
                let mut helper = Self {
                    epoll,
                    input,
                    held: Held::default(),
                    home,
                    connections: Vec::new(),
                    children: None,
                    end: None,
                };
                let mut ready = Reply::Ready { version: VERSION };
                for listen in setup.listeners {
                    match helper.run(Command::Listen(listen)) {
                        Reply::Bound(_) => {}
                        problem => ready = problem,
                    }
                }
                answer(&ready)?;
                Ok(helper)
            }
            Err(error) => {
                answer(&Reply::Failed(error.to_string()))?;
                // The library tells it; twice would be once too often.
                std::process::exit(1)
            }
        }
    }

    /// Takes the process to its place, and returns the network namespace in which it lives.
    fn prepare(setup: &Setup) -> io::Result<File> {
        if let Some(procs) = &setup.cgroup {
            std::fs::write(procs, "0").map_err(|e| explain(e, format!("entering {}", procs.display())))?;
        }
        match &setup.netns {
            Netns::Inherit => {}
            Netns::New {
                addresses,
                ipv6,
                redirected,
            } => {
                sys::new_netns().map_err(|e| {
                    explain(
                        e,
                        "making a network namespace (needs root, or a user namespace)".to_owned(),
                    )
                })?;
                if !ipv6 {
                    // A kernel without IPv6 has no such file, and nothing to switch off.
                    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
                }
                let netlink = Netlink::open()?;
                netlink
                    .loopback_up()
                    .map_err(|e| explain(e, "bringing loopback up".to_owned()))?;
                for address in addresses {
                    netlink
                        .add_address(*address)
                        .map_err(|e| explain(e, format!("adding {address}")))?;
                }
                if *redirected {
                    netlink
                        .redirect(true, *ipv6)
                        .map_err(|e| explain(e, "redirecting".to_owned()))?;
                }
            }
            Netns::Enter { path } => {
                let netns =
                    File::open(path).map_err(|e| explain(e, format!("opening {}", path.display())))?;
                enter(&netns).map_err(|e| explain(e, format!("entering {}", path.display())))?;
            }
        }
        let comm = CString::new(setup.comm.as_str()).map_err(io::Error::other)?;
        rustix::thread::set_name(&comm)?;
        File::open("/proc/self/ns/net")
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            while let Some(line) = self.input.line() {
                let command = serde_json::from_slice(&line)?;
                answer(&self.run(command))?;
            }
            let timeout = match self.end {
                Some(end) => match end.checked_duration_since(Instant::now()) {
                    Some(left) => Some(left.try_into().map_err(io::Error::other)?),
                    None => return Ok(()),
                },
                None => None,
            };
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    Held::INPUT => {
                        if !self.input.fill()? {
                            return Ok(());
                        }
                    }
                    id => self.held.accept(id),
                }
            }
        }
    }

    fn run(&mut self, command: Command) -> Reply {
        self.try_run(command)
            .unwrap_or_else(|error| Reply::Failed(error.to_string()))
    }

    fn try_run(&mut self, command: Command) -> io::Result<Reply> {
        match command {
            Command::Listen(listen) => {
                let socket = match sockets::listen(listen.address, listen.reuse_port, false) {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        return Ok(Reply::PortTaken(listen.address));
                    }
                    other => other.map_err(|e| explain(e, format!("listening on {}", listen.address)))?,
                };
                let address = sockets::local(&socket)?;
                self.held.hold(&self.epoll, SELF, address, socket)?;
                return Ok(Reply::Bound(address));
            }
            Command::Close(address) => {
                if self.held.release(|owner, held| owner == SELF && held == address) == 0 {
                    return Ok(Reply::Failed(format!("nothing is held on {address}")));
                }
            }
            Command::Connect(address) => self.connections.push(sockets::connect(address)?),
            Command::Connections(count) => self.connect_many(count)?,
            Command::Churn(churn) => churn::run(&churn)?,
            Command::Zombie => {
                let pid = sys::fork_idle(None, &[])?;
                // Returns when the child has exited, and leaves it a zombie.
                let child = rustix::process::Pid::from_raw(pid.cast_signed())
                    .ok_or_else(|| io::Error::other("a child without a number"))?;
                rustix::process::waitid(
                    rustix::process::WaitId::Pid(child),
                    rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
                )?;
                return Ok(Reply::Pids(vec![pid]));
            }
            Command::Redirect { on, ipv6 } => Netlink::open()?.redirect(on, ipv6)?,
            Command::Bystanders(count) => return self.fork_many(count).map(Reply::Pids),
            Command::Enrol(enrolments) => return self.enrol(&enrolments),
            Command::Unenrol(uids) => {
                self.held.release(|owner, _| uids.iter().any(|uid| uid == owner));
                self.held.leave(&uids);
            }
            Command::ClosePort { uid, port } => {
                self.held
                    .release(|owner, address| owner == uid && address.port() == port);
            }
            Command::Terminate { linger_ms } => {
                self.held.release(|_, _| true);
                self.end = Some(Instant::now() + Duration::from_millis(linger_ms));
            }
        }
        Ok(Reply::Done)
    }

    /// Establishes sockets over loopback, two a connection.
    fn connect_many(&mut self, count: usize) -> io::Result<()> {
        let listener = sockets::listen(SocketAddr::from(([127, 0, 0, 1], 0)), false, false)?;
        let address = sockets::local(&listener)?;
        self.connections.reserve_exact(count);
        for _ in 0..count.div_ceil(2) {
            self.connections.push(sockets::connect(address)?);
            self.connections.push(rustix::net::accept(&listener)?);
        }
        Ok(())
    }

    fn fork_many(&mut self, count: usize) -> io::Result<Vec<u32>> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (stdin, stdout) = (io::stdin(), io::stdout());
        // A child that kept these open would keep its siblings alive, or the lab waiting.
        let close = [write.as_fd(), stdin.as_fd(), stdout.as_fd()];
        let pids = (0..count)
            .map(|_| sys::fork_idle(Some(read.as_fd()), &close))
            .collect();
        self.children = Some(write);
        pids
    }

    /// Enrols every pod that can be; answers with the first problem.
    fn enrol(&mut self, enrolments: &[Enrolment]) -> io::Result<Reply> {
        let mut reply = Reply::Done;
        for enrolment in enrolments {
            let result = self.enrol_one(enrolment);
            enter(&self.home)?;
            let problem = match result {
                Ok(None) => continue,
                Ok(Some(taken)) => Reply::PortTaken(taken),
                Err(error) => {
                    Reply::Failed(explain(error, format!("enrolling {}", enrolment.uid)).to_string())
                }
            };
            // All or nothing, as the real one.
            self.held.release(|owner, _| owner == enrolment.uid);
            if matches!(reply, Reply::Done) {
                reply = problem;
            }
        }
        Ok(reply)
    }

    fn enrol_one(&mut self, enrolment: &Enrolment) -> io::Result<Option<SocketAddr>> {
        let netns = File::open(&enrolment.netns)?;
        enter(&netns)?;
        for wanted in &enrolment.sockets {
            let socket = if wanted.udp {
                sockets::bind_udp(wanted.address)
            } else {
                sockets::listen(wanted.address, true, true)
            };
            match socket {
                Ok(socket) => {
                    self.held
                        .hold(&self.epoll, &enrolment.uid, wanted.address, socket)?;
                }
                // The real one does without `[::1]` where the pod has IPv6 switched off.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrNotAvailable
                        && wanted.address.ip().is_loopback() => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(Some(wanted.address)),
                Err(error) => return Err(explain(error, format!("binding {}", wanted.address))),
            }
        }
        self.held.stay(&enrolment.uid, netns);
        Ok(None)
    }
}

fn enter(netns: &File) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

/// Takes the calling thread into a network namespace.
pub(crate) fn enter_netns(netns: &File) -> io::Result<()> {
    enter(netns)
}

fn explain(error: io::Error, what: String) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn answer(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

/// Standard input, cut into lines without ever blocking for more than one read.
#[derive(Default)]
struct Input(Vec<u8>);

impl Input {
    /// Reads once; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.0.reserve(65_536);
        Ok(rustix::io::read(io::stdin(), rustix::buffer::spare_capacity(&mut self.0))? > 0)
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        Some(self.0.drain(..=end).collect())
    }
}
