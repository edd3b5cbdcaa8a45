// SPDX-License-Identifier: Apache-2.0
//! The agent as a process of its own, and what it logs and reports.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use meshmedic_common::report::NodeReport;
use serde_json::Value;

/// What it logs: what a user sees by default, and each pod's first state.
const LOG: &str = "warn,meshmedic=info,meshmedic_agent::agent::teller=debug";
/// What it is asked is in its memory.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A line of its log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) at: Timestamp,
    level: String,
    target: String,
    fields: Value,
}

impl Line {
    /// `None` for what is no line of the log, such as a message of the system.
    fn read(text: &str) -> Option<Self> {
        let mut line: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            at: line["timestamp"].as_str()?.parse().ok()?,
            level: line["level"].as_str()?.to_owned(),
            target: line["target"].as_str()?.to_owned(),
            fields: line["fields"].take(),
        })
    }

    /// A field of text; empty where there is none.
    pub(super) fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap_or_default()
    }

    pub(super) fn number(&self, field: &str) -> Option<f64> {
        self.fields[field].as_f64()
    }

    pub(super) fn message(&self) -> &str {
        self.text("message")
    }

    /// Whether it says what was done with the pod of this UID, or why not.
    pub(super) fn is_audit(&self, uid: &str, act: &str) -> bool {
        self.target == "meshmedic::audit" && self.text("uid") == uid && self.text("act") == act
    }

    /// Whether it tells of a change of the pod of this UID to this state.
    pub(super) fn is_change(&self, uid: &str, to: &str) -> bool {
        self.text("uid") == uid && self.text("to") == to
    }

    /// For somebody who looks for what went wrong.
    fn show(&self) -> String {
        let mut shown = format!(
            "{} {:<5} {}",
            self.at.strftime("%T.%3f"),
            self.level,
            self.message()
        );
        for (field, value) in self.fields.as_object().into_iter().flatten() {
            if field != "message" {
                shown += &format!(" {field}={value}");
            }
        }
        shown
    }
}

#[derive(Default)]
struct Log {
    lines: Vec<Line>,
    /// What else was written: errors before the log began, or a panic.
    other: Vec<String>,
}

/// The running agent. It is killed when this is dropped, and when this process ends.
pub(super) struct Agent {
    child: Child,
    log: Arc<Mutex<Log>>,
}

impl Agent {
    /// Starts the agent of a node.
    pub(super) fn start(
        program: &Path,
        kubeconfig: &Path,
        node: &str,
        proc_root: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut child = meshmedic_lab::leash(program)?
            .args(["agent", "--log-format", "json", "--node", node])
            .args(["--metrics-addr", "", "--status-addr", "127.0.0.1:0"])
            .arg("--host-proc")
            .arg(proc_root)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(flags)
            .env("MESHMEDIC_LOG", LOG)
            .env("POD_NAMESPACE", "meshmedic")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the agent")?;
        let log = Arc::new(Mutex::new(Log::default()));
        let written = BufReader::new(child.stderr.take().context("the agent has no log")?);
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for text in written.lines().map_while(Result::ok) {
                let mut log = lock(&kept);
                match Line::read(&text) {
                    Some(line) => log.lines.push(line),
                    None => log.other.push(text),
                }
            }
        });
        Ok(Self { child, log })
    }

    /// Whether it runs.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How many lines it has logged.
    pub(super) fn logged(&self) -> usize {
        lock(&self.log).lines.len()
    }

    /// The first line after so many that is like this.
    pub(super) fn find(&self, after: usize, like: impl Fn(&Line) -> bool) -> Option<Line> {
        let log = lock(&self.log);
        log.lines.iter().skip(after).find(|line| like(line)).cloned()
    }

    /// All lines after so many that are like this.
    pub(super) fn all(&self, after: usize, like: impl Fn(&Line) -> bool) -> Vec<Line> {
        let log = lock(&self.log);
        let lines = log.lines.iter().skip(after);
        lines.filter(|line| like(line)).cloned().collect()
    }

    /// The last that it wrote, as a user would see it.
    pub(super) fn last(&self, count: usize) -> Vec<String> {
        let log = lock(&self.log);
        let lines = log.lines.iter().filter(|line| line.level != "DEBUG");
        let shown: Vec<_> = lines.map(Line::show).chain(log.other.iter().cloned()).collect();
        shown[shown.len().saturating_sub(count)..].to_vec()
    }

    /// Where it serves its report, once it does.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.find(0, |line| line.text("endpoint") == "status")
            .and_then(|line| line.text("address").parse().ok())
    }

    /// What it reports of its node, at `/v1/node`.
    pub(super) fn report(&self) -> anyhow::Result<NodeReport> {
        let address = self.address().context("the agent serves no report yet")?;
        let (code, text) = get(address, "/v1/node").context("cannot ask the agent for its report")?;
        ensure!(
            code == "200",
            "the agent's report was answered with {code}: {text}"
        );
        NodeReport::read(text.as_bytes()).context("cannot read the agent's report")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The end of its input lets the leash kill the agent, and then end.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plain GET: the code and the body.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let code = head.split(' ').nth(1).context("no status line")?;
    Ok((code.to_owned(), body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read_and_shown() {
        let line = Line::read(
            r#"{"timestamp":"2025-01-02T03:04:05.678901Z","level":"INFO","target":"meshmedic::audit",
                "fields":{"message":"repair","act":"withheld","uid":"u","rule":5}}"#,
        );
        let line = line.filter(|line| line.is_audit("u", "withheld") && !line.is_audit("v", "withheld"));
        assert_eq!(line.as_ref().and_then(|line| line.number("rule")), Some(5.0));
        let shown = line.map(|line| line.show());
        assert_eq!(
            shown.as_deref(),
            Some(r#"03:04:05.678 INFO  repair act="withheld" rule=5 uid="u""#)
        );
        assert!(Line::read("thread 'main' panicked").is_none());
    }
}
