// SPDX-License-Identifier: Apache-2.0
//! What MeshMedic says of a pod, and why.

/// Gives a field-less enum its stable names: one for JSON, metrics and tables, one sentence for people.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal, $sentence:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::serde::Serialize, ::serde::Deserialize)]
        $vis enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// Every value, in the order in which it is shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name: in JSON, in metric labels, in tables.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use named;

named! {
    /// The state of a pod. There is no other, and each pod is in exactly one.
    pub enum State {
        /// 15001, 15006 and 15008 listen on the wildcard address.
        Captured = "captured", "ztunnel's listeners are there";
        /// One source said otherwise; not confirmed, or confirmation is suspended.
        Suspect = "suspect", "listeners are missing, not confirmed yet";
        /// Every reading across the confirmation found none of the three.
        Orphan = "orphan", "fell out of the mesh: none of ztunnel's listeners is there";
        /// Every reading across the confirmation found some of the three.
        Partial = "partial", "only some of ztunnel's listeners are there";
        /// The three listen, but they are not ztunnel's.
        Imposter = "imposter", "another process holds the capture ports";
        /// The three listen for ztunnel, and nothing leads the pod's traffic to them.
        Bypassing = "bypassing", "ztunnel listens, but no redirection rules lead there: its traffic bypasses the mesh";
        /// istio-cni is still trying.
        Pending = "pending", "istio-cni is still trying to enrol it";
        /// istio-cni has been trying for too long, and nothing of ztunnel's is there.
        Stalled = "stalled", "is pending for too long: istio-cni is still trying to enrol it, and none of ztunnel's listeners is there";
        /// Not expected to be captured.
        Exempt = "exempt", "not expected to be captured";
        /// Expected to be captured, but it cannot be read.
        Unverifiable = "unverifiable", "it cannot be read";
    }
}

impl State {
    /// Whether the state is a finding: exit code 1, and in the original's list of orphans.
    #[must_use]
    pub const fn is_finding(self) -> bool {
        matches!(
            self,
            Self::Orphan | Self::Partial | Self::Imposter | Self::Bypassing | Self::Stalled
        )
    }

    /// Whether nothing is to be checked in a pod in this state, for now or at all.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Exempt | Self::Pending)
    }

    /// Whether ztunnel holds the listeners of a pod in this state.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Captured | Self::Bypassing)
    }

    /// Whether listeners are missing in a pod in this state, confirmed or not.
    #[must_use]
    pub const fn lacks_listeners(self) -> bool {
        matches!(self, Self::Suspect | Self::Orphan | Self::Partial | Self::Stalled)
    }

    /// Whether a pod in this state may be out of the mesh, confirmed or not.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Suspect) || self.is_finding()
    }
}

/// Fewer orphans than this are never a mass loss.
const MASS_LOSS_LEAST: usize = 5;
/// From this share of the expected pods on, in percent, a loss is a mass loss.
const MASS_LOSS_PERCENT: usize = 80;

/// Whether so many orphans, of so many pods that should be captured, are a mass loss.
#[must_use]
pub const fn is_mass_loss(orphans: usize, expected: usize) -> bool {
    orphans >= MASS_LOSS_LEAST && orphans * 100 >= expected * MASS_LOSS_PERCENT
}

impl State {
    /// The code under which `meshmedic doctor` and the guide to troubleshooting explain a finding.
    #[must_use]
    pub const fn code(self) -> Option<&'static str> {
        match self {
            Self::Orphan => Some("MM0401"),
            Self::Partial => Some("MM0402"),
            Self::Imposter => Some("MM0403"),
            Self::Bypassing => Some("MM0413"),
            Self::Stalled => Some("MM0414"),
            _ => None,
        }
    }
}

/// The exit code for what was found: 1 for a finding, 3 where something stayed open, else 0.
#[must_use]
pub fn exit_code(states: impl IntoIterator<Item = State>) -> u8 {
    let mut code = 0;
    for state in states {
        if state.is_finding() {
            return 1;
        }
        if state == State::Unverifiable {
            code = 3;
        }
    }
    code
}

named! {
    /// Why a pod is in its state, where the state alone does not tell.
    pub enum Reason {
        /// Suspect: readings are being repeated.
        Confirming = "confirming", "being confirmed by further readings";
        /// Suspect: no verdict while the node's ztunnel is at fault.
        NodeFault = "node-fault", "not judged while this node's ztunnel is at fault";
        /// Suspect: no verdict while the mesh is at fault.
        MeshFault = "mesh-fault", "not judged while the mesh is at fault";
        /// Unverifiable: a pod that no reading has reached yet.
        NotRead = "not-read", "not read yet";
        /// Unverifiable: its processes ended while being read.
        Gone = "gone", "its processes ended while being read";
        /// Unverifiable: the network namespace that was judged is gone, and the one in its place was not read yet.
        Replaced = "replaced", "its network namespace is gone; the new one was not read yet";
        /// Unverifiable: no process of the pod was found.
        NoProcess = "no-process", "no process of the pod was found";
        /// Unverifiable: no netns of its processes holds an address of the pod.
        NoAddressMatch = "no-address-match", "no network namespace of its processes holds an address of the pod";
        /// Unverifiable: two pods claim the same netns and nothing decides between them.
        AmbiguousNetns = "ambiguous-netns", "another pod claims the same network namespace";
        /// Unverifiable: the kernel refused, by user or capability.
        Denied = "denied", "reading was refused: run as root";
        /// Unverifiable: the kernel refused though the user is root.
        DeniedByLsm = "denied-by-lsm", "reading was refused to root: a security module (AppArmor, SELinux) forbids it";
        /// Unverifiable: the table had rows that no kernel writes.
        Malformed = "malformed", "the socket table had rows that make no sense";
        /// Unverifiable: any other failure of the operating system.
        ReadFailed = "read-failed", "reading failed";
        /// Unverifiable: the pod runs under another kernel.
        OtherKernel = "other-kernel", "the pod runs under a kernel of its own (gVisor, Kata)";
        /// Unverifiable: the API forbids whoever asks to read it this way.
        Forbidden = "forbidden", "you may not read it this way";
        /// Unverifiable: nothing in its images can print a file.
        NoReader = "no-reader", "none of its running containers has cat";
        /// Unverifiable: no answer came within the time for a pod.
        TimedOut = "timed-out", "it gave no answer in time";
        /// Unverifiable: its agent says something that means nothing here yet.
        NewerAgent = "newer-agent", "unknown: its agent is newer and names a state that this meshmedic does not know";
        /// Unverifiable: somebody asked for a pod that is not there.
        NotFound = "not-found", "there is no such pod";
        /// Exempt: it lives in the host's netns.
        HostNetwork = "host-network", "uses the host's network";
        /// Unverifiable: the labels of its namespace are not known.
        NamespaceUnknown = "namespace-unknown", "the labels of its namespace are not known";
        /// Exempt: istio-cni never said that it enrolled it.
        NotAnnotated = "not-annotated", "istio-cni has not enrolled it";
        /// Exempt: its Envoy takes the traffic.
        Sidecar = "sidecar", "has a sidecar, which takes its traffic";
        /// Exempt: a label says so.
        OptedOut = "opted-out", "its label istio.io/dataplane-mode takes it out of the mesh";
        /// Exempt: enrolled once, but no label makes it ambient any more.
        NotSelected = "not-selected", "no label on it or its namespace makes it ambient any more";
        /// Exempt: istio-cni leaves its namespace alone.
        ExcludedNamespace = "excluded-namespace", "istio-cni leaves its namespace alone";
        /// Exempt: it ran to its end.
        Finished = "finished", "ran to its end";
        /// Exempt: it is being deleted.
        Deleting = "deleting", "is being deleted";
        /// Exempt: nothing says that it belongs to the mesh.
        NotEnrolled = "not-enrolled", "shows no sign that it ever belonged to the mesh; only the API knows more";
        /// Exempt: the mesh's own data plane.
        DataPlane = "data-plane", "belongs to the mesh's own data plane";
    }
}

named! {
    /// Whose the listeners of a captured pod are.
    pub enum Owner {
        /// The census found these very sockets in ztunnel's file table.
        Ztunnel = "ztunnel", "held by ztunnel";
        /// They listen; nobody could look whose they are.
        Unproven = "unproven", "held by a process that cannot be seen this way";
    }
}

named! {
    /// Whether the pod's netns has Istio's routing table.
    pub enum Redirection {
        /// Table 100 is there.
        Routed = "routed", "Istio's routing table is there";
        /// Table 100 is missing.
        Absent = "absent", "Istio's routing table is missing";
        /// It could not be determined: no IPv4, or not readable.
        Unknown = "unknown", "could not be determined";
    }
}

named! {
    /// What an orphan's traffic does now.
    pub enum Traffic {
        /// The redirection is left and nobody listens: its connections are refused.
        FailClosed = "fail-closed", "its connections are refused: redirection is left, the listeners are gone";
        /// No redirection: it speaks plaintext past the mesh.
        Bypassing = "bypassing", "it bypasses the mesh in plaintext";
        /// Could not be told.
        Unknown = "unknown", "could not be determined";
    }
}

impl From<Redirection> for Traffic {
    /// What the traffic of a pod without listeners does.
    fn from(redirection: Redirection) -> Self {
        match redirection {
            Redirection::Routed => Self::FailClosed,
            Redirection::Absent => Self::Bypassing,
            Redirection::Unknown => Self::Unknown,
        }
    }
}

named! {
    /// What holds for a whole node.
    pub enum Condition {
        /// No ztunnel is ready, or it has not settled, or istio-cni is not ready.
        NodeFault = "node-fault", "this node's ztunnel or istio-cni is missing or has not settled";
        /// istiod has no ready endpoint, or the API cannot be trusted.
        MeshFault = "mesh-fault", "a new pod would get no identity, or what the API says is too old";
        /// The kernel's list of ztunnel's listeners cannot be had for now.
        CensusDegraded = "census-degraded", "ztunnel's listeners cannot be listed for now; each change asks for a reading";
        /// Most of the pods are orphans under a healthy ztunnel: a reboot does this.
        MassLoss = "mass-loss", "most of this node's pods fell out of the mesh under a healthy ztunnel";
        /// No pods are repaired on a node whose pods are about to leave.
        Cordoned = "cordoned", "this node is cordoned: its pods are about to leave anyway";
        /// Somebody paused all repairs.
        Paused = "paused", "repairs are paused by the ConfigMap meshmedic-control";
        /// The right to ask istio-cni is missing.
        HealNotPermitted = "heal-not-permitted", "pods cannot be healed in place: the agent may not patch pods/status";
        /// Heals did not take on several nodes.
        HealBreaker = "heal-breaker", "heals in place failed on several nodes, so no agent starts another one";
        /// An ask left a pod's rules without a listener, and taking that back failed.
        HealMadeUnreachable = "heal-made-unreachable", "a heal in place left a pod unreachable, and taking that back failed";
        /// Somebody outside Istio's namespaces, or not as Istio does it, claims to be a part of Istio. He is ignored.
        IdentityConflict = "identity-conflict", "a stranger claims to be a part of Istio and is ignored";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_outweighs_what_stayed_open() {
        assert_eq!(exit_code([]), 0);
        assert_eq!(
            exit_code([State::Captured, State::Suspect, State::Pending, State::Exempt]),
            0
        );
        assert_eq!(exit_code([State::Unverifiable, State::Captured]), 3);
        for finding in State::ALL.iter().copied().filter(|state| state.is_finding()) {
            assert_eq!(exit_code([State::Unverifiable, finding]), 1);
        }
    }

    /// What an imposter holds listens, and what bypasses has its listeners.
    #[test]
    fn of_what_is_lost_the_listeners_are_missing_or_held() {
        for state in State::ALL {
            let listens = matches!(state, State::Imposter | State::Bypassing);
            assert_eq!(state.lacks_listeners(), state.is_lost() && !listens, "{state}");
        }
    }

    #[test]
    fn names_are_the_same_in_json_and_in_labels() {
        for state in State::ALL {
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
