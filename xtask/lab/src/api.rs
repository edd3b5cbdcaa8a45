// SPDX-License-Identifier: Apache-2.0
//! API servers: the lab's own, which can be told to fail, and the real one where it is installed.
//!
//! ```no_run
//! use meshmedic_lab::{ApiServer, Fault};
//!
//! # fn main() -> meshmedic_lab::Result<()> {
//! let api = ApiServer::start()?;
//! api.apply_yaml("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")?;
//! let fault = api.fault(Fault::drop_after().verb("create").resource("pods/eviction").times(1))?;
//! // … a client that reads `api.kubeconfig()` evicts a pod and does not learn that it did …
//! assert_eq!(fault.hits()?, 1);
//! # Ok(())
//! # }
//! ```

mod behave;
mod client;
pub(crate) mod fault;
mod http;
mod kubeconfig;
pub(crate) mod manifest;
pub(crate) mod order;
pub(crate) mod pods;
mod real;
pub(crate) mod request;

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

pub use client::{Client, Watch};
pub use fault::{Fault, Outage};
pub use http::Response;
pub use manifest::documents;
pub(crate) use order::{Answer, Order};
pub use pods::{Ephemeral, Exec, Log, PodRef};
pub use request::Request;

use crate::apiserver::object::{meta, text};
use crate::error::{Context as _, Error, Result};
use crate::process::{binary, lock};
use real::Real;
use std::os::unix::process::CommandExt as _;

/// An API server, and a client of it that may do everything. Ends when it is dropped.
pub struct ApiServer {
    client: Client,
    /// Where clients other than ours find it.
    url: String,
    kubeconfig: PathBuf,
    folder: TempDir,
    process: Process,
}

enum Process {
    Lab(Mutex<Running>),
    Real(Real),
}

struct Running {
    child: Child,
    /// Whose end it ends with.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl ApiServer {
    /// Starts the lab's own.
    pub fn start() -> Result<Self> {
        let binary = binary()?;
        let folder = folder()?;
        let mut child = Command::new(&binary)
            .arg("apiserver")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context(|| format!("starting {}", binary.display()))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let Some(output) = output else {
            return Err(Error::NoBinary { beside: binary });
        };
        let mut running = Running {
            child,
            input,
            output: BufReader::new(output),
        };
        let port = match running.receive() {
            Ok(Answer::Serving { port }) => port,
            Ok(_) => return Err(Error::StaleBinary { binary }),
            Err(source) => {
                let pid = running.child.id();
                return Err(Error::Silent { pid, source });
            }
        };
        let address = format!("127.0.0.1:{port}");
        let url = format!("http://{address}");
        let client = Client::new(&address, kubeconfig::ADMIN);
        Self::with(client, url, folder, Process::Lab(Mutex::new(running)))
    }

    /// Starts the real one, from the folder that `KUBEBUILDER_ASSETS` names.
    pub fn real() -> Result<Self> {
        Self::real_with(&[])
    }

    /// The same with more flags, for what an older one serves only if it is told to.
    pub fn real_with(flags: &[&str]) -> Result<Self> {
        let real = Real::start(flags)?;
        let client = Client::new(real.proxy(), kubeconfig::ADMIN);
        let url = real.url().to_owned();
        Self::with(client, url, folder()?, Process::Real(real))
    }

    fn with(client: Client, url: String, folder: TempDir, process: Process) -> Result<Self> {
        let kubeconfig = folder.path().join("admin.kubeconfig");
        kubeconfig::write(&kubeconfig, &url, kubeconfig::ADMIN)?;
        Ok(Self {
            client,
            url,
            kubeconfig,
            folder,
            process,
        })
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A kubeconfig whose user may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig for `kubectl`, which sends no token over plain HTTP: here the token is in the path.
    pub fn kubeconfig_for_kubectl(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("kubectl.kubeconfig");
        let url = match self.process {
            Process::Lab(_) => format!("{}/as/{}", self.url, kubeconfig::ADMIN),
            Process::Real(_) => self.url.clone(),
        };
        kubeconfig::write(&path, &url, kubeconfig::ADMIN)?;
        Ok(path)
    }

    /// A kubeconfig of a ServiceAccount that exists, which may do what its roles say.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.token_of(namespace, name)?;
        let path = self.folder.path().join(format!("{namespace}_{name}.kubeconfig"));
        kubeconfig::write(&path, &self.url, &token)?;
        Ok(path)
    }

    /// A kubeconfig of the ServiceAccount of a pod that exists, with a token like the one that its kubelet gives it.
    pub fn kubeconfig_for_pod(&self, pod: &Value) -> Result<PathBuf> {
        let token = self.token_of_pod(pod)?;
        let (namespace, name) = (meta(pod, "namespace"), meta(pod, "name"));
        let path = self.folder.path().join(format!("{namespace}_{name}.kubeconfig"));
        kubeconfig::write(&path, &self.url, &token)?;
        Ok(path)
    }

    /// A token of a ServiceAccount that exists.
    pub fn token_of(&self, namespace: &str, name: &str) -> Result<String> {
        self.token(namespace, name, &json!({}))
    }

    /// A token like the one that a kubelet gives a pod: the server knows by it on which node the pod is.
    pub fn token_of_pod(&self, pod: &Value) -> Result<String> {
        let bound = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "name": meta(pod, "name"),
            "uid": meta(pod, "uid"),
        });
        let account = text(pod, "/spec/serviceAccountName");
        self.token(
            meta(pod, "namespace"),
            account,
            &json!({ "boundObjectRef": bound }),
        )
    }

    fn token(&self, namespace: &str, name: &str, spec: &Value) -> Result<String> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        });
        let answer = self.post("serviceaccounts/token", namespace, name, &request)?;
        Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
    }

    /// A client that acts as a ServiceAccount.
    pub fn client_of(&self, namespace: &str, name: &str) -> Result<Client> {
        let token = self.token_of(namespace, name)?;
        Ok(self.client.with_token(&token))
    }

    /// A client that acts as a pod that exists.
    pub fn client_of_pod(&self, pod: &Value) -> Result<Client> {
        Ok(self.client.with_token(&self.token_of_pod(pod)?))
    }

    /// The certificate by which one knows it, where it is a real one.
    #[must_use]
    pub(crate) fn certificate(&self) -> Option<PathBuf> {
        match &self.process {
            Process::Lab(_) => None,
            Process::Real(real) => Some(real.certificate()),
        }
    }

    /// Whether it is a real one, which can neither fail on demand nor tell of its requests.
    #[must_use]
    pub fn is_real(&self) -> bool {
        matches!(self.process, Process::Real(_))
    }

    /// Ends the lab's own, so that nobody waits for it any longer.
    pub(crate) fn end(&self) {
        if let Process::Lab(running) = &self.process {
            lock(running).end();
        }
    }

    fn order(&self, order: &Order) -> Result<Answer> {
        let Process::Lab(running) = &self.process else {
            return Err(Error::RealServer {
                url: self.url.clone(),
                what: format!("{order:?}"),
            });
        };
        let mut running = lock(running);
        let pid = running.child.id();
        let answer = running.send(order).and_then(|()| running.receive());
        match answer.map_err(|source| Error::Silent { pid, source })? {
            Answer::Failed(message) => Err(Error::Helper { pid, message }),
            answer => Ok(answer),
        }
    }

    fn number(&self, order: &Order) -> Result<u64> {
        Ok(match self.order(order)? {
            Answer::Number(number) => number,
            _ => 0,
        })
    }

    /// Turns a fault on, until the guard is dropped.
    pub fn fault(&self, fault: Fault) -> Result<FaultGuard<'_>> {
        let number = self.number(&Order::Add(Box::new(fault)))?;
        Ok(FaultGuard { api: self, number })
    }

    /// Closes all watches that run, as a server does from time to time.
    pub fn break_watches(&self) -> Result<()> {
        self.order(&Order::BreakWatches).map(drop)
    }

    /// Forgets all history, so that a watch from an earlier version is refused with 410.
    pub fn compact(&self) -> Result<()> {
        self.order(&Order::Compact).map(drop)
    }

    /// Remembers no more than that many changes.
    pub fn remember(&self, changes: usize) -> Result<()> {
        self.order(&Order::Remember(changes)).map(drop)
    }

    /// Becomes unreachable, and keeps its port; [`Self::recover`] ends it.
    pub fn outage(&self, outage: Outage) -> Result<()> {
        self.order(&Order::Outage(Some(outage))).map(drop)
    }

    /// Ends an outage.
    pub fn recover(&self) -> Result<()> {
        self.order(&Order::Outage(None)).map(drop)
    }

    /// Sets the server's clock apart from the machine's, by that many milliseconds.
    pub fn set_clock(&self, milliseconds: i64) -> Result<()> {
        self.order(&Order::Clock { milliseconds }).map(drop)
    }

    /// Sets how often a watch sends a bookmark.
    pub fn set_bookmarks(&self, every: Duration) -> Result<()> {
        self.order(&Order::Bookmarks(every)).map(drop)
    }

    /// The requests that it had, oldest first, ours among them (their user is `kubernetes-admin`).
    pub fn requests(&self) -> Result<Vec<Request>> {
        Ok(match self.order(&Order::Requests)? {
            Answer::Requests(requests) => requests,
            _ => Vec::new(),
        })
    }

    /// The requests of one user, such as `system:serviceaccount:meshmedic:meshmedic`.
    pub fn requests_of(&self, user: &str) -> Result<Vec<Request>> {
        let mut requests = self.requests()?;
        requests.retain(|request| request.user == user);
        Ok(requests)
    }

    /// Forgets the requests that it had.
    pub fn forget_requests(&self) -> Result<()> {
        self.order(&Order::ForgetRequests).map(drop)
    }

    /// The newest resource version.
    pub fn version(&self) -> Result<u64> {
        self.number(&Order::Version)
    }

    /// How many watches run.
    pub fn watches(&self) -> Result<u64> {
        self.number(&Order::Watches)
    }
}

/// For the files that name the server.
fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("meshmedic-api-")
        .tempdir()
        .context(|| "making a temporary folder".to_owned())
}

impl Deref for ApiServer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("url", &self.url).finish()
    }
}

impl Running {
    fn send(&mut self, order: &Order) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        match &mut self.input {
            Some(input) => input.write_all(&line),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn receive(&mut self) -> std::io::Result<Answer> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn end(&mut self) {
        drop(self.input.take());
        // The end of its input would do; this is for one that hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends a fault when it is dropped.
#[must_use = "the fault ends when this is dropped"]
pub struct FaultGuard<'a> {
    api: &'a ApiServer,
    number: u64,
}

impl FaultGuard<'_> {
    /// How many requests met it.
    pub fn hits(&self) -> Result<u64> {
        self.api.number(&Order::Hits(self.number))
    }
}

impl Drop for FaultGuard<'_> {
    fn drop(&mut self) {
        // A server that is gone has no faults.
        let _ = self.api.order(&Order::Remove(self.number));
    }
}
