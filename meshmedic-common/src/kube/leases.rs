// SPDX-License-Identifier: Apache-2.0
//! Records in Leases.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use sha2::{Digest as _, Sha256};

use crate::repair::LeaseKey;
use crate::repair::ledger::{LEASE, Record};

/// The label that says what a Lease is of.
pub const KIND: &str = "meshmedic.io/lease";
/// The value of [`KIND`] for owners.
pub const OWNER: &str = "owner";
/// The value of [`KIND`] for nodes.
pub const NODE: &str = "node";
/// The value of [`KIND`] for the cluster's heals in place.
pub const HEALS: &str = "heals";
/// The one Lease that has a name in the manifests: who only heals has a right to this one.
pub const HEALS_LEASE: &str = "meshmedic-heals";
/// The annotation that holds the record.
const RECORD: &str = "meshmedic.io/record";
/// The annotation that says of whom or what exactly.
const OF: &str = "meshmedic.io/of";
/// So much of a digest names a Lease.
const DIGITS: usize = 16;

/// A Lease of an owner or a node, as the watch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenLease {
    /// The Lease's name.
    pub name: String,
    /// Its version.
    pub resource_version: Option<String>,
    /// The controller's UID; `None` if it is not an owner's.
    pub owner: Option<String>,
    /// Its record; `None` if it cannot be read.
    pub record: Option<Record>,
    /// When it was last written.
    pub written: Option<Timestamp>,
}

/// The name of a Lease.
pub fn name(key: &LeaseKey) -> String {
    match key {
        LeaseKey::Owner(uid) => format!("meshmedic-owner-{}", digest(uid)),
        LeaseKey::Node(node) => format!("meshmedic-node-{}", digest(node)),
        LeaseKey::Slot(number) => format!("meshmedic-slot-{number}"),
        LeaseKey::Cluster => "meshmedic-cluster".to_owned(),
        LeaseKey::Heals => HEALS_LEASE.to_owned(),
    }
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let mut digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(DIGITS);
    digits
}

/// Reads the record of a Lease.
pub fn record(lease: &Lease) -> Result<Record, String> {
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    let annotations = lease.metadata.annotations.as_ref();
    let text = annotations
        .and_then(|annotations| annotations.get(RECORD))
        .ok_or_else(|| {
            format!("the Lease {name} has no annotation {RECORD}; delete it if it is not in use")
        })?;
    // Serde takes a list for a struct too, and an empty one for a record of which all is forgotten.
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
    let record = object.and_then(|object| serde_json::from_value(object.into()));
    record.map_err(|error| {
        format!("the annotation {RECORD} of the Lease {name} cannot be read: {error}; delete the Lease to begin anew")
    })
}

/// The same of a Lease whose key is known. That of heals comes with the manifests, with nothing in it yet.
pub fn record_of(key: &LeaseKey, lease: &Lease) -> Result<Record, String> {
    let annotations = lease.metadata.annotations.as_ref();
    let blank = !annotations.is_some_and(|annotations| annotations.contains_key(RECORD));
    if blank && *key == LeaseKey::Heals {
        return Ok(Record::default());
    }
    record(lease)
}

/// A Lease from the watch.
pub fn seen(lease: &Lease) -> Option<SeenLease> {
    let annotations = lease.metadata.annotations.as_ref();
    let labels = lease.metadata.labels.as_ref();
    let is_owner = labels.is_some_and(|labels| labels.get(KIND).is_some_and(|kind| kind == OWNER));
    let of = annotations.and_then(|annotations| annotations.get(OF));
    Some(SeenLease {
        name: lease.metadata.name.clone()?,
        resource_version: lease.metadata.resource_version.clone(),
        owner: of.filter(|_| is_owner).cloned(),
        record: record(lease).ok(),
        written: lease
            .spec
            .as_ref()
            .and_then(|spec| Some(spec.renew_time.as_ref()?.0)),
    })
}

/// The Lease with another record: the one that was read, or a new one.
pub fn with_record(
    read: Option<Lease>,
    key: &LeaseKey,
    record: &Record,
    now: Timestamp,
) -> Result<Lease, serde_json::Error> {
    let mut lease = read.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name(key)),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let (kind, of) = match key {
        LeaseKey::Owner(uid) => (OWNER, uid.clone()),
        LeaseKey::Node(node) => (NODE, node.clone()),
        LeaseKey::Slot(number) => ("slot", number.to_string()),
        LeaseKey::Cluster => ("cluster", "cluster".to_owned()),
        LeaseKey::Heals => (HEALS, "heals".to_owned()),
    };
    let labels = lease.metadata.labels.get_or_insert_with(BTreeMap::new);
    labels.insert(KIND.to_owned(), kind.to_owned());
    let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(OF.to_owned(), of);
    annotations.insert(RECORD.to_owned(), serde_json::to_string(record)?);
    // For people and for other tools: who holds it, since when.
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    let holder = record
        .repairs
        .iter()
        .map(|entry| entry.holder.as_str())
        .find(|holder| !holder.is_empty());
    if spec.holder_identity.as_deref().unwrap_or_default() != holder.unwrap_or_default() {
        spec.acquire_time = holder.map(|_| MicroTime(now));
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
    }
    spec.holder_identity = holder.map(str::to_owned);
    spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
    spec.renew_time = Some(MicroTime(now));
    Ok(lease)
}

/// A name for this process that no other process has, on this node or elsewhere, now or later.
#[must_use]
pub fn holder(node: &str) -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let unique = random.map_or_else(
        // The time of the start tells two processes of the same number apart.
        |_| format!("{}-{}", std::process::id(), Timestamp::now().as_nanosecond()),
        |uuid| uuid.trim().to_owned(),
    );
    format!("{node}/{unique}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::ledger::{Act, Allowance, Change, Conclusion, More, Proof, Step};
    use crate::repair::update;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let key = LeaseKey::Node("node-a".to_owned());
        let now = Timestamp::UNIX_EPOCH;
        let written = Record {
            acts: vec![Act {
                id: "x".to_owned(),
                at: now,
                place: None,
                counted: false,
                more: More::default(),
            }],
            failures: 2,
            ..Record::default()
        };
        let lease = with_record(None, &key, &written, now).unwrap();
        assert_eq!(record(&lease).unwrap(), written);
        assert_eq!(lease.metadata.name.unwrap(), name(&key));
    }

    #[test]
    fn what_nobody_understands_is_an_error_that_names_the_lease() {
        let mut lease = with_record(
            None,
            &LeaseKey::Slot(2),
            &Record::default(),
            Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        for text in ["", "{", "[]", r#"{"failures":"many"}"#] {
            let annotations = lease.metadata.annotations.as_mut().unwrap();
            annotations.insert(RECORD.to_owned(), text.to_owned());
            assert!(record(&lease).unwrap_err().contains("meshmedic-slot-2"), "{text}");
        }
        lease.metadata.annotations = None;
        assert!(record(&lease).is_err());
    }

    #[test]
    fn what_a_newer_version_wrote_survives_a_write_by_this_one() {
        let newer = serde_json::json!({
            "repairs": [{
                "id": "1", "pod": "shop/cart", "uid": "u", "node": "n", "holder": "n-1",
                "at": "2026-08-01T10:00:00Z", "renewed": "2026-08-01T10:00:00Z",
                "deadline": "2026-08-01T10:05:00Z", "means": "evict", "ofEntry": {"a": [1]},
                "proof": {"pod": "shop/new", "uid": "v", "node": "n", "captured": true,
                    "at": "2026-08-01T10:01:00Z", "ofProof": 2}
            }],
            "acts": [{"id": "1", "at": "2026-08-01T10:00:00Z", "ofAct": "x"}],
            "failures": 0,
            "ofRecord": [10877665546810.383]
        });
        let key = LeaseKey::Owner("owner".to_owned());
        let now: Timestamp = "2026-08-01T10:02:00Z".parse().unwrap();
        let mut lease = with_record(None, &key, &Record::default(), now).unwrap();
        let annotations = lease.metadata.annotations.as_mut().unwrap();
        annotations.insert(RECORD.to_owned(), newer.to_string());
        let mut ours = record(&lease).unwrap();
        let change = |step| Change {
            id: "1".to_owned(),
            step,
        };
        let keeps = Allowance {
            in_flight: Some((1, crate::policy::Withheld::InFlightOwner)),
            keeps_outcomes: true,
            ..Allowance::default()
        };
        let text = |ours: &Record| {
            let lease = with_record(Some(lease.clone()), &key, ours, now).unwrap();
            lease.metadata.annotations.unwrap()[RECORD].clone()
        };
        update(&mut ours, &change(Step::Renew), &keeps, now).1.unwrap();
        // One parsed without care is 10877665546810.385.
        assert!(text(&ours).contains("[10877665546810.383]"), "{}", text(&ours));
        for field in ["ofEntry", "ofProof", "ofAct", "ofRecord"] {
            assert!(text(&ours).contains(field), "{field}: {}", text(&ours));
        }
        let proof: Proof = ours.entry("1").unwrap().proof.clone().unwrap();
        let end = change(Step::Conclude(Conclusion::Succeeded(proof)));
        update(&mut ours, &end, &keeps, now).1.unwrap();
        for field in ["ofProof", "ofAct", "ofRecord"] {
            assert!(text(&ours).contains(field), "{field}: {}", text(&ours));
        }
    }

    #[test]
    fn names_are_names_to_kubernetes() {
        for key in [
            LeaseKey::Owner("0a1b2c3d-1111-2222-3333-444455556666".to_owned()),
            LeaseKey::Node("IP-10-0-0-1.EC2.internal".to_owned()),
            LeaseKey::Slot(0),
            LeaseKey::Cluster,
            LeaseKey::Heals,
        ] {
            let name = name(&key);
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
        }
    }

    #[test]
    fn every_process_has_a_name_of_its_own() {
        let (one, two) = (holder("n"), holder("n"));
        assert!(one.starts_with("n/"), "{one}");
        assert_ne!(one, two);
    }
}
