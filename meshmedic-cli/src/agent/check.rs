// SPDX-License-Identifier: Apache-2.0
//! What flags make no sense together, found before anything starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meshmedic_agent::options::{AgentOptions, NAMESPACE_FILE, own_namespace};
use meshmedic_common::duration::show;
use meshmedic_common::identity::Identity;
use meshmedic_common::kube::leases::holder;
use meshmedic_common::policy::{Mandate, Means, Permissions};
use meshmedic_common::repair::heal::Care;
use meshmedic_common::repair::{Claims, Limits, Repairer};

use super::args::{Args, FOUND};
use crate::exit::Usage;

/// A ztunnel that is Ready for a shorter time may not have enrolled its pods yet.
const SHORTEST_SETTLE: Duration = Duration::from_secs(1);

impl Args {
    /// The options, or which flag makes no sense and why.
    pub(super) fn into_options(self) -> anyhow::Result<AgentOptions> {
        self.check()?;
        let Self {
            detection,
            repair,
            limits,
            heals,
            endpoints,
            connection,
        } = self;
        let node = detection.node.unwrap_or_default();
        Ok(AgentOptions {
            proc_root: detection.host_proc,
            log_root: detection.host_logs,
            cni_folder: detection.host_cni_dir,
            trigger: detection.trigger.into(),
            interval: detection.interval,
            confirm: detection.confirm,
            settle: detection.settle,
            pending_deadline: detection.pending_deadline,
            node_condition: detection.node_condition,
            metrics_addr: endpoints.metrics_addr.0,
            status_addr: endpoints.status_addr.0,
            kubeconfig: connection
                .kubeconfig
                .filter(|file| !file.is_empty())
                .map(PathBuf::from),
            identity: Identity::new(detection.istio_namespace, detection.external_istiod),
            namespace: own_namespace(std::env::var("POD_NAMESPACE").ok(), Path::new(NAMESPACE_FILE)),
            pod_uid: std::env::var("POD_UID").ok(),
            rungs: repair.strategy,
            care: Care {
                confirm: heals.heal_confirm,
                settle: heals.heal_settle,
                deadline: heals.heal_deadline,
                per_minute: heals.heals_per_minute,
                owner_gap: heals.heal_owner_gap,
            },
            istio_version: Some(heals.istio_version).filter(|version| version != FOUND),
            prove: repair.prove,
            repairer: Repairer {
                holder: holder(&node),
                node: node.clone(),
                mandate: Mandate::Agent(Permissions {
                    ready: repair.auto_repair,
                    stuck: repair.repair_stuck,
                    grace_period: detection.grace_period,
                    jobs: repair.repair_jobs,
                }),
                means: if repair.delete_instead_of_evict {
                    Means::Delete
                } else {
                    Means::Evict
                },
                claims: Claims::AGENT,
                limits: Limits {
                    in_flight_node: limits.max_in_flight_node,
                    in_flight_owner: limits.max_in_flight_owner,
                    slots: limits.cluster_slots,
                    per_hour_node: limits.max_repairs_per_hour,
                    per_hour_cluster: limits.max_repairs_per_hour_cluster,
                    cooldown: (limits.cooldown, limits.cooldown_max),
                    breaker_failures: limits.breaker_failures,
                    breaker_open: limits.breaker_open,
                    successor_deadline: limits.successor_deadline,
                    ..Limits::DEFAULT
                },
            },
            node,
        })
    }

    fn repairs(&self) -> bool {
        self.repair.auto_repair || self.repair.repair_stuck
    }

    fn check(&self) -> Result<(), Usage> {
        let Self {
            detection,
            limits,
            endpoints,
            connection,
            ..
        } = self;
        if detection.node.as_ref().is_none_or(|node| node.trim().is_empty()) {
            return refuse(
                "--node is empty: name this node as the API does, or set NODE_NAME from the field spec.nodeName",
            );
        }
        // The node's process 1 is there whoever may look; another root has another one or none.
        let init = detection.host_proc.join("1/stat");
        if let Err(error) = std::fs::read(&init) {
            return refuse(format!(
                "--host-proc {}: cannot read {}: {error}. It must be the node's /proc: mount the host's at \
                 /host/proc, and set hostPID",
                detection.host_proc.display(),
                init.display()
            ));
        }
        if let Some(file) = connection.kubeconfig.as_ref().filter(|file| !file.is_empty())
            && let Err(error) = std::fs::metadata(file)
        {
            return refuse(format!("--kubeconfig {file}: {error}"));
        }
        if let Some(address) = endpoints.status_addr.0 {
            if !address.is_loopback() {
                return refuse(format!(
                    "--status-addr {address} is no loopback address: what it serves is guarded by nothing but \
                     port-forward; write for example 127.0.0.1:9101"
                ));
            }
            if let Some(other) = endpoints
                .metrics_addr
                .0
                .filter(|other| other.collides_with(&address))
            {
                return refuse(format!(
                    "--status-addr {address} and --metrics-addr {other} are the same port: choose two, or leave one \
                     empty"
                ));
            }
        }
        if limits.cooldown > limits.cooldown_max {
            return refuse(format!(
                "--cooldown {} is longer than --cooldown-max {}, up to which it doubles",
                show(limits.cooldown),
                show(limits.cooldown_max)
            ));
        }
        if self.repairs() {
            self.check_repairs()
        } else {
            Ok(())
        }
    }

    /// What makes no sense while repairs are on.
    fn check_repairs(&self) -> Result<(), Usage> {
        let Self {
            detection, limits, ..
        } = self;
        let counts = [
            ("--max-in-flight-node", limits.max_in_flight_node == 0),
            ("--max-in-flight-owner", limits.max_in_flight_owner == 0),
            ("--cluster-slots", limits.cluster_slots == 0),
            ("--max-repairs-per-hour", limits.max_repairs_per_hour == 0),
            (
                "--max-repairs-per-hour-cluster",
                limits.max_repairs_per_hour_cluster == 0,
            ),
        ];
        if let Some((flag, _)) = counts.into_iter().find(|(_, none)| *none) {
            return refuse(format!(
                "{flag} 0 allows no repair at all: leave out --auto-repair and --repair-stuck to detect only, or pause \
                 repairs with `meshmedic pause`"
            ));
        }
        if detection.settle < SHORTEST_SETTLE {
            return refuse(format!(
                "--settle {} with repairs on: every restart of ztunnel would look like a loss of all pods; {} is the \
                 least",
                show(detection.settle),
                show(SHORTEST_SETTLE)
            ));
        }
        let proof = detection.settle + detection.confirm;
        if limits.successor_deadline <= proof {
            return refuse(format!(
                "--successor-deadline {} cannot be met: a proof may take --settle and --confirm together, {}",
                show(limits.successor_deadline),
                show(proof)
            ));
        }
        Ok(())
    }

    /// What works, and yet is hardly meant.
    pub(super) fn unusual(&self) -> Vec<String> {
        let Self {
            detection,
            repair,
            limits,
            ..
        } = self;
        let mut remarks = Vec::new();
        if detection.confirm >= detection.interval {
            remarks.push(format!(
                "--confirm {} is not shorter than --interval {}: a loss is confirmed late",
                show(detection.confirm),
                show(detection.interval)
            ));
        }
        if !self.repairs() {
            for (flag, on) in [
                ("--repair-jobs", repair.repair_jobs),
                ("--delete-instead-of-evict", repair.delete_instead_of_evict),
            ] {
                if on {
                    remarks.push(format!(
                        "{flag} changes nothing while --auto-repair and --repair-stuck are off"
                    ));
                }
            }
        } else if repair.delete_instead_of_evict {
            remarks.push("--delete-instead-of-evict: no PodDisruptionBudget is respected".to_owned());
        }
        if repair.repair_stuck && detection.grace_period < detection.confirm + detection.settle {
            remarks.push(format!(
                "--repair-stuck with --grace-period {}: pods that are still starting may be taken for stuck ones",
                show(detection.grace_period)
            ));
        }
        if limits.max_repairs_per_hour > limits.max_repairs_per_hour_cluster {
            remarks.push(format!(
                "--max-repairs-per-hour {} is never reached: --max-repairs-per-hour-cluster is {}",
                limits.max_repairs_per_hour, limits.max_repairs_per_hour_cluster
            ));
        }
        remarks
    }
}

fn refuse(why: impl Into<String>) -> Result<(), Usage> {
    Err(Usage(why.into()))
}
