// SPDX-License-Identifier: Apache-2.0
//! Reading a pod by an ephemeral container, for images that have no `cat`.
//!
//! It prints the tables and ends by itself; its log is what is read. Nothing of it runs afterwards, but its entry stays
//! in the pod's spec, since Kubernetes takes none back.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use futures_util::AsyncReadExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::Api;
use kube::api::{ListParams, LogParams, Patch, PatchParams};
use meshmedic_common::identity::Component;
use meshmedic_common::text::clean;
use meshmedic_common::verdict::Reason;
use serde_json::json;

use super::agent::Agents;
use super::tables::{FILES, Readout, Tables};
use super::{Unread, WayArgs};
use crate::connection::Connection;
use crate::selection::{Target, list};

/// The command of our own image that prints the tables.
pub(crate) const PRINT: &str = "print-sockets";
/// Nobody in particular: the user of our own image.
const NOBODY: i64 = 65_532;
/// How much of a log is read: more than the tables of hundreds of thousands of connections.
const MAX_LOG: usize = 128 * 1024 * 1024;
const BUFFER: usize = 64 * 1024;
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
    let facts = &target.facts;
    if facts.mirror {
        return Err(Unread::new(
            Reason::NoReader,
            "it is a static pod, which can have no probe",
        ));
    }
    let pods: Api<Pod> = Api::namespaced(connection.client.clone(), &facts.namespace);
    // Another scan may be at the same pod, and earlier probes are still in its spec.
    let name = format!(
        "meshmedic-probe-{:08x}",
        RandomState::new().hash_one(&facts.uid) & 0xffff_ffff
    );
    let patch = Patch::Strategic(container(&facts.uid, &name, image));
    let parameters = PatchParams::default();
    let added = pods.patch_ephemeral_containers(&facts.name, &parameters, &patch);
    connection
        .act("adding a probe", added)
        .await
        .map_err(|failure| Unread::of(&failure))?;
    placed(&facts.uid);
    wait(connection, &pods, target, &name, image).await?;
    let reading = log(connection, &pods, target, &name).await?;
    Ok((name, reading))
}

/// An ephemeral container that the Pod Security level `restricted` admits.
fn container(uid: &str, name: &str, image: &Image) -> serde_json::Value {
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
    if image.own {
        container["args"] = json!([PRINT]);
    } else {
        container["command"] = json!([&["cat"], &FILES[..]].concat());
    }
    // With the UID, a pod of the same name that came in between is refused and not touched.
    json!({ "metadata": { "uid": uid }, "spec": { "ephemeralContainers": [container] } })
}

/// Waits until the probe has ended.
async fn wait(
    connection: &Connection,
    pods: &Api<Pod>,
    target: &Target,
    name: &str,
    image: &Image,
) -> Result<(), Unread> {
    let mut pause = FIRST_PAUSE;
    loop {
        let found = connection
            .ask("reading the probe's state", || pods.get(&target.facts.name))
            .await;
        let pod = found.map_err(|failure| Unread::of(&failure))?;
        if pod.metadata.uid.as_deref() != Some(&target.facts.uid) {
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

async fn log(
    connection: &Connection,
    pods: &Api<Pod>,
    target: &Target,
    name: &str,
) -> Result<Readout, Unread> {
    let parameters = LogParams {
        container: Some(name.to_owned()),
        limit_bytes: i64::try_from(MAX_LOG).ok(),
        ..LogParams::default()
    };
    let stream = connection
        .ask("reading the probe's log", || {
            pods.log_stream(&target.facts.name, &parameters)
        })
        .await;
    let stream = stream.map_err(|failure| Unread::of(&failure))?;
    let mut stream = std::pin::pin!(stream);
    let mut tables = Tables::default();
    let mut buffer = vec![0; BUFFER];
    let mut read = 0_usize;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                tables.end();
                break;
            }
            Ok(length) => {
                read = read.saturating_add(length);
                tables.feed(&buffer[..length]);
                if read > MAX_LOG {
                    return Err(Unread::new(
                        Reason::Malformed,
                        "the probe's log is longer than any socket table",
                    ));
                }
            }
            Err(error) => {
                let words = clean(&error.to_string(), MAX_WORDS);
                return Err(Unread::new(
                    Reason::ReadFailed,
                    format!("the probe's log broke off: {words}"),
                ));
            }
        }
    }
    tables
        .finish()
        .map_err(|(reason, detail)| Unread::new(reason, format!("the probe: {detail}")))
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
        let patch = container("uid-1", "p", &image());
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
        let own = container_of(&container("u", "p", &Image { own: true, ..image() }));
        assert_eq!(
            (own["args"].clone(), own["command"].is_null()),
            (json!([PRINT]), true)
        );
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
