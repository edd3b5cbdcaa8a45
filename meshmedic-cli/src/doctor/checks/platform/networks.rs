// SPDX-License-Identifier: Apache-2.0
//! Network plugins and the settings of theirs that ambient mode does not live with.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{FELIX, SECURITY_GROUPS};
use crate::doctor::command::Command;
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::gateways::{reference, selects};
use crate::doctor::view::{View, endpoints, name, namespace};

fn cilium<'v>(view: &'v View<'_>, key: &str) -> Option<&'v str> {
    view.snapshot.cilium_config.had()?.get(key).map(String::as_str)
}

fn on_cilium(problem: &str) -> Finding {
    Finding::on(
        ObjectRef::new("ConfigMap", "kube-system", "cilium-config"),
        problem,
    )
}

/// Cilium's chart is where its settings are kept; its ConfigMap follows.
fn set(finding: Finding, value: &str) -> Finding {
    finding
        .by_hand(format!(
            "Set {value} in the values of Cilium's chart, where they are kept, and restart its agents, one node after the other:"
        ))
        .run(Command::new("kubectl rollout restart -n kube-system daemonset/cilium"))
}

/// Its chart always says whether it is. Where a cloud gives it a configuration of its own, it writes none at all.
pub(super) fn exclusive(view: &View<'_>) -> Vec<Finding> {
    let custom = cilium(view, "custom-cni-conf") == Some("true");
    if custom || cilium(view, "cni-exclusive") != Some("true") {
        return Vec::new();
    }
    let finding = on_cilium("Cilium takes other plugins' configuration away")
        .because("cni-exclusive is true")
        .so("istio-cni's configuration does not last: pods that start while it is gone are not in the mesh.");
    vec![set(finding, "cni.exclusive: false")]
}

/// Where nothing is masqueraded at all, it does not matter how.
pub(super) fn masquerade(view: &View<'_>) -> Vec<Finding> {
    let at_all = cilium(view, "enable-ipv4-masquerade") != Some("false");
    if !at_all || cilium(view, "enable-bpf-masquerade") != Some("true") {
        return Vec::new();
    }
    let finding = on_cilium("Cilium masquerades in BPF")
        .because("enable-bpf-masquerade is true")
        .so(
            "The kubelet's probes of captured pods come from 169.254.7.127, which is not routed that way: they fail, and pods \
             never get Ready or are killed.",
        );
    vec![set(finding, "bpf.masquerade: false")]
}

/// With its own replacement of kube-proxy it picks a pod at the socket, before ztunnel sees which Service was meant.
pub(super) fn sockets(view: &View<'_>) -> Vec<Finding> {
    let replaces =
        cilium(view, "kube-proxy-replacement").is_some_and(|value| matches!(value, "true" | "strict"));
    if !replaces || cilium(view, "bpf-lb-sock-hostns-only") == Some("true") {
        return Vec::new();
    }
    let finding = on_cilium("Cilium picks the pod of a Service inside the caller's pod")
        .because(format!(
            "kube-proxy-replacement is {}, and bpf-lb-sock-hostns-only is not true",
            cilium(view, "kube-proxy-replacement").unwrap_or_default()
        ))
        .so(
            "ztunnel sees the address of a pod where the application called a Service: routes and waypoints of Services are \
             gone past.",
        );
    vec![set(finding, "socketLB.hostNamespaceOnly: true")]
}

fn variable<'s>(set: &'s DaemonSet, key: &str) -> Option<&'s str> {
    let spec = set.spec.as_ref()?.template.spec.as_ref()?;
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let mut variables = all.flat_map(|container| container.env.iter().flatten());
    variables.find(|variable| variable.name == key)?.value.as_deref()
}

pub(super) fn security_groups(view: &View<'_>) -> Vec<Finding> {
    let sets = view.snapshot.daemon_sets.all().iter();
    let mut nodes =
        sets.filter(|set| namespace(&set.metadata) == "kube-system" && name(&set.metadata) == "aws-node");
    let Some(node) = nodes.find(|set| variable(set, "ENABLE_POD_ENI") == Some("true")) else {
        return Vec::new();
    };
    // It is strict unless it is told otherwise.
    let mode = variable(node, "POD_SECURITY_GROUP_ENFORCING_MODE");
    if mode == Some("standard") {
        return Vec::new();
    }
    let under = view.custom(SECURITY_GROUPS).iter().find_map(|policy| {
        let selector = policy.spec.get("podSelector").cloned();
        let selector = selector
            .and_then(|one| serde_json::from_value::<LabelSelector>(one).ok())
            .unwrap_or_default();
        let mut pods = view
            .pods_in(policy.namespace())
            .filter(|pod| pod.is_live() && endpoints::is_captured(pod));
        let pod = pods.find(|pod| selects(&selector, &pod.facts.labels))?;
        Some((policy, pod))
    });
    let Some((policy, pod)) = under else {
        return Vec::new();
    };
    vec![
        Finding::on(
            ObjectRef::new("DaemonSet", "kube-system", "aws-node"),
            "it holds captured pods to their security groups strictly",
        )
        .because(format!("POD_SECURITY_GROUP_ENFORCING_MODE is {}", mode.unwrap_or("not set, which is strict")))
        .because(format!(
            "{} is for pod {}/{}, which ztunnel captures",
            reference(policy),
            pod.facts.namespace,
            pod.facts.name
        ))
        .so("The kubelet's probes of such pods come from 169.254.7.127 and are dropped: they fail, and pods never get Ready.")
        .run(
            Command::new("kubectl set env -n kube-system daemonset/aws-node")
                .words("POD_SECURITY_GROUP_ENFORCING_MODE=standard"),
        )
        .by_hand("Where an add-on or a tool of GitOps keeps aws-node, set it there. Then make the pods anew."),
    ]
}

pub(super) fn connect_time(view: &View<'_>) -> Vec<Finding> {
    let flag = |config: &crate::doctor::snapshot::Custom, key: &str| {
        config.spec.get(key).and_then(serde_json::Value::as_bool)
    };
    let configs = view.custom(FELIX).iter();
    let on = configs.filter(|config| flag(config, "bpfEnabled") == Some(true));
    let on = on.filter(|config| {
        let word = config.text("/bpfConnectTimeLoadBalancing");
        word != Some("Disabled") && flag(config, "bpfConnectTimeLoadBalancingEnabled") != Some(false)
    });
    let found = on.map(|config| {
        let word = config.text("/bpfConnectTimeLoadBalancing").unwrap_or("not set, which is TCP");
        Finding::on(reference(config), "Calico picks the pod of a Service inside the caller's pod")
            .because(format!("bpfEnabled is true, and bpfConnectTimeLoadBalancing is {word}"))
            .so(
                "ztunnel sees the address of a pod where the application called a Service: routes and waypoints of Services \
                 are gone past.",
            )
            .run(
                Command::new("kubectl patch felixconfigurations.crd.projectcalico.org --type=merge")
                    .name(config.name())
                    .option(
                        "-p",
                        "{\"spec\":{\"bpfConnectTimeLoadBalancing\":\"Disabled\",\"bpfHostNetworkedNATWithoutCTLB\":\"Enabled\"}}",
                    ),
            )
    });
    found.collect()
}
