// SPDX-License-Identifier: Apache-2.0
//! Findings of one check that say the same of many objects, as one.

use std::collections::{BTreeMap, BTreeSet};

use super::command::Command;
use super::finding::{Finding, ObjectRef, Remedy};

/// How much of each list is shown of findings that were folded.
const SHOWN: usize = 4;

/// Findings that say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group<'f> {
    /// On what, in one phrase: the object, or `23 pods of 4 Deployments`.
    pub(crate) subject: String,
    /// The objects, where there are several.
    pub(crate) names: Vec<String>,
    pub(crate) problem: &'f str,
    pub(crate) effect: &'f str,
    pub(crate) evidence: Vec<&'f str>,
    pub(crate) remedy: Vec<Remedy>,
    /// How much was left out of each list.
    pub(crate) left_out: usize,
}

/// Folds them, or where `each` is wanted does not.
pub(crate) fn fold(findings: &[Finding], each: bool) -> Vec<Group<'_>> {
    let mut alike: Vec<Vec<&Finding>> = Vec::new();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for finding in findings {
        let same = (finding.problem.as_str(), finding.effect.as_str());
        match places.get(&same).and_then(|&place| alike.get_mut(place)) {
            Some(group) if !each => group.push(finding),
            _ => {
                places.insert(same, alike.len());
                alike.push(vec![finding]);
            }
        }
    }
    alike.iter().filter_map(|alike| group(alike)).collect()
}

fn group<'f>(alike: &[&'f Finding]) -> Option<Group<'f>> {
    let first = *alike.first()?;
    let several = alike.len() > 1;
    let most = if several { SHOWN } else { usize::MAX };
    let evidence = distinct(
        alike
            .iter()
            .flat_map(|finding| finding.evidence.iter().map(String::as_str)),
    );
    let names = if several {
        distinct(alike.iter().map(|finding| finding.object.path()))
    } else {
        Vec::new()
    };
    let (remedy, dropped) = steps(alike, most);
    Some(Group {
        subject: subject(alike),
        problem: &first.problem,
        effect: &first.effect,
        left_out: [names.len(), evidence.len()]
            .map(|length| length.saturating_sub(most))
            .into_iter()
            .fold(dropped, usize::max),
        names: names.into_iter().take(most).collect(),
        evidence: evidence.into_iter().take(most).collect(),
        remedy,
    })
}

/// Each once, in the order in which they came.
fn distinct<T: Ord + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    all.filter(|one| seen.insert(one.clone())).collect()
}

/// The steps of all, those first that come first; also how many were left out.
fn steps(alike: &[&Finding], most: usize) -> (Vec<Remedy>, usize) {
    let mut merged: Vec<Remedy> = Vec::new();
    let mut dropped = 0;
    let longest = alike
        .iter()
        .map(|finding| finding.remedy.len())
        .max()
        .unwrap_or_default();
    for step in 0..longest {
        let mut commands: Vec<Command> = Vec::new();
        let mut others: Vec<Remedy> = Vec::new();
        for remedy in alike.iter().filter_map(|finding| finding.remedy.get(step)) {
            match remedy {
                Remedy::Commands(more) => commands.extend(more.iter().cloned()),
                other if !others.contains(other) => others.push(other.clone()),
                _ => {}
            }
        }
        let commands = distinct(commands.into_iter());
        dropped = dropped
            .max(commands.len().saturating_sub(most))
            .max(others.len().saturating_sub(most));
        if !commands.is_empty() {
            merged.push(Remedy::Commands(commands.into_iter().take(most).collect()));
        }
        merged.extend(others.into_iter().take(most));
    }
    (merged, dropped)
}

/// `Pod shop/cart`, `3 nodes`, `23 pods of 4 Deployments`.
fn subject(alike: &[&Finding]) -> String {
    let objects: BTreeSet<&ObjectRef> = alike.iter().map(|finding| &finding.object).collect();
    if let (Some(only), 1) = (objects.first(), objects.len()) {
        return only.to_string();
    }
    let workloads: BTreeSet<&ObjectRef> = alike
        .iter()
        .filter_map(|finding| finding.workload.as_ref())
        .collect();
    let mut text = counted(objects.iter().copied());
    if !workloads.is_empty() && workloads.len() < objects.len() {
        let of = match (workloads.first(), workloads.len()) {
            (Some(only), 1) => only.to_string(),
            _ => counted(workloads.iter().copied()),
        };
        text = format!("{text} of {of}");
    }
    text
}

/// `2 Deployments and 1 StatefulSet`.
fn counted<'o>(objects: impl Iterator<Item = &'o ObjectRef>) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for object in objects {
        *kinds.entry(&object.kind).or_default() += 1;
    }
    let words: Vec<String> = kinds.iter().map(|(kind, count)| plural(kind, *count)).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn plural(kind: &str, count: usize) -> String {
    let kind = match kind {
        "Pod" => "pod",
        "Node" => "node",
        "Namespace" => "namespace",
        kind => kind,
    };
    if count == 1 {
        return format!("1 {kind}");
    }
    match kind.strip_suffix('y') {
        Some(stem) if !kind.ends_with("way") => format!("{count} {stem}ies"),
        _ => format!("{count} {kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, of: &str, problem: &str) -> Finding {
        Finding::on(ObjectRef::new("Pod", "shop", name), problem)
            .of(Some(ObjectRef::new("Deployment", "shop", of)))
            .because(format!("seen on {name}"))
            .so("it is lost")
            .run(Command::new("kubectl rollout restart -n shop").path("deployment", of))
    }

    #[test]
    fn equal_findings_are_one_and_their_steps_are_taken_once() {
        let mut findings: Vec<Finding> = (0..23)
            .map(|at| pod(&format!("pod-{at:02}"), &format!("app-{}", at % 4), "lost"))
            .collect();
        findings.push(pod("other", "app-0", "lost otherwise"));
        let groups = fold(&findings, false);
        let subjects: Vec<&str> = groups.iter().map(|group| group.subject.as_str()).collect();
        assert_eq!(subjects, ["23 pods of 4 Deployments", "Pod shop/other"]);
        let first = &groups[0];
        let Remedy::Commands(commands) = &first.remedy[0] else {
            panic!("{first:?}")
        };
        assert_eq!(commands.len(), 4, "{first:?}");
        assert_eq!(
            (first.names.len(), first.evidence.len(), first.left_out),
            (4, 4, 19)
        );
        assert_eq!(fold(&findings, true).len(), 24);
        assert_eq!(fold(&[], false), []);
    }

    #[test]
    fn several_kinds_are_counted_apart() {
        let on = |kind: &str, name: &str| Finding::on(ObjectRef::new(kind, "shop", name), "p").so("e");
        let findings = [
            on("NetworkPolicy", "a"),
            on("NetworkPolicy", "b"),
            on("Gateway", "c"),
            on("Gateway", "d"),
        ];
        assert_eq!(
            fold(&findings, false)[0].subject,
            "2 Gateways and 2 NetworkPolicies"
        );
    }
}
