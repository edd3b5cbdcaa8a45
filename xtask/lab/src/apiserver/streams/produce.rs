// SPDX-License-Identifier: Apache-2.0
//! What a command in a container puts out.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::mpsc::Sender;

use super::super::pods::{Place, Pods, narrowest};
use crate::api::pods::PodRef;
use crate::api::pods::{Exec, Output, Tables};
use crate::process::netns_path;

/// How much is put out at once.
const BLOCK: usize = 32 * 1024;
/// How many pieces wait for a slow reader.
pub(super) const WAITING: usize = 16;
/// A pod that ztunnel serves, and one that it does not, as they were recorded.
const CAPTURED: [&[u8]; 2] = [
    include_bytes!("../../../../../meshmedic-common/tests/fixtures/proc/default.podns-1.tcp"),
    include_bytes!("../../../../../meshmedic-common/tests/fixtures/proc/default.podns-1.tcp6"),
];
const ORPHAN: [&[u8]; 2] = [
    include_bytes!("../../../../../meshmedic-common/tests/fixtures/proc/default.podns-u1.tcp"),
    include_bytes!("../../../../../meshmedic-common/tests/fixtures/proc/default.podns-u1.tcp6"),
];

/// A command that is to be carried out.
pub(super) struct Job {
    pub(super) exec: Exec,
    pub(super) command: Vec<String>,
    pub(super) place: Option<Place>,
    pub(super) programs: BTreeMap<String, PathBuf>,
}

/// What comes of it.
#[derive(Debug)]
pub(super) enum Piece {
    /// It runs.
    Started,
    Out(Bytes),
    Err(Bytes),
    End(Ending),
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ending {
    Exit(u8),
    /// It did not even start: the container has no such program.
    NoProgram(String),
    /// Nothing runs there.
    NoContainer,
    Status(Value),
}

/// Why no more is put out: nobody reads it.
struct Unread;

type Put = Result<(), Unread>;

impl Job {
    pub(super) fn new(pods: &Pods, pod: &PodRef, exec: Option<Exec>, command: Vec<String>) -> Self {
        let exec = exec.or_else(|| narrowest(&pods.exec, pod).cloned());
        Self {
            exec: exec.unwrap_or_else(Exec::run),
            command,
            place: pods.place(pod),
            programs: pods.programs.clone(),
        }
    }

    /// Carries it out, until it ends or nobody reads what it puts out.
    pub(super) async fn produce(self, pieces: Sender<Piece>) {
        if !self.exec.delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(self.exec.delay) => {}
                () = pieces.closed() => return,
            }
        }
        let Ok(ending) = self.put_out(&pieces).await else {
            return;
        };
        if self.exec.stays {
            pieces.closed().await;
        }
        let _ = pieces.send(Piece::End(ending)).await;
    }

    async fn put_out(&self, pieces: &Sender<Piece>) -> Result<Ending, Unread> {
        let exec = &self.exec;
        let first = self.command.first().map(String::as_str).unwrap_or_default();
        match &exec.output {
            Output::Status(status) => return Ok(Ending::Status(status.clone())),
            Output::Run => return self.run(pieces, None).await,
            Output::Without { programs, docker } => {
                let missing = programs.iter().any(|program| program == first);
                if !missing {
                    // What a shell would find is missing, too.
                    return self.run(pieces, Some("")).await;
                }
                if !docker {
                    return Ok(Ending::NoProgram(first.to_owned()));
                }
                put(pieces, Piece::Started).await?;
                let text = format!("{}\r\n", no_program("exec", first));
                put(pieces, Piece::Out(text.into())).await?;
            }
            Output::Tables(tables) => return self.cat(pieces, tables).await,
            Output::Text(text) => {
                put(pieces, Piece::Started).await?;
                put(pieces, Piece::Out(text.clone().into())).await?;
            }
            Output::Repeat { text, bytes } => {
                put(pieces, Piece::Started).await?;
                repeat(pieces, text, *bytes).await?;
            }
        }
        put(pieces, Piece::Err(exec.stderr.clone().into())).await?;
        Ok(Ending::Exit(exec.exit))
    }

    /// Does what `cat` does with socket tables.
    async fn cat(&self, pieces: &Sender<Piece>, tables: &Tables) -> Result<Ending, Unread> {
        let script: Vec<String>;
        let words = match self.command.as_slice() {
            [shell, option, text, ..] if shell.ends_with("sh") && option == "-c" => {
                script = text.split_whitespace().map(str::to_owned).collect();
                &script
            }
            words => words,
        };
        let Some((program, files)) = words.split_first() else {
            return Ok(Ending::NoProgram(String::new()));
        };
        if program.rsplit('/').next() != Some("cat") {
            return Ok(Ending::NoProgram(program.clone()));
        }
        put(pieces, Piece::Started).await?;
        let mut exit = self.exec.exit;
        for file in files.iter().filter(|file| !file.contains('>')) {
            match self.table(tables, file) {
                Some(bytes) => put(pieces, Piece::Out(bytes.into())).await?,
                None => {
                    let why = format!("cat: {file}: No such file or directory\n");
                    put(pieces, Piece::Err(why.into())).await?;
                    exit = 1;
                }
            }
        }
        put(pieces, Piece::Err(self.exec.stderr.clone().into())).await?;
        Ok(Ending::Exit(exit))
    }

    fn table(&self, tables: &Tables, file: &str) -> Option<Vec<u8>> {
        let (folder, table) = file.rsplit_once('/')?;
        let second = match (folder.starts_with("/proc/") && folder.ends_with("/net"), table) {
            (true, "tcp") => false,
            (true, "tcp6") => true,
            _ => return None,
        };
        match tables {
            Tables::Captured => Some(CAPTURED[usize::from(second)].to_vec()),
            Tables::Orphan => Some(ORPHAN[usize::from(second)].to_vec()),
            Tables::WithoutTcp6 if second => None,
            Tables::WithoutTcp6 => {
                let pid = self.place.as_ref()?.pid;
                std::fs::read(format!("/proc/{pid}/net/tcp")).ok()
            }
            Tables::These { tcp6, .. } if second => tcp6.clone(),
            Tables::These { tcp, .. } => Some(tcp.clone()),
        }
    }

    /// Runs the command in the pod's network namespace, maybe with another `PATH`.
    async fn run(&self, pieces: &Sender<Piece>, path: Option<&str>) -> Result<Ending, Unread> {
        let (Some(place), Some(name)) = (&self.place, self.command.first()) else {
            return Ok(Ending::NoContainer);
        };
        if !netns_path(place.pid).exists() {
            // It was killed, and its kubelet has not said so yet.
            return Ok(Ending::NoContainer);
        }
        let found = self.programs.get(name).cloned().or_else(|| find(name));
        let (Some(program), Ok(helper)) = (found, std::env::current_exe()) else {
            return Ok(Ending::NoProgram(name.clone()));
        };
        let mut command = Command::new(helper);
        command
            .args(["enter", &place.pid.to_string(), name])
            .arg(program)
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let Ok(mut child) = command.spawn() else {
            return Ok(Ending::NoContainer);
        };
        put(pieces, Piece::Started).await?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let copied = tokio::join!(copy(out, pieces, Piece::Out), copy(err, pieces, Piece::Err));
        copied.0.and(copied.1)?;
        let status = child.wait().await;
        Ok(Ending::Exit(status.map_or(u8::MAX, exit_code)))
    }
}

async fn put(pieces: &Sender<Piece>, piece: Piece) -> Put {
    if matches!(&piece, Piece::Out(bytes) | Piece::Err(bytes) if bytes.is_empty()) {
        return Ok(());
    }
    pieces.send(piece).await.map_err(|_| Unread)
}

async fn copy(from: Option<impl AsyncRead + Unpin>, pieces: &Sender<Piece>, as_: fn(Bytes) -> Piece) -> Put {
    let Some(mut from) = from else { return Ok(()) };
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(length) => {
                let bytes = Bytes::copy_from_slice(&block[..length]);
                put(pieces, as_(bytes)).await?;
            }
        }
    }
}

async fn repeat(pieces: &Sender<Piece>, text: &[u8], bytes: Option<u64>) -> Put {
    if text.is_empty() {
        return Ok(());
    }
    let block = Bytes::from(text.repeat((BLOCK / text.len()).max(1)));
    let mut left = bytes.unwrap_or(u64::MAX);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        put(pieces, Piece::Out(block.slice(..length))).await?;
        if bytes.is_some() {
            left -= u64::try_from(length).unwrap_or(left);
        }
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Finds a program as a runtime does.
fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path: &PathBuf| Path::is_file(path))
}

/// What the runtime says of a program that a container does not have; `what` is `exec` or `create`.
pub(super) fn no_program(what: &str, program: &str) -> String {
    let how = match what {
        "exec" => "OCI runtime exec failed: exec failed: unable to start container process",
        _ => {
            "OCI runtime create failed: runc create failed: unable to start container process: error during \
             container init"
        }
    };
    let why = if program.contains('/') {
        format!("stat {program}: no such file or directory")
    } else {
        "executable file not found in $PATH".to_owned()
    };
    format!("{how}: exec: \"{program}\": {why}: unknown")
}
