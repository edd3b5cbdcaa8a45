// SPDX-License-Identifier: Apache-2.0
//! `exec` and `portforward`, up to where they begin, and the sessions of `exec`.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::super::call::Call;
use super::super::done::Done;
use super::super::failure::{Failure, Outcome};
use super::super::object::text;
use super::super::pods::{container, state_of};
use super::super::server::Server;
use super::super::store::Key;
use super::forward;
use super::produce::{Ending, Job, Piece, WAITING, no_program};
use super::upgrade::{self, Socket, Upgrade};
use crate::api::pods::{Exec, PodRef};
use crate::pod::hex;

/// The channels, which are the first byte of a message.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// The protocols of `exec`. The fifth differs in that a client can close a channel.
const EXEC: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// A session that counts as long as it is there.
struct Session(Arc<Server>);

impl Session {
    fn begin(server: &Arc<Server>) -> Self {
        let mut state = server.state();
        state.pods.sessions += 1;
        state.pods.peak = state.pods.peak.max(state.pods.sessions);
        Self(Arc::clone(server))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.state().pods.sessions -= 1;
    }
}

/// Who of the client's side wants to hear what.
#[derive(Clone, Copy)]
struct Wanted {
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// Begins an `exec` or a `portforward`.
pub(crate) fn connect(server: &Arc<Server>, call: &Call, upgrade: Option<Upgrade>) -> Outcome<Done> {
    let query = &call.query;
    let key = Key::new(call.resource, call.space(), &call.name);
    let mut target = PodRef::new(call.space(), &call.name);
    let ports = forward::ports(query)?;
    let state = server.state();
    let (pod, chosen) = if call.below == "portforward" {
        let pod = state.store.get(&key).map(|pod| (**pod).clone());
        let pod = pod.ok_or_else(|| Failure::not_found(call.resource, &call.name))?;
        (pod, String::new())
    } else {
        container(&state.store, &key, query.get("container"))?
    };
    if text(&pod, "/spec/nodeName").is_empty() {
        let why = format!("pod {} does not have a host assigned", call.name);
        return Err(Failure::bad_request(why));
    }
    let upgrade = upgrade.ok_or_else(|| Failure::bad_request("Upgrade request required"))?;
    if call.below == "portforward" {
        let (switch, on) = upgrade.agree(&EXEC[1..])?;
        let paths = forward::paths(&state.pods, &target, &ports);
        drop(state);
        spawn(server, on, move |socket| forward::forward(socket, target, paths));
        return Ok(Done::Switch(switch));
    }
    target.container.clone_from(&chosen);
    let wanted = Wanted {
        stdout: query.is_true("stdout"),
        stderr: query.is_true("stderr"),
        tty: query.is_true("tty"),
    };
    let command = query.all("command").map(str::to_owned).collect();
    let mut job = Job::new(&state.pods, &target, None, command);
    let status = state_of(&pod, &chosen);
    if text(&pod, "/status/phase") != "Running" || (!status.is_null() && status["running"].is_null()) {
        job = Job::new(
            &state.pods,
            &target,
            Some(Exec::status(missing(&chosen))),
            Vec::new(),
        );
    }
    drop(state);
    let (switch, on) = upgrade.agree(&EXEC)?;
    let session = Session::begin(server);
    spawn(server, on, move |socket| {
        converse(socket, session, job, wanted, chosen)
    });
    Ok(Done::Switch(switch))
}

/// Goes on beside the HTTP connection, until the end or until all connections are closed.
fn spawn<F>(server: &Arc<Server>, on: OnUpgrade, run: impl FnOnce(Socket) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let mut kicks = server.kicks();
    tokio::spawn(async move {
        let talk = async {
            if let Some(socket) = upgrade::open(on).await {
                run(socket).await;
            }
        };
        tokio::select! {
            () = talk => {}
            _ = kicks.changed() => {}
        }
    });
}

async fn converse(socket: Socket, session: Session, job: Job, wanted: Wanted, container: String) {
    let (mut sink, mut incoming) = socket.split();
    let (pieces, mut produced) = mpsc::channel(WAITING);
    let mut left = job.exec.cut;
    // Ends with this function, whatever it is doing.
    let mut producer = JoinSet::new();
    producer.spawn(job.produce(pieces));
    // The real one says so that the connection stands.
    let lowest = if wanted.stdout { STDOUT } else { STDERR };
    if sink.send(Message::binary(vec![lowest])).await.is_err() {
        return;
    }
    let ending = loop {
        let piece = tokio::select! {
            piece = produced.recv() => piece,
            message = incoming.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                // What comes for its input has no reader.
                Some(Ok(_)) => continue,
            },
        };
        let (channel, mut bytes) = match piece {
            None => return,
            Some(Piece::Started) => continue,
            Some(Piece::End(ending)) => break ending,
            Some(Piece::Out(bytes)) => (STDOUT, bytes),
            Some(Piece::Err(bytes)) => (if wanted.tty { STDOUT } else { STDERR }, bytes),
        };
        if let Some(left) = &mut left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= u64::try_from(bytes.len()).unwrap_or(*left);
        }
        let heard = if channel == STDOUT {
            wanted.stdout
        } else {
            wanted.stderr
        };
        if heard && !bytes.is_empty() {
            let message = [&[channel], &bytes[..]].concat();
            if sink.send(Message::binary(message)).await.is_err() {
                return;
            }
        }
        if left == Some(0) {
            return;
        }
    };
    // Whoever hears that it ended may begin the next.
    drop(session);
    if left.is_some() {
        return;
    }
    let message = [&[ERROR], status(ending, &container).to_string().as_bytes()].concat();
    let told = sink.send(Message::binary(message)).await;
    if told.is_err() || sink.send(Message::Close(None)).await.is_err() {
        return;
    }
    while let Some(Ok(_)) = incoming.next().await {}
}

/// The `Status` in which the API server tells how a command ended.
fn status(ending: Ending, container: &str) -> Value {
    match ending {
        Ending::Exit(0) => json!({ "metadata": {}, "status": "Success" }),
        Ending::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!(
                "command terminated with non-zero exit code: command terminated with exit code {code}"
            ),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        // The kubelet says it once, and the API server once more.
        Ending::NoProgram(program) => internal(&format!(
            "Internal error occurred: error executing command in container: failed to exec in container: failed \
             to start exec \"{}\": {}",
            hex(&format!("exec {container}"), 64),
            no_program("exec", &program),
        )),
        Ending::NoContainer => missing(container),
        Ending::Status(status) => status,
    }
}

fn missing(container: &str) -> Value {
    internal(&format!(
        "unable to upgrade connection: container not found (\"{container}\")"
    ))
}

fn internal(why: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": why }] },
        "code": 500,
    })
}
