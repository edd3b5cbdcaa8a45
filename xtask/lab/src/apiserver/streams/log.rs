// SPDX-License-Identifier: Apache-2.0
//! `log`.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::mpsc::{self, Sender};

use super::super::call::Call;
use super::super::done::Done;
use super::super::failure::{Failure, Outcome};
use super::super::object::{meta, text};
use super::super::pods::{Book, Place, container, narrowest, state_of};
use super::super::server::Server;
use super::super::store::Key;
use super::super::watch::Lines;
use crate::api::pods::PodRef;
use crate::api::pods::{LogEnd, LogText};

/// How many pieces wait for a slow client.
const WAITING: usize = 16;
/// How often a file is looked at that is followed.
const LOOK: Duration = Duration::from_millis(50);
/// What a kubelet says of a container whose image it cannot have.
const PULLING: [(&str, &str); 2] = [
    ("ErrImagePull", "image can't be pulled"),
    ("ImagePullBackOff", "trying and failing to pull image"),
];

/// A line, and when the runtime had it.
struct Line {
    at: Timestamp,
    text: String,
}

/// What is wanted of a log.
struct Wanted {
    since: Option<Timestamp>,
    tail: Option<usize>,
    limit: Option<usize>,
    timestamps: bool,
    follow: bool,
}

/// What is needed to read a log again.
struct Reader {
    server: Arc<Server>,
    key: Key,
    uid: String,
    target: PodRef,
    wanted: Wanted,
}

/// Begins to show a log.
pub(crate) fn start(server: &Arc<Server>, call: &Call) -> Outcome<Done> {
    let key = Key::new(call.resource, call.space(), &call.name);
    let state = server.state();
    let wanted = Wanted::read(call, state.now())?;
    let (pod, name) = container(&state.store, &key, call.query.get("container"))?;
    if text(&pod, "/spec/nodeName").is_empty() {
        return Ok(Done::Nothing);
    }
    if call.query.is_true("previous") {
        return Err(Failure::bad_request(format!(
            "previous terminated container \"{name}\" in pod \"{}\" not found",
            call.name
        )));
    }
    let waiting = text(state_of(&pod, &name), "/waiting/reason");
    if !waiting.is_empty() {
        let known = PULLING.iter().find(|(reason, _)| *reason == waiting);
        return Err(Failure::bad_request(format!(
            "container \"{name}\" in pod \"{}\" is waiting to start: {}",
            call.name,
            known.map_or(waiting, |(_, why)| why)
        )));
    }
    let reader = Reader {
        server: Arc::clone(server),
        uid: meta(&pod, "uid").to_owned(),
        target: PodRef::new(call.space(), &call.name).container(&name),
        key,
        wanted,
    };
    drop(state);
    let (pieces, body) = mpsc::channel(WAITING);
    tokio::spawn(reader.tell(pieces));
    Ok(Done::Log(Lines::of(body)))
}

impl Wanted {
    fn read(call: &Call, now: Timestamp) -> Outcome<Self> {
        let query = &call.query;
        let invalid = |field: &str, why: &str| {
            let message = format!("PodLogOptions \"{}\" is invalid: {field}: {why}", call.name);
            Failure::new(422, "Invalid", message)
        };
        let number = |field: &str, least: i64| -> Outcome<Option<i64>> {
            let given = query.get(field);
            if given.is_empty() {
                return Ok(None);
            }
            let number: i64 = given.parse().map_err(|_| {
                Failure::bad_request(format!("strconv.ParseInt: parsing \"{given}\": invalid syntax"))
            })?;
            if number < least {
                let bound = if least > 0 {
                    "must be greater than 0"
                } else {
                    "must be greater than or equal to 0"
                };
                return Err(invalid(field, &format!("Invalid value: {number}: {bound}")));
            }
            Ok(Some(number))
        };
        let size = |number: Option<i64>| number.and_then(|number| usize::try_from(number).ok());
        let seconds = number("sinceSeconds", 1)?;
        let time = query.get("sinceTime");
        if seconds.is_some() && !time.is_empty() {
            return Err(invalid(
                "sinceSeconds",
                "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        let since = match seconds {
            Some(seconds) => now.checked_sub(SignedDuration::from_secs(seconds)).ok(),
            None if time.is_empty() => None,
            None => Some(
                time.parse()
                    .map_err(|_| Failure::bad_request(format!("parsing time \"{time}\"")))?,
            ),
        };
        Ok(Self {
            since,
            tail: size(number("tailLines", 0)?),
            limit: size(number("limitBytes", 1)?),
            timestamps: query.is_true("timestamps"),
            follow: query.is_true("follow"),
        })
    }
}

impl Reader {
    async fn tell(self, pieces: Sender<io::Result<Bytes>>) {
        let (lines, end, is_file) = self.lines();
        let wanted: Vec<_> = lines
            .iter()
            .filter(|line| self.wanted.since.is_none_or(|since| line.at >= since))
            .collect();
        let tail = self.wanted.tail.unwrap_or(usize::MAX);
        let skip = wanted.len().saturating_sub(tail);
        let mut text = self.write(wanted.into_iter().skip(skip));
        if let LogEnd::Cut(bytes) = end {
            text.truncate(bytes);
        }
        if !send(&pieces, text.clone()).await {
            return;
        }
        match end {
            LogEnd::Cut(_) => {
                // Once nothing waits, what was said is on its way, and is not dropped with the connection.
                let all = pieces.reserve_many(WAITING).await.map(drop);
                if all.is_ok() {
                    let _ = pieces.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
                }
            }
            LogEnd::Endless if !text.is_empty() => while send(&pieces, text.clone()).await {},
            LogEnd::Endless | LogEnd::Hangs => pieces.closed().await,
            LogEnd::Usual if self.wanted.limit.is_some_and(|limit| text.len() >= limit) => {}
            LogEnd::Usual if self.wanted.follow => self.follow(pieces, lines.len(), is_file).await,
            LogEnd::Usual => {}
        }
    }

    /// Tells what comes, until nothing more can come.
    async fn follow(&self, pieces: Sender<io::Result<Bytes>>, mut shown: usize, is_file: bool) {
        let mut changes = self.server.changes();
        loop {
            let over = self.is_over();
            let (lines, ..) = self.lines();
            let text = self.write(lines.iter().skip(shown));
            shown = lines.len();
            if !send(&pieces, text).await || over {
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK), if is_file => {}
                () = pieces.closed() => return,
            }
        }
    }

    /// All lines, how they end, and whether they are in a file that may grow.
    fn lines(&self) -> (Vec<Line>, LogEnd, bool) {
        let (book, place) = {
            let state = self.server.state();
            let book = narrowest(&state.pods.logs, &self.target).cloned();
            (book, state.pods.place(&self.target))
        };
        match (book, place) {
            (Some(book), _) => {
                let is_file = matches!(book.log.text, LogText::File(_));
                (lines_of(&book), book.log.end, is_file)
            }
            (None, Some(place)) => (recorded(&place), LogEnd::Usual, true),
            (None, None) => (Vec::new(), LogEnd::Usual, false),
        }
    }

    fn write<'a>(&self, lines: impl Iterator<Item = &'a Line>) -> Bytes {
        let mut text = String::new();
        for line in lines {
            if self.wanted.timestamps {
                text += &format!("{:.9} ", line.at);
            }
            text += &line.text;
            text.push('\n');
        }
        let mut bytes = Bytes::from(text);
        bytes.truncate(self.wanted.limit.unwrap_or(usize::MAX));
        bytes
    }

    /// Whether nothing more can come: the pod is gone, or its container has ended.
    fn is_over(&self) -> bool {
        let state = self.server.state();
        let pod = state.store.get(&self.key);
        pod.is_none_or(|pod| {
            meta(pod, "uid") != self.uid || state_of(pod, &self.target.container)["terminated"].is_object()
        })
    }
}

async fn send(pieces: &Sender<io::Result<Bytes>>, text: Bytes) -> bool {
    text.is_empty() || pieces.send(Ok(text)).await.is_ok()
}

fn lines_of(book: &Book) -> Vec<Line> {
    let whole = match &book.log.text {
        LogText::Here(text) => text.clone(),
        LogText::File(path) => String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned(),
    };
    let mut lines = Vec::new();
    let mut at = None;
    for line in whole.lines() {
        let mut text = line;
        if book.log.stamped
            && let Some((time, rest)) = line.split_once(' ')
        {
            at = time.parse().ok().or(at);
            text = rest;
        } else {
            at = time_of(line).or(at);
        }
        let text = text.to_owned();
        lines.push(Line {
            at: at.unwrap_or(book.set),
            text,
        });
    }
    for (time, text) in &book.added {
        lines.extend(text.lines().map(|line| Line {
            at: time_of(line).unwrap_or(*time),
            text: line.to_owned(),
        }));
    }
    lines
}

/// The time that a line gives itself.
fn time_of(line: &str) -> Option<Timestamp> {
    if line.starts_with('{') {
        let entry: Value = serde_json::from_str(line).ok()?;
        return text(&entry, "/time").parse().ok();
    }
    line.split([' ', '\t']).next()?.parse().ok()
}

/// What is in the kubelet's folder, as the runtime writes it: time, stream, tag, text.
fn recorded(place: &Place) -> Vec<Line> {
    let path = place.logs.as_ref().map(|folder| folder.join("0.log"));
    let whole = path.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    String::from_utf8_lossy(&whole)
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let at = words.next()?.parse().ok()?;
            let text = words.nth(2)?.to_owned();
            Some(Line { at, text })
        })
        .collect()
}
