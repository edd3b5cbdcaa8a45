// SPDX-License-Identifier: Apache-2.0
//! What the fuzz targets promise of the doctor.

use super::collect::{Budget, read_dump};
use super::command::Command;
use super::finding::Remedy;
use super::report::DoctorReport;
use super::{checks, snapshot};

/// A ztunnel's `config_dump`: whatever it holds, reading it ends.
pub fn config_dump(bytes: &[u8]) {
    let _ = read_dump(bytes, "node-a", &Budget::default());
}

/// A snapshot: each check ends, and a shell reads each printed command as we mean it.
pub fn snapshot(bytes: &[u8]) {
    let Ok(snapshot) = snapshot::parse(bytes) else {
        return;
    };
    let report = DoctorReport::judge(&snapshot, checks::all(), &[]);
    let findings = report.checks.iter().flat_map(|check| &check.findings);
    for remedy in findings.flat_map(|finding| &finding.remedy) {
        if let Remedy::Commands(commands) = remedy {
            commands.iter().for_each(assert_says_itself);
        }
    }
}

/// Names from anywhere, a line each, in every place that a command has for them.
pub fn command(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut names = text.split('\n');
    let mut next = || names.next().unwrap_or("a");
    for command in [
        Command::new("kubectl logs").namespace(next()).name(next()),
        Command::new("kubectl get").path(next(), next()),
        Command::new("kubectl get").joined(next(), ":", next()),
        Command::new("kubectl label").label(next(), Some(next())),
        Command::new("kubectl label").label(next(), None),
        Command::new("kubectl patch")
            .option("-p", next())
            .option("--set=", next()),
    ] {
        if command.spoiled_by().is_none() {
            assert_says_itself(&command);
        }
    }
}

fn assert_says_itself(command: &Command) {
    let line = command.to_string();
    assert_eq!(shlex::split(&line).as_deref(), Some(command.argv()), "{line}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}
