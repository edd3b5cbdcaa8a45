// SPDX-License-Identifier: Apache-2.0
//! What happens on a node, one line each.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use meshmedic_agent::engine::{Notice, Transition};
use meshmedic_agent::watch::{Event, Watch};
use meshmedic_common::abi::CHANGE_OPENED;
use meshmedic_common::duration;
use meshmedic_common::ports::PortSet;
use meshmedic_common::time::Time;
use meshmedic_common::uid::PodUid;
use meshmedic_common::verdict::Traffic;
use serde_json::json;

use crate::output::{Colour, Format, line, paint, state_colour};

/// Writes what a step found out.
pub(crate) fn events(watch: &Watch, events: &[Event], format: Format) -> anyhow::Result<()> {
    if format.is_for_programs() {
        for value in events.iter().filter_map(|event| as_json(watch, event)) {
            match format {
                Format::Yaml => line(&format!("---\n{}", serde_saphyr::to_string(&value)?.trim_end()))?,
                _ => line(&value.to_string())?,
            }
        }
        return Ok(());
    }
    let now = Timestamp::now()
        .to_zoned(TimeZone::system())
        .strftime("%H:%M:%S%.3f")
        .to_string();
    let now = paint(&now, Colour::Dim);
    // ztunnel opens and closes its listeners in one go: one line tells of all.
    for (uid, change, ports) in kernel_changes(events) {
        line(&format!(
            "{now}  {}  kernel: {ports} {}",
            name(watch, uid),
            verb(change)
        ))?;
    }
    for event in events {
        match event {
            Event::Notice(Notice::Pod(transition)) => {
                line(&format!("{now}  {}", transition_text(watch, transition)))?
            }
            Event::Notice(Notice::Node {
                condition,
                detail: Some(detail),
                ..
            }) => {
                line(&format!(
                    "{now}  {}: {detail}",
                    paint(condition.as_str(), Colour::Yellow)
                ))?;
            }
            Event::Notice(Notice::Node { condition, .. }) => {
                line(&format!(
                    "{now}  {}: over",
                    paint(condition.as_str(), Colour::Green)
                ))?;
            }
            Event::Kernel { .. } | Event::RecordsLost(_) | Event::KernelFailed(_) | Event::Census(_) => {}
        }
    }
    Ok(())
}

/// The kernel's records of one step, by pod and change, in the order in which they began.
fn kernel_changes(events: &[Event]) -> Vec<(&PodUid, u8, PortSet)> {
    let mut changes: Vec<(&PodUid, u8, PortSet)> = Vec::new();
    for event in events {
        let Event::Kernel { change, uid } = event else {
            continue;
        };
        match changes
            .iter_mut()
            .find(|(of, kind, _)| (*of, *kind) == (uid, change.change))
        {
            Some((_, _, ports)) => *ports = ports.with(change.port),
            None => changes.push((uid, change.change, PortSet::EMPTY.with(change.port))),
        }
    }
    changes
}

const fn verb(change: u8) -> &'static str {
    if change == CHANGE_OPENED {
        "opened"
    } else {
        "closed"
    }
}

fn name(watch: &Watch, uid: &PodUid) -> String {
    match watch.name(uid) {
        Some(name) => format!("{}/{}", name.namespace, name.name),
        None => uid.to_string(),
    }
}

fn transition_text(watch: &Watch, transition: &Transition) -> String {
    let state = paint(transition.to.as_str(), state_colour(transition.to));
    let mut text = name(watch, &transition.uid) + "  ";
    match transition.from.filter(|from| *from != transition.to) {
        None => text += &state,
        Some(from) => {
            let delay = duration::show(transition.at.since(transition.since));
            text += &format!("{from} → {state} after {delay}");
        }
    }
    if let Some(reason) = transition.reason {
        text += &format!(" ({})", reason.sentence());
    }
    let traffic = watch.engine().view(&transition.uid).and_then(|view| view.traffic);
    if let Some(traffic) =
        traffic.filter(|traffic| transition.to.is_finding() && *traffic != Traffic::Unknown)
    {
        text += &format!("; {}", traffic.sentence());
    }
    text
}

fn as_json(watch: &Watch, event: &Event) -> Option<serde_json::Value> {
    let time = Timestamp::now().to_string();
    let seconds = |from: Time, to: Time| to.since(from).as_secs_f64();
    match event {
        Event::Kernel { change, uid } => Some(json!({
            "time": time, "event": "kernel", "pod": name(watch, uid), "uid": uid, "port": change.port,
            "change": verb(change.change), "netns": change.netns,
            "delaySeconds": seconds(Time::from_nanos(change.at_ns), Time::now()),
        })),
        Event::Notice(Notice::Pod(transition)) => Some(json!({
            "time": time, "event": "pod", "pod": name(watch, &transition.uid), "uid": transition.uid,
            "from": transition.from, "to": transition.to, "reason": transition.reason,
            "delaySeconds": seconds(transition.since, transition.at),
        })),
        Event::Notice(Notice::Node {
            condition, detail, ..
        }) => Some(json!({
            "time": time, "event": "node", "condition": condition, "holds": detail.is_some(), "detail": detail,
        })),
        Event::RecordsLost(total) => Some(json!({ "time": time, "event": "records-lost", "total": total })),
        Event::KernelFailed(error) => Some(json!({ "time": time, "event": "kernel-failed", "error": error })),
        Event::Census(error) => Some(json!({ "time": time, "event": "census", "error": error })),
    }
}
