// SPDX-License-Identifier: Apache-2.0
//! What this process may not do, and what that costs.

/// `CAP_SYS_PTRACE`, see capabilities(7).
const SYS_PTRACE: u32 = 19;

/// What is lost by each capability that is missing, in words. The kernel programs speak for themselves.
pub(crate) fn losses() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    losses_of(effective(&status))
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn losses_of(effective: Option<u64>) -> Vec<String> {
    match effective {
        Some(mask) if mask & (1 << SYS_PTRACE) == 0 => vec![
            "no CAP_SYS_PTRACE: kernel events cannot be matched to pods, and whose the listeners are stays \
             unproven. Run as root."
                .to_owned(),
        ],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let status = |mask: &str| format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask}\n");
        assert!(losses_of(effective(&status("000001ffffffffff"))).is_empty());
        assert!(losses_of(effective(&status("0000000000000000")))[0].contains("CAP_SYS_PTRACE"));
        assert!(losses_of(effective("nonsense")).is_empty());
    }
}
