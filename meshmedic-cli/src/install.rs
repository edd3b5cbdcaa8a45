// SPDX-License-Identifier: Apache-2.0
//! `meshmedic install --print`: the manifest for this cluster, made from what it sees there, and never applied.

mod manifest;

use std::time::Duration;

use meshmedic_common::identity::{Component, Identity};
use meshmedic_common::kube::facts::pod_facts;

use crate::connection::{self, Connection, ConnectionArgs};
use crate::exit::Usage;
use crate::istio::IstioArgs;
use crate::output;
use crate::selection::claimants;
use manifest::{Cluster, Repair, manifest};

const AFTER_HELP: &str = "\
It reads where Istio is, what the API serves and which platform this is, and
prints objects that kubectl takes. Istio must be in the namespaces of
--istio-namespace: another one is named and never trusted by itself. To change
more than this, use the Helm chart or the kustomization in deploy.

Exit codes:
  0  the manifest was printed
  2  wrong usage, or --repair without what would narrow it
  3  Istio was not found where agents would look, or the API did not answer

Examples:
  meshmedic install --print | kubectl apply -f -
  meshmedic install --print --repair heal > meshmedic.yaml";

/// Arguments of `meshmedic install`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Print the manifest; this command applies nothing
    #[arg(long, required = true)]
    print: bool,
    /// What the agents may do with pods that fell out of the mesh
    #[arg(long, value_enum, default_value_t)]
    repair: Repair,
    /// The image of the agents
    #[arg(long, value_name = "IMAGE", default_value = manifest::IMAGE, value_parser = manifest::image)]
    image: String,
    /// Let agents heal although no admission policy narrows their right to patch the status of pods
    #[arg(long)]
    accept_unrestricted_pod_status: bool,
    #[command(flatten)]
    istio: IstioArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Prints it; gives the exit code.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    debug_assert!(args.print, "clap requires it");
    connection::runtime()?.block_on(async {
        let mut connection = args.connection.connect().await?;
        // No agents are asked: there are none yet.
        args.istio.settle(&mut connection, None, Duration::ZERO).await;
        let cluster = look(&connection).await?;
        manifest::may_be_granted(&cluster, args.repair, args.accept_unrestricted_pod_status)
            .map_err(Usage)?;
        output::write(&manifest(&cluster, args.repair, &args.image))?;
        Ok(0)
    })
}

/// What the manifest depends on.
async fn look(connection: &Connection) -> anyhow::Result<Cluster> {
    let istio = connection.istio.identity.clone();
    for component in [Component::Ztunnel, Component::Cni] {
        find(connection, &istio, component).await?;
    }
    let client = &connection.client;
    let asked = connection.ask("asking for the version of Kubernetes", || {
        client.apiserver_version()
    });
    let version = asked.await?.git_version;
    Ok(Cluster {
        istio,
        openshift: serves(
            connection,
            "security.openshift.io/v1",
            "securitycontextconstraints",
        )
        .await?,
        monitoring: serves(connection, "monitoring.coreos.com/v1", "prometheusrules").await?,
        policies: serves(
            connection,
            "admissionregistration.k8s.io/v1",
            "validatingadmissionpolicies",
        )
        .await?,
        gke: version.contains("-gke."),
        version,
    })
}

/// That a part of Istio's is where agents would look for it.
async fn find(connection: &Connection, istio: &Identity, component: Component) -> anyhow::Result<()> {
    let pods = claimants(connection, component, pod_facts).await?;
    if pods.iter().any(|pod| istio.proves(pod, component)) {
        return Ok(());
    }
    let strangers: Vec<_> = istio.strangers(pods.iter()).collect();
    let why = istio.hint(component, &strangers).unwrap_or_else(|| {
        format!(
            "no {component} is in {}: is Istio's ambient mode installed here?",
            istio.places()
        )
    });
    Err(anyhow::anyhow!("{why}"))
}

/// Whether the API has a resource; a group that it lacks is no error.
async fn serves(connection: &Connection, group: &str, resource: &str) -> anyhow::Result<bool> {
    let what = format!("asking what {group} has");
    let client = &connection.client;
    match connection
        .ask(&what, || client.list_api_group_resources(group))
        .await
    {
        Ok(list) => Ok(list.resources.iter().any(|found| found.name == resource)),
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}
