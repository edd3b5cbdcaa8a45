// SPDX-License-Identifier: Apache-2.0
//! The pods behind their objects: what is known of them, and what they were told to answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::{Failure, Outcome};
use super::object::{list, meta, set_meta, text};
use super::resources::known;
use super::store::{Key, Store};
use super::write::Writer;
use crate::api::order::{Answer, Order};
use crate::api::pods::{Ephemeral, Exec, Log, PodRef};

/// The lists in which a pod's containers are, in the order in which they are named.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// The node of pods for which nothing runs.
const NOWHERE: &str = "node-without-kubelet";

/// What is known of all pods, beside their objects.
#[derive(Default)]
pub(crate) struct Pods {
    pub(crate) exec: BTreeMap<PodRef, Exec>,
    pub(crate) logs: BTreeMap<PodRef, Book>,
    pub(crate) ephemeral: BTreeMap<PodRef, Ephemeral>,
    forwards: BTreeMap<(PodRef, u16), SocketAddr>,
    pub(crate) programs: BTreeMap<String, PathBuf>,
    places: BTreeMap<PodRef, Place>,
    /// Whether `get` is enough for a WebSocket.
    pub(crate) lenient: bool,
    pub(crate) sessions: u64,
    pub(crate) peak: u64,
}

/// Where a pod runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) pid: u32,
    /// The kubelet's folder of its container's log.
    pub(crate) logs: Option<PathBuf>,
}

/// A log, and what came after it was set.
#[derive(Clone)]
pub(crate) struct Book {
    pub(crate) log: Log,
    pub(crate) set: Timestamp,
    pub(crate) added: Vec<(Timestamp, String)>,
}

/// What is said of the narrowest of those that fit.
pub(crate) fn narrowest<'a, T>(all: &'a BTreeMap<PodRef, T>, pod: &PodRef) -> Option<&'a T> {
    pod.wider().find_map(|pod| all.get(&pod))
}

impl Pods {
    pub(crate) fn obey(&mut self, order: Order, now: Timestamp) -> Answer {
        match order {
            Order::Exec(pod, exec) => drop(self.exec.insert(pod, *exec)),
            Order::Log(pod, log) => self.set_log(pod, *log, now),
            Order::AppendLog(pod, text) => self.add_log(pod, text, now),
            Order::Ephemeral(pod, ephemeral) => drop(self.ephemeral.insert(pod, *ephemeral)),
            Order::Forward(pod, port, to) => drop(self.forwards.insert((pod, port), to)),
            Order::Program(name, path) => drop(self.programs.insert(name, path)),
            Order::Locate { pod, pid, logs } => drop(self.places.insert(pod, Place { pid, logs })),
            Order::WebSocketsNeedCreate(on) => self.lenient = !on,
            Order::Sessions => return Answer::Number(self.sessions),
            Order::PeakSessions => return Answer::Number(self.peak),
            other => return Answer::Failed(format!("not for the pods: {other:?}")),
        }
        Answer::Done
    }

    /// Begins to count the peak of sessions anew.
    pub(crate) fn forget_peak(&mut self) {
        self.peak = self.sessions;
    }

    pub(crate) fn set_log(&mut self, pod: PodRef, log: Log, now: Timestamp) {
        let book = Book {
            log,
            set: now,
            added: Vec::new(),
        };
        self.logs.insert(pod, book);
    }

    pub(crate) fn add_log(&mut self, pod: PodRef, text: String, now: Timestamp) {
        if !self.logs.contains_key(&pod) {
            self.set_log(pod.clone(), Log::text(""), now);
        }
        if let Some(book) = self.logs.get_mut(&pod) {
            book.added.push((now, text));
        }
    }

    /// Where a pod runs, if anything runs for it.
    pub(crate) fn place(&self, pod: &PodRef) -> Option<Place> {
        let whole = PodRef::new(&pod.namespace, &pod.name);
        self.places.get(&whole).cloned()
    }

    /// Where a port leads that something else stands for.
    pub(crate) fn forward(&self, pod: &PodRef, port: u16) -> Option<SocketAddr> {
        pod.wider()
            .find_map(|pod| self.forwards.get(&(pod, port)).copied())
    }
}

/// Makes many pods that run, and for which nothing runs.
pub(crate) fn populate(writer: &mut Writer<'_>, template: &Value, count: usize) -> Outcome<()> {
    let (namespace, name) = (meta(template, "namespace"), meta(template, "name"));
    let pods = known("pods");
    for number in 0..count {
        let mut pod = template.clone();
        let name = format!("{name}-{number:05}");
        set_meta(&mut pod, "name", name.as_str().into());
        if text(&pod, "/spec/nodeName").is_empty() {
            pod["spec"]["nodeName"] = NOWHERE.into();
        }
        let mut pod = (*writer.create(pods, namespace, pod)?).clone();
        let address = format!(
            "10.{}.{}.{}",
            128 + number / 62_500,
            number / 250 % 250,
            number % 250 + 2
        );
        let statuses = list(&pod, "/spec/containers").iter().map(|container| {
            json!({
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": true,
                "started": true,
                "restartCount": 0,
                "state": { "running": { "startedAt": writer.now } },
            })
        });
        pod["status"] = json!({
            "phase": "Running",
            "startTime": writer.now,
            "podIP": address,
            "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": writer.now }],
            "containerStatuses": statuses.collect::<Vec<_>>(),
        });
        writer.store.put(Key::new(pods, namespace, &name), pod);
    }
    Ok(())
}

/// Finds a pod, and which of its containers is meant.
pub(crate) fn container(store: &Store, key: &Key, asked: &str) -> Outcome<(Value, String)> {
    let pods = known("pods");
    let pod = store
        .get(key)
        .ok_or_else(|| Failure::not_found(pods, &key.name))?;
    let names = |field: &str| -> Vec<String> {
        let found = list(pod, &format!("/spec/{field}")).iter();
        found.map(|one| text(one, "/name").to_owned()).collect()
    };
    let name = &key.name;
    let all: Vec<_> = CONTAINERS.iter().flat_map(|field| names(field)).collect();
    let mut ordinary = names("containers");
    let chosen = if !asked.is_empty() {
        if !all.iter().any(|other| other == asked) {
            let why = format!("container {asked} is not valid for pod {name}");
            return Err(Failure::bad_request(why));
        }
        asked.to_owned()
    } else if ordinary.len() == 1 {
        ordinary.remove(0)
    } else {
        return Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        )));
    };
    Ok(((**pod).clone(), chosen))
}

/// The state of a container, as the kubelet last told it.
pub(crate) fn state_of<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let mut all = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .iter()
    .flat_map(|field| list(pod, &format!("/status/{field}")));
    let found = all.find(|status| text(status, "/name") == container);
    found.map_or(&Value::Null, |status| &status["state"])
}
