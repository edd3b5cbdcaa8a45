// SPDX-License-Identifier: Apache-2.0
//! Checks as data, and how they are run.

use serde::Serialize;

use super::finding::Finding;
use super::need::{Lack, Need};
use super::view::View;

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Category {
    ControlPlane,
    DataPlane,
    PodCreation,
    Enrolment,
    NetworkPolicy,
    Security,
    Traffic,
    Sidecars,
    NetworkUnderneath,
    Status,
    Waypoints,
    Enforcement,
    References,
    Certificates,
    Platform,
    Reboots,
    Proxies,
}

impl Category {
    /// The heading above its checks.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::ControlPlane => "Control plane",
            Self::DataPlane => "Data plane",
            Self::PodCreation => "Pod creation",
            Self::Enrolment => "Enrolment",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Security => "Security",
            Self::Traffic => "Traffic",
            Self::Sidecars => "Sidecars",
            Self::NetworkUnderneath => "Network underneath",
            Self::Status => "What istiod says",
            Self::Waypoints => "Waypoints",
            Self::Enforcement => "Protection that nothing enforces",
            Self::References => "References",
            Self::Certificates => "Certificates",
            Self::Platform => "Platform",
            Self::Reboots => "Will your mesh survive a reboot?",
            Self::Proxies => "Proxies",
        }
    }

    /// What its findings break, as a heading above them.
    pub(crate) const fn breaks(self) -> &'static str {
        match self {
            Self::ControlPlane => "istiod and what it hands out",
            Self::DataPlane => "ztunnel and istio-cni on the nodes",
            Self::PodCreation => "pods that do not start",
            Self::Enrolment => "pods in and out of the mesh",
            Self::NetworkPolicy => "connections that policies cut",
            Self::Security => "protection and identity",
            Self::Traffic => "routes and where they lead",
            Self::Sidecars => "pods with sidecars",
            Self::NetworkUnderneath => "the network between nodes",
            Self::Status => "what istiod refuses",
            Self::Waypoints => "what waypoints do",
            Self::Enforcement => "protection that nothing enforces",
            Self::References => "names of which nothing is called so",
            Self::Certificates => "the roots of the mesh",
            Self::Platform => "the platform underneath",
            Self::Reboots => "what a reboot leaves behind",
            Self::Proxies => "proxies themselves",
        }
    }

    /// How the codes of its checks begin.
    #[cfg(test)]
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::ControlPlane => "MM01",
            Self::DataPlane => "MM02",
            Self::PodCreation => "MM03",
            Self::Enrolment => "MM04",
            Self::NetworkPolicy => "MM05",
            Self::Security => "MM06",
            Self::Traffic => "MM07",
            Self::Sidecars => "MM08",
            Self::NetworkUnderneath => "MM09",
            Self::Status => "MM10",
            Self::Waypoints => "MM11",
            Self::Enforcement => "MM12",
            Self::References => "MM13",
            Self::Certificates => "MM14",
            Self::Platform => "MM15",
            Self::Reboots => "MM16",
            Self::Proxies => "MM17",
        }
    }
}

/// How bad it is if a check finds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Worth knowing, and nothing is broken
    Info,
    /// Something will break soon, or is broken for some
    Warning,
    /// Something is broken
    Error,
}

impl Severity {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A check: what it is called, what it needs, and a pure function of what is known.
#[derive(Debug)]
pub(crate) struct Check {
    /// `MM0101`; it stays what it is for ever.
    pub(crate) code: &'static str,
    pub(crate) category: Category,
    /// What is true when it passes.
    pub(crate) title: &'static str,
    pub(crate) severity: Severity,
    /// Without these it is skipped.
    pub(crate) needs: &'static [Need],
    pub(crate) run: fn(&View<'_>) -> Vec<Finding>,
}

impl Check {
    /// Where it is explained.
    pub(crate) fn docs(&self) -> String {
        format!(
            "{}/blob/v{}/docs/troubleshooting.md#{}",
            env!("CARGO_PKG_REPOSITORY"),
            env!("CARGO_PKG_VERSION"),
            self.code.to_lowercase()
        )
    }

    /// Runs it on what is known.
    pub(crate) fn judge(&self, view: &View<'_>) -> Judged {
        let mut gaps = Vec::new();
        for need in self.needs {
            match need.lack(view) {
                Ok(more) => gaps.extend(more),
                Err(Lack::Skip(why, open)) => {
                    let outcome = Outcome::Skipped { why, open };
                    return Judged {
                        outcome,
                        gaps: Vec::new(),
                    };
                }
                Err(Lack::Failed(why)) => {
                    return Judged {
                        outcome: Outcome::Failed { why },
                        gaps: Vec::new(),
                    };
                }
            }
        }
        let findings = (self.run)(view);
        let outcome = if !findings.is_empty() {
            Outcome::Findings { findings }
        } else if let Some(gap) = gaps.first() {
            let more = match gaps.len() {
                1 => String::new(),
                count => format!(" (and {} more like it)", count - 1),
            };
            Outcome::Failed {
                why: format!("nothing was found, but not everything could be looked at: {gap}{more}"),
            }
        } else {
            Outcome::Passed
        };
        Judged { outcome, gaps }
    }
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) outcome: Outcome,
    /// What it could not look at, though it looked at the rest.
    pub(crate) gaps: Vec<String>,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Passed,
    /// Something is not.
    Findings { findings: Vec<Finding> },
    /// It was not run, and why; open where something is left that somebody could find out.
    Skipped { why: String, open: bool },
    /// It could not be run.
    Failed { why: String },
}
