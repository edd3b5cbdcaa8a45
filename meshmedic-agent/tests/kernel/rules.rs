// SPDX-License-Identifier: Apache-2.0
//! Whether Istio's redirection rules stand in a namespace, told from the kernel's hooks.

use std::net::IpAddr;
use std::process::Command;

use meshmedic_agent::kernel::{self, Census, Options};
use meshmedic_common::abi::{CENSUSES_KEPT, FamilyHooks};
use meshmedic_common::rules::{Backend, FamilyRules, PodRules, Rules, RulesProof, Unfollowed};
use meshmedic_lab::rules::{Filter, IstioRules, run};

use crate::netns::{listen, within};
use crate::{load, options, until};

const BOTH: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)),
    IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
];

/// What the next census says of a namespace in which this process listens, and those after it as well: enough of them
/// that what they found is kept. Without a listener the same is read through the thread that is in it.
fn read(census: &mut Census, netns: u32) -> PodRules {
    let first = once(census, netns);
    for _ in 0..3 {
        let next = once(census, netns);
        assert!(next.are_as(&first), "{first:?}, and then {next:?}");
    }
    let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    if census.is_filtered() {
        let (found, rules) = through(census, thread).expect("its rules");
        assert_eq!(found, netns);
        assert!(rules.are_as(&first), "{first:?}, and by its thread {rules:?}");
    }
    first
}

/// The namespace in which a process is, and what is said of it.
fn through(census: &mut Census, pid: u32) -> Option<(u32, PodRules)> {
    let (netns, hooks) = census.hooks_of(pid).expect("the packet filter of a process")?;
    Some((netns, judged(census, hooks)))
}

fn judged(census: &Census, hooks: [FamilyHooks; 2]) -> PodRules {
    let lacking = census.rules_lacking();
    let [ipv4, ipv6] = hooks.map(|hooks| FamilyRules::of(hooks, lacking));
    PodRules::of(ipv4, ipv6, &BOTH)
}

/// What one census says of it.
fn once(census: &mut Census, netns: u32) -> PodRules {
    let mut rows = Vec::new();
    census.of(&[std::process::id()], &mut rows).expect("the census");
    let row = rows
        .iter()
        .find(|row| row.netns == netns && row.port == 15001)
        .expect("a row of this namespace");
    judged(census, [row.ipv4, row.ipv6])
}

fn backend(filter: Filter) -> Backend {
    match filter {
        Filter::Legacy => Backend::Legacy,
        Filter::IptablesNft | Filter::Nft => Backend::Nft,
    }
}

fn every() -> impl Iterator<Item = IstioRules> {
    Filter::ALL.into_iter().flat_map(|filter| {
        [(false, false), (true, false), (false, true), (true, true)].map(|(dns, ipv6)| IstioRules {
            filter,
            dns,
            ipv6,
        })
    })
}

#[test]
fn istios_rules_are_there_from_one_census_to_the_next_and_gone_likewise() {
    if !meshmedic_lab::need::packet_filters("kernel: Istio's rules") {
        return;
    }
    let mut census = load().census;
    for istio in every() {
        within(|netns| {
            let _listener = listen("0.0.0.0:15001");
            let never = read(&mut census, netns);
            assert_eq!(
                (never.ipv4.verdict, never.ipv4.hooks),
                (Rules::Absent, Some([0, 0])),
                "{istio:?}"
            );
            assert_eq!(
                (never.ipv6.verdict, never.ipv6.hooks),
                (Rules::Absent, Some([0, 0])),
                "{istio:?}"
            );

            istio.write(None).expect("Istio's rules");
            let there = read(&mut census, netns);
            assert_eq!(there.ipv4.verdict, Rules::Present, "{istio:?}: {there:?}");
            assert_eq!(there.ipv4.backend, Some(backend(istio.filter)), "{istio:?}");
            // Tables of the family inet hook into both, whatever their rules match.
            let both = istio.ipv6 || istio.filter == Filter::Nft;
            let ipv6 = if both { Rules::Present } else { Rules::Absent };
            assert_eq!(there.ipv6.verdict, ipv6, "{istio:?}: {there:?}");

            istio.remove(None).expect("their removal");
            let gone = read(&mut census, netns);
            assert_eq!(gone.ipv4.verdict, Rules::Absent, "{istio:?}: {gone:?}");
            assert_eq!(gone.ipv6.verdict, Rules::Absent, "{istio:?}: {gone:?}");

            istio.write(None).expect("Istio's rules again");
            assert_eq!(read(&mut census, netns).verdict, Rules::Present, "{istio:?}");
        });
    }
}

#[test]
fn a_namespace_without_a_socket_is_reached_through_a_process_in_it() {
    if !meshmedic_lab::need::packet_filters("kernel: rules without a socket") {
        return;
    }
    for unfiltered_census in [false, true] {
        let mut census = kernel::load(&Options {
            unfiltered_census,
            ..options()
        })
        .expect("the kernel programs")
        .census;
        let outside = through(&mut census, std::process::id()).expect("our own").0;
        for filter in Filter::ALL {
            let istio = IstioRules {
                filter,
                dns: true,
                ipv6: true,
            };
            within(|netns| {
                let mut process = Command::new("sleep").arg("infinity").spawn().expect("a process");
                let mut found = || through(&mut census, process.id()).expect("a process that lives");
                let (first, never) = found();
                assert_eq!((first, never.ipv4.hooks), (netns, Some([0, 0])), "{filter:?}");
                istio.write(None).expect("Istio's rules");
                assert_eq!(found().1.verdict, Rules::Present, "{filter:?}");
                istio.remove(None).expect("their removal");
                assert_eq!(found().1.verdict, Rules::Absent, "{filter:?}");
                process.kill().expect("it ends");
                // Until it is waited for, it is there and in no namespace.
                let ended = || through(&mut census, process.id()).is_none().then_some(());
                until("the process to leave its namespace", ended);
                process.wait().expect("its end");
                assert_eq!(through(&mut census, process.id()), None, "{filter:?}");
            });
        }
        assert_eq!(
            through(&mut census, std::process::id()).map(|own| own.0),
            Some(outside)
        );
    }
}

#[test]
fn both_filters_at_once_are_told_apart() {
    if !meshmedic_lab::need::packet_filters("kernel: both packet filters at once") {
        return;
    }
    let mut census = load().census;
    let of = |filter| IstioRules {
        filter,
        dns: true,
        ipv6: false,
    };
    let (legacy, nft) = (of(Filter::Legacy), of(Filter::Nft));
    within(|netns| {
        let _listener = listen("[::]:15001");
        nft.write(None).expect("nft's rules");
        legacy.write(None).expect("legacy rules");
        let both = read(&mut census, netns);
        assert_eq!(
            (both.verdict, both.ipv4.backend),
            (Rules::Present, Some(Backend::Both)),
            "{both:?}"
        );
        nft.remove(None).expect("nft's removal");
        let one = read(&mut census, netns);
        assert_eq!(
            (one.verdict, one.ipv4.backend),
            (Rules::Present, Some(Backend::Legacy)),
            "{one:?}"
        );
        legacy.remove(None).expect("the legacy rules' removal");
        let none = read(&mut census, netns);
        assert_eq!(
            (none.verdict, none.ipv4.backend),
            (Rules::Absent, None),
            "{none:?}"
        );
        assert_ne!(none.ipv4.hooks, Some([0, 0]), "what they stood in is left");
    });
}

/// Whether a namespace carries the generation of nf_tables' rules here: from 6.17 on.
fn has_generation() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

#[test]
fn unchanged_rules_are_followed_anew_every_few_censuses() {
    if !meshmedic_lab::need::packet_filters("kernel: unchanged rules") {
        return;
    }
    let mut census = load().census;
    for filter in Filter::ALL {
        within(|netns| {
            let _listener = listen("0.0.0.0:15001");
            let istio = IstioRules {
                filter,
                dns: true,
                ipv6: true,
            };
            istio.write(None).expect("Istio's rules");
            // The first two follow the names, and must agree.
            let mut next = || once(&mut census, netns).proof();
            assert_eq!([next(), next()], [Some(RulesProof::Names); 2], "{filter:?}");
            for round in 0..3 {
                let kept: Vec<_> = (0..CENSUSES_KEPT).map(|_| next()).collect();
                let proof = if filter == Filter::Legacy || has_generation() {
                    RulesProof::Fingerprint
                } else {
                    RulesProof::Names
                };
                assert!(
                    kept.iter().all(|found| *found == Some(proof)),
                    "{filter:?}, round {round}: {kept:?}"
                );
                assert_eq!(next(), Some(RulesProof::Names), "{filter:?}, round {round}");
            }
        });
    }
}

#[test]
fn a_legacy_table_that_joins_the_chains_of_nft_is_seen_at_once() {
    if !meshmedic_lab::need::packet_filters("kernel: a legacy table beside nft's chains") {
        return;
    }
    // No rule of either needs more hooks than nat's own, which is there already when the other comes.
    let nft = "add table ip other\nadd chain ip other output { type nat hook output priority -100 ; }\n\
               add chain ip other prerouting { type nat hook prerouting priority -100 ; }\n\
               add rule ip other output tcp dport 80 accept\nadd rule ip other prerouting tcp dport 80 accept\n";
    let legacy = "*nat\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_PRERT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n-A PREROUTING -j ISTIO_PRERT\n\
                  -A ISTIO_OUTPUT -p tcp -m tcp --dport 81 -j ACCEPT\n-A ISTIO_PRERT -p tcp -m tcp --dport 81 -j ACCEPT\nCOMMIT\n";
    let mut census = load().census;
    within(|netns| {
        let _listener = listen("0.0.0.0:15001");
        run(None, &["nft", "-f", "-"], nft).expect("foreign rules");
        let before = read(&mut census, netns);
        assert_eq!(before.verdict, Rules::Absent, "{before:?}");
        run(None, &["iptables-legacy-restore"], legacy).expect("the legacy table");
        let after = read(&mut census, netns);
        assert_eq!(after.ipv4.hooks, before.ipv4.hooks, "{after:?}");
        assert_eq!(after.verdict, Rules::Present, "{after:?}");
    });
}

/// Fails where what was read of a legacy table is kept though another one, as long as it, is in its place.
#[test]
fn a_legacy_table_in_the_place_of_another_is_seen_at_once() {
    if !meshmedic_lab::need::packet_filters("kernel: a legacy table for another") {
        return;
    }
    let table = |chain: &str| {
        format!(
            "*nat\n:{chain} - [0:0]\n:ISTIO_PRERT - [0:0]\n-A OUTPUT -j {chain}\n-A PREROUTING -j ISTIO_PRERT\n\
             -A {chain} -p tcp -j ACCEPT\n-A ISTIO_PRERT -p tcp -j ACCEPT\nCOMMIT\n"
        )
    };
    let mut census = load().census;
    within(|netns| {
        let _listener = listen("0.0.0.0:15001");
        for _ in 0..3 {
            for (chain, verdict) in [("ISTIO_OUTPUT", Rules::Present), ("OTHER_OUTPUT", Rules::Differs)] {
                run(None, &["iptables-legacy-restore"], &table(chain)).expect("a legacy table");
                let found = read(&mut census, netns);
                assert_eq!(found.verdict, verdict, "{chain}: {found:?}");
            }
        }
    });
}

#[test]
fn what_leads_nowhere_does_not_pass_for_rules() {
    if !meshmedic_lab::need::packet_filters("kernel: rules that lead nowhere") {
        return;
    }
    let mut census = load().census;
    let restore = |filter| match filter {
        Filter::Legacy => ["iptables-legacy-restore", "-n"],
        _ => ["iptables-nft-restore", "-n"],
    };
    for filter in [Filter::Legacy, Filter::IptablesNft] {
        let istio = IstioRules {
            filter,
            dns: true,
            ipv6: false,
        };
        for (what, change, verdict) in [
            (
                "nat's jumps are gone",
                "*nat\n-F PREROUTING\n-F OUTPUT\nCOMMIT\n",
                Rules::Differs,
            ),
            ("one jump is gone", "*nat\n-F OUTPUT\nCOMMIT\n", Rules::Differs),
            (
                "the chain for OUTPUT is empty",
                "*nat\n-F ISTIO_OUTPUT\nCOMMIT\n",
                Rules::Differs,
            ),
            (
                "all jumps are gone",
                "*nat\n-F PREROUTING\n-F OUTPUT\nCOMMIT\n*mangle\n-F PREROUTING\n-F OUTPUT\nCOMMIT\n",
                Rules::Absent,
            ),
        ] {
            within(|netns| {
                let _listener = listen("0.0.0.0:15001");
                istio.write(None).expect("Istio's rules");
                let there = read(&mut census, netns);
                assert_eq!(there.verdict, Rules::Present, "{filter:?}, {what}: {there:?}");
                run(None, &restore(filter), change).expect("the change");
                let found = read(&mut census, netns);
                assert_eq!(found.verdict, verdict, "{filter:?}, {what}: {found:?}");
            });
        }
    }
}

#[test]
fn the_rules_of_others_never_pass_for_istios() {
    if !meshmedic_lab::need::packet_filters("kernel: foreign rules") {
        return;
    }
    let masquerade = "*nat\n-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\nCOMMIT\n";
    let docker = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
                  -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
                  -A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80\nCOMMIT\n";
    let policy = "*filter\n:cali-OUTPUT - [0:0]\n-A OUTPUT -j cali-OUTPUT\n-A cali-OUTPUT -p tcp --dport 25 -j DROP\nCOMMIT\n\
                  *mangle\n:cali-PREROUTING - [0:0]\n-A PREROUTING -j cali-PREROUTING\n-A cali-PREROUTING -j MARK --set-mark 0x8\nCOMMIT\n";
    // Names that are nearly Istio's, and Istio's name where it is no chain.
    let alike = "*nat\n:ISTIO_OUTPUT2 - [0:0]\n:ISTIO_PRER - [0:0]\n:ISTIO_REDIRECT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT2\n-A PREROUTING -j ISTIO_PRER\n\
                 -A ISTIO_OUTPUT2 -p tcp -j REDIRECT --to-ports 15001\n\
                 -A ISTIO_PRER -p tcp -m comment --comment ISTIO_PRERT -j LOG --log-prefix ISTIO_OUTPUT\nCOMMIT\n";
    let nft = "add table inet other\nadd chain inet other output { type nat hook output priority -100 ; }\n\
               add chain inet other prerouting { type nat hook prerouting priority -100 ; }\n\
               add chain inet other istio-output\nadd chain inet other istio-prerouting\n\
               add rule inet other output jump istio-output\nadd rule inet other prerouting jump istio-prerouting\n\
               add rule inet other istio-output tcp dport 80 redirect to :15001\n\
               add rule inet other istio-prerouting tcp dport 80 redirect to :15006\n";
    let mut census = load().census;
    let (old, new) = ("iptables-legacy-restore", "iptables-nft-restore");
    for (program, input) in [
        (&[old][..], masquerade),
        (&[old], docker),
        (&[old], policy),
        (&[old], alike),
        (&[new], masquerade),
        (&[new], docker),
        (&[new], policy),
        (&[new], alike),
        (&["nft", "-f", "-"], nft),
    ] {
        within(|netns| {
            let _listener = listen("0.0.0.0:15001");
            run(None, program, input).expect("foreign rules");
            let found = read(&mut census, netns);
            assert_eq!(found.verdict, Rules::Absent, "{program:?} {input}: {found:?}");
            assert_ne!(found.ipv4.hooks, None);
            // Beside them, Istio's are seen all the same.
            let istio = IstioRules {
                filter: Filter::Nft,
                dns: false,
                ipv6: false,
            };
            istio.write(None).expect("Istio's rules");
            let found = read(&mut census, netns);
            assert_eq!(found.verdict, Rules::Present, "{program:?} {input}: {found:?}");
        });
    }
}

#[test]
fn a_table_too_long_to_follow_is_unknown() {
    if !meshmedic_lab::need::packet_filters("kernel: long tables") {
        return;
    }
    let mut census = load().census;
    let mut long = "*nat\n".to_owned();
    for n in 0..200 {
        long.push_str(&format!(":CHAIN_{n} - [0:0]\n"));
    }
    for n in 0..200 {
        long.push_str(&format!("-A OUTPUT -j CHAIN_{n}\n-A PREROUTING -j CHAIN_{n}\n"));
    }
    long.push_str("COMMIT\n");
    for program in ["iptables-legacy-restore", "iptables-nft-restore"] {
        within(|netns| {
            let _listener = listen("0.0.0.0:15001");
            run(None, &[program], &long).expect("a long table");
            let found = read(&mut census, netns);
            assert_eq!(
                (found.verdict, found.reason()),
                (Rules::Unknown, Some(Unfollowed::TooLong)),
                "{program}: {found:?}"
            );
        });
    }
}

#[test]
fn without_what_reads_them_rules_are_unknown_and_listeners_are_not() {
    if !meshmedic_lab::need::ebpf("kernel: census without rules") {
        return;
    }
    let without = Options {
        census_rules: false,
        ..options()
    };
    let mut census = kernel::load(&without).expect("load").census;
    within(|netns| {
        let _listener = listen("0.0.0.0:15001");
        assert_eq!(once(&mut census, netns), PodRules::unknown(Unfollowed::Refused));
    });
    assert_eq!(through(&mut census, std::process::id()), None);
    assert_eq!(census.unmet(), Unfollowed::Refused);
}
