// SPDX-License-Identifier: Apache-2.0
//! What really runs in the network namespaces of a cluster's pods.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{LogParams, PatchParams};
use meshmedic_lab::{Cluster, ClusterSpec, Exec, Log, PodRef, need};
use tokio::io::AsyncReadExt as _;

use crate::common::{CAT, client, run};
use crate::ephemeral::{medic, of_medic, patch, state};

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_sees_what_the_kernel_shows() {
    if !need::root("a_scan_sees_what_the_kernel_shows") {
        return;
    }
    let cluster = Cluster::start(ClusterSpec::default()).unwrap();
    cluster.namespace("shop", true).unwrap();
    cluster.deployment("shop", "cart", 2).unwrap();
    let mut made = cluster.wait_captured("shop", "cart", 2).unwrap();
    let (one, two) = (made.remove(0), made.remove(0));
    let api = cluster.api();
    let pods: Api<Pod> = Api::namespaced(client(api.kubeconfig()).await, "shop");
    cluster.orphan(&two).unwrap();
    let ran = run(&pods, one.name(), None, &CAT).await;
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(0), ""));
    assert!(ran.text().contains(":3AA0"));
    assert!(!run(&pods, two.name(), None, &CAT).await.text().contains(":3AA0"));

    // The words are those of the real programs.
    let ran = run(&pods, one.name(), None, &["cat", "/proc/net/none"]).await;
    assert_eq!(
        (ran.code(), ran.stderr.as_str()),
        (Some(1), "cat: /proc/net/none: No such file or directory\n")
    );
    let shell = ["sh", "-c", "cat /proc/self/net/tcp >&2; exit 9"];
    let ran = run(&pods, one.name(), None, &shell).await;
    assert_eq!((ran.code(), ran.stdout.len()), (Some(9), 0));
    assert!(ran.stderr.contains(":3A99") || ran.stderr.contains("local_address"));
    assert!(
        run(&pods, one.name(), None, &["no-such-program"])
            .await
            .code()
            .is_none()
    );
    api.set_exec(&one, Exec::without_tcp6()).unwrap();
    let ran = run(&pods, one.name(), None, &CAT).await;
    assert_eq!(
        (ran.code(), ran.text().matches("local_address").count()),
        (Some(1), 1)
    );
    api.set_exec(&one, Exec::without(&["cat"])).unwrap();
    assert!(run(&pods, one.name(), None, &CAT).await.code().is_none());
    let ran = run(&pods, one.name(), None, &["sh", "-c", "cat /proc/net/tcp"]).await;
    assert_eq!(ran.code(), Some(127));

    // An orphan can lie.
    api.set_exec(&two, Exec::captured()).unwrap();
    assert!(run(&pods, two.name(), None, &CAT).await.text().contains(":3AA0"));

    // Another image does not, and has what this one lacks.
    let add = PatchParams::default();
    for pod in [&one, &two] {
        pods.patch_ephemeral_containers(pod.name(), &add, &patch(&medic()))
            .await
            .unwrap();
        assert_eq!(
            state(api, "shop", pod.name(), "/terminated")["terminated"]["exitCode"],
            0
        );
    }
    let params = of_medic(false);
    assert!(pods.logs(one.name(), &params).await.unwrap().contains(":3AA0"));
    assert!(!pods.logs(two.name(), &params).await.unwrap().contains(":3AA0"));

    // The successor is another pod.
    api.delete("pods", "shop", two.name()).unwrap();
    cluster.wait_gone(&two).unwrap();
    let ready = cluster.wait_captured("shop", "cart", 2).unwrap();
    let new = ready.iter().find(|pod| pod.uid() != one.uid()).unwrap();
    assert!(run(&pods, new.name(), None, &CAT).await.text().contains(":3AA0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_leads_to_the_loopback_of_the_pod() {
    if !need::root("a_port_leads_to_the_loopback_of_the_pod") {
        return;
    }
    let cluster = Cluster::start(ClusterSpec {
        nodes: 1,
        istio: true,
        ..ClusterSpec::default()
    })
    .unwrap();
    cluster.namespace("shop", false).unwrap();
    let pod = cluster.bare_pod("shop", "web", "node-a").unwrap();
    let address = pod.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let api = cluster.api();
    let client = client(api.kubeconfig()).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let mut forwarder = pods.portforward("web", &[address.port()]).await.unwrap();
    let mut stream = forwarder.take_stream(address.port()).unwrap();
    let error = forwarder.take_error(address.port()).unwrap();
    // The application takes the connection and lets it go; where nobody listens there is an error instead.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(stream);
    assert_eq!(error.await, None);
    // The client's end of the port must stay open for its error to come.
    let mut forwarder = pods.portforward("web", &[1]).await.unwrap();
    let closed = forwarder.take_error(1).unwrap();
    assert!(closed.await.unwrap().contains("refused"));

    let ztunnel = cluster.node("node-a").unwrap().ztunnel().unwrap();
    let system: Api<Pod> = Api::namespaced(client, "istio-system");
    let mut forwarder = system.portforward(ztunnel.name(), &[15020]).await.unwrap();
    let mut stream = forwarder.take_stream(15020).unwrap();
    let error = forwarder.take_error(15020).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    drop(stream);
    assert_eq!(error.await, None);

    let line = "2026-01-01T00:00:00.000000Z\tinfo\taccess\tconnection complete\n";
    api.set_log(PodRef::new("istio-system", ztunnel.name()), Log::text(line))
        .unwrap();
    assert_eq!(
        system.logs(ztunnel.name(), &LogParams::default()).await.unwrap(),
        line
    );
    std::fs::write(
        pod.log_folder().join("0.log"),
        "2026-01-01T00:00:00.5Z stdout F hello there\n",
    )
    .unwrap();
    assert_eq!(
        pods.logs("web", &LogParams::default()).await.unwrap(),
        "hello there\n"
    );
}
