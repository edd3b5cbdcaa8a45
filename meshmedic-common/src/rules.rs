// SPDX-License-Identifier: Apache-2.0
//! Whether Istio's redirection rules stand in a pod's network namespace, by what the kernel's hooks show.
//!
//! Listeners say that ztunnel is ready to take a pod's traffic. Only rules bring it there.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::abi::{
    DOUBT_LEGACY, DOUBT_NFT, DOUBT_UNFOLLOWED, FOUND_BEFORE, FOUND_IN_LEGACY, FOUND_IN_NFT,
    FOUND_MANGLE_OUTPUT, FOUND_MANGLE_PREROUTING, FOUND_NAT_OUTPUT, FOUND_NAT_PREROUTING, FamilyHooks,
    HOOKS_NOT_READ,
};
use crate::verdict::{Redirection, named};

named! {
    /// Whether Istio's redirection rules are there.
    pub enum Rules {
        /// At PREROUTING and at OUTPUT nat leads to Istio's own chains.
        Present = "present", "Istio's redirection rules are there";
        /// There are no hooks, or none of them leads to a chain of Istio's.
        Absent = "absent", "Istio's redirection rules are missing";
        /// They cannot be read, and there are fewer hooks than this pod had.
        Fell = "fell", "there are fewer packet filter hooks than this pod had, and they cannot be followed";
        /// Some of Istio's chains are there, others are not.
        Differs = "differs", "only some of Istio's redirection rules are there";
        /// It could not be told.
        Unknown = "unknown", "could not be determined";
    }
}

named! {
    /// Why it could not be told whether the rules are there.
    pub enum Unfollowed {
        /// Nobody lists ztunnel's sockets by eBPF.
        NoCensus = "no-census", "only the census by eBPF reads them";
        /// No census met a listener of ztunnel's in the pod, and no reading came with them.
        NotMet = "not-met", "they have not been read yet";
        /// The kernel does not lend programs the helper that reads them.
        Refused = "refused", "the kernel refuses to let a program read them: it is locked down";
        /// The kernel's types lack what is followed.
        NoLayout = "no-layout", "this kernel's BTF does not describe its hooks as they are known";
        /// The types of the module that holds them are not there.
        NoModuleTypes = "no-module-types", "the BTF of the packet filter's module is not in /sys/kernel/btf";
        /// There is more than is gone through.
        TooLong = "too-long", "a table is longer than is gone through";
        /// Something stands at Istio's place that cannot be followed.
        Foreign = "foreign", "a hook at Istio's place could not be followed";
    }
}

named! {
    /// Which of the two packet filters holds Istio's rules.
    pub enum Backend {
        /// nf_tables, by nft or by iptables.
        Nft = "nft", "nf_tables";
        /// The legacy tables of iptables.
        Legacy = "legacy", "iptables' legacy tables";
        /// Both: istio-cni chose another one after a restart.
        Both = "both", "nf_tables and iptables' legacy tables";
    }
}

named! {
    /// What proves that Istio's rules are there.
    pub enum RulesProof {
        /// The names of Istio's chains, read by this census.
        Names = "names", "Istio's chains were read by name";
        /// The same, read by one of the last censuses: neither the hooks changed since nor nf_tables' generation.
        Fingerprint = "fingerprint", "Istio's chains were read by name, and nothing has changed since";
    }
}

/// The rules of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyRules {
    /// Whether they are there.
    pub verdict: Rules,
    /// Why that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Unfollowed>,
    /// What holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// What proves that they are there, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<RulesProof>,
    /// How many hooks there are at PREROUTING and OUTPUT, where that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<[u8; 2]>,
}

impl FamilyRules {
    /// Nothing is known.
    #[must_use]
    pub const fn unknown(reason: Unfollowed) -> Self {
        Self {
            verdict: Rules::Unknown,
            reason: Some(reason),
            backend: None,
            proof: None,
            hooks: None,
        }
    }

    /// From what the census read. `lacking` says why a module's layout is not known.
    #[must_use]
    pub fn of(hooks: FamilyHooks, lacking: Unfollowed) -> Self {
        if hooks.prerouting == HOOKS_NOT_READ || hooks.output == HOOKS_NOT_READ {
            return Self::unknown(lacking);
        }
        let has = |bits: u8| hooks.found & bits == bits;
        let any = FOUND_NAT_PREROUTING | FOUND_NAT_OUTPUT | FOUND_MANGLE_PREROUTING | FOUND_MANGLE_OUTPUT;
        let doubt = match hooks.doubt {
            0 => None,
            bits if bits & (DOUBT_NFT | DOUBT_LEGACY) != 0 => Some(lacking),
            bits if bits & DOUBT_UNFOLLOWED != 0 => Some(Unfollowed::Foreign),
            _ => Some(Unfollowed::TooLong),
        };
        let (verdict, reason) = match doubt {
            _ if has(FOUND_NAT_PREROUTING | FOUND_NAT_OUTPUT) => (Rules::Present, None),
            Some(reason) => (Rules::Unknown, Some(reason)),
            None if hooks.found & any != 0 => (Rules::Differs, None),
            None => (Rules::Absent, None),
        };
        let backend = match (has(FOUND_IN_NFT), has(FOUND_IN_LEGACY)) {
            (true, true) => Some(Backend::Both),
            (true, false) => Some(Backend::Nft),
            (false, true) => Some(Backend::Legacy),
            (false, false) => None,
        };
        let proof = if has(FOUND_BEFORE) {
            RulesProof::Fingerprint
        } else {
            RulesProof::Names
        };
        Self {
            verdict,
            reason,
            backend,
            proof: (verdict == Rules::Present).then_some(proof),
            hooks: Some([hooks.prerouting, hooks.output]),
        }
    }

    /// The same, beside what was read of the same namespace before.
    fn after(self, before: Self) -> Self {
        let sum = |hooks: [u8; 2]| u32::from(hooks[0]) + u32::from(hooks[1]);
        match (self.hooks, before.hooks) {
            (Some(now), Some(then)) if self.verdict == Rules::Unknown => {
                let stays = before.verdict == Rules::Fell && sum(now) == sum(then);
                let verdict = if stays || sum(now) < sum(then) {
                    Rules::Fell
                } else {
                    self.verdict
                };
                Self { verdict, ..self }
            }
            _ => self,
        }
    }
}

/// The rules in a pod's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRules {
    /// Whether they are there for what the pod sends and receives.
    pub verdict: Rules,
    /// For IPv4.
    pub ipv4: FamilyRules,
    /// For IPv6.
    pub ipv6: FamilyRules,
}

impl PodRules {
    /// Nothing is known.
    #[must_use]
    pub const fn unknown(reason: Unfollowed) -> Self {
        Self {
            verdict: Rules::Unknown,
            ipv4: FamilyRules::unknown(reason),
            ipv6: FamilyRules::unknown(reason),
        }
    }

    /// From both families. Istio always writes the rules of IPv4, and those of IPv6 unless it is told not to: IPv4
    /// decides for a pod that has such an address, IPv6 for one that has no other. Of a pod whose addresses are not
    /// known, no rule may be there for the rules to be absent.
    #[must_use]
    pub fn of(ipv4: FamilyRules, ipv6: FamilyRules, addresses: &[IpAddr]) -> Self {
        let verdict = if is_ipv6_only(addresses) {
            ipv6.verdict
        } else if !addresses.is_empty() {
            ipv4.verdict
        } else {
            match (ipv4.verdict, ipv6.verdict) {
                (Rules::Absent, Rules::Absent) => Rules::Absent,
                (Rules::Absent, Rules::Unknown | Rules::Fell) => Rules::Unknown,
                (Rules::Absent, _) => Rules::Differs,
                (verdict, _) => verdict,
            }
        };
        Self { verdict, ipv4, ipv6 }
    }

    /// The same, beside what was read of the same namespace before.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let (ipv4, ipv6) = (self.ipv4.after(before.ipv4), self.ipv6.after(before.ipv6));
        let fell =
            self.verdict == Rules::Unknown && [ipv4, ipv6].iter().any(|rules| rules.verdict == Rules::Fell);
        let verdict = if fell { Rules::Fell } else { self.verdict };
        Self { verdict, ipv4, ipv6 }
    }

    /// What proves that they are there, where they are.
    #[must_use]
    pub fn proof(&self) -> Option<RulesProof> {
        let present = self.verdict == Rules::Present;
        self.ipv4.proof.or(self.ipv6.proof).filter(|_| present)
    }

    /// Whether they are the same rules, whatever proves them.
    #[must_use]
    pub fn are_as(&self, before: &Self) -> bool {
        let plain = |family: FamilyRules| FamilyRules {
            proof: None,
            ..family
        };
        self.verdict == before.verdict
            && plain(self.ipv4) == plain(before.ipv4)
            && plain(self.ipv6) == plain(before.ipv6)
    }

    /// What is to be said of them, for people, family by family.
    #[must_use]
    pub fn told(&self) -> String {
        let family = |name: &str, rules: &FamilyRules| {
            let backend = rules
                .backend
                .map_or_else(String::new, |backend| format!(" in {}", backend.sentence()));
            let hooks = match rules.hooks {
                Some([0, 0]) => ", no hooks".to_owned(),
                Some([prerouting, output]) => format!(", hooks {prerouting}+{output}"),
                None => String::new(),
            };
            let reason = rules
                .reason
                .map_or_else(String::new, |reason| format!(" ({})", reason.sentence()));
            format!("{name} {}{backend}{hooks}{reason}", rules.verdict)
        };
        if self.ipv4 == self.ipv6 && self.verdict == Rules::Unknown {
            let reason = self.reason().map_or("unknown", Unfollowed::sentence);
            return format!("{}: {reason}", self.verdict.sentence());
        }
        format!(
            "{}; {}; {}",
            self.verdict.sentence(),
            family("IPv4", &self.ipv4),
            family("IPv6", &self.ipv6)
        )
    }

    /// Why it could not be told.
    #[must_use]
    pub fn reason(&self) -> Option<Unfollowed> {
        self.ipv4.reason.or(self.ipv6.reason)
    }
}

/// What leads to ztunnel. Rules decide where the kernel shows them: without one the routing table leads nothing anywhere.
#[must_use]
pub fn leads(routed: Redirection, rules: Option<&PodRules>) -> Redirection {
    match rules.map(|rules| rules.verdict) {
        Some(Rules::Present) => Redirection::Routed,
        Some(Rules::Absent) => Redirection::Absent,
        Some(Rules::Fell | Rules::Differs | Rules::Unknown) | None => routed,
    }
}

/// Whether a pod has addresses, and none of IPv4.
pub(crate) fn is_ipv6_only(addresses: &[IpAddr]) -> bool {
    !addresses.is_empty() && !addresses.iter().any(IpAddr::is_ipv4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::DOUBT_LONG;

    const NAT: u8 = FOUND_NAT_PREROUTING | FOUND_NAT_OUTPUT;
    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn family(hooks: u8, found: u8, doubt: u8) -> FamilyRules {
        let hooks = FamilyHooks {
            prerouting: hooks,
            output: hooks,
            found,
            doubt,
        };
        FamilyRules::of(hooks, Unfollowed::NoModuleTypes)
    }

    #[test]
    fn only_what_was_followed_to_its_end_proves_an_absence() {
        let verdict = |hooks, found, doubt| {
            let family = family(hooks, found, doubt);
            (family.verdict, family.reason)
        };
        assert_eq!(verdict(0, 0, 0), (Rules::Absent, None));
        assert_eq!(verdict(3, 0, 0), (Rules::Absent, None));
        assert_eq!(verdict(5, NAT | FOUND_IN_NFT, 0), (Rules::Present, None));
        // Both backends: what one of them hides does not matter where the other shows it.
        assert_eq!(verdict(7, NAT, DOUBT_LEGACY), (Rules::Present, None));
        for found in [
            FOUND_NAT_OUTPUT,
            FOUND_NAT_PREROUTING,
            FOUND_MANGLE_OUTPUT,
            FOUND_MANGLE_PREROUTING,
        ] {
            assert_eq!(verdict(5, found, 0), (Rules::Differs, None));
            assert_eq!(
                verdict(5, found, DOUBT_LONG),
                (Rules::Unknown, Some(Unfollowed::TooLong))
            );
        }
        let no_types = Some(Unfollowed::NoModuleTypes);
        assert_eq!(verdict(5, 0, DOUBT_NFT), (Rules::Unknown, no_types));
        assert_eq!(verdict(5, 0, DOUBT_LEGACY), (Rules::Unknown, no_types));
        let foreign = Some(Unfollowed::Foreign);
        assert_eq!(verdict(5, 0, DOUBT_UNFOLLOWED), (Rules::Unknown, foreign));
        let unread = FamilyRules::of(FamilyHooks::NOT_READ, Unfollowed::NoLayout);
        assert_eq!(unread, FamilyRules::unknown(Unfollowed::NoLayout));
    }

    #[test]
    fn rules_that_are_there_say_what_proves_it() {
        let of = |found| PodRules::of(family(5, found, 0), family(0, 0, 0), &[V4]);
        let (read, kept) = (of(NAT | FOUND_IN_NFT), of(NAT | FOUND_IN_NFT | FOUND_BEFORE));
        assert_eq!(read.proof(), Some(RulesProof::Names));
        assert_eq!(kept.proof(), Some(RulesProof::Fingerprint));
        // Another proof of the same is no change; the rules of the other filter are one.
        assert_ne!(kept, read);
        assert!(kept.are_as(&read));
        assert!(!of(NAT | FOUND_IN_LEGACY).are_as(&read));
        for found in [0, FOUND_BEFORE, FOUND_NAT_OUTPUT | FOUND_BEFORE] {
            assert_eq!(of(found).proof(), None);
        }
    }

    #[test]
    fn rules_that_were_read_decide_what_leads_to_ztunnel_and_the_routing_table_where_they_were_not() {
        let rules = |found, doubt| PodRules::of(family(5, found, doubt), family(0, 0, 0), &[V4]);
        for routed in [Redirection::Routed, Redirection::Absent, Redirection::Unknown] {
            assert_eq!(leads(routed, Some(&rules(NAT, 0))), Redirection::Routed);
            assert_eq!(leads(routed, Some(&rules(0, 0))), Redirection::Absent);
            for open in [rules(0, DOUBT_NFT), rules(FOUND_NAT_OUTPUT, 0)] {
                assert_eq!(leads(routed, Some(&open)), routed);
            }
            assert_eq!(leads(routed, None), routed);
        }
    }

    #[test]
    fn the_family_that_the_pod_has_decides() {
        let (there, gone) = (family(5, NAT, 0), family(0, 0, 0));
        let verdict = |ipv4, ipv6, addresses: &[IpAddr]| PodRules::of(ipv4, ipv6, addresses).verdict;
        assert_eq!(verdict(there, gone, &[V4]), Rules::Present);
        assert_eq!(verdict(there, gone, &[V4, V6]), Rules::Present);
        assert_eq!(verdict(gone, there, &[V4, V6]), Rules::Absent);
        assert_eq!(verdict(there, gone, &[V6]), Rules::Absent);
        assert_eq!(verdict(gone, there, &[]), Rules::Differs);
        assert_eq!(verdict(gone, gone, &[]), Rules::Absent);
        assert_eq!(verdict(gone, family(5, 0, DOUBT_NFT), &[]), Rules::Unknown);
    }

    #[test]
    fn fewer_hooks_than_before_are_a_hint_where_they_cannot_be_followed() {
        let of = |hooks, found, doubt| {
            let family = family(hooks, found, doubt);
            PodRules::of(family, family, &[V4])
        };
        let before = of(5, 0, DOUBT_NFT);
        assert_eq!(of(3, 0, DOUBT_NFT).after(&before).verdict, Rules::Fell);
        assert_eq!(of(5, 0, DOUBT_NFT).after(&before).verdict, Rules::Unknown);
        let fell = of(3, 0, DOUBT_NFT).after(&before);
        assert_eq!(of(3, 0, DOUBT_NFT).after(&fell).verdict, Rules::Fell);
        assert_eq!(of(5, 0, DOUBT_NFT).after(&fell).verdict, Rules::Unknown);
        // What is proved stays what it is.
        assert_eq!(of(3, NAT, 0).after(&before).verdict, Rules::Present);
        assert_eq!(of(3, 0, 0).after(&before).verdict, Rules::Absent);
    }
}
