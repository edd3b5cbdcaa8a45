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
mod zds;

use std::ffi::{CString, OsString};
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
use crate::protocol::{Command, Enrolment, Listen, Netns, Reply, Setup, Socket, VERSION};
use crate::sys;
use crate::ztunnel::{OWN, ZtunnelSpec};
use held::Held;
use zds::{Act, Zds};

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
        Some("zds") => Helper::alone(&arguments[1..]).and_then(Helper::serve),
        Some("janitor") => janitor::run(&arguments[1..]),
        Some("enter") => enter::run(&arguments[1..]),
        Some("leash") => leash::run(&arguments[1..]),
        Some("room") => room::run(&arguments[1..]),
        Some("apiserver") => crate::apiserver::run(arguments.get(1)),
        // To have come this far proves that the namespaces could be made; a pod needs one more.
        Some("probe") => sys::new_netns().and_then(|()| Netlink::open()?.loopback_up()),
        _ => Err(io::Error::other(
            "`meshmedic-lab node PODS` makes a node of pods, and `meshmedic-lab apiserver` serves the API; the library \
             starts all else",
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
    /// The conversation with istio-cni, of a ztunnel that was told where that listens.
    zds: Option<Zds>,
}

impl Helper {
    fn start() -> io::Result<Self> {
        let mut input = Input::default();
        let setup = loop {
            if let Some(line) = input.line() {
                break serde_json::from_slice::<Setup>(&line)?;
            }
            if !input.fill()? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        };
        let mut helper = match Self::prepare(&setup).and_then(|home| Self::at(home, input)) {
            Ok(helper) => helper,
            Err(error) => {
                answer(&Reply::Failed(error.to_string()))?;
                // The library tells it; twice would be once too often.
                std::process::exit(1)
            }
        };
        epoll::add(
            &helper.epoll,
            io::stdin(),
            epoll::EventData::new_u64(Held::INPUT),
            epoll::EventFlags::IN,
        )?;
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

    /// A ztunnel without a lab, for an istio-cni that is the real one: where that listens is its only argument. It
    /// stays where it was started, and is ended by a signal.
    fn alone(arguments: &[OsString]) -> io::Result<Self> {
        let [path] = arguments else {
            return Err(io::Error::other(
                "usage: meshmedic-lab zds /var/run/ztunnel/ztunnel.sock",
            ));
        };
        let mut helper = Self::at(File::open("/proc/self/ns/net")?, Input::default())?;
        for address in OWN {
            let listen = Listen {
                address,
                reuse_port: false,
            };
            match helper.try_run(Command::Listen(listen))? {
                Reply::Bound(_) => {}
                problem => return Err(io::Error::other(format!("listening on {address}: {problem:?}"))),
            }
        }
        helper.zds = Some(Zds::new(path.into(), ZtunnelSpec::default().sockets()));
        Ok(helper)
    }

    fn at(home: File, input: Input) -> io::Result<Self> {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )?;
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            input,
            held: Held::default(),
            home,
            connections: Vec::new(),
            children: None,
            end: None,
            zds: None,
        })
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
            if self.end.is_some_and(|end| end <= Instant::now()) {
                return Ok(());
            }
            self.converse()?;
            let due = self.zds.as_ref().and_then(Zds::due);
            let timeout = match self.end.into_iter().chain(due).min() {
                Some(next) => {
                    let left = next.saturating_duration_since(Instant::now());
                    Some(left.try_into().map_err(io::Error::other)?)
                }
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
                    Held::ISTIO_CNI => self.obey()?,
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
            Command::CloseAll(uid) => {
                self.held.release(|owner, _| owner == uid);
            }
            Command::Zds { path, sockets } => self.zds = Some(Zds::new(path, sockets)),
            Command::ClosePort { uid, port } => {
                self.held
                    .release(|owner, address| owner == uid && address.port() == port);
            }
            Command::Terminate { linger_ms } => {
                self.held.release(|_, _| true);
                // Whoever leaves is told of no pod any more.
                self.zds = None;
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
            let served = match File::open(&enrolment.netns) {
                Ok(netns) => self.serve_pod(&enrolment.uid, netns, &enrolment.sockets)?,
                Err(error) => Err(Reply::Failed(error.to_string())),
            };
            if let Err(problem) = served
                && matches!(reply, Reply::Done)
            {
                reply = problem;
            }
        }
        Ok(reply)
    }

    /// Binds in a pod: everything or, as the real one, nothing. Fails only where the way home is lost.
    fn serve_pod(&mut self, uid: &str, netns: File, sockets: &[Socket]) -> io::Result<Result<(), Reply>> {
        let result = self.bind_in(uid, &netns, sockets);
        enter(&self.home)?;
        let problem = match result {
            Ok(None) => {
                self.held.stay(uid, netns);
                return Ok(Ok(()));
            }
            Ok(Some(taken)) => Reply::PortTaken(taken),
            Err(error) => Reply::Failed(explain(error, format!("enrolling {uid}")).to_string()),
        };
        self.held.release(|owner, _| owner == uid);
        Ok(Err(problem))
    }

    /// Binds one after the other, and stops at the first address that is taken.
    fn bind_in(&mut self, uid: &str, netns: &File, sockets: &[Socket]) -> io::Result<Option<SocketAddr>> {
        enter(netns)?;
        for wanted in sockets {
            let socket = if wanted.udp {
                sockets::bind_udp(wanted.address)
            } else {
                sockets::listen(wanted.address, true, true)
            };
            match socket {
                Ok(socket) => {
                    self.held.hold(&self.epoll, uid, wanted.address, socket)?;
                }
                // The real one does without `[::1]` where the pod has IPv6 switched off.
                Err(error)
                    if error.kind() == io::ErrorKind::AddrNotAvailable
                        && wanted.address.ip().is_loopback() => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(Some(wanted.address)),
                Err(error) => return Err(explain(error, format!("binding {}", wanted.address))),
            }
        }
        Ok(None)
    }

    /// Does what is due towards istio-cni.
    fn converse(&mut self) -> io::Result<()> {
        let Some(zds) = &mut self.zds else { return Ok(()) };
        zds.connect(&self.epoll, Held::ISTIO_CNI)?;
        for (uid, netns) in zds.retries() {
            self.take_in(uid, netns)?;
        }
        Ok(())
    }

    /// Does what istio-cni asks, and says what came of it.
    fn obey(&mut self) -> io::Result<()> {
        let Some(zds) = &mut self.zds else { return Ok(()) };
        let problem = match zds.receive(self.held.served())? {
            Act::Nothing => return Ok(()),
            Act::LetGo(uids) => {
                self.held.release(|owner, _| uids.iter().any(|uid| uid == owner));
                self.held.leave(&uids);
                None
            }
            Act::Serve { uid, netns } => self.take_in(uid, netns)?,
        };
        if let Some(zds) = &mut self.zds {
            zds.acknowledge(problem);
        }
        Ok(())
    }

    /// Serves a pod that is new, or that has a new network namespace. What is wrong, if anything is.
    fn take_in(&mut self, uid: String, netns: File) -> io::Result<Option<String>> {
        self.held.release(|owner, _| owner == uid);
        self.held.leave(std::slice::from_ref(&uid));
        let Some(zds) = &mut self.zds else { return Ok(None) };
        let again = netns.try_clone()?;
        let sockets = zds.sockets();
        let Err(problem) = self.serve_pod(&uid, netns, &sockets)? else {
            return Ok(None);
        };
        if let Some(zds) = &mut self.zds {
            zds.postpone(uid, again);
        }
        Ok(Some(match problem {
            Reply::PortTaken(address) => format!("failure to start proxy : {address}: AddrInUse"),
            other => format!("failure to start proxy : {other:?}"),
        }))
    }
}

/// Takes the calling thread into a network namespace.
pub(crate) fn enter(netns: &File) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
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
