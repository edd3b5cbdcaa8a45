// SPDX-License-Identifier: Apache-2.0
//! The client that acts: it repeats nothing by itself, and it listens to what the API server lets slip: its time, and
//! whether the watches still live.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{DATE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use jiff::{SignedDuration, Timestamp};
use kube::client::ClientBuilder;
use kube::{Client, Config, Error};
use tower::{Layer, Service};

use crate::time::Uptime;

/// How audit logs of the API server know us.
const AGENT: &str = concat!("meshmedic/", env!("CARGO_PKG_VERSION"));
/// How long a connection may be silent. Longer than a watch without news lasts (kube asks for 290 s), so it ends only
/// what hangs: by default kube waits forever for a server that vanished, and the watch would show its past forever.
const MAX_SILENCE: Duration = Duration::from_secs(300);
/// `Date` is cut to this.
const CUT: SignedDuration = SignedDuration::from_secs(1);
/// What differs between one watch and the next of the same objects.
const VOLATILE: [&str; 6] = [
    "allowWatchBookmarks",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];

/// A client that acts, and what it overhears.
#[derive(Clone)]
pub struct Acting {
    /// The client. It waits long for an answer; whoever has not the time sets a bound.
    pub client: Client,
    /// The API server's time.
    pub clock: Arc<ServerClock>,
    /// When each watch was last heard of.
    pub watches: Arc<WatchAges>,
}

/// Makes a client that acts.
pub fn acting(mut config: Config) -> Result<Acting, Error> {
    // kube repeats what was answered with 429, 503 or 504, up to 15 times and minutes later. A PodDisruptionBudget
    // refuses with 429: the eviction would be fired again when nobody judges any more whether it should.
    config.default_retry = false;
    config.read_timeout.get_or_insert(MAX_SILENCE);
    config.headers.retain(|(name, _)| name != USER_AGENT);
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    let observe = Observe::default();
    let client = ClientBuilder::try_from(config)?.with_layer(&observe).build();
    Ok(Acting {
        client,
        clock: observe.clock,
        watches: observe.watches,
    })
}

/// What the API server's clock shows. Timestamps of its objects are compared with this one, not with the node's.
///
/// It is carried on from answer to answer by a clock that goes on while the machine sleeps. `Date` is cut to its second,
/// so an answer says that it is this second or later: the latest that was known so holds while it is within that second.
/// So it goes on steadily, lags by at most what an answer took and that second, and runs ahead by less than one second,
/// where this machine's clock is the faster one.
#[derive(Debug, Default)]
pub struct ServerClock(Mutex<Option<Reckoning>>);

#[derive(Clone, Copy, Debug)]
struct Reckoning {
    /// What the last answer said, when it came, and what the time was then by all answers.
    said: Timestamp,
    heard: Uptime,
    reckoned: Timestamp,
    /// The latest that was shown. An answer that took longer than the one before does not turn the clock back.
    shown: Timestamp,
}

impl Reckoning {
    fn at(&self, at: Uptime) -> Timestamp {
        let elapsed = SignedDuration::try_from(at.since(self.heard));
        let elapsed = elapsed.unwrap_or(SignedDuration::MAX);
        self.reckoned.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    }
}

impl ServerClock {
    /// The API server's time; `None` before its first answer.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        self.now_at(Uptime::now())
    }

    /// How long ago the server last said its time.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let heard = (*lock(&self.0))?.heard;
        Some(Uptime::now().since(heard))
    }

    fn now_at(&self, at: Uptime) -> Option<Timestamp> {
        let mut reckoning = lock(&self.0);
        let reckoning = reckoning.as_mut()?;
        reckoning.shown = reckoning.shown.max(reckoning.at(at));
        Some(reckoning.shown)
    }

    fn note(&self, said: Timestamp, heard: Uptime) {
        let mut reckoning = lock(&self.0);
        let (reckoned, shown) = match *reckoning {
            None => (said, said),
            // Where the server itself went back, set or another one of several, we go back as far.
            Some(before) if said < before.said => {
                let back = before.at(heard).duration_since(said);
                (said, before.shown.saturating_sub(back).unwrap_or(said))
            }
            Some(before) => {
                let latest = said.saturating_add(CUT).unwrap_or(Timestamp::MAX);
                (before.at(heard).clamp(said, latest), before.shown)
            }
        };
        *reckoning = Some(Reckoning {
            said,
            heard,
            reckoned,
            shown,
        });
    }

    /// Only of a success: an error may come from a proxy with a clock of its own.
    fn overhear(&self, headers: &HeaderMap, heard: Uptime) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(date) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) {
            self.note(date.timestamp(), heard);
        }
    }
}

/// When each watch was last heard of. A watch that is silent for longer than the server's bookmarks take shows a past
/// that nobody should act on.
#[derive(Debug, Default)]
pub struct WatchAges(Mutex<HashMap<String, Uptime>>);

impl WatchAges {
    /// For how long the watches of this resource, such as `pods`, have been silent: the most silent one where there are
    /// several. `None` if there was none yet.
    #[must_use]
    pub fn age(&self, resource: &str) -> Option<Duration> {
        self.age_at(resource, Uptime::now())
    }

    /// Forgets the watches of this resource, for when one of them is given up for good. The others are heard of again
    /// with their next piece.
    pub fn forget(&self, resource: &str) {
        lock(&self.0).retain(|stream, _| resource_of(stream) != resource);
    }

    fn age_at(&self, resource: &str, at: Uptime) -> Option<Duration> {
        let streams = lock(&self.0);
        let of_resource = streams
            .iter()
            .filter(|(stream, _)| resource_of(stream) == resource);
        of_resource.map(|(_, &heard)| at.since(heard)).max()
    }

    fn note(&self, stream: &str, heard: Uptime) {
        let mut streams = lock(&self.0);
        match streams.get_mut(stream) {
            Some(last) => *last = heard,
            None => {
                streams.insert(stream.to_owned(), heard);
            }
        }
    }
}

fn resource_of(stream: &str) -> &str {
    let path = stream.split_once('?').map_or(stream, |(path, _)| path);
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// What a watch is of: path and selectors, the same for each watch that succeeds it. `None` if it is no watch.
fn stream_of(uri: &Uri) -> Option<String> {
    let parameters = || uri.query().unwrap_or_default().split('&');
    parameters().find(|parameter| matches!(*parameter, "watch=true" | "watch=1"))?;
    let mut kept: Vec<&str> = parameters()
        .filter(|parameter| {
            let key = parameter.split_once('=').map_or(*parameter, |(key, _)| key);
            !VOLATILE.contains(&key)
        })
        .collect();
    kept.sort_unstable();
    Some(format!("{}?{}", uri.path(), kept.join("&")))
}

/// A thread that panicked while it held one of these left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts an ear on all answers.
#[derive(Clone, Default)]
struct Observe {
    clock: Arc<ServerClock>,
    watches: Arc<WatchAges>,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        let observe = self.clone();
        Observed { inner, observe }
    }
}

struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S, B, R> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Overheard<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let stream = stream_of(request.uri());
        let Observe { clock, watches } = self.observe.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let heard = Uptime::now();
            let success = response.status().is_success();
            if success {
                clock.overhear(response.headers(), heard);
            }
            let watch = stream.filter(|_| success).map(|stream| {
                watches.note(&stream, heard);
                Watch { watches, stream }
            });
            Ok(response.map(|inner| Overheard { inner, watch }))
        })
    }
}

struct Watch {
    watches: Arc<WatchAges>,
    stream: String,
}

/// The body of an answer; of a watch, each piece is noted as a sign of life.
struct Overheard<B> {
    inner: B,
    watch: Option<Watch>,
}

impl<B: Body + Unpin> Body for Overheard<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.inner).poll_frame(context);
        if let (Poll::Ready(Some(Ok(_))), Some(watch)) = (&frame, &this.watch) {
            watch.watches.note(&watch.stream, Uptime::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
