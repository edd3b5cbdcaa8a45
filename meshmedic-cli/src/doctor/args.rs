// SPDX-License-Identifier: Apache-2.0
//! What `meshmedic doctor` is told.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{Category, Check, Severity};
use super::checks;
use super::report::Suppression;
use super::snapshot::Scope;
use crate::connection::ConnectionArgs;
use crate::doctor::show::{DoctorFormat, Manner};
use crate::exit::Usage;
use crate::istio::IstioArgs;
use crate::selection::SelectionArgs;
use crate::ways::{AgentArgs, WayArgs};

/// Arguments of `meshmedic doctor`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: DoctorFormat,
    /// Do not fold findings that say the same
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Findings as bad as this make the exit code 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t = Severity::Error)]
    pub(super) fail_on: Severity,
    /// Only checks of this category; may be given several times
    #[arg(long, value_enum, value_name = "CATEGORY", help_heading = "Checks")]
    category: Vec<Category>,
    /// Only this check, such as MM0101; may be given several times
    #[arg(long, value_name = "CODE", help_heading = "Checks")]
    check: Vec<String>,
    /// Leave out findings of a check on an object or on the pods of a workload; * ends a beginning
    #[arg(long, value_name = "CODE=NAMESPACE/NAME", help_heading = "Checks")]
    suppress: Vec<String>,
    /// List the checks
    #[arg(long, help_heading = "Checks")]
    pub(super) list: bool,
    /// Whether the namespace of -n may go from PERMISSIVE to STRICT mTLS: go or no-go, with the reasons
    #[arg(long, conflicts_with_all = ["all_namespaces", "pods", "category", "check", "suppress", "list"])]
    pub(super) strict_ready: bool,
    /// Look again until nothing as bad as --fail-on is left and nothing is open, for so long at most
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = crate::spans::interval,
        conflicts_with_all = ["from", "list", "strict_ready", "migrate", "against"]
    )]
    pub(super) wait: Option<Duration>,
    /// What would stop working if this namespace moved from sidecars to ambient mode, object by object
    #[arg(
        long,
        value_name = "NAMESPACE",
        conflicts_with_all = ["namespace", "all_namespaces", "pods", "list", "strict_ready"]
    )]
    pub(super) migrate: Option<String>,
    /// Write what was seen to this file, without secrets, values of variables and payloads
    #[arg(long, value_name = "FILE", help_heading = "Snapshot")]
    pub(super) save: Option<PathBuf>,
    /// Judge what was seen then, without a cluster
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Snapshot",
        conflicts_with_all = ["save", "all_namespaces", "pods"]
    )]
    pub(super) from: Option<PathBuf>,
    /// Say only what is new and what is gone since what was seen then
    #[arg(long, value_name = "FILE", help_heading = "Snapshot", conflicts_with_all = ["strict_ready", "list"])]
    pub(super) against: Option<PathBuf>,
    /// The mesh itself, and this namespace only [default: all namespaces]
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        conflicts_with = "all_namespaces",
        help_heading = "Pods"
    )]
    namespace: Option<String>,
    /// The mesh itself, and all namespaces
    #[arg(short = 'A', long, help_heading = "Pods")]
    all_namespaces: bool,
    /// The mesh itself, and these pods: NAME, in the namespace of -n or of the context, or NAMESPACE/NAME
    #[arg(value_name = "POD", conflicts_with = "all_namespaces", help_heading = "Pods")]
    pods: Vec<String>,
    /// How far back ztunnels' logs are read
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = crate::scan::since, help_heading = "Reading")]
    pub(super) since: Duration,
    /// How many pods are asked at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Reading")]
    concurrency: u16,
    /// How long one answer of a pod may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::ways::timeout, help_heading = "Reading")]
    timeout: Duration,
    #[command(flatten, next_help_heading = "Reading")]
    agents: AgentArgs,
    #[command(flatten)]
    pub(super) istio: IstioArgs,
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

const AFTER_HELP: &str = "\
Nothing is changed in the cluster, and no container is added to a pod. With -n
or with pods named, the sockets of these pods are read as `meshmedic scan`
reads them; of all others the agents tell. What may not be read is skipped,
with the rule that would allow it.

Exit codes, whatever the output format:
  0  nothing as bad as --fail-on was found
  1  something was
  2  wrong usage
  3  undetermined: a check could not be run, or was not allowed to look

Examples:
  meshmedic doctor                        what is wrong with the mesh?
  meshmedic doctor -n shop -o short       only what concerns this namespace
  meshmedic doctor -o html >report.html   a page for a ticket
  meshmedic doctor --wait 5m -o junit     in a pipeline: let it settle first
  meshmedic doctor --migrate shop         may it move to ambient mode?
  meshmedic doctor --save mesh.json       keep it; judge it with --from
  meshmedic doctor --against mesh.json    what is new, and gone, since then
  meshmedic doctor --suppress 'MM0405=shop/*'";

impl Args {
    /// How the report is to be written.
    pub(super) const fn manner(&self) -> Manner {
        Manner {
            format: self.output,
            verbose: self.verbose,
            fail_on: self.fail_on,
        }
    }

    /// The checks that are asked for.
    pub(super) fn chosen(&self) -> Result<Vec<&'static Check>, Usage> {
        for code in &self.check {
            known(code, "--check")?;
        }
        let by_code = |check: &Check| {
            self.check
                .iter()
                .any(|code| code.eq_ignore_ascii_case(check.code))
        };
        let wanted = |check: &&Check| {
            let any = self.check.is_empty() && self.category.is_empty();
            any || by_code(check) || self.category.contains(&check.category)
        };
        Ok(checks::all().filter(wanted).collect())
    }

    /// What makes no sense together.
    pub(super) fn check(&self) -> Result<(), Usage> {
        let usage = |text: &str| Err(Usage(text.to_owned()));
        match (&self.from, &self.namespace) {
            (Some(_), Some(_)) if !self.strict_ready => {
                usage("--from judges what was looked at then: -n goes with it only for --strict-ready")
            }
            (None, None) if self.strict_ready => {
                usage("--strict-ready is about one namespace: name it with -n")
            }
            _ if self.strict_ready && self.output.is_of_checks() => {
                usage("--strict-ready is written as table, short, json or yaml")
            }
            _ if self.list && self.output.is_of_checks() => {
                usage("--list is written as table, short, json or yaml")
            }
            _ => Ok(()),
        }
    }

    /// The namespace that `--strict-ready` is about: of `-n`, or else what the snapshot was taken for.
    pub(super) fn one_namespace(&self, scope: &Scope) -> Result<String, Usage> {
        let namespace = self.namespace.clone().or_else(|| scope.namespace.clone());
        namespace.ok_or_else(|| {
            Usage(
                "--strict-ready is about one namespace, and this snapshot is of all: name it with -n"
                    .to_owned(),
            )
        })
    }

    pub(super) fn suppressions(&self) -> Result<Vec<Suppression>, Usage> {
        let parse = |text: &String| {
            let (code, object) = text
                .split_once('=')
                .filter(|(_, object)| !object.is_empty())
                .ok_or_else(|| {
                    Usage(format!(
                        "--suppress {text}: write CODE=NAMESPACE/NAME, such as MM0405=shop/*"
                    ))
                })?;
            known(code, "--suppress")?;
            Ok(Suppression {
                code: code.to_owned(),
                object: object.to_owned(),
            })
        };
        self.suppress.iter().map(parse).collect()
    }

    pub(super) fn selection(&self) -> SelectionArgs {
        SelectionArgs::of(self.namespace.clone(), self.pods.clone())
    }

    pub(super) fn ways(&self) -> WayArgs {
        WayArgs::without_probes(self.agents.clone(), self.concurrency, self.timeout)
    }
}

fn known(code: &str, flag: &str) -> Result<(), Usage> {
    match checks::by_code(code) {
        Some(_) => Ok(()),
        None => Err(Usage(format!(
            "{flag} {code}: there is no such check; `meshmedic doctor --list` names all"
        ))),
    }
}
