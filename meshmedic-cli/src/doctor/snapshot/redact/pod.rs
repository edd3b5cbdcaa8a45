// SPDX-License-Identifier: Apache-2.0
//! Pods without what their containers are told.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, EnvVar,
    HTTPGetAction, Pod, PodSpec, PodStatus, PodTemplateSpec, Probe, Volume,
};
use meshmedic_common::text::clean;

use super::metadata;

/// Switches of Istio's own parts and of the network's: only `true` and `false` are kept of them.
const SWITCHES: [&str; 11] = [
    "AMBIENT_ENABLE_DRY_RUN_AUTHORIZATION_POLICY",
    "PILOT_AUTO_ALLOW_WAYPOINT_POLICY",
    "PILOT_ENABLE_AMBIENT",
    "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS",
    "PILOT_ENABLE_SENDING_HBONE",
    "ENABLE_NATIVE_SIDECARS",
    "ENABLE_POD_ENI",
    "ENABLE_AMBIENT_DETECTION_RETRY",
    "EXIT_ON_ZERO_ACTIVE_CONNECTIONS",
    "ISTIO_QUIT_API",
    "IPV6_ENABLED",
];
/// Variables of which these words alone are kept: how the network of AWS holds pods to their security groups, and
/// whether istiod's cluster has the name that it has where it is the only one.
const WORDS: [(&str, &[&str]); 2] = [
    ("CLUSTER_ID", &["Kubernetes"]),
    ("POD_SECURITY_GROUP_ENFORCING_MODE", &["strict", "standard"]),
];
/// A job that ends its sidecar itself calls this; nothing else of a command is kept.
const QUIT: &str = "quitquitquit";
/// What the kubelet says of a container.
const MAX_WORDS: usize = 300;

pub(crate) fn pod(pod: &Pod) -> Pod {
    Pod {
        metadata: metadata(&pod.metadata),
        spec: pod.spec.as_ref().map(spec),
        status: pod.status.as_ref().map(status),
    }
}

pub(crate) fn template(template: &PodTemplateSpec) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: template.metadata.as_ref().map(metadata),
        spec: template.spec.as_ref().map(spec),
    }
}

fn spec(spec: &PodSpec) -> PodSpec {
    PodSpec {
        containers: spec.containers.iter().map(container).collect(),
        init_containers: spec
            .init_containers
            .as_ref()
            .map(|all| all.iter().map(container).collect()),
        host_network: spec.host_network,
        node_name: spec.node_name.clone(),
        restart_policy: spec.restart_policy.clone(),
        runtime_class_name: spec.runtime_class_name.clone(),
        service_account_name: spec.service_account_name.clone(),
        priority_class_name: spec.priority_class_name.clone(),
        volumes: spec
            .volumes
            .as_ref()
            .map(|all| all.iter().filter_map(folder).collect()),
        ..PodSpec::default()
    }
}

/// The folders of the node that it mounts; nothing of its other volumes.
fn folder(volume: &Volume) -> Option<Volume> {
    Some(Volume {
        name: volume.name.clone(),
        host_path: Some(volume.host_path.clone()?),
        ..Volume::default()
    })
}

fn container(container: &Container) -> Container {
    let words = container.command.iter().chain(&container.args).flatten();
    let quits = words.into_iter().any(|word| word.contains(QUIT));
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        ports: container.ports.clone(),
        resources: container.resources.clone(),
        restart_policy: container.restart_policy.clone(),
        args: quits.then(|| vec![QUIT.to_owned()]),
        env: container
            .env
            .as_ref()
            .map(|env| env.iter().map(variable).collect()),
        liveness_probe: container.liveness_probe.as_ref().map(probe),
        readiness_probe: container.readiness_probe.as_ref().map(probe),
        startup_probe: container.startup_probe.as_ref().map(probe),
        ..Container::default()
    }
}

fn variable(variable: &EnvVar) -> EnvVar {
    let name = variable.name.as_str();
    let harmless = |value: &String| {
        let switch = SWITCHES.contains(&name) && matches!(value.as_str(), "true" | "false");
        let mut words = WORDS.iter().filter(|(of, _)| *of == name);
        switch || words.any(|(_, words)| words.contains(&value.as_str()))
    };
    EnvVar {
        name: variable.name.clone(),
        value: variable.value.clone().filter(harmless),
        value_from: None,
    }
}

/// Where it asks, without headers and without what follows the path.
fn probe(probe: &Probe) -> Probe {
    Probe {
        http_get: probe.http_get.as_ref().map(|get| HTTPGetAction {
            path: get
                .path
                .as_ref()
                .map(|path| path.split(['?', '#']).next().unwrap_or_default().to_owned()),
            port: get.port.clone(),
            scheme: get.scheme.clone(),
            ..HTTPGetAction::default()
        }),
        tcp_socket: probe.tcp_socket.clone(),
        grpc: probe.grpc.clone(),
        ..Probe::default()
    }
}

fn status(status: &PodStatus) -> PodStatus {
    let all = |statuses: &Option<Vec<ContainerStatus>>| {
        statuses
            .as_ref()
            .map(|all| all.iter().map(container_status).collect())
    };
    PodStatus {
        phase: status.phase.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        host_ip: status.host_ip.clone(),
        start_time: status.start_time.clone(),
        reason: status.reason.clone(),
        conditions: status.conditions.as_ref().map(|conditions| {
            let short = |condition: &k8s_openapi::api::core::v1::PodCondition| {
                let mut short = condition.clone();
                short.message = None;
                short
            };
            conditions.iter().map(short).collect()
        }),
        container_statuses: all(&status.container_statuses),
        init_container_statuses: all(&status.init_container_statuses),
        ..PodStatus::default()
    }
}

fn container_status(status: &ContainerStatus) -> ContainerStatus {
    ContainerStatus {
        name: status.name.clone(),
        image: status.image.clone(),
        ready: status.ready,
        restart_count: status.restart_count,
        started: status.started,
        state: status.state.as_ref().map(state),
        last_state: status.last_state.as_ref().map(state),
        ..ContainerStatus::default()
    }
}

/// A container may leave a message of its own when it ends: that is left out.
fn state(state: &ContainerState) -> ContainerState {
    ContainerState {
        running: state.running.clone(),
        terminated: state.terminated.as_ref().map(|ended| ContainerStateTerminated {
            message: None,
            container_id: None,
            ..ended.clone()
        }),
        waiting: state.waiting.as_ref().map(|waiting| ContainerStateWaiting {
            reason: waiting.reason.as_deref().map(|reason| clean(reason, MAX_WORDS)),
            message: None,
        }),
    }
}
