// SPDX-License-Identifier: Apache-2.0
//! `exec`, as the API server and the runtimes answer it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use meshmedic_lab::{ApiServer, Exec, Fault, PodRef, need, wait};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::common::{CAT, Ran, SOON, client, pod, refusal, run, space, start};

/// 15008, as the kernel writes it.
const HBONE: &str = ":3AA0";

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_recorded_tables() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    pod(&api, "shop", "b", &["app"]);
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    api.set_exec(("shop", "b"), Exec::orphan()).unwrap();
    let a = run(&pods, "a", None, &CAT).await;
    assert_eq!((a.code(), a.stderr.as_str()), (Some(0), ""));
    assert!(a.text().contains(HBONE) && a.text().matches("local_address").count() == 2);
    let b = run(&pods, "b", Some("app"), &["sh", "-c", "cat /proc/self/net/tcp"]).await;
    assert!(!b.text().contains(HBONE) && b.text().matches("local_address").count() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tcp6_is_on_stderr() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(("shop", "a"), Exec::tables(b"header\n", None))
        .unwrap();
    let ran = run(&pods, "a", None, &CAT).await;
    assert_eq!(ran.text(), "header\n");
    assert_eq!(ran.stderr, "cat: /proc/net/tcp6: No such file or directory\n");
    assert_eq!(ran.code(), Some(1));
    assert_eq!(
        ran.message(),
        "command terminated with non-zero exit code: command terminated with exit code 1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_second_container_has_cat() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app", "tools"]);
    let a = PodRef::new("shop", "a");
    api.set_exec(a.clone(), Exec::distroless()).unwrap();
    api.set_exec(a.container("tools"), Exec::captured()).unwrap();
    let ran = run(&pods, "a", Some("app"), &CAT).await;
    let status = ran.status.as_ref().unwrap();
    assert_eq!(
        (status.code, status.reason.as_deref()),
        (Some(500), Some("InternalError"))
    );
    assert!(ran.message().ends_with(
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"cat\": executable file \
         not found in $PATH: unknown"
    ));
    assert_eq!(run(&pods, "a", Some("tools"), &CAT).await.code(), Some(0));
    let parameters = AttachParams::default();
    let (code, message) = refusal(pods.exec("a", CAT, &parameters).await);
    assert_eq!(
        (code, message.as_str()),
        (
            400,
            "a container name must be specified for pod a, choose one of: [app tools]"
        )
    );
    let (_, message) = refusal(pods.exec("a", CAT, &parameters.container("no")).await);
    assert_eq!(message, "container no is not valid for pod a");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_says_it_with_an_exit_code() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(("shop", "a"), Exec::without_in_docker(&["cat"], 126))
        .unwrap();
    let ran = run(&pods, "a", None, &CAT).await;
    assert!(ran.text().starts_with("OCI runtime exec failed: "), "{ran:?}");
    assert_eq!(ran.code(), Some(126));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_as_they_are() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    let bytes = b"\x1b[2J\xff\xfe\0\r\n";
    let exec = Exec::print(bytes).stderr("\u{1b}]0;title\u{7}").exit(3);
    api.set_exec(("shop", "a"), exec).unwrap();
    let ran = run(&pods, "a", None, &CAT).await;
    assert_eq!(ran.stdout, bytes);
    assert_eq!(ran.stderr, "\u{1b}]0;title\u{7}");
    assert_eq!(ran.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn much_comes_fast_and_ends_with_its_reader() {
    const MUCH: usize = 64 << 20;
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(("shop", "a"), Exec::flood("0123456789", 64 << 20))
        .unwrap();
    assert_eq!(run(&pods, "a", None, &CAT).await.stdout.len(), MUCH);
    api.set_exec(("shop", "a"), Exec::endless("again\n")).unwrap();
    let process = pods.exec("a", CAT, &AttachParams::default()).await;
    let mut process = process.unwrap();
    let mut first = vec![0; 1 << 20];
    process.stdout().unwrap().read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"again\nagain\n"));
    assert_eq!(api.sessions().unwrap(), 1);
    drop(process);
    wait::until("the session to end", SOON, || api.sessions().unwrap() == 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn some_never_answer_and_some_hang_up() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(("shop", "a"), Exec::print("sl local_address").cut_after(9))
        .unwrap();
    let process = pods.exec("a", CAT, &AttachParams::default()).await.unwrap();
    let ran = Ran::of(process).await;
    assert_eq!(ran.text(), "sl local_");
    assert!(ran.status.is_none());

    api.set_exec(("shop", "a"), Exec::silence()).unwrap();
    let process = pods.exec("a", CAT, &AttachParams::default()).await.unwrap();
    wait::until("the session", SOON, || api.sessions().unwrap() == 1).unwrap();
    drop(process);
    wait::until("its end", SOON, || api.sessions().unwrap() == 0).unwrap();

    // The faults of all requests are those of these, too.
    let fault = Fault::retry_after(429, 1).resource("pods/exec").times(1);
    let fault = api.fault(fault).unwrap();
    let (code, _) = refusal(pods.exec("a", CAT, &AttachParams::default()).await);
    assert_eq!((code, fault.hits().unwrap()), (429, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_has_no_container() {
    let (api, pods) = start().await;
    let mut made = pod(&api, "shop", "a", &["app"]);
    // Nothing runs for it in the lab.
    let ran = run(&pods, "a", None, &CAT).await;
    let why = "Internal error occurred: unable to upgrade connection: container not found (\"app\")";
    assert_eq!(ran.message(), why);
    made["status"] = json!({ "phase": "Succeeded" });
    api.update_status(&made).unwrap();
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    assert_eq!(run(&pods, "a", None, &CAT).await.message(), why);
    let (code, _) = refusal(pods.exec("none", CAT, &AttachParams::default()).await);
    assert_eq!(code, 404);
    let path = "/api/v1/namespaces/shop/pods/a/exec?command=cat&stdout=true";
    let plain = api.send("POST", path, "application/json", &json!(null)).unwrap();
    assert_eq!(
        (plain.code, &plain.body["message"]),
        (400, &json!("Upgrade request required"))
    );
}

/// A client of an account that may do these with `pods/exec`, and nothing else.
async fn doctor(api: &ApiServer) -> (Api<Pod>, impl Fn(&[&str])) {
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "namespace": "shop", "name": "doctor" },
    });
    api.create(&account).unwrap();
    let grant = |verbs: &[&str]| {
        api.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "namespace": "shop", "name": "doctor" },
            "rules": [{ "apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs }],
        }))
        .unwrap();
    };
    grant(&["delete"]);
    api.create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "namespace": "shop", "name": "doctor" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "doctor" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "shop", "name": "doctor" }],
    }))
    .unwrap();
    let config = api.kubeconfig_for_service_account("shop", "doctor").unwrap();
    (Api::namespaced(client(&config).await, "shop"), grant)
}

/// Waits until an `exec` is refused so; a role is seen when it is seen.
async fn wait_refusal(pods: &Api<Pod>, code: u16, message: &str) {
    let end = std::time::Instant::now() + SOON;
    loop {
        let refused = refusal(pods.exec("a", CAT, &AttachParams::default()).await);
        if refused == (code, message.to_owned()) {
            return;
        }
        assert!(std::time::Instant::now() < end, "{refused:?}");
        tokio::task::yield_now().await;
    }
}

/// Holds what an API server asks for, `create` too where it is new enough.
async fn rights_are_asked_for(api: &ApiServer, create: bool) {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": "a" },
        "spec": { "containers": [{ "name": "app", "image": "cart:1" }] },
    });
    api.create(&object).unwrap();
    let (pods, grant) = doctor(api).await;
    let denied = "pods \"a\" is forbidden: User \"system:serviceaccount:shop:doctor\" cannot get resource \
                  \"pods/exec\" in API group \"\" in the namespace \"shop\"";
    wait_refusal(&pods, 403, denied).await;
    grant(&["get"]);
    if create {
        // Of what is missing now nothing is said.
        wait_refusal(&pods, 403, "pods \"a\" is forbidden: ").await;
        grant(&["get", "create"]);
    }
    wait_refusal(&pods, 400, "pod a does not have a host assigned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_for_get_and_create() {
    let (api, _) = start().await;
    rights_are_asked_for(&api, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_one_asks_for_what_its_version_asks_for() {
    if need::real_apiserver("the_real_one_asks_for_what_its_version_asks_for") {
        let api = ApiServer::real().unwrap();
        space(&api, "shop", &json!({}));
        let admin = client(api.kubeconfig()).await;
        let version = admin.apiserver_version().await.unwrap();
        let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap();
        // Since 1.35 a WebSocket needs `create` as well.
        rights_are_asked_for(&api, minor >= 35).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn get_was_enough_before() {
    let (api, _) = start().await;
    pod(&api, "shop", "a", &["app"]);
    api.set_exec(PodRef::all(), Exec::captured()).unwrap();
    let (pods, grant) = doctor(&api).await;
    grant(&["get"]);
    api.need_create_for_websockets(false).unwrap();
    assert_eq!(run(&pods, "a", None, &CAT).await.code(), Some(0));
    api.delete("serviceaccounts", "shop", "doctor").unwrap();
    let parameters = AttachParams::default();
    assert_eq!(refusal(pods.exec("a", CAT, &parameters).await).0, 401);
    let own = api.requests_of("system:serviceaccount:shop:doctor").unwrap();
    let codes: Vec<_> = own
        .iter()
        .map(|request| (request.full_resource(), request.code))
        .collect();
    assert_eq!(codes, [("pods/exec".to_owned(), Some(101))]);
    assert_eq!(own[0].verb, "get");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_late() {
    let (api, pods) = start().await;
    pod(&api, "shop", "a", &["app"]);
    let delay = Duration::from_millis(50);
    api.set_exec(PodRef::all_in("shop"), Exec::captured().after(delay))
        .unwrap();
    let start = std::time::Instant::now();
    assert_eq!(run(&pods, "a", None, &CAT).await.code(), Some(0));
    assert!(start.elapsed() >= delay);
}
