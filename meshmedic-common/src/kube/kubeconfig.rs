// SPDX-License-Identifier: Apache-2.0
//! What is said of a kubeconfig that cannot be used: where it is wrong, and nothing of what it says. It holds secrets,
//! and messages end up in logs.

use kube::config::KubeconfigError;

/// Why a kubeconfig cannot be used, without a word of it.
#[must_use]
pub fn describe(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(cause) => {
            let place = cause
                .location()
                .map(|place| format!(" at line {}, column {}", place.line(), place.column()));
            format!(
                "it is no YAML of a kubeconfig{}; `kubectl config view` with the same file says more",
                place.unwrap_or_default()
            )
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::*;

    #[test]
    fn a_kubeconfig_that_cannot_be_read_keeps_its_secrets() {
        for text in [
            "apiVersion: v1\nusers:\n- name: a\n  user:\n    token: SECRET\n   bad: [\n",
            "apiVersion: v1\nusers: SECRET\n",
            "apiVersion: v1\nusers:\n- name: a\n  user: { token: [SECRET] }\n",
        ] {
            let error = Kubeconfig::from_yaml(text).unwrap_err();
            let said = describe(&error);
            assert!(said.contains("line "), "{said}");
            assert!(!said.contains("SECRET") && !said.contains('\n'), "{said}");
        }
    }
}
