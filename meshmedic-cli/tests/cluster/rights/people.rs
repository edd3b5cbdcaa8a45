// SPDX-License-Identifier: Apache-2.0
//! The roles for people at workstations: each command runs as somebody who has the roles that it is meant for.

use std::path::{Path, PathBuf};
use std::process::Command;

use meshmedic_lab::api::documents;
use meshmedic_lab::{Exec, Log, Pod, PodRef, need, wait};
use serde_json::{Value, json};

use super::{Right, assert_none_was_refused, granted, needed, roles};
use crate::fleet::install;
use crate::process::PATIENCE;
use crate::world::World;

const ROLES: &str = include_str!("../../../../deploy/kustomize/cli/roles.yaml");
const ANN: &str = "system:serviceaccount:shop:ann";
const SCAN: &str = "meshmedic-cli-scan";

/// Kinds of network plugins, which are asked for only where they are installed. Here they are not.
const OF_OTHERS: [&str; 5] = [
    "cilium.io",
    "crd.antrea.io",
    "crd.projectcalico.org",
    "policy.networking.k8s.io",
    "vpcresources.k8s.aws",
];

/// Somebody, and what she has.
struct Somebody<'a> {
    world: &'a World,
    kubeconfig: PathBuf,
}

impl<'a> Somebody<'a> {
    fn new(world: &'a World) -> Self {
        let api = world.cluster.api();
        for role in documents(ROLES).unwrap() {
            api.apply(&role).unwrap();
        }
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "shop", "name": "ann" } });
        api.apply(&account).unwrap();
        let kubeconfig = api.kubeconfig_for_service_account("shop", "ann").unwrap();
        Self { world, kubeconfig }
    }

    /// Gives her exactly these roles.
    fn has(&self, names: &[&str]) {
        let api = self.world.cluster.api();
        for resource in ["rolebindings", "clusterrolebindings"] {
            let namespace = if resource == "rolebindings" {
                "meshmedic"
            } else {
                ""
            };
            let resource = format!("{resource}.rbac.authorization.k8s.io");
            for binding in api.list(&resource, namespace).unwrap() {
                if binding["subjects"][0]["name"] == "ann" {
                    api.delete(
                        &resource,
                        namespace,
                        binding["metadata"]["name"].as_str().unwrap(),
                    )
                    .unwrap();
                }
            }
        }
        for role in roles(self.world, names) {
            let kind = role["kind"].as_str().unwrap();
            let mut binding = json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
                "metadata": { "name": format!("ann-{}", role["metadata"]["name"].as_str().unwrap()) },
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role["metadata"]["name"] },
                "subjects": [{ "kind": "ServiceAccount", "namespace": "shop", "name": "ann" }],
            });
            if kind == "Role" {
                binding["metadata"]["namespace"] = "meshmedic".into();
            }
            api.apply(&binding).unwrap();
        }
        api.forget_requests().unwrap();
    }

    /// Runs a command, which must end so.
    #[track_caller]
    fn runs(&self, code: i32, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_meshmedic"))
            .args(arguments)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env("MESHMEDIC_CONFIRM", "200ms")
            .env("MESHMEDIC_SETTLE", "0s")
            .output()
            .unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    /// What she asked for since she got her roles. None of it was refused, and nothing of these roles was left over.
    #[track_caller]
    fn used(&self, names: &[&str]) {
        let requests = self.world.cluster.api().requests_of(ANN).unwrap();
        assert_none_was_refused(&requests);
        let rights = granted(&roles(self.world, names));
        let asked = needed(&requests);
        let of_others = |right: &&Right| {
            OF_OTHERS
                .iter()
                .any(|group| right.contains(&format!(" {group}/")))
        };
        let unused: Vec<&Right> = rights
            .difference(&asked)
            .filter(|right| !of_others(right))
            .collect();
        assert!(unused.is_empty(), "granted and never asked for: {unused:?}");
    }
}

fn lost(world: &World, app: &str) -> Pod {
    let pod = world.deployment(app, 1).remove(0);
    world.cluster.orphan(&pod).unwrap();
    pod
}

#[test]
fn people_who_look_are_granted_what_they_ask_for() {
    if !need::root("people_who_look_are_granted_what_they_ask_for") {
        return;
    }
    let world = World::new(1);
    let pod = lost(&world, "cart");
    let name = format!("shop/{}", pod.name());
    let mut agent = world.ready_agent(&[]);
    install(&world, &agent);
    agent.until("the Event", |_| world.events_of(&pod) == ["MeshCaptureLost"]);
    let api = world.cluster.api();
    let program = Path::new(env!("CARGO_BIN_EXE_meshmedic"));
    api.set_program("meshmedic", program).unwrap();
    let ann = Somebody::new(&world);

    let agents = "meshmedic-cli-agents";
    ann.has(&[SCAN, agents]);
    ann.runs(1, &["scan"]);
    ann.runs(1, &["scan", &name, "--via", "agent"]);
    ann.runs(1, &["status"]);
    ann.used(&[SCAN, agents]);

    ann.has(&[SCAN, agents, "meshmedic-cli-explain"]);
    ann.runs(1, &["explain", &name]);
    ann.used(&["meshmedic-cli-explain"]);

    let doctor = [
        "meshmedic-cli-doctor",
        "meshmedic-cli-doctor-istio",
        "meshmedic-cli-logs",
    ];
    api.install_istio().unwrap();
    api.set_log(PodRef::all_in("istio-system"), Log::text(""))
        .unwrap();
    ann.has(&[&[SCAN, agents][..], &doctor].concat());
    ann.runs(1, &["doctor"]);
    ann.used(&doctor);

    ann.has(&[SCAN, "meshmedic-cli-exec"]);
    ann.runs(1, &["scan", "-n", "shop", "--via", "exec"]);
    ann.used(&["meshmedic-cli-exec"]);

    ann.has(&[SCAN, agents, "meshmedic-cli-logs"]);
    api.set_log(PodRef::all_in("istio-system"), Log::text(""))
        .unwrap();
    ann.runs(0, &["scan", "--behavioral"]);
    ann.used(&["meshmedic-cli-logs"]);

    api.set_exec(PodRef::all_in("shop"), Exec::distroless()).unwrap();
    ann.has(&[SCAN, agents, "meshmedic-cli-probe"]);
    ann.runs(1, &["scan", &name, "--via", "probe"]);
    ann.used(&["meshmedic-cli-probe"]);
}

#[test]
fn people_who_act_are_granted_what_they_ask_for() {
    if !need::root("people_who_act_are_granted_what_they_ask_for") {
        return;
    }
    let world = World::new(1);
    let ann = Somebody::new(&world);
    let by_exec = [SCAN, "meshmedic-cli-exec", "meshmedic-cli-repair"];
    let repair = |pod: &Pod, more: &[&str]| {
        let name = format!("shop/{}", pod.name());
        let how = ["--via", "exec", "--yes", "--deadline", "60s", "--strategy"];
        ann.runs(0, &[&["repair", &name], &how[..], more].concat());
    };

    // Those who repair ask twice for an owner's Lease: it is made, and later it is there.
    ann.has(&by_exec);
    repair(&lost(&world, "cart"), &["restart"]);
    world.cluster.stateful_set("shop", "db", 1).unwrap();
    world.cluster.daemon_set("shop", "log").unwrap();
    for app in ["db", "log"] {
        let lost = world.cluster.wait_captured("shop", app, 1).unwrap().remove(0);
        world.cluster.orphan(&lost).unwrap();
        repair(&lost, &["restart"]);
    }
    ann.used(&["meshmedic-cli-repair"]);

    ann.has(&[&by_exec[..], &["meshmedic-cli-delete"]].concat());
    repair(
        &lost(&world, "desk"),
        &["restart", "--delete-past-disruption-budgets"],
    );
    ann.used(&["meshmedic-cli-delete"]);

    let bare = world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    world.cluster.orphan(&bare).unwrap();
    ann.has(&[&by_exec[..], &["meshmedic-cli-toggle"]].concat());
    repair(&bare, &["toggle"]);
    ann.used(&["meshmedic-cli-toggle"]);

    ann.has(&[&by_exec[..], &["meshmedic-cli-toggle"]].concat());
    world.cluster.orphan(&bare).unwrap();
    repair(&bare, &["heal"]);
    ann.used(&["meshmedic-cli-toggle"]);

    ann.has(&[SCAN, "meshmedic-cli-toggle"]);
    ann.runs(0, &["undo", "-n", "shop", "--yes"]);
    ann.used(&["meshmedic-cli-toggle"]);

    ann.has(&["meshmedic-cli-pause"]);
    ann.runs(0, &["pause", "--reason", "maintenance"]);
    ann.runs(0, &["pause", "--reason", "more of it"]);
    ann.runs(0, &["resume"]);
    ann.used(&["meshmedic-cli-pause"]);
}

/// The pod of `helm test`, as the chart makes it.
#[test]
fn the_charts_test_is_granted_what_it_asks_for() {
    if !need::root("the_charts_test_is_granted_what_it_asks_for") {
        return;
    }
    let world = World::new(1);
    world.deployment("cart", 1);
    let agent = world.ready_agent(&[]);
    install(&world, &agent);
    let api = world.cluster.api();
    let rendered = documents(include_str!("../../golden/deploy/helm-detect.yaml")).unwrap();
    let of_test = |object: &&Value| object["metadata"]["name"] == "meshmedic-test";
    let mut arguments = Vec::new();
    for object in rendered.iter().filter(of_test) {
        match object["kind"].as_str() {
            Some("Pod") => arguments = super::texts(&object["spec"]["containers"][0]["args"]),
            _ => drop(api.apply(object).unwrap()),
        }
    }
    assert_eq!(arguments.first(), Some(&"status"));
    let kubeconfig = api
        .kubeconfig_for_service_account("meshmedic", "meshmedic-test")
        .unwrap();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshmedic"));
        command
            .args(&arguments)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .output()
            .unwrap()
    };
    wait::until("the test to pass", PATIENCE, || run().status.success())
        .unwrap_or_else(|error| panic!("{error}: {:?}", run()));
    let requests = api
        .requests_of("system:serviceaccount:meshmedic:meshmedic-test")
        .unwrap();
    assert_none_was_refused(&requests);
    assert_eq!(needed(&requests), granted(&roles(&world, &["meshmedic-test"])));
}
