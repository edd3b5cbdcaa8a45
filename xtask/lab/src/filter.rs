// SPDX-License-Identifier: Apache-2.0
//! The packet filter of the network namespace that the calling thread is in: as much of Istio's rules as shows that
//! they are there. What they match is let through, since nobody here is behind the listeners.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Istio's own table of nft.
const TABLE: &str = "istio-ambient-nat";
/// The base chains by the hook's number, and Istio's chain behind each.
const CHAINS: [(u32, &str, &str); 2] = [
    (0, "prerouting", "istio-prerouting"),
    (3, "output", "istio-output"),
];
/// `NF_IP_PRI_NAT_DST`.
const PRIORITY: i32 = -100;

/// `NFPROTO_INET`
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NFTABLES << 8;
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_CREATE` and `NLM_F_APPEND`
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// `NLMSG_ERROR`, which is also an acknowledgement.
const ERROR: u16 = 2;
/// `NFT_JUMP` and `NF_ACCEPT`
const JUMP: i32 = -3;
const ACCEPT: i32 = 1;

/// Writes Istio's table, or takes it away.
pub(crate) fn redirect(on: bool) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut batch = Batch::default();
    batch.message(BATCH_BEGIN, 0, NFTABLES.to_be(), &[]);
    if on {
        batch.ask(NEW_TABLE, CREATE, &text(1, TABLE));
        for (hook, base, chain) in CHAINS {
            let place = [word(1, hook), word(2, PRIORITY.cast_unsigned())].concat();
            let named = |name| [text(1, TABLE), text(3, name)].concat();
            let hooked = [named(base), attribute(4 | NESTED, &place), text(7, "nat")].concat();
            batch.ask(NEW_CHAIN, CREATE, &hooked);
            batch.ask(NEW_CHAIN, CREATE, &named(chain));
            batch.ask(NEW_RULE, CREATE | APPEND, &rule(base, JUMP, Some(chain)));
            batch.ask(NEW_RULE, CREATE | APPEND, &rule(chain, ACCEPT, None));
        }
    } else {
        batch.ask(DELETE_TABLE, 0, &text(1, TABLE));
    }
    batch.message(BATCH_END, 0, NFTABLES.to_be(), &[]);
    socket.send(&batch.bytes, 0)?;
    let mut answered = 0;
    while answered < batch.asked {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while let Some((length, kind, code)) = header(rest) {
            if kind == ERROR {
                answered += 1;
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(())
}

/// A message's length, its kind, and the code of an error.
fn header(bytes: &[u8]) -> Option<(usize, u16, i32)> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let length = usize::try_from(word(0)?).ok().filter(|length| *length >= 16)?;
    let code = word(16).map_or(0, u32::cast_signed);
    Some((length, (word(4)? & 0xffff) as u16, code))
}

/// A rule of one verdict.
fn rule(chain: &str, verdict: i32, to: Option<&str>) -> Vec<u8> {
    let to = to.map_or_else(Vec::new, |to| text(2, to));
    let verdict = attribute(2 | NESTED, &[word(1, verdict.cast_unsigned()), to].concat());
    // To the register of verdicts.
    let data = [word(1, 0), attribute(2 | NESTED, &verdict)].concat();
    let expression = [text(1, "immediate"), attribute(2 | NESTED, &data)].concat();
    let expressions = attribute(1 | NESTED, &expression);
    [
        text(1, TABLE),
        text(2, chain),
        attribute(4 | NESTED, &expressions),
    ]
    .concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn word(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// What the kernel takes in whole or not at all.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How many answers will come.
    asked: u32,
}

impl Batch {
    fn ask(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.asked += 1;
        self.message(kind, flags | ACK, 0, attributes);
    }

    fn message(&mut self, kind: u16, flags: u16, resource: u16, attributes: &[u8]) {
        let family = if resource == 0 { INET } else { 0 };
        let length = 20 + attributes.len();
        self.bytes.extend((length as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.asked.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_ne_bytes());
        self.bytes.extend(attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_there_and_gone_as_nft_shows_it() {
        if !crate::need::packet_filters("lab: the packet filter") {
            return;
        }
        std::thread::spawn(|| {
            crate::sys::new_netns().unwrap();
            let listed = || {
                let output = std::process::Command::new("nft")
                    .args(["list", "ruleset"])
                    .output()
                    .unwrap();
                String::from_utf8(output.stdout).unwrap()
            };
            redirect(true).unwrap();
            let there = listed();
            for line in [
                "table inet istio-ambient-nat",
                "jump istio-output",
                "jump istio-prerouting",
                "hook output priority",
            ] {
                assert!(there.contains(line), "{there}");
            }
            redirect(false).unwrap();
            assert_eq!(listed(), "");
        })
        .join()
        .unwrap();
    }
}
