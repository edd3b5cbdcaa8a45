// SPDX-License-Identifier: Apache-2.0
//! The leg that acts: one connection is opened from the pod's network namespace, and followed there.

use std::net::SocketAddr;

use meshmedic_common::text::clean;
use meshmedic_common::verdict::Owner;

use crate::connection::Connection;
use crate::explain::{Known, Leg, Verdict};
use crate::open_connection::{Fate, Opened};
use crate::ways::{self, WayArgs};

/// The leg's stable name.
const NAME: &str = "connection";
const MAX_WORDS: usize = 200;

/// The container that looked and what it saw, or why there is nothing.
pub(super) type Found = Result<(String, Opened), String>;

/// Opens it. An interrupt is told with what is left behind.
pub(super) async fn look(
    connection: &Connection,
    ways: &WayArgs,
    known: &Known,
    to: Option<SocketAddr>,
) -> anyhow::Result<Found> {
    tokio::select! {
        found = ways::open(connection, ways, &known.facts, to) => Ok(found),
        interrupt = tokio::signal::ctrl_c() => {
            interrupt?;
            anyhow::bail!("interrupted before the probe had ended; it ends by itself, and stays in the pod's spec")
        }
    }
}

/// What it proves.
pub(super) fn leg(known: &Known, found: &Found) -> Leg {
    let mut evidence = Vec::new();
    let mut unseen = Vec::new();
    let verdict = match found {
        Err(why) => {
            unseen.push(format!("No connection was opened: {}.", clean(why, MAX_WORDS)));
            Verdict::Unknown
        }
        Ok((container, opened)) => {
            let from = opened
                .from
                .map(|from| format!(" from {from}"))
                .unwrap_or_default();
            evidence.push(format!(
                "Container {container} opened a connection{from} to {}.",
                opened.to
            ));
            evidence.push(told(opened));
            unseen.push("What becomes of it behind ztunnel.".to_owned());
            match (opened.fate, known.pod.owner) {
                // Whoever listens there has it.
                (Fate::Taken, Some(Owner::Ztunnel)) => Verdict::Proved,
                (Fate::Taken, _) => Verdict::Believed,
                (Fate::Past, _) => Verdict::Disproved,
                (Fate::Refused | Fate::Unanswered | Fate::Ended | Fate::Failed, _) => Verdict::Unknown,
            }
        }
    };
    Leg {
        leg: NAME,
        question: "Does ztunnel take a connection that is opened there?",
        verdict,
        evidence,
        unseen,
    }
}

/// What it came to, where it was asked for.
pub(super) fn verdict(legs: &[Leg]) -> Option<Verdict> {
    legs.iter().find(|leg| leg.leg == NAME).map(|leg| leg.verdict)
}

fn told(opened: &Opened) -> String {
    match opened.fate {
        Fate::Taken => format!(
            "Its other half stands in the same network namespace, on port {}: the rules led it to who listens there.",
            opened.port.unwrap_or_default()
        ),
        Fate::Past => "It was open, and its other half was not in the same network namespace: it went past \
                       ztunnel."
            .to_owned(),
        Fate::Refused => "It was refused: by its target, or because the rules lead to a port on which nothing listens."
            .to_owned(),
        Fate::Unanswered => {
            "No answer came within five seconds: a policy may drop it, or its target is down; --to names another."
                .to_owned()
        }
        Fate::Ended => "It had ended before it could be followed: ask again, or name another target with --to.".to_owned(),
        Fate::Failed => format!(
            "It could not be opened: {}; --to names another target.",
            clean(opened.why.as_deref().unwrap_or("no reason is told"), MAX_WORDS)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every fate is told in words of its own, and a reason that comes from a pod is no more than text.
    #[test]
    fn each_fate_is_told() {
        let opened = |fate| Opened {
            to: "10.96.0.1:443".parse().unwrap(),
            from: None,
            fate,
            port: Some(15001),
            why: Some("network \u{1b}[31munreachable".to_owned()),
        };
        let fates = [
            Fate::Taken,
            Fate::Past,
            Fate::Refused,
            Fate::Unanswered,
            Fate::Ended,
            Fate::Failed,
        ];
        let told: std::collections::BTreeSet<String> =
            fates.iter().map(|fate| told(&opened(*fate))).collect();
        assert_eq!(told.len(), fates.len());
        assert!(!told.iter().any(|words| words.contains('\u{1b}')), "{told:?}");
    }
}
