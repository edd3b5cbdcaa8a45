// SPDX-License-Identifier: Apache-2.0
//! The real istio-cni on a node of the lab: its node agent as the chart's DaemonSet would have it run, with that
//! ServiceAccount's rights and no others, and its plugin as a container runtime would call it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::manifest;
use crate::apiserver::object::{list, text};
use crate::cluster::Cluster;
use crate::error::{Context as _, Error, Result};
use crate::need::BUILT;
use crate::pod::Pod;
use crate::pod::ProcessNetns;
use crate::process::{Process, lock, netns_path};
use crate::relay::Relay;
use crate::room::Room;
use crate::wait;

const NAMESPACE: &str = "istio-system";
const CHART: &str = "istio-cni";
const SERVICE_ACCOUNT: &str = "istio-cni";
/// Where the agent is in its image, and what it installs from there.
const AGENT: &str = "/usr/local/bin/install-cni";
const PLUGIN: &str = "/opt/cni/bin/istio-cni";
/// Where a pod finds who it is.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where it says that it is ready, in its own network namespace.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(300);
/// The configuration of the node's own plugin, to which istio-cni's is chained. It is never called.
const CONFLIST: &str = r#"{ "cniVersion": "0.4.0", "name": "lab", "plugins": [{ "type": "ptp" }] }"#;

/// The agent of one node. It ends with this handle.
pub struct IstioCni {
    room: Room,
    environment: BTreeMap<String, String>,
    arguments: Vec<String>,
    /// What it says.
    log: PathBuf,
    /// The node's own configuration of CNI plugins.
    configuration: PathBuf,
    child: Mutex<Option<Child>>,
    /// Holds the network namespace that is the host's, as far as it is concerned: it writes rules there.
    home: Process,
    _relay: Relay,
}

impl IstioCni {
    /// Installs Istio's own chart in the cluster, whose API server must be a real one, and starts the agent on a node.
    pub fn start(cluster: &Cluster, node: &str) -> Result<Self> {
        let built = built()?;
        let objects = render(&built)?;
        // The set is not for the lab's kubelet: its one pod here is the process that is started below.
        let (sets, rest): (Vec<_>, Vec<_>) = objects
            .into_iter()
            .partition(|object| object["kind"] == "DaemonSet");
        for object in &rest {
            cluster.api().apply(object)?;
        }
        let set = sets.first().ok_or_else(|| Error::NotRunning {
            what: "a DaemonSet in Istio's chart".to_owned(),
        })?;
        let lab = cluster.node(node)?.lab();
        let folder = lab.folder();
        let home = lab.node_process(&ProcessNetns::Nested)?;
        let netns = netns_path(home.pid());
        let (relay, address) = reach(cluster, &netns)?;
        let folders = Folders::make(folder)?;
        let api = cluster.api();
        let token = api.token_of(NAMESPACE, SERVICE_ACCOUNT)?;
        let certificate = api.certificate().ok_or_else(|| Error::NotRunning {
            what: "an API server with a certificate".to_owned(),
        })?;
        fs::copy(&certificate, folders.credentials.join("ca.crt"))
            .context(|| format!("copying {}", certificate.display()))?;
        write(&folders.credentials.join("token"), token.as_bytes())?;
        write(&folders.credentials.join("namespace"), NAMESPACE.as_bytes())?;
        write(
            &folders.configuration.join("10-lab.conflist"),
            CONFLIST.as_bytes(),
        )?;
        let mut environment = environment(set, &rest, node);
        environment.insert("KUBERNETES_SERVICE_HOST".to_owned(), address.ip().to_string());
        environment.insert("KUBERNETES_SERVICE_PORT".to_owned(), address.port().to_string());
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let arguments = list(container, "/args").iter().filter_map(Value::as_str);
        let agent = Self {
            room: folders.room(&built, folder, home.pid()),
            environment,
            arguments: arguments.map(str::to_owned).collect(),
            log: folder.join("install-cni.log"),
            configuration: folders.configuration,
            child: Mutex::new(None),
            home,
            _relay: relay,
        };
        agent.run()?;
        Ok(agent)
    }

    /// Starts the agent again after [`Self::kill`], and waits until it is ready.
    pub fn run(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.context(|| format!("opening {}", self.log.display()))?;
        let errors = log.try_clone().context(|| "copying a file".to_owned())?;
        let room = self.room.command(Path::new(AGENT))?;
        let child = crate::process::leash(Path::new(room.get_program()))?
            .args(room.get_args())
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context(|| format!("starting {AGENT}"))?;
        *lock(&self.child) = Some(child);
        let netns = netns_path(self.home.pid());
        let ready = wait::until("istio-cni to be ready", PATIENCE, || {
            self.has_ended() || is_ready(&netns).unwrap_or(false)
        });
        if self.has_ended() {
            return Err(Error::NotRunning {
                what: format!("{AGENT}, which says\n{}", self.said()),
            });
        }
        ready.map_err(Into::into)
    }

    /// Ends the agent at once, as the kernel does when memory runs out. Its rules stay.
    pub fn kill(&self) {
        if let Some(mut child) = lock(&self.child).take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    fn has_ended(&self) -> bool {
        lock(&self.child)
            .as_mut()
            .is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// What the agent said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Calls the plugin for a pod's sandbox, as a container runtime does when it made one.
    pub fn plug(&self, pod: &Pod) -> Result<()> {
        let answer = self.call_plugin(pod)?;
        match answer.status.success() {
            true => Ok(()),
            false => Err(Error::Helper {
                pid: pod.pid(),
                message: format!(
                    "istio-cni's plugin: {}{}",
                    String::from_utf8_lossy(&answer.stdout),
                    String::from_utf8_lossy(&answer.stderr)
                ),
            }),
        }
    }

    fn call_plugin(&self, pod: &Pod) -> Result<std::process::Output> {
        let conflist = self.configuration.join("10-lab.conflist");
        let what = || format!("reading {}", conflist.display());
        let conflist: Value = serde_json::from_slice(&fs::read(&conflist).context(what)?)
            .map_err(std::io::Error::from)
            .context(what)?;
        let mut plugin = list(&conflist, "/plugins")
            .iter()
            .find(|plugin| plugin["type"] == CHART)
            .cloned()
            .ok_or_else(|| Error::NotRunning {
                what: format!("istio-cni's plugin in {conflist}"),
            })?;
        let addresses = pod.addresses().iter().map(|address| {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            json!({ "version": if address.is_ipv4() { "4" } else { "6" }, "address": format!("{address}/{bits}") })
        });
        plugin["name"] = conflist["name"].clone();
        plugin["cniVersion"] = conflist["cniVersion"].clone();
        plugin["prevResult"] = json!({
            "cniVersion": conflist["cniVersion"],
            "ips": addresses.collect::<Vec<_>>(),
            "interfaces": [],
        });
        let mut child = self
            .room_of_plugins()?
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", crate::pod::hex(pod.uid(), 64))
            .env("CNI_NETNS", netns_path(pod.pid()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
                    pod.namespace(),
                    pod.name(),
                    pod.uid()
                ),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("starting {PLUGIN}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(plugin.to_string().as_bytes())
                .context(|| format!("writing to {PLUGIN}"))?;
        }
        child
            .wait_with_output()
            .context(|| format!("waiting for {PLUGIN}"))
    }

    /// The plugin runs on the host. Its room is one of its own that shares the same folders.
    fn room_of_plugins(&self) -> Result<Command> {
        let mut room = self.room.clone();
        room.scratch = room.scratch.with_file_name("room-of-plugins");
        fs::create_dir_all(&room.scratch).context(|| format!("making {}", room.scratch.display()))?;
        // The configuration names the host's paths, not those of the agent's container.
        for (_, inside) in &mut room.shared {
            if let Ok(path) = inside.strip_prefix("/host") {
                *inside = Path::new("/").join(path);
            }
        }
        room.command(Path::new(PLUGIN))
    }
}

impl Drop for IstioCni {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folders that the chart mounts from the host.
struct Folders {
    credentials: PathBuf,
    configuration: PathBuf,
    plugins: PathBuf,
    sockets: PathBuf,
    netns: PathBuf,
    scratch: PathBuf,
}

impl Folders {
    fn make(folder: &Path) -> Result<Self> {
        let make = |name: &str| -> Result<PathBuf> {
            let folder = folder.join("istio-cni").join(name);
            fs::create_dir_all(&folder).context(|| format!("making {}", folder.display()))?;
            Ok(folder)
        };
        Ok(Self {
            credentials: make("credentials")?,
            configuration: make("net.d")?,
            plugins: make("bin")?,
            sockets: make("run")?,
            netns: make("netns")?,
            scratch: make("room")?,
        })
    }

    fn room(&self, built: &Path, ztunnel: &Path, home: u32) -> Room {
        let shared = [
            (built.join("bin/install-cni"), AGENT),
            (built.join("bin/istio-cni"), PLUGIN),
            (self.credentials.clone(), CREDENTIALS),
            (self.configuration.clone(), "/host/etc/cni/net.d"),
            (self.plugins.clone(), "/host/opt/cni/bin"),
            (self.sockets.clone(), "/var/run/istio-cni"),
            (self.netns.clone(), "/host/var/run/netns"),
            (ztunnel.to_owned(), "/var/run/ztunnel"),
            (PathBuf::from("/proc"), "/host/proc"),
            // Process 1 is asked for the host's network namespace.
            (format!("/proc/{home}/ns").into(), "/host/proc/1/ns"),
        ];
        Room {
            scratch: self.scratch.clone(),
            over: vec![built.join("debian")],
            shared: shared.map(|(outside, inside)| (outside, inside.into())).into(),
            netns: Some(netns_path(home)),
        }
    }
}

/// The folder that was built.
pub(crate) fn built() -> Result<PathBuf> {
    let folder = std::env::var_os(BUILT).map(PathBuf::from);
    folder.ok_or_else(|| Error::NotRunning {
        what: format!("istio-cni ({BUILT} is not set: `cargo xtask cluster build`, then `cargo xtask test`)"),
    })
}

/// What Istio's own chart makes, by the Helm that was built.
fn render(built: &Path) -> Result<Vec<Value>> {
    let helm = built.join("bin/helm");
    let output = Command::new(&helm)
        .args(["template", CHART])
        .arg(built.join("charts").join(CHART))
        .args([
            "--namespace",
            NAMESPACE,
            "--set",
            "profile=ambient,ambient.enabled=true",
        ])
        .args(["--set", "logging.level=default:info\\,cni-agent:debug"])
        .output()
        .context(|| format!("running {}", helm.display()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Manifest(format!("Istio's chart: {message}")));
    }
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    let mut objects = vec![namespace];
    objects.extend(manifest::documents(&String::from_utf8_lossy(&output.stdout))?);
    Ok(objects)
}

/// What the kubelet would set for the agent's container.
fn environment(set: &Value, objects: &[Value], node: &str) -> BTreeMap<String, String> {
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let mut environment = BTreeMap::from([(
        "PATH".to_owned(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin".to_owned(),
    )]);
    for source in list(container, "/envFrom") {
        let name = &source["configMapRef"]["name"];
        let found = objects
            .iter()
            .find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == *name);
        let data = found.and_then(|map| map["data"].as_object());
        environment.extend(
            data.into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))),
        );
    }
    for variable in list(container, "/env") {
        let value = match text(variable, "/valueFrom/fieldRef/fieldPath") {
            "" => text(variable, "/value").to_owned(),
            "spec.nodeName" => node.to_owned(),
            "metadata.name" => format!("istio-cni-node-{node}"),
            "metadata.namespace" => NAMESPACE.to_owned(),
            _ => continue,
        };
        // What depends on limits is left to Go.
        if variable["valueFrom"]["resourceFieldRef"].is_null() {
            environment.insert(text(variable, "/name").to_owned(), value);
        }
    }
    environment
}

/// Lets the API server be reached from the node's network namespace, where it is on the same port of the loopback.
fn reach(cluster: &Cluster, netns: &Path) -> Result<(Relay, SocketAddr)> {
    let url = cluster.api().url();
    let address = url.rsplit("//").next().and_then(|address| address.parse().ok());
    let address: SocketAddr = address.ok_or_else(|| Error::NotRunning {
        what: format!("an API server at an address: {url}"),
    })?;
    Ok((Relay::start(netns, address)?, address))
}

/// Whether the agent says that it is ready.
fn is_ready(netns: &Path) -> std::io::Result<bool> {
    use std::io::Read as _;
    let netns = File::open(netns)?;
    let asked = std::thread::spawn(move || {
        crate::helper::enter(&netns)?;
        let mut connection = TcpStream::connect(HEALTH)?;
        connection.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer.split_whitespace().nth(1) == Some("200"))
    });
    asked
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the thread that was to ask ended")))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    fs::write(path, contents).context(|| format!("writing {}", path.display()))
}
