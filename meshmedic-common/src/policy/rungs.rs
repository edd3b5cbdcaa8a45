// SPDX-License-Identifier: Apache-2.0
//! The ways to bring a pod back, and which of them are left.

use super::{Standing, Withheld};

/// The ways in which a pod may be brought back, gentlest first. They are always tried in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rungs {
    /// istio-cni is asked to take the running pod in again.
    pub heal: bool,
    /// Its label takes it out of the mesh and in again.
    pub toggle: bool,
    /// It is evicted, so that its controller creates another one.
    pub restart: bool,
}

impl Rungs {
    /// What holds unless the user says otherwise.
    pub const DEFAULT: Self = Self {
        heal: true,
        toggle: false,
        restart: true,
    };
    const ALL: Self = Self {
        heal: true,
        toggle: true,
        restart: true,
    };

    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            heal: self.heal && other.heal,
            toggle: self.toggle && other.toggle,
            restart: self.restart && other.restart,
        }
    }

    /// What the annotations of a pod and its namespace leave. They only narrow.
    pub fn of(standing: &Standing) -> Result<Self, Withheld> {
        let mut left = Self::ALL;
        for said in [&standing.facts.strategy, &standing.namespace_strategy]
            .into_iter()
            .flatten()
        {
            // Whoever wrote it meant something; better to leave the pod alone than to guess.
            left = left.and(said.parse().map_err(|_| Withheld::Untrusted)?);
        }
        Ok(left)
    }
}

/// A list of ways that names something else, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a strategy: name one or more of heal, toggle and restart, separated by commas")]
pub struct BadRungs(String);

impl std::str::FromStr for Rungs {
    type Err = BadRungs;

    fn from_str(text: &str) -> Result<Self, BadRungs> {
        let mut rungs = Self {
            heal: false,
            toggle: false,
            restart: false,
        };
        for word in text.split(',').map(str::trim) {
            match word {
                "heal" => rungs.heal = true,
                "toggle" => rungs.toggle = true,
                "restart" => rungs.restart = true,
                other => return Err(BadRungs(crate::text::clean(other, 32))),
            }
        }
        Ok(rungs)
    }
}

impl std::fmt::Display for Rungs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = [
            (self.heal, "heal"),
            (self.toggle, "toggle"),
            (self.restart, "restart"),
        ];
        let words: Vec<&str> = named
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| *word)
            .collect();
        f.write_str(&words.join(","))
    }
}
