// SPDX-License-Identifier: Apache-2.0
//! Label and field selectors.

use serde_json::Value;

use super::failure::{Failure, Outcome};
use super::object::{list, text};
use super::resources::Resource;

/// What a list or a watch selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Term {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.iter().any(|v| v == value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
        }
    }
}

impl Selector {
    /// Reads the parameters `labelSelector` and `fieldSelector`.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Outcome<Self> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(resource, fields)?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name that is selected, if there is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find_map(|term| match &term.test {
            Test::In(values) if term.key == "metadata.name" => values.first().map(String::as_str),
            _ => None,
        })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let field = |key: &str| text(object, &format!("/{}", key.replace('.', "/")));
        self.labels.iter().all(|term| term.holds(label(&term.key)))
            && self.fields.iter().all(|term| term.holds(Some(field(&term.key))))
    }
}

/// A `LabelSelector` object; `None` selects nothing, an empty one everything.
pub(crate) fn selects(selector: &Value, object: &Value) -> bool {
    if !selector.is_object() {
        return false;
    }
    let label = |key: &str| object["metadata"]["labels"][key].as_str();
    let equal = selector["matchLabels"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| label(key) == value.as_str()));
    equal
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let values = list(expression, "/values").iter();
            let values = values
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let key = text(expression, "/key").to_owned();
            let test = match text(expression, "/operator") {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return false,
            };
            let value = label(&key);
            Term { key, test }.holds(value)
        })
}

fn parse_labels(text: &str) -> Outcome<Vec<Term>> {
    split(text).into_iter().map(parse_label).collect()
}

/// Cuts at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn parse_label(part: &str) -> Outcome<Term> {
    let term = |key: &str, test| Term {
        key: key.trim().to_owned(),
        test,
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, rest)) = part.split_once('(') {
        let values = rest
            .trim_end()
            .strip_suffix(')')
            .ok_or_else(|| unreadable(part))?;
        let values: Vec<_> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = key.split_whitespace();
        return match (words.next(), words.next()) {
            (Some(key), Some("in")) => Ok(term(key, Test::In(values))),
            (Some(key), Some("notin")) => Ok(term(key, Test::NotIn(values))),
            _ => Err(unreadable(part)),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(term(key, Test::NotIn(one(value))));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(term(key, Test::In(one(value))));
    }
    if part.contains(char::is_whitespace) {
        return Err(unreadable(part));
    }
    Ok(match part.strip_prefix('!') {
        Some(key) => term(key, Test::Absent),
        None => term(part, Test::Exists),
    })
}

fn unreadable(part: &str) -> Failure {
    Failure::bad_request(format!("unable to parse requirement: {part}"))
}

fn parse_fields(resource: &Resource, text: &str) -> Outcome<Vec<Term>> {
    let mut terms = Vec::new();
    for part in split(text) {
        let term = match parse_label(part)? {
            term @ Term {
                test: Test::In(_) | Test::NotIn(_),
                ..
            } => term,
            _ => return Err(Failure::bad_request(format!("invalid selector: '{part}'"))),
        };
        let known: &[&str] = match resource.plural {
            "pods" => &[
                "spec.nodeName",
                "status.phase",
                "status.podIP",
                "spec.serviceAccountName",
                "spec.hostNetwork",
            ],
            "events" => &[
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.uid",
                "regarding.kind",
                "regarding.name",
                "regarding.namespace",
                "regarding.uid",
                "reason",
                "type",
            ],
            "namespaces" => &["status.phase"],
            "nodes" => &["spec.unschedulable"],
            _ => &[],
        };
        if term.key != "metadata.name"
            && term.key != "metadata.namespace"
            && !known.contains(&term.key.as_str())
        {
            let message = format!("field label not supported: {}", term.key);
            return Err(Failure::bad_request(message));
        }
        terms.push(term);
    }
    Ok(terms)
}
