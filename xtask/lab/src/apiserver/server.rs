// SPDX-License-Identifier: Apache-2.0
//! What all connections share: the objects, the log, and what is in store for a request.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch::{self, Receiver, Sender};

use super::failure::Failure;
use super::faults::Faults;
use super::pods::{self, Pods};
use super::resources::known;
use super::store::Store;
use super::write::{Writer, manager};
use crate::api::fault::Outage;
use crate::api::order::{Answer, Order};
use crate::api::request::Request as Logged;
use crate::process::lock;

/// How often a watch sends a bookmark unless told otherwise.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// How many requests are remembered.
const LOG: usize = 100_000;

/// The server.
pub(crate) struct Server {
    state: Mutex<State>,
    /// Ticks whenever a watch may have something to say.
    changes: Sender<()>,
    /// Ticks when all connections are to be closed.
    kicks: Sender<()>,
}

/// What all connections share.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) pods: Pods,
    /// Watches of another epoch end.
    pub(crate) epoch: u64,
    /// How many run.
    pub(crate) watches: u64,
    pub(crate) bookmarks: Duration,
    log: Vec<Logged>,
    requests: u64,
    clock: SignedDuration,
    outage: Option<Outage>,
    started: Instant,
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(self.clock).unwrap_or(now)
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        self.outage
    }

    /// Numbers a request and keeps it in the log.
    pub(crate) fn enter(&mut self, request: &mut Logged) {
        self.requests += 1;
        request.number = self.requests;
        request.at = self.started.elapsed();
        if self.log.len() < LOG {
            self.log.push(request.clone());
        }
    }

    pub(crate) fn is_hanging(&self) -> bool {
        self.outage == Some(Outage::Hang)
    }
}

/// As Kubernetes writes times.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Server {
    pub(crate) fn new(seed: &str) -> Self {
        let mut store = Store::new(format!("{seed}/{}", Timestamp::now()));
        furnish(&mut store);
        let state = State {
            store,
            faults: Faults::default(),
            pods: Pods::default(),
            epoch: 0,
            watches: 0,
            bookmarks: BOOKMARKS,
            log: Vec::new(),
            requests: 0,
            clock: SignedDuration::ZERO,
            outage: None,
            started: Instant::now(),
        };
        Self {
            state: Mutex::new(state),
            changes: watch::channel(()).0,
            kicks: watch::channel(()).0,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn changes(&self) -> Receiver<()> {
        self.changes.subscribe()
    }

    /// Ticks when all connections are to be closed.
    pub(crate) fn kicks(&self) -> Receiver<()> {
        self.kicks.subscribe()
    }

    /// Tells the watches that there may be something to say.
    pub(crate) fn changed(&self) {
        self.changes.send_replace(());
    }

    /// Does what the lab wants.
    pub(crate) fn obey(&self, order: Order) -> Answer {
        let mut state = self.state();
        let mut answer = Answer::Done;
        match order {
            Order::Add(fault) => answer = Answer::Number(state.faults.add(*fault)),
            Order::Remove(number) => state.faults.remove(number),
            Order::Hits(number) => answer = Answer::Number(state.faults.hits(number)),
            Order::BreakWatches => state.epoch += 1,
            Order::Compact => state.store.compact(),
            Order::Remember(limit) => state.store.limit(limit),
            Order::Outage(outage) => {
                state.outage = outage;
                // What hung is not answered afterwards, either.
                self.kicks.send_replace(());
            }
            Order::Clock { milliseconds } => state.clock = SignedDuration::from_millis(milliseconds),
            Order::Bookmarks(every) => state.bookmarks = every,
            Order::Requests => answer = Answer::Requests(state.log.clone()),
            Order::ForgetRequests => {
                state.log.clear();
                state.pods.forget_peak();
            }
            Order::InstallIstio => super::resources::install_istio(),
            Order::Version => answer = Answer::Number(state.store.version()),
            Order::Watches => answer = Answer::Number(state.watches),
            Order::Populate { pod, count } => {
                if let Err(failure) = populate(&mut state, &pod, count) {
                    answer = Answer::Failed(failure.message);
                }
            }
            other => {
                let now = state.now();
                answer = state.pods.obey(other, now);
            }
        }
        drop(state);
        self.changed();
        answer
    }

    /// Notes in the log how a request was answered.
    pub(crate) fn note(&self, number: u64, code: Option<StatusCode>) {
        let mut state = self.state();
        let entry = state.log.iter_mut().rev().find(|entry| entry.number == number);
        if let Some(entry) = entry {
            entry.code = code.map(|code| code.as_u16());
        }
    }
}

fn populate(state: &mut State, pod: &Value, count: usize) -> Result<(), Failure> {
    let now = rfc3339(state.now());
    let mut writer = Writer {
        store: &mut state.store,
        now: now.clone(),
        later: &|_| now.clone(),
        manager: manager("", "kubelet"),
    };
    pods::populate(&mut writer, pod, count)
}

/// What is there from the beginning.
fn furnish(store: &mut Store) {
    let now = rfc3339(Timestamp::now());
    let mut writer = Writer {
        store,
        now: now.clone(),
        later: &|_| now.clone(),
        manager: manager("", "kube-apiserver"),
    };
    let named = |name: &str| json!({ "metadata": { "name": name } });
    let mut everything = named("cluster-admin");
    everything["rules"] = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
    let made = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| (known("namespaces"), named(name)))
        .into_iter()
        .chain([(known("clusterroles"), everything)])
        .try_for_each(|(resource, object)| writer.create(resource, "", object).map(drop));
    debug_assert!(made.is_ok(), "{made:?}");
}
