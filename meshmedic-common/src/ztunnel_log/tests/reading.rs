// SPDX-License-Identifier: Apache-2.0
//! Every line says the same in both forms.

use proptest::prelude::*;

use super::*;

#[test]
fn all_fields_are_read() {
    let line = hbone().failed("io error: x");
    for text in [line.plain(), line.json()] {
        let access = access(&text);
        assert_eq!(access.time.to_string(), TIME);
        assert_eq!(access.direction, Direction::Outbound);
        assert!(!access.early);
        let source = &access.source;
        assert_eq!(source.address.to_string(), "10.0.0.1:40000");
        assert_eq!(source.workload.as_deref(), Some("web"));
        assert_eq!(source.namespace.as_deref(), Some("shop"));
        assert_eq!(
            source.identity.as_deref(),
            Some("spiffe://cluster.local/ns/shop/sa/web")
        );
        assert_eq!(source.cluster.as_deref(), Some("Kubernetes"));
        let destination = &access.destination;
        assert_eq!(destination.address.to_string(), "10.0.0.2:15008");
        assert_eq!(destination.workload.as_deref(), Some("db"));
        assert_eq!(destination.namespace.as_deref(), Some("shop"));
        assert_eq!(
            destination.identity.as_deref(),
            Some("spiffe://cluster.local/ns/shop/sa/db")
        );
        assert_eq!(destination.cluster.as_deref(), Some("Kubernetes"));
        assert_eq!(
            access.hbone,
            Some(Tunnel::Address("10.0.0.2:8080".parse().unwrap()))
        );
        assert_eq!(access.service.as_deref(), Some("db.shop.svc.cluster.local"));
        assert_eq!((access.bytes_sent, access.bytes_received), (Some(79), Some(87)));
        assert_eq!(access.duration, Some(std::time::Duration::from_millis(2)));
        assert_eq!(access.opened().to_string(), "2026-11-21T09:13:51.164879Z");
        assert_eq!(access.error.as_deref(), Some("io error: x"));
    }
}

#[test]
fn events_carry_what_they_tell() {
    let said = |line: &str| match parse_line(line.as_bytes()) {
        Some(Line {
            what: What::Event(event),
            ..
        }) => event,
        other => panic!("{line}: {other:?}"),
    };
    let start_failed = |uid: &str, port: Option<u16>, in_use: bool, detail: &str| Event::StartFailed {
        uid: uid.to_owned(),
        why: StartFailure {
            port,
            in_use,
            detail: detail.to_owned(),
        },
    };
    let bind = r#"Bind([::]:15006, Os { code: 98, kind: AddrInUse, message: "Address already in use" })"#;
    let cases = [
        (
            format!("{TIME}\terror\tinpod::workloadmanager\tfailed to start proxy: {bind}\tuid=u-1"),
            start_failed("u-1", Some(15006), true, bind),
        ),
        (
            format!("{TIME}\terror\tinpod::workloadmanager\tfailed to start proxy: no netns\tuid=u-1"),
            start_failed("u-1", None, false, "no netns"),
        ),
        (
            format!("{TIME}\tinfo\tinpod::statemanager\tpod keep received. will not delete it when snapshot is sent\tuid=\"u-1\""),
            Event::PodKept { uid: "u-1".to_owned() },
        ),
        (
            format!("{TIME}\tinfo\tdrain:proxy{{wl=shop/web}}\tshutdown complete\tcomponent=\"inbound\""),
            Event::ProxyEnded {
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                component: "inbound".to_owned(),
            },
        ),
        (
            format!("{TIME}\twarn\txds::client:xds{{id=3}}\tXDS client connection error: gRPC connection error: x, retrying in 2s\t"),
            Event::XdsFailed {
                detail: "XDS client connection error: gRPC connection error: x, retrying in 2s".to_owned(),
            },
        ),
        (
            json!({"level": "warn", "time": TIME, "scope": "ztunnel::xds::client", "xds": {"id": 3},
                   "message": "XDS client error: status: Unavailable, retrying in 20ms"})
            .to_string(),
            Event::XdsFailed {
                detail: "XDS client error: status: Unavailable, retrying in 20ms".to_owned(),
            },
        ),
        (
            json!({"level": "error", "time": TIME, "scope": "ztunnel::inpod::workloadmanager", "uid": "u-1",
                   "message": format!("failed to start proxy: {bind}")})
            .to_string(),
            start_failed("u-1", Some(15006), true, bind),
        ),
        (
            format!("{TIME}\twarn\tinpod::workloadmanager\tfailed to connect to the Istio CNI node agent over \"/x\", is the node agent healthy? details: y. retrying in 1s\t"),
            Event::NodeAgentLost {
                detail: "failed to connect to the Istio CNI node agent over \"/x\", is the node agent healthy? details: y. retrying in 1s".to_owned(),
            },
        ),
        (
            format!("{TIME}\twarn\tidentity::manager\tcertificate fetch failed (x) and no valid existing certificate\tid=y"),
            Event::CertificateFailed {
                detail: "certificate fetch failed (x) and no valid existing certificate".to_owned(),
            },
        ),
    ];
    for (line, event) in cases {
        assert_eq!(said(&line), event);
    }
    // The same words from another part of ztunnel are not its event.
    let other = format!("{TIME}\tinfo\tadmin\treceived snapshot sent\t");
    assert!(matches!(
        parse_line(other.as_bytes()),
        Some(Line {
            what: What::Other,
            ..
        })
    ));
}

/// Text as hostile as it can be, with what matters to both forms more often than chance would have it.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<char>().prop_map(String::from),
        "[\"\\\\\t\n\r =:{},\u{0}\u{1b}]",
        Just("\" error=\"".to_owned()),
        Just("\\u{41}".to_owned()),
        Just(" src.identity=\"x\"".to_owned()),
        "[a-z0-9-]{1,8}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn address() -> impl Strategy<Value = String> {
    (any::<std::net::IpAddr>(), any::<u16>())
        .prop_map(|(ip, port)| std::net::SocketAddr::new(ip, port).to_string())
}

prop_compose! {
    fn written()(
        texts in prop::collection::vec((prop::sample::select(vec![
            "src.workload", "src.namespace", "src.identity", "src.cluster", "dst.service", "dst.workload",
            "dst.namespace", "dst.identity", "dst.cluster",
        ]), text()), 0..9),
        source in address(),
        destination in address(),
        hbone in prop::option::of(address()),
        direction in prop::sample::select(vec!["inbound", "outbound"]),
        error in prop::option::of(text()),
        bytes in any::<(u64, u64)>(),
        duration in any::<u32>(),
    ) -> Written {
        let mut line = plaintext().without(&["src.workload", "src.namespace", "src.cluster", "dst.service",
            "dst.workload", "dst.namespace", "dst.cluster", "bytes_sent", "bytes_recv"])
            .set("src.addr", &source).set("dst.addr", &destination).set("direction", direction)
            .set("duration", &format!("{duration}ms"));
        for (key, value) in texts {
            line = line.set(key, &value);
        }
        if let Some(hbone) = hbone {
            line = line.set("dst.hbone_addr", &hbone);
        }
        line.fields.push(("bytes_sent", Field::Number(bytes.0)));
        line.fields.push(("bytes_recv", Field::Number(bytes.1)));
        match error {
            Some(error) => line.failed(&error),
            None => line,
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_from_both_forms(line in written()) {
        let (plain, json) = (access(&line.plain()), access(&line.json()));
        prop_assert_eq!(&plain, &json);
        let value = |key: &str| line.fields.iter().find(|(known, _)| *known == key).map(|(_, value)| match value {
            Field::Quoted(text) | Field::Bare(text) => text.clone(),
            Field::Number(number) => number.to_string(),
        });
        prop_assert_eq!(plain.source.workload, value("src.workload"));
        prop_assert_eq!(plain.source.namespace, value("src.namespace"));
        prop_assert_eq!(plain.source.identity, value("src.identity"));
        prop_assert_eq!(plain.source.cluster, value("src.cluster"));
        prop_assert_eq!(Some(plain.source.address.to_string()), value("src.addr"));
        prop_assert_eq!(plain.destination.workload, value("dst.workload"));
        prop_assert_eq!(plain.destination.namespace, value("dst.namespace"));
        prop_assert_eq!(plain.destination.identity, value("dst.identity"));
        prop_assert_eq!(plain.destination.cluster, value("dst.cluster"));
        prop_assert_eq!(Some(plain.destination.address.to_string()), value("dst.addr"));
        prop_assert_eq!(plain.service, value("dst.service"));
        prop_assert_eq!(plain.error, value("error"));
        prop_assert_eq!(plain.bytes_sent.map(|n| n.to_string()), value("bytes_sent"));
        prop_assert_eq!(plain.bytes_received.map(|n| n.to_string()), value("bytes_recv"));
    }
}
