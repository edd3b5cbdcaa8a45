// SPDX-License-Identifier: Apache-2.0
//! What is told of a pod, section by section.

use std::time::Duration;

use jiff::Timestamp;
use meshmedic_common::ask::Ask;
use meshmedic_common::duration;
use meshmedic_common::eligibility::Expectation;
use meshmedic_common::facts::{Gate, GateState, PodFacts, STRATEGY};
use meshmedic_common::identity::NodeFault;
use meshmedic_common::policy::Withheld;
use meshmedic_common::report::{HealStanding, NodeReport, PodReport, RepairStanding};
use meshmedic_common::text::clean;
use meshmedic_common::times::Times;
use meshmedic_common::verdict::{Reason, State};

use super::events::Told;
use crate::output::became;
use crate::repair::{Action, Item};
use crate::scan::ScannedPod;
use crate::status::ago;

/// How much of what an agent says in one place is shown.
pub(super) const MAX_WORDS: usize = 300;

/// A part of the story.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<String>,
}

/// All that is known.
pub(crate) struct Known {
    pub(crate) facts: PodFacts,
    pub(super) times: Times,
    pub(crate) pod: ScannedPod,
    pub(super) expectation: Expectation,
    pub(super) certain: bool,
    pub(super) fault: Option<NodeFault>,
    /// The ztunnel of its node.
    pub(crate) ztunnel: Option<PodFacts>,
    pub(super) agent: Result<NodeReport, String>,
    pub(super) repair: Option<Item>,
    pub(super) events: Vec<Told>,
    pub(crate) notes: Vec<String>,
    pub(super) now: Timestamp,
}

/// What istio-cni asks, in its order: what stops there, and what is so where it does not.
const STEPS: [(&[Reason], &str); 9] = [
    (&[Reason::HostNetwork], "it has a network of its own"),
    (&[Reason::Finished], "it has not ended"),
    (&[Reason::Deleting], "it is not being deleted"),
    (
        &[Reason::NotAnnotated],
        "istio-cni's annotation says that it took it in, or tries to",
    ),
    (&[Reason::Sidecar], "it has no sidecar"),
    (
        &[Reason::ExcludedNamespace],
        "istio-cni does not leave its namespace alone",
    ),
    (
        &[Reason::NamespaceUnknown],
        "the labels of its namespace are known",
    ),
    (
        &[Reason::OptedOut, Reason::NotSelected],
        "its labels and its namespace's make it ambient",
    ),
    (&[Reason::OtherKernel], "it shares the kernel of its node"),
];

impl Known {
    pub(crate) fn title(&self) -> String {
        let owner = self.facts.controller.as_ref();
        let owner = owner.map_or_else(
            || "without an owner".to_owned(),
            |owner| format!("of {} {}", owner.kind, owner.name),
        );
        let ready = if self.facts.ready { "Ready" } else { "not Ready" };
        let node = self.facts.node.as_deref().unwrap_or("no node");
        format!(
            "{}: {}, {owner}, {ready}, on {node}",
            self.pod.display_name(),
            self.pod.state
        )
    }

    pub(super) fn tell(&self) -> Vec<Section> {
        let section = |title, lines: Vec<String>| Section { title, lines };
        let mut sections = vec![
            section("Should it be captured?", self.eligibility()),
            section("What its network namespace shows", self.netns()),
            section("ztunnel on its node", self.node()),
            section("History", self.history()),
            section("Events", self.told()),
            section("Repair", self.repair()),
            section(
                "What to do next",
                self.next().lines().map(str::to_owned).collect(),
            ),
            section("What led to it", self.cause()),
            section("Not known", self.unknown()),
        ];
        sections.retain(|section| !section.lines.is_empty());
        sections
    }

    pub(super) fn eligibility(&self) -> Vec<String> {
        let stop = match self.expectation {
            Expectation::Exempt(reason) | Expectation::Unverifiable(reason) => Some(reason),
            _ => None,
        };
        let mut lines = Vec::new();
        for (reasons, holds) in STEPS {
            // istio-cni still tries, which it says before its kernel matters.
            if self.expectation == Expectation::Pending && reasons.contains(&Reason::OtherKernel) {
                break;
            }
            if let Some(reason) = stop.filter(|reason| reasons.contains(reason)) {
                lines.push(format!("no   {}", reason.sentence()));
                break;
            }
            lines.push(format!("yes  {holds}"));
        }
        lines.push(match self.expectation {
            Expectation::Expected => "So it should be captured.".to_owned(),
            Expectation::Pending => "So istio-cni is still trying to enrol it.".to_owned(),
            Expectation::Exempt(_) => "So it need not be captured.".to_owned(),
            Expectation::Unverifiable(_) => "So this cannot be determined.".to_owned(),
            Expectation::Undeclared => "Nothing says whether it should be.".to_owned(),
        });
        if !self.certain {
            lines.push(
                "istio-cni's settings or its namespace could not be read: this is Istio's default."
                    .to_owned(),
            );
        }
        lines
    }

    fn netns(&self) -> Vec<String> {
        let mut lines = vec![format!("{}.", said(&self.pod.sentence()))];
        for leg in [self.listeners(), self.rules(), self.traffic()] {
            lines.extend(leg.evidence);
        }
        lines.extend(self.facts.gate.as_ref().map(gate));
        lines
    }

    fn node(&self) -> Vec<String> {
        let mut lines = vec![match &self.fault {
            None => "ztunnel and istio-cni are Ready, as far as the API says.".to_owned(),
            Some(fault) => {
                format!("{fault}: no restart is decided meanwhile; a heal in place may begin sooner.")
            }
        }];
        match &self.agent {
            Ok(report) => {
                let mode = report.trigger.as_str();
                let version = clean(&report.version, MAX_WORDS);
                lines.push(format!("Its agent ({version}, {mode}) answers."));
                for found in &report.conditions {
                    lines.push(format!(
                        "{}: {}.",
                        found.condition,
                        clean(&found.detail, MAX_WORDS)
                    ));
                }
            }
            Err(why) => lines.push(format!("Nothing from an agent: {why}.")),
        }
        lines
    }

    /// What the agent knows of the very pod.
    pub(super) fn report(&self) -> Option<&PodReport> {
        let uid = self.facts.cgroup_uid()?;
        self.agent.as_ref().ok()?.pods.iter().find(|pod| pod.uid == uid)
    }

    fn history(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut dated = self.dated_repairs();
        if let Some(report) = self.report() {
            if report.flaps > 0 {
                let times = match report.flaps {
                    1 => "once".to_owned(),
                    flaps => format!("{flaps} times"),
                };
                lines.push(format!("It got lost listeners back by itself {times}."));
            }
            for change in report.transitions.iter() {
                let why = change.reason.map(|reason| format!(", {}", reason.sentence()));
                let outside = change.outside_ms.map(Duration::from_millis);
                let outside = outside
                    .map(|outside| format!(", {} after the agent saw its loss", duration::show(outside)));
                let (age, to) = (ago(change.at, self.now), change.to);
                let (why, outside) = (why.unwrap_or_default(), outside.unwrap_or_default());
                let became = became(change.from, to);
                dated.push((change.at, format!("{age}  {became}{to}{why}{outside}")));
            }
        }
        dated.sort_by_key(|(at, _)| *at);
        lines.extend(dated.into_iter().map(|(_, line)| line));
        lines
    }

    /// What the agent's repairs of this pod, and of others that had its name, came to.
    pub(super) fn repairs(&self) -> Vec<String> {
        self.dated_repairs().into_iter().map(|(_, line)| line).collect()
    }

    fn dated_repairs(&self) -> Vec<(Timestamp, String)> {
        let Ok(agent) = &self.agent else { return Vec::new() };
        let name = self.pod.display_name();
        let its = agent
            .repairs
            .iter()
            .filter(|repair| repair.uid == self.pod.uid || repair.pod == name);
        its.map(|repair| {
            (
                repair.at,
                format!("{}  {}", ago(repair.at, self.now), repair.sentence()),
            )
        })
        .collect()
    }

    fn told(&self) -> Vec<String> {
        let line = |event: &Told| {
            let age = event.at.map_or_else(|| "-".to_owned(), |at| ago(at, self.now));
            let mark = if event.warning { " (warning)" } else { "" };
            format!("{age}  {}{mark}: {}", event.reason, event.note)
        };
        self.events.iter().map(line).collect()
    }

    fn repair(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.repair {
            Some(item) if item.action == Action::WouldRepair => {
                let may = if item.refused {
                    "would be refused now"
                } else {
                    "may be repaired"
                };
                lines.push(format!("By hand it {may}: {}.", item.detail));
                let gentler = item.passed_over.iter();
                lines.extend(gentler.map(|over| format!("No {}: {}.", over.way(), over.detail)));
            }
            Some(item) => {
                let rule = item
                    .rule
                    .map(|rule| format!("By hand it is not repaired, by safety rule {rule}: "));
                lines.push(format!("{}{}.", rule.unwrap_or_default(), item.detail));
            }
            None => {}
        }
        let heal = self.report().and_then(|report| report.heal.as_ref());
        lines.extend(match heal {
            Some(HealStanding::Asked) => {
                Some("The agent has asked istio-cni to enrol it again, and waits for the proof.".to_owned())
            }
            Some(HealStanding::Failed { sentence, .. }) => Some(format!(
                "A heal in place failed: {}. Until istio-cni says that it is captured its callers speak plain text to it.",
                clean(sentence, MAX_WORDS)
            )),
            Some(HealStanding::MadeUnreachable) => Some(
                "A heal in place left Istio's routing without a listener, so its connections may be refused, and that could not be taken back."
                    .to_owned(),
            ),
            Some(HealStanding::WouldHeal) => {
                Some("The agent would have it healed in place, and its repairs are off.".to_owned())
            }
            // It is said by the lines above already.
            Some(HealStanding::Withheld { rule, .. })
                if self.repair.as_ref().is_some_and(|item| item.rule == Some(*rule)) =>
            {
                Some("The same holds for its agent.".to_owned())
            }
            Some(HealStanding::Withheld { rule, sentence, .. }) => Some(format!(
                "The agent's heal in place waits, by safety rule {rule}: {}.",
                clean(sentence, MAX_WORDS)
            )),
            Some(HealStanding::Other) | None => None,
        });
        lines.extend(match self.report().and_then(|report| report.repair.as_ref()) {
            Some(RepairStanding::UnderWay { acted: true }) => Some("The agent has evicted it.".to_owned()),
            Some(RepairStanding::UnderWay { acted: false }) => {
                Some("The agent is about to evict it.".to_owned())
            }
            Some(RepairStanding::WouldRepair) => {
                Some("The agent would repair it, and its repairs are off.".to_owned())
            }
            Some(RepairStanding::Withheld {
                rule,
                sentence,
                detail,
                ..
            }) => {
                let detail = detail
                    .as_ref()
                    .map(|detail| format!(" ({})", clean(detail, MAX_WORDS)));
                let sentence = clean(sentence, MAX_WORDS);
                Some(format!(
                    "The agent leaves it alone, by safety rule {rule}: {sentence}{}.",
                    detail.unwrap_or_default()
                ))
            }
            Some(RepairStanding::Other) | None => None,
        });
        // That stands on the pod, whoever asked.
        let asked = self.facts.heal.as_deref().and_then(Ask::parse);
        lines.extend(asked.map(|ask| {
            format!(
                "istio-cni was asked to enrol it again {}. `meshmedic undo {}` removes the record of that.",
                ago(ask.at, self.now),
                self.pod.display_name()
            )
        }));
        lines
    }

    fn unknown(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        if self.pod.state.is_finding() {
            lines.extend(self.times.hidden().into_iter().map(str::to_owned));
        }
        lines
    }

    fn cause(&self) -> Vec<String> {
        let code = self.pod.state.code().filter(|_| self.pod.state.is_finding());
        let shown = code.iter().flat_map(|_| self.times.shown());
        let shown = shown.map(|line| format!("{line}."));
        let explained = |code| {
            let doctor = format!("meshmedic doctor {}", self.pod.display_name());
            [
                format!("docs/troubleshooting.md explains {code}, and this looks for the cause:"),
                doctor,
            ]
        };
        shown.chain(code.map(explained).into_iter().flatten()).collect()
    }

    /// Words, and a command on a line by itself, which can be copied.
    fn next(&self) -> String {
        let name = self.pod.display_name();
        if self.facts.toggle_restore.is_some() {
            let remedy = remedy(Withheld::Toggling, &name);
            return format!("A toggle of its label was left half done, and this puts it back:\n{remedy}");
        }
        if let Some((why, _)) = self.repair.as_ref().and_then(|item| Some((item.reason?, item))) {
            return remedy(why, &name);
        }
        if self.repair.as_ref().is_some_and(Item::is_kept_from_a_gentler_way) {
            return format!(
                "Let the annotation {STRATEGY} of the pod or its namespace name the gentlest way too, or remove \
                 it; then:\nmeshmedic repair {name} --yes"
            );
        }
        if self.repair.as_ref().is_some_and(|item| item.refused) {
            return remedy(Withheld::DisruptionBudget, &name);
        }
        match (self.pod.state, self.pod.reason) {
            (State::Captured, _) if self.pod.is_unredirected() => format!(
                "Start it anew, so that istio-cni sets its rules again: evict or delete {name} when it suits."
            ),
            (State::Captured, _) => "Nothing.".to_owned(),
            (State::Orphan | State::Partial | State::Stalled, _) => format!("meshmedic repair {name} --yes"),
            (State::Bypassing, _) => {
                "Let the agent of its node heal it in place (--auto-repair): istio-cni writes the \
                                      rules anew, and nothing is restarted."
                    .to_owned()
            }
            (State::Imposter, _) => remedy(Withheld::Imposter, &name),
            (State::Suspect, _) => "Mend its node's ztunnel if that is at fault; then ask again.".to_owned(),
            (State::Pending, _) => {
                "Wait: istio-cni tries again by itself. If it stays so, its log on this node \
                                    says why."
                    .to_owned()
            }
            (State::Exempt, Some(Reason::NotAnnotated)) => {
                "Nothing, unless it belongs into the mesh: then look at the \
                 labels istio.io/dataplane-mode and at the log of istio-cni on its node."
                    .to_owned()
            }
            (State::Exempt, _) => "Nothing.".to_owned(),
            (State::Unverifiable, _) => format!(
                "Run agents, or let a probe read it, which stays in its spec:\nmeshmedic explain {name} --via probe"
            ),
        }
    }
}

/// What a pod's gate means for it.
fn gate(gate: &Gate) -> String {
    let state = match &gate.state {
        GateState::Ahead => "Its gate has not started yet.".to_owned(),
        GateState::Waiting(_) => {
            "It waits in its gate until ztunnel listens: no container after the gate has started.".to_owned()
        }
        GateState::Failed(why) => {
            let why = why.as_deref().map(|why| format!(": {}", clean(why, MAX_WORDS)));
            format!(
                "Its gate waited in vain, and no container after it has started{}.",
                why.unwrap_or_default()
            )
        }
        GateState::Open => "Its gate let its containers start once ztunnel listened.".to_owned(),
    };
    if gate.first {
        state
    } else {
        format!(
            "{state} The gate is not the first init container: what comes before it starts outside the mesh."
        )
    }
}

/// What is said of a pod, as the beginning of a line.
fn said(sentence: &str) -> String {
    let begins = |words: &[&str]| words.iter().any(|word| sentence.starts_with(word));
    if begins(&["fell ", "is ", "has "]) {
        return format!("It {sentence}");
    }
    let mut letters = sentence.chars();
    match letters.next() {
        // ztunnel and istio-cni are names.
        Some(first) if !begins(&["ztunnel", "istio"]) => first.to_uppercase().chain(letters).collect(),
        _ => sentence.to_owned(),
    }
}

/// What helps against a rule, as [`Known::next`] says it.
fn remedy(why: Withheld, name: &str) -> String {
    match why {
        Withheld::NothingRecreates => format!("meshmedic repair {name} --yes --strategy toggle"),
        Withheld::StaticPod => "Move its manifest away and back on its node.".to_owned(),
        Withheld::JobPod => format!("Let it end; or restart it nevertheless:\nmeshmedic repair {name} --yes --repair-jobs"),
        Withheld::UnknownController => {
            "Ask its operator how its pods are restarted, or toggle it.".to_owned()
        }
        Withheld::Imposter => {
            "Change the ports of the application: 15001, 15006 and 15008 are ztunnel's.".to_owned()
        }
        Withheld::NodeFault => {
            "Wait until ztunnel and istio-cni of its node have settled, or mend what is wrong with them: the pod may \
             recover with them.".to_owned()
        }
        Withheld::MeshFault => "Mend istiod first: a new pod would get no identity.".to_owned(),
        Withheld::Cordoned => "Nothing: the pods of its node are about to leave. Or uncordon it.".to_owned(),
        Withheld::Paused => "Ask who paused repairs; `meshmedic resume` ends the pause.".to_owned(),
        Withheld::OptedOutPod | Withheld::OptedOutNamespace => {
            "Restart it yourself, or remove the annotation meshmedic.io/repair.".to_owned()
        }
        Withheld::DisruptionBudget => format!(
            "Scale its owner up, or let its budget allow one disruption; then:\nmeshmedic repair {name} --yes"
        ),
        Withheld::Toggling => format!("meshmedic undo {name} --yes"),
        Withheld::Guessed => "Get the right to read the ConfigMap istio-cni-config.".to_owned(),
        why => format!("See rule {} in docs/repair-safety.md.", why.rule()),
    }
}
