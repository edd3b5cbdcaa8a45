// SPDX-License-Identifier: Apache-2.0
//! Lines made up for the tests, written in both forms as ztunnel writes them.

mod accusations;
mod hostile;
mod merging;
mod reading;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::*;

/// An access line, field by field, in ztunnel's order.
#[derive(Clone, Debug)]
struct Written {
    level: &'static str,
    message: &'static str,
    time: String,
    /// Strings that `Debug` quotes, and what stands bare.
    fields: Vec<(&'static str, Field)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Quoted(String),
    Bare(String),
    Number(u64),
}

const TIME: &str = "2026-11-21T09:13:51.166879Z";

impl Written {
    fn plain(&self) -> String {
        let mut line = format!("{}\t{}\taccess\t{}\t", self.time, self.level, self.message);
        for (index, (key, value)) in self.fields.iter().enumerate() {
            let blank = if index == 0 { "" } else { " " };
            match value {
                Field::Quoted(text) => write!(line, "{blank}{key}={text:?}"),
                Field::Bare(text) => write!(line, "{blank}{key}={text}"),
                Field::Number(number) => write!(line, "{blank}{key}={number}"),
            }
            .unwrap();
        }
        line
    }

    fn json(&self) -> String {
        let mut object = Map::new();
        let head = [
            ("level", self.level),
            ("time", &self.time),
            ("scope", "access"),
            ("message", self.message),
        ];
        object.extend(head.map(|(key, value)| (key.to_owned(), json!(value))));
        for (key, value) in &self.fields {
            let value = match value {
                Field::Quoted(text) | Field::Bare(text) => Value::from(text.as_str()),
                Field::Number(number) => Value::from(*number),
            };
            object.insert((*key).to_owned(), value);
        }
        // The order of the keys differs from ztunnel's, which means nothing in JSON.
        Value::Object(object).to_string()
    }

    fn set(mut self, key: &'static str, value: &str) -> Self {
        let bare = matches!(key, "src.addr" | "dst.addr" | "dst.hbone_addr");
        let make = if bare { Field::Bare } else { Field::Quoted };
        let value = make(value.to_owned());
        match self.fields.iter_mut().find(|(known, _)| *known == key) {
            Some((_, place)) => *place = value,
            None => self.fields.push((key, value)),
        }
        self
    }

    fn without(mut self, keys: &[&str]) -> Self {
        self.fields.retain(|(key, _)| !keys.contains(key));
        self
    }

    fn at(mut self, time: &str) -> Self {
        time.clone_into(&mut self.time);
        self
    }

    fn failed(mut self, error: &str) -> Self {
        self.level = "error";
        self.set("error", error)
    }
}

/// A connection through HBONE that went well, told by the source's ztunnel.
fn hbone() -> Written {
    let identity = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}");
    let blank = Written {
        level: "info",
        message: "connection complete",
        time: TIME.to_owned(),
        fields: Vec::new(),
    };
    let mut line = blank
        .set("src.addr", "10.0.0.1:40000")
        .set("src.workload", "web")
        .set("src.namespace", "shop")
        .set("src.identity", &identity("web"))
        .set("src.cluster", "Kubernetes")
        .set("dst.addr", "10.0.0.2:15008")
        .set("dst.hbone_addr", "10.0.0.2:8080")
        .set("dst.service", "db.shop.svc.cluster.local")
        .set("dst.workload", "db")
        .set("dst.namespace", "shop")
        .set("dst.identity", &identity("db"))
        .set("dst.cluster", "Kubernetes")
        .set("direction", "outbound");
    line.fields.push(("bytes_sent", Field::Number(79)));
    line.fields.push(("bytes_recv", Field::Number(87)));
    line.set("duration", "2ms")
}

/// A plaintext connection that went well, told by the destination's ztunnel.
fn plaintext() -> Written {
    hbone()
        .without(&["src.identity", "dst.identity", "dst.hbone_addr"])
        .set("dst.addr", "10.0.0.2:8080")
        .set("direction", "inbound")
}

/// A denial before anything was known.
fn early(direction: &str, error: &str) -> Written {
    let mut line = hbone();
    (line.level, line.message) = ("warn", "connection failed");
    line.fields
        .retain(|(key, _)| matches!(*key, "src.addr" | "dst.addr"));
    line.set("direction", direction).set("error", error)
}

fn pod(namespace: &str, name: &str, role: Role, created: &str) -> Pod {
    Pod {
        id: PodId {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        },
        role,
        created: Some(created.parse().unwrap()),
    }
}

const LONG_AGO: &str = "2026-11-01T00:00:00Z";

/// `shop/web` and `shop/db`, who should be captured, and some who should not.
fn pods() -> PodIndex {
    let mut index = PodIndex::default();
    for (name, role, ips) in [
        ("web", Role::Expected, ["10.0.0.1", "fd00::1"]),
        ("db", Role::Expected, ["10.0.0.2", "fd00::2"]),
        ("waypoint", Role::Waypoint, ["10.0.0.3", "fd00::3"]),
        ("job", Role::Exempt, ["10.0.0.4", "fd00::4"]),
        ("agent", Role::HostNetwork, ["10.0.0.5", "fd00::5"]),
    ] {
        index.insert(
            pod("shop", name, role, LONG_AGO),
            ips.map(|ip| ip.parse().unwrap()),
        );
    }
    index
}

/// What both forms of a line say.
fn verdict<'d>(line: &Written, pods: &'d PodIndex) -> Verdict<'d> {
    let judge = |text: String| match parse_line(text.as_bytes()) {
        Some(Line {
            what: What::Access(access),
            ..
        }) => classify(&access, pods),
        other => panic!("{text}: {other:?}"),
    };
    let plain = judge(line.plain());
    assert_eq!(plain, judge(line.json()), "the two forms differ: {line:?}");
    plain
}

fn access(line: &str) -> Access {
    match parse_line(line.as_bytes()) {
        Some(Line {
            what: What::Access(access),
            ..
        }) => *access,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_two_ends_are_named_where_a_policy_or_strict_may_part_them() {
    let pods = pods();
    let links = |lines: &[Written]| {
        let mut findings = Findings::new(Limits::default());
        for line in lines {
            findings.take(line.plain().as_bytes(), "ztunnel-a", &pods);
        }
        let named = findings.links().iter();
        named
            .map(|(link, tally)| {
                (
                    link.kind,
                    link.source.clone(),
                    link.destination.clone(),
                    tally.count,
                )
            })
            .collect::<Vec<_>>()
    };
    let timeout =
        "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: deadline has elapsed";
    let dropped = hbone().failed(timeout);
    let timeout = (
        LinkKind::HboneTimeout,
        "shop/web".to_owned(),
        "shop/db".to_owned(),
        2,
    );
    assert_eq!(links(&[dropped.clone(), dropped]), [timeout]);
    let stranger = plaintext()
        .set("src.addr", "192.0.2.7:40000")
        .without(&["src.workload", "src.namespace"]);
    let told = (
        LinkKind::Plaintext,
        "192.0.2.7".to_owned(),
        "shop/db".to_owned(),
        1,
    );
    assert_eq!(links(&[stranger]), [told]);
    let sent = (
        LinkKind::Plaintext,
        "shop/web".to_owned(),
        "shop/db".to_owned(),
        1,
    );
    assert_eq!(links(&[plaintext()]), [sent]);
    assert_eq!(links(&[hbone()]), []);
}
