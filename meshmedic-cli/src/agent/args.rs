// SPDX-License-Identifier: Apache-2.0
//! The flags of `meshmedic agent`: the original's, with its defaults, and ours beside them.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use meshmedic_agent::status::ListenAddr;
use meshmedic_common::duration::{self, show};
use meshmedic_common::identity::check_namespace;
use meshmedic_common::policy::{BadRungs, CONFIRM, GRACE_PERIOD, PENDING_DEADLINE, Rungs, SETTLE};
use meshmedic_common::repair;
use meshmedic_common::repair::heal::Care;

use crate::node::Trigger;
use crate::spans::{at_least, confirm, interval};

/// Arguments of `meshmedic agent`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) detection: Detection,
    #[command(flatten)]
    pub(super) repair: Repair,
    #[command(flatten)]
    pub(super) limits: Limits,
    #[command(flatten)]
    pub(super) heals: Heals,
    #[command(flatten)]
    pub(super) endpoints: Endpoints,
    #[command(flatten)]
    pub(super) connection: Connection,
}

const AFTER_HELP: &str = "\
Without --auto-repair and --repair-stuck nothing is ever changed. What would
have been repaired, and what withheld and why, is logged and counted.
MESHMEDIC_LOG chooses what is logged, for example MESHMEDIC_LOG=debug.

Examples:
  meshmedic agent --node worker-1                 detect only
  meshmedic agent --node worker-1 --auto-repair   heal orphans in place, and
                                                  evict Ready ones that stay
  meshmedic agent --node worker-1 --auto-repair --strategy heal
                                                  never restart anything
  meshmedic agent --node worker-1 --host-proc /proc
                                                  by hand, as root on the node";

/// When a pod is believed to be out of the mesh.
#[derive(clap::Args)]
#[command(next_help_heading = "Detection")]
pub(super) struct Detection {
    /// This node's name, as the API has it
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(super) node: Option<String>,
    /// The node's /proc
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/host/proc",
        env = "MESHMEDIC_HOST_PROC"
    )]
    pub(super) host_proc: PathBuf,
    /// The kubelet's log folders, if they are mounted; not needed
    #[arg(long, value_name = "DIR", env = "MESHMEDIC_HOST_LOGS", hide = true)]
    pub(super) host_logs: Option<PathBuf>,
    /// The node's folder of CNI configurations, mounted read-only, to see whether istio-cni is still called, and which
    /// lost pods were made while it was not
    #[arg(long, value_name = "DIR", env = "MESHMEDIC_HOST_CNI_DIR")]
    pub(super) host_cni_dir: Option<PathBuf>,
    /// How changes are noticed; without eBPF, auto polls and says why
    #[arg(long, value_enum, default_value_t, env = "MESHMEDIC_TRIGGER")]
    pub(super) trigger: Trigger,
    /// How often all pods are looked at; the census is taken twice as often
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = interval, env = "MESHMEDIC_INTERVAL")]
    pub(super) interval: Duration,
    /// For how long every reading must agree before a loss is believed
    #[arg(long, value_name = "DURATION", default_value = show(CONFIRM), value_parser = confirm, env = "MESHMEDIC_CONFIRM")]
    pub(super) confirm: Duration,
    /// How long ztunnel must have been Ready before its absence in a pod means anything
    #[arg(long, value_name = "DURATION", default_value = show(SETTLE), value_parser = duration::parse, env = "MESHMEDIC_SETTLE")]
    pub(super) settle: Duration,
    /// A namespace of Istio's: only pods there count as ztunnel, istio-cni or istiod. May be given several times
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system,kube-system", value_parser = check_namespace,
          value_delimiter = ',', env = "MESHMEDIC_ISTIO_NAMESPACE")]
    pub(super) istio_namespace: Vec<String>,
    /// istiod runs outside the cluster: in Istio's namespaces its endpoints count without pods
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool,
          env = "MESHMEDIC_EXTERNAL_ISTIOD")]
    pub(super) external_istiod: bool,
    /// An orphan that has not been Ready for longer than this is stuck
    #[arg(long, value_name = "DURATION", default_value = show(GRACE_PERIOD), value_parser = duration::parse, env = "MESHMEDIC_GRACE_PERIOD")]
    pub(super) grace_period: Duration,
    /// For how long istio-cni may go on trying to enrol a pod; one without listeners is stalled then
    #[arg(long, value_name = "DURATION", default_value = show(PENDING_DEADLINE), value_parser = pending_deadline, env = "MESHMEDIC_PENDING_DEADLINE")]
    pub(super) pending_deadline: Duration,
    /// Keep the condition MeshCaptureReady of this node; needs the right of deploy/kustomize/node-condition
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool,
          env = "MESHMEDIC_NODE_CONDITION")]
    pub(super) node_condition: bool,
}

/// What may be done about it.
#[derive(clap::Args)]
#[command(next_help_heading = "Repair")]
pub(super) struct Repair {
    /// Repair orphans that are Ready
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool, env = "MESHMEDIC_AUTO_REPAIR")]
    pub(super) auto_repair: bool,
    /// Repair orphans that are stuck
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool, env = "MESHMEDIC_REPAIR_STUCK")]
    pub(super) repair_stuck: bool,
    /// Repair pods of Jobs as well: what they did is lost
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool, env = "MESHMEDIC_REPAIR_JOBS")]
    pub(super) repair_jobs: bool,
    /// The ways to bring a pod back that may be used, always gentlest first: heal, toggle, restart
    #[arg(long, value_name = "WAYS", default_value_t = Rungs::DEFAULT, value_parser = rungs, env = "MESHMEDIC_STRATEGY")]
    pub(super) strategy: Rungs,
    /// Delete pods instead of evicting them: past every PodDisruptionBudget
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool,
          env = "MESHMEDIC_DELETE_INSTEAD_OF_EVICT")]
    pub(super) delete_instead_of_evict: bool,
    /// Prove successors that land on this node, for repairs of any node; needs the right to the Leases
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = ArgAction::Set, value_parser = crate::go_bool, env = "MESHMEDIC_PROVE")]
    pub(super) prove: bool,
}

const DEFAULT: repair::Limits = repair::Limits::DEFAULT;

/// How much, how often, and when to stop.
#[derive(clap::Args)]
#[command(next_help_heading = "Limits of repairs")]
pub(super) struct Limits {
    /// Repairs under way on this node at once
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT.in_flight_node,
        env = "MESHMEDIC_MAX_IN_FLIGHT_NODE"
    )]
    pub(super) max_in_flight_node: usize,
    /// Repairs under way of one owner's pods at once, on any node
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT.in_flight_owner,
        env = "MESHMEDIC_MAX_IN_FLIGHT_OWNER"
    )]
    pub(super) max_in_flight_owner: usize,
    /// Repairs under way in the cluster at once; the same for every agent
    #[arg(long, value_name = "N", default_value_t = DEFAULT.slots, env = "MESHMEDIC_CLUSTER_SLOTS")]
    pub(super) cluster_slots: u32,
    /// Repairs an hour on this node
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT.per_hour_node,
        env = "MESHMEDIC_MAX_REPAIRS_PER_HOUR"
    )]
    pub(super) max_repairs_per_hour: usize,
    /// Repairs an hour in the cluster; the same for every agent
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT.per_hour_cluster,
        env = "MESHMEDIC_MAX_REPAIRS_PER_HOUR_CLUSTER"
    )]
    pub(super) max_repairs_per_hour_cluster: usize,
    /// How long an owner's pods are left alone after a failed repair, doubling
    #[arg(long, value_name = "DURATION", default_value = show(DEFAULT.cooldown.0), value_parser = cooldown, env = "MESHMEDIC_COOLDOWN")]
    pub(super) cooldown: Duration,
    /// The longest that it gets
    #[arg(long, value_name = "DURATION", default_value = show(DEFAULT.cooldown.1), value_parser = cooldown, env = "MESHMEDIC_COOLDOWN_MAX")]
    pub(super) cooldown_max: Duration,
    /// Failed repairs in a row, of an owner or on a node, after which no repair starts
    #[arg(long, value_name = "N", default_value_t = DEFAULT.breaker_failures, value_parser = clap::value_parser!(u32).range(1..),
          env = "MESHMEDIC_BREAKER_FAILURES")]
    pub(super) breaker_failures: u32,
    /// How long no repair starts then
    #[arg(long, value_name = "DURATION", default_value = show(DEFAULT.breaker_open), value_parser = breaker_open, env = "MESHMEDIC_BREAKER_OPEN")]
    pub(super) breaker_open: Duration,
    /// By when the successor must be seen captured, or the repair did not take
    #[arg(long, value_name = "DURATION", default_value = show(DEFAULT.successor_deadline), value_parser = duration::parse, env = "MESHMEDIC_SUCCESSOR_DEADLINE")]
    pub(super) successor_deadline: Duration,
}

const CARE: Care = Care::DEFAULT;
/// istio-cni's own word is taken for its version.
pub(super) const FOUND: &str = "found";

/// How istio-cni is asked to enrol a running pod again.
#[derive(clap::Args)]
#[command(next_help_heading = "Heals in place")]
pub(super) struct Heals {
    /// For how long the readings before an ask must agree
    #[arg(long, value_name = "DURATION", default_value = show(CARE.confirm), value_parser = heal_confirm, env = "MESHMEDIC_HEAL_CONFIRM")]
    pub(super) heal_confirm: Duration,
    /// How long ztunnel and istio-cni must have been Ready before anything is asked
    #[arg(long, value_name = "DURATION", default_value = show(CARE.settle), value_parser = heal_settle, env = "MESHMEDIC_HEAL_SETTLE")]
    pub(super) heal_settle: Duration,
    /// By when a pod must be proved captured, once no older ask is outstanding
    #[arg(long, value_name = "DURATION", default_value = show(CARE.deadline), value_parser = heal_deadline, env = "MESHMEDIC_HEAL_DEADLINE")]
    pub(super) heal_deadline: Duration,
    /// Asks a minute on this node: a ceiling, since four outstanding ones set the pace
    #[arg(long, value_name = "N", default_value_t = CARE.per_minute, value_parser = per_minute, env = "MESHMEDIC_HEALS_PER_MINUTE")]
    pub(super) heals_per_minute: usize,
    /// In this time a third of an owner's pods on this node are asked for at most
    #[arg(long, value_name = "DURATION", default_value = show(CARE.owner_gap), value_parser = duration::parse, env = "MESHMEDIC_HEAL_OWNER_GAP")]
    pub(super) heal_owner_gap: Duration,
    /// Which version istio-cni is, for example 1.30.3, where neither its labels nor its image say so
    #[arg(long, value_name = "VERSION", default_value = FOUND, env = "MESHMEDIC_ISTIO_VERSION")]
    pub(super) istio_version: String,
}

/// Where to listen.
#[derive(clap::Args)]
#[command(next_help_heading = "Endpoints")]
pub(super) struct Endpoints {
    /// Where /metrics, /healthz and /readyz are served; empty for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = ":9100", value_parser = listen, env = "MESHMEDIC_METRICS_ADDR")]
    pub(super) metrics_addr: Listen,
    /// Where /v1/node and /v1/pods/… are served, on loopback; empty for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9101", value_parser = listen,
          env = "MESHMEDIC_STATUS_ADDR")]
    pub(super) status_addr: Listen,
}

/// How to reach the API.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// How to reach the API [default: the cluster that this runs in, then KUBECONFIG, then
    /// ~/.kube/config]
    #[arg(long, value_name = "FILE", env = "MESHMEDIC_KUBECONFIG")]
    pub(super) kubeconfig: Option<String>,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<ListenAddr>);

fn listen(text: &str) -> Result<Listen, String> {
    if text.is_empty() {
        return Ok(Listen(None));
    }
    let address = text.parse::<ListenAddr>().map_err(|error| error.to_string())?;
    Ok(Listen(Some(address)))
}

/// A shorter one would be none.
const SHORTEST_COOLDOWN: Duration = Duration::from_secs(1);
/// A breaker that closes at once protects nobody.
const SHORTEST_BREAKER: Duration = Duration::from_secs(60);

/// The shortest that proves anything: three readings, and a ztunnel that had time to take its pods.
const SHORTEST_HEAL: Duration = Duration::from_millis(200);
/// A deadline that istio-cni can meet: a second ask is part of it.
const SHORTEST_HEAL_DEADLINE: Duration = Duration::from_secs(1);

/// istio-cni tries again by itself within seconds, and what is not over by then is no finding yet.
const SHORTEST_PENDING: Duration = Duration::from_secs(1);

fn pending_deadline(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_PENDING)
}

fn heal_confirm(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_HEAL)
}

fn heal_settle(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_HEAL)
}

fn heal_deadline(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_HEAL_DEADLINE)
}

fn per_minute(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => {
            Err("write a number from 1 on; to ask nothing leave heal out of --strategy".to_owned())
        }
        Ok(number) => Ok(number),
    }
}

fn rungs(text: &str) -> Result<Rungs, String> {
    let rungs: Rungs = text.parse().map_err(|error: BadRungs| error.to_string())?;
    if rungs.toggle && !rungs.heal {
        return Err(
            "the agent toggles a label only after a failed heal: write heal,toggle, or use `meshmedic repair \
             --strategy toggle`"
                .to_owned(),
        );
    }
    Ok(rungs)
}

fn cooldown(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_COOLDOWN)
}

fn breaker_open(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_BREAKER)
}
