// SPDX-License-Identifier: Apache-2.0
//! What istio-cni's node agent and ztunnel say to one another: Istio's ZDS, as the real ones speak it.
//!
//! One protobuf message a packet of a `SOCK_SEQPACKET` socket, on which istio-cni listens. ztunnel says hello;
//! then istio-cni alone asks, and ztunnel acknowledges each request before the next. The network namespace of a
//! pod that is added travels beside its message, as a descriptor.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use prost::Message;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// The version of the protocol that ztunnel says in its hello.
const V1: i32 = 1;
/// The longest message; the real istio-cni reads no longer one.
const LONGEST: usize = 1024;
/// How many connections may wait to be accepted.
const BACKLOG: i32 = 16;

/// ztunnel's first message.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Hello {
    #[prost(int32, tag = "1")]
    version: i32,
}

impl Hello {
    pub(crate) const fn new() -> Self {
        Self { version: V1 }
    }
}

/// What istio-cni asks.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Request {
    #[prost(oneof = "Payload", tags = "1, 2, 3, 5")]
    pub(crate) payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(crate) enum Payload {
    /// Serve this pod, whose network namespace comes beside the message.
    #[prost(message, tag = "1")]
    Add(Add),
    /// Serve it no longer.
    #[prost(message, tag = "2")]
    Del(Del),
    /// That was all: let go of whatever was not named.
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    /// Keep serving this pod if it is served; its network namespace is not known.
    #[prost(message, tag = "5")]
    Keep(Keep),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Add {
    #[prost(string, tag = "1")]
    pub(crate) uid: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) workload_info: Option<WorkloadInfo>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct WorkloadInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(string, tag = "3")]
    pub(crate) service_account: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Keep {
    #[prost(string, tag = "1")]
    pub(crate) uid: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Del {
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct SnapshotSent {}

/// What ztunnel answers.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Response {
    #[prost(oneof = "Answer", tags = "1")]
    payload: Option<Answer>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
enum Answer {
    #[prost(message, tag = "1")]
    Ack(Ack),
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Ack {
    #[prost(string, tag = "1")]
    error: String,
}

impl Response {
    /// The acknowledgement, which is a refusal where `error` is not empty.
    pub(crate) const fn ack(error: String) -> Self {
        Self {
            payload: Some(Answer::Ack(Ack { error })),
        }
    }

    /// What it says is wrong; empty where nothing is.
    pub(crate) fn error(&self) -> &str {
        match &self.payload {
            Some(Answer::Ack(ack)) => &ack.error,
            None => "an answer that is no acknowledgement",
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Listens as istio-cni does: a socket that an agent before it left is replaced.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects as ztunnel does.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Sends a message, with a network namespace beside it or none.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Message,
    netns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = netns.as_slice();
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a message, and the network namespace that came beside it; `None` at the end.
pub(crate) fn receive<M: Message + Default>(socket: impl AsFd) -> io::Result<Option<(M, Option<File>)>> {
    let mut bytes = [0; LONGEST];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket, slices, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let netns = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next().map(File::from),
        _ => None,
    });
    if received.bytes == 0 {
        return Ok(None);
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut off",
        ));
    }
    let message = M::decode(&bytes[..received.bytes]);
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, netns)))
}
