// SPDX-License-Identifier: Apache-2.0
//! What the roles grant, against what is asked for: nobody is refused anything, and nobody has what is not used.

mod people;
mod real;

use std::collections::BTreeSet;

use meshmedic_lab::api::{Request, documents};
use meshmedic_lab::{ClusterSpec, Fault, Pod, need};
use serde_json::{Value, json};

use crate::heal::heals;
use crate::process::Agent;
use crate::world::{DETECT, REPAIR_RIGHTS, USER, World};

/// `verb group/resource`, and a name where the right is limited to one.
type Right = String;

fn texts(value: &Value) -> Vec<&str> {
    let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(Value::as_str).collect()
}

/// What the rules of these roles grant.
fn granted<'a>(roles: impl IntoIterator<Item = &'a Value>) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in roles
        .into_iter()
        .flat_map(|role| role["rules"].as_array().unwrap())
    {
        let names = match texts(&rule["resourceNames"]) {
            names if names.is_empty() => vec![String::new()],
            names => names.iter().map(|name| format!(" {name}")).collect(),
        };
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.extend(
                        names
                            .iter()
                            .map(|name| format!("{verb} {group}/{resource}{name}")),
                    );
                }
            }
        }
    }
    rights
}

/// Names to which rights are limited.
const NAMED: [&str; 12] = [
    "cilium-config",
    "gatewayclasses.gateway.networking.k8s.io",
    "gateways.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "httproutes.gateway.networking.k8s.io",
    "istio",
    "istio-cni-config",
    "meshmedic-control",
    "meshmedic-heals",
    "referencegrants.gateway.networking.k8s.io",
    "tcproutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
];

/// What these requests needed.
fn needed(requests: &[Request]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    // What they may do, all users may ask: the role system:basic-user grants that.
    let asked = |request: &&Request| !request.path.ends_with("/selfsubjectaccessreviews");
    for request in requests.iter().filter(asked) {
        let resource = request.full_resource();
        // A watch of one object names it in its query.
        let is = |name: &&&str| {
            let field = format!("metadata.name%3D{name}");
            request.name == **name || request.query.contains(&field)
        };
        let name = NAMED
            .iter()
            .find(is)
            .map(|name| format!(" {name}"))
            .unwrap_or_default();
        let right = |verb: &str| format!("{verb} {}/{resource}{name}", request.group);
        rights.insert(right(&request.verb));
        // These begin with a GET, for which new versions of Kubernetes ask the right to create as well. So does the
        // lab's server.
        if ["pods/exec", "pods/portforward"].contains(&resource.as_str()) {
            rights.insert(right("create"));
        }
    }
    rights
}

#[track_caller]
fn assert_none_was_refused(requests: &[Request]) {
    let refused: Vec<String> = requests
        .iter()
        .filter(|request| request.code == Some(403))
        .map(|request| format!("{} {}?{}", request.verb, request.path, request.query))
        .collect();
    assert!(refused.is_empty(), "refused: {refused:#?}");
}

/// The roles of this name, as they are in the cluster.
fn roles(world: &World, names: &[&str]) -> Vec<Value> {
    let api = world.cluster.api();
    let mut roles = Vec::new();
    for (kind, namespace) in [("ClusterRole", ""), ("Role", "meshmedic")] {
        let resource = format!("{}s.rbac.authorization.k8s.io", kind.to_lowercase());
        let mut found = api.list(&resource, namespace).unwrap();
        found.retain(|role| names.iter().any(|name| role["metadata"]["name"] == *name));
        for role in &mut found {
            // A list leaves it out of its items.
            role["kind"] = kind.into();
        }
        roles.extend(found);
    }
    assert!(!roles.is_empty());
    roles
}

#[test]
fn an_agent_that_detects_is_granted_what_it_asks_for_and_nothing_else() {
    if !need::root("an_agent_that_detects_is_granted_what_it_asks_for_and_nothing_else") {
        return;
    }
    let world = World::detecting();
    let pods = world.deployment("cart", 1);
    let mut agent = world.ready_agent(&[]);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the Event", |_| world.events_of(&pods[0]) == ["MeshCaptureLost"]);
    let requests = world.cluster.api().requests_of(USER).unwrap();
    assert_none_was_refused(&requests);
    assert_eq!(needed(&requests), granted(&roles(&world, &["meshmedic-detect"])));
}

#[test]
fn an_agent_that_repairs_is_granted_what_it_asks_for_and_nothing_else() {
    if !need::root("an_agent_that_repairs_is_granted_what_it_asks_for_and_nothing_else") {
        return;
    }
    let world = World::new(1);
    let api = world.cluster.api();
    // Whether it happened is looked up only where an answer is lost.
    let lost = api
        .fault(
            Fault::drop_after()
                .verb("create")
                .resource("pods/eviction")
                .in_earnest()
                .times(1),
        )
        .unwrap();
    leave_a_toggle(&world);
    let mut agent = heals(&world);
    drop(lost);
    of_other_kinds(&world, &mut agent);
    agent.until("the label to be as it was", |_| is_restored(&world));
    // What is idle for a day is deleted.
    api.set_clock(2 * 24 * 60 * 60 * 1000).unwrap();
    api.break_watches().unwrap();
    agent.until("an idle Lease to be deleted", |_| {
        let requests = api.requests_of(USER).unwrap();
        requests.iter().any(|request| request.verb == "delete")
    });
    let requests = api.requests_of(USER).unwrap();
    assert_none_was_refused(&requests);
    let all = [
        "meshmedic-detect",
        "meshmedic-heal",
        "meshmedic-restart",
        "meshmedic-evict",
    ];
    // To that Lease it has a wider right already.
    let mut granted = granted(&roles(&world, &all));
    granted.retain(|right| !right.ends_with(" meshmedic-heals"));
    assert_eq!(needed(&requests), granted);
}

#[test]
fn an_agent_that_only_heals_is_granted_what_it_asks_for_and_nothing_else() {
    if !need::root("an_agent_that_only_heals_is_granted_what_it_asks_for_and_nothing_else") {
        return;
    }
    let [heal, _restart, policies] = REPAIR_RIGHTS;
    let world = World::granting(ClusterSpec::default(), &[DETECT, heal, policies], "meshmedic");
    let pods = world.on_node("node-a");
    let mut agent = world.ready_agent(&["--auto-repair", "--strategy", "heal", "--heal-deadline", "2s"]);
    world.cluster.set_cni(false);
    for pod in &pods[..2] {
        world.cluster.orphan(pod).unwrap();
    }
    let stopped = "meshmedic_heals_total{result=\"stopped\",reason=\"\"}";
    agent.until("the node to be given up", |agent| agent.metric(stopped) == 1.0);
    agent.until("the other agents to be told", |_| {
        world.failed_nodes() == ["node-a"]
    });
    let requests = world.cluster.api().requests_of(USER).unwrap();
    assert_none_was_refused(&requests);
    assert_eq!(
        needed(&requests),
        granted(&roles(&world, &["meshmedic-detect", "meshmedic-heal"]))
    );
}

/// The chart with `deleteInsteadOfEvict`, under a ServiceAccount of another name, for one namespace.
const OTHER: &str = include_str!("../golden/deploy/helm-other.yaml");

/// Of each other kind that may lose a pod, it is asked what it wants.
fn of_other_kinds(world: &World, agent: &mut Agent) {
    world.cluster.stateful_set("shop", "db", 1).unwrap();
    world.cluster.daemon_set("shop", "log").unwrap();
    for (app, pods) in [("db", 1), ("log", world.cluster.nodes().len())] {
        let lost = world.cluster.wait_captured("shop", app, pods).unwrap().remove(0);
        world.cluster.orphan(&lost).unwrap();
        agent.until("its repair", |_| {
            world.uid_of("shop", lost.name()).as_deref() != Some(lost.uid())
        });
        world.cluster.wait_captured("shop", app, pods).unwrap();
    }
}

/// Leaves a pod as a toggle does that was interrupted.
fn leave_a_toggle(world: &World) {
    world.cluster.bare_pod("shop", "bare", "node-a").unwrap();
    world.cluster.wait_captured("shop", "bare", 1).unwrap();
    let left = json!({ "metadata": {
        "labels": { "istio.io/dataplane-mode": "none" },
        "annotations": { "meshmedic.io/toggle-restore": "{\"label\":null}" },
    }});
    world.cluster.api().patch("pods", "shop", "bare", &left).unwrap();
}

/// Whether its label is as it was.
fn is_restored(world: &World) -> bool {
    let object = world.cluster.api().get("pods", "shop", "bare").unwrap();
    object["metadata"]["labels"]["istio.io/dataplane-mode"].is_null()
}

/// An agent under the rights of that chart deletes an orphan.
fn deletes(world: &World) {
    let pods = world.deployment("cart", 2);
    let mut agent = world.ready_agent(&[
        "--auto-repair",
        "--delete-instead-of-evict",
        "--repair-jobs",
        "--strategy",
        "restart",
    ]);
    world.cluster.orphan(&pods[0]).unwrap();
    agent.until("the orphan's repair", |agent| {
        agent.metric("meshmedic_repairs_total{action=\"delete\",result=\"succeeded\"}") == 1.0
    });
    of_other_kinds(world, &mut agent);
    let of_job = job(world);
    world.cluster.orphan(&of_job).unwrap();
    agent.until("the Job's pod to go", |_| !world.is_untouched(&of_job));
}

/// A Job, for which the lab makes no pods, and a pod that it owns.
fn job(world: &World) -> Pod {
    let api = world.cluster.api();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "namespace": "shop", "name": "bake" },
        "spec": {
            "selector": { "matchLabels": { "app": "baker" } },
            "template": {
                "metadata": { "labels": { "app": "baker" } },
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "app", "image": "registry.example/app:1" }] },
            },
            "manualSelector": true,
        },
    });
    api.apply(&job).unwrap();
    let job = api.get("jobs", "shop", "bake").unwrap();
    world.cluster.bare_pod("shop", "baker", "node-a").unwrap();
    let owned = json!({ "metadata": { "ownerReferences": [{
        "apiVersion": "batch/v1", "kind": "Job", "name": "bake", "uid": job["metadata"]["uid"], "controller": true,
    }] } });
    api.patch("pods", "shop", "baker", &owned).unwrap();
    world.cluster.wait_captured("shop", "baker", 1).unwrap().remove(0)
}

#[test]
fn flags_that_need_more_are_granted_that_and_nothing_else() {
    if !need::root("flags_that_need_more_are_granted_that_and_nothing_else") {
        return;
    }
    let world = World::granting(ClusterSpec::default(), &[OTHER], "healer");
    deletes(&world);
    let requests = world
        .cluster
        .api()
        .requests_of("system:serviceaccount:meshmedic:healer")
        .unwrap();
    assert_none_was_refused(&requests);
    let mut of_pods = granted(&roles(&world, &["meshmedic-restart", "meshmedic-evict"]));
    of_pods.retain(|right| !right.contains("leases"));
    let asked = needed(&requests);
    let unused: Vec<&Right> = of_pods.difference(&asked).collect();
    assert!(unused.is_empty(), "granted and never asked for: {unused:?}");
    assert!(!asked.contains("create /pods/eviction"), "it deletes instead");
}

#[test]
fn the_rights_suffice_on_a_real_api_server_too() {
    if !need::root("the_rights_suffice_on_a_real_api_server_too")
        || !need::real_apiserver("the_rights_suffice_on_a_real_api_server_too")
    {
        return;
    }
    let spec = ClusterSpec {
        real_api: true,
        ..ClusterSpec::default()
    };
    let world = World::granting(spec, &[OTHER], "healer");
    deletes(&world);
}

#[test]
fn a_right_too_many_and_one_too_few_are_noticed() {
    let role = |verbs: &[&str]| {
        json!({ "rules": [
            { "apiGroups": [""], "resources": ["pods"], "verbs": verbs },
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["meshmedic-control"], "verbs": ["list"] },
        ]})
    };
    let request = |resource: &str, query: &str| Request {
        verb: "list".to_owned(),
        resource: resource.to_owned(),
        query: query.to_owned(),
        ..Request::default()
    };
    let requests = [
        request("pods", ""),
        request("configmaps", "fieldSelector=metadata.name%3Dmeshmedic-control"),
    ];
    assert_eq!(needed(&requests), granted(&[role(&["list"])]));
    assert_ne!(needed(&requests), granted(&[role(&["list", "delete"])]));
    assert_ne!(needed(&requests), granted(&[role(&[])]));
    // A right to all of a kind is more than one to a single object.
    assert_ne!(
        needed(&[request("configmaps", "")]),
        granted(&documents("{rules: [{apiGroups: [''], resources: [configmaps], resourceNames: [meshmedic-control], verbs: [list]}]}").unwrap())
    );
}
