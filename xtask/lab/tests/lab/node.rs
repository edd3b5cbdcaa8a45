// SPDX-License-Identifier: Apache-2.0
//! Pods are what they claim to be, as the kernel shows them.

use std::fs;
use std::net::SocketAddr;

use crate::common::{self, listeners, read};
use meshmedic_lab::{Driver, Error, Lab, Mode, PodSpec, ProcessNetns, Qos, Shape, need};

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

#[test]
fn a_pod_is_a_namespace_with_addresses_in_a_cgroup() {
    if !need::root("a_pod_is_a_namespace_with_addresses_in_a_cgroup") {
        return;
    }
    let lab = Lab::new().unwrap();
    assert_eq!(lab.mode(), Mode::Root);
    assert_eq!(lab.proc_root().to_str(), Some("/proc"));
    let pod = lab
        .pod(PodSpec {
            addresses: vec!["10.9.8.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            listeners: vec![any(8080)],
            ..PodSpec::new("shop", "cart-0")
        })
        .unwrap();
    assert_ne!(pod.netns().unwrap(), common::netns(std::process::id()));
    let cgroup = read(&lab, pod.pid(), "cgroup");
    let v2 = cgroup.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(
        v2.starts_with("0::/meshmedic-lab-") && v2.ends_with(pod.cgroup()),
        "{v2}"
    );
    assert!(
        v2.contains(&format!(
            "kubepods-burstable-pod{}.slice",
            pod.uid().replace('-', "_")
        )),
        "{v2}"
    );
    let trie = read(&lab, pod.pid(), "net/fib_trie");
    assert!(
        trie.contains("|-- 10.9.8.7") && trie.contains("Id 100:"),
        "{trie}"
    );
    assert!(read(&lab, pod.pid(), "net/if_inet6").contains("fd000000000000000000000000000007"));
    assert_eq!(listeners(&lab, pod.pid(), "tcp"), ["0.0.0.0:8080"]);
    assert_eq!(read(&lab, pod.pid(), "comm"), "app\n");
    assert!(
        lab.log_root()
            .join(format!("shop_cart-0_{}/app", pod.uid()))
            .is_dir()
    );

    pod.set_redirected(false).unwrap();
    assert!(!read(&lab, pod.pid(), "net/fib_trie").contains("Id 100:"));
    pod.set_redirected(true).unwrap();
    assert!(read(&lab, pod.pid(), "net/fib_trie").contains("Id 100:"));

    let chosen = pod.listen(any(0)).unwrap();
    assert!(listeners(&lab, pod.pid(), "tcp").contains(&chosen.to_string()));
    assert!(matches!(pod.listen(any(8080)), Err(Error::PortTaken { address }) if address.port() == 8080));
    pod.close(any(8080)).unwrap();
    assert_eq!(listeners(&lab, pod.pid(), "tcp"), [chosen.to_string()]);

    let pid = pod.pid();
    // The old namespace's inode may be given to the new one: that the old process is gone must do.
    pod.replace_netns().unwrap();
    assert_ne!(pod.pid(), pid);
    assert_eq!(pod.netns().unwrap(), common::netns(pod.pid()));
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(listeners(&lab, pod.pid(), "tcp"), ["0.0.0.0:8080"]);
    pod.kill();
    assert!(pod.netns().is_err());
}

#[test]
fn cgroups_have_every_shape() {
    if !need::root("cgroups_have_every_shape") {
        return;
    }
    let lab = Lab::new().unwrap();
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        for shape in [Shape::Node, Shape::Docker, Shape::Kind] {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                for config_hash in [None, Some("0123456789abcdef0123456789abcdef".to_owned())] {
                    let name = format!("{driver:?}-{shape:?}-{qos:?}-{config_hash:?}");
                    let spec = PodSpec {
                        driver,
                        shape,
                        qos,
                        config_hash: config_hash.clone(),
                        ..PodSpec::new("shapes", &name)
                    };
                    let pod = lab.pod(spec).unwrap();
                    let cgroup = read(&lab, pod.pid(), "cgroup");
                    assert!(
                        cgroup.lines().any(|line| line.ends_with(pod.cgroup())),
                        "{name}: {cgroup}"
                    );
                    assert_eq!(pod.cgroup_uid(), config_hash.as_deref().unwrap_or(pod.uid()));
                    pod.kill();
                }
            }
        }
    }
}

#[test]
fn a_pod_has_further_processes_where_it_is_told() {
    if !need::root("a_pod_has_further_processes_where_it_is_told") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pods = lab
        .pods(["a", "b"].map(|name| PodSpec::new("shop", name)))
        .unwrap();
    let host = common::netns(std::process::id());
    let own = pods[0].extra_process(&ProcessNetns::Own).unwrap();
    let on_host = pods[0].extra_process(&ProcessNetns::Host).unwrap();
    let nested = pods[0].extra_process(&ProcessNetns::Nested).unwrap();
    let foreign = pods[0].extra_process(&ProcessNetns::Of(pods[1].clone())).unwrap();
    assert_eq!(own.netns().unwrap(), pods[0].netns().unwrap());
    assert_eq!(on_host.netns().unwrap(), host);
    assert_eq!(foreign.netns().unwrap(), pods[1].netns().unwrap());
    assert!(![host, pods[0].netns().unwrap(), pods[1].netns().unwrap()].contains(&nested.netns().unwrap()));
    for process in [&own, &on_host, &nested, &foreign] {
        assert!(read(&lab, process.pid(), "cgroup").contains(pods[0].cgroup()));
    }
    nested.kill();
    assert!(!fs::exists(format!("/proc/{}", nested.pid())).unwrap());

    let agent = lab.node_process(&ProcessNetns::Of(pods[1].clone())).unwrap();
    assert_eq!(agent.netns().unwrap(), pods[1].netns().unwrap());
    assert!(!read(&lab, agent.pid(), "cgroup").contains("kubepods"));

    let zombie = pods[1].zombie().unwrap();
    assert!(read(&lab, zombie, "stat").contains(") Z "));
    assert!(read(&lab, zombie, "cgroup").contains(pods[1].cgroup()));
    assert!(fs::read(format!("/proc/{zombie}/net/tcp")).is_err());
}

#[test]
fn pods_on_the_host_network_share_its_namespace() {
    if !need::root("pods_on_the_host_network_share_its_namespace") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = lab
        .pod(PodSpec {
            host_network: true,
            ..PodSpec::new("kube-system", "proxy")
        })
        .unwrap();
    assert_eq!(pod.netns().unwrap(), common::netns(std::process::id()));
    assert!(pod.addresses().is_empty());
}

#[test]
fn a_pod_holds_many_connections() {
    if !need::root("a_pod_holds_many_connections") {
        return;
    }
    let lab = Lab::new().unwrap();
    let pod = lab.pod(PodSpec::new("shop", "busy")).unwrap();
    pod.connections(16_000).unwrap();
    let table = read(&lab, pod.pid(), "net/tcp");
    let established = table
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("01"));
    assert_eq!(established.count(), 16_000);
    assert_eq!(listeners(&lab, pod.pid(), "tcp"), [""; 0]);
}

#[test]
fn an_isolated_root_shows_this_lab_alone() {
    if !need::root("an_isolated_root_shows_this_lab_alone") {
        return;
    }
    let other = Lab::new().unwrap();
    let stranger = other.pod(PodSpec::new("shop", "a")).unwrap();
    let lab = Lab::isolated().unwrap();
    let pods = lab
        .pods((0..3).map(|n| PodSpec::new("shop", &n.to_string())))
        .unwrap();
    let bystanders = lab.bystanders(20).unwrap();
    assert_eq!(bystanders.len(), 20);
    let shown = common::pids(lab.proc_root());
    assert!(pods.iter().all(|pod| shown.contains(&pod.pid())));
    assert!(bystanders.iter().all(|pid| shown.contains(pid)));
    assert!(shown.contains(&1) && !shown.contains(&stranger.pid()));
    // Besides these, the parent of the bystanders and the node's first process.
    assert_eq!(shown.len(), 3 + 20 + 2);
    assert!(
        pods.iter()
            .all(|pod| read(&lab, pod.pid(), "cgroup").contains(pod.cgroup()))
    );
    pods[0].kill();
    assert!(!common::pids(lab.proc_root()).contains(&pods[0].pid()));
}
