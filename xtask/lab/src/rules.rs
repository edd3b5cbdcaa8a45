// SPDX-License-Identifier: Apache-2.0
//! Packet filter rules in a network namespace: as istio-cni writes them, and as others do.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Which packet filter takes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    IptablesNft,
    /// `nft`, in tables of Istio's own.
    Nft,
}

impl Filter {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Legacy, Self::IptablesNft, Self::Nft];
}

/// The rules that istio-cni writes into a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IstioRules {
    /// By which packet filter.
    pub filter: Filter,
    /// Whether DNS is captured, too.
    pub dns: bool,
    /// Whether IPv6 is.
    pub ipv6: bool,
}

/// The programs without which no rules can be made.
pub const PROGRAMS: [&str; 5] = [
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "nft",
];

impl IstioRules {
    /// Writes them into the namespace of a process; `None` is that of the calling thread.
    ///
    /// # Errors
    /// Where a program is missing or fails.
    pub fn write(&self, pid: Option<u32>) -> io::Result<()> {
        match self.filter {
            Filter::Nft => run(pid, &["nft", "-f", "-"], &self.nft()),
            filter => {
                run(
                    pid,
                    &[restore(filter, false)],
                    &self.iptables("127.0.0.1/32", "169.254.7.127"),
                )?;
                if self.ipv6 {
                    run(
                        pid,
                        &[restore(filter, true)],
                        &self.iptables("::1/128", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"),
                    )?;
                }
                Ok(())
            }
        }
    }

    /// Takes them away as istio-cni does: its chains and the jumps to them, and nothing of what they stood in.
    ///
    /// # Errors
    /// Where a program is missing or fails.
    pub fn remove(&self, pid: Option<u32>) -> io::Result<()> {
        let empty = "*mangle\nCOMMIT\n*nat\nCOMMIT\n*raw\nCOMMIT\n";
        match self.filter {
            Filter::Nft => run(
                pid,
                &["nft", "-f", "-"],
                "delete table inet istio-ambient-nat\ndelete table inet istio-ambient-mangle\n",
            ),
            filter => {
                run(pid, &[restore(filter, false)], empty)?;
                if self.ipv6 {
                    run(pid, &[restore(filter, true)], empty)?;
                }
                Ok(())
            }
        }
    }

    fn iptables(&self, loopback: &str, probe: &str) -> String {
        let dns = if self.dns {
            format!(
                "-A ISTIO_OUTPUT ! -o lo -p udp -m mark ! --mark 0x539/0xfff -m udp --dport 53 -j REDIRECT --to-ports 15053\n\
                 -A ISTIO_OUTPUT ! -d {loopback} -p tcp -m tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053\n"
            )
        } else {
            String::new()
        };
        let raw = if self.dns {
            "*raw\n:ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -j ISTIO_OUTPUT\n\
             -A ISTIO_OUTPUT -p udp -m mark --mark 0x539/0xfff -m udp --dport 53 -j CT --zone 1\n\
             -A ISTIO_PRERT -p udp -m mark ! --mark 0x539/0xfff -m udp --sport 53 -j CT --zone 1\nCOMMIT\n"
        } else {
            ""
        };
        format!(
            "*mangle\n:ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -j ISTIO_OUTPUT\n\
             -A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff\n\
             -A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff\n\
             COMMIT\n*nat\n:ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n-A PREROUTING -j ISTIO_PRERT\n\
             -A ISTIO_PRERT -s {probe} -p tcp -m tcp -j ACCEPT\n-A ISTIO_OUTPUT -d {probe} -p tcp -m tcp -j ACCEPT\n\
             -A ISTIO_PRERT ! -d {loopback} -p tcp -m tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006\n\
             {dns}-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT\n\
             -A ISTIO_OUTPUT ! -d {loopback} -o lo -j ACCEPT\n\
             -A ISTIO_OUTPUT ! -d {loopback} -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001\nCOMMIT\n{raw}"
        )
    }

    fn nft(&self) -> String {
        let mut families = vec![("ip", "127.0.0.1/32", "169.254.7.127")];
        if self.ipv6 {
            families.push(("ip6", "::1/128", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"));
        }
        let mut rules = String::new();
        for (family, loopback, probe) in families {
            let nat = "add rule inet istio-ambient-nat";
            rules.push_str(&format!(
                "{nat} istio-prerouting meta l4proto tcp {family} saddr {probe} counter accept\n\
                 {nat} istio-output meta l4proto tcp {family} daddr {probe} counter accept\n\
                 {nat} istio-prerouting {family} daddr != {loopback} tcp dport != 15008 mark and 0xfff != 0x539 counter redirect to :15006\n"
            ));
            if self.dns {
                rules.push_str(&format!(
                    "{nat} istio-output {family} daddr != {loopback} tcp dport 53 mark and 0xfff != 0x539 counter redirect to :15053\n"
                ));
            }
            rules.push_str(&format!(
                "{nat} istio-output {family} daddr != {loopback} oifname lo counter accept\n\
                 {nat} istio-output meta l4proto tcp {family} daddr != {loopback} mark and 0xfff != 0x539 counter redirect to :15001\n"
            ));
        }
        let table = |name: &str, prerouting: &str, output: &str| {
            let table = format!("inet istio-ambient-{name}");
            format!(
                "add table {table}\n\
                 add chain {table} prerouting {{ type {prerouting} ; }}\nadd chain {table} output {{ type {output} ; }}\n\
                 add chain {table} istio-prerouting\nadd chain {table} istio-output\n\
                 add rule {table} output jump istio-output\nadd rule {table} prerouting jump istio-prerouting\n"
            )
        };
        format!(
            "{}{rules}{}add rule inet istio-ambient-mangle istio-prerouting meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111\n\
             add rule inet istio-ambient-mangle istio-output ct mark and 0xfff == 0x111 counter meta mark set ct mark\n",
            table(
                "nat",
                "nat hook prerouting priority -100",
                "nat hook output priority -100"
            ),
            table(
                "mangle",
                "filter hook prerouting priority -150",
                "route hook output priority -150"
            ),
        )
    }
}

const fn restore(filter: Filter, ipv6: bool) -> &'static str {
    match (filter, ipv6) {
        (Filter::Legacy, false) => "iptables-legacy-restore",
        (Filter::Legacy, true) => "ip6tables-legacy-restore",
        (_, false) => "iptables-nft-restore",
        (_, true) => "ip6tables-nft-restore",
    }
}

/// Runs a program of the packet filter in the namespace of a process, `None` being the calling thread's.
///
/// # Errors
/// Where it is missing or fails.
pub fn run(pid: Option<u32>, program: &[&str], input: &str) -> io::Result<()> {
    let mut words: Vec<String> = Vec::new();
    if let Some(pid) = pid {
        words.extend([
            "nsenter".to_owned(),
            format!("--net=/proc/{pid}/ns/net"),
            "--".to_owned(),
        ]);
    }
    words.extend(program.iter().map(|&word| word.to_owned()));
    let (first, rest) = words.split_first().expect("a program");
    let mut child = Command::new(first)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", words.join(" "))))
}
