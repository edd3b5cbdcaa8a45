// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' amounts of CPU and memory.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// In cores or bytes; `None` if it is no amount. `100m` is 0.1, `1Ki` is 1024.
pub(super) fn amount(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        // `1e3`, `1E-2`.
        _ => {
            let exponent = unit.strip_prefix(['e', 'E']).map(|_| text)?;
            return exponent.parse().ok();
        }
    };
    Some(number * factor)
}

/// Cores, for people.
pub(super) fn cores(amount: f64) -> String {
    if amount < 10.0 {
        format!("{:.0}m CPU", amount * 1000.0)
    } else {
        format!("{amount:.1} CPU")
    }
}

/// Bytes, for people.
pub(super) fn bytes(amount: f64) -> String {
    let mebibytes = amount / 1_048_576.0;
    if mebibytes < 10_240.0 {
        format!("{mebibytes:.0}Mi")
    } else {
        format!("{:.1}Gi", mebibytes / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("100m", Some(0.1)),
            ("2", Some(2.0)),
            ("0.5", Some(0.5)),
            ("128Mi", Some(134_217_728.0)),
            ("1k", Some(1000.0)),
            ("1e3", Some(1000.0)),
            ("", None),
            ("Mi", None),
            ("1Xi", None),
            ("many", None),
        ] {
            let read = amount(&Quantity(text.to_owned()));
            let same = match (read, expected) {
                (Some(read), Some(expected)) => (read - expected).abs() < 1e-9,
                (read, expected) => read.is_none() && expected.is_none(),
            };
            assert!(same, "{text}: {read:?}");
        }
        assert_eq!(
            (cores(0.3), cores(50.0)),
            ("300m CPU".to_owned(), "50.0 CPU".to_owned())
        );
        assert_eq!(bytes(134_217_728.0), "128Mi");
        assert_eq!(bytes(53_687_091_200.0), "50.0Gi");
    }
}
