// SPDX-License-Identifier: Apache-2.0
//! What an API server can be made to do wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault: which requests meet it, how often, and what happens to them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub(crate) action: Action,
    pub(crate) times: Option<u64>,
    pub(crate) verb: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) in_earnest: bool,
}

/// What happens to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Action {
    Latency(Duration),
    Status {
        code: u16,
        retry_after: Option<u64>,
        message: Option<String>,
    },
    DropBefore,
    DropAfter,
    Stale(u64),
    Silence,
}

impl Fault {
    fn new(action: Action) -> Self {
        Self {
            action,
            times: None,
            verb: None,
            resource: None,
            namespace: None,
            name: None,
            user: None,
            user_agent: None,
            in_earnest: false,
        }
    }

    /// The request is carried out late.
    #[must_use]
    pub fn latency(by: Duration) -> Self {
        Self::new(Action::Latency(by))
    }

    /// The request is answered with an error, and nothing is done.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::new(Action::Status {
            code,
            retry_after: None,
            message: None,
        })
    }

    /// Too many requests, come back in that many seconds.
    #[must_use]
    pub fn retry_after(code: u16, seconds: u64) -> Self {
        Self::new(Action::Status {
            code,
            retry_after: Some(seconds),
            message: None,
        })
    }

    /// An error with a message of its own, such as an admission webhook's.
    #[must_use]
    pub fn refusal(code: u16, message: &str) -> Self {
        Self::new(Action::Status {
            code,
            retry_after: None,
            message: Some(message.to_owned()),
        })
    }

    /// The connection is dropped, and nothing was done.
    #[must_use]
    pub fn drop_before() -> Self {
        Self::new(Action::DropBefore)
    }

    /// The connection is dropped after the work was done: whoever asked cannot know.
    #[must_use]
    pub fn drop_after() -> Self {
        Self::new(Action::DropAfter)
    }

    /// A get or a list shows what was at an earlier resource version.
    #[must_use]
    pub fn stale(version: u64) -> Self {
        Self::new(Action::Stale(version))
    }

    /// Watches stay open and say nothing, not even bookmarks; when this ends they say what they kept back.
    #[must_use]
    pub fn silence() -> Self {
        Self::new(Action::Silence)
    }

    /// Only so many requests meet it; without this, all do until it ends.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Only requests with this verb: get, list, watch, create, update, patch, delete, deletecollection.
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only this resource, with its subresource: `pods`, `pods/eviction`; `pods/*` is both and all others.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only this namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Only the object of this name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only requests of this user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Only requests whose user agent contains this.
    #[must_use]
    pub fn user_agent(mut self, part: &str) -> Self {
        self.user_agent = Some(part.to_owned());
        self
    }

    /// Only requests that do something: no dry runs.
    #[must_use]
    pub const fn in_earnest(mut self) -> Self {
        self.in_earnest = true;
        self
    }

    /// Whether a request meets it.
    pub(crate) fn meets(&self, request: &super::Request) -> bool {
        let is = |wanted: &Option<String>, given: &str| wanted.as_ref().is_none_or(|wanted| wanted == given);
        let resource = self.resource.as_ref().is_none_or(|wanted| {
            *wanted == request.full_resource() || wanted.strip_suffix("/*") == Some(request.resource.as_str())
        });
        let verb = match self.action {
            Action::Silence => request.verb == "watch",
            Action::Stale(_) => matches!(request.verb.as_str(), "get" | "list"),
            _ => true,
        };
        verb && resource
            && !(self.in_earnest && request.is_dry_run())
            && is(&self.verb, &request.verb)
            && is(&self.namespace, &request.namespace)
            && is(&self.name, &request.name)
            && is(&self.user, &request.user)
            && self
                .user_agent
                .as_ref()
                .is_none_or(|part| request.user_agent.contains(part.as_str()))
    }
}

/// What an outage looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outage {
    /// Connections are reset, those that were open and new ones.
    Reset,
    /// Connections are accepted and never answered.
    Hang,
}
