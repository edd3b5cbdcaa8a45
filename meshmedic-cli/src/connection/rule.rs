// SPDX-License-Identifier: Apache-2.0
//! The rule that is missing, read from how the API server says no.

use std::fmt::Write as _;

/// What somebody may not do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Rule {
    pub(super) user: String,
    pub(super) verb: String,
    pub(super) resource: String,
    pub(super) group: String,
    /// None at the scope of the cluster.
    pub(super) namespace: Option<String>,
}

impl Rule {
    /// Reads `… is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "shop"`, which
    /// every API server says; an admission webhook says something else.
    pub(super) fn parse(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("User \"")?;
        let (user, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest.split_once("in the namespace \"");
        let namespace = namespace
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(name, _)| name);
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase());
        is_word(verb).then(|| Self {
            user: user.to_owned(),
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            group: group.to_owned(),
            namespace: namespace.map(str::to_owned),
        })
    }

    /// The rule to add, as it stands in a manifest, and where it goes.
    pub(crate) fn manifest(&self) -> String {
        let mut text = String::new();
        let place = match &self.namespace {
            Some(namespace) => format!("a Role in namespace {namespace}, or a ClusterRole"),
            None => "a ClusterRole".to_owned(),
        };
        let Self {
            group,
            resource,
            verb,
            user,
            ..
        } = self;
        let _ = write!(
            text,
            "{user} needs this rule in {place}:\n  - apiGroups: [\"{group}\"]\n    resources: [{resource}]\n    \
             verbs: [{verb}]"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_read_from_what_the_server_says() {
        let rule = Rule::parse(
            "pods \"cart\" is forbidden: User \"system:serviceaccount:ops:ann\" cannot create resource \"pods/exec\" \
             in API group \"\" in the namespace \"shop\"",
        );
        let rule = rule.unwrap();
        assert_eq!(
            rule.manifest(),
            "system:serviceaccount:ops:ann needs this rule in a Role in namespace shop, or a ClusterRole:\n  \
             - apiGroups: [\"\"]\n    resources: [pods/exec]\n    verbs: [create]"
        );
        let rule = Rule::parse(
            "daemonsets.apps is forbidden: User \"ann\" cannot list resource \"daemonsets\" in API group \"apps\" at \
             the cluster scope: RBAC: clusterrole \"x\" not found",
        );
        let rule = rule.unwrap();
        assert_eq!((rule.group.as_str(), rule.namespace.as_deref()), ("apps", None));
    }

    #[test]
    fn other_words_give_no_rule() {
        for text in [
            "",
            "admission webhook \"deny.example\" denied the request: no exec here",
            "User \"a\" cannot",
            "User \"a\" cannot do very bad things resource \"b\" in API group \"c\"",
        ] {
            assert_eq!(Rule::parse(text), None, "{text}");
        }
    }
}
