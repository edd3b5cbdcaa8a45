// SPDX-License-Identifier: Apache-2.0
//! What a machine needs for a plan, and where to get what it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::step::Step;

/// Programs that plans call, and where their makers tell how to install them.
const TOOLS: [(&str, &str); 5] = [
    ("docker", "https://docs.docker.com/engine/install"),
    (
        "kind",
        "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    ),
    ("kubectl", "https://kubernetes.io/docs/tasks/tools"),
    (
        "istioctl",
        "https://istio.io/latest/docs/ops/diagnostic-tools/istioctl",
    ),
    ("helm", "https://helm.sh/docs/intro/install"),
];

/// What of it is there, and where.
pub(super) struct Found {
    tools: BTreeMap<&'static str, PathBuf>,
}

impl Found {
    pub(super) fn on_path() -> Self {
        Self::on(&env::var_os("PATH").unwrap_or_default())
    }

    pub(super) fn on(path: &OsStr) -> Self {
        let find = |tool| {
            env::split_paths(path)
                .map(|folder| folder.join(tool))
                .find(|file| file.is_file())
        };
        let tools = TOOLS
            .iter()
            .filter_map(|(tool, _)| Some((*tool, find(tool)?)))
            .collect();
        Self { tools }
    }

    pub(super) fn has(&self, tool: &str) -> bool {
        self.tools.contains_key(tool)
    }

    /// Says all that is missing for these steps, at once.
    pub(super) fn demand(&self, steps: &[Step]) -> Result<()> {
        let called: BTreeSet<&str> = steps.iter().filter_map(Step::program).collect();
        let mut missing: Vec<String> = TOOLS
            .iter()
            // Whatever a plan calls, kind wants Docker.
            .filter(|(tool, _)| called.contains(tool) || *tool == "docker")
            .filter(|(tool, _)| !self.has(tool))
            .map(|(tool, from)| match *tool {
                "istioctl" => format!("  istioctl or helm, for Istio: {from}"),
                tool => format!("  {tool}: {from}"),
            })
            .collect();
        if self.tools.get("docker").is_some_and(|docker| !answers(docker)) {
            missing.push("  a Docker engine that answers: `docker version` tells more".to_owned());
        }
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "this machine lacks\n{}\nWith --dry-run the commands are printed, and nothing is needed.",
            missing.join("\n")
        )
    }
}

/// Docker's client can be there without its engine.
fn answers(docker: &Path) -> bool {
    Command::new(docker)
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
