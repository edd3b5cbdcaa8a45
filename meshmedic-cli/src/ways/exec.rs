// SPDX-License-Identifier: Apache-2.0
//! Reading a pod by its own `cat`, in each of its running containers in turn until one answers.

use std::pin::pin;

use futures_util::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess};
use meshmedic_common::text::clean;
use meshmedic_common::verdict::Reason;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Unread;
use super::tables::{FILES, Readout, Tables};
use crate::connection::Connection;
use crate::selection::Target;

/// How much may wait between the connection and us.
const BUFFER: usize = 64 * 1024;
/// More than the tables of hundreds of thousands of connections; nobody but a hostile pod prints more.
const MAX_PRINTED: usize = 128 * 1024 * 1024;
/// From here on it is cheaper to hang up than to hear the end, if all that matters was seen.
const LONG: usize = 256 * 1024;
/// How much of its complaints is kept.
const MAX_COMPLAINT: usize = 2 * 1024;
const MAX_WORDS: usize = 200;
/// What shells and runtimes exit with if there is no such command, or it cannot be run.
const NOT_RUN: [&str; 2] = ["126", "127"];

/// Reads the pod; gives the container that answered.
pub(super) async fn read(connection: &Connection, target: &Target) -> Result<(String, Readout), Unread> {
    let mut last = Unread::new(Reason::NoProcess, "none of its containers runs");
    for container in &target.running {
        match read_in(connection, target, container).await {
            Ok(reading) => return Ok((container.clone(), reading)),
            Err(unread) if unread.reason == Reason::Forbidden => return Err(unread),
            // What one container cannot print another may; that it lies is the weightier news.
            Err(unread) if last.reason == Reason::Malformed => drop(unread),
            Err(unread) => last = unread,
        }
    }
    Err(last)
}

async fn read_in(connection: &Connection, target: &Target, container: &str) -> Result<Readout, Unread> {
    let (namespace, name) = (&target.facts.namespace, &target.facts.name);
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let parameters = AttachParams::default()
        .container(container)
        .stdin(false)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER);
    let command = || [&["cat"], &FILES[..]].concat();
    // To read twice is no harm, so this may be asked again like any question.
    let process = connection
        .ask("exec", || pods.exec(name, command(), &parameters))
        .await;
    let process = process.map_err(|failure| Unread::of(&failure))?;
    take(process, container).await
}

/// Takes what is printed, never more than fits.
async fn take(mut process: AttachedProcess, container: &str) -> Result<Readout, Unread> {
    let mut tables = Tables::default();
    let mut complaint = Vec::new();
    let mut printed_so_far = 0_usize;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let mut status = pin!(async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    });
    let (end, ended) = {
        let printed = print_into(stdout, |bytes| {
            tables.feed(bytes);
            printed_so_far += bytes.len();
            printed_so_far < LONG || !tables.is_complete()
        });
        let complained = print_into(stderr, |bytes| {
            let room = MAX_COMPLAINT.saturating_sub(complaint.len());
            complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
            true
        });
        let mut output = pin!(both(printed, complained));
        tokio::select! {
            biased;
            end = &mut output => (end, None),
            ended = &mut status => match ended {
                Some(ended) => (output.await, Some(ended)),
                // The connection was lost, and the streams have no end: only what is there is read.
                None => (output.now_or_never().unwrap_or(End::Cut), None),
            },
        }
    };
    tables.complain(&complaint);
    match end {
        End::TooMuch if !tables.is_complete() => {
            let detail = format!("container {container} printed more than any socket table");
            return Err(Unread::new(Reason::Malformed, detail));
        }
        // All that matters was seen.
        End::TooMuch | End::Enough => return finish(tables, container),
        End::Cut => return judge(tables, None, container),
        End::Over => {}
    }
    let ended = match ended {
        Some(ended) => Some(ended),
        None => status.await,
    };
    judge(tables, ended.as_ref(), container)
}

fn finish(tables: Tables, container: &str) -> Result<Readout, Unread> {
    tables
        .finish()
        .map_err(|(reason, detail)| Unread::new(reason, format!("container {container}: {detail}")))
}

/// Until both are over, or the first has had enough.
async fn both(printed: impl Future<Output = End>, complained: impl Future<Output = End>) -> End {
    let (mut printed, mut complained) = (pin!(printed), pin!(complained));
    let mut complained_all = false;
    loop {
        tokio::select! {
            end = &mut printed => {
                if matches!(end, End::Over) && !complained_all {
                    complained.await;
                }
                return end;
            }
            _ = &mut complained, if !complained_all => complained_all = true,
        }
    }
}

/// What follows from what was printed and how the command ended.
fn judge(mut tables: Tables, status: Option<&Status>, container: &str) -> Result<Readout, Unread> {
    let Some(status) = status else {
        if tables.is_complete() {
            return finish(tables, container);
        }
        return Err(Unread::new(
            Reason::ReadFailed,
            format!("container {container}: the connection broke before it had printed everything"),
        ));
    };
    let message = status.message.as_deref().unwrap_or_default();
    let causes = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten());
    let exit = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_deref());
    let not_run = exit.is_some_and(|code| NOT_RUN.contains(&code))
        || message.contains("executable file not found")
        || message.contains("no such file or directory");
    if !tables.has_any() && not_run {
        return Err(Unread::new(
            Reason::NoReader,
            format!("container {container} has no cat"),
        ));
    }
    if !tables.has_any() && tables.complaint().is_none() && status.status.as_deref() != Some("Success") {
        let words = clean(message, MAX_WORDS);
        return Err(Unread::new(
            Reason::ReadFailed,
            format!("container {container}: {words}"),
        ));
    }
    tables.end();
    finish(tables, container)
}

enum End {
    Over,
    Enough,
    TooMuch,
    Cut,
}

/// Hands what is printed to `take` until it wants no more.
async fn print_into(stream: Option<impl AsyncRead + Unpin>, mut take: impl FnMut(&[u8]) -> bool) -> End {
    let Some(mut stream) = stream else {
        return End::Over;
    };
    let mut buffer = vec![0; BUFFER];
    let mut printed = 0_usize;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return End::Over,
            Ok(length) => {
                printed = printed.saturating_add(length);
                if !take(&buffer[..length]) {
                    return End::Enough;
                }
                if printed > MAX_PRINTED {
                    return End::TooMuch;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};

    use super::*;

    const TABLES: &str = "  sl  local_address rem_address\n  sl  local_address remote_address\n";

    fn tables(text: &str) -> Tables {
        let mut tables = Tables::default();
        tables.feed(text.as_bytes());
        tables
    }

    fn exited(code: &str) -> Status {
        Status {
            status: Some("Failure".to_owned()),
            message: Some(format!("command terminated with exit code {code}")),
            details: Some(StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("ExitCode".to_owned()),
                    message: Some(code.to_owned()),
                    ..StatusCause::default()
                }]),
                ..StatusDetails::default()
            }),
            ..Status::default()
        }
    }

    #[test]
    fn tables_that_a_broken_connection_cut_prove_nothing() {
        let unread = judge(tables(TABLES), None, "app").unwrap_err();
        assert_eq!(unread.reason, Reason::ReadFailed);
        assert!(judge(tables(TABLES), Some(&exited("1")), "app").is_ok());
    }

    #[test]
    fn an_image_without_cat_is_told_from_a_failure() {
        let runtime = Status {
            status: Some("Failure".to_owned()),
            message: Some("exec: \"cat\": executable file not found in $PATH".to_owned()),
            ..Status::default()
        };
        for status in [exited("127"), exited("126"), runtime] {
            let unread = judge(tables(""), Some(&status), "app").unwrap_err();
            assert_eq!(
                (unread.reason, unread.detail.as_str()),
                (Reason::NoReader, "container app has no cat")
            );
        }
        let killed = judge(tables(""), Some(&exited("137")), "app").unwrap_err();
        assert_eq!(killed.reason, Reason::ReadFailed);
        assert!(killed.detail.contains("exit code 137"), "{}", killed.detail);
    }
}
