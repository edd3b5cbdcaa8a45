// SPDX-License-Identifier: Apache-2.0
//! How long a loss takes from the kernel's timestamp to the suspicion.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use meshmedic_agent::engine::Notice;
use meshmedic_agent::kernel;
use meshmedic_agent::watch::{Event, Options, PodSource, Watch};
use meshmedic_common::abi::{CHANGE_OPENED, PORT_INBOUND_HBONE};
use meshmedic_common::identity::Identity;
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::State;
use meshmedic_lab::{Churn, Lab, Pod, PodSpec, Ztunnel};

use super::figures::{Column, Part, Row, ms};
use super::scene::{Scene, is_captured, no_ebpf, runtime, until};

/// As many pods as a big node has.
const PODS: usize = 250;
/// Losses to measure: enough for a 99th percentile that is not the maximum.
const LOSSES: usize = 300;
const LOSSES_QUICK: usize = 30;
/// Longer than any measurement: no loss gets as far as a verdict.
const CONFIRM: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(30);

/// What is measured: its name, in what mode, how many times the bare delivery the median may take, and within how many
/// milliseconds the 99th percentile is.
const CASES: [(&str, bool, Option<f64>, f64); 2] = [
    ("kernel event to suspect by the census", true, Some(5.0), 2.0),
    ("kernel event to suspect without a census", false, None, 25.0),
];
/// So many listeners a second, two records each: each record finds its reader asleep.
const BARE_RATE: u32 = 20;

/// One row for the median and one for the 99th percentile of each case.
pub(super) fn measure(quick: bool) -> anyhow::Result<Part> {
    let (pods, losses) = if quick { (50, LOSSES_QUICK) } else { (PODS, LOSSES) };
    let mut part = Part::default();
    part.rows.push(
        Row::new("kernel event to suspect, 250 pods", Column::Polling, "ms", &[])
            .remark("at the next poll: no kernel event is seen"),
    );
    let bare = match no_ebpf() {
        Some(_) => Vec::new(),
        None => runtime()?.block_on(bare(losses))?,
    };
    if !bare.is_empty() {
        part.rows.push(Row::new(
            "a bare delivery: kernel event to a reader that does nothing else, p50",
            Column::Ebpf,
            "ms",
            &[ms(percentile(&bare, 50))],
        ));
    }
    for (what, use_census, median, most) in CASES {
        let what = format!("{what}, {pods} pods");
        if let Some(why) = no_ebpf() {
            part.rows.push(Row::absent(what, Column::Ebpf, &why));
            continue;
        }
        let mut delays = runtime()?.block_on(delays(use_census, pods, losses))?;
        delays.sort_unstable();
        let beside_bare = |percent: usize| {
            let ours = [ms(percentile(&delays, percent))];
            Row::new(format!("{what}: p{percent}"), Column::Ebpf, "ms", &ours)
                .beside(&ours, &[ms(percentile(&bare, percent))])
        };
        part.rows.push(match median {
            Some(most) => beside_bare(50).within_times(most),
            None => beside_bare(50),
        });
        let worst = format!("the longest of {losses}: {:.2} ms", ms(percentile(&delays, 100)));
        part.rows.push(
            beside_bare(99)
                .within(most)
                .because("what else ran on the processors is in it")
                .remark(&worst),
        );
    }
    Ok(part)
}

/// The delay that `percent` of the sorted losses stay within.
fn percentile(delays: &[Duration], percent: usize) -> Duration {
    let rank = (delays.len() * percent).div_ceil(100).max(1);
    delays.get(rank - 1).copied().unwrap_or_default()
}

/// From the kernel's timestamp until a task that does nothing else has the record, so often.
async fn bare(records: usize) -> anyhow::Result<Vec<Duration>> {
    let mut kernel = kernel::load(&kernel::Options::default())?;
    let lab = Lab::isolated()?;
    let pod = lab.pod(PodSpec::new("bench", "bare"))?;
    let netns = pod.netns()?;
    let churning = tokio::task::spawn_blocking(move || {
        pod.churn(Churn {
            listen: Some((Ipv6Addr::UNSPECIFIED, PORT_INBOUND_HBONE).into()),
            times: u32::try_from(records.div_ceil(2)).unwrap_or(u32::MAX),
            per_second: Some(BARE_RATE),
        })
    });
    let (mut batch, mut delays) = (Vec::new(), Vec::with_capacity(records));
    while delays.len() < records && !churning.is_finished() {
        // The last record may be of another pod of the machine.
        if let Ok(taken) = tokio::time::timeout(INTERVAL, kernel.trigger.next(&mut batch)).await {
            taken?;
        }
        let now = Time::now();
        let own = batch.drain(..).filter(|change| u64::from(change.netns) == netns);
        delays.extend(own.map(|change| now.since(Time::from_nanos(change.at_ns))));
    }
    churning.await??;
    ensure!(!delays.is_empty(), "no record of the kernel was delivered");
    delays.sort_unstable();
    Ok(delays)
}

/// The delays of so many losses.
async fn delays(use_census: bool, pods: usize, losses: usize) -> anyhow::Result<Vec<Duration>> {
    let kernel = kernel::load(&kernel::Options::default())?;
    let scene = Scene::new(pods, 0)?;
    let options = Options {
        node: "lab".to_owned(),
        proc_root: scene.root().to_owned(),
        pods: PodSource::Node(scene.lab.log_root().to_owned(), Identity::default()),
        confirm: CONFIRM,
        // The lab's ztunnel is known to be well.
        settle: Duration::ZERO,
        interval: INTERVAL,
        pending_deadline: meshmedic_common::policy::PENDING_DEADLINE,
        use_census,
    };
    let mut watch = Watch::new(options, Some(kernel))?;
    until(&mut watch, "all pods to be captured and read", |watch, _| {
        watch.decided() && scene.all_captured(watch)
    })
    .await?;
    let mut delays = Vec::with_capacity(losses);
    for round in 0..losses {
        // Not one after the other as they were made.
        let number = round * 37 % pods;
        let (Some(uid), Some(pod)) = (scene.uids.get(number), scene.pods.get(number)) else {
            bail!("there is no pod {number}");
        };
        delays.push(loss(&mut watch, &scene.ztunnel, pod, uid).await?);
        let (again, pod) = (Arc::clone(&scene.ztunnel), pod.clone());
        let enrolling = tokio::task::spawn_blocking(move || again.enrol(&pod));
        // Until nothing is left to do or to rest from: a measurement begins on an idle agent, as nearly every loss does.
        until(&mut watch, "the pod to be captured again", |watch, _| {
            enrolling.is_finished() && is_captured(watch, uid) && watch.decided() && watch.is_rested()
        })
        .await?;
        enrolling.await??;
    }
    Ok(delays)
}

/// Takes one pod's listeners away; the time from the kernel's record to the suspicion.
async fn loss(
    watch: &mut Watch,
    ztunnel: &Arc<Ztunnel>,
    pod: &Pod,
    uid: &PodUid,
) -> anyhow::Result<Duration> {
    let mut stamp: Option<Time> = None;
    let mut suspected: Option<Time> = None;
    let (ztunnel, pod) = (Arc::clone(ztunnel), pod.clone());
    let leaving = tokio::task::spawn_blocking(move || ztunnel.unenrol(&pod));
    until(
        watch,
        "the pod to be suspect, with a record of the kernel",
        |_, events| {
            // When the caller has it: an instant taken inside would leave out what comes after it.
            let now = Time::now();
            for event in events {
                match event {
                    Event::Kernel { change, uid: of } if of == uid => {
                        // Of any port: DNS capture may close first, and its record has the census run.
                        let closed = change.change != CHANGE_OPENED;
                        if closed {
                            stamp.get_or_insert(Time::from_nanos(change.at_ns));
                        }
                    }
                    Event::Notice(Notice::Pod(change))
                        if change.uid == *uid && change.to == State::Suspect =>
                    {
                        suspected.get_or_insert(now);
                    }
                    _ => {}
                }
            }
            // A census that ran for another reason may be ahead of the record, by nothing worth counting.
            stamp.is_some() && suspected.is_some() && leaving.is_finished()
        },
    )
    .await?;
    leaving.await??;
    match (stamp, suspected) {
        (Some(stamp), Some(suspected)) => Ok(suspected.since(stamp)),
        _ => bail!("{uid} became suspect without a record of the kernel"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_not_the_maximum_of_many() {
        let delays: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&delays, 50), Duration::from_millis(100));
        assert_eq!(percentile(&delays, 99), Duration::from_millis(198));
        assert_eq!(percentile(&delays, 100), Duration::from_millis(200));
    }
}
