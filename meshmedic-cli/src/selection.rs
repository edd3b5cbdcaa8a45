// SPDX-License-Identifier: Apache-2.0
//! Which pods a command is about, and what the API says of them.

mod listing;
mod mesh;

use std::collections::BTreeSet;

use crate::exit::Usage;

pub(crate) use listing::{Selected, Target, again, is_there, list, no_pod, of_node, select};
pub(crate) use mesh::{Mesh, claimants};

/// Which pods; flattened into every command that takes some.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Pods")]
pub(crate) struct SelectionArgs {
    /// Only the pods of this namespace [default: all namespaces]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// The pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only pods with these labels, such as app=cart,tier!=db
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only the pods of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// These pods: NAME, in the namespace of -n or of the context, or NAMESPACE/NAME
    #[arg(value_name = "POD", conflicts_with_all = ["all_namespaces", "selector", "node"])]
    pods: Vec<String>,
}

/// Where the pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In all namespaces.
    Cluster,
    /// In one.
    Namespace(String),
    /// These, by namespace and name.
    Pods(BTreeSet<(String, String)>),
}

/// Pods that were asked for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) scope: Scope,
    pub(crate) labels: Option<String>,
    pub(crate) node: Option<String>,
}

/// The longest name that Kubernetes gives to a pod, and to a namespace.
const LONGEST_POD: usize = 253;
const LONGEST_NAMESPACE: usize = 63;

impl SelectionArgs {
    /// These pods, or all of a namespace, or of all.
    pub(crate) fn of(namespace: Option<String>, pods: Vec<String>) -> Self {
        Self {
            namespace,
            pods,
            ..Self::default()
        }
    }

    /// Checks what was asked for. `default_namespace` is the context's; it holds for pods that are named.
    pub(crate) fn check(&self, default_namespace: &str) -> Result<Selection, Usage> {
        if let Some(namespace) = &self.namespace {
            check_name("-n", namespace, LONGEST_NAMESPACE)?;
        }
        if let Some(node) = &self.node {
            check_name("--node", node, LONGEST_POD)?;
        }
        if let Some(labels) = self.selector.as_ref().filter(|labels| labels.trim().is_empty()) {
            return Err(Usage(format!(
                "-l {labels:?} selects nothing: write for example -l app=cart"
            )));
        }
        let scope = if !self.pods.is_empty() {
            let namespace = self.namespace.as_deref();
            let named = self
                .pods
                .iter()
                .map(|pod| named(pod, namespace, default_namespace));
            Scope::Pods(named.collect::<Result<_, _>>()?)
        } else if let Some(namespace) = &self.namespace {
            Scope::Namespace(namespace.clone())
        } else {
            Scope::Cluster
        };
        Ok(Selection {
            scope,
            labels: self.selector.clone(),
            node: self.node.clone(),
        })
    }
}

impl Selection {
    /// Every pod there is.
    pub(crate) const fn cluster() -> Self {
        Self {
            scope: Scope::Cluster,
            labels: None,
            node: None,
        }
    }

    /// Whether somebody named a namespace or pods, so that what stays behind in these pods is meant.
    pub(crate) fn is_named(&self) -> bool {
        self.scope != Scope::Cluster
    }

    /// Whether pods were named one by one.
    pub(crate) fn names_pods(&self) -> bool {
        matches!(self.scope, Scope::Pods(_))
    }
}

/// One pod that was named, and its namespace and name.
pub(crate) fn one(
    pod: &str,
    namespace: Option<&str>,
    default_namespace: &str,
) -> Result<(Selection, (String, String)), Usage> {
    let key = named(pod, namespace, default_namespace)?;
    let selection = Selection {
        scope: Scope::Pods(BTreeSet::from([key.clone()])),
        labels: None,
        node: None,
    };
    Ok((selection, key))
}

fn named(pod: &str, namespace: Option<&str>, default: &str) -> Result<(String, String), Usage> {
    let (namespace, name) = match (pod.split_once('/'), namespace) {
        (Some((of_pod, _)), Some(given)) if of_pod != given => {
            return Err(Usage(format!("{pod} is not in namespace {given} (-n)")));
        }
        (Some((of_pod, name)), _) => (of_pod, name),
        (None, given) => (given.unwrap_or(default), pod),
    };
    check_name("POD", namespace, LONGEST_NAMESPACE)?;
    check_name("POD", name, LONGEST_POD)?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// A name goes into a path, so it must be one that Kubernetes gives.
fn check_name(argument: &str, name: &str, longest: usize) -> Result<(), Usage> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let (first, last) = (name.bytes().next(), name.bytes().last());
    if name.len() <= longest && name.bytes().all(fits) && edge(first) && edge(last) {
        Ok(())
    } else {
        Err(Usage(format!(
            "{argument}: {name:?} is no name that Kubernetes gives: lower-case letters, digits, - and ."
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pods: &[&str], namespace: Option<&str>) -> SelectionArgs {
        SelectionArgs {
            namespace: namespace.map(str::to_owned),
            pods: pods.iter().map(|&pod| pod.to_owned()).collect(),
            ..SelectionArgs::default()
        }
    }

    fn pods(names: &[(&str, &str)]) -> Scope {
        let owned = |&(namespace, name): &(&str, &str)| (namespace.to_owned(), name.to_owned());
        Scope::Pods(names.iter().map(owned).collect())
    }

    #[test]
    fn without_a_word_it_is_the_whole_cluster() {
        let selection = args(&[], None).check("shop").unwrap();
        assert_eq!(selection.scope, Scope::Cluster);
        assert!(!selection.is_named());
        let selection = args(&[], Some("shop")).check("default").unwrap();
        assert_eq!(selection.scope, Scope::Namespace("shop".to_owned()));
        assert!(selection.is_named());
    }

    #[test]
    fn a_pod_is_in_the_namespace_that_is_said_first() {
        let cases: &[(&[&str], Option<&str>, Scope)] = &[
            (&["cart"], None, pods(&[("shop", "cart")])),
            (&["cart"], Some("pay"), pods(&[("pay", "cart")])),
            (
                &["pay/cart", "cart", "cart"],
                None,
                pods(&[("pay", "cart"), ("shop", "cart")]),
            ),
            (&["pay/cart"], Some("pay"), pods(&[("pay", "cart")])),
        ];
        for (names, namespace, scope) in cases {
            assert_eq!(
                &args(names, *namespace).check("shop").unwrap().scope,
                scope,
                "{names:?}"
            );
        }
    }

    #[test]
    fn what_kubernetes_never_named_is_refused() {
        for name in [
            "",
            "a\"b",
            "a'b",
            "Cart",
            "a/b/c",
            "/a",
            "a/",
            "-a",
            "a%2fb",
            "ž",
            &"a".repeat(254),
        ] {
            assert!(args(&[name], None).check("shop").is_err(), "{name}");
        }
        assert!(args(&["pay/cart"], Some("shop")).check("shop").is_err());
        assert!(args(&[], Some("a/b")).check("shop").is_err());
    }
}
