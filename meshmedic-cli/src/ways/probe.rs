// SPDX-License-Identifier: Apache-2.0
//! Looking at a pod by an ephemeral container: for images that have no `cat`, and for a connection of its own.
//!
//! It prints what it sees and ends by itself; its log is what is read. Nothing of it runs afterwards, but its entry
//! stays in the pod's spec, since Kubernetes takes none back.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::AsyncReadExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::Api;
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use meshmedic_common::facts::PodFacts;
use meshmedic_common::identity::Component;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::Reason;
use serde_json::json;

use super::agent::Agents;
use super::tables::{FILES, Readout, Tables};
use super::{Unread, WayArgs};
use crate::connection::Connection;
use crate::open_connection::Opened;
use crate::selection::{Target, list};

/// The commands of our own image: one prints the tables, the other opens a connection.
pub(crate) const PRINT: &str = "print-sockets";
pub(crate) const OPEN: &str = "open-connection";
/// Nobody in particular: the user of our own image.
const NOBODY: i64 = 65_532;
/// How much of a log is read: more than the tables of hundreds of thousands of connections.
const MAX_LOG: usize = 128 * 1024 * 1024;
const BUFFER: usize = 64 * 1024;
/// What a probe says of a connection is one line, which warnings may precede.
const MAX_SAID: usize = 64 * 1024;
/// How often it is asked whether the probe has ended.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const MAX_WORDS: usize = 200;
/// Why a container does not start, and will not by waiting.
const HOPELESS: [&str; 6] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// What a probe runs.
#[derive(Debug)]
pub(super) struct Image {
    name: String,
    /// Whether it is ours, which needs no `cat`.
    own: bool,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug)]
enum Errand {
    /// Printing the tables.
    Tables,
    /// Opening a connection; to the Kubernetes API, where nobody else is named.
    Connection(Option<SocketAddr>),
}

/// The image that can open a connection: ours, or what is named as such.
pub(super) fn own_image(args: &WayArgs, agents: &Agents) -> Result<Image, String> {
    let name = args.probe_image.as_deref().or(agents.image());
    let name = name.map(str::to_owned).ok_or(
        "no image for a probe: no MeshMedic DaemonSet can be read; name the image of one with --probe-image",
    )?;
    Ok(Image { name, own: true })
}

/// Chooses the image.
pub(super) async fn image(connection: &Connection, args: &WayArgs, agents: &Agents) -> Result<Image, String> {
    if let Some(name) = &args.probe_image {
        return Ok(Image {
            name: name.clone(),
            own: false,
        });
    }
    if let Some(name) = agents.image() {
        return Ok(Image {
            name: name.to_owned(),
            own: true,
        });
    }
    // Elsewhere anybody could put one of that name and have its image run in our pods.
    for namespace in &connection.istio.identity.namespaces {
        let api: Api<DaemonSet> = Api::namespaced(connection.client.clone(), namespace);
        let what = format!("listing DaemonSets in namespace {namespace}");
        let reduce = |set: &DaemonSet| {
            let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
            spec.and_then(|spec| spec.containers.first()?.image.clone())
        };
        let found = list(
            connection,
            &what,
            &api,
            &ListParams::default().labels(&Component::Cni.selector()),
            reduce,
        )
        .await;
        if let Some(name) = found.ok().and_then(|images| images.into_iter().flatten().next()) {
            return Ok(Image { name, own: false });
        }
    }
    Err(
        "no image for a probe: neither MeshMedic's nor istio-cni's DaemonSet can be read; name one with \
         --probe-image"
            .to_owned(),
    )
}

/// Reads the pod; `placed` is called with its UID once the probe is in its spec.
pub(super) async fn read(
    connection: &Connection,
    target: &Target,
    image: &Image,
    placed: impl Fn(&str),
) -> Result<(String, Readout), Unread> {
    let pods = pods(connection, &target.facts);
    let name = send(connection, &pods, &target.facts, image, Errand::Tables, placed).await?;
    let reading = tables(connection, &pods, &target.facts, &name).await?;
    Ok((name, reading))
}

/// Opens a connection from the pod's network namespace, and gives what the probe saw of it.
pub(super) async fn open(
    connection: &Connection,
    facts: &PodFacts,
    image: &Image,
    to: Option<SocketAddr>,
) -> Result<(String, Opened), Unread> {
    let pods = pods(connection, facts);
    let name = send(connection, &pods, facts, image, Errand::Connection(to), |_| {}).await?;
    let mut said = Vec::new();
    let whole = log(connection, &pods, facts, &name, |piece| {
        said.extend_from_slice(&piece[..piece.len().min(MAX_SAID - said.len())]);
        said.len() < MAX_SAID
    });
    whole.await?;
    let lines = || said.split(|byte| *byte == b'\n').rev();
    match lines().find_map(|line| serde_json::from_slice(line).ok()) {
        Some(opened) => Ok((name, opened)),
        None => {
            let words = lines()
                .find(|line| !line.trim_ascii().is_empty())
                .unwrap_or_default();
            let words = clean(&String::from_utf8_lossy(words), MAX_WORDS);
            let detail = format!("the probe {name} opened none, and its log ends with \"{words}\"");
            Err(Unread::new(Reason::ReadFailed, detail))
        }
    }
}

fn pods(connection: &Connection, facts: &PodFacts) -> Api<Pod> {
    Api::namespaced(connection.client.clone(), &facts.namespace)
}

/// Adds a probe to the pod and waits for its end; gives its name.
async fn send(
    connection: &Connection,
    pods: &Api<Pod>,
    facts: &PodFacts,
    image: &Image,
    errand: Errand,
    placed: impl Fn(&str),
) -> Result<String, Unread> {
    if facts.mirror {
        return Err(Unread::new(
            Reason::NoReader,
            "it is a static pod, which can have no probe",
        ));
    }
    // Another scan may be at the same pod, and earlier probes are still in its spec.
    let name = format!(
        "meshmedic-probe-{:08x}",
        RandomState::new().hash_one(&facts.uid) & 0xffff_ffff
    );
    let patch = Patch::Strategic(container(&facts.uid, &name, image, errand));
    let parameters = PatchParams::default();
    let added = pods.patch_ephemeral_containers(&facts.name, &parameters, &patch);
    connection
        .act("adding a probe", added)
        .await
        .map_err(|failure| Unread::of(&failure))?;
    placed(&facts.uid);
    wait(connection, pods, facts, &name, image).await?;
    Ok(name)
}

/// An ephemeral container that the Pod Security level `restricted` admits.
fn container(uid: &str, name: &str, image: &Image, errand: Errand) -> serde_json::Value {
    let mut container = json!({
        "name": name,
        "image": image.name,
        "imagePullPolicy": "IfNotPresent",
        "stdin": false,
        "tty": false,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": NOBODY,
            "runAsNonRoot": true,
            "runAsUser": NOBODY,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    match errand {
        Errand::Connection(Some(to)) => container["args"] = json!([OPEN, to.to_string()]),
        Errand::Connection(None) => container["args"] = json!([OPEN]),
        Errand::Tables if image.own => container["args"] = json!([PRINT]),
        Errand::Tables => container["command"] = json!([&["cat"], &FILES[..]].concat()),
    }
    // With the UID, a pod of the same name that came in between is refused and not touched.
    json!({ "metadata": { "uid": uid }, "spec": { "ephemeralContainers": [container] } })
}

/// Waits until the probe has ended.
async fn wait(
    connection: &Connection,
    pods: &Api<Pod>,
    facts: &PodFacts,
    name: &str,
    image: &Image,
) -> Result<(), Unread> {
    let mut pause = FIRST_PAUSE;
    loop {
        let found = connection
            .ask("reading the probe's state", || pods.get(&facts.name))
            .await;
        let pod = found.map_err(|failure| Unread::of(&failure))?;
        if pod.metadata.uid.as_deref() != Some(&facts.uid) {
            return Err(Unread::new(Reason::Gone, "the pod was replaced"));
        }
        let statuses = pod.status.and_then(|status| status.ephemeral_container_statuses);
        let state = statuses.into_iter().flatten().find(|status| status.name == name);
        let state = state.and_then(|status| status.state).unwrap_or_default();
        if ended(&state, image)? {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn ended(state: &ContainerState, image: &Image) -> Result<bool, Unread> {
    if let Some(end) = &state.terminated {
        let message = end.message.as_deref().unwrap_or_default();
        let not_run = matches!(end.exit_code, 126..=128) || message.contains("executable file not found");
        if not_run {
            let detail = format!(
                "the probe's image {} cannot run there; --probe-image names another",
                image.name
            );
            return Err(Unread::new(Reason::NoReader, detail));
        }
        return Ok(true);
    }
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if HOPELESS.contains(&reason) {
            let message = clean(waiting.message.as_deref().unwrap_or_default(), MAX_WORDS);
            let detail = format!("the probe does not start: {reason}: {message}");
            return Err(Unread::new(Reason::ReadFailed, detail));
        }
    }
    Ok(false)
}

/// The tables that its log is.
async fn tables(
    connection: &Connection,
    pods: &Api<Pod>,
    facts: &PodFacts,
    name: &str,
) -> Result<Readout, Unread> {
    let mut tables = Tables::default();
    let mut read = 0_usize;
    let whole = log(connection, pods, facts, name, |piece| {
        read = read.saturating_add(piece.len());
        tables.feed(piece);
        read <= MAX_LOG
    });
    if !whole.await? {
        return Err(Unread::new(
            Reason::Malformed,
            "the probe's log is longer than any socket table",
        ));
    }
    tables.end();
    tables
        .finish()
        .map_err(|(reason, detail)| Unread::new(reason, format!("the probe: {detail}")))
}

/// Reads its log piece by piece, for as long as they are taken; gives whether it was read to its end.
async fn log(
    connection: &Connection,
    pods: &Api<Pod>,
    facts: &PodFacts,
    name: &str,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<bool, Unread> {
    let parameters = LogParams {
        container: Some(name.to_owned()),
        limit_bytes: i64::try_from(MAX_LOG).ok(),
        ..LogParams::default()
    };
    let stream = connection
        .ask("reading the probe's log", || {
            pods.log_stream(&facts.name, &parameters)
        })
        .await;
    let stream = stream.map_err(|failure| Unread::of(&failure))?;
    let mut stream = std::pin::pin!(stream);
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Ok(true),
            Ok(length) if take(&buffer[..length]) => {}
            Ok(_) => return Ok(false),
            Err(error) => {
                let words = clean(&error.to_string(), MAX_WORDS);
                return Err(Unread::new(
                    Reason::ReadFailed,
                    format!("the probe's log broke off: {words}"),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStateWaiting};

    use super::*;

    fn image() -> Image {
        Image {
            name: "probe:1".to_owned(),
            own: false,
        }
    }

    #[test]
    fn a_probe_is_what_the_restricted_level_admits() {
        let patch = container("uid-1", "p", &image(), Errand::Tables);
        assert_eq!(patch["metadata"]["uid"], "uid-1");
        let container_of = |patch: &serde_json::Value| patch["spec"]["ephemeralContainers"][0].clone();
        let probe = container_of(&patch);
        assert_eq!(
            probe["command"],
            json!(["cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/fib_trie"])
        );
        let security = &probe["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let ours = Image { own: true, ..image() };
        let own = container_of(&container("u", "p", &ours, Errand::Tables));
        assert_eq!(
            (own["args"].clone(), own["command"].is_null()),
            (json!([PRINT]), true)
        );
        let args = |to| container_of(&container("u", "p", &ours, Errand::Connection(to)))["args"].clone();
        assert_eq!(args(None), json!([OPEN]));
        let to = "[fd00::1]:443".parse().unwrap();
        assert_eq!(args(Some(to)), json!([OPEN, "[fd00::1]:443"]));
    }

    #[test]
    fn a_probe_that_never_starts_is_not_waited_for() {
        let waiting = |reason: &str| ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: Some("pull \u{1b}[31mfailed".to_owned()),
            }),
            ..ContainerState::default()
        };
        assert!(!ended(&waiting("ContainerCreating"), &image()).unwrap());
        let unread = ended(&waiting("ImagePullBackOff"), &image()).unwrap_err();
        assert_eq!(
            unread.detail,
            "the probe does not start: ImagePullBackOff: pull  [31mfailed"
        );
        let terminated = |exit_code| ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code,
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        };
        assert!(ended(&terminated(0), &image()).unwrap() && ended(&terminated(1), &image()).unwrap());
        assert_eq!(
            ended(&terminated(127), &image()).unwrap_err().reason,
            Reason::NoReader
        );
    }
}
