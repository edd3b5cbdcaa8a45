// SPDX-License-Identifier: Apache-2.0

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use meshmedic_common::report::{NodeReport, ReadError};

use super::*;
use crate::status::Metrics;

const REPORT: &str = r#"{"apiVersion":"meshmedic.io/v1","kind":"NodeReport","node":"n","version":"0","trigger":"poll",
    "conditions":[],"ztunnel":[],"pods":[{"namespace":"shop","name":"cart","uid":"5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c11",
    "state":"orphan","ports":[],"redirection":"routed","flaps":0},{"namespace":"shop","name":"till",
    "uid":"5a9c2f4e-3e5f-4c58-8f5b-0a6b1e1b7c12","state":"captured","ports":[],"redirection":"routed","flaps":0}]}"#;

fn report() -> Arc<NodeReport> {
    Arc::new(NodeReport::read(REPORT.as_bytes()).unwrap())
}

fn status() -> Status {
    Status::new(Metrics::new(), Duration::from_secs(3600))
}

fn endpoints() -> Endpoints {
    Endpoints {
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        status: Some("127.0.0.1:0".parse().unwrap()),
    }
}

struct Reply {
    code: u16,
    head: String,
    body: String,
}

fn send(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    // A refusal may come before everything was sent.
    let _ = stream.write_all(request.as_bytes());
    reply(stream)
}

fn reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A connection that is cut still gave what it gave.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).map_or(0, |code| code.parse().unwrap());
    Reply {
        code,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Reply {
    send(
        address,
        &format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    )
}

/// A connection from an address of loopback, which says nothing.
fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is no IPv4 address")
    };
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &std::net::SocketAddrV4::new(from.into(), 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    socket.into()
}

#[test]
fn metrics_health_and_readiness_are_served() {
    let status = status();
    let pods = status.task("the pods of this node");
    let kernel = status.task("the kernel programs");
    let server = Server::start(endpoints(), status.clone()).unwrap();
    let address = server.metrics_addr().unwrap();

    let reply = ask(address, "GET", "/metrics");
    assert_eq!(reply.code, 200);
    assert!(
        reply.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        reply.head
    );
    assert!(
        reply.body.contains("\nmeshmedic_orphans_total 0\n"),
        "{}",
        reply.body
    );
    status.publish(report());
    assert!(
        ask(address, "GET", "/metrics")
            .body
            .contains("\nmeshmedic_orphans_total 1\n")
    );

    let reply = ask(address, "GET", "/readyz");
    assert_eq!(reply.code, 503);
    assert_eq!(
        reply.body,
        "not ready, waiting for: the kernel programs, the pods of this node\n"
    );
    drop((pods, kernel));
    assert_eq!(ask(address, "GET", "/readyz").code, 200);

    assert_eq!(ask(address, "GET", "/healthz").body, "ok\n");
    let stalled = Status::new(Metrics::new(), Duration::ZERO);
    stalled.beat(meshmedic_common::time::Time::from_nanos(0));
    let other = Server::start(endpoints(), stalled).unwrap();
    let reply = ask(other.metrics_addr().unwrap(), "GET", "/healthz");
    assert_eq!(reply.code, 503);
    assert!(reply.body.contains("standing still since"), "{}", reply.body);
    server.stop();
}

#[test]
fn the_report_is_served_whole_and_by_pod() {
    let status = status();
    let task = status.task("the pods of this node");
    let server = Server::start(endpoints(), status.clone()).unwrap();
    let address = server.status_addr().unwrap();

    let reply = ask(address, "GET", "/v1/node");
    assert_eq!(reply.code, 503);
    let error = NodeReport::read(reply.body.as_bytes()).unwrap_err();
    assert!(
        matches!(&error, ReadError::Refused(message) if message.contains("waiting for the pods")),
        "{error}"
    );

    drop(task);
    status.publish(report());
    let reply = ask(address, "GET", "/v1/node");
    assert_eq!(reply.code, 200);
    assert!(
        reply.head.contains("content-type: application/json"),
        "{}",
        reply.head
    );
    assert!(reply.head.contains("cache-control: no-store"), "{}", reply.head);
    assert_eq!(NodeReport::read(reply.body.as_bytes()).unwrap(), *report());

    let reply = ask(address, "GET", "/v1/pods/shop/till?x=y");
    let one = NodeReport::read(reply.body.as_bytes()).unwrap();
    assert_eq!((one.pods.len(), one.pods[0].name.as_deref()), (1, Some("till")));

    let reply = ask(address, "GET", "/v1/pods/shop/nobody");
    assert_eq!(reply.code, 404);
    let error = NodeReport::read(reply.body.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("no pod") && error.contains("node n"), "{error}");
    server.stop();
}

#[test]
fn what_is_not_there_says_what_is() {
    let server = Server::start(endpoints(), status()).unwrap();
    let (metrics, status) = (server.metrics_addr().unwrap(), server.status_addr().unwrap());
    for (address, path, hint) in [
        (metrics, "/", "/readyz"),
        (metrics, "/v1/node", "/metrics"),
        (status, "/metrics", "/v1/node"),
        (status, "/v1/pods/shop", "/v1/pods/<namespace>/<name>"),
        (status, "/v1/pods/a/b/c", "/v1/pods/<namespace>/<name>"),
        (status, "/v1/pods//", "nothing is known"),
    ] {
        let reply = ask(address, "GET", path);
        assert!(matches!(reply.code, 404 | 503), "{path}: {}", reply.code);
        assert!(reply.body.contains(hint), "{path}: {}", reply.body);
    }
}

#[test]
fn only_get_and_head_are_answered() {
    let status = status();
    status.publish(report());
    let server = Server::start(endpoints(), status).unwrap();
    for (address, path) in [
        (server.metrics_addr().unwrap(), "/metrics"),
        (server.status_addr().unwrap(), "/v1/node"),
    ] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"] {
            let reply = ask(address, method, path);
            assert_eq!(reply.code, 405, "{method}");
            assert!(reply.head.contains("allow: get, head"), "{}", reply.head);
        }
        let (get, head) = (ask(address, "GET", path), ask(address, "HEAD", path));
        assert_eq!(head.code, 200);
        assert_eq!(head.body, "");
        assert!(
            head.head.contains(&format!("content-length: {}", get.body.len())),
            "{}",
            head.head
        );
    }
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_its_flag() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    for (flag, endpoints) in [
        (
            "--metrics-addr",
            Endpoints {
                metrics: Some(ListenAddr::One(address)),
                status: None,
            },
        ),
        (
            "--status-addr",
            Endpoints {
                metrics: None,
                status: Some(ListenAddr::One(address)),
            },
        ),
    ] {
        let error = Server::start(endpoints, status()).unwrap_err().to_string();
        assert!(error.contains(flag), "{error}");
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("perhaps another agent"), "{error}");
    }
    let endpoints = Endpoints {
        metrics: None,
        status: Some(ListenAddr::All(0)),
    };
    let error = Server::start(endpoints, status()).unwrap_err().to_string();
    assert!(
        error.contains("--status-addr :0 is no loopback address"),
        "{error}"
    );
}

#[test]
fn clients_that_say_nothing_are_sent_away_and_hold_up_nobody() {
    let limits = Limits {
        request: Duration::from_millis(20),
        ..LIMITS
    };
    let server = Server::start_with(endpoints(), status(), limits).unwrap();
    let address = server.metrics_addr().unwrap();
    let mut silent = TcpStream::connect(address).unwrap();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(ask(address, "GET", "/healthz").code, 200);
    // Both are closed by the server; otherwise these would wait for ever.
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    slow.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_connection_has_its_time_whatever_it_does() {
    let limits = Limits {
        request: Duration::from_secs(3600),
        connection: Duration::from_millis(20),
        ..LIMITS
    };
    let server = Server::start_with(endpoints(), status(), limits).unwrap();
    let mut silent = TcpStream::connect(server.metrics_addr().unwrap()).unwrap();
    silent.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_client_that_does_not_read_is_cut_at_the_end() {
    let status = status();
    let mut big = NodeReport::clone(&report());
    for _ in 0..40_000 {
        big.pods.push(big.pods[0].clone());
    }
    status.publish(Arc::new(big));
    let server = Server::start(endpoints(), status).unwrap();
    let address = server.status_addr().unwrap();
    let mut lazy = TcpStream::connect(address).unwrap();
    lazy.write_all(b"GET /v1/node HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    // One byte has come, so the answer is under way; then nothing is read until the server is over.
    lazy.read_exact(&mut [0]).unwrap();
    server.stop();
    let cut = reply(lazy);
    let length: usize = cut
        .head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap();
    assert!(
        cut.body.len() < length,
        "the whole answer fitted into the buffers: make it bigger"
    );
}

#[test]
fn slow_clients_from_everywhere_do_not_keep_the_kubelet_out() {
    let limits = Limits {
        connections: 12,
        per_peer: 3,
        ..LIMITS
    };
    let server = Server::start_with(endpoints(), status(), limits).unwrap();
    let address = server.metrics_addr().unwrap();
    // From four addresses of loopback, as many as there are places.
    let mut slow = Vec::new();
    for last in 1..=4 {
        for _ in 0..3 {
            slow.push(connect_from([127, 0, 0, last], address));
        }
    }
    for _ in 0..40 {
        assert_eq!(ask(address, "GET", "/healthz").code, 200);
    }
}

#[test]
fn the_report_is_for_localhost_under_no_other_name() {
    let status = status();
    status.publish(report());
    let server = Server::start(endpoints(), status).unwrap();
    let address = server.status_addr().unwrap();
    for (host, code) in [
        ("localhost:9101", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:80", 200),
        ("[::1]:9101", 200),
        ("rebound.example:9101", 421),
        ("localhost.rebound.example", 421),
        ("10.0.0.1", 421),
        ("a b", 421),
    ] {
        let reply = send(address, &format!("GET /v1/node HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(reply.code, code, "{host}");
    }
    // Scrapers and the kubelet call the other one by any name.
    let other = server.metrics_addr().unwrap();
    let reply = send(other, "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:9100\r\n\r\n");
    assert_eq!(reply.code, 200);
}

#[test]
fn a_request_that_is_too_long_is_refused() {
    let server = Server::start(endpoints(), status()).unwrap();
    let long = "a".repeat(4 * LONGEST_HEAD);
    let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n");
    let reply = send(server.metrics_addr().unwrap(), &request);
    assert!(matches!(reply.code, 0 | 431), "{}", reply.code);
    assert_eq!(ask(server.metrics_addr().unwrap(), "GET", "/healthz").code, 200);
}

#[test]
fn a_stopped_server_is_gone() {
    let server = Server::start(endpoints(), status()).unwrap();
    let address = server.metrics_addr().unwrap();
    let idle = TcpStream::connect(address).unwrap();
    server.stop();
    assert_eq!(reply(idle).code, 0);
    assert!(TcpStream::connect(address).is_err());
    let server = Server::start(Endpoints::default(), status()).unwrap();
    assert_eq!((server.metrics_addr(), server.status_addr()), (None, None));
    server.stop();
}

#[test]
fn another_agent_is_tried_on_the_port_of_ones_own_and_only_for_whoever_reaches_loopback() {
    let server = Server::start(endpoints(), status()).unwrap();
    let (metrics, local) = (server.metrics_addr().unwrap(), server.status_addr().unwrap());
    let reply = ask(local, "GET", "/v1/reach/127.0.0.1");
    assert_eq!((reply.code, reply.body.as_str()), (200, "{\"reached\":true}\n"));
    // Nobody listens there on that port.
    let reply = ask(local, "GET", "/v1/reach/127.0.0.77");
    assert_eq!(reply.code, 200);
    assert!(
        reply.body.starts_with("{\"reached\":false,\"detail\":"),
        "{}",
        reply.body
    );
    for (address, method, path, code) in [
        (metrics, "GET", "/v1/reach/127.0.0.1", 404),
        (local, "POST", "/v1/reach/127.0.0.1", 405),
        (local, "GET", "/v1/reach/localhost", 404),
        (local, "GET", "/v1/reach/127.0.0.1:22", 404),
    ] {
        assert_eq!(ask(address, method, path).code, code, "{method} {path}");
    }
}
