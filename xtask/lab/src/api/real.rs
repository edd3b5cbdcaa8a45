// SPDX-License-Identifier: Apache-2.0
//! The real API server, with its etcd, from the folder that `KUBEBUILDER_ASSETS` names.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use tempfile::TempDir;

use super::client::Client;
use super::kubeconfig;
use crate::error::{Context as _, Error, Result};
use crate::need::ASSETS;
use crate::process::leash;
use crate::wait;

/// How long each of them may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);
/// The token of the one user that is there from the beginning.
const TOKENS: &str = "admin,kubernetes-admin,kubernetes-admin,system:masters\n";

/// The processes of a real API server. They end with it.
pub(super) struct Real {
    url: String,
    proxy: String,
    /// In the order in which they are to end.
    children: Vec<Child>,
    folder: TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

impl Real {
    /// Starts etcd, the server, and `kubectl proxy` for clients without TLS such as the lab's.
    pub(super) fn start(flags: &[&str]) -> Result<Self> {
        let assets = env::var_os(ASSETS)
            .map(PathBuf::from)
            .ok_or_else(|| Error::NotRunning {
                what: format!("the real API server ({ASSETS} is not set)"),
            })?;
        let folder = tempfile::Builder::new()
            .prefix("meshmedic-real-api-")
            .tempdir()
            .context(|| "making a temporary folder".to_owned())?;
        let [client, peer, port, proxy] = free_ports()?;
        let url = format!("https://127.0.0.1:{port}");
        let mut real = Self {
            url: url.clone(),
            proxy: format!("127.0.0.1:{proxy}"),
            children: Vec::new(),
            folder,
        };
        let path = real.folder.path().to_owned();
        let etcd = format!("http://127.0.0.1:{client}");
        let peers = format!("http://127.0.0.1:{peer}");
        real.run(
            &assets.join("etcd"),
            &[
                format!("--data-dir={}", path.join("etcd").display()),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
                "--unsafe-no-fsync".to_owned(),
            ],
            client,
        )?;
        let (tokens, key) = (path.join("tokens.csv"), path.join("service-accounts.key"));
        fs::write(&tokens, TOKENS).context(|| format!("writing {}", tokens.display()))?;
        make_key(&key)?;
        let key = key.display();
        let mut arguments = vec![
            format!("--etcd-servers={etcd}"),
            format!("--cert-dir={}", path.join("certificates").display()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--token-auth-file={}", tokens.display()),
            format!("--service-account-issuer={url}"),
            format!("--service-account-signing-key-file={key}"),
            format!("--service-account-key-file={key}"),
            "--allow-privileged=true".to_owned(),
        ];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        real.run(&assets.join("kube-apiserver"), &arguments, port)?;
        let config = path.join("admin.kubeconfig");
        kubeconfig::write(&config, &url, kubeconfig::ADMIN)?;
        real.run(
            &assets.join("kubectl"),
            &[
                "proxy".to_owned(),
                format!("--kubeconfig={}", config.display()),
                format!("--port={proxy}"),
                // By default it refuses what would let a shell through; nobody but this test is on it.
                "--reject-paths=^$".to_owned(),
            ],
            proxy,
        )?;
        real.wait_ready()?;
        Ok(real)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The address where it is to be had without TLS; a request's own token goes through.
    pub(super) fn proxy(&self) -> &str {
        &self.proxy
    }

    /// By whom its certificate is signed: by itself.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificates/apiserver.crt")
    }

    fn run(&mut self, program: &Path, arguments: &[String], port: u16) -> Result<()> {
        let child = leash(program)?
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(|| format!("starting {}", program.display()))?;
        // Whoever uses one ends before it does.
        self.children.insert(0, child);
        let what = format!("{} to listen", program.display());
        let mut ended = false;
        wait::until(&what, PATIENCE, || {
            ended = !matches!(self.children[0].try_wait(), Ok(None));
            ended || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })?;
        if ended {
            return Err(Error::NotRunning {
                what: program.display().to_string(),
            });
        }
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let client = Client::new(&self.proxy, kubeconfig::ADMIN);
        let ready = || {
            let answer = client.send("GET", "/readyz", "application/json", &Value::Null);
            answer.is_ok_and(|answer| answer.code == 200)
                && matches!(client.find("namespaces", "", "default"), Ok(Some(_)))
        };
        Ok(wait::until("the real API server to be ready", PATIENCE, ready)?)
    }
}

/// The key that signs the tokens of ServiceAccounts; the server makes none itself.
fn make_key(path: &Path) -> Result<()> {
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
        ])
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context(|| "running openssl, which makes the key of the ServiceAccounts".to_owned())?;
    if made.success() {
        return Ok(());
    }
    Err(Error::NotRunning {
        what: format!("openssl ({made})"),
    })
}

/// Ports that nobody has at this moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // Held side by side, so that they differ.
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.context(|| "looking for a free port".to_owned())?;
        let address = listener
            .local_addr()
            .context(|| "looking for a free port".to_owned())?;
        *port = address.port();
        held.push(listener);
    }
    Ok(ports)
}
