// SPDX-License-Identifier: Apache-2.0
//! What sidecars ask for, beside what the ambient mesh asks for.

use k8s_openapi::api::core::v1::Container;

use super::containers::proxy;
use super::quantity::{amount, bytes, cores};
use crate::doctor::finding::{Finding, ObjectRef};
use crate::doctor::view::{PodView, View};

/// What Istio's charts have each ztunnel ask for: cores and bytes.
const ZTUNNEL: Requests = Requests {
    cores: 0.2,
    bytes: 512.0 * 1_048_576.0,
};

#[derive(Clone, Copy, Default)]
struct Requests {
    cores: f64,
    bytes: f64,
}

impl Requests {
    fn of(container: &Container) -> Self {
        let requests = container
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        let of = |resource: &str| {
            requests
                .and_then(|requests| amount(requests.get(resource)?))
                .unwrap_or(0.0)
        };
        Self {
            cores: of("cpu"),
            bytes: of("memory"),
        }
    }

    fn times(self, count: usize) -> Self {
        let count = u32::try_from(count).map_or(f64::MAX, f64::from);
        Self {
            cores: self.cores * count,
            bytes: self.bytes * count,
        }
    }

    fn words(self) -> String {
        format!("{} and {}", cores(self.cores), bytes(self.bytes))
    }
}

pub(super) fn run(view: &View<'_>) -> Vec<Finding> {
    finding(view).into_iter().collect()
}

fn finding(view: &View<'_>) -> Option<Finding> {
    let pods: Vec<&PodView<'_>> = view
        .pods()
        .iter()
        .filter(|pod| pod.is_live() && pod.facts.sidecar)
        .collect();
    let mut sidecars = Requests::default();
    for container in pods.iter().filter_map(|pod| proxy(pod)) {
        let one = Requests::of(container);
        sidecars.cores += one.cores;
        sidecars.bytes += one.bytes;
    }
    let nodes = view.snapshot.nodes.all().len();
    // What runs asks for what it asks for; where none runs the charts tell.
    let running = view
        .ztunnels()
        .find_map(|pod| Some(Requests::of(pod.pod.spec.as_ref()?.containers.first()?)));
    let each = running
        .filter(|each| each.cores > 0.0 || each.bytes > 0.0)
        .unwrap_or(ZTUNNEL);
    let ambient = each.times(nodes);
    if sidecars.cores <= ambient.cores || sidecars.bytes <= ambient.bytes {
        return None;
    }
    let finding = Finding::on(
        ObjectRef::cluster("Mesh", &view.istio),
        "its sidecars ask for more than ztunnels on all nodes would",
    )
    .because(format!("{} sidecars ask for {} together", pods.len(), sidecars.words()))
    .because(format!(
        "a ztunnel on each of {nodes} nodes would ask for {} ({} each)",
        ambient.words(),
        each.words()
    ))
    .so("What sidecars ask for is set aside on the nodes, whether they use it or not.")
    .by_hand(
        "Nothing is broken. Where HTTP needs no rules of its own, a namespace can move to ambient; where it does, \
         count a waypoint in as well.",
    );
    Some(finding)
}
