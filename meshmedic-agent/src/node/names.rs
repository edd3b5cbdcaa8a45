// SPDX-License-Identifier: Apache-2.0
//! What pods are called, from the kubelet's log folders `<namespace>_<name>_<uid>`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use meshmedic_common::uid::PodUid;

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The names of the pods whose log folders are here.
#[derive(Debug)]
pub struct PodNames {
    folder: PathBuf,
    names: HashMap<PodUid, PodName>,
}

impl PodNames {
    /// Names from a folder such as `/var/log/pods`, none read yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            names: HashMap::new(),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads the folder's entries anew. Without the folder, the names known so far remain.
    pub fn refresh(&mut self) -> std::io::Result<()> {
        let entries = std::fs::read_dir(&self.folder)?;
        self.names = entries
            .flatten()
            .filter_map(|entry| parse(entry.file_name().to_str()?))
            .collect();
        Ok(())
    }

    /// What a pod is called.
    #[must_use]
    pub fn get(&self, uid: &PodUid) -> Option<&PodName> {
        self.names.get(uid)
    }
}

/// Namespaces and names hold no underscore; a UID has none here.
fn parse(folder: &str) -> Option<(PodUid, PodName)> {
    let mut parts = folder.splitn(3, '_');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let uid = PodUid::parse(parts.next()?)?;
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    (is_name(namespace) && is_name(name)).then(|| {
        (
            uid,
            PodName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kubelet_writes_and_nothing_else() {
        let uid = "6f3d2b1a-0c4e-4a8b-9d7f-5e2c1b0a9f8e";
        let (found, name) = parse(&format!("shop_cart-6d5f7c9b8-x2x4z_{uid}")).unwrap();
        assert_eq!(
            (found.as_str(), name.namespace.as_str(), name.name.as_str()),
            (uid, "shop", "cart-6d5f7c9b8-x2x4z")
        );
        let hash = "6f3d2b1a0c4e4a8b9d7f5e2c1b0a9f8e";
        assert!(parse(&format!("kube-system_etcd-node1_{hash}")).is_some());
        for bad in [
            "",
            "a_b",
            "a_b_c",
            &format!("shop__{uid}"),
            &format!("sh\u{1b}op_x_{uid}"),
            &format!("SHOP_x_{uid}"),
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
