// SPDX-License-Identifier: Apache-2.0
//! A small Kubernetes API server, as a process: what clients of the real one rely upon, and faults on demand.
//!
//! It serves HTTP on a port of the loopback and obeys the lab on its standard input, with whose end it ends.

mod budgets;
mod call;
mod connection;
mod discovery;
mod dispatch;
mod done;
mod eviction;
mod failure;
mod faults;
pub(crate) mod object;
mod patch;
mod pods;
mod rbac;
mod read;
mod resources;
mod route;
mod security;
mod selector;
mod server;
mod store;
mod streams;
mod watch;
mod write;

use std::ffi::OsString;
use std::io::{self, BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::api::order::{Answer, Order};
pub(crate) use route::{Route, route_of, route_to};
use server::Server;

/// Serves until standard input ends, then removes a folder that the lab may not have had the time to remove.
pub(crate) fn run(folder: Option<&OsString>) -> io::Result<()> {
    let folder = folder.cloned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let port = listener.local_addr()?.port();
    let server = Arc::new(Server::new(&format!("apiserver/{port}/{}", std::process::id())));
    answer(&Answer::Serving { port })?;
    let obeying = Arc::clone(&server);
    // Reading standard input blocks, so it has a thread of its own.
    std::thread::spawn(move || {
        let result = obey(&obeying);
        if let Some(folder) = folder {
            // Mostly it is gone already.
            let _ = std::fs::remove_dir_all(folder);
        }
        std::process::exit(i32::from(result.is_err()))
    });
    runtime.block_on(server.serve(listener));
    Ok(())
}

fn obey(server: &Server) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let reply = match serde_json::from_str::<Order>(&line?) {
            Ok(order) => server.obey(order),
            Err(error) => Answer::Failed(error.to_string()),
        };
        answer(&reply)?;
    }
    Ok(())
}

fn answer(answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
