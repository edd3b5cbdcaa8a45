// SPDX-License-Identifier: Apache-2.0
//! `portforward`.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rustix::thread::LinkNameSpaceType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Sender, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::super::call::Query;
use super::super::failure::{Failure, Outcome};
use super::super::pods::{Place, Pods};
use super::upgrade::Socket;
use crate::api::pods::PodRef;
use crate::process::netns_path;

/// How many ports one request may name.
const PORTS: usize = 128;
/// How much is read at once.
const BLOCK: usize = 16 * 1024;
/// How many messages wait for a slow client.
const WAITING: usize = 16;

/// Where a port leads.
pub(super) struct Path {
    port: u16,
    to: To,
}

enum To {
    Address(SocketAddr),
    Pod(Place),
    Nowhere,
}

/// The ports of a request: each in a parameter, or all in one.
pub(super) fn ports(query: &Query) -> Outcome<Vec<u16>> {
    let ports: Result<Vec<_>, _> = query
        .all("ports")
        .flat_map(|ports| ports.split(','))
        .map(str::parse)
        .collect();
    let wrong = || Failure::bad_request("query parameter \"ports\" must be numbers of ports");
    ports.ok().filter(|ports| ports.len() <= PORTS).ok_or_else(wrong)
}

/// Where the ports of a pod lead.
pub(super) fn paths(pods: &Pods, pod: &PodRef, ports: &[u16]) -> Vec<Path> {
    let to = |port| match (pods.forward(pod, port), pods.place(pod)) {
        (Some(address), _) => To::Address(address),
        (None, Some(place)) => To::Pod(place),
        (None, None) => To::Nowhere,
    };
    let all = ports.iter();
    all.map(|&port| Path { port, to: to(port) }).collect()
}

/// Forwards until the client has enough, or until no port is left.
pub(super) async fn forward(socket: Socket, pod: PodRef, paths: Vec<Path>) {
    let (mut sink, mut incoming) = socket.split();
    let (frames, mut outgoing) = mpsc::channel(WAITING);
    let mut inputs = Vec::new();
    let mut tasks = JoinSet::new();
    for (channel, path) in (0u8..).step_by(2).zip(paths) {
        let [low, high] = path.port.to_le_bytes();
        for channel in [channel, channel + 1] {
            let first = Message::binary(vec![channel, low, high]);
            if sink.send(first).await.is_err() {
                return;
            }
        }
        // Without a bound, since the loop below must not wait for one port.
        let (input, given) = mpsc::unbounded_channel();
        inputs.push(input);
        tasks.spawn(carry(pod.clone(), path, channel, frames.clone(), given));
    }
    drop(frames);
    loop {
        tokio::select! {
            frame = outgoing.recv() => match frame {
                Some(frame) => if sink.send(Message::binary::<Vec<u8>>(frame)).await.is_err() { return },
                None => break,
            },
            message = incoming.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.len() > 1 && bytes[0].is_multiple_of(2) => {
                    if let Some(input) = inputs.get(usize::from(bytes[0]) / 2) {
                        let _ = input.send(bytes.slice(1..));
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    if sink.send(Message::Close(None)).await.is_ok() {
        while let Some(Ok(_)) = incoming.next().await {}
    }
}

/// Carries what goes through one port.
async fn carry(
    pod: PodRef,
    path: Path,
    channel: u8,
    frames: Sender<Vec<u8>>,
    mut given: UnboundedReceiver<Bytes>,
) {
    let port = path.port;
    let stream = match path.connect().await {
        Ok(stream) => stream,
        Err(error) => {
            let why = format!(
                "error forwarding port {port} to pod {}_{}, uid : failed to execute portforward in network \
                 namespace: failed to connect to localhost:{port} inside namespace: {error}",
                pod.namespace, pod.name
            );
            let _ = frames.send([&[channel + 1], why.as_bytes()].concat()).await;
            return;
        }
    };
    let (mut reader, mut writer) = stream.into_split();
    let mut block = vec![0; BLOCK];
    let mut open = true;
    loop {
        tokio::select! {
            read = reader.read(&mut block) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let frame = [&[channel], &block[..length]].concat();
                    if frames.send(frame).await.is_err() {
                        return;
                    }
                }
            },
            bytes = given.recv(), if open => match bytes {
                Some(bytes) => open = writer.write_all(&bytes).await.is_ok(),
                None => {
                    open = false;
                    let _ = writer.shutdown().await;
                }
            },
        }
    }
}

impl Path {
    async fn connect(self) -> io::Result<TcpStream> {
        match self.to {
            To::Address(address) => TcpStream::connect(address).await,
            To::Pod(place) => inside(place.pid, self.port).await,
            To::Nowhere => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "nothing runs for the pod",
            )),
        }
    }
}

/// Connects to the loopback of a process's network namespace.
async fn inside(pid: u32, port: u16) -> io::Result<TcpStream> {
    let (answer, answered) = oneshot::channel();
    // A thread of its own, since it does not come back from there.
    std::thread::spawn(move || {
        let connect = || {
            let netns = File::open(netns_path(pid))?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&netns),
                Some(LinkNameSpaceType::Network),
            )?;
            let connected = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            let stream = connected.or_else(|error| {
                std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).map_err(|_| error)
            })?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let _ = answer.send(connect());
    });
    let stream = answered.await.map_err(io::Error::other)?;
    stream.and_then(TcpStream::from_std)
}
