// SPDX-License-Identifier: Apache-2.0
//! Whom a command takes for Istio: as it is told, else as the agents are configured, else as Istio's charts have it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::ArgAction;
use meshmedic_common::identity::{FLAG, Identity, check_namespace};

use crate::connection::{Connection, Istio};
use crate::ways::{AgentArgs, first_report};

/// Where Istio is; flattened into every command that judges pods by it.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Istio")]
pub(crate) struct IstioArgs {
    /// A namespace of Istio's: only pods there count as ztunnel, istio-cni or istiod. May be given several times
    /// [default: as the agents have it, else istio-system,kube-system]
    #[arg(long, value_name = "NAMESPACE", value_parser = check_namespace, value_delimiter = ',', env = "MESHMEDIC_ISTIO_NAMESPACE")]
    istio_namespace: Vec<String>,
    /// istiod runs outside the cluster: in Istio's namespaces its endpoints count without pods [default: as the agents
    /// have it, else false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set, value_parser = crate::go_bool, env = "MESHMEDIC_EXTERNAL_ISTIOD")]
    external_istiod: Option<bool>,
}

impl IstioArgs {
    /// Asks an agent, where agents are asked at all, and has the connection go by the result.
    pub(crate) async fn settle(
        &self,
        connection: &mut Connection,
        agents: Option<&AgentArgs>,
        timeout: Duration,
    ) {
        let heard = match agents {
            Some(agents) => {
                let asked = first_report(connection, agents, timeout);
                tokio::time::timeout(timeout, asked).await.unwrap_or_default()
            }
            None => None,
        };
        let agents = heard.as_ref().and_then(|heard| heard.report.istio.clone());
        let identity = self.over(agents.clone().unwrap_or_default());
        let notes = agents.as_ref().and_then(|agents| difference(&identity, agents));
        connection.istio = Istio {
            identity,
            notes: notes.into_iter().collect(),
            heard: Arc::new(Mutex::new(heard)),
        };
    }

    fn over(&self, base: Identity) -> Identity {
        Identity {
            namespaces: if self.istio_namespace.is_empty() {
                base.namespaces
            } else {
                self.istio_namespace.clone()
            },
            external_istiod: self.external_istiod.unwrap_or(base.external_istiod),
        }
    }
}

/// What to say where agents are configured otherwise: they judge and repair by other pods.
pub(crate) fn difference(own: &Identity, agents: &Identity) -> Option<String> {
    let set = |identity: &Identity| {
        let mut namespaces = identity.namespaces.clone();
        namespaces.sort();
        namespaces.dedup();
        namespaces
    };
    let placed = (set(own) != set(agents)).then(|| {
        format!(
            "the agents look for Istio in {}, this command in {}",
            agents.places(),
            own.places()
        )
    });
    let external = (own.external_istiod != agents.external_istiod).then(|| {
        format!(
            "the agents have --external-istiod={}, this command has it {}",
            agents.external_istiod, own.external_istiod
        )
    });
    let parts: Vec<String> = placed.into_iter().chain(external).collect();
    (!parts.is_empty()).then(|| format!("{}: they may judge otherwise ({FLAG})", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespaces: &[&str], external: bool) -> Identity {
        Identity::new(namespaces.iter().map(|&name| name.to_owned()).collect(), external)
    }

    #[test]
    fn a_flag_goes_before_the_agents_and_these_before_the_default() {
        let agents = of(&["mesh"], true);
        let none = IstioArgs::default();
        assert_eq!(none.over(Identity::default()), Identity::default());
        assert_eq!(none.over(agents.clone()), agents);
        let told = IstioArgs {
            istio_namespace: vec!["istio-b".to_owned()],
            external_istiod: Some(false),
        };
        assert_eq!(told.over(agents), of(&["istio-b"], false));
    }

    #[test]
    fn only_what_differs_is_told() {
        let own = of(&["a", "b"], false);
        assert_eq!(difference(&own, &of(&["b", "a", "a"], false)), None);
        assert_eq!(
            difference(&own, &of(&["c"], true)).unwrap(),
            "the agents look for Istio in c, this command in a, b; the agents have --external-istiod=true, this \
             command has it false: they may judge otherwise (--istio-namespace)"
        );
    }
}
