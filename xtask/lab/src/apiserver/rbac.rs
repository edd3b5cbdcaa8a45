// SPDX-License-Identifier: Apache-2.0
//! Who may do what.

use serde_json::{Value, json};

use super::failure::Failure;
use super::object::{list, meta, text};
use super::resources::{find, known};
use super::store::{Key, Store, of};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With its subresource, if any: `pods/eviction`.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Finds the user of a bearer token: `admin`, `admin:<name>`, or `sa:<namespace>:<name>` of a ServiceAccount that exists.
pub(crate) fn authenticate(store: &Store, token: &str) -> Option<User> {
    let group = |name: &str| name.to_owned();
    let authenticated = group("system:authenticated");
    let mut words = token.splitn(3, ':');
    match (words.next()?, words.next(), words.next()) {
        ("admin", name, None) => Some(User {
            name: name.unwrap_or("kubernetes-admin").to_owned(),
            groups: vec![group(MASTERS), authenticated],
        }),
        ("admin", Some(first), Some(rest)) => Some(User {
            name: format!("{first}:{rest}"),
            groups: vec![group(MASTERS), authenticated],
        }),
        ("sa", Some(namespace), Some(name)) => {
            store.get(&Key::new(known("serviceaccounts"), namespace, name))?;
            Some(User {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    group("system:serviceaccounts"),
                    format!("system:serviceaccounts:{namespace}"),
                    authenticated,
                ],
            })
        }
        _ => None,
    }
}

impl User {
    fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    fn is_subject(&self, binding: &Value) -> bool {
        list(binding, "/subjects").iter().any(|subject| {
            let name = text(subject, "/name");
            match text(subject, "/kind") {
                "User" => name == self.name,
                "Group" => self.groups.iter().any(|group| group == name),
                "ServiceAccount" => {
                    self.name == format!("system:serviceaccount:{}:{name}", text(subject, "/namespace"))
                }
                _ => false,
            }
        })
    }
}

/// Whether a user may.
pub(crate) fn allows(store: &Store, user: &User, asked: &Attributes) -> bool {
    if user.is_master() {
        return true;
    }
    // What `system:basic-user` gives to everybody.
    if asked.group == "authorization.k8s.io" && asked.resource.starts_with("selfsubject") {
        return true;
    }
    let bindings = of(store.objects(), known("clusterrolebindings"), None);
    let local = of(store.objects(), known("rolebindings"), Some(&asked.namespace));
    bindings
        .chain(local.filter(|_| !asked.namespace.is_empty()))
        .filter(|(_, binding)| user.is_subject(binding))
        .any(|(key, binding)| {
            let role = text(binding, "/roleRef/name");
            let key = match text(binding, "/roleRef/kind") {
                "Role" => Key::new(known("roles"), &key.namespace, role),
                _ => Key::new(known("clusterroles"), "", role),
            };
            let rules = store.get(&key).map(|role| list(role, "/rules"));
            rules.is_some_and(|rules| rules.iter().any(|rule| grants(rule, asked)))
        })
}

fn grants(rule: &Value, asked: &Attributes) -> bool {
    let has = |field: &str, wanted: &[&str]| {
        list(rule, field)
            .iter()
            .filter_map(Value::as_str)
            .any(|value| value == "*" || wanted.contains(&value))
    };
    let below = asked
        .resource
        .split_once('/')
        .map(|(_, below)| format!("*/{below}"));
    let named = list(rule, "/resourceNames");
    has("/verbs", &[&asked.verb])
        && has("/apiGroups", &[&asked.group])
        && has(
            "/resources",
            &[&asked.resource, below.as_deref().unwrap_or(&asked.resource)],
        )
        && (named.is_empty() || named.iter().any(|name| name == asked.name.as_str()))
}

/// What a user is told who may not.
pub(crate) fn denial(user: &str, asked: &Attributes) -> Failure {
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let why = format!(
        "User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
        asked.verb, asked.resource, asked.group
    );
    let plural = asked.resource.split('/').next().unwrap_or_default();
    let resource = find(&asked.group, "v1", plural).unwrap_or_else(|| known("pods"));
    Failure::forbidden(resource, &asked.name, &why)
}

/// Answers a SelfSubjectAccessReview.
pub(crate) fn review(store: &Store, user: &User, review: &Value) -> Value {
    let spec = &review["spec"];
    let field = |name: &str| text(spec, &format!("/resourceAttributes/{name}")).to_owned();
    let resource = match field("subresource") {
        below if below.is_empty() => field("resource"),
        below => format!("{}/{below}", field("resource")),
    };
    let allowed = if spec.get("nonResourceAttributes").is_some_and(Value::is_object) {
        user.is_master()
    } else {
        let asked = Attributes {
            verb: field("verb"),
            group: field("group"),
            resource,
            namespace: field("namespace"),
            name: field("name"),
        };
        allows(store, user, &asked)
    };
    json!({
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": { "creationTimestamp": null, "name": meta(review, "name") },
        "spec": spec,
        "status": { "allowed": allowed },
    })
}
