// SPDX-License-Identifier: Apache-2.0
//! What happens on a node, one line each.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use meshmedic_agent::engine::{Notice, Transition};
use meshmedic_agent::time::Time;
use meshmedic_agent::watch::{Event, Watch};
use meshmedic_common::abi::CHANGE_OPENED;
use meshmedic_common::duration;
use meshmedic_common::report::TriggerMode;
use meshmedic_common::uid::PodUid;
use serde_json::json;

use super::{Colour, Format, line, paint, state_colour};

/// Says what is watched and how, for people only.
pub(crate) fn watch_begins(watch: &Watch, format: Format) -> anyhow::Result<()> {
    if is_for_programs(format) {
        return Ok(());
    }
    let report = watch.report();
    let how = match report.trigger {
        TriggerMode::Ebpf => "kernel events and census",
        TriggerMode::Poll => "polling",
    };
    line(&format!(
        "Watching {} pods of {} by {how}; Ctrl-C ends it.",
        report.pods.len(),
        report.node
    ))
}

/// Writes one event.
pub(crate) fn event(watch: &Watch, event: &Event, format: Format) -> anyhow::Result<()> {
    let name = |uid: &PodUid| match watch.name(uid) {
        Some(name) => format!("{}/{}", name.namespace, name.name),
        None => uid.to_string(),
    };
    if is_for_programs(format) {
        let Some(value) = as_json(event, name) else {
            return Ok(());
        };
        return match format {
            Format::Yaml => line(&format!("---\n{}", serde_saphyr::to_string(&value)?.trim_end())),
            _ => line(&value.to_string()),
        };
    }
    let now = Timestamp::now()
        .to_zoned(TimeZone::system())
        .strftime("%H:%M:%S%.3f")
        .to_string();
    let now = paint(&now, Colour::Dim);
    match event {
        Event::Kernel { change, uid } => {
            let verb = if change.change == CHANGE_OPENED {
                "opened"
            } else {
                "closed"
            };
            line(&format!("{now}  {}  kernel: {} {verb}", name(uid), change.port))
        }
        Event::Notice(Notice::Pod(transition)) => {
            line(&format!("{now}  {}", transition_text(watch, transition, name)))
        }
        Event::Notice(Notice::Node {
            condition, detail, ..
        }) => match detail {
            Some(detail) => line(&format!(
                "{now}  {}: {detail}",
                paint(condition.as_str(), Colour::Yellow)
            )),
            None => line(&format!(
                "{now}  {}: over",
                paint(condition.as_str(), Colour::Green)
            )),
        },
        Event::RecordsLost(_) | Event::KernelFailed(_) => Ok(()),
    }
}

const fn is_for_programs(format: Format) -> bool {
    matches!(format, Format::Json | Format::Yaml)
}

fn transition_text(watch: &Watch, transition: &Transition, name: impl Fn(&PodUid) -> String) -> String {
    let state = paint(transition.to.as_str(), state_colour(transition.to));
    let mut text = name(&transition.uid) + "  ";
    if let Some(from) = transition.from.filter(|from| *from != transition.to) {
        text += &format!("{from} → ");
    }
    text += &state;
    let delay = transition.at.since(transition.since);
    if transition.from.is_some() && !delay.is_zero() {
        text += &format!(" after {}", duration::show(delay));
    }
    if let Some(reason) = transition.reason {
        text += &format!(" ({})", reason.sentence());
    }
    if let Some(traffic) = watch.engine().view(&transition.uid).and_then(|view| view.traffic) {
        text += &format!("; {}", traffic.sentence());
    }
    text
}

fn as_json(event: &Event, name: impl Fn(&PodUid) -> String) -> Option<serde_json::Value> {
    let time = Timestamp::now().to_string();
    let seconds = |from: Time, to: Time| to.since(from).as_secs_f64();
    match event {
        Event::Kernel { change, uid } => Some(json!({
            "time": time, "event": "kernel", "pod": name(uid), "uid": uid, "port": change.port,
            "change": if change.change == CHANGE_OPENED { "opened" } else { "closed" },
            "netns": change.netns, "delaySeconds": seconds(Time::from_nanos(change.at_ns), Time::now()),
        })),
        Event::Notice(Notice::Pod(transition)) => Some(json!({
            "time": time, "event": "pod", "pod": name(&transition.uid), "uid": transition.uid,
            "from": transition.from, "to": transition.to, "reason": transition.reason,
            "delaySeconds": seconds(transition.since, transition.at),
        })),
        Event::Notice(Notice::Node {
            condition, detail, ..
        }) => Some(json!({
            "time": time, "event": "node", "condition": condition, "holds": detail.is_some(), "detail": detail,
        })),
        Event::RecordsLost(_) | Event::KernelFailed(_) => None,
    }
}
