// SPDX-License-Identifier: Apache-2.0
//! Pod Security, as far as ephemeral containers are concerned: the level that a namespace's label enforces.

use serde_json::Value;

use super::failure::{Failure, Outcome};
use super::object::{list, meta, text};
use super::resources::known;
use super::store::{Key, Store};

/// The label.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Which edition of the levels.
const VERSION: &str = "pod-security.kubernetes.io/enforce-version";
/// The capabilities that `baseline` leaves to be added.
const DEFAULT: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// The only one that `restricted` leaves.
const BIND: &str = "NET_BIND_SERVICE";

/// One container, and the pod that it is in.
struct Judged<'a> {
    pod: &'a Value,
    own: &'a Value,
}

/// Refuses ephemeral containers that the namespace does not allow.
///
/// The real one judges the pod's other containers along; here they are taken for good, since nobody judged them when
/// the pod was made.
pub(crate) fn admit(store: &Store, old: &Value, new: &Value) -> Outcome<()> {
    let namespace = store.get(&Key::new(known("namespaces"), "", meta(new, "namespace")));
    let Some(namespace) = namespace else { return Ok(()) };
    let label = |label: &str| {
        namespace["metadata"]["labels"][label]
            .as_str()
            .unwrap_or_default()
    };
    let level = label(ENFORCE);
    let restricted = match level {
        "restricted" => true,
        "baseline" => false,
        _ => return Ok(()),
    };
    let before = list(old, "/spec/ephemeralContainers");
    let added: Vec<_> = list(new, "/spec/ephemeralContainers")
        .iter()
        .filter(|container| !before.contains(container))
        .map(|own| Judged { pod: new, own })
        .collect();
    let found = judge(&added, restricted);
    if found.is_empty() {
        return Ok(());
    }
    let version = match label(VERSION) {
        "" => "latest",
        version => version,
    };
    let why = format!("violates PodSecurity \"{level}:{version}\": {}", found.join(", "));
    Err(Failure::forbidden(known("pods"), meta(new, "name"), &why))
}

/// The rules that are broken, in the order and the words of the real one.
fn judge(added: &[Judged<'_>], restricted: bool) -> Vec<String> {
    let names = |bad: &dyn Fn(&Judged<'_>) -> bool| {
        let bad = added.iter().filter(|one| bad(one));
        bad.map(|one| text(one.own, "/name")).collect::<Vec<_>>()
    };
    let part = |who: &str, bad: &dyn Fn(&Judged<'_>) -> bool, what: &str| {
        let names = names(bad);
        let s = if names.len() > 1 { "s" } else { "" };
        (!names.is_empty()).then(|| format!("{who}{s} {} {what}", quoted(&names)))
    };
    let adds = |allowed: &[&str]| {
        let extra = extra(added, allowed);
        let what = format!(
            "must not include {} in securityContext.capabilities.add",
            quoted(&extra)
        );
        part(
            "container",
            &|one| one.adds().any(|capability| extra.contains(&capability)),
            &what,
        )
    };
    let privileged = part(
        "container",
        &|one| one.own["securityContext"]["privileged"] == true,
        "must not set securityContext.privileged=true",
    );
    if !restricted {
        return rules([
            ("non-default capabilities", adds(&DEFAULT)),
            ("privileged", privileged),
        ]);
    }
    let escalates = part(
        "container",
        &|one| one.own["securityContext"]["allowPrivilegeEscalation"] != false,
        "must set securityContext.allowPrivilegeEscalation=false",
    );
    let keeps = part(
        "container",
        &|one| {
            let dropped = list(one.own, "/securityContext/capabilities/drop");
            !dropped.iter().any(|capability| capability == "ALL")
        },
        "must set securityContext.capabilities.drop=[\"ALL\"]",
    );
    let capabilities: Vec<_> = keeps.into_iter().chain(adds(&[BIND])).collect();
    let root = part(
        "pod or container",
        &|one| one.setting("runAsNonRoot") != true,
        "must set securityContext.runAsNonRoot=true",
    );
    let zero = part(
        "container",
        &|one| one.setting("runAsUser") == 0,
        "must not set runAsUser=0",
    );
    let seccomp = part(
        "pod or container",
        &|one| {
            let profile = text(one.setting("seccompProfile"), "/type");
            !matches!(profile, "RuntimeDefault" | "Localhost")
        },
        "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
    );
    rules([
        ("privileged", privileged),
        ("allowPrivilegeEscalation != false", escalates),
        (
            "unrestricted capabilities",
            (!capabilities.is_empty()).then(|| capabilities.join("; ")),
        ),
        ("runAsNonRoot != true", root),
        ("runAsUser=0", zero),
        ("seccompProfile", seccomp),
    ])
}

fn rules<const COUNT: usize>(rules: [(&str, Option<String>); COUNT]) -> Vec<String> {
    let broken = rules.into_iter();
    broken
        .filter_map(|(rule, how)| Some(format!("{rule} ({})", how?)))
        .collect()
}

fn quoted(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

/// The capabilities that are added beyond these, each once.
fn extra<'a>(added: &'a [Judged<'_>], allowed: &[&str]) -> Vec<&'a str> {
    let mut all: Vec<_> = added
        .iter()
        .flat_map(Judged::adds)
        .filter(|capability| !allowed.contains(capability))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Judged<'_> {
    fn adds(&self) -> impl Iterator<Item = &str> {
        let added = list(self.own, "/securityContext/capabilities/add").iter();
        added.filter_map(Value::as_str)
    }

    /// A setting of the container, or else of its pod.
    fn setting(&self, field: &str) -> &Value {
        let own = &self.own["securityContext"][field];
        if own.is_null() {
            &self.pod["spec"]["securityContext"][field]
        } else {
            own
        }
    }
}
