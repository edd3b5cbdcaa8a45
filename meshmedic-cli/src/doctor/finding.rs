// SPDX-License-Identifier: Apache-2.0
//! What a check finds: on what, why we think so, what it does, and what helps.

use std::collections::BTreeSet;
use std::fmt;

use meshmedic_common::text::clean;
use serde::{Serialize, Serializer};

use super::command::Command;

/// The most that is kept of one sentence. What stands in objects and logs was written by others.
const MAX_WORDS: usize = 600;
/// Patches are ours, but name what others named.
const MAX_PATCH: usize = 16 * 1024;
/// What is shown of a name that is none.
const MAX_SPOILED: usize = 60;
/// The line that ends the here-document in which objects are printed.
pub(crate) const HERE_DOCUMENT_ENDS: &str = "EOF";

/// An object of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectRef {
    pub(crate) kind: String,
    /// None where it belongs to no namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl ObjectRef {
    pub(crate) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: clean(kind, MAX_WORDS),
            namespace: Some(clean(namespace, MAX_WORDS)),
            name: clean(name, MAX_WORDS),
        }
    }

    /// One that belongs to no namespace.
    pub(crate) fn cluster(kind: &str, name: &str) -> Self {
        Self {
            namespace: None,
            ..Self::new(kind, "", name)
        }
    }

    /// `namespace/name`, or the name alone.
    pub(crate) fn path(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) object: ObjectRef,
    /// What made it, where findings on many of its pods are to be counted together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workload: Option<ObjectRef>,
    /// What is wrong, without the object's name: findings of one check that say the same fold into one.
    pub(crate) problem: String,
    /// What shows it: the field, the rule, the log line with its count.
    pub(crate) evidence: Vec<String>,
    /// What it does to people's traffic, in plain words.
    pub(crate) effect: String,
    /// Whom it keeps from reaching whom, where that is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cuts: Vec<Cut>,
    /// What helps, step by step.
    pub(crate) remedy: Vec<Remedy>,
}

/// Callers that do not reach something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cut {
    /// What they call.
    pub(crate) to: ObjectRef,
    /// The pods that call, by their places in the snapshot; a program gets their number.
    #[serde(serialize_with = "count")]
    pub(crate) callers: BTreeSet<usize>,
}

fn count<S: Serializer>(callers: &BTreeSet<usize>, to: S) -> Result<S::Ok, S::Error> {
    callers.len().serialize(to)
}

/// A step that helps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Remedy {
    /// Commands, each a list of words.
    Commands(Vec<Command>),
    /// Objects for `kubectl apply -f -`.
    Apply(String),
    /// No command does it, and why, or what a person has to decide.
    ByHand(String),
}

impl Finding {
    /// On this object; `problem` does not name it.
    pub(crate) fn on(object: ObjectRef, problem: impl Into<String>) -> Self {
        Self {
            object,
            workload: None,
            problem: clean(&problem.into(), MAX_WORDS),
            evidence: Vec::new(),
            effect: String::new(),
            cuts: Vec::new(),
            remedy: Vec::new(),
        }
    }

    /// Which workload the object belongs to.
    pub(crate) fn of(mut self, workload: Option<ObjectRef>) -> Self {
        self.workload = workload;
        self
    }

    /// What shows it.
    pub(crate) fn because(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(clean(&evidence.into(), MAX_WORDS));
        self
    }

    /// What it does.
    pub(crate) fn so(mut self, effect: impl Into<String>) -> Self {
        self.effect = clean(&effect.into(), MAX_WORDS);
        self
    }

    /// Whom it cuts off from whom.
    pub(crate) fn cutting(mut self, cuts: impl IntoIterator<Item = Cut>) -> Self {
        self.cuts.extend(cuts);
        self
    }

    /// A command that helps; where a name of others spoiled it, the advice to look at that name.
    pub(crate) fn run(mut self, command: Command) -> Self {
        if let Some(word) = command.spoiled_by() {
            let word = clean(word, MAX_SPOILED);
            return self.by_hand(format!(
                "\"{word}\" is no name that Kubernetes gives, so no command with it is printed: find out who wrote it."
            ));
        }
        if let Some(Remedy::Commands(commands)) = self.remedy.last_mut() {
            commands.push(command);
        } else {
            self.remedy.push(Remedy::Commands(vec![command]));
        }
        self
    }

    /// Objects in YAML that help; where a terminal would not show them as they are, the advice to write them by hand.
    pub(crate) fn apply(mut self, yaml: &str) -> Self {
        let fit = |line: &str| {
            let text = line.trim_start_matches(' ');
            line != HERE_DOCUMENT_ENDS && clean(text, MAX_PATCH) == text.trim_end()
        };
        if !yaml.lines().all(fit) {
            return self.by_hand(
                "The object holds text that is not safe to print, so no patch is printed: find out who wrote it.",
            );
        }
        self.remedy.push(Remedy::Apply(yaml.trim_end().to_owned()));
        self
    }

    /// What a person has to do.
    pub(crate) fn by_hand(mut self, what: impl Into<String>) -> Self {
        self.remedy.push(Remedy::ByHand(clean(&what.into(), MAX_WORDS)));
        self
    }
}
