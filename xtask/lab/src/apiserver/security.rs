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

fn judge(added: &[Judged<'_>], restricted: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |rule: &str, who: &str, bad: &dyn Fn(&Judged<'_>) -> bool, what: &str| {
        let names: Vec<_> = added
            .iter()
            .filter(|one| bad(one))
            .map(|one| format!("\"{}\"", text(one.own, "/name")))
            .collect();
        if !names.is_empty() {
            let s = if names.len() > 1 { "s" } else { "" };
            found.push(format!("{rule} ({who}{s} {} {what})", names.join(", ")));
        }
    };
    say(
        "privileged",
        "container",
        &|one| one.own["securityContext"]["privileged"] == true,
        "must not set securityContext.privileged=true",
    );
    if !restricted {
        for capability in extra(added, &DEFAULT) {
            say(
                "non-default capabilities",
                "container",
                &|one| one.adds().any(|other| other == capability),
                &format!("must not include \"{capability}\" in securityContext.capabilities.add"),
            );
        }
        return found;
    }
    say(
        "allowPrivilegeEscalation != false",
        "container",
        &|one| one.own["securityContext"]["allowPrivilegeEscalation"] != false,
        "must set securityContext.allowPrivilegeEscalation=false",
    );
    say(
        "unrestricted capabilities",
        "container",
        &|one| {
            let dropped = list(one.own, "/securityContext/capabilities/drop");
            !dropped.iter().any(|capability| capability == "ALL")
        },
        "must set securityContext.capabilities.drop=[\"ALL\"]",
    );
    for capability in extra(added, &[BIND]) {
        say(
            "unrestricted capabilities",
            "container",
            &|one| one.adds().any(|other| other == capability),
            &format!("must not include \"{capability}\" in securityContext.capabilities.add"),
        );
    }
    say(
        "runAsNonRoot != true",
        "pod or container",
        &|one| one.setting("runAsNonRoot") != true,
        "must set securityContext.runAsNonRoot=true",
    );
    say(
        "runAsUser=0",
        "container",
        &|one| one.setting("runAsUser") == 0,
        "must not set runAsUser=0",
    );
    say(
        "seccompProfile",
        "pod or container",
        &|one| {
            let profile = text(one.setting("seccompProfile"), "/type");
            !matches!(profile, "RuntimeDefault" | "Localhost")
        },
        "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
    );
    found
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
