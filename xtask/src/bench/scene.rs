// SPDX-License-Identifier: Apache-2.0
//! A node to measure on, and those who watch it.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use meshmedic_agent::engine::Expectation;
use meshmedic_agent::kernel::{self, Kernel};
use meshmedic_agent::node::PodName;
use meshmedic_agent::watch::{Declared, Event, Options, PodSource, Watch};
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;
use meshmedic_lab::{Lab, Pod, PodSpec, Ztunnel, ZtunnelSpec};
use rustix::time::{ClockId, clock_gettime};

use super::figures::Column;

/// What did not happen by then does not happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longer than any measurement: no loss gets as far as a verdict, and nothing happens because it is time.
pub(super) const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A node with captured pods and processes of no pod.
pub(super) struct Scene {
    pub(super) pods: Vec<Pod>,
    pub(super) ztunnel: Arc<Ztunnel>,
    pub(super) uids: Vec<PodUid>,
    /// The last, so that it is taken down last.
    pub(super) lab: Lab,
}

impl Scene {
    /// The node's `/proc` shows this scene alone, whatever else runs on the machine.
    pub(super) fn new(pods: usize, bystanders: usize) -> anyhow::Result<Self> {
        Self::on(Lab::isolated()?, pods, bystanders)
    }

    fn on(lab: Lab, pods: usize, bystanders: usize) -> anyhow::Result<Self> {
        let ztunnel = Arc::new(lab.ztunnel(ZtunnelSpec::default())?);
        let pods = lab.pods((0..pods).map(|number| PodSpec {
            // As most servers do; and it is among ztunnel's own in the socket table.
            listeners: vec![(Ipv6Addr::UNSPECIFIED, 8080).into()],
            ..PodSpec::new("bench", &format!("pod-{number}"))
        }))?;
        ztunnel.enrol_many(&pods)?;
        let mut scene = Self {
            uids: pods.iter().map(uid).collect::<anyhow::Result<_>>()?,
            pods,
            ztunnel,
            lab,
        };
        scene.add_bystanders(bystanders)?;
        Ok(scene)
    }

    pub(super) fn add_bystanders(&mut self, count: usize) -> anyhow::Result<()> {
        if count > 0 {
            self.lab.bystanders(count)?;
        }
        Ok(())
    }

    pub(super) fn root(&self) -> &Path {
        self.lab.proc_root()
    }

    /// As the baseline wants them.
    pub(super) fn names(&self) -> Vec<String> {
        self.uids.iter().map(ToString::to_string).collect()
    }

    /// A watch that was told of the pods as an agent is by the API, and has seen all of them captured.
    pub(super) async fn watch(&self, column: Column, interval: Duration) -> anyhow::Result<Watch> {
        let kernel = match column {
            Column::Polling => None,
            Column::Ebpf | Column::Both => Some(load()?),
        };
        let options = Options {
            node: "lab".to_owned(),
            proc_root: self.root().to_owned(),
            pods: PodSource::Api,
            confirm: NEVER,
            // The lab's ztunnel is known to be well.
            settle: Duration::ZERO,
            interval,
            pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
            use_census: true,
        };
        let mut watch = Watch::new(options, kernel)?;
        watch.declare(Time::now(), self.declared()?);
        until(&mut watch, "all pods to be captured and read", |watch, _| {
            watch.decided() && self.all_captured(watch)
        })
        .await?;
        Ok(watch)
    }

    pub(super) fn declared(&self) -> anyhow::Result<HashMap<PodUid, Declared>> {
        let pod = |pod: &Pod| -> anyhow::Result<_> {
            let declared = Declared {
                name: PodName {
                    namespace: pod.namespace().to_owned(),
                    name: pod.name().to_owned(),
                },
                expectation: Expectation::Expected,
                addresses: pod.addresses().to_vec(),
                ztunnel: false,
            };
            Ok((uid(pod)?, declared))
        };
        let mut declared: HashMap<_, _> = self.pods.iter().map(pod).collect::<anyhow::Result<_>>()?;
        let ztunnel = PodUid::parse(self.ztunnel.uid()).context("ztunnel's UID is that of a pod")?;
        declared.insert(
            ztunnel,
            Declared {
                name: PodName {
                    namespace: "istio-system".to_owned(),
                    name: self.ztunnel.name().to_owned(),
                },
                expectation: Expectation::Exempt(meshmedic_common::verdict::Reason::DataPlane),
                addresses: Vec::new(),
                ztunnel: true,
            },
        );
        Ok(declared)
    }

    pub(super) fn all_captured(&self, watch: &Watch) -> bool {
        self.uids.iter().all(|uid| is_captured(watch, uid))
    }
}

fn uid(pod: &Pod) -> anyhow::Result<PodUid> {
    PodUid::parse(pod.uid()).context("the lab's UIDs are those of pods")
}

pub(super) fn is_captured(watch: &Watch, uid: &PodUid) -> bool {
    let view = watch.engine().view(uid);
    view.is_some_and(|view| view.state == State::Captured)
}

/// The kernel programs.
pub(super) fn load() -> anyhow::Result<Kernel> {
    match kernel::load(&kernel::Options::default()) {
        Ok(kernel) => Ok(kernel),
        Err(error) => bail!("no eBPF: {error}. {}", error.remedy()),
    }
}

/// Why there is no eBPF here, if there is none.
pub(super) fn no_ebpf() -> Option<String> {
    load().err().map(|error| error.to_string())
}

/// The processor time of this process so far, all threads together.
pub(super) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Lets a watch go on until a condition holds.
pub(super) async fn until(
    watch: &mut Watch,
    what: &str,
    mut condition: impl FnMut(&Watch, &[Event]) -> bool,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut events = Vec::new();
    while !condition(watch, &events) {
        if Instant::now() >= deadline {
            bail!("waited {DEADLINE:?} in vain for {what}");
        }
        // The condition may hang on the lab's own task as well, of which the watch knows nothing.
        events = tokio::time::timeout(Duration::from_millis(20), watch.step())
            .await
            .unwrap_or_default();
    }
    Ok(())
}

/// A runtime like the agent's.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
