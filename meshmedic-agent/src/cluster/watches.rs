// SPDX-License-Identifier: Apache-2.0
//! The watches: each follows one kind of object and passes on what matters of it.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PartialObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource};
use meshmedic_common::facts::PodFacts;
use meshmedic_common::identity::{Identity, Slice};
use meshmedic_common::kube::facts::{NamespaceFacts, NodeFacts, namespace_facts, node_facts, pod_facts};
use meshmedic_common::kube::identity::slice;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::rights;
use super::store::Delta;
use meshmedic_common::kube::acts::root_cause;
use meshmedic_common::kube::control::{CONTROL, pause_reason};
use meshmedic_common::kube::leases::{self, SeenLease};

/// A watch that is silent for this long, without even a bookmark, is begun anew where it was.
const SILENCE: u32 = 180;
/// News wait here while the agent is busy; then the watches wait.
const BACKLOG: usize = 256;

/// News of the API.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Of this node's pods, by UID.
    Pod(Box<Delta<PodFacts>>),
    /// Of namespaces, by name.
    Namespace(Delta<NamespaceFacts>),
    /// Of slices among which istiod's are, by namespace and name; the number is that of the watch.
    Slice(usize, Delta<Slice>),
    /// Of this node.
    Node(Delta<NodeFacts>),
    /// Of the switch: why repairs are paused, if they are.
    Control(Delta<Option<String>>),
    /// Of owners' Leases, by name.
    Lease(Delta<SeenLease>),
    /// A watch cannot go on for now, and why. It tries again by itself.
    Trouble(&'static str, String),
}

impl Seen {
    /// Of which kind of object it is.
    #[must_use]
    pub const fn resource(&self) -> &'static str {
        match self {
            Self::Pod(_) => "pods",
            Self::Namespace(_) => "namespaces",
            Self::Slice(..) => "endpointslices",
            Self::Node(_) => "nodes",
            Self::Control(_) => "configmaps",
            Self::Lease(_) => "leases",
            Self::Trouble(resource, _) => resource,
        }
    }
}

/// Whether the agents' records are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leases {
    /// Nothing is repaired and nothing proved.
    Ignored,
    /// Successors are proved, if this agent has the rights; nothing else waits for them.
    IfAllowed,
    /// Heals depend on that of the cluster's heals; the others are followed where this agent has the rights.
    Heals,
    /// Repairs depend on them.
    Needed,
}

/// The watches of one agent. They end when this is dropped.
#[derive(Debug)]
pub struct Watches {
    tasks: JoinSet<()>,
    news: mpsc::Receiver<Seen>,
}

impl Watches {
    /// Begins to watch what concerns `node`.
    #[must_use]
    pub fn start(client: &Client, identity: &Identity, node: &str, namespace: &str, mode: Leases) -> Self {
        let (tell, news) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let all = || at_rest().timeout(SILENCE);
        let named = |name: &str| all().fields(&format!("metadata.name={name}"));
        tasks.spawn(follow(
            watch(
                Api::<Pod>::all(client.clone()),
                all().fields(&format!("spec.nodeName={node}")),
            ),
            "pods",
            |pod: Pod| Some((pod.metadata.uid.clone()?, pod_facts(&pod))),
            |delta| Seen::Pod(Box::new(delta)),
            tell.clone(),
        ));
        tasks.spawn(follow(
            watch(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), all()),
            "namespaces",
            |namespace: PartialObjectMeta<Namespace>| {
                let metadata = namespace.metadata;
                let key = metadata.name.clone()?;
                Some((
                    key,
                    namespace_facts(&Namespace {
                        metadata,
                        ..Namespace::default()
                    }),
                ))
            },
            Seen::Namespace,
            tell.clone(),
        ));
        for (number, (place, selector)) in slices(identity).enumerate() {
            let api: Api<EndpointSlice> = own(client, place);
            tasks.spawn(follow(
                watch(api, all().labels(&selector)),
                "endpointslices",
                |found: EndpointSlice| {
                    let reduced = slice(&found);
                    Some((format!("{}/{}", reduced.namespace, key(&found)?), reduced))
                },
                move |delta| Seen::Slice(number, delta),
                tell.clone(),
            ));
        }
        tasks.spawn(follow(
            watch(Api::<Node>::all(client.clone()), named(node)),
            "nodes",
            |node: Node| Some((key(&node)?, node_facts(&node))),
            Seen::Node,
            tell.clone(),
        ));
        tasks.spawn(follow(
            watch(own::<ConfigMap>(client, namespace), named(CONTROL)),
            "configmaps",
            |control: ConfigMap| Some((key(&control)?, pause_reason(&control))),
            Seen::Control,
            tell.clone(),
        ));
        if mode != Leases::Ignored {
            let (client, namespace) = (client.clone(), namespace.to_owned());
            tasks.spawn(async move {
                let may_all = mode == Leases::Needed || rights::on_leases(&client, &namespace).await;
                // Nobody waits for what stands in those of nodes, and each write would reach every agent.
                let kinds = format!("{} in ({},{})", leases::KIND, leases::OWNER, leases::HEALS);
                let config = at_rest().timeout(SILENCE);
                let config = match (may_all, mode) {
                    (true, _) => config.labels(&kinds),
                    (false, Leases::Heals) => {
                        config.fields(&format!("metadata.name={}", leases::HEALS_LEASE))
                    }
                    (false, _) => {
                        tracing::info!(
                            namespace,
                            "successors that land here are not proved: this ServiceAccount has no right to the Leases"
                        );
                        return;
                    }
                };
                let reduce = |lease: Lease| Some((key(&lease)?, leases::seen(&lease)?));
                let news = watch(own::<Lease>(&client, &namespace), config);
                follow(news, "leases", reduce, Seen::Lease, tell).await;
            });
        }
        Self { tasks, news }
    }

    /// The next news; never, once all watches ended.
    pub async fn next(&mut self) -> Seen {
        match self.news.recv().await {
            Some(seen) => seen,
            None => std::future::pending().await,
        }
    }

    /// News that are here already.
    pub fn try_next(&mut self) -> Option<Seen> {
        self.news.try_recv().ok()
    }

    /// How many watches there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tasks.len()
    }
}

/// What all watches begin with: one list as the API server has it in memory. A list without a resourceVersion must be
/// the newest, for which the server asks its store, of all agents after each of its own restarts; and of pages it serves
/// none from memory. What an act depends on is fetched again before it.
fn at_rest() -> watcher::Config {
    watcher::Config {
        page_size: None,
        ..watcher::Config::default().any_semantic()
    }
}

/// Where istiod's slices are watched, and by which labels. Elsewhere nobody is trusted: `meshmedic doctor` tells who
/// claims to be istiod there.
pub(super) fn slices(identity: &Identity) -> impl Iterator<Item = (&str, String)> {
    let places = identity.namespaces.iter();
    places.map(|namespace| (namespace.as_str(), identity.slice_selector()))
}

fn own<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), namespace)
}

fn key<K: Resource>(object: &K) -> Option<String> {
    object.meta().name.clone()
}

/// Passes on what matters of each object, for as long as somebody listens.
async fn follow<K, T: Debug>(
    stream: impl futures_util::Stream<Item = Result<Event<K>, watcher::Error>>,
    resource: &'static str,
    reduce: impl Fn(K) -> Option<(String, T)>,
    wrap: impl Fn(Delta<T>) -> Seen,
    tell: mpsc::Sender<Seen>,
) where
    K: Resource + Clone + Debug + Send + DeserializeOwned + 'static,
{
    let mut stream = pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        let news = match event {
            Ok(Event::Init) => Some(wrap(Delta::Begin)),
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                reduce(object).map(|(key, item)| wrap(Delta::Is(key, item)))
            }
            Ok(Event::Delete(object)) => reduce(object).map(|(key, _)| wrap(Delta::Gone(key))),
            Ok(Event::InitDone) => Some(wrap(Delta::End)),
            Err(error) => Some(Seen::Trouble(resource, root_cause(&error))),
        };
        if let Some(news) = news
            && tell.send(news).await.is_err()
        {
            return;
        }
    }
}

/// The watches on whose word repairs depend. Where the agents' records are not followed, that one has no age.
pub const WATCHED: [&str; 6] = [
    "pods",
    "namespaces",
    "endpointslices",
    "nodes",
    "configmaps",
    "leases",
];

/// The time after which the silence of a watch means that what it showed may be wrong.
pub const TOO_OLD: Duration = Duration::from_secs(300);
