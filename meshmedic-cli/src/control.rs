// SPDX-License-Identifier: Apache-2.0
//! `meshmedic pause` and `meshmedic resume`: the switch that every agent obeys.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use meshmedic_common::kube::control::{BY, CONTROL, Pause, REASON, REPAIRS, SINCE};
use meshmedic_common::text::clean;
use serde_json::json;

use crate::connection::{self, Connection, ConnectionArgs, Failure};
use crate::exit::Usage;
use crate::output;

/// How often the switch is read anew because somebody else wrote it meanwhile.
const TRIES: u32 = 5;
/// A reason is one sentence, not a document.
const LONGEST_REASON: usize = 400;

/// Arguments of `meshmedic pause`.
#[derive(clap::Args)]
#[command(after_help = PAUSE_HELP)]
pub(crate) struct PauseArgs {
    /// Why; shown to everyone who finds repairs paused
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who pauses [default: this user on this machine]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    place: Place,
}

const PAUSE_HELP: &str = "\
Every agent stops repairing at once, and goes on finding and reporting. A
repair whose eviction was accepted already is followed to its end.
`meshmedic resume` ends the pause, `meshmedic status` shows it.

Needs the right to get, create and patch ConfigMaps in the agents' namespace.";

/// Arguments of `meshmedic resume`.
#[derive(clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    place: Place,
}

/// Where the switch is.
#[derive(clap::Args)]
struct Place {
    /// The namespace of MeshMedic's agents
    #[arg(long, value_name = "NAMESPACE", default_value = "meshmedic")]
    agent_namespace: String,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Reads the switch. `None` where repairs go on.
pub(crate) async fn read(connection: &Connection, namespace: &str) -> Result<Option<Pause>, Failure> {
    let switch = Switch::new(connection, namespace);
    Ok(switch.get().await?.as_ref().and_then(Pause::read))
}

/// Pauses all repairs.
pub(crate) fn pause(args: &PauseArgs) -> anyhow::Result<u8> {
    let reason = clean(&args.reason, usize::MAX);
    if reason.is_empty() {
        return Err(Usage("--reason \"\" explains nothing: write a few words".to_owned()).into());
    }
    if reason.len() > LONGEST_REASON {
        return Err(Usage(format!("--reason has more than {LONGEST_REASON} bytes")).into());
    }
    connection::runtime()?.block_on(async {
        let connection = args.place.connection.connect().await?;
        let switch = Switch::new(&connection, &args.place.agent_namespace);
        let by = args
            .by
            .clone()
            .or_else(whoami)
            .map(|by| clean(&by, LONGEST_REASON));
        let said = switch.pause(&reason, by).await?;
        output::write(&output::wrap(&said, 0))?;
        Ok(0)
    })
}

/// Lets repairs go on.
pub(crate) fn resume(args: &ResumeArgs) -> anyhow::Result<u8> {
    connection::runtime()?.block_on(async {
        let connection = args.place.connection.connect().await?;
        let switch = Switch::new(&connection, &args.place.agent_namespace);
        let said = switch.resume().await?;
        output::write(&output::wrap(&said, 0))?;
        Ok(0)
    })
}

/// The ConfigMap.
struct Switch<'a> {
    connection: &'a Connection,
    api: Api<ConfigMap>,
    namespace: &'a str,
    what: String,
}

impl<'a> Switch<'a> {
    fn new(connection: &'a Connection, namespace: &'a str) -> Self {
        Self {
            connection,
            api: Api::namespaced(connection.client.clone(), namespace),
            namespace,
            what: format!("ConfigMap {namespace}/{CONTROL}"),
        }
    }

    async fn get(&self) -> Result<Option<ConfigMap>, Failure> {
        let what = format!("reading {}", self.what);
        self.connection.ask(&what, || self.api.get_opt(CONTROL)).await
    }

    async fn pause(&self, reason: &str, by: Option<String>) -> anyhow::Result<String> {
        for _ in 0..TRIES {
            let found = self.get().await?;
            let before = found.as_ref().and_then(Pause::read);
            if let Some(before) = before.as_ref().filter(|before| before.reason == reason) {
                return Ok(format!("Repairs are {} already.", before.sentence()));
            }
            let now = self.connection.clock.now().unwrap_or_else(Timestamp::now);
            let pause = Pause {
                reason: reason.to_owned(),
                by: by.clone(),
                since: Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
            };
            let written = match found {
                Some(found) => {
                    // Whoever paused before is not who pauses now.
                    let mut data = json!({ BY: null });
                    for (key, value) in pause.data() {
                        data[key] = value.into();
                    }
                    self.patch(&found, data).await?
                }
                None => self.create(&pause).await?,
            };
            if !written {
                continue;
            }
            let again = before.map_or_else(String::new, |before| {
                format!("\nBefore, they were {}.", before.sentence())
            });
            return Ok(format!(
                "Repairs are {}.{again}\n`meshmedic resume` ends the pause.",
                pause.sentence()
            ));
        }
        anyhow::bail!("{} changes faster than it can be written: try again", self.what)
    }

    async fn resume(&self) -> anyhow::Result<String> {
        for _ in 0..TRIES {
            let Some(found) = self.get().await? else {
                return Ok(format!("Repairs were not paused: there is no {}.", self.what));
            };
            let Some(before) = Pause::read(&found) else {
                return Ok(format!("Repairs were not paused by {}.", self.what));
            };
            let none = json!({ REPAIRS: null, REASON: null, BY: null, SINCE: null });
            if self.patch(&found, none).await? {
                return Ok(format!("Repairs resumed. They were {}.", before.sentence()));
            }
        }
        anyhow::bail!("{} changes faster than it can be written: try again", self.what)
    }

    /// Writes these keys and leaves the others as they are. False if somebody else wrote meanwhile.
    async fn patch(&self, found: &ConfigMap, data: serde_json::Value) -> Result<bool, Failure> {
        let version = found.metadata.resource_version.as_deref();
        let patch = json!({ "metadata": { "resourceVersion": version }, "data": data });
        let what = format!("writing {}", self.what);
        let parameters = PatchParams::default();
        let patch = Patch::Merge(&patch);
        let written = self
            .connection
            .act(&what, self.api.patch(CONTROL, &parameters, &patch))
            .await;
        settled(written)
    }

    async fn create(&self, pause: &Pause) -> anyhow::Result<bool> {
        let object = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONTROL.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(pause.data()),
            ..ConfigMap::default()
        };
        let what = format!("creating {}", self.what);
        let parameters = PostParams::default();
        let written = self
            .connection
            .act(&what, self.api.create(&parameters, &object))
            .await;
        match written {
            Err(failure) if failure.is_not_found() => anyhow::bail!(
                "there is no namespace {:?}: are the agents in another one (--agent-namespace)?",
                self.namespace
            ),
            written => Ok(settled(written)?),
        }
    }
}

/// Whether it is written; it is not where somebody else was faster.
fn settled(written: Result<ConfigMap, Failure>) -> Result<bool, Failure> {
    match written {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_conflict() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Who sits here, for people who read the switch; it proves nothing.
pub(crate) fn whoami() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME")).or_else(|| set("USERNAME"));
    #[cfg(unix)]
    let user = user.or_else(|| Some(format!("uid {}", rustix::process::getuid().as_raw())));
    let user = user?;
    #[cfg(unix)]
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let machine = set("COMPUTERNAME").unwrap_or_default();
    Some(format!("{user}@{machine}"))
}
