// SPDX-License-Identifier: Apache-2.0
//! As much of an API server as lists ztunnels and gives their logs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

/// What a ztunnel's log gives.
#[derive(Clone)]
pub(super) enum Answer {
    Log(String),
    /// The same, after a while.
    Slow(String),
    /// The same, and then the connection breaks.
    Breaks(String),
    Forbidden,
}

/// Long enough for others to begin meanwhile.
const WHILE: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<String>>,
    open: AtomicUsize,
    most: AtomicUsize,
}

pub(super) struct Server {
    kubeconfig: PathBuf,
    seen: Arc<Seen>,
}

impl Server {
    /// The pod that is called `stranger` belongs to no DaemonSet.
    pub(super) fn start(pods: Vec<(&str, Answer)>) -> Self {
        let pods: Vec<_> = pods
            .into_iter()
            .map(|(name, answer)| (name.to_owned(), answer))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = (Arc::new(pods), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (pods, seen) = shared.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &pods, &seen));
            }
        });
        let name = format!("meshmedic-behavioral-{}-{}", std::process::id(), address.port());
        let kubeconfig = std::env::temp_dir().join(name);
        let config = json!({
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { kubeconfig, seen }
    }

    pub(super) fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().unwrap()
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.seen.asked.lock().unwrap().clone()
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.kubeconfig);
    }
}

fn serve(mut stream: TcpStream, pods: &[(String, Answer)], seen: &Seen) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let path = first.split(' ').nth(1).unwrap().to_owned();
    for line in lines {
        if line.unwrap().is_empty() {
            break;
        }
    }
    seen.asked.lock().unwrap().push(path.clone());
    let named = pods
        .iter()
        .find(|(name, _)| path.contains(&format!("/pods/{name}/log")));
    let (status, body, more) = match named {
        None => ("200 OK", list(pods), 0),
        Some((_, Answer::Log(log))) => ("200 OK", log.clone(), 0),
        Some((_, Answer::Slow(log))) => {
            let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most.fetch_max(open, Ordering::SeqCst);
            std::thread::sleep(WHILE);
            seen.open.fetch_sub(1, Ordering::SeqCst);
            ("200 OK", log.clone(), 0)
        }
        Some((_, Answer::Breaks(log))) => ("200 OK", log.clone(), 1),
        Some((_, Answer::Forbidden)) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "pods \"zt\" is forbidden: User \"eve\" cannot get resource \"pods/log\" in API group \"\"",
            });
            ("403 Forbidden", status.to_string(), 0)
        }
    };
    let length = body.len() + more;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // Whoever asked may have seen enough.
    let _ = stream.write_all(body.as_bytes());
}

fn list(pods: &[(String, Answer)]) -> String {
    let item = |(name, _): &(String, Answer)| {
        let owners = if name == "stranger" {
            json!([])
        } else {
            json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "ztunnel", "uid": "1", "controller": true}])
        };
        let labels = json!({"app": "ztunnel"});
        json!({
            "metadata": {
                "name": name, "namespace": "istio-system", "uid": name, "ownerReferences": owners, "labels": labels,
            },
            "spec": {"containers": [{"name": "before"}, {"name": "istio-proxy"}]},
        })
    };
    let items: Vec<_> = pods.iter().map(item).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string()
}
