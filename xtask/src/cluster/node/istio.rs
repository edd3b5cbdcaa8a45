// SPDX-License-Identifier: Apache-2.0
//! A mesh on a node: Istio by Helm from its own charts, an application in it, and MeshMedic as it is shipped.

use anyhow::Result;
use serde_json::json;

use super::images::{NAME, TAG};
use super::{CHARTS, DEPLOY, Node};

const NAMESPACE: &str = "istio-system";
/// In the order in which Istio's documents have it: release, chart, and what to wait for.
const CHARTS_OF_ISTIO: [(&str, &str, Option<&str>); 4] = [
    ("istio-base", "base", None),
    (
        "istiod",
        "istio-control/istio-discovery",
        Some("deployment/istiod"),
    ),
    ("istio-cni", "istio-cni", Some("daemonset/istio-cni-node")),
    ("ztunnel", "ztunnel", Some("daemonset/ztunnel")),
];
/// The node is one's own machine, which may have little to spare.
const VALUES: &str = "profile=ambient,ambient.enabled=true,autoscaleEnabled=false,traceSampling=0,\
                      resources.requests.cpu=10m,resources.requests.memory=64Mi,\
                      cniBinDir=/opt/cni/bin,cniConfDir=/etc/cni/net.d";
/// As istio-cni has it in ztunnel's pod.
const SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
const READINESS: u16 = 15021;
const MANIFEST: &str = "meshmedic-daemonset.yaml";

/// Installs all of it, and waits until it is ready.
pub(super) fn install(node: &Node, real_ztunnel: bool, say: &dyn Fn(&str)) -> Result<()> {
    for (release, chart, _) in CHARTS_OF_ISTIO {
        // A profile asks for images without a shell, which is another name; these have none anyway.
        let images =
            format!("global.hub={NAME},global.tag={TAG},global.variant=,hub={NAME},tag={TAG},variant=");
        let chart = format!("{CHARTS}/{chart}");
        node.run(&[
            "helm",
            "install",
            release,
            &chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--set",
            &images,
            "--set",
            VALUES,
        ])?;
        if release == "ztunnel" && !real_ztunnel {
            node.run(
                &[
                    "kubectl",
                    "--namespace",
                    NAMESPACE,
                    "patch",
                    "daemonset",
                    "ztunnel",
                ]
                .into_iter()
                .chain(["--type", "json", "--patch", &stand_in()])
                .collect::<Vec<_>>(),
            )?;
        }
    }
    say("Istio's charts are installed");
    for (_, _, awaited) in CHARTS_OF_ISTIO {
        if let Some(awaited) = awaited {
            rolled_out(node, NAMESPACE, awaited)?;
            say(&format!("{awaited} is ready"));
        }
    }
    node.run(&["kubectl", "apply", "--filename", "/cluster/conf/shop.yaml"])?;
    let manifest = format!("{DEPLOY}/{MANIFEST}");
    node.run(&["kubectl", "apply", "--filename", &manifest])?;
    rolled_out(node, "shop", "deployment/cart")?;
    say("the application is ready");
    rolled_out(node, "meshmedic", "daemonset/meshmedic")?;
    say("MeshMedic is ready");
    Ok(())
}

/// What is different about ztunnel's pod where the lab's program runs in it, which opens ports and serves nobody.
fn stand_in() -> String {
    let container = "/spec/template/spec/containers/0";
    json!([
        { "op": "replace", "path": format!("{container}/args"), "value": ["zds", SOCKET] },
        {
            "op": "replace",
            "path": format!("{container}/readinessProbe"),
            "value": { "tcpSocket": { "port": READINESS } },
        },
    ])
    .to_string()
}

fn rolled_out(node: &Node, namespace: &str, what: &str) -> Result<()> {
    node.run(&[
        "kubectl",
        "--namespace",
        namespace,
        "rollout",
        "status",
        what,
        "--timeout",
        "300s",
    ])
}
