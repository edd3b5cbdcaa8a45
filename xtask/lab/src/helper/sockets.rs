// SPDX-License-Identifier: Apache-2.0
//! Sockets as the helpers open them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// The backlog of every listener.
const BACKLOG: i32 = 1024;
/// ztunnel's mark on its own sockets.
const ZTUNNEL_MARK: u32 = 1337;

fn open(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

/// Listens on an address; `[::]` takes IPv4 too.
pub(super) fn listen(address: SocketAddr, reuse_port: bool, mark: bool) -> io::Result<OwnedFd> {
    let socket = open(address, SocketType::STREAM)?;
    // As every server does, so that closed connections of an earlier listener do not stand in the way.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    prepare(&socket, address, reuse_port, mark)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Binds a datagram socket.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open(address, SocketType::DGRAM)?;
    prepare(&socket, address, true, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn prepare(socket: &OwnedFd, address: SocketAddr, reuse_port: bool, mark: bool) -> io::Result<()> {
    if reuse_port {
        sockopt::set_socket_reuseport(socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, false)?;
    }
    if mark {
        set_mark(socket, ZTUNNEL_MARK)?;
    }
    Ok(())
}

fn set_mark(socket: &OwnedFd, mark: u32) -> io::Result<()> {
    match crate::sys::set_mark(socket, mark) {
        // Needs CAP_NET_ADMIN over the socket's namespace; without it a listener is better than none.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// The address a socket is bound to, with the port that the kernel chose.
pub(super) fn local(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}

/// Connects over loopback, where that is done at once.
pub(super) fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
