// SPDX-License-Identifier: Apache-2.0
//! Why a cluster did not answer, and what to do about it.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use anyhow::anyhow;
use kube::core::Status;
use meshmedic_common::duration;
use meshmedic_common::text::clean;

use super::rule::Rule;

/// How much of what others say is kept.
const MAX_WORDS: usize = 400;

/// A question that had no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was asked, such as `listing pods in namespace shop`.
    what: String,
    /// Why it failed and what to do.
    why: String,
    /// The answer's status; none where there was no answer.
    code: Option<u16>,
    rule: Option<Box<Rule>>,
}

impl Failure {
    pub(super) fn new(what: &str, server: &str, error: kube::Error) -> Self {
        let (code, rule) = match &error {
            kube::Error::Api(status) => (Some(status.code), Rule::parse(&status.message).map(Box::new)),
            _ => (None, None),
        };
        Self {
            what: what.to_owned(),
            why: reason(&error, server),
            code,
            rule,
        }
    }

    pub(super) fn silent(what: &str, server: &str, timeout: Duration) -> Self {
        Self {
            what: what.to_owned(),
            why: format!(
                "{server} gave no answer within {}: is it overloaded? --request-timeout gives it longer",
                duration::show(timeout)
            ),
            code: None,
            rule: None,
        }
    }

    /// Whether the object, or its namespace, is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Some(404)
    }

    /// Whether whoever asks may not.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code == Some(403)
    }

    /// Whether the object changed meanwhile, or is there already.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }

    /// Whether a list cannot be continued because its snapshot is too old.
    pub(crate) fn is_expired(&self) -> bool {
        self.code == Some(410)
    }

    /// What whoever asks needs to be allowed: the rule where the server named it, else its words.
    pub(crate) fn missing_right(&self) -> String {
        match &self.rule {
            Some(rule) => rule.manifest(),
            None => self.why.clone(),
        }
    }

    /// The same in one line, without what was asked; a rule that is missing is named, not spelled out.
    pub(crate) fn short(&self) -> String {
        match &self.rule {
            Some(rule) => format!("{} may not {} {}", rule.user, rule.verb, rule.resource),
            None => self.why.clone(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for Failure {}

/// Whether the server was too busy to look at the question.
pub(super) fn is_busy(status: &Status) -> bool {
    matches!(status.code, 429 | 503 | 504)
}

/// An error of the API for people: the object, and the next step.
pub(crate) fn explain(error: &kube::Error, server: &str) -> anyhow::Error {
    anyhow!("{}", reason(error, server))
}

/// What the API says when it refuses, with the rule that would allow it.
pub(crate) fn refusal(status: &Status) -> String {
    let message = clean(&status.message, MAX_WORDS);
    match status.code {
        401 => {
            "the API server does not know these credentials (401): log in again, or choose another --user or \
                --context"
                .to_owned()
        }
        403 => match Rule::parse(&message) {
            Some(rule) => format!("forbidden: {}", rule.manifest()),
            None => format!("forbidden: {message}"),
        },
        _ if message.is_empty() => format!(
            "refused with {} {}",
            status.code,
            clean(&status.reason, MAX_WORDS)
        ),
        _ => message,
    }
}

fn reason(error: &kube::Error, server: &str) -> String {
    if let kube::Error::Api(status) = error {
        return refusal(status);
    }
    let mut causes = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !causes.contains(&text) {
            causes = format!("{causes}: {text}");
        }
        source = cause.source();
    }
    // By which of our own layers it came says nothing.
    for layer in [
        "ServiceError: ",
        "client error (Connect): ",
        "tcp connect error: ",
    ] {
        causes = causes.strip_prefix(layer).unwrap_or(&causes).to_owned();
    }
    let causes = clean(&causes, MAX_WORDS);
    let has = |words: &[&str]| words.iter().any(|word| causes.contains(word));
    if matches!(error, kube::Error::Auth(_)) || has(&["auth exec", "auth error"]) {
        return format!(
            "the credentials cannot be had: {causes}. Does the plugin that the kubeconfig names work?"
        );
    }
    if has(&["CertificateExpired", "certificate expired"]) && has(&["received fatal alert"]) {
        return format!(
            "{server} says that your certificate has expired: renew it in the kubeconfig ({causes})"
        );
    }
    if has(&["certificate expired", "Expired"]) {
        return format!("the certificate of {server} has expired: renew it there ({causes})");
    }
    if has(&["UnknownIssuer", "NotValidForName", "invalid peer certificate"]) {
        return format!(
            "the certificate of {server} is not the one that the kubeconfig expects ({causes}): is it the right \
             cluster, and is certificate-authority-data up to date?"
        );
    }
    if has(&["dns error", "failed to lookup"]) {
        return format!(
            "the name in {server} is not known here ({causes}): is it the right context, is a VPN needed?"
        );
    }
    if has(&[
        "Connection refused",
        "timed out",
        "unreachable",
        "deadline has elapsed",
        "Connect",
    ]) {
        return format!(
            "{server} cannot be reached ({causes}): is it running, is it the right context, is a VPN needed?"
        );
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, "Reason").with_code(code).boxed())
    }

    #[test]
    fn each_refusal_names_the_next_step() {
        let forbidden = "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" at the \
                         cluster scope";
        for (error, words) in [
            (status(401, "Unauthorized"), &["401", "--context"][..]),
            (
                status(403, forbidden),
                &["ann needs this rule", "resources: [pods]", "verbs: [list]"],
            ),
            (
                status(403, "denied by \u{1b}[2Ja webhook"),
                &["forbidden: denied by  [2Ja webhook"],
            ),
            (status(500, "etcdserver: no leader"), &["etcdserver: no leader"]),
            (status(500, ""), &["refused with 500 Reason"]),
        ] {
            let failure = Failure::new("listing pods", "https://lab", error);
            for word in words {
                assert!(failure.to_string().contains(word), "{word}: {failure}");
            }
        }
    }

    #[test]
    fn a_connection_that_fails_says_whose_fault_it_is() {
        for (cause, word) in [
            ("invalid peer certificate: Expired", "has expired: renew it there"),
            (
                "received fatal alert: CertificateExpired",
                "your certificate has expired",
            ),
            (
                "invalid peer certificate: UnknownIssuer",
                "certificate-authority-data",
            ),
            ("dns error: failed to lookup address", "is not known here"),
            ("Connection refused (os error 111)", "cannot be reached"),
        ] {
            let error = kube::Error::Service(cause.into());
            let text = explain(&error, "https://lab").to_string();
            assert!(
                text.contains(word) && text.contains("https://lab"),
                "{cause}: {text}"
            );
        }
    }
}
