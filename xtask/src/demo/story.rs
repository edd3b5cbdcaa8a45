// SPDX-License-Identifier: Apache-2.0
//! The story: who is here, a pod that is healed in place, one for which that does not take, one that a budget protects,
//! and a ztunnel that dies.

mod budget;
mod closing;
mod healed;
mod here;
mod in_place;
mod repair;
mod ztunnel;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use meshmedic_common::duration;
use meshmedic_common::report::TriggerMode;
use meshmedic_lab::{Mode, userns};

use super::agent::Agent;
use super::scenery::{NODE, Scenery};
use super::screen::{Screen, shown};
use super::stage::Stage;
use crate::interrupt::{Interrupt, Interrupted};

/// Where the picture of the story begins, and where it ends.
pub(super) const PICTURE: [&str; 2] = [in_place::HEADING, healed::HEADING];
/// Far shorter than on a real node, so that the story fits into about a minute.
const CONFIRM: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(2);
/// Longer than the other, so that the loss is seen to be confirmed before anything is done.
const HEAL_CONFIRM: Duration = Duration::from_secs(3);
const HEAL_SETTLE: Duration = Duration::from_secs(1);
const HEAL_DEADLINE: Duration = Duration::from_secs(2);
/// The shortest that the agent takes: polling, it notices a loss by then.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time to read what was said.
const PAUSE: Duration = Duration::from_millis(2_500);

/// Tells it, and fails if anything came out otherwise.
pub(super) fn tell(screen: &Screen, poll: bool, start: Instant, interrupt: &Interrupt) -> anyhow::Result<()> {
    screen.heading("MeshMedic demo: a node, eleven pods, a ztunnel, an API server, and the agent.")?;
    screen.plain("It takes about a minute.\n")?;
    screen.flush()?;
    let program = program()?;
    let scenery = Scenery::build(interrupt).context("the lab could not be set up")?;
    screen.item("Lab", setting(&scenery)?)?;
    let mut stage =
        start_agent(screen, &scenery, &program, poll, interrupt).context("the agent could not be started")?;

    let told = scenes(&mut stage, &program);
    let summary = match told {
        Ok(summary) => summary,
        Err(error) if error.is::<Interrupted>() => return Err(error),
        Err(error) => return Err(stage.with_last_lines(error)),
    };
    screen.heading("WHAT HAPPENED")?;
    for (name, text) in &summary {
        screen.item(name, text)?;
    }
    drop(stage);
    drop(scenery);
    let took = shown(start.elapsed());
    screen.verdict(&format!("All five steps came out as expected, in {took}."))?;
    screen.plain("In a cluster: deploy/meshmedic-daemonset.yaml")?;
    screen.plain("To let it repair: deploy/kustomize/repair")
}

fn scenes(stage: &mut Stage<'_>, program: &Path) -> anyhow::Result<Vec<(&'static str, String)>> {
    here::play(stage).context("step 1, who is here, did not come out as expected")?;
    let in_place = in_place::play(stage).context("step 2, a heal in place, did not come out as expected")?;
    let healed = healed::play(stage).context("step 3, the next way, did not come out as expected")?;
    let refused = budget::play(stage).context("step 4, a repair withheld, did not come out as expected")?;
    let (withheld, touched) = ztunnel::play(stage, &refused)
        .context("step 5, the death of ztunnel, did not come out as expected")?;
    closing::play(stage, program).context("the closing screen did not come out as expected")?;
    Ok(vec![
        ("Healed", in_place),
        ("Restarted", healed),
        ("Withheld", withheld),
        ("Touched", touched),
    ])
}

/// The command `meshmedic`, which lies beside this program.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = own.with_file_name("meshmedic");
    if !program.is_file() {
        bail!(
            "{} is missing: cargo build --package meshmedic-cli",
            program.display()
        );
    }
    Ok(program)
}

fn setting(scenery: &Scenery) -> anyhow::Result<&'static str> {
    let mode = scenery.cluster.node(NODE)?.lab().mode();
    Ok(match (mode, userns::is_inside()) {
        (Mode::Root, _) => {
            "as root: pods are real network namespaces in real cgroups; a small API server, and \
             controllers that keep the pods, stand for Kubernetes"
        }
        (Mode::UserNamespace, true) => {
            "as an ordinary user, in a user namespace: pods are real network namespaces; cgroups cannot \
             be made here, so the /proc that is watched is composed, with the kernel's own socket tables \
             in it; a small API server, and controllers that keep the pods, stand for Kubernetes"
        }
        (Mode::UserNamespace, false) => {
            "as root, but cgroups cannot be made here: pods are real network namespaces, and the /proc \
             that is watched is composed, with the kernel's own socket tables in it; a small API server, \
             and controllers that keep the pods, stand for Kubernetes"
        }
    })
}

/// Starts the agent as its DaemonSet does, but for its patience.
fn start_agent<'a>(
    screen: &'a Screen,
    scenery: &'a Scenery,
    program: &Path,
    poll: bool,
    interrupt: &'a Interrupt,
) -> anyhow::Result<Stage<'a>> {
    let trigger = if poll { "poll" } else { "auto" };
    let [confirm, settle, interval] = [CONFIRM, SETTLE, INTERVAL].map(duration::show);
    let [heal_confirm, heal_settle, heal_deadline] =
        [HEAL_CONFIRM, HEAL_SETTLE, HEAL_DEADLINE].map(duration::show);
    let flags = [
        ["--trigger", trigger],
        ["--confirm", &confirm],
        ["--settle", &settle],
        ["--interval", &interval],
        ["--auto-repair", "--repair-stuck"],
        ["--heal-confirm", &heal_confirm],
        ["--heal-settle", &heal_settle],
        ["--heal-deadline", &heal_deadline],
    ];
    let proc_root = scenery.cluster.node(NODE)?.lab().proc_root();
    let agent = Agent::start(
        program,
        &scenery.kubeconfig,
        NODE,
        proc_root,
        flags.as_flattened(),
    )?;
    let stage = Stage::new(screen, &scenery.cluster, agent, interrupt)?;
    screen.item(
        "Agent",
        "meshmedic agent --auto-repair --repair-stuck, a process of its own, as the ServiceAccount \
         meshmedic, with the rights of deploy/kustomize/repair and no others",
    )?;
    screen.item("Watch", &how_it_watches(&stage, poll))?;
    screen.item(
        "Patience",
        &format!(
            "--confirm {confirm}, --settle {settle}: shorter than on a real node, to keep the story short"
        ),
    )?;
    Ok(stage)
}

/// How the agent says that it watches, and why if it is not by eBPF.
fn how_it_watches(stage: &Stage<'_>, poll: bool) -> String {
    let by_polling = format!("by polling, every {}", duration::show(INTERVAL));
    if stage.trigger == TriggerMode::Ebpf {
        "by eBPF: the kernel reports each capture port that opens or closes, and a census of ztunnel's \
         own sockets tells at once which pods still have theirs"
            .to_owned()
    } else if poll {
        format!("{by_polling}, as asked for (--poll)")
    } else if userns::is_inside() {
        format!("{by_polling}, since an ordinary user has no eBPF; as root, it is done by eBPF")
    } else {
        let why = stage.agent.find(0, |line| line.message().starts_with("no eBPF"));
        let why = why.map_or_else(String::new, |line| format!("; {}", line.message()));
        format!("{by_polling}{why}")
    }
}
