// SPDX-License-Identifier: Apache-2.0
//! `meshmedic completion`, and what a shell or kubectl is offered while one types: flags, and the names of namespaces,
//! pods, nodes and contexts.

use std::ffi::{OsStr, OsString};
use std::iter;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, Shell};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::connection::{self, ConnectionArgs};
use crate::output;

/// Arguments of `meshmedic completion`.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

const AFTER_HELP: &str = "\
The script asks meshmedic itself while you type, so it offers the pods,
namespaces and nodes of the cluster that the line so far names.

Examples:
  source <(meshmedic completion bash)
  meshmedic completion zsh > \"${fpath[1]}/_meshmedic\"
  meshmedic completion fish > ~/.config/fish/completions/meshmedic.fish

For `kubectl meshmedic`, link the program under the name that kubectl asks:
  ln -s \"$(command -v meshmedic)\" ~/.local/bin/kubectl_complete-meshmedic";

const NAME: &str = "meshmedic";
/// The program that kubectl asks what may follow `kubectl meshmedic`.
const KUBECTL: &str = "kubectl_complete-meshmedic";
/// What the scripts set when they ask.
const VARIABLE: &str = "MESHMEDIC_COMPLETE";
/// Who types does not wait for a cluster that is away.
const PATIENCE: Duration = Duration::from_secs(3);
/// More names than these help nobody to choose; another letter makes them fewer.
const MOST: u32 = 500;

/// Prints the script.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    let shell = args.shell.to_string();
    let shells = Shells::builtins();
    let writer = shells
        .completer(&shell)
        .ok_or_else(|| anyhow::anyhow!("nothing completes for {shell}"))?;
    let mut script = Vec::new();
    writer.write_registration(VARIABLE, NAME, NAME, NAME, &mut script)?;
    output::write(&String::from_utf8(script)?)?;
    Ok(0)
}

/// Answers a shell or kubectl that asks what may come next; false where none of them asks.
pub(crate) fn answer(command: impl Fn() -> clap::Command) -> anyhow::Result<bool> {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let typed: Vec<OsString> = words.collect();
    if Path::new(&called).file_stem().is_some_and(|name| name == KUBECTL) {
        for_kubectl(offering(&command(), &typed), typed)?;
        return Ok(true);
    }
    let command = || offering(&command(), &typed);
    let asked = iter::once(called).chain(typed.iter().cloned());
    let here = std::env::current_dir().ok();
    Ok(CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .try_complete(asked, here.as_deref())?)
}

/// As kubectl wants it from its plugins: a candidate a line with its help, and then what to do with them.
fn for_kubectl(mut command: clap::Command, typed: Vec<OsString>) -> anyhow::Result<()> {
    /// Of cobra's directives: no files, and no blank after what goes on.
    const NO_FILES: u8 = 4;
    const NO_SPACE: u8 = 2;
    let last = typed.len();
    let words = iter::once(OsString::from(NAME)).chain(typed).collect();
    let here = std::env::current_dir().ok();
    let offered = complete(&mut command, words, last, here.as_deref())?;
    let mut out = String::new();
    for candidate in &offered {
        out += &candidate.get_value().to_string_lossy();
        if let Some(help) = candidate.get_help() {
            let help = help.to_string();
            out += &format!("\t{}", help.lines().next().unwrap_or_default());
        }
        out.push('\n');
    }
    let goes_on = |one: &CompletionCandidate| one.get_value().to_string_lossy().ends_with(['/', '=']);
    let directive = if !offered.is_empty() && offered.iter().all(goes_on) {
        NO_FILES | NO_SPACE
    } else {
        NO_FILES
    };
    output::write(&format!("{out}:{directive}\n"))
}

/// The command without what is hidden, its names completed from the cluster.
fn offering(command: &clap::Command, typed: &[OsString]) -> clap::Command {
    let line = Arc::new(Line::of(typed));
    let shown = |command: &&clap::Command| !command.is_hide_set();
    let commands = command.get_subcommands().filter(shown).cloned();
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(command.get_arguments().cloned())
        .subcommands(commands.map(|command| with_names(command, &line)))
}

fn with_names(command: clap::Command, line: &Arc<Line>) -> clap::Command {
    command.mut_args(|arg| {
        let what = match (arg.get_id().as_str(), arg.get_value_names()) {
            ("context", _) => Line::contexts,
            (_, Some([name])) if name == "NAMESPACE" => Line::namespaces,
            (_, Some([name])) if name == "POD" => Line::pods,
            (_, Some([name])) if name == "NODE" => Line::nodes,
            _ => return arg,
        };
        let line = Arc::clone(line);
        arg.add(ArgValueCompleter::new(move |current: &OsStr| {
            let current = current.to_string_lossy();
            let names = what(&line, &current).into_iter();
            names
                .filter(|name| name.starts_with(&*current))
                .map(CompletionCandidate::new)
                .collect()
        }))
    })
}

/// What of the line so far says which cluster is asked, and for which namespace.
#[derive(Debug, Default, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Line {
    /// Reads the flags that count; whatever else is typed so far is none of its business.
    fn of(typed: &[OsString]) -> Self {
        const FLAGS: [&str; 7] = [
            "-n",
            "--namespace",
            "--kubeconfig",
            "--context",
            "--cluster",
            "--user",
            "--as",
        ];
        let mut counted = vec![OsString::from(NAME)];
        let mut rest = typed.iter().peekable();
        while let Some(word) = rest.next() {
            let text = word.to_string_lossy();
            if FLAGS.contains(&&*text) {
                counted.extend([
                    word.clone(),
                    rest.peek().map_or_else(OsString::new, |&next| next.clone()),
                ]);
            } else if let Some((flag, _)) = text.split_once('=')
                && FLAGS.contains(&flag)
            {
                counted.push(word.clone());
            }
        }
        Self::try_parse_from(counted).unwrap_or_default()
    }

    fn contexts(&self, _: &str) -> Vec<String> {
        self.connection.contexts()
    }

    fn namespaces(&self, _: &str) -> Vec<String> {
        self.ask(async |client, _| names(&Api::<Namespace>::all(client)).await)
    }

    fn nodes(&self, _: &str) -> Vec<String> {
        self.ask(async |client, _| names(&Api::<Node>::all(client)).await)
    }

    /// Pods of the namespace by their names; and of any other one as `NAMESPACE/NAME`.
    fn pods(&self, current: &str) -> Vec<String> {
        let other = current.split_once('/').map(|(namespace, _)| namespace.to_owned());
        self.ask(async |client, default| {
            if let Some(namespace) = other {
                let pods = names(&Api::<Pod>::namespaced(client, &namespace)).await?;
                return Ok(pods
                    .into_iter()
                    .map(|name| format!("{namespace}/{name}"))
                    .collect());
            }
            let namespace = self.namespace.as_deref().unwrap_or(&default);
            let mut pods = names(&Api::<Pod>::namespaced(client.clone(), namespace)).await?;
            if self.namespace.is_none() {
                // Without a right to list namespaces the pods of this one are still offered.
                let namespaces = names(&Api::<Namespace>::all(client)).await.unwrap_or_default();
                pods.extend(namespaces.into_iter().map(|name| format!("{name}/")));
            }
            Ok(pods)
        })
    }

    /// Asks the cluster. Whatever fails, a line that is being typed is no place to say so.
    fn ask(&self, question: impl AsyncFnOnce(Client, String) -> kube::Result<Vec<String>>) -> Vec<String> {
        let answer = async {
            let connection = self.connection.connect().await.ok()?;
            question(connection.client, connection.namespace).await.ok()
        };
        let Ok(runtime) = connection::runtime() else {
            return Vec::new();
        };
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        answer.ok().flatten().unwrap_or_default()
    }
}

/// The names of objects, without the objects.
async fn names<K>(api: &Api<K>) -> kube::Result<Vec<String>>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let some = ListParams::default().limit(MOST);
    let found = api.list_metadata(&some).await?;
    Ok(found.items.iter().map(|object| object.name_any()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Line {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        Line::of(&words)
    }

    #[test]
    fn the_line_so_far_says_which_cluster_is_asked() {
        let typed = line(&["scan", "--confirm", "2s", "-n", "shop", "--context=blue", "ca"]);
        assert_eq!(typed.namespace.as_deref(), Some("shop"));
        assert!(format!("{:?}", typed.connection).contains("blue"));
        // Half a line, and one that says a thing twice, ask the default.
        for words in [&["scan", "-n"][..], &["scan", "-n", "a", "-n", "b"]] {
            let typed = line(words);
            assert!(typed.namespace.is_none_or(|name| name.is_empty()), "{words:?}");
        }
    }
}
