// SPDX-License-Identifier: Apache-2.0
//! The log of requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A request that an API server had.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// Counts up.
    pub number: u64,
    /// get, list, watch, create, update, patch, delete or deletecollection; of a path that is no resource, the method.
    pub verb: String,
    /// The API group; empty for the core.
    pub group: String,
    /// The resource, in plural.
    pub resource: String,
    /// The subresource, or nothing.
    pub subresource: String,
    /// The namespace, or nothing.
    pub namespace: String,
    /// The object's name, or nothing.
    pub name: String,
    /// Of an eviction: the UID that the pod must have, or nothing.
    pub precondition: String,
    /// The path.
    pub path: String,
    /// What came after the question mark.
    pub query: String,
    /// Who it said it was.
    pub user_agent: String,
    /// Whose token it had.
    pub user: String,
    /// How it was answered; nothing while it is being worked on or when the connection was dropped before.
    pub code: Option<u16>,
    /// When it came, after the server's start.
    pub at: Duration,
}

impl Request {
    /// `pods`, or `pods/eviction`.
    #[must_use]
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// Whether it only asked what would happen.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.query.split('&').any(|part| part == "dryRun=All")
    }

    /// Whether it could have changed something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        )
    }
}
