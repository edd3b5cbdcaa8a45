// SPDX-License-Identifier: Apache-2.0
//! Whether the versions of Istio's parts fit each other.

use k8s_openapi::api::core::v1::Container;

use crate::doctor::finding::Finding;
use crate::doctor::view::{PodView, View, endpoints};

/// A proxy may be as many minor versions behind istiod.
const BEHIND: u32 = 1;

/// Major and minor version.
type Version = (u32, u32);

pub(super) fn skew(view: &View<'_>) -> Vec<Finding> {
    let istiods: Vec<Version> = view.istiods().filter_map(|pod| of_pod(pod, |_| true)).collect();
    let Some(newest) = istiods.iter().max() else {
        return Vec::new();
    };
    let parts = [
        ("ztunnel", view.ztunnels().collect::<Vec<_>>()),
        ("istio-cni", view.cnis().collect()),
        (
            "its sidecar",
            view.pods()
                .iter()
                .filter(|pod| pod.facts.sidecar && pod.is_live())
                .collect(),
        ),
    ];
    let proxies = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && !pod.facts.sidecar);
    let (waypoints, gateways): (Vec<_>, Vec<_>) = proxies
        .filter(|pod| endpoints::has_proxy(pod.pod))
        .partition(|pod| endpoints::is_waypoint(&pod.facts.labels));
    let parts = parts
        .into_iter()
        .chain([("its waypoint", waypoints), ("its gateway", gateways)]);
    let mut findings = Vec::new();
    for (part, pods) in parts {
        for pod in pods {
            let proxy =
                |container: &Container| !part.starts_with("its ") || container.name == endpoints::PROXY;
            let Some(version) = of_pod(pod, proxy) else {
                continue;
            };
            let problem = if version > *newest {
                format!("{part} has a newer version than istiod")
            } else if istiods.iter().all(|istiod| behind(version, *istiod)) {
                format!("{part} is more than one minor version behind istiod")
            } else {
                continue;
            };
            let finding = Finding::on(pod.object(), problem)
                .of(pod.workload.clone())
                .because(format!(
                    "{part}: {}.{}, istiod: {}.{}",
                    version.0, version.1, newest.0, newest.1
                ))
                .so("Istio does not support them together: what one side sends the other may misunderstand");
            findings.push(match pod.restart() {
                Some(command) if part == "its sidecar" => finding.run(command),
                _ if part.starts_with("its ") => finding.by_hand(
                    "istiod sets the image of the waypoints and gateways that it runs: see which revision their Gateway \
                     names (istio.io/rev), and that the istiod of that revision is the new one",
                ),
                _ => finding.by_hand(
                    "bring all parts to one version: istiod first, then istio-cni, ztunnel and the waypoints, the sidecars \
                     last",
                ),
            });
        }
    }
    findings
}

fn behind(version: Version, istiod: Version) -> bool {
    version.0 != istiod.0 || version.1 + BEHIND < istiod.1
}

/// From the tag of its image; `None` where the tag is no version.
fn of_pod(pod: &PodView<'_>, is_it: impl Fn(&Container) -> bool) -> Option<Version> {
    let spec = pod.pod.spec.as_ref()?;
    let mut containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let ours = |image: &str| {
        ["/pilot", "/proxyv2", "/ztunnel", "/install-cni"]
            .iter()
            .any(|name| image.contains(name))
    };
    containers
        .find_map(|container| {
            container
                .image
                .as_deref()
                .filter(|image| is_it(container) && ours(image))
        })
        .and_then(of_image)
}

/// `registry:5000/istio/pilot:1.28.3-distroless@sha256:…`.
fn of_image(image: &str) -> Option<Version> {
    let image = image.split('@').next()?;
    let (_, tag) = image
        .rsplit_once('/')
        .map_or(image, |(_, name)| name)
        .split_once(':')?;
    let mut numbers = tag.trim_start_matches('v').split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::of_image;

    #[test]
    fn the_version_is_read_from_the_tag_alone() {
        for (image, version) in [
            ("docker.io/istio/pilot:1.28.3", Some((1, 28))),
            (
                "registry:5000/istio/pilot:1.28.3-distroless@sha256:abc",
                Some((1, 28)),
            ),
            ("istio/ztunnel:v1.30-alpha.5f2", Some((1, 30))),
            ("registry:5000/istio/pilot", None),
            ("istio/pilot:latest", None),
            ("istio/pilot@sha256:abc", None),
            ("", None),
        ] {
            assert_eq!(of_image(image), version, "{image}");
        }
    }
}
