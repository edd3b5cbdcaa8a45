// SPDX-License-Identifier: Apache-2.0
//! The story: who is here, a loss, a flap, a restart of ztunnel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use meshmedic_agent::kernel::{self, Kernel};
use meshmedic_agent::watch::{Options, PodSource, Watch};
use meshmedic_common::duration;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::{Owner, Reason, State, Traffic};
use meshmedic_lab::{Lab, Mode, Pod, PodSpec, Qos, Ztunnel, ZtunnelSpec, userns};

use super::screen::{Screen, Tone, shown};
use super::stage::{Interrupted, Narration, Stage, full_name, tone, uid_of};

const PODS: [(&str, &str, Qos); 12] = [
    ("payments", "fraud-check-7c9d8b6f5-m2v8q", Qos::Guaranteed),
    ("payments", "gateway-5f7b9c6d84-h4xzt", Qos::Guaranteed),
    ("payments", "ledger-0", Qos::Guaranteed),
    ("payments", "ledger-1", Qos::Guaranteed),
    ("shop", "cart-6d5f7c9b8-9kqlw", Qos::Burstable),
    ("shop", "cart-6d5f7c9b8-x2x4z", Qos::Burstable),
    ("shop", "catalog-84b7d5c6f9-tn6rp", Qos::Burstable),
    ("shop", "checkout-75cd8f9b6d-j5w2s", Qos::Burstable),
    ("shop", "checkout-75cd8f9b6d-vz8mk", Qos::Burstable),
    ("shop", "frontend-6b9f8d7c5-qgd4n", Qos::BestEffort),
    ("shop", "recommend-59d8c7b6f-8lcxh", Qos::BestEffort),
    ("shop", "search-7f6c5d9b84-b7znv", Qos::BestEffort),
];
/// Which of them is lost, and which flaps.
const LOST: usize = 7;
const FLAPS: usize = 4;

/// Far shorter than on a real node, so that the story fits into half a minute.
const CONFIRM: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(300);
const EBPF_INTERVAL: Duration = Duration::from_secs(10);
/// How long a flap lasts, well within the confirmation.
const FLAP: Duration = Duration::from_millis(700);
/// How long the node is without a ztunnel.
const AWAY: Duration = Duration::from_millis(1_200);
/// Time to read what was said.
const PAUSE: Duration = Duration::from_millis(900);
/// What a busy machine may take longer for a step.
const SLACK: Duration = Duration::from_secs(4);
/// When the whole story has to be over.
const END: Duration = Duration::from_secs(29);

/// Everything the story is told with.
struct Cast {
    pods: Vec<Pod>,
    ztunnel: Arc<Ztunnel>,
}

pub(super) async fn tell(screen: &Screen, poll: bool, start: Instant) -> anyhow::Result<()> {
    let mut ctrl_c = tokio::spawn(tokio::signal::ctrl_c());
    screen.heading("MeshMedic demo: a node, a dozen pods, a ztunnel. It takes 15 seconds.")?;
    screen.plain("")?;
    screen.flush()?;
    let setting_up = tokio::task::spawn_blocking(set_up);
    let made = tokio::select! {
        made = setting_up => made.context("the lab's task ended early")?,
        _ = &mut ctrl_c => return Err(Interrupted.into()),
    };
    let (lab, cast) = made.context("step 1, the lab: it could not be set up")?;
    screen.item("Lab", setting(&lab))?;
    let (kernel, how) = load_kernel(poll);
    let interval = if kernel.is_some() {
        EBPF_INTERVAL
    } else {
        POLL_INTERVAL
    };
    screen.item("Watch", &how)?;
    screen.item(
        "Patience",
        &format!(
            "a loss must be confirmed for {} (as --confirm), a new ztunnel must settle for {}: shorter \
             than on a real node, to keep the story short",
            duration::show(CONFIRM),
            duration::show(SETTLE)
        ),
    )?;
    let options = Options {
        node: "lab".to_owned(),
        proc_root: lab.proc_root().to_owned(),
        pods: PodSource::Node(lab.log_root().to_owned()),
        confirm: CONFIRM,
        settle: SETTLE,
        interval,
        use_census: true,
    };
    let watch = Watch::new(options, kernel).context("step 1, the watch: it could not start")?;
    let mut stage = Stage::new(screen, watch, &cast.pods, ctrl_c, start + END);

    who_is_here(&mut stage, &cast)
        .await
        .context("step 1, who is here, did not come out as expected")?;
    let loss = a_loss(&mut stage, &cast)
        .await
        .context("step 2, a loss, did not come out as expected")?;
    let flap = a_flap(&mut stage, &cast)
        .await
        .context("step 3, a flap, did not come out as expected")?;
    let restart = a_restart(&mut stage, &cast)
        .await
        .context("step 4, a restart of ztunnel, did not come out as expected")?;

    screen.heading("WHAT WAS FOUND")?;
    screen.item("Orphan", &loss)?;
    screen.item("Flap", &flap)?;
    screen.item("Node", &restart)?;
    drop(stage);
    drop(cast);
    drop(lab);
    let took = shown(start.elapsed());
    screen.verdict(&format!("All four steps came out as expected, in {took}."))?;
    screen.plain("On a real node: meshmedic node --watch")
}

fn set_up() -> meshmedic_lab::Result<(Lab, Cast)> {
    let lab = Lab::isolated()?;
    let ztunnel = lab.ztunnel(ZtunnelSpec::default())?;
    let specs = PODS.map(|(namespace, name, qos)| PodSpec {
        qos,
        ..PodSpec::new(namespace, name)
    });
    let pods = lab.pods(specs)?;
    ztunnel.enrol_many(&pods)?;
    let ztunnel = Arc::new(ztunnel);
    Ok((lab, Cast { pods, ztunnel }))
}

fn setting(lab: &Lab) -> &'static str {
    match (lab.mode(), userns::is_inside()) {
        (Mode::Root, _) => "as root: pods are real network namespaces in real cgroups",
        (Mode::UserNamespace, true) => {
            "as an ordinary user, in a user namespace: pods are real network namespaces; \
             cgroups cannot be made here, so the /proc that is watched is composed, with the kernel's own \
             socket tables in it"
        }
        (Mode::UserNamespace, false) => {
            "as root, but cgroups cannot be made here: pods are real network namespaces, and the /proc \
             that is watched is composed, with the kernel's own socket tables in it"
        }
    }
}

/// The kernel programs where they can be had, and how the node is watched in words.
fn load_kernel(poll: bool) -> (Option<Kernel>, String) {
    let by_polling = format!("by polling, every {}", duration::show(POLL_INTERVAL));
    if poll {
        return (None, format!("{by_polling}, as asked for (--poll)"));
    }
    match kernel::load(&kernel::Options::default()) {
        Ok(kernel) => (
            Some(kernel),
            "by eBPF: the kernel reports each capture port that opens or closes, and a census of \
             ztunnel's own sockets tells at once which pods still have theirs"
                .to_owned(),
        ),
        Err(error) => {
            let remedy = if userns::is_inside() {
                "as root, it is done by eBPF"
            } else {
                error.remedy()
            };
            (
                None,
                format!("{by_polling}, since there is no eBPF: {error}. What would change it: {remedy}"),
            )
        }
    }
}

async fn who_is_here(stage: &mut Stage<'_>, cast: &Cast) -> anyhow::Result<()> {
    stage.screen.heading("1. WHO IS HERE")?;
    let all = cast.pods.len();
    stage
        .until(
            "every pod to be captured and ztunnel to settle",
            SETTLE + SLACK,
            |stage| stage.count(State::Captured) == all && stage.watch.engine().node_fault().is_none(),
        )
        .await?;
    let report = stage.watch.report();
    let screen = stage.screen;
    let head = format!(
        "   {:<37}{:<10}{:<9}{:>11}{:>8}",
        "POD", "STATE", "HELD BY", "NETNS", "PID"
    );
    screen.plain(&screen.toned(Tone::Quiet, &head))?;
    let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    for pod in report.pods.iter().filter(|pod| pod.state != State::Exempt) {
        screen.plain(&format!(
            "   {:<37}{}{:<9}{:>11}{:>8}",
            pod.display_name(),
            screen.toned(tone(pod.state), &format!("{:<10}", pod.state)),
            pod.owner.map_or("-", Owner::as_str),
            number(pod.netns),
            number(pod.pid),
        ))?;
    }
    let pids: Vec<String> = report.ztunnel.iter().map(u32::to_string).collect();
    screen.text(
        3,
        &format!(
            "All {all} are captured: 15001, 15006 and 15008 listen in each, by ztunnel, process {}.",
            pids.join(", ")
        ),
    )?;
    stage.pass(PAUSE).await
}

/// How delays are counted, for the reader.
fn counted_from(stage: &Stage<'_>) -> &'static str {
    match stage.watch.trigger() {
        TriggerMode::Ebpf => "Times count from the kernel's own timestamp of the first closing listener.",
        TriggerMode::Poll => "Times count from the moment the stand-in ztunnel was told to let go.",
    }
}

async fn a_loss(stage: &mut Stage<'_>, cast: &Cast) -> anyhow::Result<String> {
    let pod = cast.pods[LOST].clone();
    let (uid, name) = (uid_of(&pod)?, full_name(&pod));
    stage.screen.heading("2. A POD FALLS OUT OF THE MESH")?;
    stage.screen.text(
        3,
        &format!(
            "ztunnel lets go of {name}. Kubernetes goes on saying Running, Ready, enrolled. {}",
            counted_from(stage)
        ),
    )?;
    stage.narration = Narration::Pods;
    let ztunnel = Arc::clone(&cast.ztunnel);
    stage.act(move || ztunnel.unenrol(&pod)).await?;
    reach(stage, &uid, State::Suspect, SLACK).await?;
    let suspect = stage.delay(&uid, State::Suspect)?;
    reach(stage, &uid, State::Orphan, CONFIRM + SLACK).await?;
    let orphan = stage.delay(&uid, State::Orphan)?;
    let traffic = stage.view(&uid)?.traffic;
    let Some(traffic) = traffic.filter(|traffic| *traffic != Traffic::Unknown) else {
        bail!("it could not be told what the traffic of {name} does now");
    };
    stage.entry(
        "evidence",
        Tone::Plain,
        &format!("{traffic}: {}", traffic.sentence()),
    )?;
    stage.entry(
        "",
        Tone::Plain,
        &format!(
            "every reading of its own socket table across {} found none of the three ports",
            duration::show(CONFIRM)
        ),
    )?;
    only_finding(stage, &uid)?;
    stage.pass(PAUSE).await?;
    Ok(format!(
        "{name}: suspect after {}, proved after {}, {traffic}",
        shown(suspect),
        shown(orphan)
    ))
}

async fn a_flap(stage: &mut Stage<'_>, cast: &Cast) -> anyhow::Result<String> {
    let pod = cast.pods[FLAPS].clone();
    let (uid, name) = (uid_of(&pod)?, full_name(&pod));
    let lost = uid_of(&cast.pods[LOST])?;
    stage.screen.heading("3. A POD FLAPS")?;
    stage.screen.text(
        3,
        &format!("{name} loses its listeners, and has them back before the loss is confirmed."),
    )?;
    let flaps = stage.view(&uid)?.flaps;
    let (ztunnel, leaving) = (Arc::clone(&cast.ztunnel), pod.clone());
    stage.act(move || ztunnel.unenrol(&leaving)).await?;
    reach(stage, &uid, State::Suspect, SLACK).await?;
    let suspect = stage.delay(&uid, State::Suspect)?;
    stage.pass(FLAP).await?;
    let ztunnel = Arc::clone(&cast.ztunnel);
    stage.further(move || ztunnel.enrol(&pod)).await?;
    reach(stage, &uid, State::Captured, SLACK).await?;
    let back = stage.delay(&uid, State::Captured)?;
    ensure!(
        stage.view(&uid)?.flaps == flaps + 1,
        "the flap of {name} was not counted"
    );
    stage.entry("flap", Tone::Good, "counted, shown, never repaired")?;
    // Past the confirmation of the loss: nothing may come of it.
    only_finding(stage, &lost)?;
    stage.pass(PAUSE).await?;
    Ok(format!(
        "{name}: suspect after {}, back after {}, never repaired",
        shown(suspect),
        shown(back)
    ))
}

async fn a_restart(stage: &mut Stage<'_>, cast: &Cast) -> anyhow::Result<String> {
    let all = cast.pods.len();
    let lost = cast.pods[LOST].clone();
    let lost_uid = uid_of(&lost)?;
    stage.screen.heading("4. ZTUNNEL DIES AND COMES BACK")?;
    stage.screen.text(
        3,
        &format!(
            "It takes the listeners of all pods with it. No pod is to blame, and none may be repaired; once \
             it is back, it enrols all {all} again, the orphan too."
        ),
    )?;
    stage.narration = Narration::Node;
    let ztunnel = Arc::clone(&cast.ztunnel);
    stage
        .act(move || {
            ztunnel.kill();
            Ok(())
        })
        .await?;
    stage
        .until("the node's fault, with every pod suspect", SLACK, |stage| {
            stage.watch.engine().node_fault().is_some() && stage.count(State::Suspect) == all - 1
        })
        .await?;
    if stage.watch.trigger() == TriggerMode::Ebpf {
        let text = format!(
            "{} listeners closed in {} pods",
            stage.tally.closed,
            stage.tally.closed_in.len()
        );
        stage.entry("kernel", Tone::Quiet, &text)?;
    }
    let text = format!("{} pods: {}", all - 1, Reason::NodeFault.sentence());
    stage.entry("suspect", Tone::Doubt, &text)?;
    stage.pass(AWAY).await?;

    let ztunnel = Arc::clone(&cast.ztunnel);
    stage
        .further(move || {
            ztunnel.start_again()?;
            ztunnel.enrol(&lost)
        })
        .await?;
    stage.entry(
        "ztunnel",
        Tone::Plain,
        "back as a new process, has enrolled its pods",
    )?;
    stage
        .until("every pod to be captured again", SETTLE + SLACK, |stage| {
            stage.count(State::Captured) == all
        })
        .await?;
    let captured = stage.elapsed();
    stage.entry("captured", Tone::Good, &format!("{all} of {all} pods"))?;
    stage
        .until("ztunnel to settle", SETTLE + SLACK, |stage| {
            stage.tally.fault_over.is_some() && stage.count(State::Captured) == all
        })
        .await?;
    let settled = stage.tally.fault_over.unwrap_or_default();
    ensure!(
        stage.tally.faults == 1,
        "{} node faults were told where there was one",
        stage.tally.faults
    );
    ensure!(
        stage.reached(State::Orphan) == 0,
        "{} pods were taken for orphans though only ztunnel was away",
        stage.reached(State::Orphan)
    );
    ensure!(
        stage.state(&lost_uid) == Some(State::Captured),
        "the orphan of step 2 is not captured again"
    );
    Ok(format!(
        "ztunnel was gone: one node fault, no orphan; {all} of {all} captured after {}, settled after {}",
        shown(captured),
        shown(settled)
    ))
}

async fn reach(stage: &mut Stage<'_>, uid: &PodUid, state: State, deadline: Duration) -> anyhow::Result<()> {
    let what = format!("it to be {state}");
    stage
        .until(&what, deadline, |stage| stage.state(uid) == Some(state))
        .await
}

/// Fails if any pod but this one is an orphan.
fn only_finding(stage: &Stage<'_>, uid: &PodUid) -> anyhow::Result<()> {
    let orphans = stage.count(State::Orphan);
    ensure!(
        orphans == 1 && stage.state(uid) == Some(State::Orphan),
        "{orphans} pods are orphans where one was to be"
    );
    Ok(())
}
