// SPDX-License-Identifier: Apache-2.0
//! An address of this network namespace that can be reached from another, too.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::net::Shutdown as Close;

use crate::error::{Context as _, Result};
use crate::helper;

/// Accepts connections in another network namespace and passes them on, until it is dropped.
pub(crate) struct Relay {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens at an address there for what listens at the same address here.
    pub(crate) fn start(netns: &Path, address: SocketAddr) -> Result<Self> {
        let what = || format!("listening on {address} in {}", netns.display());
        let listener = listen(netns, address).context(what)?;
        let accepting = listener.try_clone().context(what)?;
        let thread = thread::spawn(move || {
            for connection in accepting.incoming() {
                let Ok(connection) = connection else { return };
                // One that is refused here is dropped there.
                if let Ok(target) = TcpStream::connect(address) {
                    let _ = join(connection, target);
                }
            }
        });
        Ok(Self {
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Ends the waiting for the next connection; those that are open end with their peers.
        let _ = rustix::net::shutdown(&self.listener, Close::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket stays in the namespace of the thread that opened it.
fn listen(netns: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    let netns = File::open(netns)?;
    let opened = thread::spawn(move || {
        helper::enter(&netns)?;
        TcpListener::bind(address)
    });
    opened
        .join()
        .map_err(|_| io::Error::other("the thread that was to listen ended"))?
}

/// Carries bytes both ways until both have ended.
fn join(here: TcpStream, there: TcpStream) -> io::Result<()> {
    for (mut from, mut to) in [(here.try_clone()?, there.try_clone()?), (there, here)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        });
    }
    Ok(())
}
