// SPDX-License-Identifier: Apache-2.0
//! Watches.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::call::Call;
use super::failure::{Failure, Outcome};
use super::object::{meta, set_meta};
use super::read::{check_future, shown, too_old};
use super::server::{Server, State};
use super::store::{Change, of};
use crate::api::request::Request;

/// How many events wait for a slow client.
const WAITING: usize = 64;
/// How long a watch lasts unless its client says.
const LIFETIME: Duration = Duration::from_secs(1800);

/// A body of lines that come when they come.
pub(crate) struct Lines(mpsc::Receiver<std::io::Result<Bytes>>);

impl Lines {
    /// An error in them drops the connection.
    pub(crate) fn of(lines: mpsc::Receiver<std::io::Result<Bytes>>) -> Self {
        Self(lines)
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|line| line.map(|line| line.map(Frame::data)))
    }
}

/// A watch that runs.
struct Watch {
    server: Arc<Server>,
    call: Box<Call>,
    request: Request,
    lines: mpsc::Sender<std::io::Result<Bytes>>,
    /// Everything up to this version was said.
    seen: u64,
    /// Ends when this is no longer the server's.
    epoch: u64,
    /// What is to be said before anything else.
    first: Vec<Bytes>,
}

/// Starts a watch.
pub(crate) fn start(server: &Arc<Server>, call: Box<Call>, request: Request) -> Outcome<Lines> {
    let (lines, body) = mpsc::channel(WAITING);
    let mut watch = Watch {
        server: Arc::clone(server),
        call,
        request,
        lines,
        seen: 0,
        epoch: 0,
        first: Vec::new(),
    };
    {
        let mut state = server.state();
        watch.prepare(&state)?;
        state.watches += 1;
    }
    tokio::spawn(async move {
        let server = Arc::clone(&watch.server);
        watch.run().await;
        server.state().watches -= 1;
    });
    Ok(Lines(body))
}

impl Watch {
    fn prepare(&mut self, state: &State) -> Outcome<()> {
        let (query, store) = (&self.call.query, &state.store);
        self.epoch = state.epoch;
        let asked = query.get("resourceVersion");
        let initial = query.is_true("sendInitialEvents");
        if !query.get("sendInitialEvents").is_empty() && query.get("resourceVersionMatch") != "NotOlderThan" {
            let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Failure::invalid(
                self.call.resource,
                "",
                "resourceVersionMatch",
                why,
            ));
        }
        let version = match asked {
            "" | "0" => None,
            text => Some(
                text.parse::<u64>()
                    .map_err(|_| Failure::bad_request(format!("invalid resource version \"{text}\"")))?,
            ),
        };
        if initial || (version.is_none() && query.get("sendInitialEvents").is_empty()) {
            if let Some(version) = version {
                check_future(version, store)?;
            }
            self.seen = store.version();
            for (_, object) in of(
                store.objects(),
                self.call.resource,
                self.call.namespace.as_deref(),
            ) {
                if self.is_about(object) {
                    self.first.push(self.line("ADDED", object));
                }
            }
            if initial && query.is_true("allowWatchBookmarks") {
                self.first.push(self.bookmark(true));
            }
            return Ok(());
        }
        self.seen = version.unwrap_or_else(|| store.version());
        if self.seen < store.floor() {
            // The real one says it in the stream, too: the request itself was in order.
            self.first.push(error(&too_old(self.seen, store)));
            self.epoch = u64::MAX;
        }
        Ok(())
    }

    async fn run(mut self) {
        let seconds = self.call.query.get("timeoutSeconds").parse().ok();
        let end = Instant::now() + seconds.map_or(LIFETIME, Duration::from_secs);
        let mut changes = self.server.changes();
        let mut next_bookmark = Instant::now() + self.server.state().bookmarks;
        let mut due = false;
        loop {
            changes.mark_unchanged();
            // Asked before the rest is collected: what a silence kept back goes before any bookmark.
            let silent = self.is_silent();
            let (mut lines, ended) = self.collect();
            let said = !lines.is_empty();
            if std::mem::take(&mut due) && !said && !silent {
                lines.push(self.bookmark(false));
            }
            for line in lines {
                if self.lines.send(Ok(line)).await.is_err() {
                    return;
                }
            }
            if ended {
                return;
            }
            let every = self.server.state().bookmarks;
            next_bookmark = next_bookmark.min(Instant::now() + every);
            if said {
                next_bookmark = Instant::now() + every;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next_bookmark) => {
                    next_bookmark = Instant::now() + every;
                    due = self.call.query.is_true("allowWatchBookmarks");
                }
                () = tokio::time::sleep_until(end) => return,
                () = self.lines.closed() => return,
            }
        }
    }

    /// Whether an object is what was asked for: one by its name, or what the selectors choose.
    fn is_about(&self, object: &Value) -> bool {
        let name = &self.call.name;
        (name.is_empty() || name == meta(object, "name")) && self.call.selector.matches(object)
    }

    fn is_silent(&self) -> bool {
        self.server.state().faults.is_silent(&self.request)
    }

    /// What is to be said now, and whether that was the end.
    fn collect(&mut self) -> (Vec<Bytes>, bool) {
        let server = Arc::clone(&self.server);
        let state = server.state();
        if self.epoch == u64::MAX {
            return (std::mem::take(&mut self.first), true);
        }
        if state.epoch != self.epoch {
            return (Vec::new(), true);
        }
        if state.faults.is_silent(&self.request) {
            return (Vec::new(), false);
        }
        let mut lines = std::mem::take(&mut self.first);
        if self.seen < state.store.dropped() {
            // It was silent for so long that what it missed is forgotten.
            lines.push(error(&too_old(self.seen, &state.store)));
            return (lines, true);
        }
        for change in state.store.since(self.seen) {
            lines.extend(self.event(change));
        }
        self.seen = self.seen.max(state.store.version());
        (lines, false)
    }

    /// How a change looks to this watch.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let key = &change.key;
        let elsewhere = self
            .call
            .namespace
            .as_ref()
            .is_some_and(|own| *own != key.namespace);
        if key.resource != self.call.resource.id() || elsewhere {
            return None;
        }
        let matched = |object: &Option<_>| {
            object
                .as_ref()
                .is_some_and(|object: &Arc<Value>| self.is_about(object))
        };
        match (matched(&change.before), matched(&change.after)) {
            (false, true) => Some(self.line("ADDED", &change.shown)),
            (true, true) => Some(self.line("MODIFIED", &change.shown)),
            (true, false) => {
                // What left the selection is shown as it was, at the version at which it left.
                let mut gone = (**change.before.as_ref()?).clone();
                set_meta(&mut gone, "resourceVersion", change.version.to_string().into());
                Some(self.line("DELETED", &gone))
            }
            (false, false) => None,
        }
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        line(kind, &shown(&self.call, object))
    }

    fn bookmark(&self, initial: bool) -> Bytes {
        let resource = self.call.resource;
        let mut mark = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": self.seen.to_string(), "creationTimestamp": null },
        });
        if initial {
            mark["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        if resource.is_pod() {
            mark["spec"] = json!({ "containers": null });
        }
        self.line("BOOKMARK", &mark)
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    text.into()
}

fn error(failure: &Failure) -> Bytes {
    line("ERROR", &failure.body())
}
