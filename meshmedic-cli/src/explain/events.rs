// SPDX-License-Identifier: Apache-2.0
//! The Events about a pod, from both of the API's groups.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use meshmedic_common::facts::PodFacts;
use meshmedic_common::text::clean;
use serde::de::DeserializeOwned;

use crate::connection::{Connection, Failure};
use crate::selection::list;

/// So many of the last are told.
const SHOWN: usize = 10;
/// How much of what others wrote is shown.
const MAX_WORDS: usize = 300;

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) at: Option<Timestamp>,
    pub(super) warning: bool,
    pub(super) reason: String,
    pub(super) note: String,
}

/// The last Events about a pod, oldest first.
pub(super) async fn of(connection: &Connection, pod: &PodFacts, notes: &mut Vec<String>) -> Vec<Told> {
    let (core, newer) = tokio::join!(
        one::<CoreEvent>(connection, pod, "involvedObject.uid", |event| Told {
            at: event
                .last_timestamp
                .as_ref()
                .map(|time| time.0)
                .or(event.event_time.as_ref().map(|time| time.0)),
            warning: event.type_.as_deref() == Some("Warning"),
            reason: words(event.reason.as_ref()),
            note: words(event.message.as_ref()),
        }),
        one::<Event>(connection, pod, "regarding.uid", |event| Told {
            at: event
                .event_time
                .as_ref()
                .map(|time| time.0)
                .or(event.deprecated_last_timestamp.as_ref().map(|time| time.0)),
            warning: event.type_.as_deref() == Some("Warning"),
            reason: words(event.reason.as_ref()),
            note: words(event.note.as_ref()),
        }),
    );
    // A real API server shows each in both groups.
    let mut events = BTreeMap::new();
    for found in [core, newer] {
        match found {
            Ok(found) => events.extend(found),
            Err(failure) => {
                let note = format!("Events cannot be read ({})", failure.short());
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    let mut events: Vec<Told> = events.into_values().collect();
    events.sort_by(|a, b| (a.at, &a.reason).cmp(&(b.at, &b.reason)));
    let excess = events.len().saturating_sub(SHOWN);
    events.drain(..excess);
    events
}

fn words(text: Option<&String>) -> String {
    text.map(|text| clean(text, MAX_WORDS)).unwrap_or_default()
}

async fn one<K>(
    connection: &Connection,
    pod: &PodFacts,
    field: &str,
    reduce: impl Fn(&K) -> Told,
) -> Result<Vec<(String, Told)>, Failure>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(connection.client.clone(), &pod.namespace);
    let parameters = ListParams::default().fields(&format!("{field}={}", pod.uid));
    let keyed = |event: &K| (event.meta().uid.clone().unwrap_or_default(), reduce(event));
    list(connection, "listing Events", &api, &parameters, keyed).await
}
